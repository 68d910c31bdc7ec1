"""What a study is computed from: a cohort's table joined to the results of one or more batches."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.cohort.table import Cohort, CohortScan, controls_of
from ADAttributionLogic.errors import CohortError, UnknownNameError, UsageError
from ADAttributionLogic.provenance import text_sha256
from ADAttributionLogic.relevance.region_table import OUTSIDE_LABEL, SMALLEST_RANKED_MM3
from ADAttributionLogic.report.result_places import KIND, PROVENANCE_FILE, SUMMARY_FILE
from ADAttributionLogic.study.cases import Groups

FloatArray = npt.NDArray[np.float64]

#: What a batch says of a scan that has a result.
_DONE = ("done", "done before")


@dataclass(frozen=True)
class RegionNames:
    """The regions of the atlas, R of them.

    Attributes
    ----------
    label : tuple of int
    name, hemisphere : tuple of str
    volume_mm3 : ndarray, shape (R,)
        On the grid of the maps.
    """

    label: tuple[int, ...]
    name: tuple[str, ...]
    hemisphere: tuple[str, ...]
    volume_mm3: FloatArray = field(compare=False)

    @property
    def is_ranked(self) -> npt.NDArray[np.bool_]:
        """Whether each is large enough to be ranked (:data:`~.relevance.region_table.SMALLEST_RANKED_MM3`)."""
        large: npt.NDArray[np.bool_] = self.volume_mm3 >= SMALLEST_RANKED_MM3 * (1 - 1e-9)
        return large


@dataclass(frozen=True, eq=False)
class MapSet:
    """The maps of one method with one set of options, by one network, of all subjects who have one.

    Attributes
    ----------
    key, title : str
        For files, and for people.
    network, method : str
        Where it comes from (the label of its batch), and the method's name.
    options : mapping
    sums, absolute : ndarray, shape (n, R)
        Σ R and Σ |R| per region; NaN for subjects without a result.
    probability : ndarray, shape (n,)
        Of the explained class, or the score.
    paths : mapping of int to Path
        Maps by row number.
    """

    key: str
    title: str
    network: str
    method: str
    options: Mapping[str, Any]
    sums: FloatArray
    absolute: FloatArray
    probability: FloatArray
    paths: Mapping[int, Path]

    @property
    def has_result(self) -> npt.NDArray[np.bool_]:
        """Which subjects have a map."""
        known: npt.NDArray[np.bool_] = np.isfinite(self.probability)
        return known


@dataclass(frozen=True, eq=False)
class Material:
    """Subjects × regions, for every set of maps.

    Attributes
    ----------
    subjects : tuple of CohortScan
        One scan each, n of them.
    groups : Groups
    is_positive : ndarray of bool, shape (n,)
    regions : RegionNames
    sets : tuple of MapSet
    questions : tuple of str
        Hash of what was asked, with the hashes of the scans: with others, this is another study.
    notes : tuple of str
    """

    subjects: tuple[CohortScan, ...]
    groups: Groups
    is_positive: npt.NDArray[np.bool_]
    regions: RegionNames
    sets: tuple[MapSet, ...]
    questions: tuple[str, ...]
    notes: tuple[str, ...]

    def column(self, name: str) -> list[str]:
        """A column of the table, "" where it is not filled in.

        Raises
        ------
        UnknownNameError
            Nobody has it.
        """
        known = {key for subject in self.subjects for key in subject.values}
        if name not in known:
            raise UnknownNameError("column of covariates in the table", name, known)
        return [subject.values.get(name, "") for subject in self.subjects]


def gather(
    cohort: Cohort,
    results: Mapping[str, str | os.PathLike[str]],
    *,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
) -> Material:
    """Join a table to the results of batches.

    Parameters
    ----------
    cohort : Cohort
        Of each person, the first scan that is there counts.
    results : mapping of str to path-like
        Folders that ``ad-attribution batch`` wrote, by what their network (or repeat) is to be called.
    positive, negative : sequence of str
        Diagnoses of both groups; by default the controls' names of the field, and everyone else who has a diagnosis.

    Raises
    ------
    CohortError
        No result belongs to the table, or a diagnosis is missing.
    UsageError
        A folder is no batch, has maps in scans' own space, or answers with another atlas than the first.
    """
    controls = controls_of(cohort, tuple(negative))
    negatives = {scan.diagnosis.lower() for scan in controls.scans}
    patients = cohort.with_diagnosis(*positive) if positive else cohort.where(
        lambda scan: bool(scan.diagnosis) and scan.diagnosis.lower() not in negatives
    )  # fmt: skip
    positives = {scan.diagnosis.lower() for scan in patients.scans}
    if not positives or positives & negatives:
        both = ", ".join(sorted(positives & negatives)) or "nobody"
        raise CohortError(
            f"{cohort.source}: {both} is on both sides, or one side is empty; say --positive and --negative."
        )
    chosen = cohort.where(lambda scan: scan.diagnosis.lower() in positives | negatives).one_per_subject()
    groups = Groups(_label(patients), _label(controls))
    found: list[_Batch] = [_read_batch(name, Path(folder), chosen) for name, folder in results.items()]
    regions = found[0].regions
    for batch in found[1:]:
        if batch.regions != regions:
            raise UsageError(
                f"{batch.folder} was explained with another atlas than {found[0].folder}; compare like with like."
            )
    notes = [*chosen.notes, *(note for batch in found for note in batch.notes)]
    with_result = np.any([batch.has_result for batch in found], axis=0)
    rows = np.flatnonzero(with_result)
    subjects = tuple(chosen.scans[row] for row in rows)
    is_positive = np.array([s.diagnosis.lower() in positives for s in subjects], dtype=bool)
    sets = tuple(made for batch in found for made in batch.sets(rows, len(found) > 1))
    questions = tuple(batch.question for batch in found)
    return Material(subjects, groups, is_positive, regions, _titled(sets), questions, tuple(notes))


def _label(part: Cohort) -> str:
    names = part.diagnoses
    return names[0] if len(names) == 1 else "+".join(names)


# --------------------------------------------------------------------------------------------------- results of a batch


@dataclass(eq=False)
class _Batch:
    """Of one folder: per method of the batch, what each scan's tables say."""

    name: str
    folder: Path
    methods: list[tuple[str, str, Mapping[str, Any], str]]  # name of the map, method, options, title
    regions: RegionNames
    sums: dict[str, FloatArray]
    absolute: dict[str, FloatArray]
    probability: FloatArray
    places: dict[int, Path]
    question: str
    notes: list[str]

    @property
    def has_result(self) -> npt.NDArray[np.bool_]:
        known: npt.NDArray[np.bool_] = np.isfinite(self.probability)
        return known

    def sets(self, rows: npt.NDArray[np.int64], with_network: bool) -> list[MapSet]:
        """Map sets of the subjects that remain."""
        number = {int(row): n for n, row in enumerate(rows)}
        made = []
        for name, method, options, title in self.methods:
            paths = {number[r]: p / "heatmaps" / f"{name}.nii.gz" for r, p in self.places.items() if r in number}
            key = f"{self.name}-{name}" if with_network else name
            shown = f"{title}, {self.name}" if with_network else title
            made.append(
                MapSet(
                    re.sub(r"[^\w.-]+", "_", key), shown, self.name, method, options,
                    self.sums[name][rows], self.absolute[name][rows], self.probability[rows], paths,
                )
            )  # fmt: skip
        return made


