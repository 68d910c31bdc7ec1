"""A scan that lies a little elsewhere, brought onto the network's grid again from its own voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ADAttributionLogic.geometry import Affine, Grid
from ADAttributionLogic.preprocessing.history import BrainExtraction, Registration
from ADAttributionLogic.preprocessing.pipeline import Preprocessed
from ADAttributionLogic.registration.space_transform import SpaceTransform, resample_to_model
from ADAttributionLogic.volume import Volume, resampling_is_exact


def move_prepared(prepared: Preprocessed, moves: Sequence[Affine]) -> Iterator[Volume]:
    """Brains on the model's grid, had the registration been off by rigid moves: through all recorded steps again.

    Parameters
    ----------
    prepared : Preprocessed
    moves : sequence of ndarray, shape (4, 4)
        RAS mm of the model's space to itself.
    """
    number, placement = next((n, s) for n, s in enumerate(prepared.steps) if isinstance(s, Registration))
    scan = prepared.scan
    for step in prepared.steps[:number]:
        scan = step.apply(scan)
    share = prepared.steps[0].apply(prepared.brain_mask)
    share = share.with_array(share.array.astype(np.float32))
    for move in moves:
        moved = replace(placement, transform=_after(placement.transform, move))
        brain, inside = moved.apply(scan), moved.carry(share).array >= 0.5
        for step in prepared.steps[number + 1 :]:
            if isinstance(step, BrainExtraction):
                step = replace(step, mask=step.mask.with_array(inside))
            brain = step.apply(brain)
        yield brain


def move_registered(scan: Volume, grid: Grid | None, moves: Sequence[Affine]) -> Iterator[Volume]:
    """A scan that is in the network's space already, moved rigidly.

    One that lies on the network's grid, and would be copied, is interpolated by cubic splines, and what was 0 around it
    stays so. Any other is moved by its affine and meets the grid as the unmoved one does.

    Parameters
    ----------
    scan : Volume
    grid : Grid or None
        The network's; None when it knows no space: then the scan's own.
    moves : sequence of ndarray, shape (4, 4)
    """
    if grid is not None and not resampling_is_exact(scan, grid):
        for move in moves:
            yield replace(scan, affine=np.linalg.inv(move) @ scan.affine)
        return
    share = scan.with_array((scan.array != 0).astype(np.float32))
    for move in moves:
        transform = SpaceTransform("rigid", move)
        placed = resample_to_model(scan, transform, grid or scan.grid, "cubic")
        inside = resample_to_model(share, transform, placed.grid).array >= 0.5
        yield placed.with_array(np.where(inside, placed.array, np.float32(0)))


def _after(transform: SpaceTransform, move: Affine) -> SpaceTransform:
    """The transform from where the move leads."""
    kind = "rigid" if transform.kind == "identity" else transform.kind
    return replace(transform, kind=kind, matrix=transform.matrix @ move)
