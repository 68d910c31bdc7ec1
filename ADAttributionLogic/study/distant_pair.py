"""The two patients whom the network judged for the most different reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Only of those the network is sure of (Böhle et al. 2019).
LEAST_PROBABILITY = 0.9


@dataclass(frozen=True)
class DistantPair:
    """Two subjects (their row numbers), and the cosine between their vectors of regions."""

    first: int
    second: int
    cosine: float


def most_distant_pair(vectors: npt.ArrayLike, candidates: npt.NDArray[np.bool_]) -> DistantPair | None:
    """The pair of candidates with the smallest cosine between their region vectors; None of fewer than two.

    Parameters
    ----------
    vectors : array_like, shape (n, R)
        Sums of relevance. A vector of zeros has no direction and is left out.
    candidates : ndarray of bool, shape (n,)
        True positives with a probability above :data:`LEAST_PROBABILITY`.
    """
    numbers = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(numbers, axis=1)
    rows = np.flatnonzero(candidates & (lengths > 0))
    if rows.size < 2:
        return None
    units = numbers[rows] / lengths[rows, None]
    cosines = units @ units.T
    first, second = np.triu_indices(rows.size, 1)
    best = int(np.argmin(cosines[first, second]))
    i, j = int(first[best]), int(second[best])
    return DistantPair(int(rows[i]), int(rows[j]), float(cosines[i, j]))
