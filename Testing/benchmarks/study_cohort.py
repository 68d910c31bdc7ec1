"""``make study-cohort``: a simulated cohort of 60 patients and 60 controls through everything a group study has.

Two sites, age and head size that act on anatomy, and the truth known: which regions shrank, and by how much. What is
done is not done again, so that it can be stopped at any time and started anew.

    study_cohort.py maps FOLDER     scans, truth and maps: LRP, guided backpropagation and gradient × input of all (12 s
                                    of processor time each), and LRP with β .25, .5, .75 and 1 of the first 16 people
    study_cohort.py study FOLDER    the study of those who have maps, in FOLDER/study, and truth.tsv beside it
    study_cohort.py keep FOLDER TO  what is worth keeping of it: tables, figures and the page, no maps
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch import BatchOptions, BatchScan, explain_batch
from ADAttributionLogic.cli import main as main_command
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.anatomy import SHRINKING, icbm152_anatomy
from ADAttributionLogic.simulation.population import Person, draw_population, simulate_person

PATIENTS = CONTROLS = 60
#: How many people's maps are computed with every β: the first of the list, half of them patients.
WITH_EVERY_BETA = 16
AT_A_TIME = 8
METHODS = (MethodRequest("lrp", {"beta": 0.0}), MethodRequest("guided-backprop"), MethodRequest("gradient-x-input"))
BETAS = tuple(MethodRequest("lrp", {"beta": beta}) for beta in (0.25, 0.5, 0.75, 1.0))
ATLAS = "neuromorphometrics"
SCORES = ("z", "z_adjusted", "gain")


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


def write_tables(people: Sequence[Person], folder: Path) -> None:
    """Write ``participants.tsv`` and ``volumes.tsv`` of those who are simulated."""
    participants, volumes = [], []
    for person in people:
        truth = folder / "scans" / f"{person.name}.json"
        if truth.exists():
            found = json.loads(truth.read_text(encoding="utf-8"))
            left, right = person.parameters.atrophy_mm
            participants.append(
                {
                    "subject": person.name,
                    "scan": f"scans/{person.name}.nii.gz",
                    "diagnosis": person.diagnosis,
                    "age": person.age,
                    "sex": person.sex,
                    "site": person.site,
                    "brain_ml": round(found["brain_ml"], 1),
                    "true_head_scale": person.head_scale,
                    "true_ventricle_mm": person.ventricle_mm,
                    "true_atrophy_left_mm": left,
                    "true_atrophy_right_mm": right,
                    **{f"true change of {name}": change for name, change in found["change"].items()},
                }
            )
            volumes.append({"subject": person.name, **found["volumes_mm3"]})
    for name, rows in (("participants.tsv", participants), ("volumes.tsv", volumes)):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def study(people: Sequence[Person], folder: Path) -> int:
    """The study of those who have maps, and what it says beside the truth."""
    done = [p for p in people if (folder / "results" / p.name / "provenance.json").is_file()]
    write_tables(done, folder)
    explain(done, folder, "results", METHODS)
    explain(done[:WITH_EVERY_BETA], folder, "results-beta", BETAS)
    given = [f"--results=demo={folder / name}" for name in ("results", "results-beta")]
    covariates = [f"--covariate={name}" for name in ("age", "sex", "site", "brain_ml")]
    more = [f"--volumes={folder / 'volumes.tsv'}", "--by=site", "--permutations=2000", "--overwrite"]
    out = folder / "study"
    code = main_command(["study", str(folder / "participants.tsv"), *given, *covariates, *more, f"--out={out}"])
    if code == 0:
        rows = against_the_truth(folder, out)
        with open(folder / "truth.tsv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([["maps", "what", "found", "asked"], *rows])
    return code


def against_the_truth(folder: Path, out: Path) -> list[list[str]]:
    """What was asked of a study whose truth is known, one row each, found as it is."""
    people = pd.read_csv(folder / "participants.tsv", sep="\t").set_index("subject")
    subjects = pd.read_csv(out / "tables" / "subjects.tsv", sep="\t").set_index("subject")
    case = subjects["case (demo)"]
    rows: list[list[str]] = [["", "cases", "; ".join(f"{n} {c}" for c, n in case.value_counts().items()), ""]]
    for key in ("lrp", "guided-backprop", "gradient-x-input"):
        tables = {n: pd.read_csv(out / "tables" / f"{n}-{key}.tsv", sep="\t") for n in ("regions", "gain-stability")}
        scores = {n: pd.read_csv(out / "tables" / f"{n}-{key}.tsv", sep="\t").set_index("subject") for n in SCORES}
        regions = tables["regions"].set_index("region")
        truly = set(regions.index[regions["label"].isin([label for pair in SHRINKING.values() for label in pair])])
        ranked = regions.index[regions["volume_mm3"] >= 100]
        patients = case.index[case == "TP"]
        for name, score in scores.items():
            if name != "gain":
                tops = [set(score.loc[who, ranked].nlargest(5).index) for who in patients]
                hits = sum(bool(top & truly) for top in tops)
                found = f"{hits} of {len(tops)} ({hits / max(len(tops), 1):.1%})"
                rows.append(
                    [key, f"true positives with a truly shrunken region in the top five by {name}", found, "≥ 95 %"]
                )
        for side, region in (("left", "Left_Hippocampus"), ("right", "Right_Hippocampus")):
            # A gain is the sum divided by a constant: the same correlation.
            r = np.corrcoef(
                scores["gain"].loc[patients, region], people.loc[patients, f"true change of {side} Hippocampus"]
            )
            rows.append([key, f"r of relevance and true volume change, {side} hippocampus", f"{r[0, 1]:.3f}", "≤ −.7"])
        rows += _gain_rows(key, tables["gain-stability"]) + _age_rows(key, scores, people, case, ranked)
        for name in ("p family-wise", "p family-wise adjusted"):
            found_regions = regions.index[regions[name] <= 0.05]
            what = f"regions that differ ({name} ≤ .05), truly shrunken ones among them"
            rows.append([key, what, f"{len(found_regions)}, {len(set(found_regions) & truly)} of {len(truly)}", ""])
    return rows


def _gain_rows(key: str, stability: pd.DataFrame) -> list[list[str]]:
    rows = []
    for least in (5, 20):
        chosen = stability[stability["largest gain of one TP"] > least]
        for name in ("plain gain", "gain with floor"):
            cv = chosen[f"cv of {name}"]
            found = (
                "no region"
                if chosen.empty
                else f"median {cv.median():.3f}, largest {cv.max():.3f} of {len(cv)} regions"
            )
            asked = "< .2" if least == 20 and name != "plain gain" else ""
            rows.append(
                [
                    key,
                    f"coefficient of variation of {name} with other controls, where a gain exceeds {least}",
                    found,
                    asked,
                ]
            )
    return rows


def _age_rows(
    key: str, scores: dict[str, pd.DataFrame], people: pd.DataFrame, case: pd.Series[str], ranked: pd.Index[str]
) -> list[list[str]]:
    controls = case.index[case.isin(["TN", "FP"])]
    r = {name: scores[name].loc[controls, ranked].corrwith(people.loc[controls, "age"]) for name in ("z", "z_adjusted")}
    follows = r["z"].abs() > 0.25
    rows = []
    for name, asked in (("z", ""), ("z_adjusted", "< .05")):
        inside = r[name][follows].abs()
        found = (
            "no region"
            if inside.empty
            else f"median {inside.median():.3f}, largest {inside.max():.3f} of {len(inside)} regions"
        )
        rows.append([key, f"|r| of {name} with age in controls, where z follows age (|r| > .25)", found, asked])
    return rows


def keep(folder: Path, target: Path) -> None:
    """Copy what is worth keeping: no maps, no pictures beside the page, of single subjects only LRP's z."""
    shutil.rmtree(target, ignore_errors=True)
    left_out = [
        "maps",
        "*.svg",
        "*.png",
        "gain-gradient*",
        "gain-guided*",
        "gain-lrp*",
        "z_adjusted-*",
        "z-g*",
        "z-lrp-*",
    ]
    left_out += [f"{kind}-lrp-?*" for kind in ("gains", "violins", "scatter", "gain-intervals", "maps", "maps-cases")]
    shutil.copytree(folder / "study", target, ignore=shutil.ignore_patterns(*left_out))
    for name in ("participants.tsv", "truth.tsv"):
        shutil.copy(folder / name, target / name)


def main() -> int:
    what, folder = sys.argv[1], Path(sys.argv[2])
    people = draw_population(PATIENTS, CONTROLS)
    if what == "maps":
        make_maps(people, folder)
    elif what == "study":
        return study(people, folder)
    elif what == "keep":
        keep(folder, Path(sys.argv[3]))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
