"""The images of a BIDS dataset, as bids2table indexes them."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ADAttributionLogic.errors import CohortError, UsageError
from ADAttributionLogic.owned_folders import temporary_folder

#: What an image's name may end in.
SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class BidsImage:
    """An image.

    Attributes
    ----------
    root : Path
        Of the dataset.
    relative : str
        Path in the dataset, with ``/``.
    entities : mapping of str to str
        By their short names, as the file name writes them (``run-01`` stays ``01``); without suffix and extension.
    """

    root: Path
    relative: str
    entities: Mapping[str, str] = field(hash=False)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.relative

    @property
    def subject(self) -> str:
        """E.g. ``sub-01``."""
        return f"sub-{self.entities['sub']}"

    @property
    def session(self) -> str:
        """E.g. ``ses-2``; "" where there are no sessions."""
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else ""

    @property
    def visit(self) -> str:
        """Whose, and of which session: ``sub-01_ses-2``."""
        return f"{self.subject}_{self.session}" if self.session else self.subject

    @property
    def stem(self) -> str:
        """The name without suffix and extension, e.g. ``sub-01_ses-2_run-1``."""
        return named(self.entities)


def named(entities: Mapping[str, str]) -> str:
    """A name of entities, in the order of the standard."""
    order = list(_short_names().values())
    known = sorted((key for key in entities if key in order), key=order.index)
    return "_".join(f"{key}-{entities[key]}" for key in (*known, *(key for key in entities if key not in order)))


def short_name(entity: str) -> str:
    """``acq`` of ``acquisition`` or ``acq``; "" of what is no entity."""
    names = _short_names()
    return names.get(entity, entity if entity in names.values() else "")


def entity_names() -> list[str]:
    """The long names, as filter files write them."""
    return list(_short_names())


def require_index() -> None:
    """Say what to install, before anything is begun.

    Raises
    ------
    UsageError
    """
    if importlib.util.find_spec("bids2table") is None:
        raise UsageError(
            'BIDS datasets are indexed by bids2table, which is missing: pip install "ad-attribution[bids]".'
        )


def index_images(root: str | os.PathLike[str], subjects: Sequence[str] = ()) -> list[BidsImage]:
    """All T1w images of a dataset, raw or derived, by name.

    Parameters
    ----------
    root : path-like
    subjects : sequence of str
        Only these, e.g. ``sub-01``; by default all.

    Raises
    ------
    CohortError
        It is no folder.
    UsageError
        bids2table is not installed.
    """
    require_index()
    import bids2table

    logging.getLogger("bids2table").setLevel(logging.ERROR)  # what it warns of, validation names
    place = Path(root).resolve()
    if not place.is_dir():
        raise CohortError(f"{root} is no folder, and so no BIDS dataset.")
    with _plainly_named(place) as seen:
        table = bids2table.index_dataset(seen, list(subjects) or None)
        found = table.select(["path", "suffix", "ext", "datatype"]).to_pylist()
    paths = [row["path"] for row in found if _is_t1w(row)]
    return [_image(Path(root), Path(path).as_posix()) for path in sorted(paths)]


@contextlib.contextmanager
def _plainly_named(place: Path) -> Iterator[Path]:
    """bids2table takes a folder with a point in its name (``ds000001-1.0.0``) for a file: then it is given a link."""
    if not place.suffix and not place.name.startswith("."):
        yield place
        return
    with temporary_folder("bids") as folder:
        link = folder / "dataset"
        link.symlink_to(place, target_is_directory=True)
        yield link


def _is_t1w(row: Mapping[str, str | None]) -> bool:
    return row["suffix"] == "T1w" and row["datatype"] == "anat" and row["ext"] in SUFFIXES


def _image(root: Path, relative: str) -> BidsImage:
    from bids2table import parse_bids_entities

    parsed = parse_bids_entities(relative)
    return BidsImage(root, relative, {k: v for k, v in parsed.items() if k not in ("suffix", "ext", "datatype")})


@cache
def _short_names() -> dict[str, str]:
    """Short names of the entities by their long ones, in the order of file names."""
    from bidsschematools.schema import load_schema

    schema = load_schema()
    return {long: schema.objects.entities[long].name for long in schema.rules.entities}
