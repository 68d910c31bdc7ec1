"""To which voxels occlusion is restricted: all, the brain, some atlas regions, or a mask of the user's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.attribution.registry import Job
from ADAttributionLogic.errors import GridMismatchError, UnknownNameError, UsageError
from ADAttributionLogic.method_options import Option

MASKS = ("all", "brain", "atlas", "given")
_HELP = (
    "voxels to explain: all, brain (nonzero in any channel), atlas (in any region), given (a mask given in code), or "
    "labels of regions separated by commas"
)

MASK = Option("mask", "all", _HELP, str)
BRAIN_MASK = Option("mask", "brain", _HELP, str)


def mask_of(job: Job) -> npt.NDArray[np.bool_] | None:
    """The voxels (…) that a method is restricted to; None for all.

    Raises
    ------
    UsageError, UnknownNameError
        An unknown mask, one that needs what was not given, or one without voxels.
    """
    name = str(job.options["mask"])
    if name == "all":
        return None
    mask = _mask_named(job, name)
    if not mask.any():
        raise UsageError(f"The mask {name!r} holds no voxel of the image; there is nothing to cover.")
    return mask


def _mask_named(job: Job, name: str) -> npt.NDArray[np.bool_]:
    image = job.evaluation.image
    if name == "brain":
        return (image[0] != 0).any(0).cpu().numpy()
    if name == "given":
        if job.companions.mask is None:
            raise UsageError("The mask 'given' needs a mask; none was given.")
        mask = job.companions.mask
        if mask.shape != image.shape[2:]:
            given, needed = ("×".join(map(str, s)) for s in (mask.shape, image.shape[2:]))
            raise GridMismatchError(f"The mask has {given} voxels, the image {needed}.")
        return mask.cpu().numpy().astype(bool)
    labels = [] if name == "atlas" else _labels(name)
    if job.companions.regions is None:
        raise UsageError(f"The mask {name!r} needs an atlas.")
    regions = job.companions.regions.cpu().numpy()
    missing = sorted(set(labels) - set(np.unique(regions).tolist()))
    if missing:
        raise UsageError(f"The atlas has no voxel with the label {missing[0]} on this grid; the mask is {name!r}.")
    return np.isin(regions, labels) if labels else regions != 0


def _labels(name: str) -> list[int]:
    parts = [part.strip() for part in name.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UnknownNameError("mask", name, (*MASKS, "labels such as 37,38"))
    return [int(part) for part in parts]
