"""What each region gets in each case: means, densities, and gain with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.comparison.scores import gain, gain_with_floor, standard_score

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate with its interval, per region."""

    estimate: FloatArray
    low: FloatArray
    high: FloatArray


def mean_of(values: npt.ArrayLike, members: npt.NDArray[np.bool_]) -> FloatArray:
    """Mean over the members of a case, shape (R,); NaN where it has none."""
    chosen = np.asarray(values, dtype=np.float64)[members]
    return chosen.mean(axis=0) if len(chosen) else np.full(np.shape(values)[1], np.nan)


def density(sums: npt.ArrayLike, volumes_mm3: npt.ArrayLike) -> FloatArray:
    """Sum divided by the region's volume on the grid of the maps (size-corrected relevance, Böhle et al. 2019)."""
    return np.asarray(sums, dtype=np.float64) / np.asarray(volumes_mm3, dtype=np.float64)


def shares(sums: npt.ArrayLike, absolute_sums: npt.ArrayLike) -> FloatArray:
    """What part of a map's magnitude each region has, with its sign: Σ R of the region / Σ |R| of all regions.

    How sure the network is scales the whole map and drops out, so that what remains is *where* a map differs. Of maps
    without negative relevance it is the share of the published tables; for others it stays within ±1, where a total
    about 0 would make that share anything.

    Parameters
    ----------
    sums, absolute_sums : array_like, shape (n, R)

    Returns
    -------
    ndarray, shape (n, R)
        0 for an empty map.
    """
    total = np.asarray(absolute_sums, dtype=np.float64).sum(axis=1, keepdims=True)
    found: FloatArray = np.asarray(sums, dtype=np.float64) / np.where(total > 0, total, 1)
    return found


def group_gain(sums: npt.ArrayLike, case: npt.NDArray[np.bool_], controls: npt.NDArray[np.bool_]) -> FloatArray:
    """Gain of a case: its mean sum / mean sum of *all* controls, TN and FP (Böhle et al. 2019).

    Returns
    -------
    ndarray, shape (R,)
        NaN where the controls' mean is 0.
    """
    return gain(mean_of(sums, case), mean_of(sums, controls))


def individual_scores(sums: npt.ArrayLike, controls: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
    """Gain, gain with floor and z of every subject against the controls of the study, shape (n, R) each.

    A control is compared with the *other* controls (leave-one-out): whoever is part of the reference looks less unusual
    than they are.
    """
    values = np.asarray(sums, dtype=np.float64)
    inside = values[controls]
    count = len(inside)
    mean, sd = inside.mean(axis=0), inside.std(axis=0, ddof=1)
    n = count - 1
    # Mean and variance of the others, from those of all, which were centred first: sums of squares would cancel.
    away = inside - mean
    other_mean = mean - away / n
    squares = (away**2).sum(axis=0) - away**2 * count / n
    other_sd = np.sqrt(np.maximum(squares, 0) / (n - 1)) if n > 1 else np.full_like(away, np.nan)
    means, sds = np.broadcast_to(mean, values.shape).copy(), np.broadcast_to(sd, values.shape).copy()
    means[controls], sds[controls] = other_mean, other_sd
    return {
        "gain": gain(values, means),
        "gain_floor": gain_with_floor(values, means, sds),
        "z": standard_score(values, means, sds),
    }


def bootstrap_gain(
    sums: npt.ArrayLike,
    case: npt.NDArray[np.bool_],
    controls: npt.NDArray[np.bool_],
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the gain of a case, subjects drawn with replacement.

    Case and controls that overlap (a case of controls, such as TN) are drawn together, so that each resample is a
    possible study: the whole group of controls is drawn, and those of them that belong to the case are its case.

    Parameters
    ----------
    sums : array_like, shape (n, R)
        One row per *subject*: several scans of one person are one row.
    case, controls : ndarray of bool, shape (n,)
    resamples : int
    level : float
    seed : int

    Returns
    -------
    Interval
        NaN where the controls' mean is 0; resamples in which it is, or in which nobody belongs to the case, are left
        out.

    References
    ----------
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    values = np.asarray(sums, dtype=np.float64)
    estimate = group_gain(values, case, controls)
    if not case.any():
        return Interval(estimate, estimate, estimate)
    generator = np.random.default_rng(seed)
    weights = {name: np.zeros((resamples, len(values))) for name in ("case", "controls")}
    strata = [np.flatnonzero(controls), np.flatnonzero(case & ~controls)]
    for members in filter(len, strata):
        drawn = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
        weights["controls"][:, members] = drawn * controls[members]
        weights["case"][:, members] = drawn * case[members]
    means: dict[str, Any] = {}
    for name, drawn_weights in weights.items():
        total = drawn_weights.sum(axis=1, keepdims=True)
        means[name] = np.divide(
            drawn_weights @ values, total, out=np.full((resamples, values.shape[1]), np.nan), where=total > 0
        )
    gains = gain(means["case"], means["controls"])
    tails = [100 * (1 - level) / 2, 100 * (1 + level) / 2]
    known = np.isfinite(gains).any(axis=0)
    low, high = np.full((2, values.shape[1]), np.nan)
    low[known], high[known] = np.nanpercentile(gains[:, known], tails, axis=0)
    return Interval(estimate, low, high)


def ranks(values: npt.ArrayLike, is_ranked: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """1 for the largest of the ranked regions; 0 for those that are not ranked (too small) or have no value."""
    numbers = np.asarray(values, dtype=np.float64)
    counts = is_ranked & np.isfinite(numbers)
    ordered = np.sort(-numbers[counts])
    found: npt.NDArray[np.int64] = np.where(counts, np.searchsorted(ordered, -numbers, side="left") + 1, 0)
    return found
