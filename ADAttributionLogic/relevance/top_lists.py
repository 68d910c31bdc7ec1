"""Which regions lead a ranking, as the field's tables compare them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Length of the lists that are compared (Böhle et al. 2019, Eitel & Ritter 2019).
TOP = 10


def is_among_top(values: npt.ArrayLike, is_ranked: npt.NDArray[np.bool_], count: int = TOP) -> npt.NDArray[np.bool_]:
    """Which regions are among the largest of those that are ranked; of equal ones the first.

    Parameters
    ----------
    values : array_like, shape (R,)
        Where it is not a number, there is no rank.
    is_ranked : ndarray of bool, shape (R,)
    count : int
        Length of the list; where fewer are ranked, it holds all of them.
    """
    numbers = np.asarray(values, dtype=np.float64)
    candidates = np.flatnonzero(is_ranked & np.isfinite(numbers))
    found = np.zeros(numbers.shape, dtype=bool)
    found[candidates[np.argsort(-numbers[candidates], kind="stable")[:count]]] = True
    return found
