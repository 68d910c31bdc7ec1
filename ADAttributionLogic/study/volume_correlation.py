"""Does a region get relevance because it is small? Correlation of relevance with volume over subjects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.study.permutation import benjamini_hochberg

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VolumeCorrelation:
    """Per region.

    Attributes
    ----------
    r : ndarray, shape (R,)
        Pearson's; NaN where relevance or volume is the same for all.
    p : ndarray, shape (R,)
        Two-sided, by permutation of the volumes over the subjects.
    q : ndarray, shape (R,)
        Benjamini–Hochberg over the regions.
    n : int
        Subjects.
    """

    r: FloatArray
    p: FloatArray
    q: FloatArray
    n: int


def volume_correlation(
    relevance: npt.ArrayLike, volumes: npt.ArrayLike, permutations: int = 1000, seed: int = 0
) -> VolumeCorrelation:
    """Correlate, region by region (Böhle et al. 2019: 1000 permutations; Dyrba et al. 2021 with residuals of both).

    Parameters
    ----------
    relevance, volumes : array_like, shape (n, R)
        Of the same subjects and regions, e.g. of the true positives; residualised beforehand where covariates count.
    permutations : int
    seed : int
    """
    first, second = _standardised(relevance), _standardised(volumes)
    observed = (first * second).sum(axis=0)
    generator = np.random.default_rng(seed)
    as_large = np.zeros(observed.shape)
    for _ in range(permutations):
        shuffled = second[generator.permutation(len(second))]
        as_large += np.abs((first * shuffled).sum(axis=0)) >= np.abs(observed) * (1 - 1e-10)
    p = np.where(np.isfinite(observed), (1 + as_large) / (1 + permutations), np.nan)
    return VolumeCorrelation(observed, p, benjamini_hochberg(p), len(first))


def _standardised(values: npt.ArrayLike) -> FloatArray:
    """Centred, of length 1; NaN where all are equal."""
    numbers = np.asarray(values, dtype=np.float64)
    centred = numbers - numbers.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    flat = length <= 1e-12 * np.linalg.norm(numbers, axis=0)
    return np.where(flat, np.nan, centred / np.where(flat, 1, length))
