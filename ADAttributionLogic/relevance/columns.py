"""The columns that a region table may have: titles, units, what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Smaller regions are listed, but not ranked: the mean of a few voxels says nothing of a region (an atlas that a scan
#: was resampled from leaves "vessels" of one voxel, whose density leads any list).
SMALLEST_RANKED_MM3 = 100.0
_UNRANKED = f"a region below {SMALLEST_RANKED_MM3:g} mm³ and the row outside the atlas have none"


def are_ranked(volumes_mm3: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which regions are large enough to be ranked, by their volumes."""
    # The volume of an oblique voxel is a determinant, which rounds.
    large: npt.NDArray[np.bool_] = volumes_mm3 >= SMALLEST_RANKED_MM3 * (1 - 1e-9)
    return large


@dataclass(frozen=True)
class Column:
    """A column of the region table.

    Attributes
    ----------
    name, title : str
    unit : str
        "" for names and numbers without unit; ``relevance`` is the unit of the heatmap (given in its provenance).
    description : str
    kind : type
        str, int or float; a missing float is NaN.
    """

    name: str
    title: str
    unit: str
    description: str
    kind: type


COLUMNS: tuple[Column, ...] = (
    Column("label", "Label", "", "Value in the atlas; 0 for the voxels outside it", int),
    Column("name", "Region", "", "Name in the atlas", str),
    Column("hemisphere", "Side", "", "left, right, midline, both (merged) or unknown", str),
    Column("rank", "Sum rank", "", f"1 = largest sum; {_UNRANKED}", int),
    Column("sum", "Sum", "relevance", "Sum of the relevance of all voxels, with sign", float),
    Column("share", "Share", "fraction", "Sum divided by the sum over all regions (Rieke et al. 2018)", float),
    Column("density", "Density", "relevance/mm³", "Sum divided by the volume (Böhle et al. 2019, per mm³)", float),
    Column("density_rank", "Rank", "", f"1 = largest density; {_UNRANKED}", int),
    Column("absolute_sum", "Absolute sum", "relevance", "Sum of magnitudes (Eitel & Ritter 2019)", float),
    Column("positive_sum", "Positive sum", "relevance", "Sum of the positive relevance", float),
    Column("voxels", "Voxels", "voxels", "Number of voxels on the heatmap's grid", int),
    Column("volume_mm3", "Volume", "mm³", "Voxels times the volume of one", float),
    Column("peak", "Peak", "relevance", "Relevance of the voxel with the largest magnitude", float),
    Column("peak_r", "Peak R", "mm", "Its position, towards the right", float),
    Column("peak_a", "Peak A", "mm", "Its position, towards anterior", float),
    Column("peak_s", "Peak S", "mm", "Its position, towards superior", float),
    Column(
        "asymmetry",
        "Asymmetry",
        "",
        "(left − right) / (|left| + |right|) of the sums of a pair; missing without a pair",
        float,
    ),
)

#: Columns in which 0 stands for "not ranked", and by what they rank; files leave the number out.
RANKED_BY = {"rank": "sum", "density_rank": "density", "z_rank": "z", "z_adjusted_rank": "z_adjusted"}
RANKS = tuple(RANKED_BY)

#: Only in the tables of methods that cover whole regions.
DROP = Column(
    "drop",
    "Drop",
    "score",
    "How much the explained score falls when the region is covered, with sign (Rieke et al. 2018); missing outside",
    float,
)


#: Only in the tables of ensembles.
MEMBER_SD = Column(
    "member_sd",
    "Sum, sd",
    "relevance",
    "Standard deviation (n − 1) of the sum over the networks of an ensemble, on the network's grid; missing outside",
    float,
)
MEMBER_TOP_TEN = Column(
    "member_top_ten",
    "In top ten of",
    "networks",
    "How many networks of an ensemble have the region among their ten largest densities; missing outside",
    float,
)

#: Only in the tables of scans that were compared with a reference. All but the ranks come from :mod:`..comparison`.
COMPARED: tuple[Column, ...] = (
    Column(
        "z",
        "z",
        "sd",
        "(Value − mean of the controls) / their standard deviation; of the share or the sum, as the comparison says",
        float,
    ),
    Column("z_rank", "z rank", "", f"1 = largest z; {_UNRANKED}", int),
    Column(
        "percentile",
        "Percentile",
        "%",
        "Controls with a smaller value; beyond all n controls 100/(n + 1) or 100 n/(n + 1), which is a bound",
        float,
    ),
    Column(
        "gain",
        "Gain",
        "",
        "Sum divided by the mean of the controls (Böhle et al. 2019); explodes where that is 0",
        float,
    ),
    Column(
        "gain_floor",
        "Gain, floor",
        "",
        "Sum divided by the mean of the controls or their standard deviation, whichever is larger",
        float,
    ),
)

#: Only where covariates were given as well.
ADJUSTED: tuple[Column, ...] = (
    Column(
        "z_adjusted",
        "z adjusted",
        "sd",
        "z of what covariates do not explain: (value − expected) / residual standard deviation of the controls",
        float,
    ),
    Column("z_adjusted_low", "z adj., from", "sd", "95 % confidence interval of the adjusted z, lower end", float),
    Column("z_adjusted_high", "z adj., to", "sd", "95 % confidence interval of the adjusted z, upper end", float),
    Column("z_adjusted_rank", "z adj. rank", "", f"1 = largest adjusted z; {_UNRANKED}", int),
    Column("expected", "Expected", "", "Share or sum that controls with the scan's covariates have on average", float),
    Column("expected_low", "Expected, from", "", "95 % of such controls lie above this", float),
    Column("expected_high", "Expected, to", "", "… and below this (prediction interval)", float),
)

#: All columns that a table may have.
ALL_COLUMNS = (*COLUMNS, DROP, MEMBER_SD, MEMBER_TOP_TEN, *COMPARED, *ADJUSTED)
