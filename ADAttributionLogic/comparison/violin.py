"""Violins of controls from their quantiles: how they spread, without anybody's own value. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: Values that stand for the controls, evenly over their quantiles.
_DRAWN = 400
#: Points of one side of an outline.
_POINTS = 61
#: A standard deviation below this part of the mean is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Violin:
    """One region's controls and this scan, in standard deviations of the controls around their mean.

    Attributes
    ----------
    label : int
    name : str
    own : float
        z of this scan.
    values, widths : ndarray
        Outline of one side, from the lowest stored quantile to the highest; 1 is the widest.
    quartiles : tuple of float
        25, 50 and 75 % of the controls.
    """

    label: int
    name: str
    own: float
    values: FloatArray
    widths: FloatArray
    quartiles: tuple[float, float, float]


def violins_of(entry: Mapping[str, Any], names: Mapping[int, str]) -> list[Violin]:
    """Violins of regions, in the order of `names`; regions in which controls do not vary have none.

    Parameters
    ----------
    entry : mapping
        Of one map, as :meth:`~.result.MapComparison.describe` gives it.
    names : mapping of int to str
        Of the wanted regions, by label.
    """
    probabilities = np.asarray(entry.get("probabilities", ()), dtype=np.float64)
    found = []
    for label, name in names.items():
        region = entry.get("regions", {}).get(str(label))
        if region is None or not region["sd"] > _ROUNDING * abs(region["mean"]):
            continue
        quantiles = (np.asarray(region["quantiles"], dtype=np.float64) - region["mean"]) / region["sd"]
        values, widths = outline(probabilities, quantiles)
        low, middle, high = np.interp([0.25, 0.5, 0.75], probabilities, quantiles).tolist()
        own = (region["own"] - region["mean"]) / region["sd"]
        found.append(Violin(label, name, own, values, widths, (low, middle, high)))
    return found


def outline(
    probabilities: Sequence[float] | FloatArray, quantiles: Sequence[float] | FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Values and widths (0–1) of a violin: a kernel density of values spread evenly over the quantiles.

    It ends at the outermost quantiles: what lies beyond them is not known. The bandwidth is Silverman's.
    """
    grid, known = np.asarray(probabilities, dtype=np.float64), np.asarray(quantiles, dtype=np.float64)
    drawn = np.interp(np.linspace(grid[0], grid[-1], _DRAWN), grid, known)
    values = np.linspace(known[0], known[-1], _POINTS)
    quarter, three = np.interp([0.25, 0.75], grid, known)
    spread = min(float(drawn.std()), float(three - quarter) / 1.34) or float(drawn.std()) or 1.0
    bandwidth = 0.9 * spread * _DRAWN**-0.2
    widths = np.exp(-0.5 * ((values[:, None] - drawn) / bandwidth) ** 2).sum(axis=1)
    return values, widths / widths.max()
