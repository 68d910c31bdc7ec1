"""What age, sex and the like do to a region's relevance among controls: least squares, as Dyrba et al. 2021.

Fitted on controls only. What is kept suffices to say of a new scan what a control of that age and sex would have, with
its prediction interval (:func:`~ADAttributionLogic.comparison.adjusted.adjusted_scores`); nobody's own values are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ReferenceCohortError

Values = npt.NDArray[np.float64]

#: Columns of the design that are that nearly dependent on one another (relative to the largest singular value) are.
_DEPENDENT = 1e-8


@dataclass(frozen=True)
class Term:
    """A covariate.

    Attributes
    ----------
    name : str
    kind : {"number", "category"}
    mean : float
        Of the controls; subtracted from a number.
    low, high : float
        Range of the controls (of a number).
    levels : tuple of str
        Of a category, sorted; the first is the one that the others are compared with.
    """

    name: str
    kind: Literal["number", "category"]
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    levels: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns in the design."""
        return (self.name,) if self.kind == "number" else tuple(f"{self.name}={level}" for level in self.levels[1:])

    def describe(self) -> dict[str, Any]:
        """Plain values for a card."""
        if self.kind == "number":
            return {"name": self.name, "kind": self.kind, "mean": self.mean, "range": [self.low, self.high]}
        return {"name": self.name, "kind": self.kind, "levels": list(self.levels)}


