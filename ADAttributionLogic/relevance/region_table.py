"""How much each atlas region contributed: one pass over the heatmap, one row per region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.atlas import Atlas, Region
from ADAttributionLogic.errors import AtlasError
from ADAttributionLogic.relevance.columns import (
    ADJUSTED,
    ALL_COLUMNS,
    COLUMNS,
    COMPARED,
    DROP,
    MEMBER_SD,
    MEMBER_TOP_TEN,
    RANKED_BY,
    RANKS,
    SMALLEST_RANKED_MM3,
    Column,
    are_ranked,
)
from ADAttributionLogic.volume import Volume

__all__ = [
    "ALL_COLUMNS",
    "COLUMNS",
    "DROP",
    "OUTSIDE_LABEL",
    "OUTSIDE_NAME",
    "RANKS",
    "SMALLEST_RANKED_MM3",
    "Column",
    "RegionIndex",
    "RegionSpread",
    "RegionTable",
    "are_ranked",
    "index_regions",
    "rank_columns",
    "region_sums",
    "region_table",
    "with_scores",
]

#: Label and name of the row for voxels in no region.
OUTSIDE_LABEL = 0
OUTSIDE_NAME = "outside the atlas"


@dataclass(frozen=True)
class RegionSpread:
    """How a region's sum differs between the networks of an ensemble.

    Attributes
    ----------
    sd : float
    top_ten : int
        On how many networks it is among the ten largest densities.
    """

    sd: float
    top_ten: int


@dataclass(frozen=True, eq=False)
class RegionTable:
    """A region table: columns of equal length, one row per region and a last one for what lies outside the atlas.

    Attributes
    ----------
    columns : mapping of str to ndarray
        In the order of :data:`ALL_COLUMNS`, of which those after :data:`COLUMNS` may be missing. Ranks of 0 mean "not
        ranked".
    atlas, method : str
        What it was computed from.
    quantity : str
        What relevance is relevance for, with its unit, e.g. ``"COG (points)"``; "" where that is not known.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    atlas: str
    method: str
    quantity: str = ""

    def __len__(self) -> int:
        return len(self.columns["label"])

    @property
    def described(self) -> tuple[Column, ...]:
        """What the columns are, in their order."""
        return tuple(column for column in ALL_COLUMNS if column.name in self.columns)

    def rows(self) -> list[dict[str, Any]]:
        """Rows as plain values, in the order of the labels."""
        values = {name: column.tolist() for name, column in self.columns.items()}
        return [{name: values[name][i] for name in values} for i in range(len(self))]

    def ranked(self, by: str = "rank") -> list[dict[str, Any]]:
        """The ranked regions (:data:`SMALLEST_RANKED_MM3`), best first."""
        return sorted((row for row in self.rows() if row[by] > 0), key=lambda row: row[by])


@dataclass(frozen=True, eq=False)
class RegionIndex:
    """An atlas on a grid, prepared for fast tables: which voxels each region has. Reusable for many heatmaps.

    Attributes
    ----------
    atlas : Atlas
    regions : tuple of Region
        Those with at least one voxel on the grid.
    order : ndarray of int
        Flat indices of the labelled voxels, sorted by region.
    starts : ndarray of int
        Where each region begins in `order`.
    compact : ndarray of int
        Region number (0, 1, …) of each entry of `order`.
    outside : ndarray of bool
        Per voxel, whether it is in no region.
    missing : tuple of str
        Regions without a voxel on the grid.
    """

    atlas: Atlas
    regions: tuple[Region, ...]
    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    compact: npt.NDArray[np.int32]
    outside: npt.NDArray[np.bool_]
    missing: tuple[str, ...]


def index_regions(atlas: Atlas) -> RegionIndex:
    """Prepare an atlas, which must be on the heatmaps' grid (:meth:`Atlas.on_grid`)."""
    flat = atlas.labels.array.ravel()
    inside = np.flatnonzero(flat)
    counts = np.bincount(flat[inside])
    regions = tuple(r for r in atlas.regions if r.label < counts.size and counts[r.label] > 0)
    if not regions:
        raise AtlasError(f"The atlas {atlas.name} has no region on this grid.")
    number_of = np.full(counts.size, -1, dtype=np.int32)
    number_of[[r.label for r in regions]] = np.arange(len(regions), dtype=np.int32)
    numbers = number_of[flat[inside]]
    if numbers.min() < 0:
        raise AtlasError(
            f"The atlas {atlas.name} has labels without a region: {np.unique(flat[inside][numbers < 0])[:5].tolist()} …"
        )
    kind: Any = np.uint16 if len(regions) < 1 << 16 else np.int32  # 16 bits are sorted by counting, in linear time
    sorting = np.argsort(numbers.astype(kind), kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(regions)))[:-1]])
    missing = tuple(r.name for r in atlas.regions if r not in set(regions))
    return RegionIndex(atlas, regions, inside[sorting], starts, numbers[sorting], flat == 0, missing)


