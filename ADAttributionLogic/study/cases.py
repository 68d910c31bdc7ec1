"""Who counts as what: both groups, and how the network saw each of their members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import UsageError

#: What a probability is rounded at (Böhle et al. 2019).
THRESHOLD = 0.5


@dataclass(frozen=True)
class Groups:
    """The two groups that are compared, e.g. AD and HC; any two labels of a table.

    Attributes
    ----------
    positive, negative : str
        Patients and controls, as tables and figures call them.
    """

    positive: str = "AD"
    negative: str = "HC"

    @property
    def names(self) -> tuple[str, ...]:
        """All cases, in the order of the papers."""
        return (self.positive, self.negative, "TP", "TN", "FP", "FN")


def cases(
    is_positive: npt.ArrayLike, probability: npt.ArrayLike, groups: Groups, threshold: float = THRESHOLD
) -> dict[str, npt.NDArray[np.bool_]]:
    """Say for each case who belongs to it.

    Parameters
    ----------
    is_positive : array_like of bool, shape (n,)
        By diagnosis.
    probability : array_like, shape (n,)
        Of the positive class; or a score, with its threshold.
    groups : Groups
    threshold : float
        From it on the network says "positive".

    Returns
    -------
    dict of str to ndarray of bool, shape (n,)
        The two groups, and true and false positives and negatives (Böhle et al. 2019, *Results*).

    Raises
    ------
    UsageError
        A probability is missing.
    """
    truth, said = np.asarray(is_positive, dtype=bool), np.asarray(probability, dtype=np.float64)
    if not np.isfinite(said).all():
        raise UsageError(f"{int((~np.isfinite(said)).sum())} of {said.size} answers of the network are not numbers.")
    yes = said >= threshold
    return dict(zip(groups.names, (truth, ~truth, truth & yes, ~truth & ~yes, ~truth & yes, truth & ~yes), strict=True))


def performance(found: dict[str, npt.NDArray[np.bool_]], groups: Groups) -> dict[str, float]:
    """How well the network tells the groups apart.

    Returns
    -------
    dict
        ``n`` and the number of each case, ``sensitivity``, ``specificity`` and ``balanced_accuracy`` (their mean); NaN
        where a group is empty.
    """
    counts = {name: float(members.sum()) for name, members in found.items()}

    def ratio(part: str, whole: str) -> float:
        return counts[part] / counts[whole] if counts[whole] else float("nan")

    sensitivity, specificity = ratio("TP", groups.positive), ratio("TN", groups.negative)
    balanced = (sensitivity + specificity) / 2
    rates = {"sensitivity": sensitivity, "specificity": specificity, "balanced_accuracy": balanced}
    return {"n": counts[groups.positive] + counts[groups.negative], **counts, **rates}


def area_under_curve(is_positive: npt.ArrayLike, probability: npt.ArrayLike) -> float:
    """Area under the ROC curve of the probabilities, not of rounded answers: P(patient > control) + ½ P(equal)."""
    from scipy.stats import rankdata

    truth = np.asarray(is_positive, dtype=bool)
    n, m = int(truth.sum()), int((~truth).sum())
    if not n or not m:
        return float("nan")
    ranks = rankdata(np.asarray(probability, dtype=np.float64))
    return float((ranks[truth].sum() - n * (n + 1) / 2) / (n * m))


def require_members(found: dict[str, npt.NDArray[np.bool_]], names: Sequence[str], least: int) -> None:
    """Refuse groups that are too small.

    Raises
    ------
    UsageError
    """
    for name in names:
        count = int(found[name].sum())
        if count < least:
            raise UsageError(f"The group {name} has {count} subjects; a study compares groups of at least {least}.")
