"""One value against those of n controls: gain, gain with a floor, z, percentile; all elementwise over regions.

What controls cannot say is NaN: a gain where their mean is 0, a z where they do not differ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from ADAttributionLogic.errors import UsageError

FloatArray = npt.NDArray[np.float64]

#: Fewest controls with a spread.
FEWEST_CONTROLS = 2

#: A standard deviation that is this small beside the mean is rounding.
_ROUNDING = 1e-9


def gain(own: npt.ArrayLike, mean: npt.ArrayLike) -> FloatArray:
    """Own value divided by the mean of the controls (Böhle et al. 2019, *Importance metrics*).

    It is what the field publishes, and explodes where controls have almost no relevance: see :func:`gain_with_floor`.

    Parameters
    ----------
    own, mean : array_like, shape (R,)

    Returns
    -------
    ndarray, shape (R,)
        NaN where the mean is 0.
    """
    return _divided(own, mean)


def gain_with_floor(own: npt.ArrayLike, mean: npt.ArrayLike, sd: npt.ArrayLike) -> FloatArray:
    """Gain whose denominator is never smaller than the controls' standard deviation: own / max(mean, sd).

    Where the mean of n controls is smaller than their standard deviation, it is known to no better than sd/√n of
    itself, and its sign may be open: a ratio to it is noise (Fieller 1954: its confidence set is unbounded). There the
    standard deviation, known to about 1/√(2n), takes its place. With other controls the gain with floor therefore moves
    by at most about 1/√n of itself (.13 for 60 controls), and it never exceeds z + 1 for a value above the mean. Where
    the mean is larger than the standard deviation, it is the plain gain.

    Parameters
    ----------
    own, mean, sd : array_like, shape (R,)

    Returns
    -------
    ndarray, shape (R,)
        NaN where controls have neither a mean above 0 nor a spread.
    """
    floor = np.maximum(np.asarray(mean, dtype=np.float64), np.asarray(sd, dtype=np.float64))
    return _divided(own, np.where(floor > 0, floor, 0.0))


def has_spread(mean: npt.ArrayLike, sd: npt.ArrayLike, rounding: float = _ROUNDING) -> npt.NDArray[np.bool_]:
    """Where controls differ by more than rounding."""
    differs: npt.NDArray[np.bool_] = np.asarray(sd) > rounding * np.abs(np.asarray(mean))
    return differs


def standard_score(own: npt.ArrayLike, mean: npt.ArrayLike, sd: npt.ArrayLike) -> FloatArray:
    """z = (own − mean) / sd, with the standard deviation (n − 1) of the controls.

    Parameters
    ----------
    own, mean, sd : array_like, shape (R,)

    Returns
    -------
    ndarray, shape (R,)
        NaN where the controls have no spread: of a value that all of them share nobody knows what is unusual.
    """
    difference = np.asarray(own, dtype=np.float64) - np.asarray(mean, dtype=np.float64)
    return _divided(difference, np.where(has_spread(mean, sd), sd, 0.0))


def score_limit(n: int, level: float = 0.95) -> float:
    """Between −limit and limit lies the z of a further control with this probability: t(n − 1) · √(1 + 1/n).

    Mean and standard deviation of n controls are estimates themselves; for 20 controls the limit is 2.14, not 1.96
    (Crawford & Howell 1998, The Clinical Neuropsychologist 12:482; normally distributed controls).

    Raises
    ------
    UsageError
        Fewer than two controls.
    """
    require_spread_of(n)
    return float(student.ppf((1 + level) / 2, n - 1)) * math.sqrt(1 + 1 / n)


def percentile(own: npt.ArrayLike, probabilities: npt.ArrayLike, quantiles: npt.ArrayLike, n: int) -> FloatArray:
    """Percentage of controls below a value, from their quantiles.

    Between quantiles it is interpolated; of equal quantiles the middle counts. Beyond the outermost quantiles nothing
    is known but a bound, and no more than 1/(n + 1) can be known from n controls: what lies beyond all of them gets
    100/(n + 1) or 100 n/(n + 1), which :func:`percentile_bounds` tells, and stands for "at most" or "at least".

    Parameters
    ----------
    own : array_like, shape (R,)
    probabilities : array_like, shape (Q,)
        Ascending, 0–1.
    quantiles : array_like, shape (R, Q)
    n : int

    Returns
    -------
    ndarray, shape (R,)
        0–100.
    """
    grid = np.asarray(probabilities, dtype=np.float64)
    rows = np.asarray(quantiles, dtype=np.float64)
    values = np.atleast_1d(np.asarray(own, dtype=np.float64))
    ranks = np.array([_rank(value, grid, row) for value, row in zip(values, rows, strict=True)])
    low, high = percentile_bounds(grid, n)
    found: FloatArray = np.clip(100 * ranks, low, high)
    return found


def percentile_bounds(probabilities: npt.ArrayLike, n: int) -> tuple[float, float]:
    """The lowest and the highest percentile that n controls and this grid of quantiles can tell."""
    grid = np.asarray(probabilities, dtype=np.float64)
    return 100 * max(float(grid[0]), 1 / (n + 1)), 100 * min(float(grid[-1]), n / (n + 1))


def require_spread_of(n: int) -> None:
    """Refuse a reference of one control.

    Raises
    ------
    UsageError
    """
    if n < FEWEST_CONTROLS:
        raise UsageError(
            f"The reference has {n} control{'' if n == 1 else 's'}, and so no spread; a scan is compared with at least "
            f"{FEWEST_CONTROLS}, sensibly with 20 and more. Add controls to it."
        )


def _rank(value: float, grid: FloatArray, quantiles: FloatArray) -> float:
    if not math.isfinite(value) or not np.isfinite(quantiles).all():
        return math.nan
    below, upto = (int(np.searchsorted(quantiles, value, side)) for side in ("left", "right"))
    if below < upto:
        return float(grid[below] + grid[upto - 1]) / 2
    return float(np.interp(value, quantiles, grid))


def _divided(numerator: Any, denominator: Any) -> FloatArray:
    above, below = (np.asarray(a, dtype=np.float64) for a in (numerator, denominator))
    safe = np.where(below == 0, 1, below)
    return np.where(below == 0, np.nan, above / safe)
