"""Where the slices of a DICOM series are, and whether they are one stack.

DICOM says the place of every slice; readers that take it from the first two build a wrong volume of a series with a
missing, mirrored or tilted slice, and do not say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import GeometryError, ScanError

if TYPE_CHECKING:
    from pydicom import Dataset

#: How far, relative to their distance, slices may be from their place.
_UNEVEN = 0.05
#: Directions are the same when no component differs by more; scanners write six digits and more.
_DIRECTION = 1e-3

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: where its pixels are, and where they belong.

    Attributes
    ----------
    path, number : Path, int
        File, and index of the frame in it.
    instance : int or None
        Its number in the series.
    rows, columns : int
    position : ndarray, (3,)
        Centre of the first pixel, LPS mm.
    orientation : ndarray, (2, 3)
        Directions along a row and along a column.
    spacing : ndarray, (2,)
        Distances of rows and of columns, mm.
    gap, thickness : float or None
        Distance of slices, and their thickness, that the header states.
    slope, intercept : float
    """

    path: Path
    number: int
    instance: int | None
    rows: int
    columns: int
    position: Vector
    orientation: npt.NDArray[np.float64]
    spacing: Vector
    gap: float | None
    thickness: float | None
    slope: float
    intercept: float


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in order, and where their voxels are."""

    frames: tuple[Frame, ...]
    rows: int
    columns: int
    affine: npt.NDArray[np.float64]
    notes: tuple[str, ...]


def frames_of(header: Dataset, path: Path) -> list[Frame]:
    """The slices of a file: one, or those of an enhanced multi-frame file.

    Raises
    ------
    ScanError, GeometryError
    """
    try:
        count = int(header.get("NumberOfFrames") or 1)
        groups = list(header.get("PerFrameFunctionalGroupsSequence") or ())
        shared = (list(header.get("SharedFunctionalGroupsSequence") or ()) or [None])[0]
        if count == 1 and not groups:
            return [_frame(path, 0, header, lambda _, tag: header.get(tag))]
        if len(groups) != count:
            raise GeometryError(
                f"{path} has {count} frames, but says the place of {len(groups)}. Export it as one file per slice."
            )
        return [
            _frame(path, number, header, lambda group, tag, own=own: _in_groups(own, shared, group, tag))
            for number, own in enumerate(groups)
        ]
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as cause:
        raise ScanError(f"{path} cannot be read: its DICOM header is damaged ({cause!r:.200}).") from cause


def _in_groups(own: Dataset, shared: Dataset | None, group: str, tag: str) -> Any:
    for place in (own, shared):
        if place is not None and place.get(group):
            return place.get(group)[0].get(tag)
    return None


def _frame(path: Path, number: int, header: Dataset, get: Any) -> Frame:
    position = _vector(get("PlanePositionSequence", "ImagePositionPatient"), 3, "ImagePositionPatient", path)
    directions = _vector(get("PlaneOrientationSequence", "ImageOrientationPatient"), 6, "ImageOrientationPatient", path)
    spacing = _vector(get("PixelMeasuresSequence", "PixelSpacing"), 2, "PixelSpacing", path)
    row, column = directions[:3], directions[3:]
    if (
        abs(np.linalg.norm(row) - 1) > 10 * _DIRECTION
        or abs(np.linalg.norm(column) - 1) > 10 * _DIRECTION
        or abs(row @ column) > 10 * _DIRECTION
    ):
        raise GeometryError(
            f"{path}: ImageOrientationPatient {directions.tolist()} is no pair of perpendicular directions of length "
            "1, so left and right are unknown."
        )
    if spacing.min() <= 0:
        raise GeometryError(f"{path}: PixelSpacing is {spacing.tolist()} mm; it must be larger than 0.")
    gap, thickness = (get("PixelMeasuresSequence", tag) for tag in ("SpacingBetweenSlices", "SliceThickness"))
    slope, intercept = (get("PixelValueTransformationSequence", tag) for tag in ("RescaleSlope", "RescaleIntercept"))
    return Frame(
        path,
        number,
        None if header.get("InstanceNumber") is None else int(header.InstanceNumber),
        int(header.Rows),
        int(header.Columns),
        position,
        directions.reshape(2, 3),
        spacing,
        None if gap in (None, "") else abs(float(gap)),
        None if thickness in (None, "") else abs(float(thickness)),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )


def _vector(value: Any, size: int, tag: str, path: Path) -> Vector:
    found = np.atleast_1d(np.array([] if value is None or value == "" else value, dtype=np.float64))
    if found.shape != (size,) or not np.isfinite(found).all():
        raise GeometryError(
            f"{path} holds no usable {tag} ({size} numbers are needed), so where its voxels are is unknown. Export the "
            "series again, or as NIfTI."
        )
    return found


def stack_of(frames: Sequence[Frame], series: str) -> Stack:
    """Put slices into order and say where their voxels are.

    Raises
    ------
    ScanError, GeometryError
        Slices of several sizes, spacings or directions, missing or doubled ones, several stacks.
    """
    first = frames[0]
    _require_alike(frames, series)
    row, column = first.orientation
    ordered = sorted(frames, key=lambda f: float(f.position @ np.cross(row, column)))
    step, notes = _step(ordered, series)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * first.spacing[1], column * first.spacing[0], step
    affine[:3, 3] = ordered[0].position
    affine[:2] *= -1  # RAS from LPS
    return Stack(tuple(ordered), first.rows, first.columns, affine, notes)


def _require_alike(frames: Sequence[Frame], series: str) -> None:
    first = frames[0]
    for frame in frames[1:]:
        where = f"{frame.path}" + (f", frame {frame.number + 1}" if frame.number else "")
        if (frame.rows, frame.columns) != (first.rows, first.columns):
            raise ScanError(
                f"The slices of {series} have several sizes: {first.columns}×{first.rows} and, in {where}, "
                f"{frame.columns}×{frame.rows}. Export the T1 volume as a series of its own."
            )
        if np.abs(frame.spacing - first.spacing).max() > 1e-3 * first.spacing.min():
            raise GeometryError(
                f"The slices of {series} have several pixel spacings: {first.spacing.tolist()} mm and, in {where}, "
                f"{frame.spacing.tolist()} mm."
            )
        if np.abs(frame.orientation - first.orientation).max() > _DIRECTION:
            raise GeometryError(
                f"The slices of {series} have several orientations: {first.orientation.ravel().tolist()} and, in "
                f"{where}, {frame.orientation.ravel().tolist()} (mirrored, or of another stack)."
            )


def _step(ordered: Sequence[Frame], series: str) -> tuple[Vector, tuple[str, ...]]:
    """From one slice to the next, LPS mm."""
    first = ordered[0]
    if len(ordered) < 2:
        raise ScanError(f"{series} is a single slice ({first.columns}×{first.rows}×1); a scan must be one 3D volume.")
    places = np.array([frame.position for frame in ordered])
    steps = np.diff(places, axis=0)
    step = (places[-1] - places[0]) / (len(places) - 1)
    normal = np.cross(*first.orientation)
    distance = float(step @ normal)
    apart = np.linalg.norm(steps - step, axis=1)
    if distance <= 0 or apart.max() > _UNEVEN * distance:
        _refuse_uneven(ordered, places, steps, apart, series)
    notes = _missing_slices(ordered, distance, series)
    shift = float(np.linalg.norm(step - distance * normal))
    if shift > 1e-3 * distance:
        notes += (
            f"The slices of this DICOM series are shifted by {shift:.3g} mm against each other ({distance:.3g} mm "
            "apart; a tilted stack). Each is taken at its own place.",
        )
        return step, notes
    return distance * normal, notes


def _refuse_uneven(ordered: Sequence[Frame], places: Vector, steps: Vector, apart: Vector, series: str) -> None:
    lengths = np.linalg.norm(steps, axis=1)
    if len({frame.path for frame in ordered}) == 1:
        raise ScanError(
            f"The multi-frame DICOM file {ordered[0].path.name} ({series}) holds {len(places)} frames that are "
            f"not one stack of slices: {len(np.unique(np.round(places, 3), axis=0))} different places, steps that "
            f"differ by up to {apart.max():.3g} mm. It may hold several volumes (echoes, phases). Export the T1 volume "
            "as a series of its own."
        )
    raise ScanError(
        f"The DICOM series {series} has unevenly spaced slices ({lengths.min():.3g} to {lengths.max():.3g} mm apart, "
        f"{len(ordered)} files): slices are missing or doubled."
    )


def _missing_slices(ordered: Sequence[Frame], distance: float, series: str) -> tuple[str, ...]:
    """Slices that are missing evenly, every second for example, show in what the headers state."""
    first = ordered[0]
    numbers = sorted({frame.instance for frame in ordered if frame.instance is not None})
    missing = numbers[-1] - numbers[0] + 1 - len(numbers) if len(numbers) == len(ordered) else 0
    # Some scanners state the gap between the slices' edges instead of their distance: it is smaller than a slice.
    is_stated = bool(first.gap) and (first.gap or 0) >= 0.9 * (first.thickness or 0)
    usual = (first.gap if is_stated else first.thickness) or distance
    multiple = distance / usual
    if round(multiple) > 1 and abs(multiple - round(multiple)) < _UNEVEN and (is_stated or missing):
        raise ScanError(
            f"The slices of {series} are {distance:.4g} mm apart, but their headers say {usual:.4g} mm "
            f"({'SpacingBetweenSlices' if is_stated else 'SliceThickness'}): of every {round(multiple)} slices, only "
            "one is here. Export the series again."
        )
    if missing:
        return (
            f"The instance numbers of this DICOM series run from {numbers[0]} to {numbers[-1]}, but {missing} of them "
            f"are not here; the slices that are here are evenly spaced ({distance:.4g} mm).",
        )
    return ()
