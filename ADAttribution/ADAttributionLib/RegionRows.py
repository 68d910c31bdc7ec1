"""The region table as people read it: ranks first, density as a bar, small regions grey. Needs no Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ADAttributionLogic.relevance.region_table import ALL_COLUMNS, OUTSIDE_LABEL, RANKS, SMALLEST_RANKED_MM3

#: Columns that are shown unless the user chooses others.
FIRST_COLUMNS = ("density_rank", "name", "hemisphere", "density", "share")
DESCRIBED = {column.name: column for column in ALL_COLUMNS}

_ORANGE, _BLUE, _GREY = "#E17012", "#2A7DE1", "#909090"
_BAR_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Cell:
    """A cell of the table as it is shown: text, tool tip, and a colour where it is not the usual one."""

    text: str
    toolTip: str = ""
    colour: str = ""


def shownColumns(chosen, available):
    """Names of the columns to show: those chosen that there are, the first ones in their order, then the others'."""
    wanted = [name for name in chosen if name in available]
    order = [*FIRST_COLUMNS, *DESCRIBED]
    return sorted(set(wanted), key=order.index) or list(FIRST_COLUMNS)


def heads(columns):
    """Titles of columns; ranks, names and bars need no unit."""
    return [DESCRIBED[name].title for name in columns]


def sortedRows(rows, by="density_rank", descending=False, text=""):
    """Rows whose name holds a text, sorted; what has no value or no rank comes last.

    Regions without a rank are sorted among themselves by their density.
    """
    found = [row for row in rows if text.lower() in _nameOf(row).lower()]

    def isMissing(row):
        value = row[by]
        return (by in RANKS and value == 0) or (isinstance(value, float) and math.isnan(value))

    present = sorted((row for row in found if not isMissing(row)), key=lambda row: row[by], reverse=descending)
    density = [row for row in found if isMissing(row)]
    density.sort(key=lambda row: (row["label"] == OUTSIDE_LABEL, -_number(row["density"])))
    return present + density


def cellsOf(rows, columns, largest):
    """Cells of rows; `largest` is the density whose bar is full."""
    return [[_cell(row, name, largest) for name in columns] for row in rows]


def largestDensity(rows):
    """Largest magnitude of density among the ranked regions; 0 where none is ranked."""
    return max((abs(row["density"]) for row in rows if row["density_rank"] > 0), default=0.0)


def _cell(row, name, largest):
    value = row[name]
    isSmall = row["density_rank"] == 0
    if name == "density" and not math.isnan(value):
        colour = _GREY if isSmall else _ORANGE if value >= 0 else _BLUE
        return Cell(f"{value:.1e} {_bar(value, largest)}", f"{value:.4g} {DESCRIBED[name].unit}", colour)
    return Cell(_text(name, row), _toolTip(row, name), _GREY if isSmall else "")


def _text(name, row):
    value = row[name]
    if name == "name":
        return _nameOf(row)
    if name in RANKS:
        return str(value) if value else ""
    if name == "share":
        return "" if math.isnan(value) else f"{100 * value:.1f} %"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def _toolTip(row, name):
    if row["label"] == OUTSIDE_LABEL:
        return "All voxels in no region"
    if row["density_rank"] == 0:
        return f"{row['volume_mm3']:.0f} mm³ on the map; regions below {SMALLEST_RANKED_MM3:g} mm³ are not ranked"
    described = DESCRIBED[name]
    return f"{described.description} ({described.unit})" if described.unit else described.description


def _bar(value, largest):
    eighths = round(8 * _BAR_CELLS * min(abs(value) / largest, 1.0)) if largest else 0
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _nameOf(row):
    return str(row["name"]).replace("_", " ")


def _number(value):
    return 0.0 if math.isnan(value) else value
