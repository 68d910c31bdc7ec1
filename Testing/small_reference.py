"""A reference cohort of small controls: real maps of the small network, in seconds.

``small_control(7, age=70)`` is the template brain at 2.5 mm with contrast and shading of its own; the temporal lobes
darken with age.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from small_grid import SMALL_AFFINE, SMALL_SHAPE

from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.explain import explain
from ADAttributionLogic.explanation import Explanation
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.reference.accumulation import Accumulation, Control
from ADAttributionLogic.reference.question import method_of_record, question_of_record
from ADAttributionLogic.reference.writing import About, write_reference
from ADAttributionLogic.volume import Volume, resample

METHODS = ("lrp", "gradient-x-input")


def covariates_of(seed: int) -> dict[str, str]:
    """Age and sex of a small control."""
    return {"age": f"{60 + seed * 7 % 25}", "sex": "FM"[seed // 2 % 2]}


@cache
def _brain() -> tuple[Volume, np.ndarray]:
    """The template at 2.5 mm, and where the temporal lobes are, smoothly."""
    grid = Grid(SMALL_SHAPE, SMALL_AFFINE)
    atlas = load_atlas("aal").on_grid(grid)
    lobes = [r.label for r in atlas.regions if "Hippocampus" in r.name or "Temporal" in r.name]
    return resample(load_template(), grid), gaussian_filter(np.isin(atlas.labels.array, lobes).astype(float), 1.5)


def small_control(seed: int, age: float | None = None) -> Volume:
    """A scan; by default of the age in :func:`covariates_of`."""
    brain, lobes = _brain()
    generator = np.random.default_rng(seed)
    age = float(covariates_of(seed)["age"]) if age is None else age
    shading = gaussian_filter(generator.normal(size=SMALL_SHAPE), 6)
    shading *= 0.15 / np.abs(shading).max()
    contrast = (brain.array / brain.array.max()) ** generator.uniform(0.85, 1.15)
    array = 100 * contrast * (1 + shading) * (1 - 0.012 * (age - 60) * lobes)
    return Volume(array.astype(np.float32), SMALL_AFFINE, f"small control {seed}")


def explain_small_controls(model: Model, seeds: range) -> list[Explanation]:
    """Their maps."""
    atlas = load_atlas("aal")
    return [explain(small_control(seed), model, METHODS, atlas=atlas, with_spread=False) for seed in seeds]


def accumulate_small(controls: list[Explanation]) -> Accumulation:
    """Take up their maps; of the seeds 0, 1 …"""
    record, grid = controls[0].provenance, controls[0].model_input.volume.grid
    methods = {name: method_of_record(record, name) for name in METHODS}
    found = Accumulation(question_of_record(record, grid), methods, [load_atlas("aal")])
    for seed, one in enumerate(controls):
        control = Control(f"sub-{seed:02d}", "", one.provenance["scan"]["voxels_sha256"], covariates_of(seed))
        found.add(control, one.provenance, {h.name: h.volume for h in one.heatmaps}, one.model_input.volume)
    return found


def write_small_reference(folder: Path, found: Accumulation) -> Path:
    """As a package."""
    about = About(title="Twelve small controls", controls="The template brain with shading; for tests")
    return write_reference(found, folder, about, covariates=["age", "sex"])
