"""``make study-cohort``: a simulated cohort of 60 patients and 60 controls through everything a group study has.

Two sites, age and head size that act on anatomy, and the truth known: which regions shrank, and by how much. What is
done is not done again, so that it can be stopped at any time and started anew.

    study_cohort.py maps FOLDER     scans, truth and maps: LRP, guided backpropagation and gradient × input of all (17 s
                                    of processor time each), DeepLIFT-γ of the first 24 people, and LRP with β .25, .5,
                                    .75 and 1 of the first 16; --jobs processes of one thread each, --device cuda
    study_cohort.py study FOLDER    the study of those who have maps, in FOLDER/study, and truth.tsv beside it
    study_cohort.py keep FOLDER --to TO  what is worth keeping of it: tables and a page with small pictures, no maps

--people takes the first so many only: a whole study, with less power.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import QUESTION_FILE, BatchOptions
from ADAttributionLogic.cli import main as main_command
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.anatomy import SHRINKING, icbm152_anatomy
from ADAttributionLogic.simulation.population import Person, draw_population, simulate_person
from ADAttributionLogic.truth.shared_work import in_processes
from ADAttributionLogic.whole_files import write_whole

PATIENTS = CONTROLS = 60
#: What is computed of the first so many people only, half of them patients, by the folder of its results.
FIRST = {"results-beta": 16, "results-deeplift": 24}
#: By the folder of their results.
METHODS = {
    "results": (
        MethodRequest("lrp", {"beta": 0.0}),
        MethodRequest("guided-backprop"),
        MethodRequest("gradient-x-input"),
    ),
    "results-deeplift": (MethodRequest("deeplift", {"rule": "gamma"}),),
    "results-beta": tuple(MethodRequest("lrp", {"beta": beta}) for beta in (0.25, 0.5, 0.75, 1.0)),
}
ATLAS = "neuromorphometrics"
SCORES = ("z", "z_adjusted", "z_share", "z_share_adjusted", "gain")


def simulate(folder: Path, person: Person) -> None:
    """Write a person's scan and, when it is whole, the truth beside it."""
    truth, scan = folder / "scans" / f"{person.name}.json", folder / "scans" / f"{person.name}.nii.gz"
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
    write_whole(truth, json.dumps(found) + "\n")


@cache
def model_and_atlas() -> tuple[Model, Atlas]:
    """Once in each process."""
    return load_model("simulated-atrophy"), load_atlas(ATLAS)


def explain(people: Sequence[Person], folder: Path, name: str, out: Path, device: str) -> None:
    """A batch, which goes on where it stopped."""
    scans = [BatchScan(p.name, folder / "scans" / f"{p.name}.nii.gz") for p in people]
    options = BatchOptions(METHODS[name], figure=False, page=False, with_spread=False, device=device)
    model, atlas = model_and_atlas()
    found = explain_batch(scans, model, options, out, atlas=atlas)
    print(f"{out}: {found.done} done, {found.kept} kept, {found.failed} failed", flush=True)


def explain_one(folder: Path, device: str, task: tuple[Person, str]) -> None:
    """One person's maps: made in a batch of this process, and moved to the others when they are whole."""
    person, name = task
    own, all_of_them = folder / f"{name}.parts" / str(os.getpid()), folder / name
    explain([person], folder, name, own, device)
    if not (own / person.name / "provenance.json").is_file():
        return  # it failed; the study's batch says why
    all_of_them.mkdir(exist_ok=True)
    if not (all_of_them / QUESTION_FILE).exists():
        write_whole(all_of_them / QUESTION_FILE, (own / QUESTION_FILE).read_text(encoding="utf-8"))
    os.replace(own / person.name, all_of_them / person.name)


def make_maps(people: Sequence[Person], folder: Path, jobs: int, device: str) -> None:
    """Patients and controls in turn, so that what there is at any moment is a whole study of fewer people."""
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    missing = [p for p in people if not (folder / "scans" / f"{p.name}.json").exists()]
    for person, _ in in_processes(partial(simulate, folder), missing, jobs):
        print(f"{person.name} simulated", flush=True)
    tasks = [(p, name) for name in METHODS for p in people[: FIRST.get(name, len(people))]]
    tasks = [(p, name) for p, name in tasks if not (folder / name / p.name / "provenance.json").is_file()]
    for number, ((person, name), _) in enumerate(in_processes(partial(explain_one, folder, device), tasks, jobs)):
        print(f"{number + 1} of {len(tasks)}: {person.name}, {name}", flush=True)
    for name in METHODS:
        shutil.rmtree(folder / f"{name}.parts", ignore_errors=True)


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


