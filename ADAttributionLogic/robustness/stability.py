"""Do trainings explain alike: pure functions of the relevance of regions, trainings × regions.

Each training's relevance is divided by its patients' total first: trainings that differ in their answers differ in the
size of all their maps, which ranks nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.comparison.scores import gain
from ADAttributionLogic.study.coherence import TOP, intersections, off_diagonal_mean, top_regions
from ADAttributionLogic.study.group_regions import density, mean_of

FloatArray = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: What ranks regions (Eitel & Ritter 2019, table 2).
QUANTITIES = ("sum", "density", "gain")
#: A region is marked where the border of the top ten lies within the interval in which another training's rank is
#: expected, with this probability.
EXPECTED_WITHIN = 0.95
#: Most splits of the trainings into halves that are looked at.
_SPLITS = 126


@dataclass(frozen=True, eq=False)
class Relevance:
    """What the regions get from each training, by one method.

    Attributes
    ----------
    patients, controls : ndarray, shape (T, R)
        Mean Σ |R| of the true positives, and of all controls, both divided by the patients' total.
    volume_mm3 : ndarray, shape (R,)
    is_ranked : ndarray of bool, shape (R,)
    """

    patients: FloatArray
    controls: FloatArray
    volume_mm3: FloatArray
    is_ranked: Flags

    def values(self, quantity: str) -> FloatArray:
        """What ranks the regions, shape (T, R)."""
        if quantity == "sum":
            return self.patients
        if quantity == "density":
            return density(self.patients, self.volume_mm3)
        return gain(self.patients, self.controls)

    def consensus(self, trainings: Sequence[int]) -> Relevance:
        """Of the mean map of some trainings: one row."""
        chosen = list(trainings)
        mean = [values[chosen].mean(axis=0, keepdims=True) for values in (self.patients, self.controls)]
        return Relevance(mean[0], mean[1], self.volume_mm3, self.is_ranked)

    def tops(self, quantity: str, k: int = TOP) -> list[frozenset[int]]:
        """The first regions of each training."""
        return [top_regions(row, self.is_ranked, k) for row in self.values(quantity)]

    @property
    def trainings(self) -> int:
        """How many."""
        return len(self.patients)


def relevance_of(
    absolute: Sequence[FloatArray],
    probability: Sequence[FloatArray],
    is_patient: Flags,
    volume_mm3: FloatArray,
    is_ranked: Flags,
    threshold: float,
) -> Relevance:
    """Average over people.

    Parameters
    ----------
    absolute : sequence of ndarray, shape (S, R)
        Per training, Σ |R| of each person and region.
    probability : sequence of ndarray, shape (S,)
    """
    patients, controls = [], []
    for sums, answers in zip(absolute, probability, strict=True):
        hits = mean_of(sums, is_patient & (answers >= threshold))
        total = hits.sum()
        patients.append(hits / total)
        controls.append(mean_of(sums, ~is_patient) / total)
    return Relevance(np.array(patients), np.array(controls), volume_mm3, is_ranked)


def consensus_of_methods(relevances: Sequence[Relevance]) -> Relevance:
    """Each training's mean over methods, of which every one counts as much."""
    patients = np.mean([one.patients for one in relevances], axis=0)
    controls = np.mean([one.controls for one in relevances], axis=0)
    return Relevance(patients, controls, relevances[0].volume_mm3, relevances[0].is_ranked)


def coherence(relevance: Relevance, quantity: str) -> float:
    """Mean overlap of the first ten regions of two different trainings."""
    return off_diagonal_mean(intersections(relevance.tops(quantity)))


def consensus_coherence(relevance: Relevance, quantity: str) -> float:
    """Mean overlap of the first ten of the consensus of one half of the trainings with that of the other half.

    The consensus is asked as single trainings are: again on networks that it has not seen. NaN of fewer than four.
    """
    overlaps = []
    for one, other in halves(relevance.trainings):
        tops = [relevance.consensus(half).tops(quantity)[0] for half in (one, other)]
        overlaps.append(intersections(tops)[0, 1])
    return float(np.mean(overlaps)) if overlaps else float("nan")


