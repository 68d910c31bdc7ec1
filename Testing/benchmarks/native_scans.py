"""Simulated scans as acquired, as many as a benchmark needs, made on all cores."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic.engines.local import LocalProcesses
from ADAttributionLogic.engines.machine import plan_for
from ADAttributionLogic.engines.tasks import Task


@dataclass(frozen=True)
class Acquiring:
    """Opens what acquires the template's brain from another place, by number."""

    folder: str

    def __call__(self) -> Any:
        from ADAttributionLogic.atlas.library import load_template
        from ADAttributionLogic.scan_files import write_volume
        from ADAttributionLogic.simulation.native_scan import Acquisition, acquire

        template = load_template()

        def make(number: int, _monitor: Any) -> None:
            drawn = random.Random(number)
            turn = tuple(drawn.uniform(-10, 10) for _ in range(3))
            shift = tuple(drawn.uniform(-15, 15) for _ in range(3))
            asked = Acquisition(turn, shift, (1.0, 1.0, 1.2), "sagittal", "int16", 0.15, 0.01, number)
            write_volume(acquire(template, asked).scan, Path(self.folder) / f"sub-{number:02d}.nii.gz")

        return make


def make_scans(folder: Path, count: int) -> None:
    """Write so many scans; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(count) if not (folder / f"sub-{n:02d}.nii.gz").is_file()]
    tasks = [Task(f"sub-{n:02d}", n, "scan") for n in missing]
    for outcome in LocalProcesses(plan_for(max(len(tasks), 1), 1200.0)).run(tasks, Acquiring(str(folder))):
        if outcome.failure is not None:
            raise outcome.failure.as_error()
