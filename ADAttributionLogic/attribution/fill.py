"""What covers the voxels in occlusion: a number, the mean, a blurred image, or a reference image."""

from __future__ import annotations

import math

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ADAttributionLogic.attribution.registry import Job
from ADAttributionLogic.errors import GridMismatchError, UnknownNameError, UsageError
from ADAttributionLogic.method_options import Option

FILLS = ("zero", "mean", "blur", "reference")

FILL = Option(
    "fill",
    "zero",
    "what covers the voxels: zero, mean (of the nonzero voxels), blur, reference (a volume, e.g. a mean of controls), "
    "or a number in the network's units",
    str,
)
BLUR = Option("blur", 4.0, "with the fill 'blur': standard deviation of the Gaussian in voxels", float, minimum=0.1)


def check_fill(fill: str) -> float | None:
    """The number that a fill is, or None for the name of one.

    Raises
    ------
    UnknownNameError, UsageError
    """
    if fill in FILLS:
        return None
    try:
        number = float(fill)
    except ValueError:
        raise UnknownNameError("fill", fill, (*FILLS, "a number")) from None
    if not math.isfinite(number):
        raise UsageError(f"The fill must be a finite number, but is {fill}.")
    return number


def fill_of(job: Job, option: str = "fill") -> Tensor:
    """The values that cover voxels, as a whole image or with size 1 along axes that they do not vary along.

    Parameters
    ----------
    job : Job
    option : str
        Which of its options names them.

    Returns
    -------
    Tensor, shape (1, C, …) or (1, C, 1, …)

    Raises
    ------
    UnknownNameError, UsageError, GridMismatchError
    """
    image, fill = job.evaluation.image, str(job.options[option])
    number = check_fill(fill)
    per_channel = (1, image.shape[1]) + (1,) * (image.ndim - 2)
    if number is not None or fill == "zero":
        return image.new_full(per_channel, number or 0.0)
    if fill == "mean":
        flat = image.flatten(2).double()
        total, voxels = flat.sum(2), (flat != 0).sum(2)
        return (total / voxels.clamp(min=1)).to(image.dtype).reshape(per_channel)
    if fill == "blur":
        return _blurred(image, float(job.options["blur"]))
    return _reference(job, image)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    array = image.cpu().numpy()
    blurred = gaussian_filter(array, (0, 0, *(sigma,) * (image.ndim - 2)), mode="nearest")
    return torch.from_numpy(blurred).to(image)


def _reference(job: Job, image: Tensor) -> Tensor:
    reference = job.companions.reference
    if reference is None:
        raise UsageError("The fill 'reference' needs a reference image, e.g. a mean of controls; none was given.")
    if reference.shape != image.shape:
        given, needed = ("×".join(map(str, s)) for s in (reference.shape, image.shape))
        raise GridMismatchError(f"The reference image has {given} (batch×channels×voxels), the image {needed}.")
    return reference.to(image).contiguous()
