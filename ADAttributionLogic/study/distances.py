"""How far mean maps are from one another, as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.monitor import Monitor

FloatArray = npt.NDArray[np.float64]

#: What a map is divided by: its sum (Rieke et al. 2018) or its maximum (Eitel & Ritter 2019).
Scale = Literal["sum", "maximum"]

#: A sum that is this small beside the sum of magnitudes is what positive and negative relevance leave of each other.
_CANCELLED = 1e-6

#: Voxels of all maps that are in memory at a time.
_SLAB = 1 << 20


def map_distances(maps: Sequence[npt.NDArray[Any]], scale: Scale, monitor: Monitor | None = None) -> FloatArray:
    """Distances of all pairs of maps: ‖a/Σa − b/Σb‖₂, or ‖a/max a − b/max b‖₂.

    Parameters
    ----------
    maps : sequence of ndarray
        On one grid; memory-mapped files are read slab by slab.
    scale : {"sum", "maximum"}
        ``sum`` is the heatmap distance of Rieke et al. 2018 (table 2), ``maximum`` the L2 norm of Eitel & Ritter 2019
        (table 1).

    Returns
    -------
    ndarray, shape (m, m)
        NaN beside a map that cannot be scaled: its sum or its maximum is not above 0. (Of signed maps the sum may be
        what is left of two large numbers; their distances by sum say little.)

    Raises
    ------
    UsageError
        They are of different sizes.
    """
    shapes = {m.shape for m in maps}
    if len(shapes) > 1:
        raise UsageError(f"Maps of different sizes have no distance: {sorted(shapes)}.")
    monitor = monitor or Monitor()
    flat = [m.reshape(-1) for m in maps]
    size = flat[0].size if flat else 0
    divisors = np.array([_divisor(m, scale) for m in flat])
    squares = np.zeros((len(flat), len(flat)))
    # Difference before square: from norms and products, the distance of maps that are nearly equal would be rounding.
    for start in range(0, size, _SLAB):
        monitor.report(start / size, "distances of maps")
        slab = [m[start : start + _SLAB].astype(np.float64) / d for m, d in zip(flat, divisors, strict=True)]
        for i, one in enumerate(slab):
            for j in range(i + 1, len(slab)):
                difference = one - slab[j]
                squares[i, j] += float(difference @ difference)
    distances: FloatArray = np.sqrt(squares + squares.T)
    unknown = ~np.isfinite(divisors)
    distances[unknown] = np.nan
    distances[:, unknown] = np.nan
    return distances


def _divisor(flat: npt.NDArray[Any], scale: Scale) -> float:
    if scale == "maximum":
        largest = float(flat.max())
        return largest if largest > 0 else float("nan")
    total = float(flat.sum(dtype=np.float64))
    magnitude = sum(float(np.abs(flat[s : s + _SLAB]).sum(dtype=np.float64)) for s in range(0, flat.size, _SLAB))
    return total if total > _CANCELLED * magnitude else float("nan")