@dataclass(frozen=True, eq=False)
class CovariateModel:
    """The covariates of a reference; the coefficients are with each region's statistics.

    Attributes
    ----------
    terms : tuple of Term
    inverse : ndarray, shape (P, P)
        (XᵀX)⁻¹ of the design (intercept first, numbers about their means).
    dof : int
        Controls minus P.
    """

    terms: tuple[Term, ...]
    inverse: Values = field(repr=False)
    dof: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the covariates."""
        return tuple(term.name for term in self.terms)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the design, in the order of the coefficients."""
        return ("intercept", *(column for term in self.terms for column in term.columns))

    def row(self, values: Mapping[str, Any]) -> Values:
        """A scan's row of the design (P,).

        Parameters
        ----------
        values : mapping of str to float or str
            By name of the covariate; others are ignored.

        Raises
        ------
        ReferenceCohortError
            A covariate is missing, is no number, or is a category that no control had.
        """
        by_name = {name.lower(): value for name, value in values.items()}
        missing = [t.name for t in self.terms if _is_missing(by_name.get(t.name.lower()))]
        if missing:
            raise ReferenceCohortError(
                f"The reference is adjusted for {', '.join(self.names)}; of this scan {', '.join(missing)} is not "
                "known. Give it, or compare without covariates."
            )
        row = [1.0]
        for term in self.terms:
            row += _columns(term, by_name[term.name.lower()])
        return np.array(row)

    def beyond(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """A sentence for each number outside of what controls had: there the line is drawn on unseen ground."""
        by_name = {name.lower(): value for name, value in values.items()}
        found = []
        for term in self.terms:
            value = by_name.get(term.name.lower())
            if term.kind == "number" and not _is_missing(value):
                number = _number(term.name, value)
                if not term.low <= number <= term.high:
                    found.append(
                        f"{term.name} {number:g} is outside the reference's range ({term.low:g} to {term.high:g})."
                    )
        return tuple(found)

    def describe(self) -> dict[str, Any]:
        """Plain values for a card; see :func:`read_covariates`."""
        return {"terms": [t.describe() for t in self.terms], "inverse": self.inverse.tolist(), "dof": self.dof}


def read_covariates(entry: Mapping[str, Any]) -> CovariateModel:
    """The inverse of :meth:`CovariateModel.describe`.

    Raises
    ------
    ReferenceCohortError
        The matrix does not fit the covariates.
    """
    terms = tuple(
        Term(t["name"], "number", float(t["mean"]), float(t["range"][0]), float(t["range"][1]))
        if t["kind"] == "number"
        else Term(t["name"], "category", levels=tuple(t["levels"]))
        for t in entry["terms"]
    )
    try:
        inverse = np.array(entry["inverse"], dtype=np.float64)
    except ValueError as cause:
        raise ReferenceCohortError(f"The covariates' matrix is none: {cause}.") from cause
    model = CovariateModel(terms, inverse, int(entry["dof"]))
    count = len(model.columns)
    if inverse.shape != (count, count) or not np.isfinite(inverse).all():
        raise ReferenceCohortError(
            f"The covariates' matrix has shape {inverse.shape}; {count} columns need {count}×{count} finite numbers."
        )
    return model


@dataclass(frozen=True, eq=False)
class Design:
    """The covariates of all controls, ready for fitting.

    Attributes
    ----------
    model : CovariateModel
    matrix : ndarray, shape (n, P)
    """

    model: CovariateModel
    matrix: Values

    def fit(self, values: Values) -> tuple[Values, Values]:
        """Ordinary least squares of each column.

        Parameters
        ----------
        values : ndarray, shape (n, R)

        Returns
        -------
        coefficients : ndarray, shape (P, R)
        residual_sd : ndarray, shape (R,)
            √(Σ residual² / (n − P)).
        """
        coefficients: Values = np.asarray(np.linalg.lstsq(self.matrix, values, rcond=None)[0], dtype=np.float64)
        residuals = values - self.matrix @ coefficients
        spread: Values = np.sqrt((residuals**2).sum(axis=0) / self.model.dof)
        # What least squares leaves of columns without any spread is rounding.
        spread[values.max(axis=0) == values.min(axis=0)] = 0.0
        return coefficients, spread


def design_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Design:
    """Take covariates from the controls' rows: numbers if all of them are, else categories.

    Parameters
    ----------
    rows : sequence of mapping of str to str or float
        One per control, each with all of the names.
    names : sequence of str

    Raises
    ------
    ReferenceCohortError
        A covariate that is the same for all, that follows from others, or too few controls for so many.
    """
    terms = tuple(_term(name, [row[name] for row in rows]) for name in names)
    matrix: Values = np.array([[1.0, *(v for t in terms for v in _columns(t, row[t.name]))] for row in rows])
    count = matrix.shape[1]
    if len(rows) - count < 2:
        raise ReferenceCohortError(
            f"{len(rows)} controls are too few for the covariates {', '.join(names)}: the least squares have {count} "
            f"coefficients and need at least {count + 2} controls. Take fewer covariates or more controls."
        )
    scale: Values = np.sqrt((matrix**2).sum(axis=0))
    singular = np.linalg.svd(matrix / scale, compute_uv=False)
    if singular[-1] < _DEPENDENT * singular[0]:
        raise ReferenceCohortError(
            f"Among the controls the covariates {', '.join(names)} follow from one another, so that nobody can tell "
            "what is due to which. Leave one out."
        )
    inverse: Values = np.linalg.inv((matrix / scale).T @ (matrix / scale)) / np.outer(scale, scale)
    return Design(CovariateModel(terms, inverse, len(rows) - count), matrix)


def _term(name: str, values: Sequence[Any]) -> Term:
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        levels = tuple(sorted({str(value) for value in values}))
        term = Term(name, "category", levels=levels)
    else:
        if not np.isfinite(numbers).all():
            raise ReferenceCohortError(f"The covariate {name} has values that are not finite.")
        low, high = float(numbers.min()), float(numbers.max())
        term = Term(name, "number", float(numbers.mean()), low, high)
    if len(term.levels) == 1 or (term.kind == "number" and term.low == term.high):
        raise ReferenceCohortError(
            f"The covariate {name} is {values[0]} for all controls, so that nothing can be adjusted for it. Leave it "
            "out, or add controls that differ."
        )
    return term


def _columns(term: Term, value: Any) -> list[float]:
    if term.kind == "number":
        return [_number(term.name, value) - term.mean]
    if str(value) not in term.levels:
        raise ReferenceCohortError(
            f"{term.name} is {value!s}, which no control of the reference is; they are {', '.join(term.levels)}."
        )
    return [float(str(value) == level) for level in term.levels[1:]]


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as cause:
        raise ReferenceCohortError(f"{name} is {value!r}, but the reference needs a number.") from cause
    if not math.isfinite(number):
        raise ReferenceCohortError(f"{name} is {value!r}; a finite number is needed.")
    return number


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
