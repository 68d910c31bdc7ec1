"""The packages of a run: of each network, and of all together as an ensemble; tables and figures beside them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.networks.packages import save_package
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.training.card import Course, Subject, ensemble_card, member_card
from ADAttributionLogic.training.evaluation import Evaluation
from ADAttributionLogic.training.figures import can_draw, draw_curves, draw_reliability
from ADAttributionLogic.training_data.prepared_scans import PreparedScan, VoxelwiseScan
from ADAttributionLogic.volume import Volume
from ADAttributionLogic.whole_files import write_whole

PACKAGE, TEST_FILE, SUMMARY_FILE, RELIABILITY_FILE = "package", "test.tsv", "summary.json", "reliability.png"

#: A mean of fewer people would show too much of each.
LEAST_CONTROLS = 10


def write_packages(
    subject: Subject,
    courses: Sequence[Course],
    normalisations: Sequence[Normalisation],
    test: Evaluation | None,
    controls: Sequence[PreparedScan],
    answers: str,
    out: Path,
) -> Path:
    """Write what came of a run; what is there already, from before an interruption, is made anew.

    Returns
    -------
    Path
        The package of all networks, or the folder of the trainings where they cannot be one: voxelwise constants are
        another's in each fold.
    """
    together = len(courses) > 1 and normalisations[0].kind != "voxelwise"
    for course, normalisation in zip(courses, normalisations, strict=True):
        place = out / "trainings" / course.part.name / PACKAGE if len(courses) > 1 else out / PACKAGE
        files, entry = _normalisation_files(normalisation)
        files |= _figures(subject, course)
        card = member_card(subject, course, entry)
        if len(courses) == 1:
            _add_control_mean(card, files, subject, controls, normalisation)
        _replace_package(place, card, course.trained.network, files)
    if together:
        files, entry = _normalisation_files(normalisations[0])
        if test is not None and can_draw():
            files[RELIABILITY_FILE] = draw_reliability({"held-out test": test.calibration}, subject.material.classes[1])
        card = ensemble_card(subject, courses, test, entry)
        _add_control_mean(card, files, subject, controls, normalisations[0])
        _replace_package(out / PACKAGE, card, {c.part.name: c.trained.network for c in courses}, files)
    try:
        if answers:
            write_whole(out / TEST_FILE, answers)
        summary = {
            "network": subject.network,
            "members": {c.part.name: c.test.describe() if c.test else c.validation.describe() for c in courses},
            "figures_of": "test" if test else "validation",
            "together": test.describe() if test else None,
        }
        write_whole(out / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    except OSError as cause:
        raise OutputError(f"The figures cannot be written to {out}: {cause}") from cause
    return out / PACKAGE if together or len(courses) == 1 else out / "trainings"


def _replace_package(place: Path, card: Mapping[str, Any], network: Any, files: Mapping[str, bytes]) -> None:
    """Write a package beside its place and put it there whole."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".writing-") as folder:
        made = save_package(Path(folder) / PACKAGE, card, network, files)
        try:
            if place.exists():
                shutil.rmtree(place)  # of the same training: only the figures' times differ
            made.rename(place)
        except OSError as cause:
            raise OutputError(f"The package {place} cannot be written: {cause}") from cause


def _figures(subject: Subject, course: Course) -> dict[str, bytes]:
    if not can_draw():
        return {}
    found = {"before": course.before_temperature, "validation": course.validation.calibration}
    if course.test is not None:
        found = {"validation": course.validation.calibration, "held-out test": course.test.calibration}
    return {
        "curves.png": draw_curves(course.trained.fit.history, f"{subject.about.name}, {course.part.name}"),
        RELIABILITY_FILE: draw_reliability(found, subject.material.classes[1]),
    }


def _normalisation_files(normalisation: Normalisation) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files of the package and the entry of the card."""
    if normalisation.kind != "voxelwise":
        return {}, {"kind": normalisation.kind, "mask": normalisation.mask}
    from safetensors.numpy import save

    assert normalisation.mean is not None and normalisation.std is not None
    content = save({"mean": normalisation.mean, "std": normalisation.std})
    name = "normalisation.safetensors"
    return {name: content}, {"kind": "voxelwise", "file": name, "sha256": hashlib.sha256(content).hexdigest()}


def _add_control_mean(
    card: dict[str, Any],
    files: dict[str, bytes],
    subject: Subject,
    controls: Sequence[PreparedScan],
    normalisation: Normalisation,
) -> None:
    """The mean of the controls that were learned from, for methods that compare with one."""
    people = len({scan.subject for scan in controls})
    if people < LEAST_CONTROLS:
        return
    total: npt.NDArray[np.float64] = np.zeros(subject.grid["shape"], dtype=np.float64)
    for scan in controls:
        total += (VoxelwiseScan(scan, normalisation) if normalisation.kind == "voxelwise" else scan).load()
    # In steps of 1/1024, as fine as float16 keeps a scan, so that the file packs well.
    mean = (np.round(total / len(controls) * 1024) / 1024).astype(np.float32)
    affine = np.array(subject.grid["affine"], dtype=np.float64)
    with tempfile.TemporaryDirectory(prefix="ad-attribution-mean-") as folder:
        content = write_volume(Volume(mean, affine, "control mean"), Path(folder) / "mean.nii.gz").read_bytes()
    name = "control-mean.nii.gz"
    files[name] = content
    card["control_mean"] = {
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "of": f"{len(controls)} scans of {people} controls that it was trained on, each normalised, in steps of 1/1024",
    }
