"""Which regions differ between two groups: permutation tests, with all regions tested at once taken into account."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.study.covariates import Design, residualised

FloatArray = npt.NDArray[np.float64]

#: Permutations that are computed in one product of matrices.
_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class GroupTest:
    """Two groups compared region by region.

    Attributes
    ----------
    difference : ndarray, shape (R,)
        Mean of the cases − mean of the others.
    t : ndarray, shape (R,)
        Student's t, with covariates of the difference that they leave; NaN where the values have no spread.
    p : ndarray, shape (R,)
        Two-sided, of each region for itself.
    p_familywise : ndarray, shape (R,)
        Of the largest |t| over all regions: with it below .05, the chance of even one false region is 5 %.
    q : ndarray, shape (R,)
        Benjamini–Hochberg: with all q below .05 reported, 5 % of them are expected to be false.
    permutations : int
    """

    difference: FloatArray
    t: FloatArray
    p: FloatArray
    p_familywise: FloatArray
    q: FloatArray
    permutations: int


def student_t(values: npt.ArrayLike, is_case: npt.NDArray[np.bool_]) -> FloatArray:
    """Student's t of two groups with common variance, shape (R,)."""
    t: FloatArray = _t_of(np.asarray(values, dtype=np.float64), np.asarray(is_case, dtype=np.float64)[None])[0]
    return t


def group_test(
    values: npt.ArrayLike,
    is_case: npt.NDArray[np.bool_],
    *,
    covariates: Design | None = None,
    permutations: int = 5000,
    seed: int = 0,
    monitor: Monitor | None = None,
) -> GroupTest:
    """Permute who is a case, and compare the t of all regions with what comes of it.

    Parameters
    ----------
    values : array_like, shape (n, R)
        One row per *subject*.
    is_case : ndarray of bool, shape (n,)
        The others are the controls.
    covariates : Design, optional
        Taken out with coefficients of the controls, in every permutation of those who are controls *in it*: residuals
        of those on whom the line was fitted are smaller than those of the others, which would otherwise be taken for a
        difference.
    permutations : int
    seed : int
    monitor : Monitor, optional

    Returns
    -------
    GroupTest
        p values count the labels as they are among the permutations, (1 + k) / (1 + permutations), so that none is 0
        (Phipson & Smyth 2010).

    Raises
    ------
    UsageError
        A group of fewer than two.

    References
    ----------
    Nichols & Holmes 2002, Human Brain Mapping 15:1 (maximum statistic); Benjamini & Hochberg 1995.
    """
    numbers, case = np.asarray(values, dtype=np.float64), np.asarray(is_case, dtype=bool)
    if min(case.sum(), (~case).sum()) < 2:
        raise UsageError(f"A test needs two groups of at least 2 subjects, but got {case.sum()} and {(~case).sum()}.")
    monitor = monitor or Monitor()
    adjusted = numbers if covariates is None else residualised(numbers, covariates, ~case)
    difference = adjusted[case].mean(axis=0) - adjusted[~case].mean(axis=0)
    observed = student_t(adjusted, case) * (1.0 if covariates is None else _certainty(covariates, case))
    size = np.where(np.isnan(observed), -np.inf, np.abs(observed))
    as_large, as_large_anywhere = np.zeros(size.shape), np.zeros(size.shape)
    generator = np.random.default_rng(seed)
    # Equal but for rounding counts as equal: with few subjects the labels as they are come up again.
    least = size * (1 - 1e-10)
    for start in range(0, permutations, _AT_ONCE):
        monitor.report(start / permutations, f"permutation {start} of {permutations}")
        count = min(_AT_ONCE, permutations - start)
        drawn = generator.permuted(np.tile(case, (count, 1)), axis=1)
        found = np.abs(
            _t_of(numbers, drawn.astype(np.float64)) if covariates is None else _adjusted(numbers, drawn, covariates)
        )
        found = np.where(np.isnan(found), -np.inf, found)
        as_large += (found >= least).sum(axis=0)
        as_large_anywhere += (found.max(axis=1)[:, None] >= least[None]).sum(axis=0)
    known = np.isfinite(observed)
    p, familywise = (np.where(known, (1 + k) / (1 + permutations), np.nan) for k in (as_large, as_large_anywhere))
    return GroupTest(difference, observed, p, familywise, benjamini_hochberg(p), permutations)


def benjamini_hochberg(p: npt.ArrayLike) -> FloatArray:
    """Smallest false discovery rate at which each is reported; missing p values stay missing and are not counted."""
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    result = np.full(values.shape, np.nan)
    if known.size:
        order = known[np.argsort(values[known])]
        scaled = values[order] * known.size / np.arange(1, known.size + 1)
        result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return result


def _t_of(values: FloatArray, case: FloatArray) -> FloatArray:
    """t for each row of memberships (B, n); values are centred first, so that nothing cancels."""
    centred = values - values.mean(axis=0)
    n, m = case.sum(axis=1)[:, None], (1 - case).sum(axis=1)[:, None]
    sums = case @ centred
    means, others = sums / n, -sums / m
    total = (centred**2).sum(axis=0)
    within = np.maximum(total - n * means**2 - m * others**2, 0)
    error = np.sqrt(within / (n + m - 2) * (1 / n + 1 / m))
    # Rounding is no spread.
    flat = error <= 1e-12 * np.sqrt(np.maximum((values**2).mean(axis=0), np.finfo(float).tiny))
    t: FloatArray = np.where(flat, np.nan, (means - others) / np.where(flat, 1, error))
    return t


def _adjusted(values: FloatArray, drawn: npt.NDArray[np.bool_], covariates: Design) -> FloatArray:
    found = np.empty((len(drawn), values.shape[1]))
    for row, case in enumerate(drawn):
        t = _t_of(residualised(values, covariates, ~case), case[None].astype(np.float64))[0]
        found[row] = t * _certainty(covariates, case)
    return found


def _certainty(covariates: Design, case: npt.NDArray[np.bool_]) -> float:
    """By how much t is smaller because the controls' slopes are estimates: more, the further cases are from them.

    The variance of the difference is σ² (1/n + 1/m + dᵀ(X₀ᵀX₀)⁻¹d), with d from the controls' mean covariates to the
    cases', and X₀ the controls' about their mean. In a random choice of cases d is about 0, so that without this the
    labels as they are would look more unusual than they are.
    """
    controls = covariates.columns[~case]
    away = covariates.columns[case].mean(axis=0) - controls.mean(axis=0)
    projected = away @ np.linalg.pinv(controls - controls.mean(axis=0))
    plain = 1 / case.sum() + 1 / (~case).sum()
    return float(np.sqrt(plain / (plain + projected @ projected)))
