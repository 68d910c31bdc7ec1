"""Where a map lies, whatever its size: its voxels as parts of its magnitude, smoothed and thinned.

Of single voxels controls know little: what a map puts beside an edge moves by a voxel with the registration, so that
every voxel varies by about its own mean; and a map that adds up to the answer is as large or small as the answer. z of
such voxels stays near 0 where that of a region is 14. A pattern is free of both, and small enough to be kept as well.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.geometry import Grid

FloatMap = npt.NDArray[np.float32]

#: Full width at half maximum of the smoothing. References are built with it: another width has another spread.
PATTERN_MM = 6.0
#: Every so manieth voxel is kept along each axis: at 1 mm, 1.3 of the smoothing's standard deviations apart at most.
PATTERN_STEP = 2

#: A Gaussian's full width at half maximum in standard deviations.
_FWHM = math.sqrt(8 * math.log(2))


def pattern_grid(grid: Grid) -> Grid:
    """The grid of patterns: every second voxel of a map's."""
    affine = np.array(grid.affine, dtype=np.float64)
    affine[:3, :3] *= PATTERN_STEP
    shape = tuple(-(-n // PATTERN_STEP) for n in grid.shape)
    return Grid((shape[0], shape[1], shape[2]), affine)


def pattern_of(heatmap: npt.NDArray[np.floating], grid: Grid) -> FloatMap:
    """A map's pattern.

    Parameters
    ----------
    heatmap : ndarray, shape (X, Y, Z)
    grid : Grid
        Its.

    Returns
    -------
    ndarray, shape (⌈X/2⌉, ⌈Y/2⌉, ⌈Z/2⌉), float32
        R / Σ|R|, smoothed by :data:`PATTERN_MM`; 0 of an empty map. What lies outside the grid counts as 0.
    """
    total = float(np.abs(heatmap).sum(dtype=np.float64))
    values = np.asarray(heatmap, dtype=np.float32) * np.float32(1 / total if total > 0 else 0)
    widths = [PATTERN_MM / _FWHM / spacing for spacing in grid.spacing]
    first, second, third = (_thinning(n, width) for n, width in zip(values.shape, widths, strict=True))
    thinned = (first @ values.reshape(values.shape[0], -1)).reshape(-1, *values.shape[1:])
    found: FloatMap = np.ascontiguousarray(np.matmul(second, thinned) @ third.T)
    return found


def on_all_voxels(thinned: FloatMap, shape: tuple[int, ...]) -> FloatMap:
    """A thinned map on the voxels in between as well, linearly."""
    values = thinned
    for axis, size in enumerate(shape):
        values = np.moveaxis(values, axis, 0)
        after = np.concatenate([values[1:], values[-1:]])
        between = np.empty((2 * len(values), *values.shape[1:]), dtype=np.float32)
        between[0::2], between[1::2] = values, (values + after) / 2
        values = np.moveaxis(between[:size], 0, axis)
    return np.ascontiguousarray(values)


def _thinning(size: int, width: float) -> FloatMap:
    """Rows of a Gaussian that adds up to 1, at every second voxel."""
    distance = np.subtract.outer(np.arange(0, size, PATTERN_STEP), np.arange(size)) / width
    kernel = np.exp(-0.5 * distance**2) / (width * math.sqrt(2 * math.pi))
    found: FloatMap = kernel.astype(np.float32)
    return found
