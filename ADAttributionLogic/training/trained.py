"""One training from a plan to a network: drawn, fitted, and its probabilities calibrated on the validation scans."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ADAttributionLogic.architectures.catalogue import ARCHITECTURES, Shape, architecture, build_network, initialise
from ADAttributionLogic.device import describe_device
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.training.calibration import Temperature, fit_temperature, merge_temperature
from ADAttributionLogic.training.checkpoint import CheckpointFolder
from ADAttributionLogic.training.fit import Epoch, Fit, fit, predict_logits
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training.scans import TrainingScan, batch


@dataclass(frozen=True)
class NetworkPlan:
    """Which network is trained.

    Attributes
    ----------
    architecture : str
        One of :func:`trainable`.
    shape : tuple of int
        Voxels of its grid.
    """

    architecture: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network.

    Attributes
    ----------
    network : nn.Module
        On the CPU, in evaluation mode, with the temperature merged into its last layer.
    fit : Fit
        Its history; ``state`` is that of before the temperature was merged.
    temperature : Temperature
    validation_logits : ndarray, shape (N, 2)
        Of the validation scans, before the temperature.
    seconds : float
        Of this run; after an interruption, of what was left.
    device : str
    """

    network: nn.Module
    fit: Fit
    temperature: Temperature
    validation_logits: npt.NDArray[np.float64]
    seconds: float
    device: str


def trainable() -> tuple[str, ...]:
    """Names of the networks that can be trained here: those with two classes."""
    return tuple(name for name, known in ARCHITECTURES.items() if known.output == "softmax")


def train_network(
    plan: NetworkPlan,
    training: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    recipe: Recipe,
    device: torch.device | None = None,
    *,
    checkpoint: Path | None = None,
    about: Mapping[str, Any] | None = None,
    report: Callable[[Epoch], None] | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
    calibrated: bool = True,
) -> Trained:
    """Train one network.

    Parameters
    ----------
    plan : NetworkPlan
    training, validation : sequence of TrainingScan
        Must not share a subject.
    recipe : Recipe
        With the seed.
    device : torch.device, optional
        CPU by default.
    checkpoint : Path, optional
        Folder of this training's state after each epoch; an interrupted training goes on from there.
    about : mapping, optional
        Whatever else the training depends on, such as hashes of the scans: the state of another is refused.
    report, may_go_on : callable
        As of :func:`~.fit.fit`.
    calibrated : bool
        Merge a temperature that is fitted on the validation scans.

    Raises
    ------
    UsageError
        A network that cannot be trained, or not with this recipe, or a class that does not occur.
    GridMismatchError, NetworkError
    """
    _require(plan, recipe, training=training, validation=validation)
    started = time.perf_counter()
    device = device or torch.device("cpu")
    network = build_network(plan.architecture, plan.shape)
    initialise(network, recipe.seed)
    kept = (
        None
        if checkpoint is None
        else CheckpointFolder(checkpoint, _question(plan, training, validation, recipe, about))
    )
    fitted = fit(network, training, validation, recipe, device, report, may_go_on, kept)
    logits = predict_logits(network, validation, device)
    network.to("cpu")
    temperature = Temperature(1.0, "not asked for")
    if calibrated:
        temperature = fit_temperature([scan.label for scan in validation], logits)
    if temperature.value != 1:
        # The state that is handed back must not change with the network.
        fitted = Fit({name: t.clone() for name, t in fitted.state.items()}, fitted.history, fitted.best_epoch)
        merge_temperature(network, temperature.value, batch([validation[0].load()]).cpu())
    return Trained(network, fitted, temperature, logits, time.perf_counter() - started, describe_device(device))


def require_trainable(name: str, recipe: Recipe) -> None:
    """Refuse a network that cannot be trained, or not in this way.

    Raises
    ------
    UsageError
    """
    known = architecture(name)
    if known.output != "softmax":
        raise UsageError(
            f"{known.title} ({name}) has no outputs for two classes, which is what can be trained here: "
            f"{', '.join(trainable())}."
        )
    if recipe.head_start and not all(
        hasattr(known.build(known.smallest_shape()), part) for part in ("features", "classify", "dense_1")
    ):
        raise UsageError(
            f"{known.title} ({name}) has no separate head, so that it cannot have a head start; choose boehle2019 or "
            "rieke2018, or another recipe."
        )


def _require(plan: NetworkPlan, recipe: Recipe, **splits: Sequence[TrainingScan]) -> None:
    require_trainable(plan.architecture, recipe)
    for name, scans in splits.items():
        counts = [sum(scan.label == label for scan in scans) for label in (0, 1)]
        if min(counts) == 0:
            raise UsageError(
                f"The {name} scans must be of both classes, but are {counts[0]} of one, {counts[1]} of the other."
            )


def _question(
    plan: NetworkPlan,
    training: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    recipe: Recipe,
    about: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "network": asdict(plan),
        "recipe": asdict(recipe),
        "training": [(scan.subject, scan.label) for scan in training],
        "validation": [(scan.subject, scan.label) for scan in validation],
        "about": dict(about or {}),
    }
