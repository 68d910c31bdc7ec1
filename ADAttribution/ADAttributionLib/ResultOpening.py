"""Opens a result of the command line from the panel: which file, which scan of a batch, and where its scan is.

Needs no Qt of its own.
"""

from __future__ import annotations

import slicer

from ADAttributionLib.StudyNodes import openStudy, studyFolder
from ADAttributionLogic.errors import ADAttributionError

#: What the dialog shows of a result's folder: any file in it would do.
RESULT_FILES = "Result, batch, study or reference (provenance.json summary.csv study.json reference.json)"


class ResultOpening:
    """Asks what has to be asked, then opens.

    Parameters
    ----------
    running : RequestPanel
    seam : module or object
        chooseFile, chooseOne and confirm: see QtSeam.
    logic : object
        openResult() and resultsIn(): see ExplainLogic.
    chosenScan : callable
        The volume node that is chosen in the panel; None for none.
    onOpened : callable
        Called with the Run; returns nothing.
    """

    def __init__(self, running, seam, logic, chosenScan, onOpened):
        self._running, self._seam, self._logic = running, seam, logic
        self._chosenScan, self._onOpened = chosenScan, onOpened

    def ask(self, _checked=False):
        """Let the user choose, and open it; nothing happens where he cancels."""
        path = self._seam.chooseFile("Open a result of the command line", RESULT_FILES)
        if not path:
            return
        if studyFolder(path) is not None:
            with self._seam.reportingErrors("It cannot be opened."):
                study = openStudy(slicer.mrmlScene, path)
                self._running.say(f"{len(study.mapNodes)} maps and {len(study.tableNodes)} tables are in the scene.")
            return
        try:
            results = self._logic.resultsIn(path)
        except ADAttributionError as error:
            self._running.showFailure(error)
            return
        name = None
        if results:
            name = self._ofBatch(results)
            if name is None:
                return
        self._open(path, name)

    def _ofBatch(self, results):
        done = [name for name, state in results.items() if state == "done"]
        if not done:
            first = next(iter(results.values()))
            self._running.showFailure(ADAttributionError(f"No scan of this batch has a result: {first}"))
            return None
        others = len(results) - len(done)
        title = f"Which scan? ({others} without a result)" if others else "Which scan?"
        return done[0] if len(done) == 1 else self._seam.chooseOne(title, done)

    def _open(self, path, name, scan=None):
        def failed(error):
            if scan is None and getattr(error, "kind", "") == "ScanError":
                self._offerChosenScan(path, name, error)

        self._running.start(
            lambda **callbacks: self._logic.openResult(path, name=name, volumeNode=scan, **callbacks),
            self._done,
            failed,
        )

    def _done(self, request):
        self._onOpened(request.run)
        return f"Opened {request.run.name}."

    def _offerChosenScan(self, path, name, error):
        """The scan's file was moved or changed: the chosen one may be it, but only the user knows."""
        scan = self._chosenScan()
        if scan is not None and self._seam.confirm(
            f"{error}\n\nIs {scan.GetName()}, which is chosen in the panel, the scan that was explained?"
        ):
            self._open(path, name, scan)
