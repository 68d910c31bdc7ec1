"""``make study-cohort``: a simulated cohort of 60 patients and 60 controls through everything a group study has.

Two sites, age and head size that act on anatomy, and the truth known: which regions shrank, and by how much. What is
done is not done again, so that it can be stopped at any time and started anew.

    study_cohort.py maps FOLDER     scans, truth and maps: LRP, guided backpropagation and gradient × input of all (12 s
                                    of processor time each), and LRP with β .25, .5, .75 and 1 of the first 16 people
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch import BatchOptions, BatchScan, explain_batch
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
from ADAttributionLogic.simulation.population import Person, draw_population, simulate_person

PATIENTS = CONTROLS = 60
#: How many people's maps are computed with every β: the first of the list, half of them patients.
WITH_EVERY_BETA = 16
AT_A_TIME = 8
METHODS = (MethodRequest("lrp", {"beta": 0.0}), MethodRequest("guided-backprop"), MethodRequest("gradient-x-input"))
BETAS = tuple(MethodRequest("lrp", {"beta": beta}) for beta in (0.25, 0.5, 0.75, 1.0))
ATLAS = "neuromorphometrics"


def simulate(people: Sequence[Person], folder: Path) -> None:
    """Write each person's scan and, when it is whole, the truth beside it."""
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    for person in people:
        truth, scan = folder / "scans" / f"{person.name}.json", folder / "scans" / f"{person.name}.nii.gz"
        if truth.exists():
            continue
        scan.unlink(missing_ok=True)
        subject, volumes = simulate_person(icbm152_anatomy(), person)
        write_volume(subject.scan, scan)
        brain_ml = float(np.count_nonzero(subject.scan.array)) * subject.scan.grid.voxel_volume_mm3 / 1000
        found = {
            "person": asdict(person),
            "brain_ml": brain_ml,
            "volumes_mm3": volumes,
            "change": subject.volume_change,
        }
        unfinished = truth.with_suffix(".tmp")
        unfinished.write_text(json.dumps(found) + "\n", encoding="utf-8")
        os.replace(unfinished, truth)
        print(person.name, flush=True)


def explain(people: Sequence[Person], folder: Path, name: str, methods: Sequence[MethodRequest]) -> None:
    """A batch, which goes on where it stopped."""
    scans = [BatchScan(p.name, folder / "scans" / f"{p.name}.nii.gz") for p in people]
    options = BatchOptions(methods, figure=False, with_spread=False)
    model, atlas = load_model("simulated-atrophy"), load_atlas(ATLAS)
    found = explain_batch(scans, model, options, folder / name, atlas=atlas)
    print(f"{name}: {found.done} done, {found.kept} kept, {found.failed} failed", flush=True)


def make_maps(people: Sequence[Person], folder: Path) -> None:
    """A few people at a time, so that what there is at any moment is a whole study of fewer people."""
    for start in range(0, len(people), AT_A_TIME):
        some = people[start : start + AT_A_TIME]
        simulate(some, folder)
        explain(some, folder, "results", METHODS)
        if start <= WITH_EVERY_BETA < start + AT_A_TIME:
            explain(people[:WITH_EVERY_BETA], folder, "results-beta", BETAS)
    explain(people, folder, "results", METHODS)  # the summary of all


def main() -> int:
    what, folder = sys.argv[1], Path(sys.argv[2])
    people = draw_population(PATIENTS, CONTROLS)
    if what == "maps":
        make_maps(people, folder)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
