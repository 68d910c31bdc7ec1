"""What the slices of a page show: volumes cropped to the brain and quantised, as NIfTI files in memory.

A map is stored in whole steps. A step is a fraction of what its brightest colour means, as fine as the page's size
allows, and never larger than one hundredth of the map's maximum: rounding is then off by at most 0.5 % of it.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.report.overlay_display import OverlayDisplay
from ADAttributionLogic.volume import Volume, resample

#: How far rounding may be off, of the map's maximum. A little below half of 1 %, for float32's own rounding.
MOST_ERROR = 0.00499
#: Steps from 0 to the brightest colour, and grey values of the scan; from fine to coarse until it fits.
FINENESS: tuple[tuple[int, int], ...] = ((128, 128), (64, 128), (32, 64), (16, 64))
#: Around the brain, so that its edge is seen.
MARGIN_MM = 6.0
#: What is brighter is shown white.
_WHITE_PERCENTILE = 99.7

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """A volume as it is in the page.

    Attributes
    ----------
    nifti : bytes
        A ``.nii.gz`` file.
    maximum : float
        Largest magnitude of the values that are stored; 0 for an empty map.
    step : float
        Distance of two stored values.
    error : float
        Largest difference between a value and what is stored for it, measured, as a fraction of the maximum of the
        whole map.
    outside : float
        Share of the map's magnitude that the cropping leaves out.
    """

    nifti: bytes
    maximum: float
    step: float
    error: float = 0.0
    outside: float = 0.0


def shown_box(scan: Volume, labels: Volume | None, maps: Sequence[Volume]) -> Box:
    """The part of a grid to show: the atlas's regions, else the scan's or the maps' voxels that are not 0.

    Parameters
    ----------
    scan, maps : Volume
        On one grid.
    labels : Volume, optional
        Of an atlas, on the same grid.

    Returns
    -------
    tuple of slice
        With a margin; the whole grid where nothing is in it.
    """
    inside = np.zeros(scan.array.shape, bool) if labels is None else labels.array != 0
    if not inside.any():
        inside = scan.array > 0
        # A head as acquired has no empty background: then the maps say where the brain is.
        if inside.mean() > 0.5:
            related = np.zeros(scan.array.shape, bool)
            for volume in maps:
                related |= volume.array != 0
            inside = related if related.any() else inside
    slices = []
    for axis, spacing in enumerate(scan.grid.spacing):
        places = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (int(places[0]), int(places[-1])) if places.size else (0, inside.shape[axis] - 1)
        margin = int(np.ceil(MARGIN_MM / spacing))
        slices.append(slice(max(low - margin, 0), min(high + margin + 1, inside.shape[axis])))
    return slices[0], slices[1], slices[2]


def cropped(volume: Volume, box: Box) -> Volume:
    """A part of a volume, at its place."""
    affine = volume.affine.copy()
    affine[:3, 3] = volume.grid.to_ras([part.start for part in box])
    return Volume(np.ascontiguousarray(volume.array[box]), affine, volume.source)


def coarser(volume: Volume, factor: int, interpolation: Any = "linear") -> Volume:
    """A volume on a grid with `factor` times the distance of voxels, over the same field of view."""
    shape = tuple(max(-(-n // factor), 1) for n in volume.array.shape)
    affine = volume.affine.copy()
    affine[:3, :3] *= factor
    affine[:3, 3] = volume.grid.to_ras([(factor - 1) / 2] * 3)
    return resample(volume, Grid((shape[0], shape[1], shape[2]), affine), interpolation)


def stored_scan(scan: Volume, greys: int) -> StoredVolume:
    """A scan in `greys` grey values from 0 to 255, black to white."""
    array = np.where(np.isfinite(scan.array), scan.array, 0.0)
    low = min(float(array.min()), 0.0)
    positive = array[array > low]
    high = float(np.percentile(positive, _WHITE_PERCENTILE)) if positive.size else low + 1.0
    level = np.clip((array - low) / max(high - low, 1e-30), 0, 1)
    grey = np.rint(np.rint(level * (greys - 1)) * (255 / (greys - 1))).astype(np.uint8)
    return StoredVolume(nifti_bytes(grey, scan.affine), 255.0, 255 / (greys - 1))


def stored_map(whole: Volume, box: Box, display: OverlayDisplay, steps: int) -> StoredVolume:
    """A map in steps of the `steps`-th part of what its brightest colour means.

    Parameters
    ----------
    whole : Volume
        Before it is cropped.
    box : tuple of slice
    display : OverlayDisplay
    steps : int
    """
    part = cropped(whole, box)
    values = part.array.astype(np.float64)
    largest = float(np.abs(whole.array).max(initial=0))
    if largest == 0:
        return StoredVolume(nifti_bytes(np.zeros(part.array.shape, np.int16), part.affine), 0.0, 1.0)
    # No finer than 16 bits hold, which is far below what a screen shows.
    step = max(min(display.maximum / steps, 2 * MOST_ERROR * largest), largest / 32_000)
    step = float(np.float32(step))  # as the file says it
    counts = np.rint(values / step)
    stored = counts.astype(np.int16)
    error = float(np.abs(stored * step - values).max()) / largest
    magnitude = float(np.abs(whole.array, dtype=np.float64).sum())
    outside = max(1 - float(np.abs(values).sum()) / magnitude, 0.0)
    maximum = float(np.abs(values).max())
    return StoredVolume(nifti_bytes(stored, part.affine, step), maximum, step, error, outside)


def stored_labels(labels: Volume, order: Sequence[int]) -> StoredVolume:
    """An atlas's labels, each as its place in `order`, from 1 on; all others as 0."""
    largest = int(labels.array.max(initial=0))
    places = np.zeros(max(largest, *order, 0) + 1, np.uint8 if len(order) < 256 else np.int16)
    places[np.asarray(order, dtype=np.int64)] = np.arange(1, len(order) + 1)
    return StoredVolume(nifti_bytes(places[labels.array], labels.affine), float(len(order)), 1.0)


def nifti_bytes(array: npt.NDArray[Any], affine: npt.NDArray[np.float64], step: float = 1.0) -> bytes:
    """A NIfTI file, packed; the same voxels give the same bytes.

    Parameters
    ----------
    array : ndarray, 3D
        uint8 or int16.
    affine : ndarray, (4, 4)
    step : float
        What a stored 1 means.
    """
    import nibabel as nib

    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=2)
    image.set_qform(None, code=0)  # a sheared affine has none
    image.header.set_slope_inter(step, 0.0)
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
