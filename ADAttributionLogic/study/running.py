"""A whole study, in its order: mean maps, statistics, figures, and the page that leads through them.

The mean maps, which take the time, are kept in a hidden folder beside the output until the study is complete, so that
one that was interrupted goes on; all else is computed anew. The output appears when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic import provenance
from ADAttributionLogic.engines.here import Here
from ADAttributionLogic.engines.tasks import Engine, Session, Task
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.report.placing import Place, check_place, check_replacement, hashes_of, read_marked, writing
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.study.agreement import coherences, families
from ADAttributionLogic.study.analysis import SetAnalysis, StudyOptions, analyse, members_of
from ADAttributionLogic.study.cases import require_members
from ADAttributionLogic.study.distances import map_distances
from ADAttributionLogic.study.material import MapSet, Material
from ADAttributionLogic.study.mean_maps import CELLS, READERS, CaseSums, parts_of, sum_cases
from ADAttributionLogic.study.presentation import Presentation, present
from ADAttributionLogic.study.study import Study, cases_of

FloatArray = npt.NDArray[np.float64]

STUDY_FILE, PAGE_FILE = "study.json", "index.html"
KIND = "ad-attribution/study/1"

#: Fewest subjects of either group.
FEWEST = 3


def check_output(folder: str | os.PathLike[str], overwrite: bool) -> Place:
    """Refuse a folder that is not free, or holds what this program did not write.

    Raises
    ------
    OutputError
    """
    earlier = read_marked(Path(folder) / STUDY_FILE, KIND)
    if earlier is None:
        return check_place(folder, STUDY_FILE)
    if not overwrite:
        raise OutputError(f"{folder} holds a study; nothing is overwritten. Choose another folder, or say --overwrite.")
    return check_replacement(folder, STUDY_FILE, earlier.get("files", {}))


def run_study(
    material: Material,
    out: str | os.PathLike[str],
    options: StudyOptions = StudyOptions(),  # noqa: B008 (frozen)
    *,
    volumes: FloatArray | None = None,
    with_maps: bool = True,
    overwrite: bool = False,
    engine: Engine | None = None,
    monitor: Monitor | None = None,
) -> Path:
    """Compute a study and write it.

    Parameters
    ----------
    material : Material
        From :func:`~.material.gather`.
    out : path-like
        New folder: ``index.html``, ``tables/``, ``figures/``, ``maps/`` and ``study.json``.
    options : StudyOptions
    volumes : ndarray, shape (n, R), optional
        mm³ of each region in each subject (:mod:`.volumes`).
    with_maps : bool
        Mean maps, their figures and distances; without, only the region tables are read.
    overwrite : bool
        Replace an earlier study.
    engine : Engine, optional
        Where the sets of maps are summed and compared, each by itself; by default in this process.
    monitor : Monitor, optional

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UsageError, ScanError, OutputError, Cancelled
    """
    monitor = monitor or Monitor()
    place = check_output(out, overwrite)
    for maps in material.sets:
        members = members_of(maps, material, options.threshold)
        require_members(members, [material.groups.positive, material.groups.negative], FEWEST)
    kept, engine = _kept_folder(Path(out), material, options), engine or Here()
    if with_maps:
        with monitor.stage(0.0, 0.6) as part:
            _each_set(engine, _MeanMaps(material, options, kept), part)
    with monitor.stage(0.6, 0.95) as part:
        study = _computed(material, options, kept if with_maps else None, volumes, engine, part)
    monitor.report(0.95, "drawing figures and writing")
    with writing(place) as folder:
        if with_maps:
            shutil.copytree(kept, folder / "maps", ignore=shutil.ignore_patterns("*.npy", "counts.json"))
        _write(study, present(study, kept if with_maps else None), folder)
    shutil.rmtree(kept, ignore_errors=True)
    monitor.report(1.0, "done")
    return Path(out) / PAGE_FILE


# ----------------------------------------------------------------------------------------------------------- mean maps


def _kept_folder(out: Path, material: Material, options: StudyOptions) -> Path:
    """Where mean maps wait for the rest: the same study finds them again, another does not."""
    who = [[s.subject, bool(p)] for s, p in zip(material.subjects, material.is_positive, strict=True)]
    question = provenance.text_sha256([material.questions, who, options.threshold, [s.key for s in material.sets]])
    return out.absolute().parent / f".{out.name}-maps-{question[:12]}"


@dataclass(frozen=True)
class _MeanMaps:
    """Opens what writes the mean maps of a set, of every case; a set's folder appears when it is whole."""

    material: Material
    options: StudyOptions
    kept: Path

    def __call__(self) -> Session:
        return self.write

    def write(self, number: int, monitor: Monitor) -> None:
        """Of one set, where they are not there already."""
        maps = self.material.sets[number]
        target = self.kept / maps.key
        if target.is_dir():
            return
        members = members_of(maps, self.material, self.options.threshold)
        cells = {row: next(cell for cell in CELLS if members[cell][row]) for row in maps.paths}
        sums = sum_cases(maps.paths, cells, monitor)
        try:
            unfinished = self.kept / f"{maps.key}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True, mode=0o700)
            with ThreadPoolExecutor(READERS) as pool:  # packing takes the time
                for _ in pool.map(
                    partial(_write_mean, sums, unfinished, maps.title),
                    *zip(*parts_of(self.material).items(), strict=True),
                ):
                    pass
            os.replace(unfinished, target)
        except OSError as cause:
            raise OutputError(f"{self.kept} cannot be written: {cause}") from cause


