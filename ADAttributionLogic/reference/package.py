"""A reference cohort as a folder: ``reference.json`` (the card), statistics per region, and voxelwise maps.

It holds no single person's data. Nothing in it is executed, and every file is compared with its size and hash in the
card before it is read. Needs no torch: a panel lists references and shows their cards.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ADAttributionLogic.errors import NetworkError, ReferenceCohortError, UnknownNameError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.json_document import read_document
from ADAttributionLogic.reference.covariates import CovariateModel, read_covariates
from ADAttributionLogic.reference.pattern import PATTERN_MM, PATTERN_STEP, pattern_grid
from ADAttributionLogic.reference.question import (
    differences,
    grid_of,
    method_differences,
    method_of_record,
    question_of_record,
)
from ADAttributionLogic.reference.statistics import QUANTITIES, RegionStatistics, read_statistics
from ADAttributionLogic.report.placing import damaged
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.volume import Volume

__all__ = ["QUANTITIES", "Reference", "available_references", "find_reference", "read_reference"]

CARD_FILE = "reference.json"
KIND = "ad-attribution/reference/1"
MEAN_SCAN_FILE = "mean-scan.nii.gz"

MAX_CARD_BYTES = 2_000_000
#: Statistics of 20,000 regions, unpacked.
MAX_STATISTICS_BYTES = 200_000_000


#: Mean and standard deviation of the controls' patterns (:mod:`~.pattern`).
PATTERNS = ("pattern-mean", "pattern-sd")


def voxel_file(method: str, what: str) -> str:
    """Name of a map's file; `what` is ``mean``, ``sd`` or one of :data:`PATTERNS`."""
    return f"{method}-{what}.nii.gz"


