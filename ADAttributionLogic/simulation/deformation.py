"""Smooth displacements of a voxel grid, as torch tensors in voxel units along the array axes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def identity(shape: tuple[int, ...]) -> Tensor:
    """Voxel indices of a grid, shape (3, I, J, K), float32."""
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(image: Tensor, voxels: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Read an image (C, I, J, K) at continuous voxel indices (3, …); linear or nearest, returns (C, …)."""
    sizes = image.shape[1:]
    # grid_sample wants (x, y, z) = (k, j, i) scaled to −1…1 at the centres of the first and last voxel.
    scaled = [2 * voxels[a] / max(sizes[a] - 1, 1) - 1 for a in (2, 1, 0)]
    grid = torch.stack(scaled, dim=-1)[None]
    sampled: Tensor = F.grid_sample(image[None], grid, mode=mode, padding_mode=padding, align_corners=True)[0]
    return sampled


def random_displacement(
    shape: tuple[int, ...], width_voxels: float, peak_voxels: float, generator: np.random.Generator
) -> Tensor:
    """A smooth random displacement, shape (3, I, J, K).

    Parameters
    ----------
    shape : tuple of int
    width_voxels : float
        Standard deviation of the Gaussian that smooths white noise.
    peak_voxels : float
        Length of the longest displacement vector.
    generator : numpy Generator
    """
    field = smooth_noise(shape, width_voxels, 3, generator)
    return field * (peak_voxels / float(torch.linalg.vector_norm(field, dim=0).max()))


def smooth_noise(shape: tuple[int, ...], width_voxels: float, channels: int, generator: np.random.Generator) -> Tensor:
    """Gaussian-smoothed white noise (channels, I, J, K), made on a coarse grid and interpolated."""
    from scipy.ndimage import gaussian_filter

    step = max(width_voxels / 3, 1.0)
    # A margin of two widths, so that the smoothed noise is as strong at the faces as in the middle.
    margin = int(np.ceil(2 * width_voxels / step))
    coarse_shape = [int(np.ceil(n / step)) + 1 + 2 * margin for n in shape]
    noise = generator.standard_normal((channels, *coarse_shape))
    smooth = np.stack([gaussian_filter(channel, width_voxels / step) for channel in noise])
    coarse = torch.from_numpy(smooth.astype(np.float32))
    where = [torch.arange(n, dtype=torch.float32) / step + margin for n in shape]
    return _interpolate_separably(coarse, where)


def _interpolate_separably(coarse: Tensor, where: list[Tensor]) -> Tensor:
    """Linear interpolation of (C, I, J, K) at the outer product of three lists of indices, axis by axis."""
    for axis, positions in enumerate(where):
        low = positions.floor().clamp(0, coarse.shape[axis + 1] - 2).long()
        weight: Tensor = (positions - low).reshape([-1 if a == axis else 1 for a in range(3)])
        coarse = coarse.index_select(axis + 1, low) * (1 - weight) + coarse.index_select(axis + 1, low + 1) * weight
    return coarse


def exponential(velocity: Tensor, squarings: int = 6) -> Tensor:
    """Integrate a stationary velocity (3, I, J, K) by scaling and squaring: an invertible displacement.

    References
    ----------
    Arsigny et al. 2006, A Log-Euclidean Framework for Statistics on Diffeomorphisms, MICCAI.
    """
    displacement: Tensor = velocity / 2**squarings
    places = identity(tuple(velocity.shape[1:]))
    for _ in range(squarings):
        displacement = displacement + sample(displacement, places + displacement)
    return displacement


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``x + displacement(x)``, shape (I, J, K); ≤ 0 where it folds."""
    rows = [torch.stack(torch.gradient(displacement[c])) for c in range(3)]
    jacobian = torch.stack(rows) + torch.eye(3)[:, :, None, None, None]
    determinant: Tensor = torch.linalg.det(jacobian.permute(2, 3, 4, 0, 1))
    return determinant
