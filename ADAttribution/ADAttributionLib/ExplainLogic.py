"""What the module's logic does, without Qt: explain a volume node or a folder in the worker, put the run in the scene.

Slicer calls ``poll()`` from a timer; scripts wait.
"""

from __future__ import annotations

import os

import slicer

from ADAttributionLib.AtlasNodes import atlasFromSegmentation
from ADAttributionLib.Overlays import forgetStatistics
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.Runs import createRun
from ADAttributionLib.SceneBuilder import addVolume
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.errors import ADAttributionError, UsageError

DEFAULT_MODEL = "simulated-atrophy"


class Request:
    """An explanation or a folder on its way.

    Attributes
    ----------
    job : Job
    run : Run or None
        When an explanation is done.
    result : dict or None
        When a folder is done: summary, rows, done, failed, kept.
    error : ADAttributionError or None
    """

    def __init__(self, logic, onProgress=None, onDone=None, onError=None):
        self._logic = logic
        self._onProgress, self._onDone, self._onError = onProgress, onDone, onError
        self.job = self.run = self.result = self.error = None

    @property
    def hasEnded(self):
        return self.job.hasEnded

    @property
    def isCancelled(self):
        return self.job.state == "cancelled"

    def cancel(self):
        """Stop it; the scene stays as it is."""
        self._logic.client.cancel(self.job)

    def progress(self, job):
        self.job = job
        if self._onProgress is not None:
            self._onProgress(self)

    def end(self, run=None, result=None, error=None):
        self.run, self.result, self.error = run, result, error
        callback = self._onDone if error is None else self._onError
        if callback is not None:
            callback(self)


