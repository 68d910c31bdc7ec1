"""How much less sure the network is when parts of the image are covered: by recomputing boxes, or by full passes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Job
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.incremental.forward import LARGEST_TENSOR, MAX_BATCH, Change, IncrementalForward
from ADAttributionLogic.incremental.known_activations import cut_boxes, inside_boxes
from ADAttributionLogic.incremental.planning import first_coupling_layer, fractions_of_a_pass, plan_within
from ADAttributionLogic.incremental.reach import Places
from ADAttributionLogic.method_options import Option
from ADAttributionLogic.monitor import Monitor

#: Boxes that cost this fraction of a full forward pass are not worth following: a full pass is one large computation.
WORTH_FOLLOWING = 0.8

#: Windows whose work is estimated before a run.
_SAMPLE = 2000

SIGNED = Option(
    "signed",
    None,
    "keep negative values: where covering makes the class more likely, or raises the score (default: of a score only)",
    bool,
)
MEMORY = Option("memory", 1024, "bound on the memory for activations, in MiB", int, minimum=1)


class Forward(Protocol):
    """A way to get the logits of an image with windows changed; see :meth:`IncrementalForward.run`."""

    def run(self, lows: Places, highs: Places, change: Change) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Yield the numbers of windows, and their logits (B, K)."""


class FullForward:
    """Full forward passes: for networks in which every voxel reaches everything at once (attention).

    As many windows go through the network together as its largest layer leaves room for. Windows that change nothing
    have the logits of the image itself, to the bit.

    Parameters
    ----------
    evaluation : Evaluation
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    @property
    def batch_size(self) -> int:
        """Windows that are computed at a time."""
        if self._evaluation.is_opaque:
            return 1
        image = self._evaluation.image
        largest = max(math.prod(layer.shape) for layer in self._evaluation.graph().layers) * image.element_size()
        return int(min(max(LARGEST_TENSOR[image.device.type] // largest, 1), MAX_BATCH[image.device.type]))

    def run(self, lows: Places, highs: Places, change: Change) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Yield the numbers of windows, and their logits (B, K)."""
        size = self.batch_size
        for start in range(0, len(lows), size):
            numbers = np.arange(start, min(start + size, len(lows)))
            images, changed = self._covered(numbers, lows, highs, change)
            logits = self._evaluation.logits.repeat(len(numbers), 1)
            if changed:
                logits[changed] = self._evaluation.logits_of(images)
            yield numbers, logits

    def _covered(
        self, numbers: npt.NDArray[np.int64], lows: Places, highs: Places, change: Change
    ) -> tuple[Tensor, list[int]]:
        """Images in which a window is different from the known one, and which of the windows these are."""
        image, images, changed = self._evaluation.image, [], []
        for row, number in enumerate(numbers):
            window = (slice(a, b) for a, b in zip(lows[number].tolist(), highs[number].tolist(), strict=True))
            here = (slice(None), slice(None), *window)
            box = change(numbers[row : row + 1], image[here].clone(), lows[number][None])
            if not torch.equal(box, image[here]):
                images.append(image.clone())
                images[-1][here] = box
                changed.append(row)
        return torch.cat(images) if images else image, changed


@dataclass(frozen=True, eq=False)
class Engine:
    """The chosen way.

    Attributes
    ----------
    forward : Forward
    notes : tuple of str
        The reason for full forward passes.
    """

    forward: Forward
    notes: tuple[str, ...] = ()

    def work(self, lows: Places, highs: Places) -> npt.NDArray[np.float64]:
        """What each window costs, as a fraction of a full forward pass."""
        if isinstance(self.forward, IncrementalForward):
            return self.forward.work(lows, highs)
        return np.ones(len(lows))


def choose_engine(job: Job, lows: Places, highs: Places) -> Engine:
    """Choose how the given windows are computed.

    Parameters
    ----------
    job : Job
        With the option ``memory``.
    lows, highs : ndarray of int, shape (N, axes)
        First and last-plus-one voxel of each window.
    """
    reason = why_full_passes(job.evaluation)
    if not reason:
        incremental = IncrementalForward(job.evaluation.recording(), int(job.options["memory"]) << 20)
        if len(lows) == 0:
            return Engine(incremental)
        work = mean_work(incremental.graph, lows, highs, incremental.max_memory, incremental.itemsize)
        if work < WORTH_FOLLOWING:
            return Engine(incremental)
        reason = f"following what a window changes would take {work:.0%} of a full pass"
    return Engine(FullForward(job.evaluation), (f"Full forward passes were used for every window: {reason}.",))


def mean_work(graph: LayerGraph, lows: Places, highs: Places, max_memory: int, itemsize: int = 4) -> float:
    """What following a window costs, as a fraction of a full forward pass; by counting operations, for a sample."""
    some = np.linspace(0, len(lows) - 1, min(len(lows), _SAMPLE)).astype(np.int64)
    plan = plan_within(graph, tuple((highs - lows).max(0).tolist()), max_memory, itemsize)
    return float(fractions_of_a_pass(graph, plan, lows[some], highs[some]).mean())


