"""Training of a two-class network on 3D scans."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.engines.machine import keep_freed_memory
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.training.checkpoint import Checkpoint, CheckpointFolder
from ADAttributionLogic.training.head_start import StandardisedFeatures, start_head
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training.scans import (
    TrainingScan,
    arithmetic,
    augmented,
    batch,
    batches,
    require_disjoint_subjects,
)
from ADAttributionLogic.training_data.augmentation import augment_batch
from ADAttributionLogic.training_data.prefetching import prefetched

#: Of the variations that an epoch is chosen on.
_VALIDATION_SEED = 1


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training reached. Number 0 is the state after the head start."""

    number: int
    training_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float

    def describe(self) -> dict[str, float | int | None]:
        """Plain values; None where there is no figure."""
        return {key: None if math.isnan(value) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class Fit:
    """The outcome of a training.

    Attributes
    ----------
    state : dict
        Weights of the epoch with the lowest validation loss.
    history : tuple of Epoch
    best_epoch : int
    """

    state: dict[str, Tensor]
    history: tuple[Epoch, ...]
    best_epoch: int


def fit(
    network: nn.Module,
    training: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    recipe: Recipe,
    device: torch.device | None = None,
    report: Callable[[Epoch], None] | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
    checkpoint: CheckpointFolder | None = None,
) -> Fit:
    """Train `network` (in place) with early stopping on the validation loss.

    In memory at a time, beside the network's activations of one batch: three batches of scans as float32.

    Parameters
    ----------
    network : nn.Module
        Images (N, 1, I, J, K) to logits (N, 2).
    training, validation : sequence of TrainingScan
        Must not share a subject.
    recipe : Recipe
    device : torch.device, optional
        CPU by default.
    report : callable, optional
        Called after each epoch, and first of all with those of an interrupted training.
    may_go_on : callable
        Asked after each epoch; False ends the training, with the best epoch so far.
    checkpoint : CheckpointFolder, optional
        Where the state is kept after every epoch. A training that was interrupted goes on from there; on the CPU, with
        as many threads, it ends with the very weights of one that was not.

    Returns
    -------
    Fit

    Raises
    ------
    NetworkError
        The losses are no numbers any more, or the checkpoint cannot be used.
    """
    require_disjoint_subjects(training=training, validation=validation)
    device = device or torch.device("cpu")
    keep_freed_memory(whatever_size=True)
    course = _Course(network.to(device), recipe, device)
    report = report or (lambda epoch: None)
    found = None if checkpoint is None else checkpoint.load()
    if found is not None:
        course.restore(found)
        for epoch in course.history:
            report(epoch)
    else:
        course.begin(training, validation)
        for epoch in course.history:
            report(epoch)
        if checkpoint is not None:
            checkpoint.save(course.state())
    while not course.is_over:
        course.learn(training, validation)
        if checkpoint is not None:
            checkpoint.save(course.state())
        report(course.history[-1])
        if not may_go_on():
            break
    return course.end()


class _Course:
    """A training between two epochs, and how it goes on."""

    def __init__(self, network: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.network, self.recipe, self.device = network, recipe, device
        self.learner: nn.Module = network
        self.history: list[Epoch] = []
        self.epoch = self.best_epoch = 0
        self.best_loss = math.inf
        self.best = copy.deepcopy(network.state_dict())
        self.generator = np.random.default_rng(recipe.seed)
        self.optimiser = make_optimiser(network, recipe)

    @property
    def is_over(self) -> bool:
        return self.epoch >= self.recipe.epochs or self.epoch - self.best_epoch >= self.recipe.patience

    def begin(self, training: Sequence[TrainingScan], validation: Sequence[TrainingScan]) -> None:
        if self.recipe.head_start:
            started = time.perf_counter()
            self.learner = start_head(self.network, training, validation, self.recipe, self.device)
            self.best = copy.deepcopy(self.network.state_dict())
            self._finish_epoch(validation, training, math.nan, started)

    def learn(self, training: Sequence[TrainingScan], validation: Sequence[TrainingScan]) -> None:
        """One epoch."""
        started = time.perf_counter()
        self.epoch += 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_of_epoch(self.epoch)
        loss = _train_one_epoch(self.learner, training, self.recipe, self.optimiser, self.generator, self.device)
        self._finish_epoch(validation, training, loss, started)

    def _finish_epoch(
        self,
        validation: Sequence[TrainingScan],
        training: Sequence[TrainingScan],
        training_loss: float,
        started: float,
    ) -> None:
        weights = class_weights(training, self.recipe, self.device)
        loss, accuracy = _validate(self.learner, validation, self.recipe, self.device, weights)
        if not math.isfinite(loss) or (self.epoch > 0 and not math.isfinite(training_loss)):
            raise NetworkError(
                f"The training diverged: in epoch {self.epoch} the training loss is {training_loss:g} and the "
                f"validation loss {loss:g}. Choose a lower learning rate (now {self.recipe.learning_rate:g}), and look "
                "whether the scans are normalised as the recipe needs it."
            )
        self.history.append(Epoch(self.epoch, training_loss, loss, accuracy, time.perf_counter() - started))
        # The head start is an initialisation, not an epoch: what is kept has been trained as a whole.
        if self.epoch > 0 and loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.epoch
            self.best = copy.deepcopy(self.network.state_dict())

    def end(self) -> Fit:
        self.network.load_state_dict(self.best)
        if isinstance(self.learner, StandardisedFeatures):
            self.learner.merge()
        self.network.eval()
        return Fit(self.network.state_dict(), tuple(self.history), self.best_epoch)

    # ------------------------------------------------------------------------------------------------- on disk and back

    def state(self) -> Checkpoint:
        """All that the next epoch depends on; dropout is seeded anew in each."""
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for number, entries in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{number}/{name}": t for name, t in entries.items() if isinstance(t, Tensor)}
        if isinstance(self.learner, StandardisedFeatures):
            tensors |= {"features/mean": self.learner.mean, "features/spread": self.learner.spread}
        values = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
            "history": [epoch.describe() for epoch in self.history],
            "generator": self.generator.bit_generator.state,
        }
        return Checkpoint(tensors, values)

    def restore(self, found: Checkpoint) -> None:
        """Go on from a state.

        Raises
        ------
        NetworkError
            It does not fit the network.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in found.tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        values = found.values
        try:
            self.network.load_state_dict(parts["network"])
            self.best = {name: tensor.to(self.device) for name, tensor in parts["best"].items()}
            self._restore_optimiser(parts.get("optimiser", {}))
            if self.recipe.head_start:
                mean, spread = (parts["features"][name].to(self.device) for name in ("mean", "spread"))
                self.learner = StandardisedFeatures(self.network, mean, spread, self.recipe.sparsity)
            self.generator.bit_generator.state = values["generator"]
            self.epoch, self.best_epoch = int(values["epoch"]), int(values["best_epoch"])
            self.best_loss = math.inf if values["best_loss"] is None else float(values["best_loss"])
            self.history = [_epoch(epoch) for epoch in values["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as cause:
            raise NetworkError(f"The state of the interrupted training does not fit this network: {cause}") from cause

    def _restore_optimiser(self, tensors: dict[str, Tensor]) -> None:
        own = self.optimiser.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, entry = name.partition("/")
            state.setdefault(int(number), {})[entry] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def _epoch(described: Mapping[str, Any]) -> Epoch:
    """The inverse of :meth:`Epoch.describe`."""
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in described.items()}
    return Epoch(**known)


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of all parameters."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    nesterov = recipe.optimiser == "nesterov"
    return torch.optim.SGD(network.parameters(), lr=rate, weight_decay=decay, momentum=0.9, nesterov=nesterov)


def class_weights(training: Sequence[TrainingScan], recipe: Recipe, device: torch.device) -> Tensor | None:
    """Of the loss, so that both classes count as much; None where every scan counts as much."""
    if not recipe.class_weights:
        return None
    counts = np.bincount([scan.label for scan in training], minlength=2)
    return torch.tensor(len(training) / (2 * np.maximum(counts, 1)), dtype=torch.float32, device=device)


def predict(
    network: nn.Module, scans: Sequence[TrainingScan], device: torch.device | None = None
) -> npt.NDArray[np.float64]:
    """Return the probability of class 1 for each scan, in float32 arithmetic."""
    logits = torch.from_numpy(predict_logits(network, scans, device))
    return torch.softmax(logits, dim=1)[:, 1].numpy()


@torch.no_grad()
def predict_logits(
    network: nn.Module, scans: Sequence[TrainingScan], device: torch.device | None = None
) -> npt.NDArray[np.float64]:
    """Return the logits (N, 2) of the scans, in float32 arithmetic."""
    device = device or torch.device("cpu")
    network.eval()
    logits = [network(batch([scan.load()]).to(device)).double().cpu().numpy()[0] for scan in scans]
    return np.array(logits).reshape(len(scans), -1)


def _train_one_epoch(
    network: nn.Module,
    scans: Sequence[TrainingScan],
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    generator: np.random.Generator,
    device: torch.device,
) -> float:
    network.train()
    torch.manual_seed(int(generator.integers(2**31)))  # dropout
    weights = class_weights(scans, recipe, device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for images, labels in prefetched(_varied_batches(scans, recipe, generator, device)):
        optimiser.zero_grad(set_to_none=True)
        with arithmetic(device, recipe):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels, weight=weights)
        loss.backward()
        optimiser.step()
        if isinstance(network, StandardisedFeatures):
            network.shrink(recipe.learning_rate)
        total += loss.detach() * len(labels)
    return float(total) / len(scans)


def _varied_batches(
    scans: Sequence[TrainingScan], recipe: Recipe, generator: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for chosen in batches(scans, recipe.batch_size, generator):
        images = augmented(chosen, recipe, generator, device)
        yield images, torch.tensor([scan.label for scan in chosen], device=device)


@torch.no_grad()
def _validate(
    network: nn.Module, scans: Sequence[TrainingScan], recipe: Recipe, device: torch.device, weights: Tensor | None
) -> tuple[float, float]:
    """Mean loss and accuracy over the scans and, where scans vary, over one variation of each as well."""
    network.eval()
    generator = torch.Generator().manual_seed(_VALIDATION_SEED)
    of_class = [1.0, 1.0] if weights is None else weights.tolist()
    losses, right, counts = [], [], []
    for scan in scans:
        image = batch([scan.load()]).to(device)
        label = torch.tensor([scan.label], device=device)
        varied = [] if recipe.augmentation is None else [augment_batch(image, recipe.augmentation, generator)]
        for seen in (image, *varied):
            with arithmetic(device, recipe):
                logits = network(seen).float()
            losses.append(float(F.cross_entropy(logits, label)))
            right.append(int(logits.argmax(dim=1)) == scan.label)
            counts.append(of_class[scan.label])
    return float(np.average(losses, weights=counts)), float(np.mean(right))
