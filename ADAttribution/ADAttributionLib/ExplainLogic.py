"""What the module's logic does, without Qt: explain a volume node or a folder in the worker, put the run in the scene.

Slicer calls ``poll()`` from a timer; scripts wait.
"""

from __future__ import annotations

import os
from pathlib import Path

import slicer

from ADAttributionLib.AtlasNodes import atlasFromSegmentation
from ADAttributionLib.CohortCalls import DEFAULT_MODEL, CohortCalls
from ADAttributionLib.MethodOptions import methodRequest
from ADAttributionLib.Overlays import forgetStatistics
from ADAttributionLib.Preparation import Preparation
from ADAttributionLib.References import comparisonJob
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.RunMaking import createRun
from ADAttributionLib.Runs import removeNode
from ADAttributionLib.SceneBuilder import addScan, addVolume
from ADAttributionLib.VolumeNodes import nodeOfVolume, scanName, volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.errors import ADAttributionError, GeometryError, UsageError
from ADAttributionLogic.report.result_places import batch_rows, find_result


class Request:
    """An explanation, a preparation or a folder on its way.

    Attributes
    ----------
    job : Job
    run : Run or None
        When an explanation is done.
    result : dict or None
        When a folder is done: summary, rows, done, failed, kept.
    report : PreparationReport or None
        When a preparation is done, or an explanation of a prepared scan.
    error : ADAttributionError or None
    """

    def __init__(self, logic, onProgress=None, onDone=None, onError=None):
        self._logic = logic
        self._onProgress, self._onDone, self._onError = onProgress, onDone, onError
        self.job = self.run = self.result = self.report = self.error = None

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


