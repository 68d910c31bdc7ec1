"""Voxel grids in space: affines, exact re-orientations and coordinates, all in RAS millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import GeometryError

Affine = npt.NDArray[np.float64]

#: Two grids are the same, and a re-orientation is exact, when no voxel is further off than this (in voxels).
GRID_TOLERANCE_VOXELS = 1e-3


def check_affine(affine: npt.ArrayLike) -> Affine:
    """Return `affine` as a 4×4 float64 matrix that maps voxel indices to RAS millimetres.

    Raises
    ------
    GeometryError
        If it is not 4×4, not finite, singular, or its last row is not (0, 0, 0, 1).
    """
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"An affine must be 4×4, but has shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise GeometryError("The affine contains NaN or infinite values; the file's orientation is unusable.")
    if not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise GeometryError(f"The last row of an affine must be 0 0 0 1, but is {matrix[3].tolist()}.")
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    # Relative to the voxel's edges, so that micrometre voxels are not called singular.
    volume = abs(np.linalg.det(matrix[:3, :3]))
    if spacing.min() <= 0 or volume < 1e-4 * spacing.prod():
        raise GeometryError(
            f"The affine is singular: voxel edges {np.round(spacing, 6).tolist()} mm span only {volume:.3g} mm³. "
            "The three voxel axes must point in different directions."
        )
    matrix.setflags(write=False)
    return matrix


@dataclass(frozen=True, eq=False)
class Grid:
    """The size and place of a 3D voxel array.

    Attributes
    ----------
    shape : tuple of int
        Number of voxels along the three array axes.
    affine : ndarray, shape (4, 4), float64
        Voxel indices (i, j, k, 1) to RAS millimetres.
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"A grid needs three axes of at least one voxel, but has shape {tuple(self.shape)}.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", check_affine(self.affine))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm along the array axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³ (of the parallelepiped, so it is right for sheared affines too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    def to_ras(self, voxels: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map voxel indices (…, 3) to RAS mm (…, 3)."""
        points = np.asarray(voxels, dtype=np.float64)
        mapped: npt.NDArray[np.float64] = points @ self.affine[:3, :3].T + self.affine[:3, 3]
        return mapped

    def to_voxel(self, ras: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map RAS mm (…, 3) to continuous voxel indices (…, 3)."""
        points = np.asarray(ras, dtype=np.float64)
        inverse = np.linalg.inv(self.affine)
        mapped: npt.NDArray[np.float64] = points @ inverse[:3, :3].T + inverse[:3, 3]
        return mapped

    def is_same(self, other: Grid) -> bool:
        """Whether every voxel of both grids has the same place (to :data:`GRID_TOLERANCE_VOXELS`)."""
        if self.shape != other.shape:
            return False
        corners = _corners(self.shape)
        offset = np.abs(self.to_voxel(other.to_ras(corners)) - corners).max()
        return bool(offset <= GRID_TOLERANCE_VOXELS)

    def covered_by(self, other: Grid) -> float:
        """Fraction (0–1) of this grid's voxel centres, sampled every few voxels, that lie inside `other`."""
        axes = [np.linspace(0, n - 1, num=min(n, 32)) for n in self.shape]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        voxels = other.to_voxel(self.to_ras(points))
        inside = ((voxels >= -0.5) & (voxels <= np.array(other.shape) - 0.5)).all(axis=1)
        return float(inside.mean())

    def orientation(self) -> str:
        """The anatomical direction of each array axis, e.g. ``"RAS"`` or ``"LPS"`` (nearest axis if oblique)."""
        codes = ("LR", "PA", "IS")
        letters = ["", "", ""]
        direction = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        free = {0, 1, 2}
        # The most clearly oriented array axis chooses its anatomical direction first.
        for axis in np.argsort(-np.abs(direction).max(axis=0)):
            anatomical = max(free, key=lambda a: abs(direction[a, axis]))
            free.discard(anatomical)
            letters[axis] = codes[anatomical][int(direction[anatomical, axis] > 0)]
        return "".join(letters)

    def describe(self) -> str:
        """One line for messages, e.g. ``193×229×193 voxels of 1×1×1 mm (RAS)``."""
        size = "×".join(str(n) for n in self.shape)
        spacing = "×".join(f"{s:.4g}" for s in self.spacing)
        return f"{size} voxels of {spacing} mm ({self.orientation()})"


def nearest_ras(grid: Grid) -> Grid:
    """The same voxels, stored so that the axes run as nearly as possible to the right, front and top."""
    axes = [0, 0, 0]
    signs = [1, 1, 1]
    for axis, letter in enumerate(grid.orientation()):
        anatomical = next(a for a, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        axes[anatomical] = axis
        signs[anatomical] = 1 if letter in "RAS" else -1
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for target_axis, (source, sign) in enumerate(zip(axes, signs, strict=True)):
        step[source, target_axis] = sign
        step[source, 3] += grid.shape[source] - 1 if sign < 0 else 0
    return Grid((grid.shape[axes[0]], grid.shape[axes[1]], grid.shape[axes[2]]), grid.affine @ step)


def in_round_numbers(grid: Grid) -> Grid:
    """The grid with its voxel axes rounded to 0.0001 mm and its middle to 0.01 mm.

    Programs that read the same file agree on its affine to six digits only (3D Slicer keeps spacing and directions,
    NIfTI's float32 numbers). No brain is moved by more than 0.02 mm, and what is computed from the grid is the same
    whoever read the file, unless a number lies right between two round ones.
    """
    linear = np.round(grid.affine[:3, :3], 4)
    middle = (np.array(grid.shape) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = np.round(grid.to_ras(middle), 2) - linear @ middle
    return Grid(grid.shape, affine)


@dataclass(frozen=True)
class ExactReorientation:
    """A mapping between two grids without interpolation: a permutation and flips of axes, and whole-voxel offsets.

    Attributes
    ----------
    axes : tuple of int
        ``axes[a]`` is the source axis that target axis ``a`` runs along.
    signs : tuple of int
        +1 or −1: whether target axis ``a`` runs along or against it.
    offsets : tuple of int
        Source index, along ``axes[a]``, of target index 0.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    offsets: tuple[int, int, int]


def exact_reorientation(source: Grid, target: Grid) -> ExactReorientation | None:
    """Return how `target` reads `source` voxel by voxel, or None when interpolation is needed."""
    mapping = np.linalg.inv(source.affine) @ target.affine
    linear, offset = mapping[:3, :3], mapping[:3, 3]
    rounded, start = np.rint(linear), np.rint(offset)
    is_permutation = (np.abs(rounded).sum(axis=0) == 1).all() and (np.abs(rounded).sum(axis=1) == 1).all()
    if not is_permutation:
        return None
    corners = _corners(target.shape)
    error = corners @ (linear - rounded).T + (offset - start)
    if np.abs(error).max() > GRID_TOLERANCE_VOXELS:
        return None
    axes = [int(np.argmax(np.abs(rounded[:, a]))) for a in range(3)]
    signs = [int(rounded[axes[a], a]) for a in range(3)]
    offsets = [int(start[axes[a]]) for a in range(3)]
    return ExactReorientation(
        (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2]), (offsets[0], offsets[1], offsets[2])
    )


def _corners(shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """The eight corner voxels of an array of this shape, (8, 3)."""
    return np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), dtype=np.float64).reshape(3, -1).T