def _read_batch(name: str, folder: Path, cohort: Cohort) -> _Batch:
    if not (folder / SUMMARY_FILE).is_file():
        raise UsageError(
            f"{folder} holds no batch: it has no {SUMMARY_FILE}. Run ad-attribution batch on the table first."
        )
    places, notes = _places(folder, cohort)
    if not places:
        raise CohortError(
            f"No scan of {cohort.source} has a result in {folder}: neither names nor paths are the same. Run "
            f"ad-attribution batch on the table itself."
        )
    n = len(cohort.scans)
    batch: _Batch | None = None
    hashes = []
    for row, place in places.items():
        record = _document(place / PROVENANCE_FILE)
        if record.get("kind") != KIND:
            raise UsageError(f"{place} is no result of this program (its kind is {record.get('kind')!r}).")
        if record.get("space", "model") == "native":
            raise UsageError(
                f"{place} is in the scan's own space; a study needs maps on the network's grid (--space model)."
            )
        stamp = record.get("batch", {})
        hashes.append([cohort.scans[row].subject, stamp.get("scan_sha256")])
        tables = {m: _document(place / "tables" / f"{m}.json")["rows"] for m in record["methods"]}
        if batch is None:
            batch = _empty(name, folder, record, tables, n, notes)
        _fill(batch, row, place, record, tables)
    assert batch is not None
    first = _document(next(iter(places.values())) / PROVENANCE_FILE).get("batch", {}).get("question")
    batch.question = text_sha256([first, hashes])
    return batch


def _empty(
    name: str, folder: Path, record: Mapping[str, Any], tables: Mapping[str, Any], n: int, notes: list[str]
) -> _Batch:
    methods = [
        (m, about["method"], about.get("options", {}), about.get("title", m)) for m, about in record["methods"].items()
    ]
    regions = _regions(next(iter(tables.values())))
    nothing = {m: np.full((n, len(regions.label)), np.nan) for m, *_ in methods}
    again = {m: values.copy() for m, values in nothing.items()}
    return _Batch(name, folder, methods, regions, nothing, again, np.full(n, np.nan), {}, "", notes)