class ExplainLogic:
    """Explains volume nodes of a scene.

    Parameters
    ----------
    scene : vtkMRMLScene
    client : WorkerClient, optional
    """

    def __init__(self, scene, client=None):
        self.scene = scene
        self.client = client or WorkerClient()
        self._requests = []
        self._closing = scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneCloses)

    @property
    def isBusy(self):
        return self.client.isBusy

    def explain(
        self,
        volumeNode,
        model=DEFAULT_MODEL,
        methods=("lrp",),
        atlas="aal",
        target="positive",
        start="probability",
        device="auto",
        wait=True,
        show=True,
        onProgress=None,
        onDone=None,
        onError=None,
    ):
        """Explain a network's decision on a scan in the scene.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
            Skull-stripped and registered to the network's space.
        model : str or path-like
            Name of a bundled package, or a package folder.
        methods : sequence
            Names, or pairs of name and dict of options.
        atlas : str, vtkMRMLSegmentationNode or None
            Name or label file, or regions that the user drew.
        target, start, device : str
            See ADAttributionLogic.explain.
        wait : bool
            True returns the Run; False returns a Request at once, and the callbacks get it.
        show : bool
            Show the first map over the scan.

        Raises
        ------
        ADAttributionError
            With the cause; nothing in the scene has changed.
        """
        request = Request(self, onProgress, onDone, onError)
        scan = volumeFromNode(volumeNode)
        drawn = atlas if hasattr(atlas, "GetSegmentation") else None
        # On the scan's grid, where it was drawn; the worker brings it onto the network's.
        asked = atlasFromSegmentation(drawn, scan.grid) if drawn else atlas and {"name": os.fspath(atlas)}
        scanId, drawnId = volumeNode.GetID(), drawn and drawn.GetID()

        def onEnd(job):
            self._finishExplanation(request, job, scanId, drawnId, show)

        request.job = self.client.explain(
            scan,
            model,
            [methodRequest(entry) for entry in methods],
            asked,
            request.progress,
            onEnd,
            target=target,
            start=start,
            device=device,
        )
        self._requests.append(request)
        return self._waitFor(request).run if wait else request

    def explainFolder(
        self,
        inputFolder,
        outputFolder,
        model=DEFAULT_MODEL,
        methods=("lrp",),
        atlas="aal",
        target="positive",
        start="probability",
        device="auto",
        wait=True,
        onProgress=None,
        onDone=None,
        onError=None,
    ):
        """Explain all scans of a folder, or of a CSV with a column ``scan``; see ADAttributionLogic.batch.

        Returns a dict with ``summary`` (path), ``rows``, ``done``, ``failed`` and ``kept``; or a Request.
        """
        request = Request(self, onProgress, onDone, onError)
        job = {
            "input": os.fspath(inputFolder),
            "output": os.fspath(outputFolder),
            "model": os.fspath(model),
            "methods": [dict(zip(("name", "options"), methodRequest(m), strict=True)) for m in methods],
            "atlas": atlas and {"name": os.fspath(atlas)},
            "target": target,
            "start": start,
            "device": device,
        }
        request.job = self.client.request(
            "batch", job, request.progress, lambda j: self._finish(request, j, result=j.result)
        )
        self._requests.append(request)
        return self._waitFor(request).result if wait else request

    def addSimulatedSubject(self, label="AD", seed=20261121, name=None):
        """Add a scan with known, simulated atrophy ("AD") or without ("CN"), made from the ICBM152 brain.

        It takes some seconds, and no network.

        Raises
        ------
        UsageError
            Another label.
        WorkerError
        """
        if label not in ("AD", "CN"):
            raise UsageError(f"A simulated subject is AD (a patient) or CN (a control), but not {label!r}.")
        volume = self.client.wait(self.client.request("simulate", {"label": label, "seed": seed}))
        node = addVolume(self.scene, volume, name or f"Simulated {'patient' if label == 'AD' else 'control'}")
        node.CreateDefaultDisplayNodes()
        return node

    def poll(self):
        """Take in what the worker says; calls the callbacks."""
        self.client.poll()

    def cancelAll(self):
        """Cancel everything that is running."""
        for request in self._requests:
            request.cancel()

    def close(self):
        """End the worker and let go of the scene."""
        self.client.close()
        self.scene.RemoveObserver(self._closing)

    def _waitFor(self, request):
        try:
            self.client.wait(request.job)
        except WorkerError as error:
            raise request.error or error  # noqa: B904 (the request's error is the same or a later one)
        if request.error is not None:
            raise request.error
        return request

    def _finishExplanation(self, request, job, scanId, drawnId, show):
        run = error = None
        if job.state == "done":
            try:
                run = self._addRun(job.result, scanId, drawnId, show)
            except (ADAttributionError, RuntimeError, ValueError, KeyError, MemoryError) as cause:
                error = (
                    cause
                    if isinstance(cause, ADAttributionError)
                    else ADAttributionError(f"The result could not be shown: {type(cause).__name__}: {cause}")
                )
        self._finish(request, job, run=run, error=error)

    def _addRun(self, answer, scanId, drawnId, show):
        scanNode = self.scene.GetNodeByID(scanId)
        if scanNode is None:
            raise UsageError("The scan was removed from the scene while it was explained; there is nothing to show.")
        run = createRun(self.scene, answer, scanNode, drawnId and self.scene.GetNodeByID(drawnId))
        if show:
            RunDisplay(run).show()
        return run

    def _finish(self, request, job, run=None, result=None, error=None):
        if request in self._requests:
            self._requests.remove(request)
        if job.state == "failed":
            error = job.error
        elif job.state == "cancelled":
            error = WorkerError("Cancelled; nothing was kept.", "Cancelled")
        request.job = job
        request.end(run, result, error)

    def _onSceneCloses(self, *_):
        """A closed scene takes its computations with it, the worker's process included."""
        forgetStatistics()
        self.client.close()


def methodRequest(entry):
    """(name, options) of a name, a pair or a dict with both.

    Raises
    ------
    UsageError
    """
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and "name" in entry:
        return entry["name"], dict(entry.get("options", {}))
    if isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], str):
        return entry[0], dict(entry[1])
    raise UsageError(f"{entry!r} is no method: give its name, or its name and a dict of options.")
