"""Occlusion by areas of any shape: how much less sure is the network when this atlas region is covered?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import find_objects

from ADAttributionLogic.attribution.fill import BLUR, FILL, fill_of
from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.attribution.result import RegionPair
from ADAttributionLogic.errors import GridMismatchError, UsageError
from ADAttributionLogic.incremental.reach import Places
from ADAttributionLogic.method_options import Option
from ADAttributionLogic.occlusion.covering import (
    MEMORY,
    SIGNED,
    WORTH_FOLLOWING,
    Engine,
    FullForward,
    Pace,
    choose_engine,
    cover_areas,
    drops,
    shown,
)


@dataclass(frozen=True, eq=False)
class Area:
    """Voxels that are covered together.

    Attributes
    ----------
    labels : tuple of int
        Of the regions that it is the union of.
    low : ndarray of int, shape (axes,)
        First voxel of the smallest box around it.
    mask : ndarray of bool
        Inside that box.
    """

    labels: tuple[int, ...]
    low: Places
    mask: npt.NDArray[np.bool_]

    @property
    def high(self) -> Places:
        """Last-plus-one voxel of the box."""
        return np.asarray(self.low + np.array(self.mask.shape))

    @property
    def box(self) -> tuple[slice, ...]:
        """The box in the image."""
        return tuple(slice(int(a), int(b)) for a, b in zip(self.low, self.high, strict=True))

    def joined(self, other: Area) -> Area:
        """The union of two areas."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        mask = np.zeros(high - low, dtype=bool)
        for area in (self, other):
            mask[tuple(slice(int(a), int(b)) for a, b in zip(area.low - low, area.high - low, strict=True))] |= (
                area.mask
            )
        return Area(self.labels + other.labels, low, mask)


def _area_occlusion(job: Job) -> MapResult:
    areas = _areas(job)
    fill = fill_of(job)
    lows, highs = np.stack([a.low for a in areas]), np.stack([a.high for a in areas])
    engine = choose_engine(job, lows, highs)
    found = _drops_of(job, areas, fill, engine, "regions covered")
    pairs = _pairs(job, areas, found, fill, engine)
    shape = job.evaluation.image.shape[2:]
    total, hits = np.zeros(shape), np.zeros(shape, dtype=np.int32)
    for area, drop in zip(areas, shown(job, found), strict=True):
        total[area.box] += drop * area.mask
        hits[area.box] += area.mask
    heatmap = torch.from_numpy(total / np.maximum(hits, 1)).to(job.evaluation.image.dtype)
    notes = list(engine.notes)
    if shared := int((hits > 1).sum()):
        notes.append(f"{shared:,} voxels lie in several regions; the map shows the mean of their drops.")
    by_label = {area.labels[0]: float(drop) for area, drop in zip(areas, found, strict=True)}
    return MapResult(heatmap[None], notes=tuple(notes), region_drops=by_label, region_pairs=pairs)


def _areas(job: Job) -> list[Area]:
    """The given areas, or else the regions of the atlas."""
    shape = tuple(job.evaluation.image.shape[2:])
    if job.companions.areas is not None:
        given_areas = job.companions.areas.items()
        return _not_none([_area(label, mask.cpu().numpy().astype(bool), shape) for label, mask in given_areas])
    regions = job.companions.regions
    assert regions is not None
    labels = regions.cpu().numpy().astype(np.int32)
    if labels.shape != shape:
        given, needed = ("×".join(map(str, s)) for s in (labels.shape, shape))
        raise GridMismatchError(f"The atlas has {given} voxels, the image {needed}.")
    found = enumerate(find_objects(labels), start=1)
    return _not_none(
        [Area((n,), np.array([s.start for s in box]), labels[box] == n) for n, box in found if box is not None]
    )


def _not_none(areas: list[Area]) -> list[Area]:
    if not areas:
        raise UsageError("No region of the atlas lies in the image; there is nothing to cover.")
    return areas


def _area(label: int, mask: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> Area:
    if mask.shape != shape:
        given, needed = ("×".join(map(str, s)) for s in (mask.shape, shape))
        raise GridMismatchError(f"Area {label} has {given} voxels, the image {needed}.")
    if not mask.any():
        raise UsageError(f"Area {label} has no voxel; there is nothing to cover.")
    (box,) = find_objects(mask.astype(np.int8))
    return Area((label,), np.array([s.start for s in box]), mask[box].copy())


def _drops_of(
    job: Job, areas: Sequence[Area], fill: torch.Tensor, engine: Engine, what: str
) -> npt.NDArray[np.float64]:
    """The drop for each area. Areas differ much in size: each is followed on its own, or gets a full pass.

    Where nothing can be followed, as many as possible go through the network together.
    """
    lows, highs = np.stack([a.low for a in areas]), np.stack([a.high for a in areas])
    full = FullForward(job.evaluation)
    found = np.zeros(len(areas))
    work = np.array([min(float(engine.work(a[None], b[None])[0]), 1.0) for a, b in zip(lows, highs, strict=True)])
    pace = Pace(job.monitor, what, len(areas), float(work.sum()))
    if isinstance(engine.forward, FullForward):
        for numbers, logits in full.run(lows, highs, cover_areas(fill, [area.mask for area in areas], lows)):
            found[numbers] = drops(job, logits)
            pace.advance(len(numbers), float(work[numbers].sum()))
        return found
    for number, area in enumerate(areas):
        forward = engine.forward if work[number] < WORTH_FOLLOWING else full
        low, high = lows[number : number + 1], highs[number : number + 1]
        for _, logits in forward.run(low, high, cover_areas(fill, [area.mask], low)):
            found[number] = drops(job, logits)[0]
        pace.advance(1, float(work[number]))
    return found


def _pairs(
    job: Job, areas: Sequence[Area], found: npt.NDArray[np.float64], fill: torch.Tensor, engine: Engine
) -> tuple[RegionPair, ...]:
    """What covering two regions together does beyond the sum of covering each: of those with the largest drops."""
    count = min(int(job.options["pairs"]), len(areas))
    if count < 2:
        return ()
    largest = sorted(np.argsort(-np.abs(found), kind="stable")[:count].tolist())
    chosen = list(itertools.combinations(largest, 2))
    together = _drops_of(job, [areas[a].joined(areas[b]) for a, b in chosen], fill, engine, "pairs of regions covered")
    return tuple(
        RegionPair(areas[a].labels[0], areas[b].labels[0], float(drop), float(drop - found[a] - found[b]))
        for (a, b), drop in zip(chosen, together, strict=True)
    )


METHODS = (
    Method(
        "area-occlusion",
        "Area occlusion",
        "How much less sure is the network when this atlas region is covered?",
        "Rieke et al. 2018, arXiv:1808.02874",
        _area_occlusion,
        (
            FILL,
            BLUR,
            SIGNED,
            Option(
                "pairs",
                0,
                "cover also every pair of this many regions, those with the largest drops, to find interactions",
                int,
                minimum=0,
                maximum=1000,
            ),
            MEMORY,
        ),
        is_signed=False,
        needs_regions=True,
    ),
)