class ExplainLogic(CohortCalls):
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
        self._prepared = set()
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
        start=None,
        device="auto",
        startReference=None,
        memberSd=False,
        reference=None,
        covariates=None,
        smoothing=None,
        checks=False,
        wait=True,
        show=True,
        onProgress=None,
        onDone=None,
        onError=None,
        **preparation,
    ):
        """Explain a network's decision on a scan in the scene.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
            A T1; without a `registration` (the default), skull-stripped and registered to the network's space.
        model : str or path-like
            Name of a bundled package, or a package folder.
        methods : sequence
            Names, or pairs of name and dict of options.
        atlas : str, vtkMRMLSegmentationNode or None
            Name or label file, or regions that the user drew.
        target, start, device : str
            See ADAttributionLogic.explain.
        startReference : float, optional
            What the start "distance" of a score measures from.
        memberSd : bool
            Of an ensemble, also a map of the standard deviation over its networks, per method.
        reference : str or path-like, optional
            Controls to compare with: the name of a reference that ships, or the folder of one.
        covariates : dict of str to str or float, optional
            Of this scan, to adjust z for, e.g. {"age": 71, "sex": "F"}.
        smoothing : float, optional
            Of the z map, full width at half maximum in mm; by default 6.
        checks : bool or float
            Also measure whether the maps can be believed, within the usual budget, or this many forward passes per map.
        wait : bool
            True returns the Run; False returns a Request at once, and the callbacks get it.
        show : bool
            Show the first map over the scan.
        **preparation
            registration ("none", the default, "rigid", "affine" or "deformable"), registered, brainMask, segmentId,
            biasCorrection, winsorising, brain, space ("native" or "model"), acceptQuality: see
            ADAttributionLib.Preparation.

        Raises
        ------
        ADAttributionError
            With the cause; nothing in the scene has changed. When the scan did not pass the quality checks, its
            ``quality`` holds them.
        """
        request = Request(self, onProgress, onDone, onError)
        scan = volumeFromNode(volumeNode)
        wanted = Preparation(**preparation)
        prepared = {"preparation": wanted.asked(), "brainMask": wanted.mask(scan.grid)} if wanted.isWanted else {}
        question = wanted.question(volumeNode, model)
        drawn = atlas if hasattr(atlas, "GetSegmentation") else None
        # On the scan's grid, where it was drawn; the worker brings it onto the network's.
        asked = atlasFromSegmentation(drawn, scan.grid) if drawn else atlas and {"name": os.fspath(atlas)}
        scanId, drawnId = volumeNode.GetID(), drawn and drawn.GetID()

        def onEnd(job):
            self._finishExplanation(request, job, scanId, drawnId, show, question)

        request.job = self.client.explain(
            scan,
            model,
            [methodRequest(entry) for entry in methods],
            asked,
            request.progress,
            onEnd,
            target=target,
            start=start,
            start_reference=startReference,
            member_sd=memberSd,
            checks=checks,
            device=device,
            **comparisonJob(reference, covariates, smoothing),
            **prepared,
        )
        self._requests.append(request)
        return self._waitFor(request).run if wait else request

    def prepare(
        self,
        volumeNode,
        model=DEFAULT_MODEL,
        registration="affine",
        wait=True,
        onProgress=None,
        onDone=None,
        onError=None,
        **preparation,
    ):
        """Register a scan, find its brain and check both, without explaining anything; the scene stays as it is.

        What was computed is kept, so that explain() with the same preparation starts from it.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
        model : str or path-like
            Whose space.
        registration : {"affine", "rigid", "deformable", "none"}
            "none" checks the scan as it lies.
        wait : bool
            True returns the PreparationReport (checks with their numbers, seconds, notes, figure as PNG); False returns
            a Request at once.
        **preparation
            registered, brainMask, segmentId, biasCorrection, winsorising, brain: see ADAttributionLib.Preparation.
        """
        useless = [name for name in ("space", "acceptQuality") if name in preparation]
        if useless:
            raise UsageError(f"{', '.join(useless)} would do nothing here: nothing is explained, only checked.")
        request = Request(self, onProgress, onDone, onError)
        scan = volumeFromNode(volumeNode)
        wanted = Preparation(registration, **preparation)
        question = wanted.question(volumeNode, model)

        def onEnd(job):
            if job.state == "done":
                request.report = job.result
                self._prepared.add(question)
            self._finish(request, job)

        mask = wanted.mask(scan.grid)
        request.job = self.client.prepare(scan, model, wanted.asked(), mask, request.progress, onEnd)
        self._requests.append(request)
        return self._waitFor(request).report if wait else request

    def registrationToDo(self, volumeNode, model, **preparation):
        """The registration that an explanation would have to wait for; "none" where it was done in this session."""
        wanted = Preparation(**preparation)
        try:
            isDone = wanted.question(volumeNode, model) in self._prepared
        except GeometryError:  # explain() says it
            isDone = False
        return "none" if isDone else wanted.registration

    def installNetwork(self, name, source=None, registry=None, wait=True, onProgress=None, onDone=None, onError=None):
        """Install a registered network into the user's folder of networks. Downloads it: ask the user before.

        Parameters
        ----------
        name : str
            As ``ad-attribution models`` lists it.
        source : path-like, optional
            A folder with the files of its authors; nothing is then downloaded.
        registry : path-like, optional
            Another registry than the one that ships.

        Returns a dict with ``folder``; or a Request, which can be cancelled: the next call goes on from there.
        """
        given = {"source": source, "registry": registry}
        job = {"name": name, **{key: os.fspath(path) for key, path in given.items() if path is not None}}
        return self._ask("install", job, wait, onProgress, onDone, onError)

    def knownAnswers(self, source, metric=None, **waiting):
        """A dict with ``answers``, those that a source of createPackage() gives itself; or a Request."""
        return self._ask("known", {"source": os.fspath(Path(source).absolute()), "metric": metric}, **waiting)

    def createPackage(self, source, answers, target=None, metric=None, **waiting):
        """Make a model package of a network of the user's.

        Parameters
        ----------
        source : path-like
            Weights of a network known by name, an exported program, a MAPS folder of ClinicaDL, or a MONAI bundle.
        answers : dict of str to str
            To ADAttributionLogic.authoring.questions.QUESTIONS, as far as the source does not say them.
        target : path-like, optional
            Folder of the package, which must not exist; by default, of its name in the user's folder of networks.
        metric : str, optional
            Of a MAPS folder with networks chosen by several.

        Returns a dict with ``folder``; or a Request (`waiting`: wait, onProgress, onDone, onError as for explain()).
        """
        paths = {"source": source} if target is None else {"source": source, "target": target}
        job = {key: os.fspath(Path(path).absolute()) for key, path in paths.items()}
        return self._ask("create", {**job, "answers": dict(answers), "metric": metric}, **waiting)

    def openResult(
        self,
        path,
        name=None,
        volumeNode=None,
        wait=True,
        show=True,
        onProgress=None,
        onDone=None,
        onError=None,
    ):
        """Load a result that the command line or a batch wrote, as if it had been computed here.

        Parameters
        ----------
        path : path-like
            The result's folder, a file in it, or a batch's folder or ``summary.csv``.
        name : str, optional
            Which scan of a batch; ``resultsIn(path)`` lists them. Not needed where only one is done.
        volumeNode : vtkMRMLScalarVolumeNode, optional
            The scan that was explained, where its file is no longer where the result says.
        wait, show, onProgress, onDone, onError
            As for explain().

        Returns
        -------
        Run, or with wait=False a Request.

        Raises
        ------
        ADAttributionError
            The path holds no result, the scan is gone or was changed, or a file is damaged. The scene is as before.
        """
        find_result(path, name)  # what is wrong with the path needs no worker to be said
        request = Request(self, onProgress, onDone, onError)
        scanId = None if volumeNode is None else volumeNode.GetID()

        def onEnd(job):
            self._finishOpening(request, job, scanId, show)

        given = None if volumeNode is None else volumeFromNode(volumeNode)
        request.job = self.client.open(Path(path).absolute(), name, given, request.progress, onEnd)
        self._requests.append(request)
        return self._waitFor(request).run if wait else request

    def exportReport(self, answer, path, keepIdentifiers=False, overwrite=False, **waiting):
        """Write an answer (see ADAttributionLib.RunAnswer) as one HTML file.

        With `keepIdentifiers`, the page names the scan and its path. Returns a dict with ``path``; or a Request
        (`waiting`: wait, onProgress, onDone, onError as for explain()).
        """
        job = {"path": os.fspath(Path(path).absolute()), "keep_identifiers": keepIdentifiers, "overwrite": overwrite}
        return self._ask("page", job, answer=answer, **waiting)

    def exportDicom(self, answer, files, folder, **waiting):
        """Write an answer as DICOM objects for the study of the scan's series, its `files`, into a new folder.

        Returns a dict with ``files`` and ``notes``; or a Request (as exportReport).
        """
        job = {"source": [os.fspath(file) for file in files], "path": os.fspath(Path(folder).absolute())}
        return self._ask("dicom", job, answer=answer, **waiting)

    def resultsIn(self, path):
        """Names of the scans of a batch, and how each ended ("done", or why not); empty for a single result."""
        return batch_rows(path)

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

    def _ask(self, command, job, wait=True, onProgress=None, onDone=None, onError=None, answer=None):
        """Ask the worker for what it answers with plain values, handing over an answer where there is one."""
        request = Request(self, onProgress, onDone, onError)

        def onEnd(ended):
            self._finish(request, ended, result=ended.result)

        request.job = self.client.request(command, job, request.progress, onEnd, answer)
        self._requests.append(request)
        return self._waitFor(request).result if wait else request

    def _waitFor(self, request):
        try:
            self.client.wait(request.job)
        except WorkerError as error:
            raise request.error or error  # noqa: B904 (the request's error is the same or a later one)
        if request.error is not None:
            raise request.error
        return request

    def _finishExplanation(self, request, job, scanId, drawnId, show, question):
        run = error = None
        if job.state == "done":
            if job.result.preparation is not None:
                request.report = job.result.preparation.report
                self._prepared.add(question)
            run, error = _shown(lambda: self._addRun(job.result, scanId, drawnId, show))
        self._finish(request, job, run=run, error=error)

    def _finishOpening(self, request, job, scanId, show):
        run = error = None
        if job.state == "done":
            answer, scan = job.result
            if answer.preparation is not None:
                request.report = answer.preparation.report
            run, error = _shown(lambda: self._addOpenedRun(answer, scan, scanId, show))
        self._finish(request, job, run=run, error=error)

    def _addOpenedRun(self, answer, scan, scanId, show):
        scanNode = self.scene.GetNodeByID(scanId) if scanId else nodeOfVolume(self.scene, scan)
        if scanId and scanNode is None:
            raise UsageError("The scan was removed from the scene while its result was read.")
        isNew = scanNode is None
        if isNew:
            scanNode = addScan(self.scene, scan, scanName(scan.source))
        try:
            run = createRun(self.scene, answer, scanNode)
        except BaseException:
            if isNew:
                removeNode(self.scene, scanNode)
            raise
        if show:
            display = RunDisplay(run)
            display.show()
            display.showLegend()
            display.showSurfaces()
        return run

    def _addRun(self, answer, scanId, drawnId, show):
        scanNode = self.scene.GetNodeByID(scanId)
        if scanNode is None:
            raise UsageError("The scan was removed from the scene while it was explained; there is nothing to show.")
        # Regions that were drawn on the scan are not where maps on the network's grid are: they get their own copy.
        moved = answer.preparation is not None and answer.preparation.space == "model"
        drawn = self.scene.GetNodeByID(drawnId) if drawnId and not moved else None
        run = createRun(self.scene, answer, scanNode, drawn)
        if show:
            display = RunDisplay(run)
            display.show()
            display.showLegend()
            display.showSurfaces()
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


def _shown(add):
    """The run that a function adds to the scene and no error, or no run and the error."""
    try:
        return add(), None
    except ADAttributionError as cause:
        return None, cause
    except (RuntimeError, ValueError, KeyError, MemoryError) as cause:
        return None, ADAttributionError(f"The result could not be shown: {type(cause).__name__}: {cause}")
