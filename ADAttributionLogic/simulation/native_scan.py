"""Scans as scanners deliver them, made from a volume in model space, so that the true transform is known.

The patient lies rotated and shifted, the voxels are anisotropic and stored in another order, the coil makes one side
brighter, and there is noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.geometry import Affine, Grid
from ADAttributionLogic.simulation.deformation import smooth_noise
from ADAttributionLogic.volume import Volume, resample

StorageOrder = Literal["axial", "sagittal", "coronal"]

#: RAS axes along which the three voxel axes run, as scanners store them, and against or along them.
_ORDERS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "axial": ((0, 1, 2), (-1, -1, 1)),
    "sagittal": ((1, 2, 0), (-1, -1, -1)),
    "coronal": ((0, 2, 1), (-1, -1, 1)),
}


@dataclass(frozen=True)
class Acquisition:
    """How a simulated scan differs from the volume that it is made from.

    Attributes
    ----------
    rotation_degrees : tuple of float
        About the x, y and z axes.
    shift_mm : tuple of float
    spacing_mm : tuple of float
        Edges of the voxels, along the voxel axes.
    order : {"axial", "sagittal", "coronal"}
        Slices are stacked along the last voxel axis.
    dtype : {"uint8", "int16", "float32"}
    bias : float
        Largest relative deviation of the brightness.
    noise : float
        Standard deviation of the (Rician) noise, relative to the 99th percentile.
    seed : int
    """

    rotation_degrees: tuple[float, float, float]
    shift_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    order: StorageOrder = "axial"
    dtype: Literal["uint8", "int16", "float32"] = "int16"
    bias: float = 0.2
    noise: float = 0.02
    seed: int = 0


@dataclass(frozen=True, eq=False)
class NativeScan:
    """A simulated scan and the truth.

    Attributes
    ----------
    scan : Volume
        float32 values that fit the acquisition's dtype.
    matrix : ndarray, shape (4, 4), float64
        RAS mm of the volume it was made from to RAS mm of the scan.
    acquisition : Acquisition
    """

    scan: Volume
    matrix: Affine
    acquisition: Acquisition

    def ground_truth(self) -> dict[str, Any]:
        """What was done, as plain values for a JSON file."""
        return {"acquisition": asdict(self.acquisition), "matrix_model_to_scan_ras_mm": self.matrix.tolist()}


def draw_acquisition(seed: int) -> Acquisition:
    """Draw an acquisition: up to 20° about each axis, 30 mm along each, one of twelve combinations of the rest."""
    generator = np.random.default_rng([seed, 5])
    spacings = ((1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.9, 0.9, 1.2), (1.2, 1.2, 2.0))
    orders: tuple[StorageOrder, ...] = ("axial", "sagittal", "coronal")
    dtypes: tuple[Literal["uint8", "int16", "float32"], ...] = ("uint8", "int16", "float32")
    rotation, shift = generator.uniform(-20, 20, 3), generator.uniform(-30, 30, 3)
    if seed % 4 == 0:  # the corners of what was promised
        rotation, shift = np.sign(rotation) * (20, 8, 12), np.sign(shift) * (30, 20, 30)
    return Acquisition(
        tuple(np.round(rotation, 2).tolist()),
        tuple(np.round(shift, 2).tolist()),
        spacings[seed % 4],
        orders[seed % 3],
        dtypes[(seed // 3) % 3],
        bias=round(float(generator.uniform(0.1, 0.3)), 3),
        noise=round(float(generator.uniform(0.01, 0.03)), 3),
        seed=seed,
    )


def acquire(source: Volume, acquisition: Acquisition, fill: float = 0.0) -> NativeScan:
    """Scan a volume.

    Parameters
    ----------
    source : Volume
        Head or brain in model space, 0 where there is nothing.
    acquisition : Acquisition
    fill : float
        Brightness outside the source's field of view.
    """
    generator = np.random.default_rng([acquisition.seed, 7])
    matrix = _motion(acquisition, source.grid)
    moved = Volume(source.array.astype(np.float32), matrix @ source.affine)
    grid = _scanner_grid(moved.grid, acquisition)
    values = resample(_blurred(moved, acquisition), grid, fill=fill).array
    brightest = float(np.percentile(values[values > 0], 99))
    field = smooth_noise(grid.shape, 60.0 / min(acquisition.spacing_mm), 1, generator)[0].numpy()
    values = values * (1 + acquisition.bias * field / np.abs(field).max())
    noise = generator.standard_normal((2, *grid.shape), dtype=np.float32) * (acquisition.noise * brightest)
    values = np.hypot(values + noise[0], noise[1])
    scan = Volume(_stored(values, brightest, acquisition.dtype), grid.affine, f"simulated scan {acquisition.seed}")
    return NativeScan(scan, matrix, acquisition)


def _motion(acquisition: Acquisition, grid: Grid) -> Affine:
    """Rotation about the middle of the source, and the shift."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", acquisition.rotation_degrees, degrees=True).as_matrix()
    centre = grid.to_ras((np.array(grid.shape) - 1) / 2)
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + np.array(acquisition.shift_mm)
    return matrix


def _scanner_grid(moved: Grid, acquisition: Acquisition) -> Grid:
    """A grid along the scanner's axes that holds the whole moved source."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in moved.shape], indexing="ij"), float).reshape(3, -1).T
    points = moved.to_ras(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    axes, signs = _ORDERS[acquisition.order]
    affine = np.eye(4)
    affine[:3, :3] = 0
    shape = []
    for voxel_axis, (axis, sign, spacing) in enumerate(zip(axes, signs, acquisition.spacing_mm, strict=True)):
        affine[axis, voxel_axis] = sign * spacing
        affine[axis, 3] = low[axis] if sign > 0 else high[axis]
        shape.append(int(np.ceil((high[axis] - low[axis]) / spacing)) + 1)
    return Grid((shape[0], shape[1], shape[2]), affine)


def _blurred(moved: Volume, acquisition: Acquisition) -> Volume:
    """Thick slices average over their thickness; the source is blurred along the axis nearest to theirs."""
    from scipy.ndimage import gaussian_filter

    axes, _ = _ORDERS[acquisition.order]
    thickness = dict(zip(axes, acquisition.spacing_mm, strict=True))
    sigma = []
    for axis, spacing in enumerate(moved.grid.spacing):
        direction = int(np.argmax(np.abs(moved.affine[:3, axis])))
        sigma.append(0.42 * thickness[direction] / spacing if thickness[direction] > 1.01 * spacing else 0.0)
    return moved.with_array(gaussian_filter(moved.array, sigma)) if any(sigma) else moved


def _stored(values: npt.NDArray[Any], brightest: float, dtype: str) -> npt.NDArray[np.float32]:
    """The values as a file of this type would hold them."""
    if dtype == "float32":
        return values.astype(np.float32)
    top = {"uint8": 200.0, "int16": 1000.0}[dtype]
    limit = {"uint8": 255, "int16": 32767}[dtype]
    return np.clip(np.rint(values * (top / brightest)), 0, limit).astype(np.float32)
