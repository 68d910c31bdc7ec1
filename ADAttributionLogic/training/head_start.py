"""A head start for the dense layers: they learn first, on features of the untrained convolutions.

At 1 mm the Böhle network flattens 64 feature maps to 5120 numbers, all ≥ 0, with large means, and with small
differences between subjects in the few that see the affected region. A fresh dense layer mostly sees the means: with
the published recipe alone the network stayed at chance for as long as we waited (10 epochs). Standardised, the same
features of *untrained* convolutions already tell the simulated classes apart. So the first dense layer gets
standardised features (:class:`StandardisedFeatures`); the dense layers are trained on features that are computed once
per scan and augmentation; then the whole network is trained as published; and at the end the standardisation is merged
into the layer's weights, so that the network is the published one. (Training the head first: Kumar et al. 2022,
Fine-Tuning can Distort Pretrained Features, ICLR.)

The first dense layer starts with small weights and an L1 penalty (Tibshirani 1996) pulls those to zero that nothing
needs. Left alone they do no harm to the accuracy, but each passes relevance to a part of the brain that the decision
does not rest on.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training.scans import TrainingScan, arithmetic, batch, move
from ADAttributionLogic.training_data.augmentation import augment_batch

#: Scans whose statistics initialise batch normalisation.
_CALIBRATION_SCANS = 24
#: Variations of each scan beside itself, where they are drawn.
_VARIATIONS = 7
#: Epochs over the features at most; one takes about a second.
_EPOCHS = 100
#: Of the first dense layer's initial weights.
_INITIAL_SCALE = 0.1


class HasHead(Protocol):
    """A network that offers features of images, and class scores of features."""

    dense_1: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """Flattened feature maps (N, F)."""

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features."""


class StandardisedFeatures(nn.Module):
    """A network whose dense layers see its features standardised by fixed figures.

    Parameters
    ----------
    network : nn.Module
        With ``features``, ``classify`` and ``dense_1``.
    mean, spread : Tensor, shape (F,)
    sparsity : float
        Strength of the L1 penalty on the first dense layer's weights, relative to the loss.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, spread: Tensor, sparsity: float) -> None:
        super().__init__()
        self.network = network
        self.sparsity = sparsity
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images."""
        return self.classify(_head(self.network).features(x))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features as they are."""
        return _head(self.network).classify((features - self.mean) / self.spread)

    @torch.no_grad()
    def shrink(self, rate: float) -> None:
        """Take one step of the L1 penalty (its proximal map: pull towards zero, and stop there)."""
        weight = _head(self.network).dense_1.weight
        weight.copy_(weight.sign() * (weight.abs() - rate * self.sparsity).clamp(min=0))

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Write the standardisation into the first dense layer, in place, and return the network."""
        dense = _head(self.network).dense_1
        dense.weight.div_(self.spread)
        dense.bias.sub_(dense.weight @ self.mean)
        self.mean.zero_()
        self.spread.fill_(1)
        return self.network


def start_head(
    network: nn.Module,
    training: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    recipe: Recipe,
    device: torch.device,
) -> StandardisedFeatures:
    """Train the dense layers of `network`, in place, and return it with standardised features.

    Raises
    ------
    TypeError
        The network offers no ``features`` and ``classify``.
    """
    head = _head(network)
    calibrate_batch_norm(network, training[:_CALIBRATION_SCANS], recipe, device)
    known = _features(network, training, _variations(recipe), recipe, device)
    held = _features(network, validation, [batch], recipe, device)
    mean, spread = known[0].mean(dim=0), known[0].std(dim=0)
    # A feature that hardly varies must not be blown up.
    standardised = StandardisedFeatures(network, mean, spread.clamp(min=0.05 * float(spread.mean())), recipe.sparsity)
    with torch.no_grad():
        head.dense_1.weight.mul_(_INITIAL_SCALE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        _train_head(standardised, known, held, recipe)
    return standardised


def _head(network: nn.Module) -> HasHead:
    if not all(hasattr(network, name) for name in ("features", "classify", "dense_1")):
        raise TypeError(
            f"{type(network).__name__} has no separate head (features, classify, dense_1); train it without one."
        )
    head: HasHead = network  # type: ignore[assignment]
    return head


@torch.no_grad()
def calibrate_batch_norm(
    network: nn.Module, scans: Sequence[TrainingScan], recipe: Recipe, device: torch.device
) -> None:
    """Set the running statistics of batch normalisation to the average over some scans."""
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
    network.train()
    for start in range(0, len(scans), recipe.batch_size):
        with arithmetic(device, recipe):
            network(batch([scan.load() for scan in scans[start : start + recipe.batch_size]]).to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


def _variations(recipe: Recipe) -> list[Callable[[Sequence[Any]], Tensor]]:
    """Ways to make a batch of one scan: as the recipe varies scans, the same ways for all of them or drawn for each."""
    if recipe.augmentation is not None:
        varied, generator = recipe.augmentation, torch.Generator().manual_seed(recipe.seed)
        return [batch, *[lambda scans: augment_batch(batch(scans), varied, generator)] * _VARIATIONS]
    flips = (False, True) if recipe.flip_probability > 0 else (False,)
    shifts = sorted({-recipe.translation_voxels, 0, recipe.translation_voxels})
    return [partial(_moved, flip=flip, shift=shift) for flip, shift in itertools.product(flips, shifts)]


def _moved(scans: Sequence[Any], flip: bool, shift: int) -> Tensor:
    return batch([move(scan, flip, shift) for scan in scans])


@torch.no_grad()
def _features(
    network: nn.Module,
    scans: Sequence[TrainingScan],
    variations: Sequence[Callable[[Sequence[Any]], Tensor]],
    recipe: Recipe,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Features (N, F) of each scan in each variation, and the labels (N,)."""
    network.eval()
    features, labels = [], []
    for scan in scans:
        voxels = scan.load()
        for varied in variations:
            image = varied([voxels]).to(device)
            with arithmetic(device, recipe):
                features.append(_head(network).features(image).float())
            labels.append(scan.label)
    return torch.cat(features), torch.tensor(labels, device=device)


def _train_head(
    standardised: StandardisedFeatures, known: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], recipe: Recipe
) -> None:
    parameters = [p for m in standardised.modules() if isinstance(m, nn.Linear) for p in m.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    generator = np.random.default_rng(recipe.seed)
    best, best_loss, best_epoch = copy.deepcopy([p.data for p in parameters]), float("inf"), 0
    for epoch in range(_EPOCHS):
        standardised.train()
        order = torch.from_numpy(generator.permutation(len(known[1])))
        for chosen in order.split(recipe.batch_size):
            optimiser.zero_grad()
            loss = F.cross_entropy(standardised.classify(known[0][chosen]), known[1][chosen])
            loss.backward()
            optimiser.step()
            standardised.shrink(recipe.learning_rate)
        standardised.eval()
        with torch.no_grad():
            held_loss = float(F.cross_entropy(standardised.classify(held[0]), held[1]))
        if held_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy([p.data for p in parameters]), held_loss, epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    for parameter, value in zip(parameters, best, strict=True):
        parameter.data.copy_(value)
