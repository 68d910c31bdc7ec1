"""How well a network tells two classes apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Performance:
    """Figures of a two-class network on a set of scans.

    Attributes
    ----------
    subjects : int
    balanced_accuracy, sensitivity, specificity : float
        At probability 0.5; sensitivity is of the positive class.
    auc : float
        Area under the ROC curve of the *probabilities* (not of hard decisions).
    """

    subjects: int
    balanced_accuracy: float
    sensitivity: float
    specificity: float
    auc: float

    def as_dict(self) -> dict[str, float | int]:
        """Plain values, rounded to four digits."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


def performance(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Performance:
    """Compare probabilities of the positive class with true labels (0, 1).

    Raises
    ------
    ValueError
        One of the classes does not occur.
    """
    from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

    truth, scores = np.asarray(labels, dtype=int), np.asarray(probabilities, dtype=float)
    if set(truth.tolist()) != {0, 1}:
        raise ValueError(
            f"Both classes must occur to measure a performance, but the labels are {sorted(set(truth.tolist()))}."
        )
    decisions = (scores >= 0.5).astype(int)
    return Performance(
        subjects=int(truth.size),
        balanced_accuracy=float(balanced_accuracy_score(truth, decisions)),
        sensitivity=float(recall_score(truth, decisions, pos_label=1)),
        specificity=float(recall_score(truth, decisions, pos_label=0)),
        auc=float(roc_auc_score(truth, scores)),
    )