def region_table(
    heatmap: Volume,
    atlas: Atlas | RegionIndex,
    method: str = "",
    drops: Mapping[int, float] | None = None,
    spread: Mapping[int, RegionSpread] | None = None,
    quantity: str = "",
) -> RegionTable:
    """Summarise a heatmap by atlas region.

    Sums are accumulated in float64. The last row holds the voxels outside the atlas, so that the columns of sums and
    voxels add up to the whole heatmap.

    Parameters
    ----------
    heatmap : Volume
    atlas : Atlas or RegionIndex
        On the heatmap's grid.
    method : str
        Written into the table.
    drops : mapping of int to float, optional
        By label, how much the score falls when the region is covered: an additional column.
    spread : mapping of int to RegionSpread, optional
        By label, how the networks of an ensemble differ: two additional columns.
    quantity : str
        Written into the table: what is explained, with its unit.

    Raises
    ------
    AtlasError
        The atlas is on another grid.
    """
    index = atlas if isinstance(atlas, RegionIndex) else index_regions(atlas)
    labels = index.atlas.labels
    if not heatmap.grid.is_same(labels.grid):
        raise AtlasError(
            f"The atlas is on {labels.grid.describe()}, the heatmap on {heatmap.grid.describe()}; resample it first."
        )
    flat = np.ascontiguousarray(heatmap.array).ravel()
    values = flat[index.order].astype(np.float64)
    count = len(index.regions)
    magnitudes = np.abs(values)
    sums = {"sum": np.add.reduceat(values, index.starts), "absolute_sum": np.add.reduceat(magnitudes, index.starts)}
    outside = _outside(flat, index, {name: float(column.sum()) for name, column in sums.items()})
    columns = _names(index.regions)
    for name, column in sums.items():
        columns[name] = np.append(column, outside[name])
    columns["positive_sum"] = (columns["sum"] + columns["absolute_sum"]) / 2
    peak_at = _peaks(magnitudes, index)
    voxels = np.diff(np.append(index.starts, index.order.size))
    columns["voxels"] = np.append(voxels, flat.size - index.order.size)
    columns["volume_mm3"] = columns["voxels"] * heatmap.grid.voxel_volume_mm3
    columns["density"] = _divide(columns["sum"], columns["volume_mm3"])
    columns["share"] = np.append(_divide(sums["sum"], np.full(count, sums["sum"].sum())), np.nan)
    columns |= rank_columns(columns)
    places = np.append(peak_at, outside["peak_at"]).astype(np.int64)
    columns["peak"] = np.where(places >= 0, flat[places].astype(np.float64), np.nan)
    position = heatmap.grid.to_ras(np.stack(np.unravel_index(np.maximum(places, 0), heatmap.array.shape), axis=1))
    for axis, name in enumerate(("peak_r", "peak_a", "peak_s")):
        columns[name] = np.where(places >= 0, position[:, axis], np.nan)
    columns["asymmetry"] = np.append(_asymmetry(index.regions, sums["sum"]), np.nan)
    described = {c.name: columns[c.name] for c in COLUMNS}
    if drops is not None:
        described[DROP.name] = np.array([drops.get(r.label, np.nan) for r in index.regions] + [np.nan])
    if spread is not None:
        nothing = RegionSpread(np.nan, 0)
        found = [spread.get(r.label, nothing) for r in index.regions]
        known = [r.label in spread for r in index.regions]
        described[MEMBER_SD.name] = np.array([s.sd for s in found] + [np.nan])
        tops = [float(s.top_ten) if k else np.nan for s, k in zip(found, known, strict=True)]
        described[MEMBER_TOP_TEN.name] = np.array([*tops, np.nan])
    return RegionTable(described, index.atlas.name, method, quantity)


def region_sums(heatmap: npt.NDArray[Any], index: RegionIndex) -> npt.NDArray[np.float64]:
    """Σ relevance per region of an index, in float64."""
    values = np.ascontiguousarray(heatmap).ravel()[index.order].astype(np.float64)
    sums: npt.NDArray[np.float64] = np.add.reduceat(values, index.starts)
    return sums


