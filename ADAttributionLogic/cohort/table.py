"""A cohort: a table with one row per scan, which says whose it is, with which diagnosis and covariates.

CSV, TSV, and BIDS ``participants.tsv`` (with the subjects' ``sessions.tsv``, where there are). What is missing is
listed; what is doubled or contradicts itself is refused by name, because no statistic can be right about it.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ADAttributionLogic.cohort.contradictions import notes_on, refuse_contradictions
from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.cohort.scan_list import BatchScan, name_scans
from ADAttributionLogic.errors import CohortError, UnknownNameError

#: Names of the columns that have a meaning of their own, in any case of letters; the first that a table has is taken.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "scan": ("scan",),
    "name": ("name",),
    "subject": ("participant_id", "subject", "subject_id"),
    "session": ("session_id", "session", "visit"),
    "diagnosis": ("diagnosis", "dx", "group"),
}

#: How tables say that a value is not known (BIDS: n/a).
_MISSING = {"", "n/a", "na", "nan", "none", "null", "."}

#: What a control is called, in small letters.
CONTROL_WORDS = ("cn", "hc", "nc", "control", "controls", "healthy", "healthy control", "cognitively normal")

#: A table with more bytes is none of subjects.
MAX_BYTES = 100_000_000

#: Chooses the images of a person, e.g. ``sub-01``; None leaves the person out.
ImageFinder = Callable[[str], Sequence[Path] | None]


@dataclass(frozen=True, eq=False)
class Cohort:
    """All rows of a table.

    Attributes
    ----------
    source : str
        The table.
    scans : tuple of CohortScan
    variables : tuple of str
        Columns beside those of :data:`COLUMNS`, e.g. age and sex.
    notes : tuple of str
        What a user should know: who was scanned several times, whose scan is missing.
    """

    source: str
    scans: tuple[CohortScan, ...]
    variables: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def by_subject(self) -> dict[str, tuple[CohortScan, ...]]:
        """The scans of each person, sessions in their order (``ses-2`` before ``ses-10``)."""
        found: dict[str, list[CohortScan]] = {}
        for scan in self.scans:
            found.setdefault(scan.subject, []).append(scan)
        return {subject: tuple(sorted(scans, key=_order)) for subject, scans in found.items()}

    @property
    def diagnoses(self) -> tuple[str, ...]:
        """Those that occur, as they are written, in order of appearance."""
        return tuple(dict.fromkeys(scan.diagnosis for scan in self.scans if scan.diagnosis))

    def where(self, wanted: Callable[[CohortScan], bool]) -> Cohort:
        """Those rows for which something holds."""
        return replace(self, scans=tuple(scan for scan in self.scans if wanted(scan)))

    def with_diagnosis(self, *names: str) -> Cohort:
        """Rows with one of these diagnoses, in any case of letters.

        Raises
        ------
        UnknownNameError
            A diagnosis that no row has.
        """
        known = {name.lower() for name in self.diagnoses}
        for name in names:
            if name.lower() not in known:
                raise UnknownNameError(f"diagnosis in {self.source}", name, self.diagnoses)
        wanted = {name.lower() for name in names}
        return self.where(lambda scan: scan.diagnosis.lower() in wanted)

    def one_per_subject(self) -> Cohort:
        """The first scan of each person that is there: scans of one person are not independent of one another.

        The notes name the persons of whom scans were left out.
        """
        kept, notes = [], []
        for subject, scans in self.by_subject.items():
            first = next((scan for scan in scans if scan.is_there), scans[0])
            kept.append(first)
            if len(scans) > 1:
                which = f" ({first.session})" if first.session else f" (line {first.line})"
                notes.append(f"{subject} was scanned {len(scans)} times; only the first scan{which} counts.")
        kept.sort(key=lambda scan: scan.line)
        return replace(self, scans=tuple(kept), notes=(*self.notes, *notes))

    def batch_scans(self) -> tuple[BatchScan, ...]:
        """Those that are there, as a batch takes them."""
        return tuple(BatchScan(s.name, s.path) for s in self.scans if s.path is not None and s.is_there)


def read_cohort(path: str | os.PathLike[str], scans: str | os.PathLike[str] | None = None) -> Cohort:
    """Read a table of subjects.

    Parameters
    ----------
    path : path-like
        CSV or TSV. Columns ``scan`` (a path, relative to the table), ``subject`` or ``participant_id``, and optionally
        ``session``, ``diagnosis`` (or ``dx``, ``group``), ``name``, and any others. A table without the column ``scan``
        is taken as BIDS ``participants.tsv``: each person's T1w images are looked for in the folder of that name, with
        the columns of their ``sessions.tsv``.
    scans : path-like, optional
        Where those folders are, e.g. a derivative; beside the table by default.

    Raises
    ------
    CohortError
        It cannot be read, lacks a column, or its rows are doubled or contradict one another (all are named).
    """
    return read_cohorts([path], scans)


def read_cohorts(
    paths: Sequence[str | os.PathLike[str]],
    scans: str | os.PathLike[str] | None = None,
    *,
    images: ImageFinder | None = None,
    diagnosis: str = "",
) -> Cohort:
    """Read several tables as one; a person of the same name in two of them is the same person.

    Parameters
    ----------
    paths, scans
        As :func:`read_cohort`.
    images : callable, optional
        Chooses the images of a person of a BIDS table (e.g. ``sub-01``) in the folder `scans`; None leaves the person
        out. By default all T1w images in the person's folder.
    diagnosis : str
        The column with the diagnosis, where it has a name of its own.

    Raises
    ------
    CohortError
        As :func:`read_cohort`.
    """
    rows: list[_Row] = []
    variables: list[str] = []
    for path in paths:
        found, names = _rows_of(Path(path), scans, Path(path).name if len(paths) > 1 else "", images, diagnosis)
        rows += found
        variables += [name for name in names if name not in variables]
    named = iter(name_scans([(row.path, row.given, row.name) for row in rows if row.path is not None]))
    made = tuple(
        CohortScan(
            next(named).name if row.path is not None else row.name or row.subject,
            row.path,
            row.subject,
            row.session,
            row.diagnosis,
            row.values,
            row.line,
            row.table,
        )
        for row in rows
    )
    source = ", ".join(os.fspath(path) for path in paths)
    refuse_contradictions(source, made)
    return Cohort(source, made, tuple(variables), notes_on(made))


def controls_of(cohort: Cohort, names: Sequence[str] = ()) -> Cohort:
    """The controls: rows with a diagnosis of these names, by default one of :data:`CONTROL_WORDS`.

    Raises
    ------
    CohortError
        Nobody says who is one.
    UnknownNameError
        A name that no row has.
    """
    if names:
        return cohort.with_diagnosis(*names)
    found = [name for name in cohort.diagnoses if name.lower() in CONTROL_WORDS]
    if not found:
        which = f"its diagnoses are {', '.join(cohort.diagnoses)}" if cohort.diagnoses else "it has no diagnoses"
        raise CohortError(
            f"{cohort.source} does not say who is a control: {which}. Say which diagnosis controls have (--controls "
            f"NAME), or call it one of {', '.join(CONTROL_WORDS[:5])}."
        )
    return cohort.with_diagnosis(*found)


# ------------------------------------------------------------------------------------------------------------- reading


def _rows_of(
    table: Path, scans: str | os.PathLike[str] | None, shown: str, images: ImageFinder | None, diagnosis: str
) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows of one table, one for each scan, and the names of its variables."""
    header, lines = _read(table)
    columns = _columns_of(header, table, diagnosis)
    variables = tuple(name for name in header if name not in columns.values())
    rows = [replace(_row(line, number, columns, variables, table), table=shown) for number, line in lines]
    if "scan" in columns:
        return rows, variables
    root = table.parent if scans is None else Path(scans)
    found = [each for row in rows for each in _in_bids(row, root, images or _all_t1w(root), diagnosis)]
    return found, tuple(dict.fromkeys([*variables, *(name for row in found for name in row.values)]))


