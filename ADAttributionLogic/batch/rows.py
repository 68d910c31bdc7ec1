"""Rows of a batch's summary, from explanations and from their folders; the table is the same whatever the order."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ADAttributionLogic.answer_spread import spread_of
from ADAttributionLogic.checks.findings import KEY, read_checks
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.spreadsheet_cells import plain_cell
from ADAttributionLogic.whole_files import write_whole

#: Columns before those of the classes and methods.
_COLUMNS = (
    "name",
    "scan",
    "status",
    "message",
    "explained_class",
    "predicted_class",
    "looks_registered",
    "seconds",
    "folder",
)


def row_of(
    scan: BatchScan,
    target: Path,
    status: str,
    record: Mapping[str, Any],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """The row of a scan that was explained.

    Parameters
    ----------
    scan : BatchScan
    target : Path
        Its result's folder.
    status : {"done", "done before"}
    record : mapping
        Provenance.
    tables : mapping of str to sequence of mapping
        Rows of the region tables, by map.
    """
    best = {name: _first(rows, "density_rank") for name, rows in tables.items()}
    outcome = _outcome_of(record)
    return {
        **empty_row(scan),
        "status": status,
        "message": " ".join(record["notes"]),
        "explained_class": record["target_class"],
        "predicted_class": outcome["verdict"],
        "looks_registered": _looks_registered(record),
        "seconds": record["seconds"],
        "folder": target.name,
        **_answer_columns(outcome, spread_of(record)),
        **{f"top region ({name})": row["name"] if row else "" for name, row in best.items()},
        **_comparison_columns(record, tables),
        **_check_columns(record),
    }


def _first(rows: Sequence[Mapping[str, Any]], rank: str) -> Mapping[str, Any] | None:
    return next((row for row in rows if row.get(rank) == 1), None)


def _comparison_columns(record: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Against controls: how many regions are beyond the limits, and which is the most unusual, adjusted or not."""
    found: dict[str, Any] = {}
    for name, entry in record.get("comparison", {}).get("maps", {}).items():
        if "beyond" not in entry:
            continue
        column = "z_adjusted" if "adjusted_limit" in entry else "z"
        top = _first(tables.get(name, ()), f"{column}_rank")
        kind = "adjusted z" if column == "z_adjusted" else "z"
        found[f"regions beyond the limits ({name})"] = entry["beyond"]["regions"]
        found[f"top region by {kind} ({name})"] = top["name"] if top else ""
        found[f"its {kind} ({name})"] = top[column] if top else ""
    return found


def _check_columns(record: Mapping[str, Any]) -> dict[str, str]:
    """Of each map that was checked, the verdict and which checks failed."""
    found = read_checks(record.get(KEY))
    columns: dict[str, str] = {}
    for checked in () if found is None else found.maps:
        columns[f"checks ({checked.map})"] = checked.verdict
        columns[f"failed checks ({checked.map})"] = " ".join(check.name for check in checked.failed)
    return columns


def _looks_registered(record: Mapping[str, Any]) -> str:
    """Whether the scan lies where the network needs it: its answer means nothing otherwise."""
    if "quality" in record:
        return "prepared" if record["quality"]["passed"] else "prepared, checks failed"
    look = record.get("looks_registered")
    return "unknown" if look is None else "yes" if look["looks_registered"] else "no"


def _outcome_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the network said; results of version 0.1 have probabilities only."""
    if "outcome" in record:
        found: Mapping[str, Any] = record["outcome"]
        return found
    probabilities: Mapping[str, float] = record["probabilities"]
    verdict = max(probabilities, key=probabilities.__getitem__)
    return {"output": {"kind": "softmax"}, "values": probabilities, "verdict": verdict}


def _answer_columns(outcome: Mapping[str, Any], spread: Mapping[str, float]) -> dict[str, Any]:
    """The answer, ± its spread, then that of each network of an ensemble and how many agree; a score has its unit."""
    output, members = outcome["output"], outcome.get("members", ())
    unit = f" [{output['unit']}]" if output.get("unit") else ""

    def column(name: str) -> str:
        return f"{name}{unit}" if output["kind"] == "score" else f"P({name})"

    found: dict[str, Any] = {column(name): value for name, value in outcome["values"].items()}
    found |= {f"{column(name)} ±": value for name, value in spread.items()}
    if not members:
        return found
    for member in members:
        found |= {f"{column(name)} {member['name']}": value for name, value in member["values"].items()}
    return {**found, "networks agreeing": outcome["agreeing"], "networks": len(members)}


def empty_row(scan: BatchScan) -> dict[str, Any]:
    """A row without an answer."""
    return {**dict.fromkeys(_COLUMNS, ""), "name": scan.name, "scan": str(scan.path)}


def row_from_folder(scan: BatchScan, target: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a scan that an earlier start, or another shard, has completed.

    Raises
    ------
    OutputError
        Its files cannot be read.
    """
    try:
        tables = {}
        for name in record["methods"]:
            table = target / "tables" / f"{name}.json"
            if table.is_file():
                tables[name] = json.loads(table.read_text(encoding="utf-8"))["rows"]
        return row_of(scan, target, "done before", record, tables)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise OutputError(
            f"The earlier result in {target} cannot be read ({cause!r}). Remove it and start again."
        ) from cause


def write_summary(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the summary in one step, so that it is whole at any moment.

    What differs from run to run (seconds, and whether a scan was complete from before) is left out: the same results
    are the same bytes.

    Raises
    ------
    OutputError
    """
    columns = list(_COLUMNS)
    for row in rows:
        columns += [name for name in row if name not in columns]
    columns.remove("seconds")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([plain_cell(name) for name in columns])
    for row in rows:
        status = "failed" if row["status"] == "failed" else "done"
        writer.writerow([plain_cell({**row, "status": status}.get(name, "")) for name in columns])
    try:
        write_whole(path, table.getvalue())
    except OSError as cause:
        raise OutputError(f"{path} cannot be written: {cause}. Is it open in another program?") from cause