def halves(count: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Splits into two halves, of an odd number with one left out; all of them, or evenly chosen ones where many."""
    if count < 4:
        return
    half = count // 2
    splits = [
        (one, tuple(sorted(set(range(2 * half)) - set(one))))
        for one in itertools.combinations(range(2 * half), half) if 0 in one
    ]  # fmt: skip
    yield from splits[:: -(-len(splits) // _SPLITS)]


def is_unstable(relevance: Relevance, quantity: str, trainings: Sequence[int]) -> Flags:
    """Regions that are among the first ten of some of these trainings, and not of others, shape (R,)."""
    count = np.zeros(relevance.is_ranked.size, dtype=int)
    tops = relevance.tops(quantity)
    for training in trainings:
        count[list(tops[training])] += 1
    return (count > 0) & (count < len(trainings))


def is_marked(relevance: Relevance, quantity: str, trainings: Sequence[int]) -> Flags:
    """Regions of which the disagreement of these trainings says that they may change their place.

    The border between the tenth and the eleventh rank lies within the prediction interval of another training's rank,
    on a logarithmic scale: mean ± t · s · √(1 + 1/n) (Student 1908), which knows that s is of a few trainings.
    """
    from scipy.stats import t

    count = len(trainings)
    beyond = np.log(ranks(relevance, quantity)[list(trainings)] / (TOP + 0.5))
    within = float(t.ppf((1 + EXPECTED_WITHIN) / 2, count - 1)) * math.sqrt(1 + 1 / count)
    marked: Flags = np.abs(beyond.mean(axis=0)) <= within * beyond.std(axis=0, ddof=1)
    return marked & relevance.is_ranked


@dataclass(frozen=True)
class Marking:
    """How well disagreement tells which regions change between the first ten and the others.

    Attributes
    ----------
    flips : float
        Mean number of regions that do.
    found : float
        Part of them that is marked; NaN where nothing flips.
    marked_of_stable : float
        Part of the other ranked regions that is marked as well.
    """

    flips: float
    found: float
    marked_of_stable: float


def marking(relevance: Relevance, quantity: str) -> Marking:
    """Of the trainings that disagree themselves."""
    everybody = range(relevance.trainings)
    return _marking(relevance, quantity, [(everybody, everybody)])


def marking_of_unseen(relevance: Relevance, quantity: str) -> Marking:
    """Of one half of the trainings by the disagreement of the other: over all splits, both ways."""
    pairs = [pair for one, other in halves(relevance.trainings) for pair in ((one, other), (other, one))]
    return _marking(relevance, quantity, pairs)


def _marking(relevance: Relevance, quantity: str, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Marking:
    flips, hits, stable, wrong = 0, 0, 0, 0
    for seen, held in pairs:
        marked, flipped = is_marked(relevance, quantity, seen), is_unstable(relevance, quantity, held)
        quiet = relevance.is_ranked & ~flipped
        flips, hits = flips + int(flipped.sum()), hits + int((flipped & marked).sum())
        stable, wrong = stable + int(quiet.sum()), wrong + int((quiet & marked).sum())
    nothing = float("nan")
    return Marking(
        flips / len(pairs) if pairs else nothing,
        hits / flips if flips else nothing,
        wrong / stable if stable else nothing,
    )


def ranks(relevance: Relevance, quantity: str) -> FloatArray:
    """Rank of each region per training, shape (T, R), from 1; NaN of regions that are not ranked."""
    from scipy.stats import rankdata

    values = relevance.values(quantity)
    found = np.full(values.shape, np.nan)
    found[:, relevance.is_ranked] = rankdata(-np.nan_to_num(values[:, relevance.is_ranked], nan=-np.inf), axis=1)
    return found
