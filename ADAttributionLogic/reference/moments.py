"""Mean and standard deviation of maps, one map at a time: memory does not grow with their number.

Welford 1962 for one more map, Chan, Golub & LeVeque 1983 for joining two parts; in float64, because a sum of squares of
a thousand float32 maps would lose the spread where it is small against the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Voxels at a time: what is made in between stays in the processor's cache.
_CHUNK = 1 << 15


class VoxelMoments:
    """Mean and sum of squared deviations, voxel by voxel.

    Parameters
    ----------
    shape : tuple of int

    Attributes
    ----------
    n : int
    mean, squares : ndarray, float64, shape
        The mean, and Σ(x − mean)².
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n = 0
        self.mean: npt.NDArray[np.float64] = np.zeros(shape)
        self.squares: npt.NDArray[np.float64] = np.zeros(shape)

    @classmethod
    def from_state(cls, n: int, mean: npt.NDArray[np.float64], squares: npt.NDArray[np.float64]) -> VoxelMoments:
        """Go on from what an earlier run has kept."""
        found = cls((0,))
        found.n, found.mean, found.squares = n, mean, squares
        return found

    def add(self, values: npt.NDArray[Any]) -> None:
        """Take one map more, in one pass."""
        if values.shape != self.mean.shape:
            raise ValueError(f"A map of shape {values.shape} cannot be added to moments of {self.mean.shape}.")
        self.n += 1
        flat, mean, squares = np.ascontiguousarray(values).reshape(-1), self.mean.reshape(-1), self.squares.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            delta = flat[part] - mean[part]
            mean[part] += delta / self.n
            delta *= flat[part] - mean[part]
            squares[part] += delta

    def join(self, other: VoxelMoments) -> None:
        """Take all maps of another part."""
        total = self.n + other.n
        if total == 0:
            return
        delta = other.mean - self.mean
        self.mean += delta * (other.n / total)
        self.squares += other.squares + delta**2 * (self.n * other.n / total)
        self.n = total

    @property
    def sd(self) -> npt.NDArray[np.float64]:
        """Standard deviation with n − 1; NaN of fewer than two maps."""
        if self.n < 2:
            return np.full(self.mean.shape, np.nan)
        found: npt.NDArray[np.float64] = np.sqrt(self.squares / (self.n - 1))
        return found
