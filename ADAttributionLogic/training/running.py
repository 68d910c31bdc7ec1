"""A whole training: every fold and repeat one after the other, then the test, and the packages.

Stopped at any moment, it goes on with the epoch after the last that was finished. The test scans are looked at once,
when all networks are trained.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ADAttributionLogic.batch.question import differences
from ADAttributionLogic.errors import Cancelled, OutputError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.training.calibration import calibration
from ADAttributionLogic.training.card import Course, Subject
from ADAttributionLogic.training.evaluation import Answers, Evaluation, evaluate
from ADAttributionLogic.training.fit import Epoch, predict
from ADAttributionLogic.training.log import TrainingLog
from ADAttributionLogic.training.trained import NetworkPlan, Trained, train_network
from ADAttributionLogic.training.written import write_packages
from ADAttributionLogic.training_data.prepared_scans import (
    PreparedScan,
    PreparedScans,
    VoxelwiseScan,
    voxelwise_normalisation,
)
from ADAttributionLogic.training_data.split import Part
from ADAttributionLogic.whole_files import write_whole

KIND = "ad-attribution/training/1"
PLAN_FILE, SPLIT_FILE, TRAININGS = "training.json", "split.tsv", "trainings"

Say = Callable[[str], None]
Learned = PreparedScan | VoxelwiseScan


@dataclass(frozen=True, eq=False)
class Run:
    """What is asked.

    Attributes
    ----------
    subject : Subject
        Network, recipe, scans and split.
    prepared : PreparedScans
        Where scans are prepared and kept.
    normalisation : str
        Of the network; "voxelwise" is made of the training scans of each fold.
    device : torch.device
    calibrated : bool
    """

    subject: Subject
    prepared: PreparedScans
    normalisation: str
    device: torch.device
    calibrated: bool = True


def run_training(run: Run, out: Path, say: Say = lambda text: None, monitor: Monitor | None = None) -> Path:
    """Train all networks of a run, test them, and write their packages.

    Returns
    -------
    Path
        The package: of the one network, of the ensemble, or the folder of the trainings where they cannot be one.

    Raises
    ------
    OutputError
        The folder holds another training.
    Cancelled
        Between two epochs; the same call goes on from there.
    ADAttributionError
    """
    monitor = monitor or Monitor()
    claim_training(out, question_of(run))
    _write_split(run, out / SPLIT_FILE)
    scans = _prepare(run, monitor)
    courses = []
    normalisations: list[Normalisation] = []
    for number, part in enumerate(run.subject.split.parts, start=1):
        say(f"{part.name} ({number} of {len(run.subject.split.parts)})")
        course, normalisation = _train_part(run, part, scans, out, say, monitor)
        courses.append(course)
        normalisations.append(normalisation)
    test, answers = _test(run, courses, normalisations, scans)
    tested = [replace(course, test=found) for course, found in zip(courses, test[:-1], strict=True)]
    controls = _controls(run, scans)
    return write_packages(run.subject, tested, normalisations, test[-1], controls, answers, out)


def question_of(run: Run) -> dict[str, Any]:
    """All that the networks depend on, as it is stored."""
    subject, entrance = run.subject, run.prepared.entrance
    question = {
        "kind": KIND,
        "network": subject.network,
        "recipe": asdict(subject.recipe),
        "split": asdict(subject.split.plan),
        "test": sorted(subject.split.test),
        "normalisation": run.normalisation,
        "scans": {key: value for key, value in entrance.describe().items() if key != "code"},
        "classes": list(subject.material.classes),
        "site": subject.material.site_column,
        "calibrated": run.calibrated,
        "rows": [[s.subject, s.scan.session, s.label, s.site, s.sha256] for s in subject.material.scans],
    }
    stored: dict[str, Any] = json.loads(json.dumps(question, default=str))
    return stored


def claim_training(out: Path, question: Mapping[str, Any]) -> None:
    """Take a new or empty folder, or go on in one of the same training.

    Raises
    ------
    OutputError
    """
    file = out / PLAN_FILE
    try:
        if file.exists():
            earlier = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(earlier, dict) or earlier.get("kind") != KIND:
                raise OutputError(f"{file} is no plan of a training. Choose another folder.")
            if differ := differences(earlier, question):
                raise OutputError(
                    f"{out} holds another training: its {', '.join(differ)} differ. Ask as then to go on with it, or "
                    "choose another folder."
                )
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out} exists and is no training; nothing is overwritten. Choose another folder.")
        out.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(question, indent=1) + "\n")
    except (OSError, ValueError) as cause:
        raise OutputError(f"{out} cannot be used for a training: {cause}") from cause


def _prepare(run: Run, monitor: Monitor) -> dict[str, list[PreparedScan]]:
    """By subject, the prepared scans."""
    found: dict[str, list[PreparedScan]] = {}
    every = run.subject.material.scans
    for number, scan in enumerate(every):
        monitor.report(number / len(every), f"preparing {scan.scan.shown}")
        found.setdefault(scan.subject, []).append(run.prepared.get(scan))
    monitor.report(1.0, "training")
    return found


def _train_part(
    run: Run, part: Part, scans: Mapping[str, Sequence[PreparedScan]], out: Path, say: Say, monitor: Monitor
) -> tuple[Course, Normalisation]:
    normalisation = run.prepared.entrance.normalisation
    if run.normalisation == "voxelwise":
        normalisation = voxelwise_normalisation(_of(part.training, scans))
    training, validation = (
        [_seen(scan, run, normalisation) for scan in _of(who, scans)] for who in (part.training, part.validation)
    )
    recipe = replace(run.subject.recipe, seed=run.subject.recipe.seed + 1000 * (part.repeat - 1) + part.fold - 1)
    folder = out / TRAININGS / part.name
    log = TrainingLog(folder, f"{run.subject.about.name}, {part.name}")

    def report(epoch: Epoch) -> None:
        if log.add(epoch):
            say(_line(epoch, run))
        if monitor.is_cancelled:
            raise Cancelled(
                f"Cancelled after epoch {epoch.number} of {part.name}; the same command goes on from there."
            )

    try:
        trained = train_network(
            NetworkPlan(run.subject.network, run.prepared.entrance.grid.shape),
            training,
            validation,
            recipe,
            run.device,
            checkpoint=folder / "state",
            about={"scans": [scan.of.sha256 for scan in _of(part.training | part.validation, scans)]},
            report=report,
            calibrated=run.calibrated,
        )
    finally:
        log.close()
    return _course(part, recipe.seed, trained, _of(part.validation, scans)), normalisation


def _line(epoch: Epoch, run: Run) -> str:
    if epoch.number == 0:
        return f"  head start: validation loss {epoch.validation_loss:.4f}, {epoch.seconds:.0f} s"
    return (
        f"  epoch {epoch.number} of at most {run.subject.recipe.epochs}: training loss {epoch.training_loss:.4f}, "
        f"validation loss {epoch.validation_loss:.4f}, accuracy {epoch.validation_accuracy:.3f}, {epoch.seconds:.0f} s"
    )


def _course(part: Part, seed: int, trained: Trained, validation: Sequence[PreparedScan]) -> Course:
    logits = torch.from_numpy(trained.validation_logits)
    said = torch.softmax(logits / trained.temperature.value, dim=1)[:, 1].numpy()
    raw = torch.softmax(logits, dim=1)[:, 1].numpy()
    answers = answers_of(validation, said)
    return Course(part, seed, trained, evaluate(answers, seed), calibration(answers.labels, raw), None)


def answers_of(scans: Sequence[PreparedScan], probabilities: Any) -> Answers:
    """Probabilities beside the truth."""
    return Answers(
        tuple(scan.subject for scan in scans),
        tuple(scan.of.site for scan in scans),
        np.array([scan.label for scan in scans], dtype=np.int64),
        np.asarray(probabilities, dtype=np.float64),
    )


def _test(
    run: Run,
    courses: Sequence[Course],
    normalisations: Sequence[Normalisation],
    scans: Mapping[str, Sequence[PreparedScan]],
) -> tuple[list[Evaluation | None], str]:
    """Of each network and, last, of all together: the mean of their probabilities. And a table of the answers."""
    held_out = _of(run.subject.split.test, scans)
    if not held_out:
        return [None] * (len(courses) + 1), ""
    said = []
    for course, normalisation in zip(courses, normalisations, strict=True):
        network = course.trained.network.to(run.device)
        said.append(predict(network, [_seen(scan, run, normalisation) for scan in held_out], run.device))
        network.to("cpu")
    said.append(np.mean(said, axis=0))
    seed = run.subject.recipe.seed
    found: list[Evaluation | None] = [evaluate(answers_of(held_out, one), seed) for one in said]
    names = [course.part.name for course in courses]
    rows = [["subject", "session", "diagnosis", "site", *names, "mean"]]
    for number, scan in enumerate(held_out):
        row = scan.of.scan
        rows.append([row.subject, row.session, row.diagnosis, scan.of.site, *(f"{one[number]:.6f}" for one in said)])
    return found, _as_tsv(rows)


def _controls(run: Run, scans: Mapping[str, Sequence[PreparedScan]]) -> list[PreparedScan]:
    """Of those that were learned from or chose an epoch."""
    test = run.subject.split.test
    return [one for subject in sorted(scans) if subject not in test for one in scans[subject] if one.label == 0]


def _seen(scan: PreparedScan, run: Run, normalisation: Normalisation) -> Learned:
    return VoxelwiseScan(scan, normalisation) if run.normalisation == "voxelwise" else scan


def _of(who: frozenset[str], scans: Mapping[str, Sequence[PreparedScan]]) -> list[PreparedScan]:
    return [scan for subject in sorted(who) for scan in scans[subject]]


def _write_split(run: Run, file: Path) -> None:
    """Who is where, in the user's own folder."""
    split = run.subject.split
    rows = [["subject", "diagnosis", "site", *(part.name for part in split.parts)]]
    first = {scan.subject: scan for scan in reversed(run.subject.material.scans)}
    for subject in sorted(first):
        where = [
            "test" if subject in split.test else "training" if subject in part.training else "validation"
            for part in split.parts
        ]
        rows.append([subject, first[subject].scan.diagnosis, first[subject].site, *where])
    try:
        write_whole(file, _as_tsv(rows))
    except OSError as cause:
        raise OutputError(f"{file} cannot be written: {cause}") from cause


def _as_tsv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue()
