"""The other side: a scan mirrored about the mid-sagittal plane of the network's space, and whether that means anything.

The plane is x = 0 of the network's space (RAS), where template spaces have the middle of the brain. A brain is not
symmetric, and neither is every template; how well the two sides of an atlas fall onto each other when they are mirrored
says what "the same place on the other side" is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.volume import Volume, resample

#: A mirrored region lies on its counterpart when the two overlap by this Dice coefficient (median over the atlas) …
ENOUGH_OVERLAP = 0.5
#: … and their centres are no farther apart than this (mm, median).
ENOUGH_MM = 5.0

_FLIP = np.diag((-1.0, 1.0, 1.0, 1.0))


def mirrored(array: npt.NDArray[np.float32], grid: Grid) -> npt.NDArray[np.float32]:
    """An image on a grid, mirrored about x = 0 (RAS).

    Where the grid is its own mirror image, voxels are copied; otherwise values are interpolated linearly. What lies
    outside of the grid on the other side is 0.

    Parameters
    ----------
    array : ndarray, float32, shape of `grid`
    grid : Grid
        In the network's space.

    Returns
    -------
    ndarray, float32
    """
    found: npt.NDArray[np.float32] = resample(Volume(array, _FLIP @ grid.affine), grid, "linear").array
    return found


def has_mirror_image(grid: Grid) -> npt.NDArray[np.bool_]:
    """Which voxels' mirror images lie on the grid."""
    everywhere = Volume(np.ones(grid.shape, np.uint8), _FLIP @ grid.affine)
    return np.asarray(resample(everywhere, grid, "nearest").array != 0)


@dataclass(frozen=True)
class Symmetry:
    """How the two sides of an atlas fall onto each other.

    Attributes
    ----------
    pairs : int
        Regions with a left and a right side.
    dice : float
        Median overlap of the mirrored left with the right side, 0–1.
    worst, worst_dice
        The pair that overlaps least.
    distance_mm : float
        Median distance of the centre of the mirrored left side from that of the right.
    """

    pairs: int
    dice: float
    worst: str
    worst_dice: float
    distance_mm: float

    @property
    def is_enough(self) -> bool:
        """Whether a mirrored region lies, for the most part, on its counterpart."""
        return self.dice >= ENOUGH_OVERLAP and self.distance_mm <= ENOUGH_MM

    def sentence(self, atlas: str) -> str:
        """What a user should know."""
        measured = (
            f"mirrored at x = 0, the left regions of {atlas} overlap the right ones by a median Dice of "
            f"{self.dice:.2f} ({self.pairs} pairs, worst {self.worst} with {self.worst_dice:.2f}), their centres lie "
            f"{self.distance_mm:.1f} mm apart"
        )
        if self.is_enough:
            return f"The network's space is symmetric enough to put the other side in: {measured}."
        return f"The network's space is not symmetric; the mirrored other side is not the same place: {measured}."


def symmetry_of(atlas: Atlas) -> Symmetry | None:
    """Measure an atlas on a grid of the network's space; None if it has no pairs of sides."""
    labels, grid = atlas.labels.array, atlas.labels.grid
    sides: dict[str, dict[str, int]] = {}
    for region in atlas.regions:
        if region.group and region.hemisphere in ("left", "right"):
            sides.setdefault(region.group, {})[region.hemisphere] = region.label
    turned = resample(Volume(labels, _FLIP @ grid.affine), grid, "nearest").array
    size = int(labels.max()) + 1
    own, other = (np.bincount(a.ravel(), minlength=size) for a in (labels, turned))
    both = (labels > 0) & (turned > 0)
    together = np.bincount(labels[both].astype(np.int64) * size + turned[both], minlength=size * size)
    centres = _centres(labels, grid, size)
    found: list[tuple[float, str, float]] = []
    for name, pair in sides.items():
        if len(pair) < 2:
            continue
        left, right = pair["left"], pair["right"]
        if max(left, right) >= size or not own[left] or not own[right] or not other[left]:
            continue
        dice = 2 * float(together[right * size + left]) / float(own[right] + other[left])
        found.append((dice, name, float(np.linalg.norm(centres[left] * (-1, 1, 1) - centres[right]))))
    if not found:
        return None
    worst_dice, worst, _ = min(found)
    dices, _, distances = zip(*found, strict=True)
    return Symmetry(len(found), float(np.median(dices)), worst, worst_dice, float(np.median(distances)))


def _centres(labels: npt.NDArray[np.int32], grid: Grid, size: int) -> npt.NDArray[np.float64]:
    """Centre of each label, RAS mm (labels, 3)."""
    places = np.nonzero(labels)
    values = labels[places]
    counts = np.maximum(np.bincount(values, minlength=size), 1)
    means = [np.bincount(values, weights=axis, minlength=size) / counts for axis in places]
    return grid.to_ras(np.stack(means, axis=-1))
