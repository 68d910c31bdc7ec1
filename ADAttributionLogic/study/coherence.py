"""Do several rankings of regions agree: overlap of their top ten, and more than by chance?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.relevance.top_lists import TOP as TOP
from ADAttributionLogic.relevance.top_lists import is_among_top

FloatArray = npt.NDArray[np.float64]


def top_regions(values: npt.ArrayLike, is_ranked: npt.NDArray[np.bool_], k: int = TOP) -> frozenset[int]:
    """Indices of the k largest among the ranked regions; of equal ones the first.

    Raises
    ------
    UsageError
        Fewer than k regions have a value.
    """
    chosen = np.flatnonzero(is_among_top(values, is_ranked, k)).tolist()
    if len(chosen) < k:
        raise UsageError(f"The top {k} of {len(chosen)} regions cannot be told; the atlas is too coarse.")
    return frozenset(chosen)


def intersections(rankings: Sequence[frozenset[int]]) -> FloatArray:
    """|A ∩ B| / k of all pairs, shape (m, m); 1 on the diagonal, where each is compared with itself."""
    return np.array([[len(a & b) / max(len(a), 1) for b in rankings] for a in rankings], dtype=np.float64)


def off_diagonal_mean(matrix: npt.ArrayLike) -> float:
    """Mean of what is beside the diagonal; NaN of a single one.

    The published tables average the diagonal as well, in which each ranking is compared with itself: with m rankings
    that lifts a mean of c to (1 + (m − 1) c) / m.
    """
    square = np.asarray(matrix, dtype=np.float64)
    beside = ~np.eye(len(square), dtype=bool)
    return float(square[beside].mean()) if beside.any() else float("nan")


def chance_overlap(regions: int, k: int = TOP) -> float:
    """Expected overlap of two random choices of k out of so many regions: k / regions."""
    return k / regions if regions else float("nan")


def chance_limit(regions: int, k: int = TOP, level: float = 0.95) -> float:
    """Overlap of two random choices that is exceeded with probability 1 − level at most (hypergeometric)."""
    from scipy.stats import hypergeom

    return float(hypergeom(regions, k, k).ppf(level)) / k


def kendalls_w(values: npt.ArrayLike) -> float:
    """Kendall's coefficient of concordance of m rankings of R regions, corrected for ties; 0 none, 1 all agree.

    Parameters
    ----------
    values : array_like, shape (m, R)
    """
    from scipy.stats import rankdata

    numbers = np.asarray(values, dtype=np.float64)
    m, count = numbers.shape
    if m < 2 or count < 2:
        return float("nan")
    ordered = rankdata(numbers, axis=1)
    totals = ordered.sum(axis=0)
    ties = sum(float((c**3 - c).sum()) for row in ordered for c in [np.unique(row, return_counts=True)[1]])
    below = m**2 * (count**3 - count) - m * ties
    return float(12 * ((totals - totals.mean()) ** 2).sum() / below) if below > 0 else float("nan")


def intraclass_correlation(values: npt.ArrayLike) -> float:
    """ICC(3,1), consistency: how far m repeats order and space R regions alike (Shrout & Fleiss 1979).

    Parameters
    ----------
    values : array_like, shape (m, R)
        Repeats × regions; no missing values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    m, count = numbers.shape
    if m < 2 or count < 2:
        return float("nan")
    grand = numbers.mean()
    between = m * ((numbers.mean(axis=0) - grand) ** 2).sum() / (count - 1)
    repeats = count * ((numbers.mean(axis=1) - grand) ** 2).sum()
    error = (((numbers - grand) ** 2).sum() - between * (count - 1) - repeats) / ((count - 1) * (m - 1))
    below = between + (m - 1) * error
    return float((between - error) / below) if below > 0 else float("nan")
