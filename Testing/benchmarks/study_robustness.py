"""``make study-robustness``: ten trainings of one recipe on the simulated cohort; do they explain alike?

The study of Eitel & Ritter 2019 where the truth is known. On a grid of 2 mm, on which a training takes minutes of one
core instead of an hour: the network of Böhle et al. 2019, 100 simulated people to learn from, 24 to choose the epoch
by, 40 to be asked about. The trainings differ in their seed alone: initial weights, order, mirroring and shifts.

With a learning rate of 5e-4 the first training lost what the head start had found and stayed at chance; with 1e-4 the
validation loss still falls in the 30th epoch. A training takes six minutes of processor time; one of ten stopped early
with next to nothing learned, and stays in the study (one that finds no patient is refused by name).

    study_robustness.py FOLDER [--trainings 10] [--keep TO]

Every training is kept in FOLDER/networks when it is done, and what it shows as well, so that the study goes on where it
was stopped. FOLDER/study is what ``ad-attribution study robustness`` writes; --keep copies its tables, and the figures
that the README shows, without the numbers of every figure.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.cli import main as main_command
from ADAttributionLogic.demonstration.card import INTENDED_USE, LICENCE
from ADAttributionLogic.demonstration.network import CohortScan
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.packages import save_package
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.anatomy import Anatomy, affected_labels, atrophy_field
from ADAttributionLogic.simulation.cohort import CohortPlan, CohortSubject, SimulatedScans, draw_cohort
from ADAttributionLogic.training.fit import Epoch, fit, predict
from ADAttributionLogic.training.metrics import performance
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.volume import Volume, resample

GRID = Grid((96, 114, 96), np.array([[2.0, 0, 0, -96], [0, 2.0, 0, -132], [0, 0, 2.0, -78], [0, 0, 0, 1]]))
RECIPE = Recipe(learning_rate=1e-4, epochs=30, head_start=True, translation_voxels=1)
METHODS = ("lrp", "lrp:beta=0.5", "lrp:beta=1", "deeplift:rule=gamma,baseline=blur", "guided-backprop",
           "gradient-x-input")  # fmt: skip


def coarse_anatomy() -> Anatomy:
    """ICBM152 at 2 mm."""
    atlas = load_atlas("neuromorphometrics").on_grid(GRID)
    return Anatomy(resample(load_template(), GRID), atlas, atrophy_field(atlas))


def train(seed: int, subjects: dict[str, list[CohortScan]], folder: Path) -> None:
    """One training, as a package; what is there already stays."""
    target = folder / f"seed-{seed:02d}"
    if target.exists():
        return
    begun = time.process_time()

    def report(epoch: Epoch) -> None:
        print(f"seed {seed}, {epoch}", flush=True)

    recipe = replace(RECIPE, seed=seed)
    network = build_network("boehle2019", GRID.shape)
    initialise(network, seed)
    fitted = fit(network, subjects["train"], subjects["validation"], recipe, torch.device("cpu"), report)
    tested = performance([s.label for s in subjects["test"]], predict(network, subjects["test"]))
    spent = time.process_time() - begun
    print(f"seed {seed}: {tested}, best epoch {fitted.best_epoch}, {spent:.0f} s of the processor", flush=True)
    save_package(target, {
        "schema_version": 1,
        "name": f"seed-{seed:02d}",
        "title": f"Simulated atrophy at 2 mm, seed {seed}",
        "network": {"architecture": "boehle2019"},
        "grid": {"shape": list(GRID.shape), "affine": GRID.affine.tolist(), "space": "ICBM152 2009c, 2 mm"},
        "normalisation": {"kind": "min-max", "mask": "nonzero"},
        "classes": ["CN", "AD"],
        "positive_class": 1,
        "training": {"data": "simulated scans at 2 mm", "recipe": asdict(recipe), "best_epoch": fitted.best_epoch,
                     "test_performance": tested.as_dict()},
        "licence": LICENCE,
        "intended_use": INTENDED_USE,
    }, network)  # fmt: skip


def write_people(subjects: list[CohortSubject], scans: SimulatedScans, folder: Path) -> Path:
    """The test people's scans and their table."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "people.tsv"
    rows = []
    for subject in subjects:
        path = folder / f"{subject.name}.nii.gz"
        if not path.exists():
            unfinished = folder / f"unfinished-{path.name}"
            write_volume(Volume(np.array(scans.load(subject)).astype(np.float32), GRID.affine), unfinished)
            unfinished.replace(path)
        rows.append([path.name, subject.name, ("CN", "AD")[subject.label]])
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([["scan", "subject", "diagnosis"], *rows])
    return table


def keep(study: Path, to: Path) -> None:
    """What is worth publishing, and beside it which of the first regions are truly affected."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(study / "tables", to)
    for name in ("coherence", "ranks-lrp", "ranks-deeplift-rule-gamma-baseline-blur", "distances-lrp"):
        shutil.copy(study / "figures" / f"{name}.png", to / f"{name}.png")
    shutil.copy(study / "robustness.json", to)
    affected = {region.name for region in coarse_anatomy().atlas.regions if region.label in affected_labels()}
    with open(to / "affected.tsv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["method", "affected_among_first_5", "affected_among_first_10"])
        for path in sorted(to.glob("stability-*.tsv")):
            with open(path, encoding="utf-8") as opened:
                first = [row["region"] in affected for row in csv.DictReader(opened, delimiter="\t")][:10]
            table.writerow([path.stem.removeprefix("stability-"), sum(first[:5]), sum(first)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--trainings", type=int, default=10)
    parser.add_argument("--people", type=int, default=40, help="of the test (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="TO")
    given = parser.parse_args()
    study = given.folder / "study"
    if not study.exists():
        anatomy = coarse_anatomy()
        scans = SimulatedScans(anatomy, given.folder / "cohort")
        subjects = draw_cohort(CohortPlan(test=given.people))
        splits = {s: [CohortScan(scans, x) for x in subjects if x.split == s] for s in ("train", "validation", "test")}
        for seed in range(given.trainings):
            train(seed, splits, given.folder / "networks")
        table = write_people([x for x in subjects if x.split == "test"], scans, given.folder / "people")
        command = ["study", "robustness", str(table), "--out", str(study)]
        for seed in range(given.trainings):
            command += ["--model", str(given.folder / "networks" / f"seed-{seed:02d}")]
        for method in METHODS:
            command += ["--method", method]
        if code := main_command(command):
            return code
    if given.keep is not None:
        keep(study, given.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
