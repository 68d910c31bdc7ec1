"""A scan against a reference of controls at full size: z of all regions, and the smoothed z map."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from figures import Figure
from scipy.ndimage import gaussian_filter

from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.comparison.adjusted import adjusted_scores
from ADAttributionLogic.comparison.scores import gain, gain_with_floor, percentile, standard_score
from ADAttributionLogic.comparison.z_map import SMOOTHING_MM, pattern_z_map, z_map
from ADAttributionLogic.reference.pattern import pattern_grid, pattern_of
from ADAttributionLogic.volume import Volume

REGIONS, CONTROLS = 120, 60


def _maps() -> tuple[Volume, Volume, Volume]:
    """A map on ICBM152's grid at 1 mm, and mean and standard deviation of controls with a spread in the brain."""
    template = load_template()
    generator = np.random.default_rng(0)
    inside = template.array > 0

    def drawn() -> Volume:
        return template.with_array(np.where(inside, generator.normal(size=inside.shape), 0).astype(np.float32))

    own, mean, sd = drawn(), drawn(), drawn()
    return own, mean, sd.with_array(np.abs(sd.array) + inside.astype(np.float32))


def comparison() -> Iterator[Figure]:
    own, mean, sd = _maps()
    shape = "×".join(map(str, own.array.shape))
    pattern = Volume(pattern_of(mean.array, mean.grid), pattern_grid(mean.grid).affine)
    spread = pattern.with_array(np.abs(pattern.array) + np.float32(1e-9))
    known = sd.array > 0
    pattern_z_map(own, pattern, spread, known)
    started, processor = time.perf_counter(), time.process_time()
    made = pattern_z_map(own, pattern, spread, known)
    passed, used = time.perf_counter() - started, time.process_time() - processor
    regions = _regions_seconds()
    yield Figure(
        f"z of a scan against a reference at {shape}, s (processor {used + regions:.2f} s)", passed + regions, 0.5
    )
    started = time.perf_counter()
    z_map(own, mean, sd)
    voxels = time.perf_counter() - started
    yield Figure("z map of single voxels / of patterns", voxels / passed)
    started = time.perf_counter()
    width = SMOOTHING_MM / 2.3548200450309493
    smooth = [gaussian_filter(volume.array, width, mode="constant") for volume in (own, sd)]
    ratio = (time.perf_counter() - started) / voxels
    yield Figure("z map of single voxels, scipy's Gaussian filter / ours", ratio, 1.5, at_most=False)
    assert np.isfinite(made.volume.array).all() and len(smooth) == 2


def _regions_seconds() -> float:
    generator = np.random.default_rng(1)
    values, grid = generator.normal(size=(CONTROLS, REGIONS)), np.linspace(0.01, 0.99, 23)
    own, mean, sd = generator.normal(size=REGIONS), values.mean(axis=0), values.std(axis=0, ddof=1)
    quantiles = np.quantile(values, grid, axis=0).T
    started = time.perf_counter()
    gain(own, mean), gain_with_floor(own, mean, sd), standard_score(own, mean, sd)
    percentile(own, grid, quantiles, CONTROLS)
    adjusted_scores(own, mean, sd, 0.05, CONTROLS - 4)
    return time.perf_counter() - started


BENCHMARKS = (comparison,)
