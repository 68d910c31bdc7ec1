"""A cohort of simulated subjects, split by subject."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.simulation.anatomy import Anatomy
from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, SubjectParameters, draw_parameters, simulate_subject

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CohortPlan:
    """How many subjects of each class a cohort has.

    Attributes
    ----------
    train, validation, test : int
        Subjects per split, half of them patients (even numbers).
    seed : int
        Different seeds give different subjects.
    """

    train: int = 100
    validation: int = 24
    test: int = 60
    seed: int = 2019

    def __post_init__(self) -> None:
        for split in SPLITS:
            if getattr(self, split) % 2 or getattr(self, split) < 0:
                raise ValueError(f"The {split} split needs an even number of subjects, got {getattr(self, split)}.")


@dataclass(frozen=True)
class CohortSubject:
    """One subject of a cohort, not yet simulated."""

    name: str
    split: str
    parameters: SubjectParameters

    @property
    def label(self) -> int:
        """0 control, 1 patient."""
        return self.parameters.label


def draw_cohort(plan: CohortPlan) -> tuple[CohortSubject, ...]:
    """Draw the subjects; every subject has its own seed and stands in one split only."""
    subjects: list[CohortSubject] = []
    for split in SPLITS:
        for index in range(getattr(plan, split)):
            label = PATIENT if index % 2 else CONTROL
            name = f"sim-{len(subjects) + 1:03d}"
            subjects.append(CohortSubject(name, split, draw_parameters(label, plan.seed * 10_000 + len(subjects))))
    return tuple(subjects)


class SimulatedScans:
    """The scans of a cohort, made when first asked for and kept as float16 files in a folder.

    Parameters
    ----------
    anatomy : Anatomy
    folder : path-like
        Cache; files are named by a hash of the subject's parameters and of the template, so that a changed
        simulation makes new ones.
    """

    #: Changes whenever the same parameters would give another scan.
    VERSION = 3

    def __init__(self, anatomy: Anatomy, folder: str | os.PathLike[str]) -> None:
        self.anatomy = anatomy
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._template = hashlib.sha256(anatomy.template.array.tobytes()).hexdigest()

    def path(self, subject: CohortSubject) -> Path:
        """Where the subject's scan is kept."""
        key = json.dumps([self.VERSION, self._template, asdict(subject.parameters)], sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"

    def load(self, subject: CohortSubject) -> npt.NDArray[np.float16]:
        """Return the subject's scan, simulating it if it is not kept yet."""
        path = self.path(subject)
        if not path.exists():
            scan = simulate_subject(self.anatomy, subject.parameters).scan.array.astype(np.float16)
            unfinished = path.with_suffix(f".{os.getpid()}.tmp")
            with open(unfinished, "wb") as file:
                np.save(file, scan)
            os.replace(unfinished, path)
        array: npt.NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array

    def make_all(self, subjects: Iterable[CohortSubject], progress: Callable[[str], None] | None = None) -> None:
        """Simulate all subjects that are not kept yet."""
        for subject in subjects:
            self.load(subject)
            if progress is not None:
                progress(subject.name)


def write_subject_list(subjects: Iterable[CohortSubject], path: str | os.PathLike[str]) -> None:
    """Write a table (TSV) of the subjects and of how each was made."""
    with open(path, "x", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(
            [
                "subject",
                "split",
                "class",
                "atrophy_left_mm",
                "atrophy_right_mm",
                "anatomy_mm",
                "bias",
                "gamma",
                "noise",
                "seed",
            ]
        )
        for s in subjects:
            p = s.parameters
            table.writerow(
                [s.name, s.split, ("CN", "AD")[p.label], *p.atrophy_mm, p.anatomy_mm, p.bias, p.gamma, p.noise, p.seed]
            )