def _fill(batch: _Batch, row: int, place: Path, record: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    if list(tables) != [m for m, *_ in batch.methods]:
        raise UsageError(f"{place} has the maps {', '.join(tables)}, others than the results before it.")
    for name, rows in tables.items():
        if _regions(rows) != batch.regions:
            raise UsageError(f"The table {name} of {place} has other regions than those of the results before it.")
        inside = [r for r in rows if r["label"] != OUTSIDE_LABEL]
        for key, target in (("sum", batch.sums), ("absolute_sum", batch.absolute)):
            values = np.array([math.nan if r[key] is None else r[key] for r in inside], dtype=np.float64)
            if not np.isfinite(values).all():
                raise UsageError(f"The table {name} of {place} has regions without a {key}; compute it again.")
            target[name][row] = values
    batch.probability[row] = _answer(record, place)
    batch.places[row] = place


def _answer(record: Mapping[str, Any], place: Path) -> float:
    values = record.get("outcome", {}).get("values") or record.get("probabilities", {})
    target = record["target_class"]
    if target not in values:
        raise UsageError(f"{place} does not say what the network answered for {target}.")
    return float(values[target])


def _regions(rows: Sequence[Mapping[str, Any]]) -> RegionNames:
    inside = [r for r in rows if r["label"] != OUTSIDE_LABEL]
    volumes = np.array([r["volume_mm3"] for r in inside], dtype=np.float64)
    labels, names = tuple(int(r["label"]) for r in inside), tuple(str(r["name"]) for r in inside)
    return RegionNames(labels, names, tuple(str(r["hemisphere"]) for r in inside), volumes)


def _places(folder: Path, cohort: Cohort) -> tuple[dict[int, Path], list[str]]:
    """Result folders by row of the cohort: by name, else by the path of the scan."""
    try:
        with open(folder / SUMMARY_FILE, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.DictReader(file) if row.get("status") in _DONE]
    except (OSError, ValueError, csv.Error) as cause:
        raise UsageError(f"{folder / SUMMARY_FILE} cannot be read: {cause}") from cause
    by_name = {row["name"]: row for row in rows}
    by_path = {os.path.realpath(row["scan"]): row for row in rows if row.get("scan")}
    places, missing = {}, []
    for number, scan in enumerate(cohort.scans):
        path = None if scan.path is None else os.path.realpath(scan.path)
        row = by_path.get(path or "") or by_name.get(scan.name)
        if row is None:
            missing.append(scan.subject)
        else:
            places[number] = folder / row["folder"]
    notes = []
    if missing and places:
        some = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
        notes.append(f"{len(missing)} of {len(cohort.scans)} subjects have no result in {folder.name}: {some}.")
    return places, notes


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise UsageError(
            f"{path} cannot be read: {cause}. A study needs results with region tables (--atlas)."
        ) from cause
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged.")
    return found


# --------------------------------------------------------------------------------------------------------------- titles


def _titled(sets: tuple[MapSet, ...]) -> tuple[MapSet, ...]:
    """Titles and keys that differ: with those options in which sets of one method differ."""
    from dataclasses import replace

    made: list[MapSet] = []
    for one in sets:
        rivals = [s for s in sets if s.method == one.method]
        differing = [o for o in one.options if len({json.dumps(s.options.get(o)) for s in rivals}) > 1]
        shown = ", ".join(f"{'β' if o == 'beta' else o} {one.options[o]:g}" if isinstance(one.options[o], int | float)
                          else f"{o} {one.options[o]}" for o in differing)  # fmt: skip
        taken = {m.key for m in made}
        key, number = one.key, 2
        while key in taken:
            key, number = f"{one.key}-{number}", number + 1
        networks = {s.network for s in sets}
        name = _SHORT.get(one.method, one.title.partition(", ")[0])
        repeats = {s.network for s in rivals if dict(s.options) == dict(one.options)}
        where = one.network if len(networks) > 1 and len(repeats) > 1 else ""
        made.append(
            replace(one, key=key, title=", ".join(filter(None, (f"{name}{f' ({shown})' if shown else ''}", where))))
        )
    return tuple(made)


#: As figures call them.
_SHORT = {
    "lrp": "LRP",
    "guided-backprop": "Guided backpropagation",
    "gradient-x-input": "Gradient × input",
    "area-occlusion": "Area occlusion",
    "integrated-gradients": "Integrated gradients",
}
