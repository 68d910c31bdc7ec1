"""Occlusion: what the network says when part of the image is covered, by box or by atlas region."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ADAttributionLogic.attribution.registry import Job, MapResult, Method, Option, register

Box = tuple[slice, ...]


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

    def place(self, values: Tensor) -> Tensor:
        """Put one value per box (counts) where the box was; where boxes overlap, their mean; elsewhere 0."""
        total, hits = values, torch.ones_like(values)
        for axis in range(len(self.shape)):
            total, hits = (self._spread(t, axis) for t in (total, hits))
        return total / hits.clamp(min=1)

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


def scores_when_covered(
    job: Job, covers: Sequence[Box] | Sequence[Tensor], fill: float, describe: Callable[[int], str]
) -> Tensor:
    """The explained quantity with each part of the image covered in turn, by one full forward pass each.

    Parameters
    ----------
    job : Job
    covers : sequence of box or of boolean Tensor
        Which voxels get the value `fill`, in all channels.
    fill : float
    describe : callable
        Index → text for the progress.

    Returns
    -------
    Tensor, shape (len(covers),), float64
    """
    image = job.evaluation.image.clone()
    scores = torch.empty(len(covers), dtype=torch.float64)
    for number, cover in enumerate(covers):
        job.monitor.report(number / len(covers), describe(number))
        index = (slice(None), slice(None), *cover) if isinstance(cover, tuple) else (slice(None), slice(None), cover)
        kept = image[index].clone()
        image[index] = fill
        scores[number] = job.decision.score_of(job.evaluation.logits_of(image))[0].double()
        image[index] = kept
    return scores


def _drop(job: Job, scores: Tensor) -> Tensor:
    drop = job.decision.score - scores
    return drop if job.options["signed"] else drop.clamp(min=0)


def _occlusion(job: Job) -> MapResult:
    shape = tuple(job.evaluation.image.shape[2:])
    grid = WindowGrid(shape, int(job.options["size"]), int(job.options["stride"]))
    boxes = list(grid.boxes())
    scores = scores_when_covered(
        job, boxes, float(job.options["fill"]), lambda n: f"occlusion, window {n + 1} of {len(boxes)}"
    )
    heatmap = grid.place(_drop(job, scores).reshape(grid.counts))
    return MapResult(heatmap.to(job.evaluation.image.dtype)[None])


def _area_occlusion(job: Job) -> MapResult:
    regions = job.regions
    assert regions is not None
    labels = [int(label) for label in torch.unique(regions) if label != 0]
    masks = [regions == label for label in labels]
    scores = scores_when_covered(
        job, masks, float(job.options["fill"]), lambda n: f"area occlusion, region {n + 1} of {len(labels)}"
    )
    heatmap = torch.zeros(regions.shape, dtype=job.evaluation.image.dtype)
    for mask, drop in zip(masks, _drop(job, scores).tolist(), strict=True):
        heatmap[mask.cpu()] = drop
    return MapResult(heatmap[None])


_FILL = Option("fill", 0.0, "value that covers the voxels, in the network's units", float)
_SIGNED = Option("signed", False, "keep negative values: where covering makes the class more likely", bool)

register(
    Method(
        "occlusion",
        "Occlusion",
        "How much less sure is the network when this box is covered?",
        "Zeiler & Fergus 2014, arXiv:1311.2901; Rieke et al. 2018, arXiv:1808.02874",
        _occlusion,
        (
            Option("size", 40, "edge of the box in voxels", int, minimum=1, maximum=10_000),
            Option("stride", 25, "distance between boxes in voxels", int, minimum=1, maximum=10_000),
            _FILL,
            _SIGNED,
        ),
        is_signed=False,
    )
)
register(
    Method(
        "area-occlusion",
        "Area occlusion",
        "How much less sure is the network when this atlas region is covered?",
        "Rieke et al. 2018, arXiv:1808.02874",
        _area_occlusion,
        (_FILL, _SIGNED),
        is_signed=False,
        needs_regions=True,
    )
)
