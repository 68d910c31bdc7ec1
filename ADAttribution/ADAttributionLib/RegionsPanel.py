"""The section Regions: the table, the chosen region, copy and export. Reaches widgets through `ui` alone."""

from __future__ import annotations

import csv
import io
import math

from ADAttributionLib.Runs import tableRows
from ADAttributionLib.Signals import connect
from ADAttributionLogic.errors import OutputError

NAME_COLUMN = "name"


class RegionsPanel:
    """Shows the region table of the shown map."""

    def __init__(self, ui):
        self.ui = ui
        self.display = None
        connect(ui.regionSearchBox, "textChanged(QString)", self.onFilter)
        connect(ui.regionTableView, "selectionChanged()", self.onSelection)

    def setDisplay(self, display):
        """Take a run's display; None empties the table."""
        self.display = display
        self.refresh()

    @property
    def tableNode(self):
        return None if self.display is None else self.display.run.tableNodes.get(self.display.mapName)

    def refresh(self):
        """Show the table of the shown map."""
        ui, node = self.ui, self.tableNode
        ui.regionTableView.setMRMLTableNode(node)
        ui.regionsCollapsibleButton.enabled = node is not None
        if node is not None:
            ui.regionTableView.setSelectionBehavior(ui.regionTableView.SelectRows)
            ui.regionTableView.resizeColumnsToContents()
            self.onFilter(ui.regionSearchBox.text)

    def onFilter(self, text):
        """Show regions with this text in their name."""
        proxy = self.ui.regionTableView.sortFilterProxyModel()
        node = self.tableNode
        if proxy is None or node is None:
            return
        proxy.setFilterCaseSensitivity(0)  # Qt::CaseInsensitive
        proxy.setFilterKeyColumn(columnNames(node).index(NAME_COLUMN))
        proxy.setFilterFixedString(text)

    def onSelection(self):
        """Jump to the chosen region's peak, and outline it and no other."""
        indexes = self.ui.regionTableView.selectionModel().selectedIndexes
        if not indexes or self.tableNode is None:
            return None
        source = self.ui.regionTableView.sortFilterProxyModel().mapToSource(indexes[0])
        rows = tableRows(self.tableNode.GetTable())
        if not 0 <= source.row() < len(rows):
            return None
        return self.display.chooseRegion(rows[source.row()]["label"])

    def text(self, delimiter="\t"):
        """The table as text, with titles and units."""
        node = self.tableNode
        names = columnNames(node)
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
        writer.writerow([_headOf(node, name) for name in names])
        for row in tableRows(node.GetTable()):
            writer.writerow([_cell(row[name]) for name in names])
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


def _cell(value):
    return "n/a" if isinstance(value, float) and math.isnan(value) else value
