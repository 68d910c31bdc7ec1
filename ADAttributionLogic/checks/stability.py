"""Does the map come back when nothing that matters has changed?

The scan is changed by as much as another acquisition would: noise of the scan's own level, shifts by one voxel. The map
is made anew, put back in place, and compared with the one at hand. Two questions are asked. Does the map *belong* to
these? Of two scans with noise of their own, a right map lies in the middle: it shares at least as many of its strongest
voxels with their maps as they share with each other; that of another scan, or one that was moved, mirrored or edited,
does not. And do its *top regions* come
back, or do they hang on details of this acquisition? A left-right flip of the input (mirrored back) and how far the
networks of an ensemble agree are reported beside it: they say what the network is like, and do not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor

from ADAttributionLogic.checks.findings import Check, Verdict
from ADAttributionLogic.checks.overlap import (
    TOP_REGIONS,
    TOP_VOXELS,
    chance_of_regions,
    top_regions,
    top_voxels,
)
from ADAttributionLogic.checks.question import CheckedMap, Question

NAME, TITLE = "stability", "Stability"

#: Share of what leads the map that must come back: below the first it does not, from the second on it does.
LEAST, ENOUGH = 0.4, 0.6
#: By how much less than each other's voxels the map may share before it is none of them.
SLACK = 0.02


#: The changes from which it is seen whether a map belongs to the scan.
NOISES = ("noise", "other noise")
#: The change that is reported, but does not decide.
FLIP = "left-right flip"


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
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    back: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def changes(question: Question, noise_sd: float) -> tuple[Change, ...]:
    """Noise twice, one voxel in two directions, and the flip."""
    axis = question.left_right_axis
    other = (axis + 1) % 3
    return (
        *(Change(name, partial(_noisy, question, noise_sd, n), lambda m: m) for n, name in enumerate(NOISES)),
        Change("one voxel to a side", lambda x: _shifted(x, axis, 1), lambda m: _shifted_map(m, axis, -1)),
        Change("one voxel back", lambda x: _shifted(x, other, -1), lambda m: _shifted_map(m, other, 1)),
        Change(FLIP, lambda x: x.flip(axis + 2), lambda m: np.flip(m, axis)),
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
        ``number``: the share of the top ten regions that came back after noise and shifts, on average; without an
        atlas, of the strongest voxels.
    """
    maps, noise_sd = {}, noise_level(question)
    for change in changes(question, noise_sd):
        question.monitor.report(0.0, f"stability of {checked.title}: {change.name}")
        maps[change.name] = change.back(question.map_of(checked, change.forward(question.image)))
    deciding = [name for name in maps if name != FLIP]
    has_regions = question.regions is not None and int(question.ranked.sum()) > TOP_REGIONS
    voxels = _shares(checked.values, maps, lambda m: top_voxels(m, question))
    regions = _shares(checked.values, maps, lambda m: top_regions(m, question)) if has_regions else {}
    own = float(np.mean([voxels[name] for name in NOISES]))
    among = _shared(*(top_voxels(maps[name], question) for name in NOISES))
    belongs = own >= among - SLACK
    chosen = regions or voxels
    number = float(np.mean([chosen[name] for name in deciding]))
    verdict: Verdict = "fail" if not belongs or number < LEAST else "unsure" if number < ENOUGH else "pass"
    what = f"top {TOP_REGIONS} regions" if has_regions else f"strongest {TOP_VOXELS:.0%} of voxels"
    details: dict[str, Any] = {"voxels": voxels, "voxels_among_noisy": among, "noise_sd": noise_sd}
    if has_regions:
        details["regions"] = regions
    if checked.shared_by_members is not None:
        details["members"] = checked.shared_by_members
    return Check(
        NAME,
        TITLE,
        number,
        chance_of_regions(question) if has_regions else TOP_VOXELS,
        verdict,
        _sentence(what, number, verdict, belongs, own, among, checked),
        number_is=f"share of the {what} that came back after noise and shifts",
        null_is="by chance",
        cost=cost,
        details=details,
    )


def _shares(
    values: npt.NDArray[Any],
    maps: Mapping[str, npt.NDArray[Any]],
    top: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]],
) -> dict[str, float]:
    """Share of a map's top that each of the others has in its own."""
    own = top(values)
    return {name: _shared(own, top(again)) for name, again in maps.items()}


def _shared(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    return float((first & second).sum() / first.sum())


def _sentence(
    what: str, number: float, verdict: Verdict, belongs: bool, own: float, among: float, checked: CheckedMap
) -> str:
    if not belongs:
        return (
            f"The map shares {own:.0%} of its strongest voxels with maps of the same scan with a little noise, which "
            f"share {among:.0%} with each other: it is no map of this scan, network and class."
        )
    meaning = {
        "pass": "the map does not hang on details of this acquisition.",
        "unsure": "only part of the map can be relied on.",
        "fail": "the map hangs on details of this acquisition.",
    }[verdict]
    if checked.shared_by_members is not None:
        meaning += f" Two networks of the ensemble share {checked.shared_by_members:.0%} of their top regions."
    return f"After noise and shifts by one voxel {number:.0%} of the {what} came back: {meaning}"


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


def _noisy(question: Question, noise_sd: float, number: int, image: Tensor) -> Tensor:
    """With noise of the scan's level in the brain: the same for every map and on every machine."""
    drawn = np.random.default_rng([2024, number]).standard_normal(tuple(image.shape), dtype=np.float32)
    return image + torch.from_numpy(drawn * np.float32(noise_sd) * question.brain).to(image)


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
