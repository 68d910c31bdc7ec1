"""Running methods on a network, or on one network of an ensemble after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, Method, attribute
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.device import describe_device, is_out_of_memory
from ADAttributionLogic.ensembles.agreement import Agreement, agreement_of
from ADAttributionLogic.ensembles.combining import MapMean
from ADAttributionLogic.errors import Cancelled
from ADAttributionLogic.graph.layer_graph import class_probabilities
from ADAttributionLogic.method_cost import expected_seconds
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.outcome import Outcome, outcome_of
from ADAttributionLogic.relevance.region_table import RegionIndex, are_ranked, region_sums

Chosen = Sequence[tuple[Method, Mapping[str, Any]]]

#: Of a forward pass, where nothing was timed: only for how much of the progress is whose, beside a budget in minutes.
_ASSUMED_PASS_SECONDS = 0.5
#: What the decision takes in forward passes (layers are recorded, too), and what moving a scan and resampling it takes.
_DECISION_PASSES, _PASSES_PER_MOVE = 2.0, 2.0


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of every network.

    Attributes
    ----------
    image : Tensor, shape (1, 1, …)
    chosen : sequence of (Method, options)
    target : Target
    device : torch.device
    companions : Companions
    index : RegionIndex or None
        Regions in which the networks are compared.
    voxel_mm3 : float
        Volume of a voxel.
    with_spread : bool
        Also the standard deviation over the networks of an ensemble, voxel by voxel.
    moved : tuple of Tensor, shape (1, 1, …)
        The same image moved a little, of which only the answers are wanted.
    """

    image: torch.Tensor
    chosen: Chosen
    target: Target
    device: torch.device
    companions: Companions
    index: RegionIndex | None = None
    voxel_mm3: float = 1.0
    with_spread: bool = False
    moved: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Found:
    """What one method found.

    Attributes
    ----------
    attribution : Attribution
        Of an ensemble, the mean.
    agreement : Agreement or None
        Of an ensemble, with an atlas.
    spread : ndarray or None
        Standard deviation over the networks (C, …), where it was asked for.
    """

    attribution: Attribution
    agreement: Agreement | None = None
    spread: npt.NDArray[np.float32] | None = None


@dataclass
class Answered:
    """What all networks said.

    Attributes
    ----------
    outcome : Outcome
        Of all networks, also of those whose maps were not finished.
    found : list of Found
        One per method that was finished, in order.
    device : torch.device
        On which it was computed in the end.
    notes : list of str
    moved : tuple of mapping of str to float
        What is said of each moved image, as the outcome's values; () when not all networks were asked.
    """

    outcome: Outcome
    found: list[Found]
    device: torch.device
    notes: list[str] = field(default_factory=list)
    moved: tuple[Mapping[str, float], ...] = ()


def run(model: Model, question: Question, monitor: Monitor) -> Answered:
    """Run all methods on a model.

    Raises
    ------
    Cancelled
        Before anything that is worth keeping was finished: one method of a single network, or all methods of one
        network of an ensemble.
    """
    if not model.members:
        return _run_single(model, question, monitor)
    return _Ensemble(model, question, monitor).run()


def _run_single(model: Model, question: Question, monitor: Monitor) -> Answered:
    evaluation, notes = _evaluate(model.network, model.title, question, question.device, monitor)
    outcome = outcome_of(model.output, model.classes, [("", _values(evaluation, evaluation.logits), ())])
    moved = tuple(dict(zip(model.classes, v, strict=True)) for v in _moved_values(evaluation, question, monitor))
    found: list[Found] = []
    try:
        for result in _attributions(evaluation, question, monitor):
            found.append(Found(result))
    except Cancelled:
        if not found:
            raise
    return Answered(outcome, found, evaluation.device, notes, moved)


def _attributions(evaluation: Evaluation, question: Question, monitor: Monitor) -> Iterator[Attribution]:
    """The methods' results one by one."""
    target, bounds = question.target, progress_bounds(question)
    for number, (method, options) in enumerate(question.chosen):
        with monitor.stage(bounds[number], bounds[number + 1]) as part:
            evaluation.monitor = part
            result = attribute(evaluation, method, target, options, monitor=part, companions=question.companions)
        # One target class for everything that is compared, also when it was "the predicted one".
        target = replace(target, class_index=result.class_index)
        yield result


