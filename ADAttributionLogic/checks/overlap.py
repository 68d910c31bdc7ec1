"""How much of a map's top another map shares: the regions that lead, the voxels that lead, and what chance gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from ADAttributionLogic.checks.question import Question
from ADAttributionLogic.relevance.region_table import region_sums

#: Length of the lists of regions that are compared, as the field does (Eitel & Ritter 2019).
TOP_REGIONS = 10
#: Part of the brain's voxels that counts as a map's top.
TOP_VOXELS = 0.01

Values = npt.NDArray[np.float64]


def densities(values: npt.NDArray[Any], question: Question) -> Values:
    """Relevance per mm³ of the regions that are large enough to be ranked."""
    assert question.regions is not None
    return np.asarray((region_sums(values, question.regions) / question.volumes_mm3)[question.ranked])


def top_regions(values: npt.NDArray[Any], question: Question) -> npt.NDArray[np.bool_]:
    """Which of the ranked regions are among the largest densities; of equal ones the first."""
    return top(densities(values, question), TOP_REGIONS)


def top_voxels(values: npt.NDArray[Any], question: Question) -> npt.NDArray[np.bool_]:
    """Which of the brain's voxels are among the largest; of equal ones the first."""
    inside = values[question.brain]
    return top(inside, round(TOP_VOXELS * inside.size))


def top(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.bool_]:
    """Which values are among the `count` largest (at least one)."""
    found = np.zeros(values.shape, dtype=bool)
    found[np.argsort(-values, kind="stable")[: max(count, 1)]] = True
    return found


def chance_of_regions(question: Question) -> float:
    """Share of two random top lists of regions that is the same."""
    count = int(question.ranked.sum())
    return min(TOP_REGIONS, count) / count if count else float("nan")


def rank_correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Spearman's; NaN where one does not vary."""
    a, b = rankdata(first), rankdata(second)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")
