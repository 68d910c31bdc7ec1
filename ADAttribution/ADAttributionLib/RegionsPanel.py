"""The section Regions: the table, the chosen region, copy and export. Reaches widgets through `ui` alone."""

from __future__ import annotations

import csv
import io
import math

from ADAttributionLib.RegionRows import (
    DESCRIBED,
    FIRST_COLUMNS,
    cellsOf,
    heads,
    largestDensity,
    shownColumns,
    sortedRows,
)
from ADAttributionLib.Runs import tableRows
from ADAttributionLib.Signals import connect
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.relevance.region_table import RANKS

_SETTING = "regionColumns"


class RegionsPanel:
    """Shows the region table of the shown map.

    Parameters
    ----------
    ui : namespace of widgets
    seam : QtSeam
        Fills the table, makes the menu of columns, and keeps what the user chose.
    """

    def __init__(self, ui, seam):
        self.ui = ui
        self.display = None
        self._seam = seam
        self._columns = list(seam.listSetting(_SETTING) or FIRST_COLUMNS)
        self._order = ("density_rank", False)
        self._all, self._rows = [], []
        connect(ui.regionSearchBox, "textChanged(QString)", self.onFilter)
        connect(ui.regionTable, "itemSelectionChanged()", self.onSelection)
        seam.onHeaderClicked(ui.regionTable, self.onHeader)

    def setDisplay(self, display):
        """Take a run's display; None empties the table."""
        self.display = display
        self.refresh()

    @property
    def tableNode(self):
        return None if self.display is None else self.display.run.tableNodes.get(self.display.mapName)

    @property
    def chosenLabel(self):
        """Label of the region whose row is chosen; None without one."""
        row = self.ui.regionTable.currentRow()
        return self._rows[row]["label"] if 0 <= row < len(self._rows) else None

    def refresh(self):
        """Show the table of the shown map, sorted by rank."""
        ui, node = self.ui, self.tableNode
        ui.regionsCollapsibleButton.enabled = node is not None
        self._all = [] if node is None else tableRows(node.GetTable())
        self._order = ("density_rank", False)
        if self._all:
            choices = [(name, DESCRIBED[name].title, name in self._shown()) for name in columnNames(node)]
            self._seam.fillMenu(ui.regionColumnsButton, choices, self.onColumn)
        self._fill()

    def _shown(self):
        return shownColumns(self._columns, self._all[0] if self._all else DESCRIBED)

    def _fill(self):
        columns = self._shown()
        self._rows = sortedRows(self._all, *self._order, self.ui.regionSearchBox.text)
        self._seam.fillTable(
            self.ui.regionTable, heads(columns), cellsOf(self._rows, columns, largestDensity(self._all))
        )

    def onFilter(self, _text):
        """Show regions with this text in their name."""
        self._fill()

    def onHeader(self, index):
        """Sort by a column: names and ranks upwards, numbers from the largest; again, the other way."""
        name = self._shown()[index]
        first = DESCRIBED[name].kind is float or name == "voxels"
        self._order = (name, not self._order[1] if self._order[0] == name else first)
        self._fill()

    def onColumn(self, name, shown):
        """Show or hide a column; the last one stays."""
        columns = [column for column in self._shown() if column != name] + ([name] if shown else [])
        if columns:
            self._columns = columns
            self._seam.setSetting(_SETTING, columns)
            self._fill()

    def onSelection(self):
        """Jump to the chosen region's peak, and outline it and no other."""
        row = self.ui.regionTable.currentRow()
        if self.display is None or not 0 <= row < len(self._rows):
            return None
        return self.display.chooseRegion(self._rows[row]["label"])

    def text(self, delimiter="\t"):
        """The table as text, with all columns, titles and units, best rank first."""
        node = self.tableNode
        names = columnNames(node)
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
        writer.writerow([_headOf(node, name) for name in names])
        for row in sortedRows(tableRows(node.GetTable())):
            writer.writerow([_cell(name, row[name]) for name in names])
        return buffer.getvalue()

    def export(self, path):
        """Write the table as CSV or TSV, by the file's suffix; the dialog has asked before replacing a file.

        Raises
        ------
        OutputError
        """
        try:
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(self.text("," if str(path).lower().endswith(".csv") else "\t"))
        except OSError as cause:
            raise OutputError(f"The table cannot be written to {path}: {cause}") from cause


def columnNames(tableNode):
    """Names of a table node's columns, in order."""
    table = tableNode.GetTable()
    return [table.GetColumn(i).GetName() for i in range(table.GetNumberOfColumns())]


def _headOf(node, name):
    unit = node.GetColumnUnitLabel(name)
    title = node.GetColumnTitle(name) or name
    return f"{title} ({unit})" if unit else title


def _cell(name, value):
    isMissing = (isinstance(value, float) and math.isnan(value)) or (name in RANKS and value == 0)
    return "n/a" if isMissing else value
