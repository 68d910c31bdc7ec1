"""Maps that are wrong in known ways, for the tests and the study of the checks.

All but one keep the sum of magnitudes of the right map, so that none is found by its scale alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.checks.randomisation import shuffled

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What wrong maps are made of.

    Attributes
    ----------
    right : ndarray
        The right map.
    image : ndarray
        The scan as the network sees it.
    brain : ndarray of bool
    labels : ndarray of int
        Atlas regions.
    spacing : float
        mm; the first axis runs left to right, the second to anterior, the third to superior.
    other_patient, other_control, other_class, other_method, untrained : ndarray
        Maps of another patient's and of a control's scan, of the other class, of another method, and of the network
        with its weights shuffled.
    seed : int
    """

    right: Array
    image: Array
    brain: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int32]
    spacing: float
    other_patient: Array
    other_control: Array
    other_class: Array
    other_method: Array
    untrained: Array
    seed: int

    def random(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 20])

    def shifted(self, axis: int, mm: float) -> Array:
        return np.roll(self.right, round(mm / self.spacing), axis=axis)


def _noise(i: Ingredients, smooth_mm: float = 0.0) -> Array:
    values = i.random().standard_normal(i.right.shape)
    if smooth_mm:
        values = gaussian_filter(values, smooth_mm / i.spacing)
    return np.where(i.brain, values, 0)


def _shuffled_voxels(i: Ingredients) -> Array:
    made = np.zeros_like(i.right)
    made[i.brain] = i.random().permutation(i.right[i.brain])
    return made


def _exchanged_regions(i: Ingredients) -> Array:
    """Each region painted with the mean relevance of another one."""
    count = int(i.labels.max()) + 1
    sizes = np.bincount(i.labels.ravel(), minlength=count)
    means = np.bincount(i.labels.ravel(), i.right.ravel().astype(np.float64), minlength=count) / np.maximum(sizes, 1)
    there = np.flatnonzero(sizes)[1:]
    exchanged = np.zeros(count)
    exchanged[there] = means[i.random().permutation(there)]
    return np.where(i.labels > 0, exchanged[i.labels], 0)


def _without_the_top(i: Ingredients) -> Array:
    limit = np.quantile(i.right[i.brain], 0.95)
    return np.where(i.right > limit, 0, i.right)


def _without_the_left(i: Ingredients) -> Array:
    made = i.right.copy()
    made[: made.shape[0] // 2] = 0
    return made


WRONG: dict[str, Callable[[Ingredients], Array]] = {
    "another patient's scan": lambda i: i.other_patient,
    "a control's scan": lambda i: i.other_control,
    "the other class": lambda i: i.other_class,
    "an untrained network": lambda i: i.untrained,
    "another method": lambda i: i.other_method,
    "edge filter": lambda i: np.where(i.brain, gaussian_gradient_magnitude(i.image, 1.0), 0),
    "the scan itself": lambda i: i.image,
    "the brain mask": lambda i: i.brain.astype(np.float32),
    "noise": _noise,
    "smooth noise": lambda i: _noise(i, 5.0),
    "shifted forward by 10 mm": lambda i: i.shifted(1, 10.0),
    "shifted upward by 10 mm": lambda i: i.shifted(2, 10.0),
    "flipped left-right": lambda i: i.right[::-1],
    "flipped front-back": lambda i: i.right[:, ::-1],
    "sign reversed": lambda i: -i.right,
    "left hemisphere missing": _without_the_left,
    "top 5 % missing": _without_the_top,
    "smoothed to nothing": lambda i: np.where(i.brain, gaussian_filter(i.right, 30.0 / i.spacing), 0),
    "voxels shuffled": _shuffled_voxels,
    "regions exchanged": _exchanged_regions,
}


def planted(name: str, ingredients: Ingredients) -> Array:
    """A wrong map with the right one's sum of magnitudes (what is missing stays missing)."""
    made = np.ascontiguousarray(WRONG[name](ingredients), dtype=np.float32)
    if name.endswith("missing"):
        return made
    total = float(np.abs(made, dtype=np.float64).sum())
    return made * np.float32(float(np.abs(ingredients.right, dtype=np.float64).sum()) / (total or 1.0))


# ----------------------------------------------------------------------------------------------------- making them

#: Which part of the ingredients a wrong map needs.
NEEDS = {
    "another patient's scan": "other_patient",
    "a control's scan": "other_control",
    "the other class": "other_class",
    "an untrained network": "untrained",
    "another method": "other_method",
}


@dataclass(frozen=True, eq=False)
class Remembering(Question):
    """The maps of the changed scans do not depend on the map that is checked: made once per patient."""

    known: dict[tuple[float, ...], npt.NDArray[np.float64]] = field(default_factory=dict)

    def map_of(self, checked: CheckedMap, image: torch.Tensor, *changed: object) -> npt.NDArray[np.float64]:
        middle = image.shape[2] // 3
        key = (float(image.double().sum()), float(image[0, 0, middle].double().square().sum()), float(len(changed)))
        if key not in self.known:
            self.known[key] = super().map_of(checked, image, *changed)
        return self.known[key]


def remembering(question: Question) -> Remembering:
    return Remembering(**{name: getattr(question, name) for name in question.__dataclass_fields__})


def wrong_map(
    name: str, question: Question, right: CheckedMap, other_patient: torch.Tensor, control: torch.Tensor, seed: int
) -> CheckedMap:
    """A planted map with the right one's name and options; only those ingredients are computed that it needs.

    Parameters
    ----------
    name : str
        Of :data:`WRONG`.
    question : Question
    right : CheckedMap
    other_patient, control : Tensor, shape (1, 1, …)
        Scans as the network sees them.
    seed : int
    """
    guided = get_method("guided-backprop")
    other = replace(right, method=guided, options=guided.complete({}))
    makers: dict[str, Callable[[], npt.NDArray[np.float64]]] = {
        "other_patient": lambda: Question.map_of(question, right, other_patient.to(question.device)),
        "other_control": lambda: Question.map_of(question, right, control.to(question.device)),
        "other_class": lambda: Question.map_of(replace(question, target=Target(0)), right, question.image),
        "untrained": lambda: Question.map_of(question, right, question.image, lambda network: shuffled(network, 99)),
        "other_method": lambda: Question.map_of(question, other, question.image),
    }
    unused = dict.fromkeys(makers, right.values)
    needed = {NEEDS[name]: makers[NEEDS[name]]().astype(np.float32)} if name in NEEDS else {}
    assert question.regions is not None
    parts = Ingredients(
        right.values,
        question.image[0, 0].cpu().numpy(),
        question.brain,
        question.regions.atlas.labels.array,
        question.spacing[0],
        **{**unused, **needed},
        seed=seed,
    )
    return replace(right, values=planted(name, parts))
