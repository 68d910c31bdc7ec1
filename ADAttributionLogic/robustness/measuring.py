"""What one trained network shows of all people: its answers, the regions' relevance, and the mean map per method."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.graph.layer_graph import class_probabilities
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.relevance.region_table import RegionIndex, region_sums

FloatArray = npt.NDArray[np.float64]

#: Changes whenever the same question would be answered otherwise.
VERSION = 1
#: Answer from which on the network says patient.
THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Person:
    """Someone of the test set.

    Attributes
    ----------
    name : str
    is_patient : bool
    load : callable
        Gives the scan as the network sees it, shape (1, 1, I, J, K), float32.
    """

    name: str
    is_patient: bool
    load: Callable[[], Tensor]


@dataclass(frozen=True)
class Asked:
    """A method with its options.

    Attributes
    ----------
    method : str
    options : tuple of (str, value)
    """

    method: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """For people, e.g. ``lrp (beta 0.5)``."""
        told = ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in
                         self.options)  # fmt: skip
        return f"{self.method} ({told})" if told else self.method


@dataclass(frozen=True, eq=False)
class Training:
    """A network that was trained once.

    Attributes
    ----------
    name : str
    sha256 : str
        Of its weights.
    load : callable
    """

    name: str
    sha256: str
    load: Callable[[], Network]


@dataclass(frozen=True, eq=False)
class Test:
    """What every training is asked.

    Attributes
    ----------
    people : sequence of Person
    asked : tuple of Asked
    index : RegionIndex
        On the networks' grid.
    companions : Companions
        What methods take beside the scan.
    positive_class : int
    about : mapping
        Whatever else the answers depend on, such as hashes of the scans; plain values.
    """

    people: Sequence[Person]
    asked: tuple[Asked, ...]
    index: RegionIndex
    companions: Companions
    positive_class: int
    about: Mapping[str, Any]

    @property
    def is_patient(self) -> npt.NDArray[np.bool_]:
        """One flag per person."""
        return np.array([person.is_patient for person in self.people])

    def key(self, training: Training) -> str:
        """Changes with the network and with the question."""
        asked = [[one.method, dict(one.options)] for one in self.asked]
        people = [[person.name, person.is_patient] for person in self.people]
        regions = [region.label for region in self.index.regions]
        question = [VERSION, training.sha256, asked, people, regions, self.positive_class, dict(self.about)]
        return hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Measured:
    """What one training shows.

    Attributes
    ----------
    probability : ndarray, shape (S,)
        Of the positive class, per person.
    absolute : ndarray, shape (M, S, R)
        Σ |R| per method, person and region, as Eitel & Ritter add relevance up.
    mean_maps : ndarray, shape (M, I, J, K), float32
        Mean over the true positives; of nobody, zeros.
    """

    probability: FloatArray
    absolute: FloatArray
    mean_maps: npt.NDArray[np.float32]


def measure(network: Network, test: Test, device: torch.device, monitor: Monitor | None = None) -> Measured:
    """Ask a network for everybody's maps, one person in memory at a time.

    Raises
    ------
    ADAttributionError
        A method cannot be asked of this network.
    Cancelled
    """
    monitor = monitor or Monitor()
    shape = test.index.atlas.labels.grid.shape
    probability = np.zeros(len(test.people))
    absolute = np.zeros((len(test.asked), len(test.people), len(test.index.regions)))
    totals = np.zeros((len(test.asked), *shape))
    true_positives = 0
    for s, person in enumerate(test.people):
        monitor.report(s / len(test.people), f"maps of {person.name}")
        evaluation = Evaluation(network, person.load(), device)
        head = evaluation.network.head
        probability[s] = float(class_probabilities(evaluation.logits, head)[0, test.positive_class])
        is_hit = person.is_patient and probability[s] >= THRESHOLD
        true_positives += is_hit
        for m, one in enumerate(test.asked):
            target = Target(test.positive_class)
            heatmap = attribute(evaluation, one.method, target, dict(one.options), companions=test.companions).heatmap
            absolute[m, s] = region_sums(np.abs(heatmap), test.index)
            if is_hit:
                totals[m] += heatmap
    return Measured(probability, absolute, (totals / max(true_positives, 1)).astype(np.float32))


def measured(
    trainings: Sequence[Training], test: Test, kept: Path, device: torch.device, monitor: Monitor | None = None
) -> Iterator[Measured]:
    """Measure one training after the other; what a folder holds of an interrupted study is not measured again.

    Raises
    ------
    OutputError
        The folder cannot be written.
    Cancelled
    """
    monitor = monitor or Monitor()
    for number, training in enumerate(trainings):
        path = kept / f"{test.key(training)}.npz"
        found = read_measured(path)
        if found is None:
            with monitor.stage(number / len(trainings), (number + 1) / len(trainings)) as part:
                part.report(0.0, f"{training.name}, training {number + 1} of {len(trainings)}")
                found = measure(training.load(), test, device, part)
            _keep(found, path)
        yield found


def read_measured(path: Path) -> Measured | None:
    """What was kept; None where there is nothing whole."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Measured(kept["probability"], kept["absolute"], kept["mean_maps"])
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _keep(found: Measured, path: Path) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(unfinished, "wb") as file:
            np.savez(file, probability=found.probability, absolute=found.absolute, mean_maps=found.mean_maps)
        os.replace(unfinished, path)
    except OSError as cause:
        raise OutputError(f"{path.parent} cannot be written: {cause}") from cause
