"""One value against what controls with the same covariates would have: residualised z with its interval.

The line is fitted on controls alone (Dyrba et al. 2021); here it is only applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import nctdtrinc
from scipy.stats import chi2
from scipy.stats import t as student

from ADAttributionLogic.comparison.scores import FloatArray, has_spread, standard_score

#: |z/√leverage| from which the interval is that of the standard deviation alone.
_FAR = 200.0


@dataclass(frozen=True, eq=False)
class AdjustedScores:
    """Residualised z of each region.

    Attributes
    ----------
    z : ndarray, shape (R,)
        (own − expected) / residual standard deviation; NaN where the controls' residuals have no spread.
    low, high : ndarray, shape (R,)
        Confidence interval of z.
    expected, expected_low, expected_high : ndarray, shape (R,)
        What the controls' line says for these covariates, and where a further control with them lies.
    limit : float
        |z| that a further control with these covariates exceeds with probability 1 − level.
    """

    z: FloatArray
    low: FloatArray
    high: FloatArray
    expected: FloatArray
    expected_low: FloatArray
    expected_high: FloatArray
    limit: float


def adjusted_scores(
    own: npt.ArrayLike,
    expected: npt.ArrayLike,
    residual_sd: npt.ArrayLike,
    leverage: float,
    freedom: int,
    level: float = 0.95,
) -> AdjustedScores:
    """Residualised z by ordinary least squares.

    Parameters
    ----------
    own, expected, residual_sd : array_like, shape (R,)
        Own value; value on the controls' line for this scan's covariates; √(Σ residual² / freedom) of the controls.
    leverage : float
        x₀ᵀ(XᵀX)⁻¹x₀ of this scan's covariates x₀ (with the constant): 1/n in the middle of the controls, more away from
        it.
    freedom : int
        n − number of columns of X.
    level : float
        Of both intervals.

    Returns
    -------
    AdjustedScores
        The interval of `expected` is the prediction interval expected ± t(freedom) · sd · √(1 + leverage). That of z
        takes into account that line and standard deviation are estimates: z/√leverage follows a non-central t
        distribution (Crawford & Garthwaite 2002, Neuropsychologia 40:1196; 2006, Neuropsychology 20:259).
    """
    line, sd = np.asarray(expected, dtype=np.float64), np.asarray(residual_sd, dtype=np.float64)
    z = standard_score(own, line, np.where(has_spread(line, sd), sd, 0.0))
    limit = float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(1 + leverage)
    low, high = score_interval(z, leverage, freedom, level)
    return AdjustedScores(z, low, high, line, line - limit * sd, line + limit * sd, limit)


def score_interval(z: FloatArray, leverage: float, freedom: int, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Confidence interval of z: which true standard scores are compatible with that of these controls.

    Without covariates, `leverage` is 1/n and `freedom` n − 1.
    """
    scale, tails = math.sqrt(leverage), ((1 - level) / 2, (1 + level) / 2)
    # Far from 0 the error of the standard deviation is all that counts, and the search for the other takes seconds.
    is_far = np.abs(z) > _FAR * scale
    far = np.sort([z * math.sqrt(chi2.ppf(p, freedom) / freedom) for p in tails], axis=0)
    near = [scale * nctdtrinc(freedom, 1 - p, np.where(is_far | np.isnan(z), 0.0, z) / scale) for p in tails]
    low, high = (np.where(is_far, f, np.where(np.isnan(z), np.nan, n)) for f, n in zip(far, near, strict=True))
    return low, high