@dataclass(frozen=True)
class _Row:
    path: Path | None
    given: str
    name: str
    subject: str
    session: str
    diagnosis: str
    values: dict[str, str]
    line: int
    table: str = ""


def _read(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Names of the columns, and rows with the lines on which they end."""
    if table.suffix.lower() not in (".csv", ".tsv", ".txt") or not table.is_file():
        raise CohortError(f"{table} is no table of subjects: a CSV or TSV file is needed.")
    if table.stat().st_size > MAX_BYTES:
        raise CohortError(f"{table} has {table.stat().st_size} bytes; a table of subjects has at most {MAX_BYTES}.")
    try:
        text = table.read_text(encoding="utf-8-sig", errors="surrogateescape")
        first = text.partition("\n")[0]
        # Spreadsheets of some countries write semicolons.
        delimiter = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
        reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
        header = [cell.strip() for cell in next(reader, [])]
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    raise CohortError(
                        f"{table}, line {reader.line_num}: it has {len(cells)} cells, but the head has {len(header)}."
                    )
                rows.append((reader.line_num, dict(zip(header, (c.strip() for c in cells), strict=True))))
    except (OSError, csv.Error) as cause:
        raise CohortError(f"{table} cannot be read: {cause}") from cause
    if not rows:
        raise CohortError(f"{table} has no row beside its head.")
    twice = sorted({name for name in header if [h.lower() for h in header].count(name.lower()) > 1})
    if twice or "" in header:
        what = f"the column {twice[0]!r} twice" if twice else "a column without a name"
        raise CohortError(f"{table} has {what}. Give each column a name of its own.")
    return header, rows


def _columns_of(header: Sequence[str], table: Path, diagnosis: str) -> dict[str, str]:
    """By meaning, the names of the columns that a table has; that of the diagnosis may be given."""
    by_name = {name.lower(): name for name in header}
    found = {}
    for meaning, names in COLUMNS.items():
        for name in names:
            if name in by_name:
                found[meaning] = by_name[name]
                break
    if diagnosis:
        if diagnosis.lower() not in by_name:
            raise CohortError(f"{table} has no column {diagnosis!r}; its columns are {', '.join(header)}.")
        found["diagnosis"] = by_name[diagnosis.lower()]
    if "subject" not in found and "scan" not in found:
        raise CohortError(
            f"{table} has neither a column 'scan' nor 'participant_id' or 'subject'; its columns are "
            f"{', '.join(header)}."
        )
    return found


def _row(
    line: Mapping[str, str], number: int, columns: Mapping[str, str], variables: Sequence[str], table: Path
) -> _Row:
    def cell(meaning: str) -> str:
        return _known(line[columns[meaning]]) if meaning in columns else ""

    given = cell("scan")
    if "\0" in given:
        raise CohortError(f"{table}, line {number}: {given!r} is no path.")
    subject = cell("subject") or _entity("sub", given)
    if not subject:
        raise CohortError(
            f"{table}, line {number}: nothing says whose scan it is. Fill in a column 'subject' (or 'participant_id'): "
            "scans of one person must not be taken for those of several."
        )
    values = {name: known for name in variables if (known := _known(line[name]))}
    path = table.parent / given if given else None
    session = cell("session") or _entity("ses", given)
    return _Row(path, given, cell("name"), subject, session, cell("diagnosis"), values, number)


def _known(text: str) -> str:
    return "" if text.strip().lower() in _MISSING else text.strip()


def _entity(key: str, path: str) -> str:
    """A BIDS entity of a path with its key, e.g. ``sub-01``; "" where it has none."""
    found = re.search(rf"(?:^|[/\\_])({key}-[A-Za-z0-9]+)", path)
    return found.group(1) if found else ""


def _in_bids(row: _Row, root: Path, images: ImageFinder, diagnosis: str) -> list[_Row]:
    """A participant's row for each image that is meant, or the row alone where there is none."""
    subject = row.subject if row.subject.startswith("sub-") else f"sub-{row.subject}"
    chosen = images(subject)
    if chosen is None:
        return []
    wanted = f"/{row.session if row.session.startswith('ses-') else f'ses-{row.session}'}/" if row.session else ""
    sessions = _sessions(root / subject)
    titles = (diagnosis.lower(),) if diagnosis else COLUMNS["diagnosis"]
    found = []
    for image in (p for p in chosen if wanted in p.as_posix()):
        given = image.relative_to(root).as_posix()
        session = row.session or _entity("ses", given)
        own = sessions.get(session, {})
        stated = next((own[c] for c in own if c.lower() in titles), row.diagnosis)
        values = row.values | {n: v for n, v in own.items() if n.lower() not in titles}
        found.append(replace(row, path=image, given=given, session=session, diagnosis=stated, values=values))
    return found or [row]


def _all_t1w(root: Path) -> ImageFinder:
    """All T1w images in a person's folder."""

    def find(subject: str) -> list[Path]:
        images = (root / subject).rglob("*T1w.nii*")
        return sorted(p for p in images if p.is_file() and not p.name.startswith("."))

    return find


def _sessions(folder: Path) -> dict[str, dict[str, str]]:
    """What a subject's ``sessions.tsv`` says of each session."""
    file = folder / f"{folder.name}_sessions.tsv"
    if not file.is_file():
        return {}
    header, lines = _read(file)
    if "session_id" not in header:
        raise CohortError(f"{file} has no column session_id.")
    return {
        row["session_id"]: {n: known for n, v in row.items() if n != "session_id" and (known := _known(v))}
        for _, row in lines
    }


def _order(scan: CohortScan) -> tuple[list[tuple[int, int | str]], int]:
    """Sessions as people count them: numbers by their value."""
    parts = re.split(r"(\d+)", scan.session)
    return [(0, int(p)) if p.isdigit() else (1, p) for p in parts if p], scan.line
