"""The way from a scan as acquired to the model's grid: seconds of each step, for a head of 256×256×190 voxels."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
from figures import Figure
from heads import HEAD, REASON, colin27

from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preprocessing.cache import preprocess_cached
from ADAttributionLogic.preprocessing.pipeline import Options, RegistrationKind
from ADAttributionLogic.registration.deformable import ants_available
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.volume import Volume, resample

#: Seconds, all steps included, on two cores.
BARS = {"affine": 30.0, "deformable": 150.0}


def _head() -> Volume:
    """Colin27 on 256×256×190 voxels of 1 mm, lying turned and shifted in the scanner."""
    from scipy.spatial.transform import Rotation

    head, _ = colin27()
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (8, -5, 6), degrees=True).as_matrix()
    affine[:3, 3] = head.grid.to_ras((90, 108, 90)) - affine[:3, :3] @ (128, 128, 95)
    scan = resample(head, Grid((256, 256, 190), affine))
    # The patient lies where the scanner's axes are; as the file had it, he would lie in the template's place already.
    place = np.eye(4)
    place[:3, 3] = (-148, -108, -75)
    return Volume(scan.array, place)


def _seconds(kind: RegistrationKind) -> Iterator[Figure]:
    import tempfile
    from pathlib import Path

    if not HEAD.exists():
        print(f"# preprocessing is not measured: {REASON}", file=sys.stderr)
        return
    scan, template = _head(), load_template()
    with tempfile.TemporaryDirectory() as folder:
        started, computed = time.perf_counter(), time.process_time()
        found, _ = preprocess_cached(
            scan, template.grid, RegistrationTarget(template), Options(kind), folder=Path(folder)
        )
        total, processor = time.perf_counter() - started, time.process_time() - computed
        started = time.perf_counter()
        _, cached = preprocess_cached(
            scan, template.grid, RegistrationTarget(template), Options(kind), folder=Path(folder)
        )
        again = time.perf_counter() - started
    assert cached
    for name, seconds in found.provenance["seconds"].items():
        yield Figure(f"preprocessing, {kind}: {name}, seconds", seconds)
    yield Figure(f"preprocessing, {kind}: all steps of a 256×256×190 head, seconds", total, BARS[kind])
    # Without that of ANTs, which is another process.
    yield Figure(f"preprocessing, {kind}: all steps, processor seconds of all threads", processor)
    yield Figure(f"preprocessing, {kind}: again, from the cache, seconds", again)


def preprocessing_affine() -> Iterator[Figure]:
    yield from _seconds("affine")


def preprocessing_deformable() -> Iterator[Figure]:
    if not ants_available():
        print("# the deformable path is not measured: antspyx is not installed (extra registration)", file=sys.stderr)
        return
    yield from _seconds("deformable")


BENCHMARKS = (preprocessing_affine, preprocessing_deformable)
