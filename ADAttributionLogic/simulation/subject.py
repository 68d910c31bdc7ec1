"""One simulated subject: the template brain, deformed, with and without atrophy of the medial temporal lobe.

The simulation gives a task with a known answer: which regions tell the classes apart is the ground truth that a
heatmap can be held against. It is no model of Alzheimer's disease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ADAttributionLogic.simulation.anatomy import SIDES, Anatomy, AtrophyField, affected_labels
from ADAttributionLogic.simulation.deformation import exponential, identity, random_displacement, sample, smooth_noise
from ADAttributionLogic.volume import Volume

CONTROL, PATIENT = 0, 1


@dataclass(frozen=True)
class SubjectParameters:
    """How a subject differs from the template. Lengths in mm.

    Attributes
    ----------
    label : int
        0 control, 1 patient ("AD").
    atrophy_mm : tuple of float
        Strength of the atrophy on the left and on the right: displacement of the structures' rims.
    anatomy_mm : float
        Longest vector of the smooth random displacement.
    bias : float
        Largest relative deviation of the intensity by the bias field.
    gamma : float
        Contrast: exponent on the intensity between 0 and 1.
    noise : float
        Standard deviation of the noise, relative to the brightest tissue.
    seed : int
        Seed of the random fields.
    """

    label: int
    atrophy_mm: tuple[float, float]
    anatomy_mm: float
    bias: float
    gamma: float
    noise: float
    seed: int


@dataclass(frozen=True, eq=False)
class SimulatedSubject:
    """A simulated scan and its ground truth.

    Attributes
    ----------
    scan : Volume
        float32, brain between 0 and about 100, 0 outside.
    atrophy : Volume
        Length (mm) of the displacement that the atrophy caused, on the scan's grid.
    displacement : Tensor, shape (3, I, J, K), float32
        The whole displacement in mm along the array axes: scan(x) = template(x + displacement(x)).
    volume_change : dict of str to float
        Relative change of each affected structure's volume against the template (−0.2: 20 % smaller).
    parameters : SubjectParameters
    """

    scan: Volume
    atrophy: Volume
    displacement: Tensor
    volume_change: dict[str, float]
    parameters: SubjectParameters

    def ground_truth(self) -> dict[str, Any]:
        """What was done to this subject, as plain values for a JSON file."""
        return {
            "simulated": True,
            "class": "AD (simulated atrophy)" if self.parameters.label == PATIENT else "CN (simulated control)",
            "parameters": asdict(self.parameters),
            "affected_neuromorphometrics_labels": {str(k): v for k, v in affected_labels().items()},
            "relative_volume_change": self.volume_change,
        }


def draw_parameters(label: int, seed: int) -> SubjectParameters:
    """Draw a subject's parameters.

    The strength is drawn per hemisphere, so that one side alone does not decide the class: patients 0.6–2.6 mm with a
    mean of both sides of at least 1.3 mm, controls 0–0.35 mm.
    """
    generator = np.random.default_rng([seed, label, 0])
    low, high, least = (0.6, 2.6, 1.3) if label == PATIENT else (0.0, 0.35, 0.0)
    while True:
        left, right = generator.uniform(low, high, size=2)
        if (left + right) / 2 >= least:
            break
    return SubjectParameters(
        label=label,
        atrophy_mm=(round(float(left), 3), round(float(right), 3)),
        anatomy_mm=round(float(generator.uniform(1.2, 2.4)), 3),
        bias=round(float(generator.uniform(0.02, 0.10)), 3),
        gamma=round(float(generator.uniform(0.9, 1.1)), 3),
        noise=0.01,
        seed=seed,
    )


def simulate_subject(
    anatomy: Anatomy, parameters: SubjectParameters, growth: Callable[[Tensor], None] | None = None
) -> SimulatedSubject:
    """Make a subject.

    Deterministic in its parameters (to rounding across machines).

    Parameters
    ----------
    anatomy : Anatomy
    parameters : SubjectParameters
    growth : callable, optional
        Changes, in place, where the template is read (voxel indices, shape (3, I, J, K)), before the atrophy does:
        what is no disease, such as age and head size (:mod:`.population`).

    Returns
    -------
    SimulatedSubject
        On the template's grid, intensities float32.
    """
    generator = np.random.default_rng([parameters.seed, parameters.label, 1])
    template = torch.from_numpy(np.ascontiguousarray(anatomy.template.array, dtype=np.float32))
    spacing = anatomy.template.grid.spacing
    shape = anatomy.template.grid.shape
    if max(spacing) - min(spacing) > 1e-3:
        raise ValueError(f"The simulation needs isotropic voxels, but the template has {spacing} mm.")
    voxel_mm = spacing[0]

    places = identity(shape) + random_displacement(shape, 12.0 / voxel_mm, parameters.anatomy_mm / voxel_mm, generator)
    if growth is not None:
        growth(places)
    shrink = rim_displacement(anatomy.atrophy, parameters.atrophy_mm, voxel_mm)
    atrophy_mm = add_in_box(places, shrink, anatomy.atrophy.start) * voxel_mm
    warped = sample(template[None], places)[0]
    scan = _acquire(warped, parameters, float(template.max()), generator)
    scan_volume = anatomy.template.with_array(
        scan.numpy(), f"simulated subject (class {parameters.label}, seed {parameters.seed})"
    )
    return SimulatedSubject(
        scan_volume,
        anatomy.template.with_array(atrophy_mm.numpy(), "true displacement by atrophy, mm"),
        (places - identity(shape)) * voxel_mm,
        _volume_change(anatomy, places),
        parameters,
    )


def rim_displacement(field: AtrophyField, strength_mm: tuple[float, float], voxel_mm: float) -> Tensor:
    """Displacement (3, i, j, k), in voxels, of the field's box, for a strength on the left and on the right."""
    velocity = torch.zeros((3, *field.shape))
    for side, strength in zip(SIDES, strength_mm, strict=True):
        velocity += torch.from_numpy(field.velocity[side]) * (strength / voxel_mm)
    return exponential(velocity)


