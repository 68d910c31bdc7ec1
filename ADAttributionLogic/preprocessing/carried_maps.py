"""Heatmaps carried between a network's grid and a scan's, through the transform that was found.

Relevance that adds up to a score stays so: each voxel gets the relevance of the space that it covers, be it larger or
smaller than the voxels that the map comes from. Other maps (a drop of probability, a gradient) keep their values.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.registration.space_transform import SpaceTransform, resample_to_model, resample_to_scan
from ADAttributionLogic.volume import Volume, resample

Sampler = Callable[[Volume, SpaceTransform, Grid], Volume]


def map_on_scan(values: Volume, transform: SpaceTransform, grid: Grid, is_additive: bool) -> Volume:
    """Carry a map of model space onto a grid in the scan's space.

    Parameters
    ----------
    values : Volume
        On the model's grid.
    transform : SpaceTransform
    grid : Grid
        The scan's.
    is_additive : bool
        Whether the values add up to a score (see above).

    Returns
    -------
    Volume
        float32, on `grid`.
    """
    if not is_additive:
        return _averaged(values, transform, grid, resample_to_scan)
    change = _change(transform, values.grid)
    carried = _averaged(_divided(values, change), transform, grid, resample_to_scan)
    return _scaled(carried, grid.voxel_volume_mm3 / values.grid.voxel_volume_mm3)


def map_on_model(values: Volume, transform: SpaceTransform, grid: Grid, is_additive: bool) -> Volume:
    """Carry a map of the scan's space onto a grid in model space: the inverse of :func:`map_on_scan`.

    What was interpolated on the way to the scan is interpolated once more, so that the map is a little smoother than
    the one that the network's own grid had.

    Parameters
    ----------
    values : Volume
        On the scan's grid.
    transform : SpaceTransform
    grid : Grid
        The model's.
    is_additive : bool
        Whether the values add up to a score (see above).

    Returns
    -------
    Volume
        float32, on `grid`.
    """
    carried = _averaged(values, transform, grid, resample_to_model)
    if not is_additive:
        return carried
    carried = carried.with_array((carried.array * _change(transform, grid)).astype(np.float32))
    return _scaled(carried, grid.voxel_volume_mm3 / values.grid.voxel_volume_mm3)


def _change(transform: SpaceTransform, grid: Grid) -> npt.NDArray[np.float32] | np.float32:
    """mm³ of the scan per mm³ of model space; one number where it is the same everywhere."""
    if transform.warp is None:
        return np.float32(abs(np.linalg.det(transform.matrix[:3, :3])))
    return transform.volume_change(grid)


def _divided(values: Volume, by: npt.NDArray[np.float32] | np.float32) -> Volume:
    return values.with_array((values.array / by).astype(np.float32))


def _scaled(values: Volume, factor: float) -> Volume:
    """Times a factor; voxels of the same size keep their values to the last bit."""
    if abs(factor - 1) < 1e-9:
        return values
    return values.with_array((values.array * np.float32(factor)).astype(np.float32))


def _averaged(values: Volume, transform: SpaceTransform, grid: Grid, sampler: Sampler) -> Volume:
    """The map averaged over each voxel of the grid: point samples of large voxels would miss what is between."""
    finest = min(values.grid.spacing)
    parts = [max(1, round(s / finest)) for s in grid.spacing]
    if parts == [1, 1, 1]:
        return Volume(_sampled(values, transform, grid, sampler), grid.affine, values.source)
    total = np.zeros(grid.shape, np.float64)
    offsets = [(np.arange(n) + 0.5) / n - 0.5 for n in parts]
    for offset in np.array(np.meshgrid(*offsets, indexing="ij")).reshape(3, -1).T:
        affine = np.array(grid.affine)
        affine[:3, 3] = grid.to_ras(offset)
        total += _sampled(values, transform, Grid(grid.shape, affine), sampler)
    return Volume((total / np.prod(parts)).astype(np.float32), grid.affine, values.source)


def _sampled(values: Volume, transform: SpaceTransform, grid: Grid, sampler: Sampler) -> npt.NDArray[np.float32]:
    """The map at the voxel centres of a grid."""
    # Without a transform, grids that differ by the order of their voxels only are copied, not interpolated.
    found = resample(values, grid) if transform.kind == "identity" else sampler(values, transform, grid)
    array: npt.NDArray[np.float32] = found.array.astype(np.float32, copy=False)
    return array
