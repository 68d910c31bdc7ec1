"""Maps by how unusual a region's relevance is: rank by z against controls, as post-processing of a method's map.

Such a map ranks and weighs nothing: of its scores, those by rank mean something (regions, precision, deletion), mass
accuracy and the distance of the regions do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.relevance.region_table import RegionIndex, region_sums

Levels = npt.NDArray[np.float64]


def control_levels(heatmaps: Iterable[npt.NDArray[np.floating]], index: RegionIndex) -> Levels:
    """Mean and standard deviation (2, regions) of the regions' sums in controls' maps of one method."""
    sums = np.stack([region_sums(heatmap, index) for heatmap in heatmaps])
    return np.stack([sums.mean(0), sums.std(0, ddof=1)])


def ordered_by_z(heatmap: npt.NDArray[np.floating], levels: Levels, index: RegionIndex) -> npt.NDArray[np.float64]:
    """A map that ranks voxels by their region's z, and within a region by their relevance.

    Returns
    -------
    ndarray
        0 outside the atlas; elsewhere the region's place by z (1: the lowest) plus the voxel's place within it (< 1),
        so that regions' means are in the order of their z. A region that is the same in all controls has z = 0.
    """
    mean, deviation = levels
    z = np.divide(region_sums(heatmap, index) - mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
    place = np.empty(z.size)
    place[np.argsort(z, kind="stable")] = np.arange(1, z.size + 1)
    ends = np.append(index.starts, index.order.size)
    relevance, ordered = heatmap.ravel()[index.order], np.zeros(heatmap.size)
    for region, (start, stop) in enumerate(pairwise(ends)):
        within = np.empty(stop - start)
        within[np.argsort(relevance[start:stop], kind="stable")] = np.arange(stop - start) / (stop - start)
        ordered[index.order[start:stop]] = place[region] + within
    return ordered.reshape(heatmap.shape)
