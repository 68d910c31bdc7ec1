"""How far a network's probabilities can be taken at their word, and the temperature that makes them so.

Guo et al. 2017, On Calibration of Modern Neural Networks (ICML): one number, fitted on validation scans, divides the
logits. Decisions do not change.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ADAttributionLogic.errors import NetworkError

FloatArray = npt.NDArray[np.float64]

#: Equal bins of P(positive class) between 0 and 1.
BINS = 10
_LOWEST, _HIGHEST = 0.1, 10.0


@dataclass(frozen=True)
class Bin:
    """Scans whose probability lies in one range."""

    low: float
    high: float
    count: int
    mean_probability: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """Said against observed.

    Attributes
    ----------
    expected_error : float
        ECE: the mean over the scans of |mean probability − observed frequency| of their bin.
    brier : float
        Mean squared difference of probability and truth.
    bins : tuple of Bin
        Those that are not empty.
    """

    expected_error: float
    brier: float
    bins: tuple[Bin, ...]

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "expected_calibration_error": round(self.expected_error, 4),
            "brier": round(self.brier, 4),
            "bins": [{k: round(v, 4) for k, v in asdict(b).items()} for b in self.bins],
        }


@dataclass(frozen=True)
class Temperature:
    """What the logits are divided by.

    Attributes
    ----------
    value : float
        1 where it could not be told.
    why : str
        How it was found, or why not.
    """

    value: float
    why: str


def calibration(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Calibration:
    """Compare probabilities of the positive class with the truth (0, 1), in :data:`BINS` equal bins."""
    truth, said = np.asarray(labels, dtype=float), np.asarray(probabilities, dtype=float)
    where = np.clip((said * BINS).astype(int), 0, BINS - 1)
    bins = tuple(
        Bin(b / BINS, (b + 1) / BINS, int(inside.sum()), float(said[inside].mean()), float(truth[inside].mean()))
        for b in range(BINS)
        if (inside := where == b).any()
    )
    error = sum(b.count * abs(b.mean_probability - b.observed) for b in bins) / max(truth.size, 1)
    return Calibration(float(error), float(np.mean((said - truth) ** 2)), bins)


def fit_temperature(labels: npt.ArrayLike, logits: FloatArray) -> Temperature:
    """The temperature that makes the validation scans most probable.

    Parameters
    ----------
    labels : array-like of int, shape (N,)
    logits : ndarray, shape (N, 2)

    Returns
    -------
    Temperature
        1 where all validation scans are told apart: then any confidence, however high, fits them better.
    """
    from scipy.optimize import minimize_scalar

    truth = np.asarray(labels, dtype=int)
    margin = np.where(truth == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    if (margin > 0).all():
        return Temperature(1.0, f"left at 1: all {truth.size} validation scans are told apart, which fits any below it")
    found = minimize_scalar(
        lambda log: float(np.logaddexp(0, -margin / np.exp(log)).mean()),
        bounds=(np.log(_LOWEST), np.log(_HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    value = float(np.exp(found.x))
    limit = ", at the limit of what is tried" if value < 1.01 * _LOWEST or value > 0.99 * _HIGHEST else ""
    return Temperature(value, f"fitted on {truth.size} validation scans (log loss){limit}")


@torch.no_grad()
def merge_temperature(network: nn.Module, temperature: float, image: torch.Tensor) -> None:
    """Divide the last layer's weights, in place, so that the network's logits are divided by the temperature.

    Parameters
    ----------
    network : nn.Module
        Whose last layer is linear or a convolution.
    temperature : float
    image : Tensor, shape (1, 1, I, J, K)
        On which it is proven.

    Raises
    ------
    NetworkError
        Its logits do not become those that were asked for.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv3d)]
    expected = network(image) / temperature
    for parameter in layers[-1].parameters(recurse=False):
        parameter.div_(temperature)
    found = network(image)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-6):
        raise NetworkError(
            f"The temperature cannot be merged: {type(network).__name__} does not end with its last layer."
        )
