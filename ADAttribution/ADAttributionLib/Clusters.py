"""Connected clusters of relevance beyond the threshold. Needs no Qt and no Slicer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

#: Upper ends, in voxels, of the classes of the size distribution; the last class is open.
SIZE_CLASSES = (1, 5, 20, 100, 500)


@dataclass(frozen=True)
class Cluster:
    """One cluster: voxels that touch each other by a face, of one sign, beyond the threshold."""

    voxels: int
    volumeMm3: float
    mean: float
    peak: float


class Clusters:
    """All clusters of a map at a threshold.

    Parameters
    ----------
    array : ndarray, 3D
    threshold : float
        Magnitude, > 0 (0 takes every voxel with any relevance).
    voxelVolumeMm3 : float
    showPositive, showNegative : bool
    """

    def __init__(self, array, threshold, voxelVolumeMm3=1.0, showPositive=True, showNegative=True):
        self._array = array
        self._voxelVolume = voxelVolumeMm3
        self._box, self._labels = _label(array, threshold, showPositive, showNegative)
        flat = self._labels.ravel()
        inside = np.flatnonzero(flat)
        self._numbers = flat[inside]
        self._values = array[self._box].ravel()[inside] if inside.size else np.zeros(0, array.dtype)
        #: Voxels of each cluster; entry 0 is unused.
        self.sizes = np.bincount(self._numbers, minlength=1)
        self.sizes[0] = 0

    @property
    def count(self):
        return len(self.sizes) - 1

    def filtered(self, minimumVoxels):
        """The map with 0 outside the clusters of at least this size."""
        keep = self.sizes >= max(minimumVoxels, 1)
        keep[0] = False
        result = np.zeros_like(self._array)
        if self.count:
            result[self._box] = np.where(keep[self._labels], self._array[self._box], 0)
        return result

    def at(self, voxel):
        """The cluster at a voxel (i, j, k); None outside."""
        place = [int(v) - part.start for v, part in zip(voxel, self._box, strict=True)]
        if any(not 0 <= p < n for p, n in zip(place, self._labels.shape, strict=True)):
            return None
        number = int(self._labels[tuple(place)])
        if number == 0:
            return None
        values = self._values[self._numbers == number]
        peak = float(values[np.argmax(np.abs(values))])
        return Cluster(values.size, values.size * self._voxelVolume, float(values.mean(dtype=np.float64)), peak)

    def distribution(self):
        """Number of clusters by size: pairs of text ("2–5") and count."""
        sizes = self.sizes[1:]
        edges = (0, *SIZE_CLASSES, None)
        rows = []
        for low, high in pairwise(edges):
            inside = sizes > low if high is None else (sizes > low) & (sizes <= high)
            name = f"> {low}" if high is None else str(high) if high == low + 1 else f"{low + 1}–{high}"
            rows.append((name, int(inside.sum())))
        return rows

    def describe(self, minimumVoxels):
        """One line for the panel: how many clusters there are, and how many are left."""
        if not self.count:
            return "No cluster beyond the threshold."
        sizes = self.sizes[1:]
        left = int((sizes >= max(minimumVoxels, 1)).sum())
        share = float(sizes[sizes >= max(minimumVoxels, 1)].sum() / sizes.sum())
        spread = ", ".join(f"{name}: {count}" for name, count in self.distribution() if count)
        return (
            f"{self.count} clusters of {sizes.min()} to {sizes.max()} voxels (by size {spread}). "
            f"Shown: {left} with {share:.0%} of the voxels."
        )


def _label(array, threshold, showPositive, showNegative):
    """Bounding box of what is beyond the threshold, and cluster numbers inside it."""
    from scipy import ndimage  # not at file scope: the module must open where scipy is missing

    positive = (array >= threshold) & (array > 0) if showPositive else np.zeros(array.shape, bool)
    negative = (array <= -threshold) & (array < 0) if showNegative else np.zeros(array.shape, bool)
    box = _boundingBox(positive | negative)
    labels, count = ndimage.label(positive[box])
    if showNegative:
        others, _ = ndimage.label(negative[box])
        labels = np.where(others > 0, others + count, labels)
    return box, labels


def _boundingBox(mask):
    box = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 1))
    return tuple(box)