def study(people: Sequence[Person], folder: Path, device: str) -> int:
    """The study of those who have maps, and what it says beside the truth."""
    done = [p for p in people if (folder / "results" / p.name / "provenance.json").is_file()]
    write_tables(done, folder)
    given = []
    for name in METHODS:  # nothing is left to be done but the summaries
        with_maps = [p for p in done if (folder / name / p.name / "provenance.json").is_file()]
        if with_maps:
            explain(with_maps, folder, name, folder / name, device)
            given.append(f"--results=demo={folder / name}")
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
    cases = subjects["case (demo)"]
    rows: list[list[str]] = [["", "cases", "; ".join(f"{n} {c}" for c, n in cases.value_counts().items()), ""]]
    for key in ("lrp", "deeplift", "guided-backprop", "gradient-x-input"):
        if not (out / "tables" / f"regions-{key}.tsv").is_file():
            continue
        tables = {n: pd.read_csv(out / "tables" / f"{n}-{key}.tsv", sep="\t") for n in ("regions", "gain-stability")}
        scores = {n: pd.read_csv(out / "tables" / f"{n}-{key}.tsv", sep="\t").set_index("subject") for n in SCORES}
        regions = tables["regions"].set_index("region")
        case = cases[scores["z"].index]  # not everybody has every map
        key = key if len(case) == len(cases) else f"{key}, {len(case)} people"
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
        for name in (f"p family-wise{of}{how}" for of in ("", " of shares") for how in ("", " adjusted")):
            found_regions = regions.index[regions[name] <= 0.05]
            what = f"regions that differ ({name} ≤ .05), truly shrunken ones among them"
            rows.append([key, what, f"{len(found_regions)}, {len(set(found_regions) & truly)} of {len(truly)}", ""])
    return rows


def _gain_rows(key: str, stability: pd.DataFrame) -> list[list[str]]:
    rows = []
    for least in (5, 20):
        chosen = stability[stability["largest gain of one TP"] > least]
        for name in ("plain gain", "gain with floor", "gain with floor of shares"):
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
    r = {name: scores[name].loc[controls, ranked].corrwith(people.loc[controls, "age"]) for name in SCORES[:4]}
    rows = []
    for name, asked in (("z", ""), ("z_adjusted", "< .05"), ("z_share", ""), ("z_share_adjusted", "< .05")):
        raw = name.removesuffix("_adjusted")
        inside = r[name][r[raw].abs() > 0.25].abs()
        found = (
            "no region"
            if inside.empty
            else f"median {inside.median():.3f}, largest {inside.max():.3f} of {len(inside)} regions"
        )
        rows.append([key, f"|r| of {name} with age in controls, where {raw} follows age (|r| > .25)", found, asked])
    return rows


#: What the kept page's pictures are shrunk to.
PICTURE_WIDTH = 1000
#: Figures of the README's picture, row by row.
PICTURE = (("gain-intervals-lrp", "violins-lrp"), ("volume-lrp", "intersection-beta-lrp-density"))


def keep(folder: Path, target: Path) -> None:
    """Copy what is worth keeping: no maps, no figures but smaller ones within the page, of single subjects LRP's z."""
    shutil.rmtree(target, ignore_errors=True)
    left_out = ["maps", "figures", "index.html", "gain-gradient*", "gain-guided*", "gain-lrp*", "gain-deeplift*"]
    left_out += ["z_adjusted-*", "z_share_adjusted-*", "z*-g*", "z*-deeplift*", "z*-lrp-*"]
    left_out += [f"{kind}-lrp-?*.tsv" for kind in ("by-site", "distant-pair", "gain-stability", "regions", "volumes")]
    shutil.copytree(folder / "study", target, ignore=shutil.ignore_patterns(*left_out))
    page = (folder / "study" / "index.html").read_text(encoding="utf-8")
    page = re.sub(r"data:image/png;base64,([\w+/=]+)", lambda found: _smaller(found[1]), page)
    page = re.sub(r'\n<a href="figures/[^"]+">[^<]+</a>( ·)?', "", page)
    (target / "index.html").write_text(page, encoding="utf-8")
    for name in ("participants.tsv", "truth.tsv"):
        shutil.copy(folder / name, target / name)
    draw_picture(folder / "study" / "figures", target / "study.png")


def draw_picture(figures: Path, target: Path) -> None:
    """Four figures as one: rows of one width, the figures of a row of one height."""
    from PIL import Image, ImageOps

    rows = [[Image.open(figures / f"{name}.png").convert("RGB") for name in row] for row in PICTURE]
    width = max(sum(figure.width for figure in row) for row in rows)
    bands = []
    for row in rows:
        height = int(width / sum(figure.width / figure.height for figure in row))
        placed = [ImageOps.contain(figure, (width, height)) for figure in row]
        band = Image.new("RGB", (width, height), "white")
        for figure, left in zip(placed, np.cumsum([0, *(figure.width for figure in placed)]), strict=False):
            band.paste(figure, (int(left), 0))
        bands.append(band)
    whole = Image.new("RGB", (width, sum(band.height for band in bands)), "white")
    for band, top in zip(bands, np.cumsum([0, *(band.height for band in bands)]), strict=False):
        whole.paste(band, (0, int(top)))
    whole.quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def _smaller(picture: str) -> str:
    """A picture of the page as WebP."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=75, method=6)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode('ascii')}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("maps", "study", "keep"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=Path(__file__).with_suffix(""))
    parser.add_argument("--people", type=int, default=PATIENTS + CONTROLS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    people = draw_population(PATIENTS, CONTROLS)[: asked.people]
    if asked.what == "study":
        return study(people, asked.folder, asked.device)
    if asked.what == "maps":
        make_maps(people, asked.folder, asked.jobs, asked.device)
    else:
        keep(asked.folder, asked.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