def why_full_passes(evaluation: Evaluation) -> str:
    """Why changed boxes cannot be followed through a network; "" if they can."""
    if evaluation.is_opaque:
        return f"the layers of {evaluation.network.name} are not known ({evaluation.network.why_opaque.rstrip('.')})"
    graph = evaluation.graph()
    coupling = first_coupling_layer(graph)
    if coupling is not None and graph.layers.index(coupling) == 1:
        return f"its first layer, {coupling}, couples all positions"
    return ""


# --------------------------------------------------------------------------------------------------------------- covers


def cover_boxes(fill: Tensor, lows: Places, highs: Places) -> Change:
    """Cover whole windows.

    Parameters
    ----------
    fill : Tensor, shape (1, C, …)
        See :func:`~.occlusion_fill.fill_of`.
    lows, highs : ndarray of int, shape (N, axes)
    """

    def change(numbers: npt.NDArray[np.int64], known: Tensor, starts: Places) -> Tensor:
        size = np.array(known.shape[2:])
        inside = inside_boxes(starts, lows[numbers], highs[numbers], size, known.device)
        return torch.where(inside, _fill_boxes(fill, starts, size), known)

    return change


def cover_areas(fill: Tensor, masks: Sequence[npt.NDArray[np.bool_]], lows: Places) -> Change:
    """Cover areas of any shape: each mask (…) is that of the box that begins at `lows`."""

    def change(numbers: npt.NDArray[np.int64], known: Tensor, starts: Places) -> Tensor:
        size = np.array(known.shape[2:])
        inside = torch.zeros((len(numbers), 1, *size.tolist()), dtype=torch.bool)
        for row, number, start in zip(inside[:, 0], numbers, starts, strict=True):
            mask = masks[number]
            offset = (lows[number] - start).tolist()
            row[tuple(slice(o, o + n) for o, n in zip(offset, mask.shape, strict=True))] = torch.from_numpy(mask)
        return torch.where(inside.to(known.device), _fill_boxes(fill, starts, size), known)

    return change


def _fill_boxes(fill: Tensor, starts: Places, size: Places) -> Tensor:
    """The part of a fill that lies in boxes, or the fill itself if it is the same everywhere."""
    if fill.shape[2:].numel() == 1:
        return fill
    return cut_boxes(fill, starts, size, fill.new_empty(len(starts), fill.shape[1], *size.tolist()))


# ---------------------------------------------------------------------------------------------------------------- drops


def drops(job: Job, logits: Tensor) -> npt.NDArray[np.float64]:
    """How much the explained quantity drops to that of other logits (B, K), with sign; 0 exactly for the image's own.

    Computed in double precision, because a probability near 1 hardly changes.
    """
    known = job.decision.logits.to(logits.device)
    drop = job.decision.score_of(known.double()) - job.decision.score_of(logits.double())
    return torch.where((logits == known).all(1), torch.zeros_like(drop), drop).cpu().numpy()


def shown(job: Job, found: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The drops as the map shows them: of a probability without negative ones unless they are wanted.

    A score has no side that is meant: covering healthy tissue raises an impairment.
    """
    signed = job.options["signed"]
    keeps_sign = job.decision.head == "score" if signed is None else bool(signed)
    return found if keeps_sign else np.maximum(found, 0)


class Pace:
    """Reports how much of a run is done, and, once it has been measured, how long the rest will take.

    Parameters
    ----------
    monitor : Monitor
    what : str
        What is being done to what, e.g. ``"occlusion, {done} of {count} windows"`` without the numbers.
    count : int
        Number of windows.
    work : float
        In all, in any unit.
    """

    def __init__(self, monitor: Monitor, what: str, count: int, work: float) -> None:
        self._monitor, self._what, self._count, self._work = monitor, what, count, work
        self._done_windows, self._done_work = 0, 0.0
        self._started: float | None = None
        self._work_before = 0.0
        monitor.report(0.0, f"{what}: {count:,} in all")

    def advance(self, windows: int, work: float, *, at_least: float = 0.0, at_most_seconds: float = math.inf) -> None:
        """Report that windows are done; raises :class:`Cancelled` if the user has cancelled.

        Parameters
        ----------
        windows : int
        work : float
            What they took, in the unit of the whole.
        at_least : float
            Fraction that is done for another reason (a budget of time).
        at_most_seconds : float
            What is left of such a budget.
        """
        self._done_windows += windows
        self._done_work += work
        now = time.perf_counter()
        fraction = self._done_work / self._work if self._work else 1.0
        text = f"{self._what}: {self._done_windows:,} of {self._count:,}"
        if self._started is None:
            # The first windows also pay for what is computed once, and say nothing about the others.
            self._started, self._work_before = now, self._done_work
        elif now - self._started > 0.5 and self._done_work > self._work_before:
            rate = (self._done_work - self._work_before) / (now - self._started)
            seconds = min((self._work - self._done_work) / rate, at_most_seconds)
            text += f", {describe_duration(seconds)} left"
        self._monitor.report(max(fraction, at_least), text)


def describe_duration(seconds: float) -> str:
    """A duration as people say it: about 40 s, 5 min, 1 h 20 min."""
    if seconds < 90:
        return f"about {max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"
