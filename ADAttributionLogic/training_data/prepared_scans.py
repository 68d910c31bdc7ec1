"""Scans on the network's grid, kept on disk as float16 and mapped into memory when they are learned from.

An entry's name is the hash of all that determines it: the scan's bytes, grid, normalisation, preparation, code. It
appears only when it is complete, and is taken only while its voxels have their hash. Mapped files take no memory of
their own: the system keeps in it what fits.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.errors import GridMismatchError, OutputError, ScanError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.preprocessing.cache import preparing_code_sha256, preprocess_cached
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.registered_look import registered_look, warning_of
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.training_data.table import LabelledScan
from ADAttributionLogic.whole_files import remove_unfinished, write_whole

#: To be raised whenever the same input would give another entry.
VERSION = 1


@dataclass(frozen=True)
class Entrance:
    """How scans become what the network sees.

    Attributes
    ----------
    grid : Grid
    normalisation : Normalisation
        Of each scan by its own figures, or "none" where constants of the training scans come later.
    preparation : Preparation or None
        None where the scans are on the grid's template already.
    on_grid : bool
        Whether every scan must have exactly this grid; else it is resampled.
    """

    grid: Grid
    normalisation: Normalisation
    preparation: Preparation | None = None
    on_grid: bool = False

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        kind = self.normalisation
        return {
            "version": VERSION,
            "shape": list(self.grid.shape),
            "affine": self.grid.affine.tolist(),
            "normalisation": [kind.kind, kind.mask, kind.clip],
            "preparation": None if self.preparation is None else self.preparation.describe(),
            "on_grid": self.on_grid,
            "code": preparing_code_sha256(),
        }


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan as training wants it.

    Attributes
    ----------
    of : LabelledScan
    file : Path
        Voxels, float16.
    scale : float
        What they are multiplied by.
    """

    of: LabelledScan
    file: Path
    scale: float = 1.0

    @property
    def subject(self) -> str:
        """Who was scanned."""
        return self.of.subject

    @property
    def label(self) -> int:
        """1 for patients."""
        return self.of.label

    def load(self) -> npt.NDArray[Any]:
        """The voxels (I, J, K): mapped, or float32 where they have a scale."""
        kept: npt.NDArray[Any] = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return kept if self.scale == 1 else kept.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class VoxelwiseScan:
    """A scan normalised voxel by voxel, by figures of the scans that are learned from."""

    prepared: PreparedScan
    normalisation: Normalisation

    @property
    def subject(self) -> str:
        """Who was scanned."""
        return self.prepared.subject

    @property
    def label(self) -> int:
        """1 for patients."""
        return self.prepared.label

    def load(self) -> npt.NDArray[np.float32]:
        """The normalised voxels (I, J, K)."""
        return self.normalisation.apply(self.prepared.load())[0]


def voxelwise_normalisation(training: Sequence[PreparedScan]) -> Normalisation:
    """Mean and standard deviation of each voxel over the scans that are learned from (Rieke et al. 2018).

    One scan is in memory at a time (Welford 1962).
    """
    mean = np.zeros(training[0].load().shape, dtype=np.float64)
    squares = np.zeros_like(mean)
    for count, scan in enumerate(training, start=1):
        values = scan.load().astype(np.float64)
        change = values - mean
        mean += change / count
        squares += change * (values - mean)
    std = np.sqrt(squares / len(training))
    return Normalisation("voxelwise", "all", mean.astype(np.float32), std.astype(np.float32))


@dataclass(eq=False)
class PreparedScans:
    """A folder of prepared scans.

    Attributes
    ----------
    folder : Path
    entrance : Entrance
    preprocessed : Path or None
        Folder of the cache of registrations; None for the user's own.
    notes : list of str
        What was noted about single scans.
    """

    folder: Path
    entrance: Entrance
    preprocessed: Path | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        remove_unfinished(self.folder)

    def get(self, scan: LabelledScan) -> PreparedScan:
        """A scan, prepared now unless it was before.

        Raises
        ------
        ScanError, QualityError, GridMismatchError
            With the subject's name in front.
        OutputError
        """
        described = json.dumps([self.entrance.describe(), scan.sha256], sort_keys=True, default=str)
        key = hashlib.sha256(described.encode()).hexdigest()
        file, record = self.folder / f"{key}.npy", self.folder / f"{key}.json"
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
            if _sha256(file) == known["sha256"]:
                self.notes += [note for note in known["notes"] if note not in self.notes]
                return PreparedScan(scan, file, float(known["scale"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or damaged: it is only a cache
        try:
            voxels, notes = self._prepare(scan)
        except ScanError as cause:
            raise ScanError(f"{scan.scan.shown}: {cause}") from cause
        scale = float(np.abs(voxels).max()) if self.entrance.normalisation.kind == "none" else 1.0
        content = io.BytesIO()
        np.save(content, (voxels / np.float32(scale or 1.0)).astype(np.float16), allow_pickle=False)
        known = {"sha256": hashlib.sha256(content.getbuffer()).hexdigest(), "scale": scale or 1.0, "notes": notes}
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # patients' brains
            write_whole(file, content.getvalue())
            write_whole(record, json.dumps(known))
        except OSError as cause:
            raise OutputError(f"The prepared scan cannot be kept in {self.folder}: {cause}") from cause
        self.notes += notes
        return PreparedScan(scan, file, known["scale"])

    def _prepare(self, scan: LabelledScan) -> tuple[npt.NDArray[np.float32], list[str]]:
        assert scan.scan.path is not None
        asked, volume = self.entrance, read_scan(scan.scan.path)
        notes: list[str] = []
        if asked.preparation is not None:
            target = RegistrationTarget(load_template())
            found, _ = preprocess_cached(
                volume, asked.grid, target, asked.preparation.options, folder=self.preprocessed
            )
            notes += found.quality.require(asked.preparation.accept_quality)
            volume = found.brain
        elif asked.on_grid and not volume.grid.is_same(asked.grid):
            raise GridMismatchError(
                f"{scan.scan.shown} is on {volume.grid.describe()}, but the first scan on {asked.grid.describe()}. "
                "Resample them alike, or name a grid (--grid)."
            )
        seen = prepare(volume, asked.grid, asked.normalisation)
        if asked.preparation is None and (warning := warning_of(registered_look(seen.unnormalised, asked.grid))):
            notes.append(warning)
        return seen.array, [f"{scan.scan.shown}: {note}" for note in notes]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
