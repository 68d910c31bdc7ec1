"""A study's tables: columns of plain values with a title, written as TSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ADAttributionLogic.spreadsheet_cells import plain_cell


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length.

    Attributes
    ----------
    name : str
        Of its file, without suffix.
    title : str
    columns : mapping of str to sequence
        Names with units; numbers, texts, NaN where there is none.
    about : str
        What the columns are, for the page.
    """

    name: str
    title: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> list[list[Any]]:
        """Rows as plain Python values; None where there is no value."""
        return [[_plain(value) for value in row] for row in zip(*self.columns.values(), strict=True)]


def matrix_table(name: str, title: str, labels: Sequence[str], matrix: Any, about: str = "") -> Table:
    """A square matrix with the names of its rows in front."""
    columns: dict[str, Any] = {"": list(labels)}
    columns |= {label: np.asarray(matrix)[:, n] for n, label in enumerate(labels)}
    return Table(name, title, columns, about)


def write_tsv(table: Table, path: Path) -> Path:
    """Write a table; numbers to the last digit, ``n/a`` where there is none.

    Raises
    ------
    OSError
    """
    with open(path, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([plain_cell(name) for name in table.columns])
        for row in table.rows():
            writer.writerow([_cell(value) for value in row])
    return path


def _plain(value: Any) -> Any:
    found = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(found, float) and not math.isfinite(found) else found


def _cell(value: Any) -> Any:
    if value is None:
        return "n/a"
    return repr(value) if isinstance(value, float) else plain_cell(value)
