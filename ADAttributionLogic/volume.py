"""A scan, label map or heatmap: a 3D array that knows where it is.

Nothing in this package passes an array from room to room without its affine. All affines are RAS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.geometry import Affine, ExactReorientation, Grid, exact_reorientation

Interpolation = Literal["linear", "nearest"]

#: How far, in voxels, nearest-neighbour sampling leans towards the next voxel. A 1 mm grid samples a 2 mm atlas exactly
#: between its voxels; without a lean, rounding errors would decide, differently for every orientation of the grid.
_TIE_BREAK_VOXELS = 1e-4


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D array with its place in space.

    Attributes
    ----------
    array : ndarray, 3D
        float32 for scans and heatmaps, int32 for labels (other numeric dtypes are kept as they are).
    affine : ndarray, shape (4, 4), float64
        Voxel indices to RAS mm.
    source : str
        Where it came from: a path, or a description such as ``"simulated subject 7"``.
    notes : tuple of str
        What a user should know about how it was read.
    series_uid : str
        Of the DICOM series that it was read from; results hold a hash of it, unless the user asks for itself.
    """

    array: npt.NDArray[Any]
    affine: Affine
    source: str = ""
    notes: tuple[str, ...] = ()
    series_uid: str = ""

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.ndim != 3:
            raise ScanError(
                f"{self._name()}: a volume needs 3 axes, but this array has {array.ndim} (shape {array.shape})."
            )
        if array.dtype.kind not in "biuf":
            raise ScanError(f"{self._name()}: voxels must be real numbers, but their type is {array.dtype}.")
        grid = Grid((array.shape[0], array.shape[1], array.shape[2]), self.affine)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", grid.affine)

    def _name(self) -> str:
        return self.source or "volume"

    @property
    def grid(self) -> Grid:
        """Size and place of the voxels."""
        return Grid((self.array.shape[0], self.array.shape[1], self.array.shape[2]), self.affine)

    def with_array(self, array: npt.NDArray[Any], source: str | None = None) -> Volume:
        """Return another volume on the same grid."""
        if array.shape != self.array.shape:
            raise GeometryError(f"Array of shape {array.shape} does not fit the grid {self.grid.describe()}.")
        return replace(self, array=array, source=self.source if source is None else source)


def check_usable_scan(scan: Volume, replace_non_finite: float | None = None) -> Volume:
    """Return the scan as float32, or say why no network could use it.

    Parameters
    ----------
    scan : Volume
    replace_non_finite : float, optional
        Value that takes the place of NaN and infinite voxels. Without it they are refused.

    Raises
    ------
    ScanError
        NaN or infinite voxels (counted), or a constant image.
    """
    array = scan.array.astype(np.float32, copy=False)
    finite = np.isfinite(array)
    notes = scan.notes
    if not finite.all():
        nan = int(np.isnan(array).sum())
        infinite = int(array.size - finite.sum()) - nan
        if replace_non_finite is None:
            raise ScanError(
                f"{scan.source or 'The scan'} has {nan} NaN and {infinite} infinite voxels of {array.size}. "
                "Repair it, or have them replaced by a value (replace_non_finite=0, --replace-non-finite 0)."
            )
        array = np.where(finite, array, np.float32(replace_non_finite))
        notes += (f"{nan} NaN and {infinite} infinite voxels were replaced by {replace_non_finite:g}.",)
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise ScanError(
            f"{scan.source or 'The scan'} is constant (every voxel is {low:g}); there is nothing to explain."
        )
    return replace(scan, array=array, notes=notes)


def resample(volume: Volume, grid: Grid, interpolation: Interpolation = "linear", fill: float = 0.0) -> Volume:
    """Resample a volume onto another grid through both affines.

    Where the grids differ only by axis flips, permutations and whole-voxel shifts, voxels are copied and no value
    changes. Otherwise values are interpolated at the voxel centres; points outside the volume get `fill`.

    Parameters
    ----------
    volume : Volume
    grid : Grid
        Where to sample.
    interpolation : {"linear", "nearest"}
        Linear for images and heatmaps, nearest for labels.
    fill : float
        Value outside the volume's field of view.

    Returns
    -------
    Volume
        On `grid`, with the dtype of the input (float32 for linear interpolation).
    """
    exact = exact_reorientation(volume.grid, grid)
    if exact is not None:
        array = _copy_voxels(volume.array, exact, grid.shape, fill)
    else:
        array = _interpolate(volume, grid, interpolation, fill)
    return Volume(array, grid.affine, volume.source, volume.notes)


def resampling_is_exact(volume: Volume, grid: Grid) -> bool:
    """Whether :func:`resample` onto `grid` copies voxels instead of interpolating."""
    return exact_reorientation(volume.grid, grid) is not None


def _copy_voxels(
    array: npt.NDArray[Any], exact: ExactReorientation, shape: tuple[int, int, int], fill: float
) -> npt.NDArray[Any]:
    result = np.full(shape, fill, dtype=array.dtype)
    view = array.transpose(exact.axes)
    source: list[slice] = []
    target: list[slice] = []
    for axis in range(3):
        size, sign, offset = view.shape[axis], exact.signs[axis], exact.offsets[axis]
        # Target index t reads source index offset + sign·t: keep the t for which that is inside.
        first, last = (-offset, size - 1 - offset) if sign > 0 else (offset - size + 1, offset)
        first, last = max(first, 0), min(last, shape[axis] - 1)
        if first > last:
            return result
        begin, end = offset + sign * first, offset + sign * last
        stop = end + sign
        source.append(slice(begin, None if stop < 0 else stop, sign))
        target.append(slice(first, last + 1))
    result[tuple(target)] = view[tuple(source)]
    return result


def _interpolate(volume: Volume, grid: Grid, interpolation: Interpolation, fill: float) -> npt.NDArray[Any]:
    """Sample with ITK in voxel coordinates, so that sheared affines, which ITK images cannot hold, work as well."""
    import SimpleITK as sitk

    array = volume.array
    if interpolation == "linear":
        array = array.astype(np.float32, copy=False)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8)
    mapping = np.linalg.inv(volume.affine) @ grid.affine
    if interpolation == "nearest":
        mapping[:3, 3] += _TIE_BREAK_VOXELS
    transform = sitk.AffineTransform(mapping[:3, :3].ravel().tolist(), mapping[:3, 3].tolist())
    image = sitk.GetImageFromArray(array.T)
    resampled = sitk.Resample(
        image,
        grid.shape,
        transform,
        sitk.sitkLinear if interpolation == "linear" else sitk.sitkNearestNeighbor,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        fill,
        image.GetPixelID(),
    )
    result: npt.NDArray[Any] = np.ascontiguousarray(sitk.GetArrayFromImage(resampled).T)
    return result.astype(np.bool_) if volume.array.dtype == np.bool_ else result
