"""The preparation in the step Scan: how the scan gets to the network's grid. Reaches widgets through `ui` alone."""

from __future__ import annotations

import enum
import html

import numpy as np

from ADAttributionLib.AtlasNodes import segmentNames
from ADAttributionLib.FoldedText import FoldedText
from ADAttributionLib.QualityText import reportLines
from ADAttributionLib.QuestionPanel import durationText
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLogic.errors import ADAttributionError, UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preparation import PREPARATION_SECONDS, registration_advice

#: Number of the step with the preparation, in the panel's tabs.
SCAN_STEP = 0

_GOOD, _BAD = "#2e8b57", "#d03020"
LEAST_COVERAGE, USUAL_COVERAGE = 0.25, 0.90


class Registration(enum.Enum):
    """Saved by name: never rename."""

    NONE = "none"
    AFFINE = "affine"
    DEFORMABLE = "deformable"
    RIGID = "rigid"

    def label(self):
        return {
            "none": "already registered",
            "affine": "affine (preview, half a minute)",
            "deformable": "deformable (full, minutes, needs ANTs)",
            "rigid": "rigid (half a minute)",
        }[self.value]


class ResultSpace(enum.Enum):
    """Saved by name: never rename."""

    NATIVE = "native"
    MODEL = "model"

    def label(self):
        return {"native": "on the scan as acquired", "model": "on the network's grid"}[self.value]


_EXPLAINED = {
    Registration.NONE: "The scan must be skull-stripped and in the network's space already. Whether the brain is "
    "aligned is measured by Check; look at the overlay as well.",
    Registration.AFFINE: "The scan is turned, scaled and sheared onto the template brain. Single gyri do not match.",
    Registration.DEFORMABLE: "After the affine registration the brain's shape is warped onto the template's by ANTs "
    "SyNQuick (pip install antspyx in the Python that computes).",
    Registration.RIGID: "The scan is turned and shifted onto the template brain, its size stays.",
}
_MEASURED = "A scan that is in the network's space already is recognised by measuring, and left where it is."


def preparationOf(parameters):
    """What the panel asks of the preparation, as ADAttributionLogic.explain() takes it.

    Raises
    ------
    UsageError
        It must be said which segment is the brain.
    """
    if parameters.registration is Registration.NONE:
        return {}
    return {
        **checkOf(parameters),
        "space": parameters.resultSpace.value,
        "acceptQuality": parameters.acceptQuality,
    }


def checkOf(parameters):
    """The same for prepare(), which explains nothing."""
    return {
        "registration": parameters.registration.value,
        "biasCorrection": parameters.biasCorrection,
        "brainMask": parameters.brainMask,
        "segmentId": segmentOf(parameters),
    }


def segmentOf(parameters):
    """Id of the segment that is the brain; None without a mask.

    Raises
    ------
    UsageError
        There are several, and none of them was chosen, or there is none.
    """
    if parameters.brainMask is None:
        return None
    names = segmentNames(parameters.brainMask)
    if parameters.brainSegment in names:
        return parameters.brainSegment
    if len(names) == 1:
        return next(iter(names))
    raise UsageError(
        f"The brain mask {parameters.brainMask.GetName()} has {len(names)} segments; choose the one that is the brain."
    )


def planText(parameters, card, isDone=False):
    """What will happen to the scan, in a line.

    Parameters
    ----------
    parameters : parameter node
    card : dict or None
        Of the network.
    isDone : bool
        Whether this very preparation was done in this session.
    """
    kind = parameters.registration
    if parameters.inputVolume is None or card is None:
        return "Choose a scan and a network."
    if kind is Registration.NONE:
        return coverageText(parameters.inputVolume, card)
    if isDone:
        return f"Is prepared ({kind.value}): explaining it starts at once."
    seconds = durationText(PREPARATION_SECONDS[kind.value])
    return f"Will be registered ({kind.value}), about {seconds}, unless it is in place already."


def coverageText(scanNode, card):
    """The measured check of a scan against a network's grid, in a line."""
    try:
        scan = volumeFromNode(scanNode)
    except ADAttributionError as error:
        return str(error)
    affine = card.get("grid", {}).get("affine")
    if affine is None:
        return "This network knows no space; the scan must have exactly its number of voxels."
    grid = Grid(tuple(card["grid"]["shape"]), np.array(affine, dtype=float))
    covered = grid.covered_by(scan.grid)
    verdict = "good" if covered >= USUAL_COVERAGE else "poor" if covered >= LEAST_COVERAGE else "refused"
    return (
        f"Taken as it lies; it covers {covered:.0%} of the network's grid: {verdict} (usual {USUAL_COVERAGE:.0%}, "
        f"needed {LEAST_COVERAGE:.0%})."
    )


