"""The section What if: cover a part of the scan, and see the answer move. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib.AtlasNodes import segmentNames
from ADAttributionLib.DraggedBox import DraggedBox, Pace, crosshairPlace
from ADAttributionLib.RegionRows import Cell
from ADAttributionLib.Runs import tableRows
from ADAttributionLib.Signals import connect
from ADAttributionLib.TrialTable import TITLES, addTrial, answersOfRows, trialRows, trialText
from ADAttributionLib.WhatIf import coverOf, shippedReference
from ADAttributionLogic.errors import ADAttributionError
from ADAttributionLogic.relevance.region_table import OUTSIDE_LABEL
from ADAttributionLogic.whatif.covers import Box, Cover

REGION, SEGMENT, BOX = "region", "segment", "box"
_KINDS = ((REGION, "Region of the atlas"), (SEGMENT, "Own segment"), (BOX, "Box"))
_PUTS = (
    ("blurred", "Blurred scan"),
    ("mirrored", "Mirrored other side"),
    ("zero", "Nothing (0)"),
    ("reference", "Mean of controls"),
)
_SETTING = "whatIfReference"


class WhatIfPanel:
    """Covers parts of the shown run's scan.

    Parameters
    ----------
    ui : namespace of widgets
    seam : QtSeam
    running : RequestPanel
        Runs what takes a moment, with progress and cancel.
    trials : callable
        The logic's WhatIf.
    modelOf : callable
        The path of a run's network, where its name alone does not find it; else None.
    regions : RegionsPanel
        A row chosen there is the region here.
    """

    def __init__(self, ui, seam, running, trials, modelOf, regions):
        self.ui, self._seam, self._running, self._trials = ui, seam, running, trials
        self._modelOf, self._regions = modelOf, regions
        self.display = None
        self._standing = []  # covers, the last one on top
        self._names = {}
        self._dragged = None
        self._pace = Pace(self._askDragged)
        for combo, choices in ((ui.whatIfKindComboBox, _KINDS), (ui.whatIfPutComboBox, _PUTS)):
            for name, text in choices:
                combo.addItem(text, name)
        connect(ui.whatIfKindComboBox, "currentIndexChanged(int)", self.onKind)
        connect(ui.whatIfPutComboBox, "activated(int)", self.onPut)
        connect(ui.whatIfSegmentationSelector, "currentNodeChanged(vtkMRMLNode*)", self.onSegmentation)
        connect(ui.whatIfFollowCheckBox, "toggled(bool)", self.onFollow)
        connect(ui.whatIfCoverButton, "clicked(bool)", self.onCover)
        connect(ui.whatIfUndoButton, "clicked(bool)", self.onUndo)
        connect(ui.whatIfResetButton, "clicked(bool)", self.onReset)
        connect(ui.regionTable, "itemSelectionChanged()", self.onRegionRow)
        self.setDisplay(None)

    @property
    def run(self):
        return None if self.display is None else self.display.run

    def setDisplay(self, display):
        """Take a run's display; nothing of it is covered yet, and what was tried before is listed."""
        isSame = self.run is not None and display is not None and display.run.identifier == self.run.identifier
        self.display = display
        ui = self.ui
        ui.whatIfCollapsibleButton.enabled = display is not None
        if isSame:
            return
        self._standing = []
        ui.whatIfFollowCheckBox.checked = False
        self._endDragging()
        ui.whatIfAnswerLabel.text = ""
        self._fillRegions()
        self.onKind(0)
        self._show()

    # What to cover.

    def _fillRegions(self):
        combo, tables = self.ui.whatIfRegionComboBox, {} if self.run is None else self.run.tableNodes
        combo.clear()
        node = next(iter(tables.values()), None)
        rows = [] if node is None else tableRows(node.GetTable())
        self._names = {row["label"]: row["name"] for row in rows if row["label"] != OUTSIDE_LABEL}
        for label, name in sorted(self._names.items(), key=lambda entry: entry[1]):
            combo.addItem(name, label)

    def onKind(self, _index):
        """Show what belongs to the chosen kind of part."""
        ui, kind = self.ui, self.ui.whatIfKindComboBox.currentData
        ui.whatIfRegionComboBox.visible = kind == REGION
        ui.whatIfSegmentationSelector.visible = ui.whatIfSegmentComboBox.visible = kind == SEGMENT
        ui.whatIfSizeSpinBox.visible = ui.whatIfFollowCheckBox.visible = kind == BOX
        if kind != BOX:
            ui.whatIfFollowCheckBox.checked = False
        self._show()

    def onPut(self, _index):
        """The mean of controls is that of the reference cohort that ships for this network, or of a chosen one."""
        combo = self.ui.whatIfPutComboBox
        if combo.currentData != "reference" or (self.run is not None and shippedReference(self.run)):
            return
        folder = self._seam.chooseFolder("Folder of a reference cohort of this network")
        if folder:
            self._seam.setSetting(_SETTING, folder)
        elif not self._reference():
            combo.setCurrentIndex(0)

    def _reference(self):
        """The reference cohort that ships for this network, or was chosen; None before."""
        shipped = None if self.run is None else shippedReference(self.run)
        return shipped or self._seam.setting(_SETTING) or None

    def onSegmentation(self, node):
        combo = self.ui.whatIfSegmentComboBox
        combo.clear()
        for segmentId, name in ({} if node is None else segmentNames(node)).items():
            combo.addItem(name, segmentId)
        self._show()

    def onRegionRow(self):
        """The row that is chosen in the region table is the region to cover."""
        combo = self.ui.whatIfRegionComboBox
        index = combo.findData(self._regions.chosenLabel)
        if index >= 0:
            combo.setCurrentIndex(index)

    def _chosen(self):
        """The cover that is chosen."""
        ui, put = self.ui, self.ui.whatIfPutComboBox.currentData
        kind = ui.whatIfKindComboBox.currentData
        if kind == REGION:
            return coverOf(self.run, {"regions": [self._names[ui.whatIfRegionComboBox.currentData]], "put": put})
        if kind == SEGMENT:
            given = {"segmentation": ui.whatIfSegmentationSelector.currentNode(), "put": put}
            return coverOf(self.run, {**given, "segment": ui.whatIfSegmentComboBox.currentData})
        return Cover(self._box(), put)

    def _box(self):
        dragged = None if self._dragged is None else self._dragged.box
        size = float(self.ui.whatIfSizeSpinBox.value)
        return dragged or Box(tuple(crosshairPlace(self.run.scene)), (size, size, size))

    def _problem(self):
        """What has to be chosen first; "" when something can be covered."""
        ui, kind = self.ui, self.ui.whatIfKindComboBox.currentData
        if self.run is None:
            return "Explain a scan first."
        if kind == REGION and ui.whatIfRegionComboBox.count == 0:
            return "This run has no atlas: cover a box or a segment."
        if kind == SEGMENT and ui.whatIfSegmentComboBox.count == 0:
            return "Choose a segmentation with a segment; draw one in Segment Editor."
        return ""

    # Asking.

    def onCover(self, _checked=False):
        """Cover the chosen part as well, and ask."""
        if self._problem():
            return
        try:
            wanted = [*self._standing, self._chosen()]
        except ADAttributionError as error:
            self._running.showFailure(error)
            return
        self._ask(wanted, True)

    def onUndo(self, _checked=False):
        """Take the last part off again."""
        if self._standing:
            self._ask(self._standing[:-1], False)

    def onReset(self, _checked=False):
        """Nothing is covered any more."""
        self._standing = []
        self.ui.whatIfAnswerLabel.text = ""
        self._show()

    def _ask(self, covers, isNew):
        run = self.run

        def ask(**callbacks):
            return self._trials().ask(run, covers, **self._source(run, covers), **callbacks)

        def done(request):
            if self.run is not None and self.run.identifier == run.identifier:
                self._take(covers, request.result, isNew)
            return "Done."

        self._running.start(ask, done, self._show)

    def _source(self, run, covers):
        """The network, and the reference cohort where its mean is put in."""
        isNeeded = any(cover.put == "reference" for cover in covers)
        return {"model": self._modelOf(run), "reference": self._reference() if isNeeded else None}

    def _take(self, covers, trial, isNew):
        """Show an answer; the parts stay covered for the next one."""
        self._standing = list(covers)
        if isNew:
            addTrial(self.run, trial)
        self._showAnswer(trial)
        self._show()

    def _showAnswer(self, trial):
        self.ui.whatIfAnswerLabel.text = trialText(trial, self.run.targetClass)

    # A box that follows the mouse.

    def onFollow(self, wanted):
        """Show a box that can be dragged, or take it away."""
        if not wanted or self.run is None:
            self._endDragging()
            self._show()
            return
        self._pace.forget()
        self._dragged = DraggedBox(self.run.scene, self.onMoved, self.onLetGo)
        self._dragged.show(crosshairPlace(self.run.scene), float(self.ui.whatIfSizeSpinBox.value))
        self._pace.want(self._dragged.box)
        self._show()

    def _endDragging(self):
        if self._dragged is not None:
            self._dragged.hide()
        self._dragged = None
        self._pace.forget()

    def onMoved(self):
        """While it is dragged: ask, if answers come fast enough."""
        if self._pace.isFast and self._running.request is None:
            self._pace.want(self._dragged.box)

    def onLetGo(self):
        if self._running.request is None:
            self._pace.want(self._dragged.box)

    def _askDragged(self, box, onEnd):
        run, put = self.run, self.ui.whatIfPutComboBox.currentData
        if run is None:  # the scene was closed meanwhile
            onEnd()
            return

        def ended(request):
            onEnd()
            if self._dragged is None or self.run is None or self.run.identifier != run.identifier:
                return
            if request.error is None:
                self._showAnswer(request.result)
            self._show(str(request.error or ""))

        try:
            covers = [*self._standing, Cover(box, put)]
            self._trials().ask(run, covers, **self._source(run, covers), wait=False, onDone=ended, onError=ended)
        except ADAttributionError as error:
            onEnd()
            self._show(str(error))

    # Showing.

    def _show(self, problem=""):
        ui, run = self.ui, self.run
        problem = str(problem) or self._problem()
        ui.whatIfCoverButton.enabled = not self._problem()
        ui.whatIfCoverButton.toolTip = self._problem() or "Covers this part as well, and asks the network again"
        ui.whatIfUndoButton.enabled = ui.whatIfResetButton.enabled = bool(self._standing)
        covered = "; ".join(cover.title for cover in self._standing)
        pace = self._pace.text if self._dragged is not None and self._dragged.node is not None else ""
        lines = [problem, pace, f"Covered now: {covered}" if covered else ""]
        ui.whatIfStatusLabel.text = "\n".join(line for line in lines if line)
        rows = [
            [Cell(text, answers) for text in row]
            for row, answers in zip(trialRows(run), answersOfRows(run), strict=True)
        ]
        ui.whatIfTable.visible = bool(rows)
        self._seam.fillTable(ui.whatIfTable, list(TITLES), rows)
