"""Occlusion at 193×229×193 against full forward passes of the same network, two CPU threads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Figure

#: Size, stride, windows at sampled positions, bar for the speed-up over one full forward pass per window.
WINDOWS = (
    (40, 25, 60, 60),
    (25, 12, 120, 150),
    (16, 8, 240, 300),
    (8, 4, 1000, 500),
    (4, 2, 1500, 700),
    (1, 1, 2000, 1000),
)

VOXELS_BAR = 1800


def _measure(*arguments: object) -> dict[str, float]:
    """Run one case in a process of its own, so that its peak memory is its own."""
    script = Path(__file__).with_name("measure_occlusion.py")
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"occlusion {arguments} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _memory(name: str, found: dict[str, float]) -> Figure:
    return Figure(f"{name}, added peak MiB", found["added_bytes"] / 2**20)


def occlusion() -> Iterator[Figure]:
    for size, stride, count, bar in WINDOWS:
        found = _measure("windows", size, stride, count)
        name = f"occlusion {size}/{stride}, full forward / window"
        yield Figure(name, found["forward_seconds"] / found["seconds"], bar, at_most=False)
        yield _memory(f"occlusion {size}/{stride}", found)
        if size == 1:
            projected = found["brain_voxels"] * found["seconds"] / found["forward_seconds"]
            yield Figure("voxel occlusion of the brain, projected time / forward", projected, VOXELS_BAR)
    for size, stride, mask, bar in ((40, 25, "all", 14), (8, 4, "brain", 60)):
        found = _measure("map", size, stride, mask)
        name = f"occlusion map {size}/{stride} ({mask})"
        yield Figure(f"{name}, time / forward", found["seconds"] / found["forward_seconds"], bar)
        yield _memory(name, found)


def voxel_map() -> Iterator[Figure]:
    """Takes up to an hour: only when it is asked for by its name."""
    found = _measure("voxels")
    name = "voxel occlusion of the brain"
    yield Figure(f"{name}, time / forward", found["seconds"] / found["forward_seconds"], VOXELS_BAR)
    yield Figure(f"{name}, minutes", found["seconds"] / 60)
    yield _memory(name, found)


BENCHMARKS = (occlusion,)
LONG_BENCHMARKS = (voxel_map,)
