"""The mapping between a scan's own space and the model's, in both directions, and resampling through it.

ITK's transforms work in LPS millimetres; everything else here is RAS. A transform *resamples*: the one that carries the
scan into model space maps points of model space to points of the scan.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import OutputError, UsageError
from ADAttributionLogic.geometry import Affine, Grid, check_affine
from ADAttributionLogic.registration.target import isotropic_grid
from ADAttributionLogic.volume import Interpolation, Volume, resample

#: ``cubic`` (B-spline) is for scans: a scan of thick slices keeps more of its detail than with ``linear``.
Sampling = Interpolation | Literal["cubic"]
Kind = Literal["identity", "rigid", "affine", "deformable"]

#: Names of the files without suffix. Applied to the scan's node in Slicer, the first carries it into model space.
SCAN_TO_MODEL, MODEL_TO_SCAN = "scan-to-model", "model-to-scan"

#: Attributes that are stored as files.
_WARPS = ("warp", "inverse_warp")

_LPS_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


@dataclass(frozen=True, eq=False)
class SpaceTransform:
    """Where a point of model space lies in the scan, and the reverse.

    Attributes
    ----------
    kind : {"identity", "rigid", "affine", "deformable"}
    matrix : ndarray, shape (4, 4), float64
        RAS mm in model space (after the warp, if there is one) to RAS mm in the scan.
    warp, inverse_warp : SimpleITK.Transform or None
        Displacement (LPS mm) from model space to model space that comes before `matrix`, and its inverse.
    """

    kind: Kind
    matrix: Affine
    warp: Any = None
    inverse_warp: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", check_affine(self.matrix))
        if (self.warp is None) != (self.inverse_warp is None) or (self.warp is not None) != (self.kind == "deformable"):
            raise ValueError("A deformable transform needs a warp and its inverse; the others have neither.")

    @property
    def model_to_scan_points(self) -> Any:
        """ITK transform (LPS) from points of model space to points of the scan: resamples the scan to the model."""
        return _composite([itk_affine(self.matrix), self.warp])

    @property
    def scan_to_model_points(self) -> Any:
        """ITK transform (LPS) from points of the scan to points of model space: resamples heatmaps to the scan."""
        return _composite([self.inverse_warp, itk_affine(np.linalg.inv(self.matrix))])

    def points_to_scan(self, ras: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map RAS mm (…, 3) of model space to RAS mm (…, 3) of the scan."""
        return _move(self.model_to_scan_points, self.matrix if self.warp is None else None, ras)

    def points_to_model(self, ras: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map RAS mm (…, 3) of the scan to RAS mm (…, 3) of model space."""
        inverse: Affine | None = check_affine(np.linalg.inv(self.matrix)) if self.warp is None else None
        return _move(self.scan_to_model_points, inverse, ras)

    def volume_change(self, grid: Grid) -> npt.NDArray[np.float32]:
        """How many mm³ of the scan one mm³ of model space covers, at the voxels of a grid in model space."""
        change = float(abs(np.linalg.det(self.matrix[:3, :3])))
        if self.warp is None:
            return np.full(grid.shape, change, np.float32)
        return (change * _jacobian(self.warp, grid)).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Plain values for provenance: rotation (degrees), shift (mm), scales, the matrix."""
        linear = self.matrix[:3, :3]
        left, scales, right = np.linalg.svd(linear)
        rotation = left @ right
        angle = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
        return {
            "kind": self.kind,
            "rotation_degrees": round(float(angle), 2),
            "translation_mm": np.round(self.matrix[:3, 3], 2).tolist(),
            "scales": np.round(scales, 4).tolist(),
            "matrix_model_to_scan_ras_mm": self.matrix.tolist(),
        }

    def write(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write both directions as ITK transform files (``.mat``, or ``.h5`` with a warp), which Slicer loads as nodes.

        Returns
        -------
        tuple of Path
            ``scan-to-model`` (applied to the scan, it moves it into model space) and ``model-to-scan`` (for heatmaps).

        Raises
        ------
        OutputError
        """
        import SimpleITK as sitk

        suffix = ".h5" if self.warp is not None else ".mat"
        paths = Path(folder) / f"{SCAN_TO_MODEL}{suffix}", Path(folder) / f"{MODEL_TO_SCAN}{suffix}"
        for path, transform in zip(paths, (self.model_to_scan_points, self.scan_to_model_points), strict=True):
            if path.exists():
                raise OutputError(f"{path} exists; nothing is overwritten. Choose another folder.")
            try:
                sitk.WriteTransform(transform, os.fspath(path))
            except RuntimeError as cause:
                raise OutputError(f"{path} cannot be written: {str(cause).strip().splitlines()[-1]}") from cause
        return paths

    def store(self, folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
        """Write the warps exactly as they are, and return the rest as plain values; see :func:`restore_transform`.

        Raises
        ------
        OutputError
        """
        import SimpleITK as sitk

        files: dict[str, str | None] = dict.fromkeys(_WARPS)
        if self.warp is not None:
            files = {key: f"{name}-{key}.h5" for key in _WARPS}
            for key, file in files.items():
                try:
                    sitk.WriteTransform(getattr(self, key), os.fspath(Path(folder) / str(file)))
                except RuntimeError as cause:
                    raise OutputError(f"The transform cannot be written to {folder}: {cause}") from cause
        return {"kind": self.kind, "matrix": self.matrix.tolist(), **files}


def restore_transform(document: Mapping[str, Any], folder: str | os.PathLike[str]) -> SpaceTransform:
    """The inverse of :meth:`SpaceTransform.store`.

    Raises
    ------
    UsageError
        A warp's name leads out of the folder, or it cannot be read.
    """
    import SimpleITK as sitk

    warps: list[Any] = []
    for file in (document[key] for key in _WARPS if document[key] is not None):
        path = Path(folder) / file
        if path.resolve().parent != Path(folder).resolve():
            raise UsageError(f"The file {file} lies outside the folder {folder}; it is refused.")
        try:
            warps.append(sitk.DisplacementFieldTransform(sitk.ReadTransform(os.fspath(path))))
        except RuntimeError as cause:
            raise UsageError(f"The transform {path} cannot be read: {cause}") from cause
    return SpaceTransform(document["kind"], np.array(document["matrix"]), *warps)


def read_transform(described: Mapping[str, Any] | None, folder: str | os.PathLike[str]) -> SpaceTransform:
    """What :meth:`SpaceTransform.write` wrote, with what :meth:`SpaceTransform.describe` said of it.

    Parameters
    ----------
    described : mapping or None
        None is the identity.
    folder : path-like
        Where the files are; only a warp is read from them.

    Raises
    ------
    UsageError
        A warp cannot be read.
    """
    if described is None:
        return identity_transform()
    matrix = np.array(described["matrix_model_to_scan_ras_mm"], dtype=np.float64)
    if described["kind"] != "deformable":
        return SpaceTransform(described["kind"], matrix)
    warps = [_warp_in(Path(folder) / f"{name}.h5") for name in (SCAN_TO_MODEL, MODEL_TO_SCAN)]
    return SpaceTransform("deformable", matrix, *warps)


def _warp_in(path: Path) -> Any:
    """The displacement field among the transforms of a file."""
    import SimpleITK as sitk

    try:
        found = sitk.ReadTransform(os.fspath(path))
    except RuntimeError as cause:
        raise UsageError(f"The transform {path} cannot be read: {str(cause).strip().splitlines()[-1]}") from cause
    parts = [found]
    if found.GetName() == "CompositeTransform":
        composite = sitk.CompositeTransform(found)
        parts = [composite.GetNthTransform(n) for n in range(composite.GetNumberOfTransforms())]
    fields = [part for part in parts if part.GetName() == "DisplacementFieldTransform"]
    if len(fields) != 1:
        raise UsageError(f"{path} holds {len(fields)} displacement fields; a deformable registration has one.")
    return sitk.DisplacementFieldTransform(fields[0].Downcast())


def identity_transform() -> SpaceTransform:
    """The transform of a scan that already is in model space."""
    return SpaceTransform("identity", np.eye(4))


def warp_of_points(grid: Grid, moved: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Any:
    """A displacement field (ITK, LPS mm) on a grid along RAS, from a function of points.

    Parameters
    ----------
    grid : Grid
        Without rotation; outside of it nothing is moved.
    moved : callable
        RAS mm (n, 3) to RAS mm (n, 3).
    """
    import SimpleITK as sitk

    points = grid.to_ras(np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1).reshape(-1, 3))
    shifts = (moved(points) - points) * (-1, -1, 1)
    field = sitk.GetImageFromArray(shifts.reshape(*grid.shape, 3).transpose(2, 1, 0, 3), isVector=True)
    lps = _LPS_RAS @ grid.affine
    field.SetSpacing(grid.spacing)
    field.SetDirection((lps[:3, :3] / np.array(grid.spacing)).ravel().tolist())
    field.SetOrigin(lps[:3, 3].tolist())
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def itk_affine(matrix: npt.ArrayLike) -> Any:
    """A 4×4 matrix between RAS points as an ITK transform between LPS points."""
    import SimpleITK as sitk

    lps = _LPS_RAS @ np.asarray(matrix, dtype=np.float64) @ _LPS_RAS
    return sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())


def ras_matrix(transform: Any) -> Affine:
    """The 4×4 matrix between RAS points of a linear ITK transform.

    Works for every linear class: the images of four points determine the matrix.
    """
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    lps[:3, 3] = origin
    for axis in range(3):
        lps[:3, axis] = np.array(transform.TransformPoint([float(a == axis) for a in range(3)])) - origin
    return check_affine(_LPS_RAS @ lps @ _LPS_RAS)


def itk_image(volume: Volume) -> Any:
    """A volume as an ITK image in LPS. The affine must not be sheared."""
    import SimpleITK as sitk

    lps = _LPS_RAS @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    array = volume.array.astype(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def resample_to_model(
    volume: Volume, transform: SpaceTransform, grid: Grid, interpolation: Sampling = "linear", fill: float = 0.0
) -> Volume:
    """Sample a volume of the scan's space on a grid in model space.

    ``cubic`` stays within the range of the volume's values and `fill`: splines overshoot at edges.
    """
    return _resample(volume, grid, transform.model_to_scan_points, interpolation, fill)


def resample_to_scan(
    volume: Volume, transform: SpaceTransform, grid: Grid, interpolation: Interpolation = "linear", fill: float = 0.0
) -> Volume:
    """Sample a volume of model space (a heatmap, or labels with ``"nearest"``) on a grid in the scan's space."""
    return _resample(volume, grid, transform.scan_to_model_points, interpolation, fill)


def _resample(volume: Volume, grid: Grid, points: Any, interpolation: Sampling, fill: float) -> Volume:
    """Work in voxel coordinates on both sides, so that sheared affines, which ITK images cannot hold, work as well."""
    import SimpleITK as sitk

    array = volume.array
    if interpolation != "nearest":
        array = array.astype(np.float32, copy=False)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8)
    to_voxel = _voxel_transform(np.linalg.inv(_LPS_RAS @ volume.affine))
    from_voxel = _voxel_transform(_LPS_RAS @ grid.affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    methods = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "cubic": sitk.sitkBSpline}
    resampled = sitk.Resample(
        image,
        grid.shape,
        _composite([to_voxel, points, from_voxel]),
        methods[interpolation],
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        fill,
        image.GetPixelID(),
    )
    result = np.ascontiguousarray(sitk.GetArrayFromImage(resampled).T)
    if interpolation == "cubic":
        low, high = float(array.min()), float(array.max())
        np.clip(result, min(low, fill), max(high, fill), out=result)
    if volume.array.dtype == np.bool_ and interpolation == "nearest":
        result = result.astype(np.bool_)
    return Volume(result, grid.affine, volume.source, volume.notes)


def _voxel_transform(matrix: npt.NDArray[np.floating]) -> Any:
    import SimpleITK as sitk

    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def _composite(transforms: list[Any]) -> Any:
    """The transforms, the last of which acts on the point first, as one (None is left out)."""
    import SimpleITK as sitk

    present = [t for t in transforms if t is not None]
    if len(present) == 1:
        return present[0]
    composite = sitk.CompositeTransform(3)
    for transform in present:
        composite.AddTransform(transform)
    return composite


def _move(transform: Any, matrix: npt.NDArray[np.float64] | None, ras: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.asarray(ras, dtype=np.float64)
    moved: npt.NDArray[np.float64]
    if matrix is not None:
        moved = points @ matrix[:3, :3].T + matrix[:3, 3]
        return moved
    flip = np.array((-1.0, -1.0, 1.0))
    flat = points.reshape(-1, 3) * flip
    found: npt.NDArray[np.float64] = np.array([transform.TransformPoint(p) for p in flat.tolist()])
    moved = found.reshape(points.shape) * flip
    return moved


def _jacobian(warp: Any, grid: Grid) -> npt.NDArray[np.float32]:
    """Determinant of the warp's derivative; taken on a grid of half the resolution, where a smooth warp is as exact."""
    import SimpleITK as sitk

    around = isotropic_grid(grid, 2 * min(grid.spacing))
    # ITK's filter differentiates along the voxel axes: they must run along LPS, or signs of the derivatives are wrong.
    flip = np.diag((-1.0, -1.0, 1.0, 1.0))
    flip[:2, 3] = np.array(around.shape[:2]) - 1
    coarse = Grid(around.shape, around.affine @ flip)
    field = sitk.TransformToDisplacementField(
        warp,
        sitk.sitkVectorFloat64,
        coarse.shape,
        (_LPS_RAS @ coarse.affine)[:3, 3].tolist(),
        coarse.spacing,
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field)).T
    values: npt.NDArray[np.float32] = resample(
        Volume(determinant.astype(np.float32), coarse.affine), grid, "linear", 1.0
    ).array
    return values
