"""Age, sex, head size and site taken out of values, with coefficients from controls only (Dyrba et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import UsageError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Design:
    """Covariates as columns of numbers.

    Attributes
    ----------
    names : tuple of str
        Of the columns; a category's are called ``site=B``.
    columns : ndarray, shape (n, p)
        Without the constant; not centred.
    """

    names: tuple[str, ...]
    columns: FloatArray

    @property
    def matrix(self) -> FloatArray:
        """With the constant in front, shape (n, 1 + p)."""
        return np.column_stack([np.ones(len(self.columns)), self.columns])


def design(values: Mapping[str, Sequence[str]], controls: npt.NDArray[np.bool_]) -> Design:
    """Make columns of covariates: numbers as they are, categories as one column per value but the first.

    Parameters
    ----------
    values : mapping of str to sequence of str
        By covariate, as the table has them; none may be missing.
    controls : ndarray of bool, shape (n,)
        Their values must determine all coefficients.

    Raises
    ------
    UsageError
        A value is missing, only patients have a category, or the controls cannot tell two covariates apart.
    """
    names: list[str] = []
    columns: list[FloatArray] = []
    for name, texts in values.items():
        missing = sum(not text for text in texts)
        if missing:
            raise UsageError(
                f"{missing} of {len(texts)} subjects have no {name}. Fill it in, or leave the covariate out."
            )
        numbers = _numbers(texts)
        if numbers is not None:
            names.append(name)
            columns.append(numbers)
            continue
        levels = sorted({text for text, control in zip(texts, controls, strict=True) if control})
        strange = sorted(set(texts) - set(levels))
        if strange:
            raise UsageError(
                f"No control has {name} {strange[0]!r}, so that its effect cannot be told from the disease."
            )
        if len(levels) > max(10, len(texts) // 5):
            raise UsageError(f"{name} has {len(levels)} different values and is no number: is it a covariate?")
        for level in levels[1:]:
            names.append(f"{name}={level}")
            columns.append(np.array([float(text == level) for text in texts]))
    made = Design(tuple(names), np.column_stack(columns) if columns else np.zeros((len(controls), 0)))
    _require_determined(made, controls)
    return made


def residualised(values: npt.ArrayLike, covariates: Design, controls: npt.NDArray[np.bool_]) -> FloatArray:
    """Values minus what the covariates explain, plus the controls' mean; fitted on controls, applied to everyone.

    Adding the mean keeps the values' size, so that ratios of group means keep their meaning.

    Parameters
    ----------
    values : array_like, shape (n, R)
    covariates : Design
    controls : ndarray of bool, shape (n,)

    Returns
    -------
    ndarray, shape (n, R)
    """
    all_values = np.asarray(values, dtype=np.float64)
    centred = covariates.columns - covariates.columns[controls].mean(axis=0)
    slopes = coefficients(all_values, covariates, controls)
    residuals: FloatArray = all_values - centred @ slopes
    return residuals


def coefficients(values: npt.ArrayLike, covariates: Design, controls: npt.NDArray[np.bool_]) -> FloatArray:
    """Least-squares slopes, shape (p, R), from the controls."""
    inside = np.asarray(values, dtype=np.float64)[controls]
    columns = covariates.columns[controls]
    centred = columns - columns.mean(axis=0)
    slopes: FloatArray = np.linalg.pinv(centred) @ (inside - inside.mean(axis=0))
    return slopes


def _numbers(texts: Sequence[str]) -> FloatArray | None:
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _require_determined(made: Design, controls: npt.NDArray[np.bool_]) -> None:
    n, p = int(controls.sum()), made.columns.shape[1]
    if n < p + 3:
        raise UsageError(f"{n} controls are too few for {p} columns of covariates; at least {p + 3} are needed.")
    inside = made.columns[controls]
    spread = inside.std(axis=0)
    if (spread == 0).any():
        raise UsageError(f"All controls have the same {made.names[int(np.argmin(spread))]}: it explains nothing.")
    scaled = (inside - inside.mean(axis=0)) / np.where(spread == 0, 1, spread)
    if np.linalg.matrix_rank(scaled, tol=1e-8 * max(n, 1)) < p:
        raise UsageError(
            f"Among the controls, the covariates {', '.join(made.names)} say the same twice; leave one out."
        )
