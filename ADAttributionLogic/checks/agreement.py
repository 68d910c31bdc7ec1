"""How far the maps of one run agree, and what they say together; no forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from ADAttributionLogic.checks.findings import MethodAgreement
from ADAttributionLogic.checks.overlap import TOP_REGIONS, densities, rank_correlation
from ADAttributionLogic.checks.question import CheckedMap, Question, Voxels

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Consensus:
    """What all maps say together, voxel by voxel.

    Attributes
    ----------
    mean : ndarray, shape (…), float32
        Mean of the rank-normalised maps: 1 where every map has its largest value, 0 at the smallest and outside the
        brain.
    disagreement : ndarray, shape (…), float32
        Standard deviation (n − 1) of the ranks.
    """

    mean: FloatArray
    disagreement: FloatArray


def compare_methods(question: Question, maps: Sequence[CheckedMap]) -> MethodAgreement | None:
    """Rank correlations of all pairs of maps; None for a single one."""
    if len(maps) < 2:
        return None
    by_region = question.regions is not None and int(question.ranked.sum()) > 2
    rows = [densities(m.values, question) if by_region else m.values[question.brain] for m in maps]
    ranks = [rankdata(row) for row in rows]
    matrix = tuple(tuple(_number(rank_correlation(a, b)) for b in ranks) for a in ranks)
    top: tuple[str, ...] = ()
    if by_region:
        assert question.regions is not None
        names = [r.name for r, is_ranked in zip(question.regions.regions, question.ranked, strict=True) if is_ranked]
        order = np.argsort(-np.mean(ranks, axis=0), kind="stable")[:TOP_REGIONS]
        top = tuple(names[number] for number in order)
    return MethodAgreement(tuple(m.name for m in maps), matrix, "regions" if by_region else "voxels", top)


def consensus(maps: Sequence[CheckedMap], brain: Voxels) -> Consensus | None:
    """The mean of the rank-normalised maps, and how far they disagree; None for a single map."""
    if len(maps) < 2:
        return None
    count = int(brain.sum())
    mean, squares = np.zeros(count), np.zeros(count)
    for number, found in enumerate(maps, start=1):
        ranks = (rankdata(found.values[brain]) - 1) / max(count - 1, 1)
        change = ranks - mean
        mean += change / number
        squares += change * (ranks - mean)
    made = [np.zeros(brain.shape, dtype=np.float32) for _ in range(2)]
    made[0][brain] = mean
    made[1][brain] = np.sqrt(np.maximum(squares, 0) / (len(maps) - 1))
    return Consensus(made[0], made[1])


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
