"""The mean of the maps of a scan as it is and moved by one voxel to each side, every map moved back.

Strided layers and poolings see a scan that moved by a voxel through other windows, so that single voxels of a map hang
on where the grid happens to lie. The mean does not: the idea of SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825) with
shifts in the place of noise, so that it has no free parameter. By the benchmark with known truth (README) it makes
DeepLIFT's maps better and leaves those of LRP as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, Job, MapResult
from ADAttributionLogic.method_options import Option
from ADAttributionLogic.propagation.account import mean_account

SHIFTED = Option(
    "shifted",
    False,
    "mean of the maps of the scan as it is and moved by one voxel to each side: less speckle, 7 times the work",
    bool,
)


def places(dimensions: int) -> int:
    """Number of maps of which the mean is made."""
    return 2 * dimensions + 1


def over_shifts(explain: Callable[[Job], MapResult]) -> Callable[[Job], MapResult]:
    """A method's function that asks `explain` at every place when the option :data:`SHIFTED` is on.

    What is explained stays the class and start of the scan as it is, at every place by the network's answer there; a
    reference image moves along. Without the option the function is `explain` itself.
    """

    @functools.wraps(explain)
    def explain_at_places(job: Job) -> MapResult:
        return _mean_of_places(explain, job) if job.options[SHIFTED.name] else explain(job)

    return explain_at_places


def _mean_of_places(explain: Callable[[Job], MapResult], job: Job) -> MapResult:
    number = places(job.evaluation.image.ndim - 2)
    with job.monitor.stage(0, 1 / number) as part:
        first = explain(replace(job, monitor=part))
    job.evaluation.forget_recordings()  # so that no more than one place's is in memory
    results, handed_out = [first], _handed_out(job, first)
    values = first.values.clone()
    for axis, step in _steps(job):
        with job.monitor.stage(len(results) / number, (len(results) + 1) / number) as part:
            there = _moved_job(replace(job, monitor=part), axis, step)
            result = explain(there)
        values += _moved_back(result.values, axis + 1, step)
        handed_out += _handed_out(there, result)
        results.append(replace(result, values=values))  # the map itself is not needed any more
    by_layer = [result.relevance_by_layer or {} for result in results]
    return replace(
        first,
        values=values / number,
        to_attribute=handed_out / number,
        notes=(*first.notes, f"Mean of {number} maps: the scan as it is (of which the rest is said) and moved."),
        relevance_by_layer={name: sum(each[name] for each in by_layer) / number for name in by_layer[0]},
        conservation=mean_account([result.conservation or () for result in results]),
    )


def _steps(job: Job) -> Iterator[tuple[int, int]]:
    for axis in range(job.evaluation.image.ndim - 2):
        yield from ((axis, step) for step in (-1, 1))


def _handed_out(job: Job, result: MapResult) -> float:
    return job.decision.score if result.to_attribute is None else result.to_attribute


def _moved_job(job: Job, axis: int, step: int) -> Job:
    """The same question of the scan moved by a voxel."""
    evaluation, reference = job.evaluation, job.companions.reference
    image = _moved(evaluation.image, axis + 2, step)
    there = Evaluation(evaluation.network, image, evaluation.device, job.monitor)
    if reference is not None:
        reference = _moved(reference, axis + 2, step)
    decision = replace(job.decision, logits=there.recording().logits)
    return replace(job, evaluation=there, decision=decision, companions=Companions(reference=reference))


def _moved(image: Tensor, axis: int, step: int) -> Tensor:
    """Moved by a voxel; what enters is what lay at the border, as a rule background."""
    return image.index_select(axis, _sources(image, axis, step))


def _moved_back(values: Tensor, axis: int, step: int) -> Tensor:
    """The adjoint of :func:`_moved`: every voxel gets what the voxels got that were copied from it."""
    return torch.zeros_like(values).index_add_(axis, _sources(values, axis, step), values)


def _sources(values: Tensor, axis: int, step: int) -> Tensor:
    length = values.shape[axis]
    return (torch.arange(length, device=values.device) - step).clamp_(0, length - 1)
