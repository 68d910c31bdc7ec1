"""How well a map agrees with a known truth: pure functions.

A map says more by higher values; its sign is kept (evidence against the class is no evidence for it). Voxels are given
as flat arrays of those inside the brain.

References
----------
Arras et al. 2022, doi:10.1016/j.inffus.2021.11.008 (mass and rank accuracy). Rubner et al. 2000,
doi:10.1023/A:1026543900054 (earth mover's distance). Hiller et al. 2025 (deletion against the control mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


def order_of(relevance: Values) -> npt.NDArray[np.int64]:
    """Places of a map from the highest to the lowest value; equal values in the order of their places."""
    return np.argsort(-relevance, kind="stable")


def mass_accuracy(relevance: Values, truth: Flags) -> float:
    """Part of the positive relevance that lies inside the truth; 0 for a map without any."""
    positive = np.clip(relevance, 0, None).astype(np.float64)
    total = float(positive.sum())
    return float(positive[truth].sum()) / total if total > 0 else 0.0


def precision_at(order: npt.NDArray[np.int64], truth: Flags, count: int) -> float:
    """Part of the `count` highest voxels that lies inside the truth.

    Parameters
    ----------
    order : ndarray of int
        As :func:`order_of` gives it.
    truth : ndarray of bool
    count : int
        k; the size of the truth makes it the rank accuracy.
    """
    if not 1 <= count <= truth.size:
        raise ValueError(f"The precision at {count} of {truth.size} voxels is not defined.")
    return float(truth[order[:count]].mean())


def average_precision(relevance: Values, order: npt.NDArray[np.int64], truth: Flags) -> float:
    """Area under the precision-recall curve: Σ (recall − recall before) · precision, equal values taken together."""
    hits = np.cumsum(truth[order])
    if hits[-1] == 0:
        raise ValueError("There is no true voxel.")
    ordered = relevance[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), ordered.size - 1)  # of each run of equal values
    precision = hits[last] / (last + 1)
    return float((np.diff(hits[last], prepend=0) * precision).sum() / hits[-1])


def top_regions(densities: Values, is_ranked: Flags, is_affected: Flags, count: int = 5) -> float:
    """Part of the regions with the highest densities that is truly affected."""
    chosen = order_of(np.where(is_ranked, densities, -np.inf))[:count]
    return float(is_affected[chosen].mean())


def earth_movers_distance(first: Values, second: Values, places: Values) -> float:
    """Least work to turn one distribution over places into another, in the unit of the places.

    Parameters
    ----------
    first, second : ndarray, shape (N,)
        Amounts ≥ 0, made to add up to 1.
    places : ndarray, shape (N, axes)
        E.g. centroids of regions, mm.

    Returns
    -------
    float
        NaN where one of them is empty.
    """
    from scipy.stats import wasserstein_distance_nd

    if (first < 0).any() or (second < 0).any():
        raise ValueError("Amounts must not be negative.")
    if first.sum() == 0 or second.sum() == 0:
        return float("nan")
    from_, to = first > 0, second > 0
    return float(wasserstein_distance_nd(places[from_], places[to], first[from_], second[to]))


def area_under(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Mean height of a curve over the range of its fractions (trapezoids)."""
    x, y = np.asarray(fractions, dtype=float), np.asarray(values, dtype=float)
    if x.size < 2 or x.size != y.size or (np.diff(x) <= 0).any():
        raise ValueError("A curve needs at least two points, with fractions that rise.")
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def bootstrap_interval(values: Values, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over subjects (percentiles of resampled means; the seed makes it repeatable)."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, values.size, size=(resamples, values.size))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
