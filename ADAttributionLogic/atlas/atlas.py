"""Atlases: label volumes with region names, and the merging of their regions."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import AtlasError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.volume import Volume, resample

Hemisphere = Literal["left", "right", "midline", "both", "unknown"]
Colour = tuple[int, int, int]


#: Counting labels takes memory in proportion to the largest; FreeSurfer's go to 15,175.
MAX_LABEL = (1 << 22) - 1
#: The finest parcellations of the field have some thousands.
MAX_REGIONS = 20_000


@dataclass(frozen=True)
class Region:
    """One region of an atlas.

    Attributes
    ----------
    label : int
        Its value in the label volume (> 0).
    name : str
    hemisphere : {"left", "right", "midline", "both", "unknown"}
    group : str
        Name without side, shared by the left and the right region (used for asymmetry); "" if unknown.
    members : tuple of int
        The labels of the original atlas that it consists of.
    colour : tuple of int
        Red, green, blue, 0–255.
    """

    label: int
    name: str
    hemisphere: Hemisphere = "unknown"
    group: str = ""
    members: tuple[int, ...] = ()
    colour: Colour = (128, 128, 128)


@dataclass(frozen=True)
class RegionGroup:
    """Labels of an atlas that belong together, by side (a published grouping)."""

    name: str
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()
    midline: tuple[int, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels of the group."""
        return self.left + self.right + self.midline


@dataclass(frozen=True, eq=False)
class Atlas:
    """A label volume and the regions in it.

    Attributes
    ----------
    name : str
    labels : Volume
        int32, 0 = no region.
    regions : tuple of Region
        One per label, ordered by label.
    title, licence, source : str
        What it is called, under which terms, and where it came from.
    """

    name: str
    labels: Volume
    regions: tuple[Region, ...]
    title: str = ""
    licence: str = ""
    source: str = ""

    def on_grid(self, grid: Grid) -> Atlas:
        """Resample the labels onto a grid, by both affines and nearest neighbour.

        Raises
        ------
        AtlasError
            No labelled voxel lies on the grid.
        """
        labels = resample(self.labels, grid, "nearest")
        if not labels.array.any():
            raise AtlasError(
                f"The atlas {self.name} does not overlap the scan: no labelled voxel of {self.labels.grid.describe()} "
                f"lies in {grid.describe()}. Both must be in the same space (e.g. ICBM152)."
            )
        return Atlas(self.name, labels, self.regions, self.title, self.licence, self.source)

    def merged(self, groups: Sequence[RegionGroup], name: str = "") -> Atlas:
        """Merge regions by a grouping; labels that no group names keep their own region.

        Raises
        ------
        AtlasError
            A label stands in two groups, or in none of the atlas's regions.
        """
        by_label = {region.label: region for region in self.regions}
        _check_groups(groups, by_label, self.name)
        merged: list[Region] = []
        table = np.zeros(int(self.labels.array.max()) + 1, dtype=np.int32)
        grouped = {label for group in groups for label in group.labels}
        rest = [RegionGroup(r.name, midline=(r.label,)) for r in self.regions if r.label not in grouped]
        for number, group in enumerate([*groups, *rest], start=1):
            members = tuple(label for label in group.labels if label in by_label)
            if not members:
                continue
            sides = [side for side in ("left", "right", "midline") if getattr(group, side)]
            hemisphere: Hemisphere = sides[0] if len(sides) == 1 else "both"  # type: ignore[assignment]
            merged.append(Region(number, group.name, hemisphere, group.name, members, by_label[members[0]].colour))
            table[[label for label in members if label < table.size]] = number
        labels = self.labels.with_array(table[self.labels.array])
        return Atlas(name or f"{self.name}-merged", labels, tuple(merged), self.title, self.licence, self.source)

    def named(self, label: int) -> Region:
        """Return the region with this label."""
        for region in self.regions:
            if region.label == label:
                return region
        raise AtlasError(f"The atlas {self.name} has no region with label {label}.")


