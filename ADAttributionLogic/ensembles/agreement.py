"""How far the networks of an ensemble agree on the regions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.relevance.region_table import RegionSpread
from ADAttributionLogic.relevance.top_lists import is_among_top

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Agreement of the members' maps, on the network's grid.

    Attributes
    ----------
    members : tuple of str
    by_label : mapping of int to RegionSpread
        Per region: standard deviation over the members, and on how many it is among the largest ten densities.
    overlap_sum, overlap_density : float
        Mean share of regions that the top-ten lists of two members have in common, over all pairs of different ones.
    icc_sum, icc_density : float
        Intraclass correlation of the ranked regions' values; see :func:`intraclass_correlation`.
    """

    members: tuple[str, ...]
    by_label: Mapping[int, RegionSpread]
    overlap_sum: float
    overlap_density: float
    icc_sum: float
    icc_density: float

    def describe(self) -> dict[str, Any]:
        """Plain values; what cannot be computed is None."""
        figures = {
            "top_ten_overlap_sum": self.overlap_sum,
            "top_ten_overlap_density": self.overlap_density,
            "intraclass_correlation_sum": self.icc_sum,
            "intraclass_correlation_density": self.icc_density,
        }
        return {k: round(v, 4) if np.isfinite(v) else None for k, v in figures.items()}

    def sentence(self) -> str:
        """The two figures that say most, in words."""
        if not np.isfinite(self.icc_density):
            return ""
        return (
            f"the {len(self.members)} networks share {self.overlap_density:.0%} of their top ten regions, "
            f"intraclass correlation {self.icc_density:.2f}"
        )


def agreement_of(
    members: Sequence[str], labels: Sequence[int], sums: Matrix, volumes: Matrix, is_ranked: npt.NDArray[np.bool_]
) -> Agreement:
    """Compare the members' region sums.

    Parameters
    ----------
    members : sequence of str, length M ≥ 2
    labels : sequence of int, length R
    sums : ndarray, shape (M, R)
        Σ relevance per region.
    volumes : ndarray, shape (R,)
        mm³.
    is_ranked : ndarray of bool, shape (R,)
        Regions that are large enough to be ranked.
    """
    densities = sums / volumes
    tops = {
        name: np.array([is_among_top(member, is_ranked) for member in values])
        for name, values in (("sum", sums), ("density", densities))
    }
    counts = tops["density"].sum(axis=0)
    spread = sums.std(axis=0, ddof=1)
    by_label = {int(label): RegionSpread(float(s), int(c)) for label, s, c in zip(labels, spread, counts, strict=True)}
    return Agreement(
        tuple(members),
        by_label,
        _overlap(tops["sum"]),
        _overlap(tops["density"]),
        intraclass_correlation(sums[:, is_ranked].T),
        intraclass_correlation(densities[:, is_ranked].T),
    )


def _overlap(tops: npt.NDArray[np.bool_]) -> float:
    """Off the diagonal: a list's overlap with itself says nothing."""
    length = int(tops[0].sum())
    if length == 0:
        return float("nan")
    return float(np.mean([(a & b).sum() / length for a, b in itertools.combinations(tops, 2)]))


def intraclass_correlation(values: Matrix) -> float:
    """ICC(2,1): two-way random effects, absolute agreement, single rater (Shrout & Fleiss 1979; McGraw & Wong 1996).

    Parameters
    ----------
    values : ndarray, shape (targets, raters)

    Returns
    -------
    float
        1: all raters give the same values; NaN with fewer than two targets or raters, or where nothing varies.
    """
    n, k = values.shape
    if n < 2 or k < 2:
        return float("nan")
    grand, rows, columns = values.mean(), values.mean(axis=1), values.mean(axis=0)
    between_rows = k * ((rows - grand) ** 2).sum() / (n - 1)
    between_columns = n * ((columns - grand) ** 2).sum() / (k - 1)
    residual = values - rows[:, None] - columns[None, :] + grand
    error = (residual**2).sum() / ((n - 1) * (k - 1))
    denominator = between_rows + (k - 1) * error + k * (between_columns - error) / n
    return float((between_rows - error) / denominator) if denominator > 0 else float("nan")