def rank_columns(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.int64]]:
    """Those of the columns :data:`RANKS` whose values are there; the last row is the one outside the atlas."""
    is_ranked = are_ranked(columns["volume_mm3"][:-1])
    found = {name: columns[by][:-1] for name, by in RANKED_BY.items() if by in columns}
    return {name: np.append(_ranks(values, is_ranked & ~np.isnan(values)), 0) for name, values in found.items()}


def with_scores(table: RegionTable, scores: Mapping[str, Mapping[int, float]]) -> RegionTable:
    """The same table with columns of a comparison with controls, ranks by them included.

    Parameters
    ----------
    table : RegionTable
    scores : mapping of str to mapping
        By column (of :data:`~.columns.COMPARED` and :data:`~.columns.ADJUSTED`, ranks apart), by label; what is not
        there is missing.
    """
    labels = table.columns["label"].tolist()
    added = {name: np.array([values.get(label, np.nan) for label in labels]) for name, values in scores.items()}
    columns = {**table.columns, **added}
    columns |= rank_columns(columns)
    assert set(added) <= {column.name for column in (*COMPARED, *ADJUSTED)}, added
    return replace(table, columns={c.name: columns[c.name] for c in ALL_COLUMNS if c.name in columns})


def _names(regions: tuple[Region, ...]) -> dict[str, npt.NDArray[Any]]:
    return {
        "label": np.array([r.label for r in regions] + [OUTSIDE_LABEL]),
        "name": np.array([r.name for r in regions] + [OUTSIDE_NAME], dtype=object),
        "hemisphere": np.array([r.hemisphere for r in regions] + ["unknown"], dtype=object),
    }


def _peaks(magnitudes: npt.NDArray[np.float64], index: RegionIndex) -> npt.NDArray[np.int64]:
    """Flat index of each region's voxel with the largest magnitude; of equal ones the first."""
    largest = np.maximum.reduceat(magnitudes, index.starts)
    hits = np.flatnonzero(magnitudes == largest[index.compact])
    _, first = np.unique(index.compact[hits], return_index=True)
    peaks: npt.NDArray[np.int64] = index.order[hits[first]]
    return peaks


#: Voxels that are summed at a time: few enough to stay in the processor's cache.
_CHUNK = 1 << 17


def _outside(flat: npt.NDArray[Any], index: RegionIndex, inside: Mapping[str, float]) -> dict[str, float]:
    """What the regions leave over, and the largest magnitude among it."""
    if index.outside.size == 0 or not index.outside.any():
        return {"sum": 0.0, "absolute_sum": 0.0, "peak_at": -1}
    total = total_magnitude = 0.0
    largest, peak_at = -1.0, -1
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        magnitudes = np.abs(part)
        total += float(part.sum(dtype=np.float64))
        total_magnitude += float(magnitudes.sum(dtype=np.float64))
        magnitudes *= index.outside[start : start + _CHUNK]
        highest = float(magnitudes.max())
        if highest > largest:
            largest, peak_at = highest, start + int(np.argmax(magnitudes))
    if largest == 0:  # nothing outside: any voxel there is the peak, but none inside
        peak_at = int(np.argmax(index.outside))
    return {"sum": total - inside["sum"], "absolute_sum": total_magnitude - inside["absolute_sum"], "peak_at": peak_at}


def _divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    safe = np.where(denominator == 0, 1, denominator)
    quotient: npt.NDArray[np.float64] = np.where(denominator == 0, np.nan, numerator / safe)
    return quotient


def _ranks(values: npt.NDArray[np.float64], is_ranked: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """1 for the largest value among those that are ranked, 0 for the others; equal values share the better rank."""
    ordered = np.sort(-values[is_ranked])
    return np.where(is_ranked, np.searchsorted(ordered, -values, side="left") + 1, 0)


def _asymmetry(regions: tuple[Region, ...], sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    pairs: dict[str, dict[str, int]] = {}
    for number, region in enumerate(regions):
        if region.group and region.hemisphere in ("left", "right"):
            pairs.setdefault(region.group, {})[region.hemisphere] = number
    result = np.full(len(regions), np.nan)
    for pair in pairs.values():
        if len(pair) == 2:
            left, right = sums[pair["left"]], sums[pair["right"]]
            scale = abs(left) + abs(right)
            result[[pair["left"], pair["right"]]] = (left - right) / scale if scale > 0 else 0.0
    return result
