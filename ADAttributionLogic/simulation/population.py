"""A population of simulated people: age, sex, head size and site act on their scans, beside the simulated disease.

What a group study has to take apart is in there, with the truth known: age widens the lateral ventricles and shrinks
the medial temporal lobe a little in everybody, men's heads are larger, and one site's scanner is noisier, with another
contrast and a stronger bias field. Patients are older, and more of them were scanned at that site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ADAttributionLogic.simulation.anatomy import Anatomy, AtrophyField, icbm152_anatomy, rim_field
from ADAttributionLogic.simulation.deformation import identity, sample
from ADAttributionLogic.simulation.subject import (
    PATIENT,
    SimulatedSubject,
    SubjectParameters,
    add_in_box,
    draw_parameters,
    rim_displacement,
    simulate_subject,
)

#: Neuromorphometrics labels (left, right) of what widens with age.
VENTRICLES = (52, 51)

YOUNGEST, OLDEST = 55.0, 90.0
#: Displacement of the rims by age, mm a year from the youngest on: of the ventricles (widening), and of what the
#: disease shrinks as well.
VENTRICLE_MM_A_YEAR, MEDIAL_TEMPORAL_MM_A_YEAR = 0.05, 0.012

#: Head size: standard deviation of the linear scale, how much larger men's are, and the limit of both.
SCALE_SD, MEN_LARGER, LARGEST_SCALE = 0.010, 0.012, 0.035


@dataclass(frozen=True)
class Person:
    """One person, not yet simulated.

    Attributes
    ----------
    name : str
    age : float
        Years.
    sex : {"F", "M"}
    site : {"A", "B"}
    head_scale : float
        Linear size of the brain against the template's.
    ventricle_mm : float
        How far the rims of the lateral ventricles are moved outwards.
    parameters : SubjectParameters
        Class, atrophy (age's share included), random anatomy, and the scanner's image.
    """

    name: str
    age: float
    sex: Literal["F", "M"]
    site: Literal["A", "B"]
    head_scale: float
    ventricle_mm: float
    parameters: SubjectParameters

    @property
    def diagnosis(self) -> str:
        """``AD`` or ``HC``."""
        return "AD" if self.parameters.label == PATIENT else "HC"


def draw_population(patients: int, controls: int, seed: int = 1907) -> tuple[Person, ...]:
    """Draw the people of a study, patients and controls in turn as long as there are both.

    Parameters
    ----------
    patients, controls : int
    seed : int
        Different seeds give different people.
    """
    labels = [label for pair in zip([1] * patients, [0] * patients, strict=True) for label in pair]
    left = {1: patients, 0: controls}
    order = []
    for label in labels + [0] * controls:
        if left[label] > 0:
            left[label] -= 1
            order.append(label)
    return tuple(_draw_person(f"sub-{n:03d}", label, seed * 100_000 + n) for n, label in enumerate(order, start=1))


def _draw_person(name: str, label: int, seed: int) -> Person:
    generator = np.random.default_rng([seed, label, 2])
    mean = 76.0 if label == PATIENT else 71.0
    age = round(float(np.clip(generator.normal(mean, 7.5), YOUNGEST, OLDEST)), 1)
    sex: Literal["F", "M"] = "M" if generator.random() < 0.5 else "F"
    site: Literal["A", "B"] = "B" if generator.random() < (0.6 if label == PATIENT else 0.4) else "A"
    size = generator.normal(0.0, SCALE_SD) + (MEN_LARGER if sex == "M" else 0.0)
    aged = age - YOUNGEST
    return Person(
        name,
        age,
        sex,
        site,
        head_scale=round(1 + float(np.clip(size, -LARGEST_SCALE, LARGEST_SCALE)), 4),
        ventricle_mm=round(VENTRICLE_MM_A_YEAR * aged * float(generator.uniform(0.6, 1.4)), 3),
        parameters=_parameters(label, seed, aged, site, generator),
    )


def _parameters(label: int, seed: int, aged: float, site: str, generator: np.random.Generator) -> SubjectParameters:
    """As :func:`~.subject.draw_parameters`, but that some patients are mild, age adds to atrophy, and sites differ."""
    drawn = draw_parameters(label, seed)
    disease = generator.uniform(0.4, 2.4) if label == PATIENT else generator.uniform(0.0, 0.3)
    sides = np.clip(disease + generator.normal(0.0, 0.25 if label == PATIENT else 0.05, 2), 0.0, None)
    left, right = np.round(sides + MEDIAL_TEMPORAL_MM_A_YEAR * aged, 3).tolist()
    drawn = replace(drawn, atrophy_mm=(left, right))
    if site == "A":
        return drawn
    return replace(drawn, noise=0.018, gamma=round(drawn.gamma * 0.94, 3), bias=round(drawn.bias + 0.04, 3))


@cache
def ageing_field() -> AtrophyField:
    """The field along which the lateral ventricles of the template brain widen (kept after the first call)."""
    return rim_field(icbm152_anatomy().atlas, {-1.0: VENTRICLES})


def simulate_person(anatomy: Anatomy, person: Person) -> tuple[SimulatedSubject, dict[str, float]]:
    """Make a person's scan, and measure the atlas regions as they really are in it.

    Deterministic in the person (to rounding across machines).

    Returns
    -------
    subject : SimulatedSubject
    volumes : dict of str to float
        mm³ by the region's name in the atlas: the true segmentation (each voxel has the label of the place in the
        template that it shows), counted.
    """
    subject = simulate_subject(anatomy, person.parameters, _growth(anatomy, person))
    voxel_mm = anatomy.template.grid.spacing[0]
    labels = torch.from_numpy(anatomy.atlas.labels.array.astype(np.float32))
    shown = sample(labels[None], identity(tuple(labels.shape)) + subject.displacement / voxel_mm, mode="nearest")[0]
    counts = torch.bincount(shown.to(torch.int64).ravel(), minlength=max(r.label for r in anatomy.atlas.regions) + 1)
    cubic = anatomy.template.grid.voxel_volume_mm3
    return subject, {r.name: round(float(counts[r.label]) * cubic, 1) for r in anatomy.atlas.regions}


def _growth(anatomy: Anatomy, person: Person) -> Callable[[Tensor], None]:
    """Head size about the middle of the grid, then wider ventricles."""
    voxel_mm = anatomy.template.grid.spacing[0]
    field = ageing_field()

    def grow(places: Tensor) -> None:
        middle = torch.tensor([(n - 1) / 2 for n in places.shape[1:]])[:, None, None, None]
        # Displacements were drawn in the subject's own millimetres; only where they are read is scaled.
        places.sub_(middle).div_(person.head_scale).add_(middle)
        widen = rim_displacement(field, (person.ventricle_mm, person.ventricle_mm), voxel_mm)
        add_in_box(places, widen, field.start)

    return grow
