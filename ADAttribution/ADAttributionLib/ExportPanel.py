"""The section Export: what is handed over of the shown run. Reaches widgets through `ui` alone."""

from __future__ import annotations

from pathlib import Path

from ADAttributionLib.RunAnswer import answerOf
from ADAttributionLib.Signals import connect
from ADAttributionLib.ViewPictures import shownSliceNodes, sweepRange
from ADAttributionLib.VolumeNodes import volumeFromNode

#: The coronal view of Slicer's usual layouts.
_SWEPT = "Green"


class ExportPanel:
    """Writes reports and pictures of the shown run.

    Parameters
    ----------
    ui : namespace of widgets
    seam : module or object
        chooseNewFile, chooseFolder, captureViews and openScreenCapture: see QtSeam.
    running : RequestPanel
    explainer : callable
        The ExplainLogic whose worker writes; made when it is first needed.
    """

    def __init__(self, ui, seam, running, explainer):
        self.ui = ui
        self.display = None
        self._seam, self._running, self._explainer = seam, running, explainer
        connect(ui.exportReportButton, "clicked(bool)", self.onReport)
        connect(ui.exportPicturesButton, "clicked(bool)", self.onPictures)
        connect(ui.screenCaptureButton, "clicked(bool)", self.onScreenCapture)

    def setDisplay(self, display):
        """Take a run's display; None empties the section."""
        self.display = display
        self.ui.exportCollapsibleButton.enabled = display is not None

    def onReport(self, _checked=False):
        """One HTML file, made by the worker: its Python has what the page needs."""
        if self.display is None:
            return
        path = self._seam.chooseNewFile("Export a report", "Report (*.html)")
        if not path:
            return
        path = path if path.lower().endswith((".html", ".htm")) else f"{path}.html"
        keep = bool(self.ui.keepIdentifiersCheckBox.checked)

        def ask(**waiting):  # the dialog has asked whether a file may be replaced
            return self._explainer().exportReport(answerOf(self.display.run), path, keep, True, **waiting)

        self._running.start(ask, lambda _request: self._say(f"Written: {path}"))

    def onPictures(self, _checked=False):
        """Every view that is shown, as it is."""
        if self.display is None:
            return
        folder = self._seam.chooseFolder("A folder for the pictures")
        if not folder:
            return
        with self._seam.reportingErrors("The pictures were not written."):
            written = self._seam.captureViews(self.display.scene, Path(folder))
            self._say(f"{len(written)} pictures in {folder}: {', '.join(path.name for path in written)}")

    def onScreenCapture(self, _checked=False):
        """Slicer's own module makes the film; here it is prepared."""
        display = self.display
        nodes = [] if display is None else shownSliceNodes(display.scene)
        if not nodes:
            return
        with self._seam.reportingErrors("Screen Capture could not be opened."):
            view = next((node for node in nodes if node.GetName() == _SWEPT), nodes[0])
            start, end = sweepRange(view, volumeFromNode(display.mapNode), display.threshold)
            self._seam.openScreenCapture(view, start, end)
            self._say(f"Screen Capture sweeps {view.GetName()} from {start:.0f} to {end:.0f} mm; press Capture there.")

    def _say(self, text):
        self.ui.exportLabel.text = text
        return text