def _write_mean(sums: CaseSums, folder: Path, title: str, case: str, cells: tuple[str, ...]) -> None:
    mean = sums.mean(cells, f"mean of {case}, {title}")
    if mean is not None:
        write_volume(mean, folder / f"{case}.nii.gz")
        np.save(folder / f"{case}.npy", mean.array)


@dataclass(frozen=True)
class _Analyses:
    """Opens what compares the groups by a set."""

    material: Material
    options: StudyOptions

    def __call__(self) -> Session:
        return self.analysis

    def analysis(self, number: int, monitor: Monitor) -> SetAnalysis:
        """Of one set."""
        return analyse(self.material.sets[number], self.material, self.options, monitor)


def _each_set(engine: Engine, opening: _MeanMaps | _Analyses, monitor: Monitor) -> list[Any]:
    """What becomes of each set of maps, in their order; the first that fails ends it."""
    tasks = [Task(maps.key, number, "set of maps") for number, maps in enumerate(opening.material.sets)]
    found: dict[str, Any] = {}
    with closing(engine.run(tasks, opening, monitor=monitor)) as outcomes:
        for outcome in outcomes:
            if outcome.failure is not None:
                raise outcome.failure.as_error()
            found[outcome.task.key] = outcome.value
    return [found[task.key] for task in tasks]


# ---------------------------------------------------------------------------------------------------------- statistics


def _computed(
    material: Material,
    options: StudyOptions,
    kept: Path | None,
    volumes: FloatArray | None,
    engine: Engine,
    monitor: Monitor,
) -> Study:
    with monitor.stage(0.0, 0.8) as part:
        analyses = _each_set(engine, _Analyses(material, options), part)
    found = [c for family in families(material.sets) for c in coherences(family, material, options.threshold)]
    by_sum = by_maximum = None
    compared: list[tuple[str, str]] = []
    if kept is not None:
        cases = (material.groups.positive, material.groups.negative, "TP", "TN")
        compared = [(s.key, case) for case in cases for s in material.sets if (kept / s.key / f"{case}.npy").is_file()]
        arrays = [np.load(kept / key / f"{case}.npy", mmap_mode="r", allow_pickle=False) for key, case in compared]
        half = sum(case in cases[:2] for _, case in compared)
        with monitor.stage(0.8, 0.9) as part:
            by_sum = _within(map_distances(arrays[:half], "sum", part), len(arrays), 0)
        with monitor.stage(0.9, 1.0) as part:
            by_maximum = _within(map_distances(arrays[half:], "maximum", part), len(arrays), half)
    return Study(material, options, tuple(analyses), tuple(found), by_sum, by_maximum, tuple(compared), volumes)


def _within(part: FloatArray, size: int, start: int) -> FloatArray:
    whole = np.full((size, size), np.nan)
    whole[start : start + len(part), start : start + len(part)] = part
    return whole


# ------------------------------------------------------------------------------------------------------------- writing


def _write(study: Study, presentation: Presentation, folder: Path) -> None:
    presentation.write(folder)
    material = study.material
    document: dict[str, Any] = {
        "kind": KIND,
        "notice": provenance.NOTICE,
        "date": provenance.now(),
        "software": provenance.software(),
        "options": asdict(study.options),
        "groups": asdict(material.groups),
        "subjects": len(material.subjects),
        "questions": list(material.questions),
        "sets": [_described(study, maps) for maps in material.sets],
        "notes": list(material.notes),
        "files": hashes_of(folder),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / STUDY_FILE).write_text(text, encoding="utf-8")


def _described(study: Study, maps: MapSet) -> Mapping[str, Any]:
    return {
        "key": maps.key,
        "title": maps.title,
        "network": maps.network,
        "method": maps.method,
        "options": dict(maps.options),
        "cases": cases_of(study, maps),
    }
