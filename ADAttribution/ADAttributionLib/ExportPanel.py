"""The section Export: what is handed over of the shown run. Reaches widgets through `ui` alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ADAttributionLib import Dependencies
from ADAttributionLib.DicomSource import filesOf
from ADAttributionLib.RunAnswer import answerOf
from ADAttributionLib.SetupPanel import chosenPython
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
        chooseNewFile, chooseFolder, confirm, setting, pipInstall, dicomDatabase, importDicom, captureViews and
        openScreenCapture: see QtSeam.
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
        connect(ui.exportDicomButton, "clicked(bool)", self.onDicom)
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

    def onDicom(self, _checked=False):
        """Objects for the study that the scan was loaded from; the worker writes them."""
        if self.display is None:
            return
        run = self.display.run
        with self._seam.reportingErrors("The DICOM objects cannot be written."):
            files = filesOf(run.scanNode, self._seam.dicomDatabase())
            if not self._hasPackage():
                return
            chosen = self._seam.chooseFolder("A folder for the DICOM objects")
            if not chosen:
                return
            folder = _freeFolder(Path(chosen))

            def ask(**waiting):
                return self._explainer().exportDicom(answerOf(run), files, folder, **waiting)

            self._running.start(ask, lambda request: self._onDicomWritten(request, folder))

    def _onDicomWritten(self, request, folder):
        count, notes = len(request.result["files"]), " ".join(request.result["notes"])
        text = f"{count} DICOM objects, with the patient's name as in the series: {folder}. {notes}"
        if self.ui.dicomDatabaseCheckBox.checked:
            with self._seam.reportingErrors("The DICOM objects were written, but not added to Slicer's database."):
                self._seam.importDicom(folder)
                text += " Added to Slicer's DICOM database."
        return self._say(text.strip())

    def _hasPackage(self):
        """Whether the worker has highdicom; of Slicer's own Python (before 5.12) it can be installed."""
        if chosenPython(self._seam.setting("interpreter")) or Dependencies.isInstalled(Dependencies.DICOM_PACKAGE):
            return True
        question = (
            "DICOM objects need the Python package highdicom, which this Slicer does not have. Install it now? numpy, "
            "SimpleITK and torch stay as they are."
        )
        if not self._seam.confirm(question):
            return False
        with tempfile.TemporaryDirectory() as folder:
            Dependencies.installDicom(self._seam.pipInstall, folder)
        return True

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


def _freeFolder(parent):
    """A folder that does not exist, named after nobody."""
    number, folder = 1, parent / "ADAttribution-DICOM"
    while folder.exists():
        number += 1
        folder = parent / f"ADAttribution-DICOM-{number}"
    return folder
