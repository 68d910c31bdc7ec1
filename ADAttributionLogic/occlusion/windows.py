"""Where the windows of box occlusion are, and where their values are put on the map."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Box = tuple[slice, ...]
Places = npt.NDArray[np.int64]
Overlaps = Literal["mean", "nearest"]


@dataclass(frozen=True)
class WindowGrid:
    """Boxes of one size at a regular distance.

    Centres are at ``0, stride, 2·stride, …`` along each axis; a box reaches from ``size // 2`` before its centre,
    is `size` long, and is clipped to the image (Rieke et al. 2018, for even sizes).

    Attributes
    ----------
    shape : tuple of int
        Of the image.
    size, stride : int
        In voxels.
    """

    shape: tuple[int, ...]
    size: int
    stride: int

    def intervals(self, axis: int) -> list[tuple[int, int]]:
        """First and last-plus-one voxel of the boxes along an axis."""
        n = self.shape[axis]
        starts = [centre - self.size // 2 for centre in range(0, n, self.stride)]
        return [(max(a, 0), min(a + self.size, n)) for a in starts]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of boxes per axis."""
        return tuple(len(range(0, n, self.stride)) for n in self.shape)

    def boxes(self) -> Iterator[Box]:
        """All boxes, last axis fastest."""
        for box in itertools.product(*(self.intervals(axis) for axis in range(len(self.shape)))):
            yield tuple(slice(a, b) for a, b in box)

    def touching(self, mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """Which boxes (counts) hold a voxel of a mask (…); all without a mask."""
        if mask is None:
            return np.ones(self.counts, dtype=bool)
        # Voxels of the mask per box: sums along one axis after the other, as differences of a running sum.
        held = mask.astype(np.int64)
        for axis in range(len(self.shape)):
            running = np.insert(np.cumsum(held, axis=axis), 0, 0, axis=axis)
            starts, stops = (np.array(p) for p in zip(*self.intervals(axis), strict=True))
            held = np.take(running, stops, axis=axis) - np.take(running, starts, axis=axis)
        return np.asarray(held > 0)

    def limits(self, chosen: npt.NDArray[np.bool_]) -> tuple[Places, Places]:
        """First and last-plus-one voxels (N, axes) of the chosen boxes, last axis fastest."""
        numbers = np.nonzero(chosen)
        ends = [np.array(self.intervals(axis)) for axis in range(len(self.shape))]
        lows = np.stack([end[n, 0] for end, n in zip(ends, numbers, strict=True)], axis=1)
        highs = np.stack([end[n, 1] for end, n in zip(ends, numbers, strict=True)], axis=1)
        return lows, highs

    def all_limits(self) -> tuple[Places, Places]:
        """First and last-plus-one voxels (N, axes) of all boxes, last axis fastest."""
        return self.limits(np.ones(self.counts, dtype=bool))

    def place(self, values: Tensor, chosen: Tensor | None = None, overlaps: Overlaps = "mean") -> Tensor:
        """Put values where their boxes were.

        Parameters
        ----------
        values : Tensor, shape counts
        chosen : Tensor of bool, shape counts, optional
            Boxes that have a value; all by default.
        overlaps : {"mean", "nearest"}
            What a voxel gets: the mean over the boxes that cover it, or the value of the box whose centre is nearest
            (the published maps look so, but theirs are stretched from corner to corner).

        Returns
        -------
        Tensor, shape (…), float64
            0 where no box has a value.
        """
        weight = torch.ones_like(values) if chosen is None else chosen.to(values)
        if overlaps == "nearest":
            nearest = (values * weight).double()
            for axis in range(len(self.shape)):
                nearest = nearest.index_select(axis, self._nearest(axis).to(values.device))
            return nearest
        total, hits = values * weight, weight
        for axis in range(len(self.shape)):
            total, hits = (self._spread(t, axis) for t in (total, hits))
        return total / hits.clamp(min=1)

    def _nearest(self, axis: int) -> Tensor:
        """For each voxel along an axis, the box whose centre is nearest; of two, the later one."""
        voxels = torch.arange(self.shape[axis])
        return ((voxels + self.stride // 2) // self.stride).clamp(max=self.counts[axis] - 1)

    def _spread(self, values: Tensor, axis: int) -> Tensor:
        """Sum, along one axis, the boxes that cover each voxel: differences at the boxes' ends, then a running sum."""
        sizes = list(values.shape)
        sizes[axis] = self.shape[axis] + 1
        # In double precision: a running sum must come back to exactly what it was.
        changes = torch.zeros(sizes, dtype=torch.float64, device=values.device)
        starts, stops = (torch.tensor(p, device=values.device) for p in zip(*self.intervals(axis), strict=True))
        changes.index_add_(axis, starts, values.double())
        changes.index_add_(axis, stops, -values.double())
        return changes.cumsum(axis).narrow(axis, 0, self.shape[axis])
