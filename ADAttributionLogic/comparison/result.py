"""What comparing an explanation with a reference found, as a plain value; it travels in the provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: What a z map is called after its map.
Z_SUFFIX = "-z"

#: Of the limits and intervals.
LEVEL = 0.95

_DIGITS = 6


@dataclass(frozen=True, eq=False)
class MapComparison:
    """One map against the controls'.

    Attributes
    ----------
    name : str
        Of the map.
    z_map : str
        Name of its z map.
    quantity : str
        What z and percentile are of: ``"sum"``, ``"share"``, ``"magnitude_share"`` or ``"absolute_sum"``.
    limit : float
        |z| that a further control exceeds with probability 1 − :data:`LEVEL`.
    adjusted_limit : float or None
        The same of the adjusted z; None without covariates.
    scores : mapping of str to mapping of int to float
        Columns of the region table (:data:`~.relevance.columns.COMPARED`, without ranks), by label; {} without atlas.
    own : mapping of int to float
        The scan's values of the quantity, by label, on the network's grid.
    probabilities : ndarray, shape (Q,)
        Of the controls' quantiles.
    quantiles : mapping of int to ndarray, shape (Q,)
        Of the controls' values, by label.
    mean, sd : mapping of int to float
        Of the controls' values, by label.
    """

    name: str
    z_map: str
    quantity: str
    limit: float
    adjusted_limit: float | None
    scores: Mapping[str, Mapping[int, float]]
    own: Mapping[int, float]
    probabilities: npt.NDArray[np.float64]
    quantiles: Mapping[int, npt.NDArray[np.float64]]
    mean: Mapping[int, float]
    sd: Mapping[int, float]

    @property
    def beyond(self) -> int:
        """How many regions have a z beyond the limit."""
        return sum(abs(z) > self.limit for z in self.scores.get("z", {}).values())

    def describe(self) -> dict[str, Any]:
        """Plain values. Of the controls only what a violin needs, so that one can be drawn wherever the result goes."""
        found: dict[str, Any] = {"z_map": self.z_map, "quantity": self.quantity, "limit": round(self.limit, _DIGITS)}
        if self.adjusted_limit is not None:
            found["adjusted_limit"] = round(self.adjusted_limit, _DIGITS)
        if self.scores:
            known = [z for z in self.scores["z"].values() if not math.isnan(z)]
            found["beyond"] = {"regions": self.beyond, "of": len(known), "expected": (1 - LEVEL) * len(known)}
            found["probabilities"] = self.probabilities.tolist()
            found["regions"] = {
                str(label): {
                    "own": _rounded(self.own[label]),
                    "mean": _rounded(self.mean[label]),
                    "sd": _rounded(self.sd[label]),
                    "quantiles": [_rounded(q) for q in quantiles.tolist()],
                }
                for label, quantiles in self.quantiles.items()
            }
        return found


@dataclass(frozen=True, eq=False)
class Comparison:
    """An explanation against a reference.

    Attributes
    ----------
    reference, title : str
        Name and title of the reference.
    card_sha256 : str
    n : int
        Its controls.
    covariates : mapping of str to str
        Of this scan; {} where nothing was adjusted.
    smoothing_mm : float
        Of the z maps.
    maps : tuple of MapComparison
    notices : tuple of str
        What a reader of the numbers must know.
    """

    reference: str
    title: str
    card_sha256: str
    n: int
    covariates: Mapping[str, str]
    smoothing_mm: float
    maps: tuple[MapComparison, ...]
    notices: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "reference": self.reference,
            "title": self.title,
            "card_sha256": self.card_sha256,
            "controls": self.n,
            "covariates": dict(self.covariates),
            "level": LEVEL,
            "smoothing_mm": self.smoothing_mm,
            "maps": {found.name: found.describe() for found in self.maps},
            "notices": list(self.notices),
        }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
