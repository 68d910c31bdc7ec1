"""Region tables as files: CSV, TSV and JSON, with units in a sidecar."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.relevance.region_table import COLUMNS, RegionTable

SUFFIXES = (".csv", ".tsv", ".json")


def write_region_table(table: RegionTable, path: str | os.PathLike[str]) -> Path:
    """Write a region table; the format follows the suffix.

    CSV and TSV get a sidecar ``<name>.units.json`` with titles, units and descriptions of the columns (in JSON they are
    inside). Missing numbers are ``n/a`` in CSV and TSV, null in JSON.

    Raises
    ------
    OutputError
        Unknown suffix, or the file exists.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise OutputError(f"Cannot write {target.name}: a table is one of {', '.join(SUFFIXES)}.")
    if target.exists():
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name.")
    if target.suffix == ".json":
        document = {
            "atlas": table.atlas,
            "method": table.method,
            "columns": column_descriptions(),
            "rows": _json_rows(table),
        }
        _write_json(document, target)
        return target
    with open(target, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="," if target.suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerow(table.columns)
        for row in table.rows():
            writer.writerow([_cell(value) for value in row.values()])
    sidecar = target.with_name(f"{target.stem}.units.json")
    if not sidecar.exists():
        _write_json({"atlas": table.atlas, "method": table.method, "columns": column_descriptions()}, sidecar)
    return target


def column_descriptions() -> dict[str, dict[str, str]]:
    """Title, unit and description of each column."""
    return {c.name: {"title": c.title, "unit": c.unit, "description": c.description} for c in COLUMNS}


def _json_rows(table: RegionTable) -> list[dict[str, Any]]:
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in table.rows()]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else repr(value)
    return value


def _write_json(document: Any, path: Path) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
