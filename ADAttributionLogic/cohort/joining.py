"""A table of subjects joined to what a batch found: each scan's maps, region tables and score beside whose it is.

A scan and its result belong together when the scan's file is the one that was explained (its hash), not because names
are alike.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.cohort.table import Cohort
from ADAttributionLogic.errors import CohortError
from ADAttributionLogic.provenance import source_sha256
from ADAttributionLogic.relevance.region_table import RegionTable
from ADAttributionLogic.report.placing import damaged
from ADAttributionLogic.report.result_places import KIND, PROVENANCE_FILE, summary_rows
from ADAttributionLogic.report.result_reading import read_region_table
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.volume import Volume


@dataclass(frozen=True, eq=False)
class ScanResult:
    """A row of the table with what was found in its scan.

    Attributes
    ----------
    scan : CohortScan
    folder : Path
        Of the result.
    scan_sha256 : str
        Of the scan's file.
    heatmaps : tuple of str
        Names of its maps.
    values : mapping of str to float
        What the network said: probability by class, or the score by its name.
    verdict : str
        The most probable class, or the level of the score.
    """

    scan: CohortScan
    folder: Path
    scan_sha256: str
    heatmaps: tuple[str, ...]
    values: Mapping[str, float]
    verdict: str

    @property
    def record(self) -> dict[str, Any]:
        """The provenance, read anew each time: a thousand of them would fill the memory."""
        return _read(self.folder)

    def heatmap(self, name: str) -> Volume:
        """A map.

        Raises
        ------
        CohortError
            It is not there, or not what was written.
        """
        return read_scan(self._checked(f"heatmaps/{name}.nii.gz"))

    def table(self, name: str) -> RegionTable:
        """A map's region table.

        Raises
        ------
        CohortError
            It is not there (explained without an atlas), or not what was written.
        """
        return read_region_table(self._checked(f"tables/{name}.json"))

    def _checked(self, name: str) -> Path:
        sha256 = self.record["files"].get(name)
        if sha256 is None:
            raise CohortError(f"The result {self.folder} of {self.scan.shown} has no {name}.")
        if damaged(self.folder, {name: sha256}):
            raise CohortError(f"{self.folder / name} is missing or was changed since it was written.")
        return self.folder / name


@dataclass(frozen=True, eq=False)
class CohortResults:
    """A cohort with its results.

    Attributes
    ----------
    cohort : Cohort
        All rows, also those without a result.
    results : tuple of ScanResult
        In the order of the table.
    missing : tuple of (CohortScan, str)
        Rows without a result, and why.
    unlisted : tuple of str
        Results of the batch that no row of the table names.
    """

    cohort: Cohort
    results: tuple[ScanResult, ...]
    missing: tuple[tuple[CohortScan, str], ...] = ()
    unlisted: tuple[str, ...] = ()


def join_results(cohort: Cohort, batch: str | os.PathLike[str]) -> CohortResults:
    """Join a table to the folder of a batch.

    Parameters
    ----------
    cohort : Cohort
    batch : path-like
        Folder that ``ad-attribution batch`` wrote.

    Raises
    ------
    CohortError
        Two rows have the same scan, or a result cannot be read.
    UsageError
        The folder is no batch.
    """
    folder = Path(batch)
    rows = summary_rows(folder)
    results = {
        row["name"]: _result(_read(folder / row["folder"]), folder / row["folder"]) for row in rows if row["folder"]
    }
    by_hash = {result.scan_sha256: name for name, result in results.items()}
    failed = [row for row in rows if not row["folder"]]
    why = {row["name"]: row["message"] for row in failed}
    why |= {os.path.realpath(row["scan"]): row["message"] for row in failed if row.get("scan")}
    changed = "the result of its name or path is of another scan, or the scan was changed since."
    why |= {row["name"]: changed for row in rows if row["folder"]}
    why |= {os.path.realpath(row["scan"]): changed for row in rows if row["folder"] and row.get("scan")}
    found: list[ScanResult] = []
    missing: list[tuple[CohortScan, str]] = []
    used: dict[str, CohortScan] = {}
    for scan in cohort.scans:
        sha256 = _hash_of(scan)
        # Whose scan is gone is known by its name alone.
        name = by_hash.get(sha256) if sha256 else scan.name if scan.name in results else None
        if name is None:
            missing.append((scan, _reason(scan, sha256, why)))
            continue
        if name in used:
            raise CohortError(f"{used[name].shown} and {scan.shown} have the same scan: one of the two rows is wrong.")
        used[name] = scan
        found.append(replace(results[name], scan=scan))
    unlisted = tuple(name for name in results if name not in used)
    return CohortResults(cohort, tuple(found), tuple(missing), unlisted)


def _hash_of(scan: CohortScan) -> str:
    """Of the scan's file; "" where it is gone."""
    if scan.path is None or not scan.is_there:
        return ""
    try:
        return source_sha256(scan.path)
    except OSError as cause:
        raise CohortError(f"{scan.path} of {scan.shown} cannot be read: {cause.strerror}.") from cause


def _reason(scan: CohortScan, sha256: str, why: Mapping[str, str]) -> str:
    for key in (os.path.realpath(scan.path) if scan.path else "", scan.name):
        if key in why:
            return why[key]
    if not sha256:
        return "its scan is not there, and no result has its name."
    return "the batch has not explained it."


def _result(record: Mapping[str, Any], folder: Path) -> ScanResult:
    """A result of which nobody has said yet whose it is."""
    nobody = CohortScan(folder.name, None, "", "", "", {}, 0)
    outcome = record["outcome"]
    sha256 = record["batch"]["scan_sha256"]
    return ScanResult(nobody, folder, sha256, tuple(record["methods"]), outcome["values"], str(outcome["verdict"]))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["kind"] != KIND:
            raise ValueError(f"its kind is {record['kind']!r}")
        if not isinstance(record["batch"]["scan_sha256"], str) or not isinstance(record["files"], dict):
            raise ValueError("it does not say what it answers")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        raise CohortError(f"{path} is no result of a batch, or is damaged: {cause}") from cause
    found: dict[str, Any] = record
    return found
