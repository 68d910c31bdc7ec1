"""Does the map come back when nothing that matters has changed?

The scan is changed by as much as another acquisition would: noise of the scan's own level, shifts by one voxel. The map
is made anew, shifted back, and compared with the one at hand: the share of its top ten regions, and of its strongest
voxels, that are there again. A map of another scan, or one that was moved or mirrored afterwards, does not come back.
A left-right flip of the input (mirrored back) is reported beside it, and how far the networks of an ensemble agree:
these say what the network is like, and do not decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor

from ADAttributionLogic.checks.findings import Check
from ADAttributionLogic.checks.overlap import (
    TOP_REGIONS,
    TOP_VOXELS,
    chance_of_regions,
    top_regions,
    top_voxels,
)
from ADAttributionLogic.checks.question import CheckedMap, Question

NAME, TITLE = "stability", "Stability"

#: Below the first a map does not come back; from the second on it does.
LEAST, ENOUGH = 0.3, 0.5


@dataclass(frozen=True)
class Change:
    """A change of the scan that should change nothing.

    Attributes
    ----------
    name : str
        For sentences.
    forward : callable
        Image (1, C, …) → the changed one.
    back : callable
        Map (…) of the changed image → where the voxels were before.
    decides : bool
        Whether the verdict rests on it.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    back: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    decides: bool = True


def changes(question: Question) -> tuple[Change, ...]:
    """Noise, one voxel in two directions, and the flip."""
    axis = question.left_right_axis
    other = (axis + 1) % 3
    return (
        Change("noise", lambda x: x + _noise(question), lambda m: m),
        Change("one voxel to a side", lambda x: _shifted(x, axis, 1), lambda m: _shifted_map(m, axis, -1)),
        Change("one voxel back", lambda x: _shifted(x, other, -1), lambda m: _shifted_map(m, other, 1)),
        Change("left-right flip", lambda x: x.flip(axis + 2), lambda m: np.flip(m, axis), False),
    )


def stability(question: Question, checked: CheckedMap, cost: float) -> Check:
    """Compare a map with those of slightly changed scans.

    Parameters
    ----------
    question : Question
    checked : CheckedMap
    cost : float
        As estimated beforehand.

    Returns
    -------
    Check
        ``number``: the smallest share of the strongest voxels that came back after noise and shifts.
    """
    made = changes(question)
    own = top_voxels(checked.values, question)
    has_regions = question.regions is not None and question.ranked.sum() > TOP_REGIONS
    own_regions = top_regions(checked.values, question) if has_regions else frozenset()
    voxels: dict[str, float] = {}
    regions: dict[str, float] = {}
    for change in made:
        question.monitor.report(0.0, f"stability of {checked.title}: {change.name}")
        again = change.back(question.map_of(checked, change.forward(question.image)))
        voxels[change.name] = float((own & top_voxels(again, question)).sum() / own.sum())
        if has_regions:
            regions[change.name] = len(own_regions & top_regions(again, question)) / len(own_regions)
    deciding = [change.name for change in made if change.decides]
    number = min(voxels[name] for name in deciding)
    verdict = "pass" if number >= ENOUGH else "unsure" if number >= LEAST else "fail"
    details: dict[str, object] = {"voxels": voxels, "noise_sd": noise_level(question)}
    text = f"At least {number:.0%} of the strongest voxels came back after noise and shifts by one voxel"
    if has_regions:
        details |= {"regions": regions, "regions_by_chance": chance_of_regions(question)}
        text += f", and {min(regions[name] for name in deciding):.0%} of the top {TOP_REGIONS} regions"
    meaning = {
        "pass": "the map does not hang on details of this acquisition.",
        "unsure": "only part of it can be relied on.",
        "fail": "a map of this scan by this method looks different.",
    }[verdict]
    if checked.members and has_regions:
        details["members"] = shared = _shared_by_members(question, checked)
        meaning += f" Two networks of the ensemble share {shared:.0%} of their top regions on average."
    return Check(
        NAME,
        TITLE,
        number,
        TOP_VOXELS,
        verdict,
        f"{text}: {meaning}",
        number_is=f"share of the strongest {TOP_VOXELS:.0%} of voxels that came back",
        null_is="by chance",
        cost=cost,
        details=details,
    )


def noise_level(question: Question) -> float:
    """Standard deviation of the scan's noise, in the units of the network's input.

    From each voxel's distance to the mean of its six neighbours (Gasser et al. 1986; in 3D Coupé et al. 2008,
    doi:10.1109/TMI.2007.906087), by the median, so that edges do not count. Fine anatomy does: rather too much noise.
    """
    image = question.image[0, 0].cpu().numpy().astype(np.float64)
    neighbours = sum(np.roll(image, step, axis) for axis in range(image.ndim) for step in (1, -1))
    count = 2 * image.ndim
    inside = binary_erosion(question.brain)
    residual = (image - neighbours / count)[inside if inside.any() else question.brain]
    return float(1.4826 * np.median(np.abs(residual)) * np.sqrt(count / (count + 1)))


def _noise(question: Question) -> Tensor:
    """The same for every map and on every machine."""
    drawn = np.random.default_rng(2024).standard_normal(tuple(question.image.shape), dtype=np.float32)
    return torch.from_numpy(drawn * np.float32(noise_level(question)) * question.brain).to(question.image)


def _shifted(image: Tensor, axis: int, step: int) -> Tensor:
    """Moved by whole voxels; what enters is background."""
    moved = torch.roll(image, step, axis + 2)
    edge = moved.movedim(axis + 2, 0)
    edge[0 if step > 0 else -1] = 0
    return moved


def _shifted_map(values: npt.NDArray[np.float64], axis: int, step: int) -> npt.NDArray[np.float64]:
    moved = np.roll(values, step, axis)
    np.moveaxis(moved, axis, 0)[0 if step > 0 else -1] = 0
    return moved


def _shared_by_members(question: Question, checked: CheckedMap) -> float:
    """Mean share of the top regions that two networks have in common."""
    each = []
    for sums in checked.members.values():
        ranked = (sums / question.volumes_mm3)[question.ranked]
        each.append(frozenset(np.argsort(-ranked, kind="stable")[:TOP_REGIONS].tolist()))
    return float(np.mean([len(a & b) / TOP_REGIONS for a, b in itertools.combinations(each, 2)]))

