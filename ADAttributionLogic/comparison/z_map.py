"""Where on the network's grid a map differs from those of the controls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.comparison.scores import has_spread
from ADAttributionLogic.errors import GeometryError, ScanError, UsageError
from ADAttributionLogic.reference.pattern import PATTERN_MM, on_all_voxels, pattern_of
from ADAttributionLogic.volume import Volume

#: Full width at half maximum of the smoothing, unless another is asked for.
SMOOTHING_MM = PATTERN_MM

#: Maps are float32: a standard deviation below this part of the mean is rounding.
_ROUNDING = 1e-6

#: Patterns of controls that vary less than this part of the largest spread are not compared.
_SMALLEST = 1e-4

#: A Gaussian's full width at half maximum in standard deviations.
_FWHM = math.sqrt(8 * math.log(2))


@dataclass(frozen=True, eq=False)
class ZMap:
    """Smoothed z of each voxel.

    Attributes
    ----------
    volume : Volume
        float32, without unit; 0 where it is empty.
    known : ndarray of bool
        False where controls have no spread, so that there is no z.
    smoothing_mm : float
        Full width at half maximum.
    """

    volume: Volume
    known: npt.NDArray[np.bool_]
    smoothing_mm: float


def z_map(heatmap: Volume, mean: Volume, sd: Volume, smoothing_mm: float = SMOOTHING_MM) -> ZMap:
    """z of each voxel against controls, smoothed.

    Difference and standard deviation are smoothed by the same Gaussian and then divided, G∗(own − mean) / G∗sd. Where
    neighbours vary together this is the z of the smoothed map; where they do not it is smaller, never larger, for the
    standard deviation of a mean is at most the mean of the standard deviations. A voxel in which controls hardly vary
    cannot explode beside others in which they do.

    Parameters
    ----------
    heatmap, mean, sd : Volume
        On one grid; the mean and the standard deviation (n − 1) of the controls' maps.
    smoothing_mm : float
        Full width at half maximum, along the grid's axes; 0 for none.

    Raises
    ------
    GeometryError
        The map lies on another grid.
    ScanError
        The map has NaN or infinite voxels.
    UsageError
        A width below 0.
    """
    if not (math.isfinite(smoothing_mm) and smoothing_mm >= 0):
        raise UsageError(f"The width of the smoothing must be 0 mm or more, but is {smoothing_mm:g} mm.")
    for control in (mean, sd):
        if not control.grid.is_same(heatmap.grid):
            raise GeometryError(
                f"The map is on {heatmap.grid.describe()}, the reference's on {control.grid.describe()}, or they lie "
                "elsewhere; they cannot be compared voxel by voxel."
            )
    require_finite(heatmap)
    known = has_spread(mean.array, sd.array, _ROUNDING)
    values = np.zeros(heatmap.array.shape, dtype=np.float32)
    if known.any():
        box = _bounding_box(known)
        inside = known[box]
        above = np.where(inside, heatmap.array[box] - mean.array[box], 0).astype(np.float32, copy=False)
        below = np.where(inside, sd.array[box], 0).astype(np.float32, copy=False)
        if smoothing_mm > 0:
            widths = [smoothing_mm / _FWHM / spacing for spacing in heatmap.grid.spacing]
            above, below = (_blurred(array, widths) for array in (above, below))
        np.divide(above, below, out=values[box], where=inside)
    source = f"z of {heatmap.source}" if heatmap.source else "z"
    return ZMap(Volume(values, heatmap.affine, source), known, smoothing_mm)


def pattern_z_map(heatmap: Volume, mean: Volume, sd: Volume, known: npt.NDArray[np.bool_]) -> ZMap:
    """z of a map's pattern against those of controls: where it lies otherwise than theirs, whatever its size.

    Of the smoothed map itself, not of single voxels: spread and map are smoothed alike before they are divided.

    Parameters
    ----------
    heatmap : Volume
    mean, sd : Volume
        Of the controls' patterns, on :func:`~.reference.pattern.pattern_grid`.
    known : ndarray of bool
        Voxels of the map in which controls have a spread.

    Raises
    ------
    ScanError
        The map has NaN or infinite voxels.
    """
    require_finite(heatmap)
    own = pattern_of(heatmap.array, heatmap.grid)
    # Beside the smallest of spreads, a smoothed map is what its neighbours spread into it.
    floor = np.float32(_SMALLEST * float(sd.array.max(initial=0)))
    z = np.divide(own - mean.array, sd.array, out=np.zeros_like(own), where=sd.array > floor)
    values = np.where(known, on_all_voxels(z, heatmap.array.shape), np.float32(0))
    source = f"z of {heatmap.source}" if heatmap.source else "z"
    return ZMap(Volume(values, heatmap.affine, source), known, PATTERN_MM)


def scaled_to(heatmap: Volume, mean: Volume) -> Volume:
    """A map scaled to the sum of the controls' mean map: then it differs by where its relevance is, not by how much.

    Where either sum is not above 0, it stays as it is: there is no share of it.
    """
    own, wanted = (float(volume.array.sum(dtype=np.float64)) for volume in (heatmap, mean))
    if not (own > 0 and wanted > 0):
        return heatmap
    return heatmap.with_array((heatmap.array * np.float32(wanted / own)).astype(np.float32, copy=False))


def require_finite(heatmap: Volume) -> None:
    """Refuse a map of which nobody knows what it says.

    Raises
    ------
    ScanError
    """
    bad = heatmap.array.size - int(np.count_nonzero(np.isfinite(heatmap.array)))
    if bad:
        raise ScanError(
            f"{heatmap.source or 'The map'} has {bad} NaN or infinite voxels of {heatmap.array.size}; it cannot be "
            "compared with a reference. Compute it again."
        )


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def _blurred(array: npt.NDArray[np.float32], widths: list[float]) -> npt.NDArray[np.float32]:
    """Smooth along each axis by a Gaussian of these standard deviations in voxels, as a product of matrices.

    On two cores that is some ten times faster than a loop over its taps. What lies outside counts as 0, for difference
    and standard deviation alike, so that it drops out of their ratio.
    """
    first, second, third = (_gaussian(n, width) for n, width in zip(array.shape, widths, strict=True))
    blurred: Any = (first @ array.reshape(array.shape[0], -1)).reshape(array.shape)
    return np.asarray(np.matmul(second, blurred) @ third)


def _gaussian(size: int, width: float) -> npt.NDArray[np.float32]:
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / width
    kernel: npt.NDArray[np.float32] = np.exp(-0.5 * distance**2).astype(np.float32)
    return kernel
