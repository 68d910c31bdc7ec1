"""How well trained networks do on scans that they have not seen, with intervals over subjects.

A subject's scans are not independent of one another: the bootstrap draws subjects, with all their scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.training.calibration import Calibration, calibration
from ADAttributionLogic.training.metrics import Performance, performance

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 1000
_MEASURES = ("balanced_accuracy", "sensitivity", "specificity", "auc")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network said of scans.

    Attributes
    ----------
    subjects, sites : tuple of str
        Of each scan.
    labels : ndarray of int, shape (N,)
    probabilities : ndarray, shape (N,)
        Of the positive class.
    """

    subjects: tuple[str, ...]
    sites: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: FloatArray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of a network.

    Attributes
    ----------
    performance : Performance
        Over the scans.
    intervals : mapping
        95 % bootstrap interval of each measure, over subjects.
    confusion : tuple of tuple of int
        Rows: truth (negative, positive); columns: answer at a probability of 0.5.
    calibration : Calibration
    sites : mapping
        Of each site its numbers and, where both classes are there, its balanced accuracy and AUC.
    subjects : int
    """

    performance: Performance
    intervals: dict[str, tuple[float, float]]
    confusion: tuple[tuple[int, int], tuple[int, int]]
    calibration: Calibration
    sites: dict[str, dict[str, float | int]]
    subjects: int

    def describe(self) -> dict[str, Any]:
        """Plain values for a card."""
        figures: dict[str, Any] = self.performance.as_dict()
        scans = figures.pop("subjects")  # so it is called there: one scan of each
        return {
            "subjects": self.subjects,
            "scans": scans,
            **figures,
            "intervals_95": {name: [round(v, 4) for v in ends] for name, ends in self.intervals.items()},
            "confusion": {"rows": "truth", "columns": "answer", "matrix": [list(row) for row in self.confusion]},
            "calibration": self.calibration.describe(),
            **({"sites": self.sites} if self.sites else {}),
        }


def evaluate(answers: Answers, seed: int = 0, resamples: int = RESAMPLES) -> Evaluation:
    """Measure a network's answers.

    Raises
    ------
    ValueError
        One of the classes does not occur.
    """
    from sklearn.metrics import confusion_matrix

    labels, said = answers.labels, answers.probabilities
    matrix = confusion_matrix(labels, said >= 0.5, labels=[0, 1])
    return Evaluation(
        performance(labels, said),
        bootstrap_intervals(answers, seed, resamples),
        ((int(matrix[0, 0]), int(matrix[0, 1])), (int(matrix[1, 0]), int(matrix[1, 1]))),
        calibration(labels, said),
        _by_site(answers),
        len(set(answers.subjects)),
    )


def bootstrap_intervals(answers: Answers, seed: int, resamples: int) -> dict[str, tuple[float, float]]:
    """Percentile intervals (Efron 1979) of the measures; resamples without one of the classes are left out."""
    generator = np.random.default_rng(seed)
    names, of_scan = np.unique(np.array(answers.subjects), return_inverse=True)
    times = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    figures = weighted_measures(answers.labels, answers.probabilities, times[:, of_scan].astype(np.float64))
    figures = figures[np.isfinite(figures).all(axis=1)]
    ends = np.percentile(figures, [2.5, 97.5], axis=0)
    return {name: (float(ends[0, n]), float(ends[1, n])) for n, name in enumerate(_MEASURES)}


def weighted_measures(labels: npt.NDArray[np.int64], said: FloatArray, weights: FloatArray) -> FloatArray:
    """The measures of many resamples at once, each of which counts scans so and so many times.

    Parameters
    ----------
    labels, said : ndarray, shape (N,)
    weights : ndarray, shape (R, N)

    Returns
    -------
    ndarray, shape (R, 4)
        Balanced accuracy, sensitivity, specificity, AUC; NaN where one of the classes does not occur.
    """
    positive, answered = labels == 1, said >= 0.5
    of_positive, of_negative = weights[:, positive], weights[:, ~positive]
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = of_positive @ answered[positive] / of_positive.sum(axis=1)
        specificity = of_negative @ ~answered[~positive] / of_negative.sum(axis=1)
        higher = np.sign(said[positive][:, None] - said[~positive][None, :]) / 2 + 0.5
        pairs = of_positive.sum(axis=1) * of_negative.sum(axis=1)
        auc = ((of_positive @ higher) * of_negative).sum(axis=1) / pairs
    return np.stack([(sensitivity + specificity) / 2, sensitivity, specificity, auc], axis=1)


def _by_site(answers: Answers) -> dict[str, dict[str, float | int]]:
    found: dict[str, dict[str, float | int]] = {}
    sites: Sequence[str] = sorted(set(answers.sites))
    if sites in ([], [""]):
        return {}
    for site in sites:
        here = np.array([one == site for one in answers.sites])
        labels, said = answers.labels[here], answers.probabilities[here]
        entry: dict[str, float | int] = {"negative": int((labels == 0).sum()), "positive": int((labels == 1).sum())}
        if min(entry.values()) > 0:
            figures = performance(labels, said)
            entry |= {"balanced_accuracy": round(figures.balanced_accuracy, 4), "auc": round(figures.auc, 4)}
        found[site] = entry
    return found
