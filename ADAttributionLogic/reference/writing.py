"""A reference cohort as files. It appears under its name only when it is complete."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic import provenance
from ADAttributionLogic.errors import OutputError, ReferenceCohortError
from ADAttributionLogic.networks.packages import file_sha256
from ADAttributionLogic.reference.accumulation import Accumulation
from ADAttributionLogic.reference.package import (
    CARD_FILE,
    KIND,
    MEAN_SCAN_FILE,
    PATTERNS,
    read_reference_card,
    regions_file,
    voxel_file,
)
from ADAttributionLogic.reference.pattern import PATTERN_MM, PATTERN_STEP, pattern_grid
from ADAttributionLogic.reference.statistics import RegionStatistics
from ADAttributionLogic.report.placing import Place, check_place, check_replacement, writing
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.volume import Volume

#: With fewer, a standard deviation is a rough guess (its own relative error is 16 % at 20).
FEW_CONTROLS = 20

INTENDED_USE = (
    "Research. Says how unusual a region's relevance is among these controls, for this network and this question only; "
    "not for clinical use."
)

#: Of the rounded standard deviations: bits after the leading one.
_SD_BITS = 4
_ROUNDED = (
    "rounded: voxelwise means to 1/16 of the standard deviation at most, standard deviations to 3.2 % at most, the "
    "mean scan to 0.8 % of its largest value; 0 outside of the mean scan's brain"
)


@dataclass(frozen=True)
class About:
    """What a reference's card says of it, beside what is computed.

    Attributes
    ----------
    name : str
        Letters, digits, dots, dashes; "" for the folder's.
    title : str
    controls : str
        Who the controls are.
    licence, intended_use : str
    notes : sequence of str
    """

    name: str = ""
    title: str = ""
    controls: str = ""
    licence: str = ""
    intended_use: str = INTENDED_USE
    notes: Sequence[str] = ()


def check_reference_folder(folder: str | os.PathLike[str]) -> Place:
    """Look, before anything is computed, whether a reference can be written here: a new or empty folder, or an earlier
    reference, which it will replace.

    Raises
    ------
    OutputError
        It holds something else, or files that were changed since.
    """
    path = Path(folder)
    if not (path / CARD_FILE).is_file():
        return check_place(folder, CARD_FILE)
    try:
        card = read_reference_card(path)
    except ReferenceCohortError as cause:
        raise OutputError(f"{folder} holds a reference that is damaged; it is not overwritten: {cause}") from cause
    return check_replacement(folder, CARD_FILE, {name: entry["sha256"] for name, entry in card["files"].items()})


def write_reference(
    found: Accumulation,
    folder: str | os.PathLike[str],
    about: About,
    *,
    covariates: Sequence[str] = (),
    rounded: bool = False,
    place: Place | None = None,
) -> Path:
    """Write a reference of the controls that were taken up.

    Parameters
    ----------
    found : Accumulation
    folder : path-like
        New, or that of an earlier reference, which is replaced in one step.
    about : About
    covariates : sequence of str
        To adjust for.
    rounded : bool
        Voxelwise maps rounded and cut to the brain, which makes them small; the card says how far.
    place : Place, optional
        From :func:`check_reference_folder` before the computation.

    Raises
    ------
    ReferenceCohortError
        Too few controls, or no spread between them.
    OutputError
    """
    statistics = found.statistics(covariates)
    _require_spread(found)
    place = check_reference_folder(folder) if place is None else place
    design = found.design(covariates)
    with writing(place) as unfinished:
        for name, volume in _volumes(found, rounded):
            path = write_volume(volume, unfinished / name)
            if rounded:  # what was rounded to be small is packed as small as it gets
                path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9, mtime=0))
        for (method, atlas), one in statistics.items():
            text = json.dumps(one.describe(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            # Without a date, so that the same statistics are the same file.
            (unfinished / regions_file(method, atlas)).write_bytes(gzip.compress(text.encode(), mtime=0))
        card = {
            "kind": KIND,
            "name": about.name or Path(folder).resolve().name,
            "title": about.title or f"{found.n} controls, {found.question['model']['title']}",
            "n": found.n,
            "controls": about.controls or "not said",
            "created": provenance.now(),
            "software": provenance.software(),
            **({"licence": about.licence} if about.licence else {}),
            "intended_use": about.intended_use,
            "notes": [*about.notes, *_notes(found, statistics)],
            "pattern": {"smoothing_mm": PATTERN_MM, "step": PATTERN_STEP},
            "voxel_precision": _ROUNDED if rounded else "float32",
            "question": found.question,
            "methods": {
                name: {**entry, "atlases": [a for m, a in found.values if m == name]}
                for name, entry in found.methods.items()
            },
            "atlases": [_described(atlas) for atlas in map(provenance.describe_atlas, found.atlases)],
            "covariates": None if design is None else design.model.describe(),
            "files": {
                path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
                for path in sorted(unfinished.iterdir())
            },
        }
        text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (unfinished / CARD_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
        read_reference_card(unfinished)
    return Path(folder)


def _described(atlas: Mapping[str, Any]) -> dict[str, Any]:
    return {key: atlas[key] for key in ("name", "title", "licence", "regions", "labels_sha256", "regions_sha256")}


def _require_spread(found: Accumulation) -> None:
    """That no two controls differ anywhere is a mistake in the table, not a finding."""
    for name, moments in found.moments.items():
        if not moments.squares.any():
            raise ReferenceCohortError(
                f"The maps {name} of all {found.n} controls are equal in every voxel: there is no spread to compare "
                "with. Are the scans copies of one another?"
            )


def _notes(found: Accumulation, statistics: Mapping[tuple[str, str], RegionStatistics]) -> list[str]:
    notes = []
    if found.n < FEW_CONTROLS:
        notes.append(
            f"Only {found.n} controls: means and standard deviations are rough guesses; {FEW_CONTROLS} and more are "
            "usual."
        )
    for (method, atlas), one in statistics.items():
        flat = [name for name, sd in zip(one.names, one["sum"].sd, strict=True) if sd == 0]
        if flat:
            some = ", ".join(flat[:5]) + (" …" if len(flat) > 5 else "")
            notes.append(
                f"{method}: all controls have the same sum in {len(flat)} of {len(one)} regions of {atlas} ({some}), "
                "so that there is no z of them."
            )
    return notes


def _volumes(found: Accumulation, rounded: bool) -> list[tuple[str, Volume]]:
    """Names and maps, in the order in which they are written."""
    scan = found.scan.mean.astype(np.float32)
    brain = scan != 0
    volumes: list[tuple[str, npt.NDArray[np.float32]]] = [(MEAN_SCAN_FILE, _rounded_scan(scan) if rounded else scan)]
    for name, moments in found.moments.items():
        mean, sd = moments.mean.astype(np.float32), moments.sd.astype(np.float32)
        if rounded:
            mean, sd = _rounded_maps(mean * brain, sd * brain)
        volumes += [(voxel_file(name, "mean"), mean), (voxel_file(name, "sd"), sd)]
    thinned, affine = brain[::PATTERN_STEP, ::PATTERN_STEP, ::PATTERN_STEP], pattern_grid(found.grid).affine
    patterns = []
    for moments in found.patterns.values():
        mean, sd = moments.mean.astype(np.float32), moments.sd.astype(np.float32)
        if rounded:
            mean, sd = _rounded_maps(mean * thinned, sd * thinned)
        patterns += [Volume(mean, affine), Volume(sd, affine)]
    names = [voxel_file(name, what) for name in found.patterns for what in PATTERNS]
    whole = [(name, Volume(array, found.grid.affine)) for name, array in volumes]
    return [*whole, *zip(names, patterns, strict=True)]


def _rounded_scan(scan: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    step = np.float32(np.abs(scan).max() / 127)
    kept: npt.NDArray[np.float32] = np.round(scan / step) * step
    # What is brain stays brain.
    return np.where((kept == 0) & (scan != 0), np.copysign(step, scan), kept)


def _rounded_maps(
    mean: npt.NDArray[np.float32], sd: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation with as few bits as a z needs: files shrink to a fourth."""
    fraction, exponent = np.frexp(sd)
    short = np.ldexp(np.round(np.ldexp(fraction, _SD_BITS + 1)), exponent - _SD_BITS - 1)
    # Steps are powers of two: 1/16 to 1/8 of the standard deviation, so that the rounding is at most half of that.
    step = np.ldexp(np.float32(0.5), exponent - 3)
    kept = np.where(sd > 0, np.round(mean / np.where(sd > 0, step, 1)) * step, mean)
    return kept.astype(np.float32), short.astype(np.float32)
