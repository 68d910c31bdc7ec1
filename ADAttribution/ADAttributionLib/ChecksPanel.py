"""The section Checks: should this map be believed? One line per check; a click opens its curve. Needs no Qt of its own.

Reaches widgets through `ui` alone.
"""

from __future__ import annotations

from ADAttributionLib.Plots import addCurve
from ADAttributionLib.RegionRows import Cell
from ADAttributionLib.Runs import addToRun, removeNode, runNodes
from ADAttributionLib.Signals import connect
from ADAttributionLogic.checks.findings import KEY, MARKS, read_checks
from ADAttributionLogic.errors import ADAttributionError

ROLE = "check curve"
HEADS = ("", "Check", "Number", "Null", "What it says")
#: Beside the marks, whose shapes differ as well.
COLOURS = {"pass": "#1B7F3B", "unsure": "#9A6700", "fail": "#C22F2F", "not run": "#909090"}
_NONE = "The maps of this run were not checked (in step Explanation, tick Check the maps)."


class ChecksPanel:
    """Shows the checks of the shown map.

    Parameters
    ----------
    ui : namespace of widgets
    seam : QtSeam
    """

    def __init__(self, ui, seam):
        self.ui, self._seam = ui, seam
        self.display = None
        self._checks = ()
        connect(ui.mapChecksTable, "itemSelectionChanged()", self.onSelection)
        connect(ui.consensusButton, "clicked(bool)", lambda _checked=False: self.onRanks("consensus"))
        connect(ui.disagreementButton, "clicked(bool)", lambda _checked=False: self.onRanks("disagreement"))
        self.refresh()

    def setDisplay(self, display):
        """Take a run's display; None empties the section."""
        self.display = display
        self.refresh()

    def refresh(self):
        """Show the checks of the shown map."""
        ui, found, agreement, text = self.ui, None, None, ""
        if self.display is not None:
            try:
                checks = read_checks(self.display.run.provenance.get(KEY))
                found = None if checks is None else checks.of(self.display.mapName)
                agreement = None if checks is None else checks.agreement
                text = _NONE if found is None else found.summary
            except ADAttributionError as error:
                text = str(error)
        self._checks = () if found is None else found.checks
        ui.mapChecksLabel.text = text
        ui.mapChecksTable.visible = bool(self._checks)
        self._seam.fillTable(ui.mapChecksTable, list(HEADS), [_cells(check) for check in self._checks])
        self._showAgreement(agreement)

    def _showAgreement(self, agreement):
        """How far the maps of the run agree, and the buttons for what they say together."""
        ui, titles = self.ui, {} if self.display is None else self.display.run.titles
        heads, rows, text = agreementRows(agreement, titles)
        ui.agreementLabel.text = text
        ui.agreementTable.visible = bool(rows)
        self._seam.fillTable(ui.agreementTable, heads, rows)
        there = {} if self.display is None else self.display.run.rankNodes
        ui.consensusButton.visible, ui.disagreementButton.visible = "consensus" in there, "disagreement" in there

    def onRanks(self, role):
        """Show what all maps say together; choosing a map in the list shows that one again."""
        if self.display is not None and role in self.display.run.rankNodes:
            self.display.showRanks(role)

    def onSelection(self):
        """Open the curve of the chosen check, where it has one."""
        row = self.ui.mapChecksTable.currentRow()
        if self.display is None or not 0 <= row < len(self._checks) or self._checks[row].curve is None:
            return
        self._seam.showChart(curveChart(self.display.run, self._checks[row]))


def agreementRows(agreement, titles):
    """Heads, rows of cells and a sentence for how far a run's maps agree; nothing for None."""
    if agreement is None:
        return [""], [], ""
    names = [titles.get(name, name) for name in agreement.maps]
    over = "regions by density" if agreement.over == "regions" else "voxels"
    rows = [
        [Cell(name, name), *(Cell(_number(value), f"{name} and {other}: {_number(value)}") for value, other in pairs)]
        for name, pairs in zip(names, (list(zip(row, names, strict=True)) for row in agreement.matrix), strict=True)
    ]
    text = f"How far the maps agree (rank correlation over {over}; 1 is the same order)."
    if agreement.consensus_top:
        text += " Highest together: " + ", ".join(name.replace("_", " ") for name in agreement.consensus_top[:5]) + "."
    return ["", *names], rows, text


def curveChart(run, check):
    """The chart of a check's curve in the run's folder, in place of the one that was there."""
    for className in ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"):
        for node in runNodes(run, className, ROLE):
            removeNode(run.scene, node)
    chart, added = addCurve(run.scene, check.curve, f"{run.name} - {check.title}", check.title)
    for node in added:
        addToRun(run, node, ROLE)
    return chart


def _cells(check):
    colour = COLOURS[check.verdict]
    tip = f"{check.title}: {check.verdict}. {check.sentence}"
    if check.curve is not None:
        tip += " A click opens the curve."
    return [
        Cell(f"{MARKS[check.verdict]} {check.verdict}", tip, colour),
        Cell(check.title + (" ∿" if check.curve is not None else ""), tip),
        Cell(_number(check.number), check.number_is or tip),
        Cell(_number(check.null), check.null_is or tip),
        Cell(check.sentence, tip),
    ]


def _number(value):
    return "–" if value is None else f"{value:.3g}"
