"""Regions, segments and boxes brought onto the network's grid."""

from __future__ import annotations

import difflib

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from ADAttributionLogic.atlas.atlas import Atlas, Region
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.occlusion.regions import Area
from ADAttributionLogic.registration.space_transform import SpaceTransform, identity_transform, resample_to_model
from ADAttributionLogic.volume import Volume, resample
from ADAttributionLogic.whatif.covers import Box, Cover, Drawn, Regions

#: Beyond a box's corners carried through a warp, whose edges are no longer straight; mm.
_WARP_MARGIN_MM = 10.0


class Placing:
    """Where things lie on the network's grid.

    Parameters
    ----------
    grid : Grid
        Of the image that the network sees.
    transform : SpaceTransform, optional
        Between the scan's space, in which boxes and segments lie, and the network's; without it they are the same.
    atlas : Atlas, optional
        On the grid.
    """

    def __init__(self, grid: Grid, transform: SpaceTransform | None = None, atlas: Atlas | None = None) -> None:
        self.grid = grid
        self.transform = transform or identity_transform()
        self.atlas = atlas
        self._boxes = () if atlas is None else find_objects(atlas.labels.array)

    def area(self, cover: Cover) -> Area:
        """The voxels that a cover covers.

        Raises
        ------
        UsageError
            A region that does not exist, or nothing of it lies on the network's grid.
        """
        if isinstance(cover.what, Regions):
            return self._area_of_regions(cover.what)
        mask, low = self._box(cover.what) if isinstance(cover.what, Box) else (self._drawn(cover.what), (0, 0, 0))
        (inside,) = find_objects(mask.astype(np.int8)) or (None,)
        if inside is None:
            raise UsageError(
                f"Nothing of {cover.what.title} lies on the network's grid ({self.grid.describe()}); there is nothing "
                "to cover. Move it onto the brain."
            )
        start = np.array([a + s.start for a, s in zip(low, inside, strict=True)], dtype=np.int64)
        return Area((), start, mask[inside].copy())

    # -------------------------------------------------------------------------------------------------------- regions

    def _area_of_regions(self, wanted: Regions) -> Area:
        area: Area | None = None
        for name in wanted.names:
            for region in self._regions(name):
                part = self._area_of_label(region)
                area = part if area is None else area.joined(part)
        assert area is not None
        return area

    def _regions(self, name: str | int) -> list[Region]:
        if self.atlas is None:
            raise UsageError(f"There is no atlas in which {name} could be looked up; choose one.")
        regions, text = self.atlas.regions, _spelt(name)
        for matches in (
            [r for r in regions if r.label == name],
            [r for r in regions if _spelt(r.name) == text],
            [r for r in regions if r.group and _spelt(r.group) == text],
        ):
            if matches:
                return matches
        # Atlases have hundreds of names: the nearest ones, not all.
        names = {_spelt(n): n for r in reversed(regions) for n in (r.group, r.name) if n}
        near = [names[n] for n in difflib.get_close_matches(text, names, n=5, cutoff=0.5)]
        hint = f"Did you mean {', '.join(near)}?" if near else "Its names stand in the region table."
        raise UsageError(f"There is no region {name!r} in the atlas {self.atlas.name}. {hint}")

    def _area_of_label(self, region: Region) -> Area:
        assert self.atlas is not None
        box = self._boxes[region.label - 1] if region.label <= len(self._boxes) else None
        if box is None:
            raise UsageError(f"{region.name} has no voxel on the network's grid; there is nothing to cover.")
        low = np.array([s.start for s in box], dtype=np.int64)
        return Area((region.label,), low, self.atlas.labels.array[box] == region.label)

    # ------------------------------------------------------------------------------------------------ boxes, segments

    def _box(self, box: Box) -> tuple[npt.NDArray[np.bool_], tuple[int, int, int]]:
        """The voxels inside a box, in the part of the grid around it, and where that begins."""
        centre, size = np.array(box.centre), np.array(box.size)
        # A single voxel as large as the box: sampled at its nearest, it is 1 inside and 0 outside.
        affine = np.diag((*box.size, 1.0))
        affine[:3, 3] = centre
        block = Volume(np.ones((1, 1, 1), np.uint8), affine, box.title)
        sides = np.array(np.meshgrid(*[(-0.5, 0.0, 0.5)] * 3, indexing="ij")).reshape(3, -1).T
        corners = self.grid.to_voxel(self.transform.points_to_model(centre + sides * size))
        margin = 1 + (_WARP_MARGIN_MM / np.array(self.grid.spacing) if self.transform.warp is not None else 0)
        limit = np.array(self.grid.shape)
        low = np.clip(np.floor(corners.min(0) - margin), 0, limit - 1).astype(np.int64)
        high = np.clip(np.ceil(corners.max(0) + margin) + 1, low + 1, limit).astype(np.int64)
        part = np.array(self.grid.affine)
        part[:3, 3] = self.grid.to_ras(low)
        shape = high - low
        around = Grid((int(shape[0]), int(shape[1]), int(shape[2])), part)
        mask = resample_to_model(block, self.transform, around, "nearest").array != 0
        return mask, (int(low[0]), int(low[1]), int(low[2]))

    def _drawn(self, drawn: Drawn) -> npt.NDArray[np.bool_]:
        mask = drawn.mask.with_array((drawn.mask.array != 0).astype(np.uint8))
        return np.asarray(labels_on_model(mask, self.transform, self.grid).array != 0)


def _spelt(name: str | int) -> str:
    """A name as it is compared: atlases write blanks as underscores."""
    return str(name).lower().replace(" ", "_")


def labels_on_model(labels: Volume, transform: SpaceTransform, grid: Grid) -> Volume:
    """Labels or a mask of the scan's space on the network's grid."""
    if transform.kind == "identity":
        return resample(labels, grid, "nearest")
    return resample_to_model(labels, transform, grid, "nearest")