def build_atlas(
    name: str,
    labels: Volume,
    names: Mapping[int, str],
    *,
    groups: Iterable[RegionGroup] = (),
    colours: Mapping[int, Colour] | None = None,
    title: str = "",
    licence: str = "",
    source: str = "",
) -> Atlas:
    """Make an atlas from a label volume and region names.

    Labels in the volume without a name are called ``label 17``; names without a voxel are left out. Sides come from
    `groups` where given, otherwise from the names (``_L``/``_R``, ``Left``/``Right``, ``lh``/``rh``).

    Raises
    ------
    AtlasError
        The volume holds no label, too many, or too large ones.
    """
    if (largest := int(labels.array.max(initial=0))) > MAX_LABEL:
        raise AtlasError(
            f"The label map {labels.source or name} has the label {largest}; the largest that is read is {MAX_LABEL}. "
            "Number its regions from 1."
        )
    present = [int(label) for label in _unique_labels(labels.array) if label != 0]
    if len(present) > MAX_REGIONS:
        raise AtlasError(
            f"The label map {labels.source or name} has {len(present)} different labels; an atlas has at most "
            f"{MAX_REGIONS} regions. Is it a scan, or a map of numbered pieces?"
        )
    if not present:
        raise AtlasError(f"The label map {labels.source or name} is empty: every voxel is 0.")
    side_of = {label: (group.name, side) for group in groups for side, members in _sides(group) for label in members}
    regions = []
    for label in present:
        text = names.get(label, f"label {label}")
        group, hemisphere = side_of.get(label) or side_from_name(text)
        colour = (colours or {}).get(label) or distinct_colour(label)
        regions.append(Region(label, text, hemisphere, group, (label,), colour))
    return Atlas(name, labels, tuple(regions), title or name, licence, source or labels.source)


_SIDES: tuple[tuple[Hemisphere, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "left",
        ("left-", "left_", "left ", "ctx-lh-", "ctx_lh_", "lh-", "lh_", "lh.", "l_"),
        ("_l", "-l", " l", ".l", " left", "_left"),
    ),
    (
        "right",
        ("right-", "right_", "right ", "ctx-rh-", "ctx_rh_", "rh-", "rh_", "rh.", "r_"),
        ("_r", "-r", " r", ".r", " right", "_right"),
    ),
)


def side_from_name(name: str) -> tuple[str, Hemisphere]:
    """Return the name without its side, and the side that it states.

    >>> side_from_name("Hippocampus_L")
    ('Hippocampus', 'left')
    """
    lower = name.lower()
    for hemisphere, prefixes, suffixes in _SIDES:
        for prefix in prefixes:
            if lower.startswith(prefix):
                return name[len(prefix) :], hemisphere
        for suffix in suffixes:
            if lower.endswith(suffix):
                return name[: -len(suffix)], hemisphere
    return "", "unknown"


def distinct_colour(label: int) -> Colour:
    """A colour for a label that differs well from those of the neighbouring labels (golden-angle hues)."""
    hue = (label * 0.61803398875) % 1.0
    saturation, value = (0.55, 0.75, 0.95)[label % 3], (0.95, 0.75)[label % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _sides(group: RegionGroup) -> tuple[tuple[Hemisphere, tuple[int, ...]], ...]:
    return (("left", group.left), ("right", group.right), ("midline", group.midline))


def _unique_labels(array: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Sorted distinct values; a counting pass, because sorting 8 million voxels takes a second."""
    return np.flatnonzero(np.bincount(array.ravel()))


def _check_groups(groups: Sequence[RegionGroup], by_label: Mapping[int, Region], atlas: str) -> None:
    seen: dict[int, str] = {}
    for group in groups:
        for label in group.labels:
            if label in seen:
                raise AtlasError(f"Label {label} stands in two groups: {seen[label]} and {group.name}.")
            seen[label] = group.name
    if not seen.keys() & by_label.keys():
        raise AtlasError(f"None of the labels of this grouping is a region of the atlas {atlas}.")
