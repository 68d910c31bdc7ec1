"""Region tables as files: CSV, TSV and JSON, with units in a sidecar."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.relevance.region_table import RANKS, RegionTable
from ADAttributionLogic.spreadsheet_cells import plain_cell


class RegionPair(Protocol):
    """Two regions that were covered together (:class:`ADAttributionLogic.attribution.result.RegionPair`)."""

    @property
    def first(self) -> int:
        """Label of one region."""

    @property
    def second(self) -> int:
        """Label of the other."""

    @property
    def drop(self) -> float:
        """How much the score falls when both are covered."""

    @property
    def interaction(self) -> float:
        """By how much more than for each alone."""


SUFFIXES = (".csv", ".tsv", ".json")


def write_region_table(table: RegionTable, path: str | os.PathLike[str]) -> Path:
    """Write a region table; the format follows the suffix.

    CSV and TSV get a sidecar ``<name>.units.json`` with titles, units and descriptions of the columns (in JSON they are
    inside). Missing numbers, ranks of small regions among them, are ``n/a`` in CSV and TSV, null in JSON.

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
            "quantity": table.quantity,
            "columns": column_descriptions(table),
            "rows": _json_rows(table),
        }
        _write_json(document, target)
        return target
    with open(target, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="," if target.suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerow(table.columns)
        for row in table.rows():
            writer.writerow([_cell(None if _is_missing(name, value) else value) for name, value in row.items()])
    sidecar = target.with_name(f"{target.stem}.units.json")
    if not sidecar.exists():
        about = {"atlas": table.atlas, "method": table.method, "quantity": table.quantity}
        _write_json({**about, "columns": column_descriptions(table)}, sidecar)
    return target


def write_pair_table(pairs: Iterable[RegionPair], names: Mapping[int, str], path: str | os.PathLike[str]) -> Path:
    """Write what covering two regions together does, as CSV, strongest interaction first.

    Parameters
    ----------
    pairs : iterable of RegionPair
    names : mapping of int to str
        Of the regions, by label.
    path : path-like

    Raises
    ------
    OutputError
        The file exists.
    """
    target = Path(path)
    if target.exists():
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name.")
    with open(target, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["first_label", "first", "second_label", "second", "drop", "interaction"])
        for pair in sorted(pairs, key=lambda p: -abs(p.interaction)):
            named = (pair.first, plain_cell(names[pair.first]), pair.second, plain_cell(names[pair.second]))
            writer.writerow([*named, repr(pair.drop), repr(pair.interaction)])
    return target


def column_descriptions(table: RegionTable) -> dict[str, dict[str, str]]:
    """Title, unit and description of each column."""
    return {c.name: {"title": c.title, "unit": c.unit, "description": c.description} for c in table.described}


def _json_rows(table: RegionTable) -> list[dict[str, Any]]:
    return [{k: None if _is_missing(k, v) else v for k, v in row.items()} for row in table.rows()]


def _is_missing(name: str, value: Any) -> bool:
    return (isinstance(value, float) and math.isnan(value)) or (name in RANKS and value == 0)


def _cell(value: Any) -> Any:
    if value is None:
        return "n/a"
    return repr(value) if isinstance(value, float) else plain_cell(value)


def _write_json(document: Any, path: Path) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