class PreparationPanel:
    """Fills and reads the section.

    Parameters
    ----------
    ui : namespace of widgets
    pictures : module or object
        showPicture and showLarge: see QtSeam.
    """

    def __init__(self, ui, pictures):
        self.ui = ui
        self._pictures = pictures
        self._report = FoldedText(ui.reportLabel)
        self._figure = None
        self._question = None
        self.clear()

    def show(self, parameters, card, isDone=False):
        """Show what the chosen preparation does, and forget a report that belongs to another question."""
        ui, registers = self.ui, parameters.registration is not Registration.NONE
        advice = "" if card is None else registration_advice(card.get("training", {}), parameters.registration.value)
        plan = html.escape(planText(parameters, card, isDone))
        ui.preparationLabel.text = f"{plan}<br><b>Note:</b> {html.escape(advice)}" if advice else plan
        ui.qualityLabel.text = " ".join(filter(None, (_EXPLAINED[parameters.registration], registers and _MEASURED)))
        ui.spaceComboBox.enabled = registers
        self._showSegments(parameters)
        question, before = self._questionOf(parameters, card), self._question
        if question != before:
            self._question = question
            self.clear()
            # What was accepted was one scan's failure, not that of all scans to come.
            if before is not None and before[0] != question[0] and parameters.acceptQuality:
                parameters.acceptQuality = False
        ui.acceptCheckBox.visible = registers and (parameters.acceptQuality or self._hasFailed)

    def problem(self, parameters, card):
        """Why the scan cannot be prepared; "" when it can."""
        if parameters.registration is Registration.NONE:
            return ""
        if card is not None and card.get("grid", {}).get("affine") is None:
            return "This network knows no space to register to: choose Preparation: already registered."
        try:
            segmentOf(parameters)
        except UsageError as error:
            return str(error)
        return ""

    def chosenSegment(self):
        """Id of the segment that the user chose; "" for none."""
        return self.ui.brainSegmentComboBox.currentData or ""

    def clear(self):
        """Show no report."""
        self._showText("")
        self._showFigure(None)

    def onEnlarge(self, _checked=False):
        """Show the figure in a window of its own."""
        if self._figure is not None:
            self._pictures.showLarge(self._figure, "Quality of the preparation")

    def showReport(self, report):
        """Show what a preparation found; None (nothing was prepared) leaves things as they are."""
        if report is None:
            return
        first, *lines = map(html.escape, reportLines(report))
        passed = report.quality.passed
        first = f"<b style='color:{_GOOD}'>✓ {first}</b>" if passed else f"<b style='color:{_BAD}'>✗ {first}</b>"
        failures = [line for line in lines if line.startswith("✗")]
        self._showText("<br>".join([first, *failures]), "<br>".join([first, *lines]), hasFailed=not passed)
        self._showFigure(report.figure)

    def showFailure(self, error):
        """Show the checks that stopped an explanation; other errors are none of this section's."""
        if getattr(error, "quality", None) is not None:
            text = html.escape(str(error)).replace("\n", "<br>")
            self._showText(f"<span style='color:{_BAD}'>{text}</span>", hasFailed=True)
            self.ui.stepTabWidget.setCurrentIndex(SCAN_STEP)

    def _showText(self, brief, full="", hasFailed=False):
        self._hasFailed = hasFailed
        self._report.show(brief, full)
        if hasFailed:
            self.ui.acceptCheckBox.visible = True

    def _showFigure(self, figure):
        self._figure = figure
        self._pictures.showPicture(self.ui.figureLabel, figure)
        self.ui.enlargeButton.visible = figure is not None

    def _showSegments(self, parameters):
        combo, mask = self.ui.brainSegmentComboBox, parameters.brainMask
        names = {} if mask is None else segmentNames(mask)
        combo.clear()
        if len(names) > 1:
            combo.addItem("choose the brain", "")
        for segmentId, name in names.items():
            combo.addItem(name, segmentId)
        combo.setCurrentIndex(max(combo.findData(parameters.brainSegment), 0) if names else -1)
        combo.enabled = bool(names)

    @staticmethod
    def _questionOf(parameters, card):
        nodes = [node and node.GetID() for node in (parameters.inputVolume, parameters.brainMask)]
        choices = (parameters.registration, parameters.biasCorrection, parameters.brainSegment)
        return (*nodes, *choices, card and card.get("name"))
