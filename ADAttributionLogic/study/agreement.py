"""Do methods, settings and networks agree: coherence of their top regions, and distances of their mean maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.relevance.top_lists import TOP
from ADAttributionLogic.study.analysis import members_of
from ADAttributionLogic.study.coherence import (
    chance_limit,
    chance_overlap,
    intersections,
    intraclass_correlation,
    kendalls_w,
    off_diagonal_mean,
    top_regions,
)
from ADAttributionLogic.study.group_regions import density, group_gain, mean_of
from ADAttributionLogic.study.material import MapSet, Material
from ADAttributionLogic.study_figures.tables import Table, matrix_table

FloatArray = npt.NDArray[np.float64]

#: Quantities that rank regions; ``absolute`` sums magnitudes, as Eitel & Ritter 2019 do.
QUANTITIES = ("sum", "density", "gain", "absolute sum", "absolute density", "absolute gain")


@dataclass(frozen=True, eq=False)
class Family:
    """Sets of maps that differ in one thing only.

    Attributes
    ----------
    over : str
        In what: ``methods``, ``beta`` or another option, ``networks``.
    of : str
        What they share.
    sets : tuple of MapSet
    """

    over: str
    of: str
    sets: tuple[MapSet, ...]


def families(sets: Sequence[MapSet]) -> list[Family]:
    """All groups of two and more sets that differ in one thing: method, one option, or network."""
    found = []
    for network in dict.fromkeys(s.network for s in sets):
        here = [s for s in sets if s.network == network]
        first = list({s.method: s for s in reversed(here)}.values())[::-1]
        if len(first) > 1:
            found.append(Family("methods", network, tuple(first)))
    for method in dict.fromkeys(s.method for s in sets):
        same = [s for s in sets if s.method == method]
        for option in same[0].options:
            by_rest: dict[str, list[MapSet]] = {}
            for one in same:
                by_rest.setdefault(json.dumps({k: v for k, v in one.options.items() if k != option}), []).append(one)
            for group in by_rest.values():
                distinct = list({json.dumps(s.options.get(option)): s for s in reversed(group)}.values())
                if len(distinct) > 1:
                    ordered = sorted(distinct, key=lambda s: json.dumps(s.options[option]))
                    found.append(Family(option, method, tuple(ordered)))
        for group in _by_options(same):
            distinct = list({s.network: s for s in group}.values())
            if len(distinct) > 1:
                found.append(Family("networks", method, tuple(distinct)))
    return found


def _by_options(sets: Sequence[MapSet]) -> list[list[MapSet]]:
    groups: dict[str, list[MapSet]] = {}
    for one in sets:
        groups.setdefault(json.dumps(dict(one.options), sort_keys=True), []).append(one)
    return list(groups.values())


@dataclass(frozen=True, eq=False)
class Coherence:
    """Overlap of top regions within a family, for one quantity.

    Attributes
    ----------
    family : Family
    quantity : str
    matrix : ndarray, shape (m, m)
    w, icc : float
        Kendall's W and ICC(3,1) over all ranked regions (of values divided by their sum of magnitudes).
    subjects : int
        True positives that all sets have.
    """

    family: Family
    quantity: str
    matrix: FloatArray
    w: float
    icc: float
    subjects: int


def coherences(family: Family, material: Material, threshold: float) -> list[Coherence]:
    """Coherence of a family for every quantity; only subjects whom all of its sets have count."""
    common = np.all([s.has_result for s in family.sets], axis=0)
    ranked = material.regions.is_ranked
    found = []
    for quantity in QUANTITIES:
        values, fewest = [], len(material.subjects)
        for one in family.sets:
            members = {name: m & common for name, m in members_of(one, material, threshold).items()}
            values.append(_ranked_by(quantity, one, members, material))
            fewest = min(fewest, int(members["TP"].sum()))
        try:
            tops = [top_regions(v, ranked) for v in values]
        except UsageError:
            continue  # an atlas of fewer regions, or cases without anybody
        both = ranked & np.isfinite(values).all(axis=0)
        scaled = np.array([v[both] / (np.abs(v[both]).sum() or 1) for v in values])
        found.append(
            Coherence(family, quantity, intersections(tops), kendalls_w(scaled), intraclass_correlation(scaled), fewest)
        )
    return found


def _ranked_by(
    quantity: str, maps: MapSet, members: dict[str, npt.NDArray[np.bool_]], material: Material
) -> FloatArray:
    absolute, _, kind = quantity.rpartition(" ")
    values = maps.absolute if absolute else maps.sums
    if kind == "gain":
        return group_gain(values, members["TP"], members[material.groups.negative])
    mean = mean_of(values, members["TP"])
    return density(mean, material.regions.volume_mm3) if kind == "density" else mean


def coherence_table(found: Sequence[Coherence], material: Material) -> Table:
    """The published table, off the diagonal and beside chance."""
    regions = int(material.regions.is_ranked.sum())
    columns: dict[str, list[Any]] = {
        "over": [c.family.over for c in found],
        "of": [c.family.of for c in found],
        "sets": [len(c.family.sets) for c in found],
        "quantity": [c.quantity for c in found],
        "coherence %": [100 * off_diagonal_mean(c.matrix) for c in found],
        "lowest pair %": [100 * float(c.matrix.min()) for c in found],
        "chance %": [100 * chance_overlap(regions)] * len(found),
        "95 % of chance below %": [100 * chance_limit(regions)] * len(found),
        "Kendall's W": [c.w for c in found],
        "ICC(3,1)": [c.icc for c in found],
        "true positives": [c.subjects for c in found],
    }
    about = (
        f"Mean overlap of the top {TOP} regions of the mean true positive over all pairs of different sets (published "
        "tables average the comparison of each with itself as well); chance is that of drawing regions at random."
    )
    return Table("coherence", f"Coherence of the top {TOP} regions", columns, about)


def intersection_table(found: Coherence) -> Table:
    """One intersection matrix in percent."""
    labels = [s.title for s in found.family.sets]
    name = f"intersection-{found.family.over}-{found.family.of}-{found.quantity}".replace(" ", "-")
    return matrix_table(name, f"Top {TOP} by {found.quantity}, over {found.family.over}", labels, 100 * found.matrix)


def repeat_distances(distances: FloatArray, sets: Sequence[MapSet], case: str, family: Family) -> dict[str, Any]:
    """L2 distances between all pairs of a family's mean maps of one case (Eitel & Ritter 2019, table 1)."""
    keys = [s.key for s in sets]
    rows = [keys.index(s.key) for s in family.sets]
    pairs = np.array([distances[i, j] for i, j in combinations(rows, 2)])
    return {
        "over": family.over,
        "of": family.of,
        "case": case,
        "pairs": len(pairs),
        "mean L2": float(pairs.mean()),
        "sum of L2": float(pairs.sum()),
    }
