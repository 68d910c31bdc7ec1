"""Occlusion of single voxels, coarse to fine: how much less sure is the network when this one voxel is covered?

Eitel & Ritter (2019) call occlusion at 1×1×1 computationally unfeasible. Following what a voxel changes instead of
recomputing the network makes it a matter of minutes (GPU) to an hour (laptop). The first pass covers voxels on a coarse
lattice, every further one halves the distance; whenever the run ends, the map is usable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt

from ADAttributionLogic.attribution.fill import BLUR, FILL, fill_of
from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.attribution.target import Decision
from ADAttributionLogic.errors import Cancelled
from ADAttributionLogic.incremental.reach import Places
from ADAttributionLogic.method_options import Option
from ADAttributionLogic.occlusion.checkpoint import Checkpoint, identify
from ADAttributionLogic.occlusion.covering import (
    MEMORY,
    SIGNED,
    Engine,
    Pace,
    choose_engine,
    cover_boxes,
    drops,
    shown,
)
from ADAttributionLogic.occlusion.mask import BRAIN_MASK, mask_of

#: Seconds between two writings of the checkpoint.
CHECKPOINT_EVERY = 30.0


@dataclass(frozen=True, eq=False)
class Refinement:
    """Voxels in the order of passes.

    Attributes
    ----------
    voxels : ndarray of int, shape (N, axes)
        In the order of the image.
    step : ndarray of int, shape (N,)
        Distance of the lattice with which the voxel is covered.
    """

    voxels: Places
    step: npt.NDArray[np.int64]

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_], coarsest: int) -> Refinement:
        """The voxels of a mask; the first lattice's distance is the largest power of 2 that is at most `coarsest`."""
        voxels = np.argwhere(mask)
        step = np.ones(len(voxels), dtype=np.int64)
        for exponent in range(1, int(math.log2(coarsest)) + 1):
            step[(voxels % 2**exponent == 0).all(1)] = 2**exponent
        return cls(voxels, step)

    def passes(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Distance of the lattice, and numbers of the voxels, from coarse to fine."""
        for step in np.unique(self.step)[::-1]:
            yield int(step), np.flatnonzero(self.step == step)


class _Run:
    """One run: what is known so far, and when it must stop."""

    def __init__(self, job: Job, refinement: Refinement, checkpoint: Checkpoint | None) -> None:
        self.job, self.refinement, self.checkpoint = job, refinement, checkpoint
        earlier = None if checkpoint is None else checkpoint.load(len(refinement.voxels))
        self.values = np.full(len(refinement.voxels), np.nan) if earlier is None else earlier
        self.resumed = int((~np.isnan(self.values)).sum())
        minutes = job.options["minutes"]
        self._seconds = math.inf if minutes is None else 60 * float(minutes)
        self._started = self._saved = time.perf_counter()
        self.why_stopped = ""

    @property
    def is_complete(self) -> bool:
        return not np.isnan(self.values).any()

    def run(self, engine: Engine, fill: torch.Tensor) -> None:
        """Cover voxels until done, cancelled or out of time; raises :class:`Cancelled` if there is nothing to keep."""
        missing = int(np.isnan(self.values).sum())
        try:
            pace = Pace(self.job.monitor, "voxels covered", missing, float(missing))
            for _, numbers in self.refinement.passes():
                if not self._run_pass(engine, fill, numbers[np.isnan(self.values[numbers])], pace):
                    break
        except Cancelled:
            if np.isnan(self.values).all():
                raise
            self.why_stopped = "Cancelled"
        self.save()

    def _run_pass(self, engine: Engine, fill: torch.Tensor, numbers: npt.NDArray[np.int64], pace: Pace) -> bool:
        """Run a pass; False when time is up."""
        lows = self.refinement.voxels[numbers]
        for chosen, logits in engine.forward.run(lows, lows + 1, cover_boxes(fill, lows, lows + 1)):
            self.values[numbers[chosen]] = drops(self.job, logits)
            now = time.perf_counter()
            if now - self._saved > CHECKPOINT_EVERY:
                self.save()
            elapsed = now - self._started
            of_budget = elapsed / self._seconds if self._seconds else 1.0
            left = max(self._seconds - elapsed, 0.0)
            pace.advance(len(chosen), float(len(chosen)), at_least=of_budget, at_most_seconds=left)
            if elapsed >= self._seconds and not self.is_complete:
                self.why_stopped = f"The {self.job.options['minutes']:g} minutes were up"
                return False
        return True

    def save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(self.values)
            self._saved = time.perf_counter()

    def notes(self) -> tuple[str, ...]:
        """How far the run came."""
        found = []
        if self.resumed and self.checkpoint is not None:
            found.append(f"{self.resumed:,} voxels came from the checkpoint {self.checkpoint.path.name}.")
        if not self.is_complete:
            done = ~np.isnan(self.values)
            passes = [
                f"{done[numbers].mean():.0%} of those at every {step}"
                for step, numbers in self.refinement.passes()
                if done[numbers].any()
            ]
            found.append(
                f"{self.why_stopped} after {done.sum():,} of {done.size:,} voxels ({', '.join(passes)}); each of the "
                "others shows the nearest voxel that was covered."
            )
        return tuple(found)


def fill_gaps(values: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Give each voxel of a mask that has no value (NaN) that of the nearest one that has; 0 outside the mask."""
    missing = np.isnan(values)
    if (missing & mask).any():
        nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
        values = values[tuple(nearest)]
    return np.where(mask, values, 0.0)


def _voxel_occlusion(job: Job) -> MapResult:
    image = job.evaluation.image
    shape = tuple(image.shape[2:])
    fill, mask = fill_of(job), mask_of(job)
    mask = np.ones(shape, dtype=bool) if mask is None else mask
    refinement = Refinement.of(mask, int(job.options["coarsest"]))
    engine = choose_engine(job, refinement.voxels, refinement.voxels + 1)
    run = _Run(job, refinement, _checkpoint(job, fill, mask))
    run.run(engine, fill)
    values = np.full(shape, np.nan)
    values[tuple(refinement.voxels.T)] = run.values
    heatmap = torch.from_numpy(fill_gaps(shown(job, values), mask)).to(image.dtype)
    return MapResult(heatmap[None], notes=engine.notes + run.notes(), is_partial=not run.is_complete)


def _checkpoint(job: Job, fill: torch.Tensor, mask: npt.NDArray[np.bool_]) -> Checkpoint | None:
    path = job.options["checkpoint"]
    if path is None:
        return None
    decision = job.decision
    identity = identify(job.evaluation, fill=fill, mask=mask, target=decision.class_index, start=_quantity(decision))
    return Checkpoint(Path(path).absolute(), identity)


def _quantity(decision: Decision) -> str:
    """The quantity that drops are of: ``unit`` only scales the map afterwards, ``distance`` shifts the score."""
    if decision.head == "score":
        return "score"
    return "logit" if decision.start == "unit" else decision.start


METHODS = (
    Method(
        "voxel-occlusion",
        "Voxel occlusion",
        "How much less sure is the network when this one voxel is covered?",
        "Zeiler & Fergus 2014, arXiv:1311.2901; at single voxels: called unfeasible by Eitel & Ritter 2019, "
        "arXiv:1909.08856",
        _voxel_occlusion,
        (
            BRAIN_MASK,
            FILL,
            BLUR,
            SIGNED,
            Option(
                "coarsest", 8, "distance in voxels between those that are covered first", int, minimum=1, maximum=1024
            ),
            Option("minutes", None, "stop after this time, with the map as far as it is refined", float, minimum=0),
            Option("checkpoint", None, "file to resume from, and to write every half a minute and at the end", str),
            MEMORY,
        ),
        is_signed=False,
    ),
)
