"""The study of robustness in its order: measure each training, compare them, write tables and figures.

What each training shows is kept in a hidden folder beside the output until the study is complete, so that one that was
interrupted goes on; the output appears when it is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ADAttributionLogic import provenance
from ADAttributionLogic.errors import CohortError, UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.relevance.region_table import are_ranked
from ADAttributionLogic.report.placing import check_place, hashes_of, writing
from ADAttributionLogic.robustness import presentation
from ADAttributionLogic.robustness.measuring import THRESHOLD, Measured, Test, Training, measured
from ADAttributionLogic.robustness.stability import Relevance, consensus_of_methods, relevance_of
from ADAttributionLogic.study.coherence import TOP
from ADAttributionLogic.study.distances import map_distances
from ADAttributionLogic.study_figures.style import StudyFigure, write_figure_files
from ADAttributionLogic.study_figures.tables import Table, write_tsv

FloatArray = npt.NDArray[np.float64]

FILE = "robustness.json"
KIND = "ad-attribution/robustness/1"

#: Fewest trainings; with fewer than four there are no halves to compare.
FEWEST_TRAININGS = 3
#: Fewest people of either group.
FEWEST_PEOPLE = 3
CONSENSUS = "consensus of methods"


@dataclass(frozen=True, eq=False)
class Robustness:
    """All that was computed.

    Attributes
    ----------
    relevances : dict of str to Relevance
        By method's title; with several methods, also of their consensus.
    distances : dict of str to ndarray, shape (T, T)
        L2 of the mean maps divided by their maximum, by method's title.
    accuracy : ndarray, shape (T,)
        Balanced accuracy of each training on the test's people.
    """

    relevances: dict[str, Relevance]
    distances: dict[str, FloatArray]
    accuracy: FloatArray


def run_robustness(
    trainings: Sequence[Training],
    test: Test,
    out: str | os.PathLike[str],
    device: torch.device,
    monitor: Monitor | None = None,
) -> Robustness:
    """Compute the study and write it.

    Parameters
    ----------
    trainings : sequence of Training
        Networks of one architecture and recipe, on one grid, trained with other seeds.
    test : Test
        Whom they are asked about; none of them in anybody's training.
    out : path-like
        New folder: ``tables/``, ``figures/`` and ``robustness.json``.
    device : torch.device
    monitor : Monitor, optional

    Raises
    ------
    UsageError
        Fewer than three trainings, or fewer than ten regions.
    CohortError
        Fewer than three patients or controls, or a training that finds no patient.
    OutputError
        The folder is not free.
    Cancelled
    """
    monitor = monitor or Monitor()
    place = check_place(out, FILE)
    _require(trainings, test)
    kept = Path(out).absolute().parent / f".{Path(out).name}-trainings"
    with monitor.stage(0.0, 0.9) as part:
        found = list(measured(trainings, test, kept, device, part))
    monitor.report(0.9, "comparing the trainings")
    study = compare(trainings, test, found)
    with writing(place) as folder:
        _write(study, trainings, test, folder)
    shutil.rmtree(kept, ignore_errors=True)
    monitor.report(1.0, "done")
    return study


def compare(trainings: Sequence[Training], test: Test, found: Sequence[Measured]) -> Robustness:
    """Relevance, distances and accuracy of what was measured.

    Raises
    ------
    CohortError
        A training finds no patient.
    """
    is_patient = test.is_patient
    for training, one in zip(trainings, found, strict=True):
        if not (is_patient & (one.probability >= THRESHOLD)).any():
            raise CohortError(
                f"{training.name} finds none of the {int(is_patient.sum())} patients, so that it has no map of a true "
                "positive. A network that has not learned explains nothing; leave it out."
            )
    voxels = np.diff(np.append(test.index.starts, test.index.order.size))
    volumes = voxels * test.index.atlas.labels.grid.voxel_volume_mm3
    ranked = are_ranked(volumes)
    if ranked.sum() <= TOP:
        raise UsageError(f"Of {int(ranked.sum())} regions there are no first {TOP}; choose a finer atlas.")
    relevances, distances = {}, {}
    probability = [one.probability for one in found]
    for m, asked in enumerate(test.asked):
        sums = [one.absolute[m] for one in found]
        relevances[asked.title] = relevance_of(sums, probability, is_patient, volumes, ranked, THRESHOLD)
        distances[asked.title] = map_distances([one.mean_maps[m] for one in found], "maximum")
    if len(test.asked) > 1:
        relevances[CONSENSUS] = consensus_of_methods(list(relevances.values()))
    says = np.array(probability) >= THRESHOLD
    accuracy = (says[:, is_patient].mean(axis=1) + (~says[:, ~is_patient]).mean(axis=1)) / 2
    return Robustness(relevances, distances, accuracy)


def tables_of(study: Robustness, trainings: Sequence[Training], test: Test) -> list[Table]:
    """All tables."""
    names = [training.name for training in trainings]
    regions = [region.name for region in test.index.regions]
    tables = [
        presentation.coherence_table(study.relevances),
        presentation.marking_table(study.relevances),
        Table("trainings", "Trainings", {"training": names, "balanced_accuracy": study.accuracy}),
    ]
    tables += [presentation.stability_table(t, _key(t), r, regions) for t, r in study.relevances.items()]
    tables += [presentation.distance_table(t, _key(t), names, matrix) for t, matrix in study.distances.items()]
    return tables


def figures_of(study: Robustness, trainings: Sequence[Training], test: Test) -> list[StudyFigure]:
    """All figures."""
    names = [training.name for training in trainings]
    regions = [region.name for region in test.index.regions]
    figures = [presentation.coherence_figure(presentation.coherence_table(study.relevances))]
    for title, relevance in study.relevances.items():
        figures.append(presentation.rank_figure(title, _key(title), relevance, regions))
        figures.append(presentation.overlap_figure(title, _key(title), relevance, names))
    for title, matrix in study.distances.items():
        figures.append(presentation.distances_figure(title, _key(title), names, matrix))
    return figures


def _require(trainings: Sequence[Training], test: Test) -> None:
    if len(trainings) < FEWEST_TRAININGS:
        raise UsageError(
            f"The robustness of {len(trainings)} trainings cannot be told; at least {FEWEST_TRAININGS} are needed, the "
            "published study has 10."
        )
    hashes = [training.sha256 for training in trainings]
    for training in trainings:
        if hashes.count(training.sha256) > 1:
            raise UsageError(f"{training.name} is given twice (the same weights); each training counts once.")
    if not test.asked:
        raise UsageError("Which methods? Give at least one.")
    patients = int(test.is_patient.sum())
    controls = len(test.people) - patients
    if min(patients, controls) < FEWEST_PEOPLE:
        raise CohortError(
            f"The test has {patients} patients and {controls} controls; at least {FEWEST_PEOPLE} of each are needed."
        )


def _key(title: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def _write(study: Robustness, trainings: Sequence[Training], test: Test, folder: Path) -> None:
    tables, figures = folder / "tables", folder / "figures"
    tables.mkdir()
    figures.mkdir()
    for table in tables_of(study, trainings, test):
        write_tsv(table, tables / f"{table.name}.tsv")
    for figure in figures_of(study, trainings, test):
        write_figure_files(figure, figures)
    document: dict[str, Any] = {
        "kind": KIND,
        "notice": provenance.NOTICE,
        "date": provenance.now(),
        "software": provenance.software(),
        "trainings": [{"name": t.name, "weights_sha256": t.sha256} for t in trainings],
        "methods": [asdict(one) for one in test.asked],
        "people": [{"name": p.name, "patient": p.is_patient} for p in test.people],
        "about": dict(test.about),
        "files": hashes_of(folder),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
