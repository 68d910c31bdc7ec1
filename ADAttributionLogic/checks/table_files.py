"""Checks as files: one table of all checks, one of the points of their curves. Needs no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from ADAttributionLogic.checks.findings import Checks

CHECKS_FILE, CURVES_FILE, AGREEMENT_FILE = "checks.tsv", "curves.tsv", "agreement.tsv"

_COLUMNS = ("map", "check", "verdict", "number", "null", "cost", "number_is", "null_is", "sentence")


def write_check_tables(checks: Checks, folder: Path) -> list[Path]:
    """Write ``checks.tsv``, ``curves.tsv`` where there are curves, and ``agreement.tsv`` of several maps.

    Missing numbers are ``n/a``; ``cost`` is in forward passes.
    """
    rows = [
        (found.map, c.name, c.verdict, c.number, c.null, round(c.cost, 2), c.number_is, c.null_is, c.sentence)
        for found in checks.maps
        for c in found.checks
    ]
    written = [_write(folder / CHECKS_FILE, _COLUMNS, rows)]
    points = [
        (found.map, check.name, line, x, y)
        for found in checks.maps
        for check in found.checks
        if check.curve is not None
        for line, values in check.curve.lines.items()
        for x, y in zip(check.curve.x, values, strict=True)
    ]
    if points:
        written.append(_write(folder / CURVES_FILE, ("map", "check", "line", "percent_of_brain", "answer"), points))
    if checks.agreement is not None:
        agreement = checks.agreement
        table = [(name, *row) for name, row in zip(agreement.maps, agreement.matrix, strict=True)]
        written.append(_write(folder / AGREEMENT_FILE, ("rank_correlation", *agreement.maps), table))
    return written


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with open(path, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)
    return path


def _cell(value: object) -> object:
    if value is None:
        return "n/a"
    return repr(value) if isinstance(value, float) else value
