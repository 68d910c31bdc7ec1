"""Occlusion by boxes: how much less sure is the network when this box is covered?"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from ADAttributionLogic.attribution.fill import BLUR, FILL, fill_of
from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.method_options import Option
from ADAttributionLogic.occlusion.covering import MEMORY, SIGNED, Pace, choose_engine, cover_boxes, drops, shown
from ADAttributionLogic.occlusion.mask import MASK, mask_of
from ADAttributionLogic.occlusion.windows import Overlaps, WindowGrid


def _occlusion(job: Job) -> MapResult:
    image = job.evaluation.image
    grid = WindowGrid(tuple(image.shape[2:]), int(job.options["size"]), int(job.options["stride"]))
    fill, mask = fill_of(job), mask_of(job)
    chosen = grid.touching(mask)
    if not chosen.any():
        raise UsageError(
            f"No box touches the mask {job.options['mask']!r}: boxes of {grid.size} voxels, {grid.stride} apart, leave "
            f"gaps in which it lies. Choose a smaller stride or larger boxes."
        )
    lows, highs = grid.limits(chosen)
    engine = choose_engine(job, lows, highs)
    work = engine.work(lows, highs)
    pace = Pace(job.monitor, "occlusion windows", len(lows), float(work.sum()))
    found = np.zeros(len(lows))
    for numbers, logits in engine.forward.run(lows, highs, cover_boxes(fill, lows, highs)):
        found[numbers] = drops(job, logits)
        pace.advance(len(numbers), float(work[numbers].sum()))
    values = np.zeros(grid.counts)
    values[chosen] = shown(job, found)
    overlaps = cast(Overlaps, job.options["overlaps"])
    heatmap = grid.place(torch.from_numpy(values), torch.from_numpy(chosen), overlaps)
    if mask is not None:
        heatmap = heatmap * torch.from_numpy(mask)
    return MapResult(heatmap.to(image.dtype)[None], notes=engine.notes)


METHODS = (
    Method(
        "occlusion",
        "Occlusion",
        "How much less sure is the network when this box is covered?",
        "Zeiler & Fergus 2014, arXiv:1311.2901; Rieke et al. 2018, arXiv:1808.02874",
        _occlusion,
        (
            Option("size", 40, "edge of the box in voxels", int, minimum=1, maximum=10_000),
            Option("stride", 25, "distance between boxes in voxels", int, minimum=1, maximum=10_000),
            FILL,
            BLUR,
            MASK,
            Option(
                "overlaps",
                "mean",
                "where boxes overlap: mean of those that cover a voxel, or the nearest one",
                str,
                ("mean", "nearest"),
            ),
            SIGNED,
            MEMORY,
        ),
        is_signed=False,
    ),
)
