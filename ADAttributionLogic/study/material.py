"""What a study is computed from: a cohort's table joined to the results of one or more batches."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.cohort.joining import CohortResults, ScanResult, join_results
from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.cohort.table import Cohort, controls_of
from ADAttributionLogic.errors import CohortError, UnknownNameError, UsageError
from ADAttributionLogic.provenance import text_sha256
from ADAttributionLogic.relevance.region_table import RegionTable, are_ranked
from ADAttributionLogic.study.cases import Groups

FloatArray = npt.NDArray[np.float64]


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
        return are_ranked(self.volume_mm3)


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
    results: Sequence[tuple[str, str | os.PathLike[str]]],
    *,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
) -> Material:
    """Join a table to the results of batches.

    Parameters
    ----------
    cohort : Cohort
        Of each person, the first scan that is there counts.
    results : sequence of (str, path-like)
        Folders that ``ad-attribution batch`` wrote, with what their network (or repeat) is to be called; two of one
        name are of one network.
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
    found: list[_Batch] = [_read_batch(name, Path(folder), chosen) for name, folder in results]
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
    sets = tuple(made for batch in found for made in batch.sets(rows, len({b.name for b in found}) > 1))
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
    joined = join_results(cohort, folder)
    if not joined.results:
        why = joined.missing[0][1] if joined.missing else "it is empty"
        raise CohortError(
            f"No scan of {cohort.source} has a result in {folder} ({why}). Run ad-attribution batch on the same scans."
        )
    number = {(s.subject, s.session, s.line): n for n, s in enumerate(cohort.scans)}
    batch: _Batch | None = None
    hashes, question = [], None
    for result in joined.results:
        record = result.record
        if record.get("space", "model") == "native":
            raise UsageError(
                f"{result.folder} is in the scan's own space; a study needs maps on the network's grid (--space model)."
            )
        tables = {m: result.table(m) for m in result.heatmaps}
        if batch is None:
            question = record.get("batch", {}).get("question")
            batch = _empty(name, folder, record, tables, len(cohort.scans), _missing_notes(joined, folder))
            batch.notes += _start_notes(record, folder)
        _fill(batch, number[result.scan.subject, result.scan.session, result.scan.line], result, record, tables)
        hashes.append([result.scan.subject, result.scan_sha256])
    assert batch is not None
    batch.question = text_sha256([question, hashes])
    return batch


def _start_notes(record: Mapping[str, Any], folder: Path) -> list[str]:
    if record.get("start") != "probability":
        return []
    return [
        f"The relevance in {folder.name} starts from the probability itself: that controls get little of it, and that "
        "so many regions differ, is in part the answer again. With --start unit or logit, batch takes that out."
    ]


def _missing_notes(joined: CohortResults, folder: Path) -> list[str]:
    if not joined.missing:
        return []
    some = ", ".join(scan.subject for scan, _ in joined.missing[:8]) + (" …" if len(joined.missing) > 8 else "")
    return [f"{len(joined.missing)} of {len(joined.cohort)} subjects have no result in {folder.name}: {some}."]


def _empty(
    name: str, folder: Path, record: Mapping[str, Any], tables: Mapping[str, RegionTable], n: int, notes: list[str]
) -> _Batch:
    methods = [
        (m, about["method"], about.get("options", {}), about.get("title", m)) for m, about in record["methods"].items()
    ]
    regions = _regions(next(iter(tables.values())))
    nothing = {m: np.full((n, len(regions.label)), np.nan) for m, *_ in methods}
    again = {m: values.copy() for m, values in nothing.items()}
    return _Batch(name, folder, methods, regions, nothing, again, np.full(n, np.nan), {}, "", notes)


def _fill(
    batch: _Batch, row: int, result: ScanResult, record: Mapping[str, Any], tables: Mapping[str, RegionTable]
) -> None:
    if list(tables) != [m for m, *_ in batch.methods]:
        raise UsageError(f"{result.folder} has the maps {', '.join(tables)}, others than the results before it.")
    for name, table in tables.items():
        if _regions(table) != batch.regions:
            raise UsageError(f"The table {name} of {result.folder} has other regions than the results before it.")
        for key, target in (("sum", batch.sums), ("absolute_sum", batch.absolute)):
            values = np.asarray(table.columns[key], dtype=np.float64)[:-1]  # the last row is outside the atlas
            if not np.isfinite(values).all():
                raise UsageError(f"The table {name} of {result.folder} has regions without a {key}; compute it again.")
            target[name][row] = values
    target_class = record["target_class"]
    if target_class not in result.values:
        raise UsageError(f"{result.folder} does not say what the network answered for {target_class}.")
    batch.probability[row] = result.values[target_class]
    batch.places[row] = result.folder


def _regions(table: RegionTable) -> RegionNames:
    columns = {name: values[:-1] for name, values in table.columns.items()}
    return RegionNames(
        tuple(int(label) for label in columns["label"]),
        tuple(str(name) for name in columns["name"]),
        tuple(str(side) for side in columns["hemisphere"]),
        np.asarray(columns["volume_mm3"], dtype=np.float64),
    )


# --------------------------------------------------------------------------------------------------------------- titles


def _titled(sets: tuple[MapSet, ...]) -> tuple[MapSet, ...]:
    """Titles and keys that differ: with those options in which sets of one method differ."""
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