def add_in_box(places: Tensor, displacement: Tensor, start: tuple[int, int, int]) -> Tensor:
    """Compose, in place: read the template at ``places + displacement(places)``; returns the added length in voxels."""
    length = torch.zeros(places.shape[1:])
    size = displacement.shape[1:]
    # Where the random anatomy reads from inside the box; a few voxels around it cover its longest vectors.
    margin = 8
    box = tuple(slice(max(a - margin, 0), a + n + margin) for a, n in zip(start, size, strict=True))
    local = places[(slice(None), *box)] - torch.tensor(start, dtype=torch.float32)[:, None, None, None]
    added = sample(displacement, local, padding="zeros")
    places[(slice(None), *box)] += added
    length[box] = added.norm(dim=0)
    return length


def _acquire(warped: Tensor, parameters: SubjectParameters, brightest: float, generator: np.random.Generator) -> Tensor:
    """Contrast, bias field and noise of a scanner; nothing outside the brain."""
    brain = warped > 0.04 * brightest
    contrast = (warped / brightest).clamp(0, 1) ** parameters.gamma * brightest
    field = smooth_noise(tuple(warped.shape), 40.0, 1, generator)[0]
    field *= parameters.bias / field.abs().max()
    noise = torch.from_numpy(generator.standard_normal(warped.shape, dtype=np.float32))
    scan = contrast * (1 + field) + noise * (parameters.noise * brightest)
    return (scan * brain).clamp_(min=0)


def _volume_change(anatomy: Anatomy, places: Tensor) -> dict[str, float]:
    """Count each affected structure's voxels in the warped label map."""
    start, size = anatomy.atrophy.start, anatomy.atrophy.shape
    box = tuple(slice(max(a - 8, 0), a + n + 8) for a, n in zip(start, size, strict=True))
    labels = torch.from_numpy(anatomy.atlas.labels.array.astype(np.float32))
    warped = sample(labels[None], places[(slice(None), *box)], mode="nearest")[0].numpy().astype(np.int32)
    names = {label: f"{side} {name}" for side in SIDES for label, name in affected_labels(side).items()}
    before = np.bincount(anatomy.atlas.labels.array.ravel(), minlength=max(names) + 1)
    after = np.bincount(warped.ravel(), minlength=max(names) + 1)
    return {name: round(float(after[label] / before[label] - 1), 4) for label, name in names.items()}