def regions_file(method: str, atlas: str) -> str:
    """Name of the file of the statistics of an atlas's regions; the atlas may be called after somebody's file."""
    return f"{method}-{re.sub(r'[^A-Za-z0-9._-]', '_', atlas)}.json.gz"


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference cohort. What is large is read when it is first asked for.

    Attributes
    ----------
    name, title : str
    folder : Path
    card : mapping
        ``reference.json``.
    """

    name: str
    title: str
    folder: Path
    card: Mapping[str, Any] = field(repr=False)

    @property
    def n(self) -> int:
        """Controls, one scan each."""
        return int(self.card["n"])

    @property
    def question(self) -> Mapping[str, Any]:
        """What all its maps answer: model, target, start, grid; see :mod:`~.question`."""
        question: Mapping[str, Any] = self.card["question"]
        return question

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of its maps: a method, with ``-2`` … where there are several with different options."""
        return tuple(self.card["methods"])

    @property
    def atlases(self) -> tuple[str, ...]:
        """Names of the atlases whose regions it has statistics of."""
        return tuple(atlas["name"] for atlas in self.card["atlases"])

    @cached_property
    def grid(self) -> Grid:
        """That of the network."""
        return grid_of(self.question)

    @cached_property
    def covariates(self) -> CovariateModel | None:
        """What the coefficients of the regions belong to; None where the reference is not adjusted for anything."""
        entry = self.card["covariates"]
        return None if entry is None else read_covariates(entry)

    def regions(self, method: str, atlas: str) -> RegionStatistics:
        """Statistics per region.

        Raises
        ------
        UnknownNameError
            It has no such method, or none of the atlas.
        ReferenceCohortError
            The file is missing or damaged.
        """
        self._known(method, atlas)
        path = self._checked(regions_file(method, atlas))
        try:
            with gzip.open(path) as file:
                text = file.read(MAX_STATISTICS_BYTES + 1)
            if len(text) > MAX_STATISTICS_BYTES:
                raise ReferenceCohortError(f"{path} is larger than {MAX_STATISTICS_BYTES} bytes unpacked.")
            found = read_statistics(json.loads(text))
        except (OSError, EOFError, zlib.error, ValueError, RecursionError) as cause:
            raise ReferenceCohortError(f"{path} is damaged: {cause}. Get the reference again.") from cause
        columns = 0 if self.covariates is None else len(self.covariates.columns)
        if found.n != self.n or any(len(q.coefficients) != columns for q in found.quantities.values()):
            raise ReferenceCohortError(f"{path} does not belong to this reference of {self.n} controls.")
        return found

    def voxel_mean(self, method: str) -> Volume:
        """Mean of the controls' maps, voxel by voxel, float32, on the network's grid."""
        self._known(method)
        return self._volume(voxel_file(method, "mean"))

    def voxel_sd(self, method: str) -> Volume:
        """Standard deviation (n − 1) of the controls' maps; 0 where they have no spread, or none was kept."""
        self._known(method)
        return self._volume(voxel_file(method, "sd"))

    @property
    def has_patterns(self) -> bool:
        """Whether it knows patterns and shares of magnitude: references of an earlier version do not."""
        return "pattern" in self.card

    def pattern(self, method: str) -> tuple[Volume, Volume] | None:
        """Mean and standard deviation of the controls' patterns, on :func:`~.pattern.pattern_grid`.

        None where they were not kept, or are of another width than this version's.
        """
        self._known(method)
        if self.card.get("pattern") != {"smoothing_mm": PATTERN_MM, "step": PATTERN_STEP}:
            return None
        mean, sd = (self._volume(voxel_file(method, what), pattern_grid(self.grid)) for what in PATTERNS)
        return mean, sd

    def mean_scan(self) -> Volume:
        """Mean of the controls' scans as the network sees them: on its grid, normalised, float32."""
        return self._volume(MEAN_SCAN_FILE)

    def require_same_question(
        self, record: Mapping[str, Any], heatmap: str, grid: Grid, atlas: Mapping[str, Any] | None = None
    ) -> str:
        """Refuse a map that was asked otherwise.

        Parameters
        ----------
        record : mapping
            Provenance of the map's explanation.
        heatmap : str
            Name of the map in it.
        grid : Grid
            Of the map: the network's.
        atlas : mapping, optional
            Description of an atlas (``record["atlas"]``) whose regions are to be compared.

        Returns
        -------
        str
            Which of :attr:`methods` the map is compared with.

        Raises
        ------
        ReferenceCohortError
            Another model, target, start, method, option, grid or atlas, with what was found and what is needed.
        """
        found = method_of_record(record, heatmap)
        wanted = {name: entry for name, entry in self.card["methods"].items() if entry["method"] == found["method"]}
        problems = differences(self.question, question_of_record(record, grid))
        if not wanted:
            problems.append(f"it is by {found['method']}, and the reference has {', '.join(self.methods)} only")
        options = {name: method_differences(entry, found) for name, entry in wanted.items()}
        same = next((name for name, different in options.items() if not different), "")
        if options and not same:
            problems += next(iter(options.values()))
        if problems:
            raise ReferenceCohortError(
                f"The map {heatmap} was asked otherwise than the reference {self.name}: {'; '.join(problems)}. Ask as "
                "the reference was, or build one of this question (ad-attribution reference build)."
            )
        if atlas is not None:
            self.require_same_atlas(atlas)
        return same

    def require_same_atlas(self, atlas: Mapping[str, Any]) -> str:
        """Refuse an atlas whose regions are others; returns its name.

        Raises
        ------
        ReferenceCohortError
        """
        known = {entry["name"]: entry for entry in self.card["atlases"]}
        name = str(atlas["name"])
        if name not in known:
            raise ReferenceCohortError(
                f"The reference {self.name} knows the regions of {', '.join(known)}, not of the atlas {name}. Choose "
                "one of them, or build a reference with it."
            )
        if known[name]["labels_sha256"] != atlas["labels_sha256"]:
            raise ReferenceCohortError(
                f"The atlas {name} has other labels than that of the reference {self.name}: it was changed, or is of "
                "another version. Build a reference with it."
            )
        return name

    def registration_note(self, record: Mapping[str, Any]) -> str:
        """What to say where the scan was registered otherwise than the controls; "" where it was not."""
        own = question_of_record(record, self.grid)["registration"]
        wanted = self.question["registration"]
        if own == wanted:
            return ""
        names = {"none": "taken as registered already"}
        return (
            f"The scan was {names.get(own, f'registered here ({own})')}, the controls of the reference were "
            f"{names.get(wanted, f'registered here ({wanted})')}: a part of the difference may be due to that."
        )

    def _known(self, method: str, atlas: str | None = None) -> None:
        if method not in self.methods:
            raise UnknownNameError(f"method in the reference {self.name}", method, self.methods)
        if atlas is not None and atlas not in self.card["methods"][method]["atlases"]:
            raise UnknownNameError(
                f"atlas of {method} in the reference {self.name}", atlas, self.card["methods"][method]["atlases"]
            )

    def _volume(self, name: str, grid: Grid | None = None) -> Volume:
        volume, grid = read_scan(self._checked(name)), grid or self.grid
        if not volume.grid.is_same(grid):
            raise ReferenceCohortError(
                f"{self.folder / name} lies on {volume.grid.describe()}, the reference on {grid.describe()}."
            )
        array = volume.array.astype(np.float32, copy=False)
        if not np.isfinite(array).all() or (name.endswith("-sd.nii.gz") and float(array.min()) < 0):
            raise ReferenceCohortError(f"{self.folder / name} is damaged: values that are not finite, or sd below 0.")
        return Volume(array, grid.affine, f"{self.title}: {name.removesuffix('.nii.gz')}")

    def _checked(self, name: str) -> Path:
        """A file of the package, after comparing its size and hash with the card."""
        path, entry = self.folder / name, self.card["files"].get(name)
        if entry is None or path.parent != self.folder or not path.is_file():
            raise ReferenceCohortError(f"{name} of the reference {self.folder} is missing. Get the reference again.")
        if path.stat().st_size != entry["bytes"] or damaged(self.folder, {name: entry["sha256"]}):
            raise ReferenceCohortError(
                f"{path} is not the file that its card was written for; it was changed or damaged. Get the reference "
                "again."
            )
        return path


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """Read a reference cohort.

    Parameters
    ----------
    path : path-like
        Its folder, or the name of one that ships.

    Raises
    ------
    UnknownNameError
        Neither.
    ReferenceCohortError
        The folder is no reference, its card is not as the schema says, or a file is missing or has another size. Hashes
        are compared when a file is read.
    """
    folder = find_reference(path)
    card = read_reference_card(folder)
    reference = Reference(card["name"], card["title"], folder, card)
    _ = reference.grid, reference.covariates
    for name in _expected_files(card):
        entry = card["files"].get(name)
        if entry is None or not (folder / name).is_file():
            raise ReferenceCohortError(f"{name} of the reference {folder} is missing. Get the reference again.")
        if (folder / name).stat().st_size != entry["bytes"]:
            raise ReferenceCohortError(
                f"{folder / name} has {(folder / name).stat().st_size} bytes, but the card says {entry['bytes']}. Get "
                "the reference again."
            )
    return reference