def progress_bounds(question: Question) -> list[float]:
    """Fractions of the whole work at which the methods begin, and the last one ends.

    By their expected time, so that what is left can be judged by the progress: one method may take a thousand times as
    long as another. The network's decision comes before the first.
    """
    ends = np.cumsum(_expected_passes(question))
    return [float(end) for end in ends / ends[-1]]


def moving_share(model: Model, question: Question, moves: int) -> float:
    """Fraction of the whole work, that of all networks included, that moving the scan takes."""
    moving = _PASSES_PER_MOVE * moves
    return moving / (moving + max(len(model.members), 1) * (moves + sum(_expected_passes(question))))


def _expected_passes(question: Question) -> list[float]:
    """Of the decision and of each method, in forward passes."""
    shape = tuple(question.image.shape[2:])
    regions = 0 if question.index is None else len(question.index.regions)
    work = [expected_seconds(m, o, shape, regions, _ASSUMED_PASS_SECONDS) for m, o in question.chosen]
    return [_DECISION_PASSES + len(question.moved), *(seconds / _ASSUMED_PASS_SECONDS for seconds in work)]


def _decided_at(question: Question) -> float:
    """Fraction at which the network has answered to the image as it is."""
    return progress_bounds(question)[0] * _DECISION_PASSES / (_DECISION_PASSES + len(question.moved))


def _values(evaluation: Evaluation, logits: torch.Tensor) -> tuple[float, ...]:
    """Probabilities, or the score."""
    head = evaluation.network.head
    values = logits if head == "score" else class_probabilities(logits, head)
    return tuple(float(v) for v in values[0])


def _moved_values(evaluation: Evaluation, question: Question, monitor: Monitor) -> list[tuple[float, ...]]:
    """Probabilities, or the score, of each moved image."""
    found = []
    with monitor.stage(_decided_at(question), progress_bounds(question)[0]) as part:
        for number, image in enumerate(question.moved):
            part.report(number / len(question.moved), "running the network on the moved scan")
            found.append(_values(evaluation, evaluation.logits_of(image.to(evaluation.image))))
    return found


def _evaluate(
    network: Network, title: str, question: Question, device: torch.device, monitor: Monitor
) -> tuple[Evaluation, list[str]]:
    """The network's decision, on the CPU if the GPU's memory does not suffice."""
    try:
        with monitor.stage(0.0, _decided_at(question)) as part:
            part.report(0.0, f"running {title}")
            evaluation = Evaluation(network, question.image, device, part)
            _ = evaluation.logits
    except RuntimeError as cause:
        if device.type == "cpu" or not is_out_of_memory(cause):
            raise
        evaluation = Evaluation(network, question.image, torch.device("cpu"), monitor)
        return evaluation, [f"{describe_device(device)} ran out of memory; everything was computed on the CPU."]
    return evaluation, []


