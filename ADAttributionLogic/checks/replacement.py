"""What takes the place of tissue when a check removes it.

Zeros make an empty brain, which a network that looks for atrophy finds more diseased than any patient (Hiller et al.
2025: P(AD) rises). So tissue is replaced by that of the mean control where there is one, else by the same scan,
blurred; by zero only on request; and every result says by what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ADAttributionLogic.errors import GridMismatchError, UnknownNameError, UsageError

Kind = Literal["auto", "reference", "blur", "zero"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Standard deviation of the blur: wide enough that the shape of a hippocampus (10 mm thick) is gone.
BLUR_MM = 8.0


@dataclass(frozen=True, eq=False)
class Replacement:
    """An image that takes the place of tissue.

    Attributes
    ----------
    kind : {"reference", "blur", "zero"}
    name : str
        In words, for sentences: "the mean of 40 controls", "the same scan, blurred by 8 mm", "zero".
    image : Tensor, shape (1, C, …)
    """

    kind: Kind
    name: str
    image: Tensor


def choose_replacement(
    image: Tensor,
    brain: npt.NDArray[np.bool_],
    spacing: Sequence[float],
    kind: Kind = "auto",
    reference: Tensor | None = None,
    reference_name: str = "the reference",
) -> Replacement:
    """Decide what replaces tissue, and make it.

    Parameters
    ----------
    image : Tensor, shape (1, C, …)
        As the network sees it.
    brain : ndarray of bool, shape (…)
    spacing : sequence of float
        Of the voxels, mm.
    kind : {"auto", "reference", "blur", "zero"}
        ``auto``: the reference where there is one, else the blurred scan.
    reference : Tensor, optional
        The mean control as the network sees it (1, C, …).
    reference_name : str
        What to call it.

    Raises
    ------
    UnknownNameError, UsageError, GridMismatchError
    """
    if kind not in KINDS:
        raise UnknownNameError("replacement of tissue", str(kind), KINDS)
    if kind == "reference" and reference is None:
        raise UsageError(
            "The checks were to replace tissue by a reference, but none was given: give one (--reference), or choose "
            "blur or zero."
        )
    if reference is not None and reference.shape != image.shape:
        given, needed = ("×".join(map(str, s)) for s in (reference.shape, image.shape))
        raise GridMismatchError(f"The reference image has {given} (batch×channels×voxels), the scan {needed}.")
    if reference is not None and kind in ("auto", "reference"):
        return Replacement("reference", reference_name, reference.to(image).contiguous())
    if kind == "zero":
        return Replacement("zero", "zero", torch.zeros_like(image))
    return Replacement("blur", f"the same scan, blurred by {BLUR_MM:g} mm", _blurred(image, brain, spacing))


def _blurred(image: Tensor, brain: npt.NDArray[np.bool_], spacing: Sequence[float]) -> Tensor:
    """Blurred within the brain: what lies outside neither darkens its border nor receives any of it."""
    sigma = [BLUR_MM / s for s in spacing]
    inside = brain.astype(np.float32)
    weight = np.maximum(gaussian_filter(inside, sigma, mode="constant"), 1e-6)
    channels = [
        np.where(brain, gaussian_filter(channel * inside, sigma, mode="constant") / weight, channel)
        for channel in image[0].cpu().numpy()
    ]
    return torch.from_numpy(np.stack(channels)[None]).to(image)