def find_reference(path: str | os.PathLike[str]) -> Path:
    """The folder of a reference, from its path or the name of one that ships.

    Raises
    ------
    UnknownNameError
    """
    folder = Path(path)
    folder = folder.parent if folder.name == CARD_FILE else folder
    if folder.is_dir():
        return folder
    shipped = {found.name: found for found in available_references()}
    if os.fspath(path) not in shipped:
        raise UnknownNameError("reference (or folder of one)", os.fspath(path), shipped)
    return shipped[os.fspath(path)]


def available_references() -> tuple[Path, ...]:
    """Folders of the references that ship."""
    return tuple(sorted(p.parent for p in (resources_folder() / "References").glob(f"*/{CARD_FILE}")))


def read_reference_card(folder: Path) -> dict[str, Any]:
    """Read and check ``reference.json`` against ``Resources/References/reference.schema.json``.

    Raises
    ------
    ReferenceCohortError
    """
    import jsonschema

    path = folder / CARD_FILE
    if not path.is_file():
        raise ReferenceCohortError(f"{folder} is no reference cohort: it has no {CARD_FILE}.")
    try:
        card = read_document(path, "a reference's card", MAX_CARD_BYTES)
    except NetworkError as cause:
        raise ReferenceCohortError(str(cause)) from cause
    schema = json.loads((resources_folder() / "References" / "reference.schema.json").read_text(encoding="utf-8"))
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(card), key=lambda e: list(map(str, e.path)))
    if errors:
        where = "/".join(map(str, errors[0].path)) or "the top level"
        raise ReferenceCohortError(f"{path} is not a valid card, at {where}: {errors[0].message:.300}")
    return card


def _expected_files(card: Mapping[str, Any]) -> list[str]:
    names = [MEAN_SCAN_FILE]
    for method, entry in card["methods"].items():
        names += [voxel_file(method, what) for what in ("mean", "sd", *(PATTERNS if "pattern" in card else ()))]
        names += [regions_file(method, atlas) for atlas in entry["atlases"]]
    return names