class _Ensemble:
    """One run over all members, one in memory at a time beside the first, which the model holds."""

    def __init__(self, model: Model, question: Question, monitor: Monitor) -> None:
        self.model, self.question, self.monitor = model, question, monitor
        self.said: list[tuple[str, tuple[float, ...], tuple[float, ...]]] = []
        self.moved: list[list[tuple[float, ...]]] = []
        self.means = [MapMean(question.with_spread) for _ in question.chosen]
        self.sums: list[list[npt.NDArray[np.float64]]] = [[] for _ in question.chosen]
        self.device = question.device
        self.notes: list[str] = []

    def run(self) -> Answered:
        if self.question.target.class_index is None and not self.model.output.is_score:
            self._choose_class()
        members, finished = self.model.members, 0
        try:
            for number in range(len(members)):
                with self.monitor.stage(number / len(members), (number + 1) / len(members)) as part:
                    self._run_member(number, part)
                finished += 1
        except Cancelled:
            if not finished:
                raise
            names = ", ".join(self.means[0].names)
            self.notes.append(
                f"Cancelled after {finished} of {len(members)} networks: the maps are the mean of {names}."
            )
            self._hear_the_others()
        if any(options.get("minutes") is not None for _, options in self.question.chosen):
            self.notes.append("A limit of minutes holds for each network of the ensemble.")
        outcome = outcome_of(self.model.output, self.model.classes, self.said)
        found = [self._found(n) for n in range(len(self.question.chosen))]
        if finished < len(members):
            found = [replace(f, attribution=replace(f.attribution, is_partial=True)) for f in found]
        return Answered(outcome, found, self.device, list(dict.fromkeys(self.notes)), self._moved())

    def _moved(self) -> tuple[Mapping[str, float], ...]:
        """The mean of all networks for each moved image."""
        if len(self.moved) < len(self.model.members):
            return ()
        output, names = self.model.output, self.model.classes
        return tuple(
            outcome_of(output, names, [("", v, ()) for v in each]).values for each in zip(*self.moved, strict=True)
        )

    def _network(self, number: int) -> Network:
        return self.model.network if number == 0 else self.model.members[number].load()

    def _choose_class(self) -> None:
        """The class that the mean of all networks finds most probable."""
        with self.monitor.stage(0.0, 0.1) as part:
            for number in range(len(self.model.members)):
                part.report(number / len(self.model.members), "asking all networks for the most probable class")
                self._hear(number)
        self.monitor.check()
        verdict = outcome_of(self.model.output, self.model.classes, self.said).verdict
        self.said.clear()
        chosen = replace(self.question.target, class_index=self.model.classes.index(verdict))
        self.question = replace(self.question, target=chosen)

    def _hear(self, number: int) -> None:
        """Only the answer of a member, without its maps."""
        member = self.model.members[number]
        evaluation = Evaluation(self._network(number), self.question.image, self.device)
        self.said.append((member.name, _values(evaluation, evaluation.logits_of(evaluation.image)), member.thresholds))

    def _hear_the_others(self) -> None:
        """The answer is that of all networks, also where the maps are of some."""
        del self.said[len(self.means[0].names) :]
        for number in range(len(self.said), len(self.model.members)):
            self._hear(number)

    def _run_member(self, number: int, monitor: Monitor) -> None:
        member, count = self.model.members[number], len(self.model.members)
        title = f"{self.model.title}, network {number + 1} of {count} ({member.name})"
        monitor.report(0.0, f"loading {title}")
        evaluation, notes = _evaluate(self._network(number), title, self.question, self.device, monitor)
        self.notes += notes
        self.device = evaluation.device
        self.said.append((member.name, _values(evaluation, evaluation.logits), member.thresholds))
        self.moved.append(_moved_values(evaluation, self.question, monitor))
        asked = replace(self.question, chosen=[(m, _own_files(o, member.name)) for m, o in self.question.chosen])
        # Kept together at the end: a member's maps count only when all of its methods are done.
        results = list(_attributions(evaluation, asked, monitor))
        for mean, sums, result in zip(self.means, self.sums, results, strict=True):
            mean.add(member.name, result)
            if self.question.index is not None:
                sums.append(region_sums(result.heatmap, self.question.index))

    def _found(self, number: int) -> Found:
        mean, sums, index = self.means[number], self.sums[number], self.question.index
        result, several = mean.result(), len(mean.names) > 1
        # The options as they were given, not those of the first member.
        result = replace(result, options=self.question.chosen[number][1])
        agreement = None
        if index is not None and several:
            voxels = np.diff(np.append(index.starts, index.order.size))
            volumes = voxels * self.question.voxel_mm3
            is_ranked = are_ranked(volumes)
            labels = [region.label for region in index.regions]
            agreement = agreement_of(mean.names, labels, np.stack(sums), volumes, is_ranked)
            result = replace(result, agreement=agreement.describe())
        return Found(result, agreement, mean.spread() if self.question.with_spread and several else None)


def _own_files(options: Mapping[str, Any], member: str) -> dict[str, Any]:
    """The options with a file of its own for each member, where a method writes one."""
    if not options.get("checkpoint"):
        return dict(options)
    path = Path(str(options["checkpoint"]))
    return {**options, "checkpoint": str(path.with_name(f"{path.stem}-{member}{path.suffix}"))}
