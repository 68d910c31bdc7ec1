"""Training of a two-class network on 3D scans."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.training.augmentation import augment_batch
from ADAttributionLogic.training.head_start import StandardisedFeatures, start_head
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training.scans import (
    TrainingScan,
    augmented,
    batch,
    batches,
    fast_arithmetic,
    keep_freed_memory,
    require_disjoint_subjects,
)

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
) -> Fit:
    """Train `network` (in place) with Adam and early stopping on the validation loss.

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
        Called after each epoch.
    may_go_on : callable
        Asked after each epoch; False ends the training, with the best epoch so far.

    Returns
    -------
    Fit
    """
    require_disjoint_subjects(training=training, validation=validation)
    device = device or torch.device("cpu")
    keep_freed_memory()
    network.to(device)
    learner: nn.Module = network
    history: list[Epoch] = []
    best_loss, best_epoch, best = float("inf"), 0, copy.deepcopy(network.state_dict())

    def finish_epoch(number: int, training_loss: float, started: float) -> None:
        nonlocal best, best_loss, best_epoch
        validation_loss, accuracy = _validate(learner, validation, recipe, device)
        history.append(Epoch(number, training_loss, validation_loss, accuracy, time.perf_counter() - started))
        # The head start is an initialisation, not an epoch: what is kept has been trained as a whole.
        if number > 0 and validation_loss < best_loss:
            best_loss, best_epoch, best = validation_loss, number, copy.deepcopy(network.state_dict())
        if report is not None:
            report(history[-1])

    if recipe.head_start:
        started = time.perf_counter()
        learner = start_head(network, training, validation, recipe, device)
        best = copy.deepcopy(network.state_dict())
        finish_epoch(0, float("nan"), started)
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    generator = np.random.default_rng(recipe.seed)
    for number in range(1, recipe.epochs + 1):
        started = time.perf_counter()
        loss = _train_one_epoch(learner, training, recipe, optimiser, generator, device)
        finish_epoch(number, loss, started)
        if number - best_epoch >= recipe.patience or not may_go_on():
            break
    network.load_state_dict(best)
    if isinstance(learner, StandardisedFeatures):
        learner.merge()
    network.eval()
    return Fit(network.state_dict(), tuple(history), best_epoch)


def predict(
    network: nn.Module, scans: Sequence[TrainingScan], device: torch.device | None = None
) -> npt.NDArray[np.float64]:
    """Return the probability of class 1 for each scan, in float32 arithmetic."""
    device = device or torch.device("cpu")
    network.eval()
    probabilities = []
    with torch.no_grad():
        for scan in scans:
            logits = network(batch([scan.load()]).to(device))
            probabilities.append(float(torch.softmax(logits.double(), dim=1)[0, 1]))
    return np.array(probabilities)


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
    total = 0.0
    for chosen in batches(scans, recipe.batch_size, generator):
        images = augmented(chosen, recipe, generator, device)
        labels = torch.tensor([scan.label for scan in chosen], device=device)
        optimiser.zero_grad(set_to_none=True)
        with fast_arithmetic(device):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimiser.step()
        if isinstance(network, StandardisedFeatures):
            network.shrink(recipe.learning_rate)
        total += float(loss.detach()) * len(chosen)
    return total / len(scans)


def _validate(
    network: nn.Module, scans: Sequence[TrainingScan], recipe: Recipe, device: torch.device
) -> tuple[float, float]:
    """Mean loss and accuracy over the scans and, where scans vary, over one variation of each as well."""
    network.eval()
    generator = torch.Generator().manual_seed(_VALIDATION_SEED)
    losses, right = [], []
    with torch.no_grad():
        for scan in scans:
            image = batch([scan.load()]).to(device)
            label = torch.tensor([scan.label], device=device)
            varied = [] if recipe.augmentation is None else [augment_batch(image, recipe.augmentation, generator)]
            for seen in (image, *varied):
                with fast_arithmetic(device):
                    logits = network(seen).float()
                losses.append(float(F.cross_entropy(logits, label)))
                right.append(int(logits.argmax(dim=1)) == scan.label)
    return float(np.mean(losses)), float(np.mean(right))
