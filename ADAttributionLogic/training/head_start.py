"""A head start for the dense layers: they learn first, on features of the untrained convolutions.

At 1 mm the Böhle network flattens 64 feature maps to 5120 numbers, all ≥ 0, with large means, and with small
differences between subjects in the few that see the affected region. A fresh dense layer mostly sees the means: with
the published recipe alone the network stayed at chance for as long as we waited (10 epochs). Standardised, the same
features of *untrained* convolutions already tell the simulated classes apart (98 % of the test subjects with a logistic
regression). So the first dense layer is written as one that standardises its inputs by fixed figures
(:class:`StandardisedDense`); the dense layers are trained on features that are computed once per scan and augmentation;
then the whole network is trained as published; and at the end the standardisation is merged into the layer's weights, so
that the network is the published one. (Training the head first: Kumar et al. 2022, Fine-Tuning can Distort Pretrained
Features, ICLR.)

The dropout stands before the standardisation, on the features as they are: it punishes decisions that rest on a
difference of large numbers. With dropout behind the standardisation the network learned faster, but from features it had
hardly changed, and LRP's z⁺-rule, which sees contributions and not differences, then showed regions beside the affected
ones.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training.scans import TrainingScan, batch, fast_arithmetic, move

#: Scans whose statistics initialise batch normalisation.
_CALIBRATION_SCANS = 24
#: Epochs over the features at most; one takes about a second.
_EPOCHS = 100


class HasHead(Protocol):
    """A network that offers features of images, and class scores of features."""

    dense_1: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Flattened feature maps (N, F)."""

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features."""


class StandardisedDense(nn.Module):
    """A dense layer that standardises its inputs by fixed figures; equal to a plain one (:meth:`merged`).

    Parameters
    ----------
    dense : nn.Linear
    mean, spread : Tensor, shape (F,)
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, dense: nn.Linear, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.dense = dense
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the layer for standardised inputs."""
        result: Tensor = self.dense((x - self.mean) / self.spread)
        return result

    @torch.no_grad()
    def restandardise(self, mean: Tensor, spread: Tensor) -> None:
        """Take other figures; the layer as a function stays the same."""
        plain = self.merged()
        self.dense.weight.copy_(plain.weight * spread)
        self.dense.bias.copy_(plain.bias + plain.weight @ mean)
        self.mean.copy_(mean)
        self.spread.copy_(spread)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain dense layer that gives the same for inputs as they are."""
        plain = nn.Linear(self.dense.in_features, self.dense.out_features, device=self.mean.device)
        plain.weight.copy_(self.dense.weight / self.spread)
        plain.bias.copy_(self.dense.bias - plain.weight @ self.mean)
        return plain


def start_head(
    network: nn.Module,
    training: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    recipe: Recipe,
    device: torch.device,
) -> None:
    """Train the dense layers of `network`, in place.

    Its first dense layer becomes a :class:`StandardisedDense`; :func:`finish_head` makes it a plain one again.

    Raises
    ------
    TypeError
        The network offers no ``features`` and ``classify``.
    """
    if not all(hasattr(network, name) for name in ("features", "classify", "dense_1")):
        raise TypeError(
            f"{type(network).__name__} has no separate head (features, classify, dense_1); train it without one."
        )
    head: HasHead = network  # type: ignore[assignment]
    calibrate_batch_norm(network, training[:_CALIBRATION_SCANS], recipe, device)
    flips = (False, True) if recipe.flip_probability > 0 else (False,)
    shifts = sorted({-recipe.translation_voxels, 0, recipe.translation_voxels})
    known, labels = _features(network, head, training, list(itertools.product(flips, shifts)), device)
    held, held_labels = _features(network, head, validation, [(False, 0)], device)
    mean, spread = _figures(known)
    assert isinstance(head.dense_1, nn.Linear)
    head.dense_1 = StandardisedDense(head.dense_1, mean, spread)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        _train_head(network, head, (known, labels), (held, held_labels), recipe)


def follow_features(network: nn.Module, scans: Sequence[TrainingScan], recipe: Recipe, device: torch.device) -> None:
    """Standardise by the features as they are now, which training has moved; the network stays the same."""
    head: HasHead = network  # type: ignore[assignment]
    if isinstance(head.dense_1, StandardisedDense):
        features, _ = _features(network, head, scans[:_CALIBRATION_SCANS], [(False, 0)], device)
        head.dense_1.restandardise(*_figures(features))


def _figures(features: Tensor) -> tuple[Tensor, Tensor]:
    mean, spread = features.mean(dim=0), features.std(dim=0)
    # A feature that hardly varies must not be blown up.
    return mean, spread.clamp(min=0.05 * float(spread.mean()))


def finish_head(network: nn.Module) -> None:
    """Merge the standardisation into the first dense layer, in place."""
    if isinstance(getattr(network, "dense_1", None), StandardisedDense):
        network.dense_1 = network.dense_1.merged()  # type: ignore[operator, union-attr]


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
        with fast_arithmetic(device):
            network(batch([scan.load() for scan in scans[start : start + recipe.batch_size]]).to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


@torch.no_grad()
def _features(
    network: nn.Module,
    head: HasHead,
    scans: Sequence[TrainingScan],
    moves: Sequence[tuple[bool, int]],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    network.eval()
    features, labels = [], []
    for scan in scans:
        voxels = scan.load()
        for flip, shift in moves:
            with fast_arithmetic(device):
                features.append(head.features(batch([move(voxels, flip, shift)]).to(device)).float())
            labels.append(scan.label)
    return torch.cat(features), torch.tensor(labels, device=device)


def _train_head(
    network: nn.Module, head: HasHead, known: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], recipe: Recipe
) -> None:
    dense = [m for m in network.modules() if isinstance(m, nn.Linear)]
    parameters = [p for layer in dense for p in layer.parameters()]
    rate = recipe.learning_rate if recipe.dense_learning_rate is None else recipe.dense_learning_rate
    optimiser = torch.optim.Adam(parameters, lr=rate, weight_decay=recipe.weight_decay)
    generator = np.random.default_rng(recipe.seed)
    best, best_loss, best_epoch = copy.deepcopy([p.data for p in parameters]), float("inf"), 0
    for epoch in range(_EPOCHS):
        network.train()
        order = torch.from_numpy(generator.permutation(len(known[1])))
        for chosen in order.split(recipe.batch_size):
            optimiser.zero_grad()
            loss = F.cross_entropy(head.classify(known[0][chosen]), known[1][chosen])
            loss.backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            held_loss = float(F.cross_entropy(head.classify(held[0]), held[1]))
        if held_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy([p.data for p in parameters]), held_loss, epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    for parameter, value in zip(parameters, best, strict=True):
        parameter.data.copy_(value)
