"""What if a part of the scan were not there: trials on a run, asked of the worker, which stays warm. Needs no Qt."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass

from ADAttributionLib.AtlasNodes import atlasFromSegmentation, maskFromSegment
from ADAttributionLib.ExplainLogic import Request
from ADAttributionLib.RunMaps import transformOfRun
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLib.WorkerClient import WorkerError
from ADAttributionLogic.atlas.library import available_atlases
from ADAttributionLogic.errors import ADAttributionError, UsageError
from ADAttributionLogic.outcome import read_outcome
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.service.answer import save_atlas, save_volume
from ADAttributionLogic.whatif.covers import Box, Cover, Drawn, Regions, read_cover

_NO_SESSION = "NoSessionError"


@dataclass(frozen=True)
class Trial:
    """What covering did.

    Attributes
    ----------
    covers : tuple of str
        What was covered, and with what.
    before, after : Outcome
        What the networks say of the whole scan, and of the covered one.
    volumeMm3 : float
    seconds : float
        That the worker took.
    inFull : int
        How many networks had to be run in full.
    notes : tuple of str
    """

    covers: tuple
    before: object
    after: object
    volumeMm3: float
    seconds: float
    inFull: int
    notes: tuple


def coverOf(run, given):
    """A cover as trials take it.

    Parameters
    ----------
    run : Run
        Where its maps lie, boxes and segments are.
    given : Cover or dict
        ``put`` ("blurred" unless said, "zero", "mirrored", "reference") and one of ``regions`` (a name or label of its
        atlas, or several), ``box`` (``centre``, RAS mm, and ``size``, mm), ``segmentation`` (a node, with ``segment``,
        a name or id).

    Raises
    ------
    UsageError, AtlasError
    """
    if isinstance(given, Cover):
        return given
    if "segmentation" not in given:
        return read_cover(given, lambda _entry: None)
    rest = {key: value for key, value in given.items() if key not in ("segmentation", "segment")}
    mask = maskFromSegment(given["segmentation"], given.get("segment"), volumeFromNode(run.backgroundNode).grid)
    return read_cover({"title": mask.source, **rest, "mask": {}}, lambda _entry: mask)


def shippedReference(run):
    """Folder of the reference cohort that ships for a run's network; None where there is none."""
    weights = run.provenance["model"].get("weights_sha256")
    for path in sorted((resources_folder() / "References").glob("*/reference.json")):
        built = json.loads(path.read_text(encoding="utf-8"))["question"]["model"]["weights_sha256"]
        if weights and built == weights:
            return path.parent
    return None


class WhatIf:
    """Trials on the runs of a scene.

    Parameters
    ----------
    explainer : ExplainLogic
        Whose worker is asked.
    """

    def __init__(self, explainer):
        self._explainer = explainer
        self._session = None  # what the worker keeps warm: (process, run, (network, reference), number)

    @property
    def isBusy(self):
        return self._explainer.isBusy

    def ask(self, run, covers, model=None, reference=None, wait=True, onProgress=None, onDone=None, onError=None):
        """Cover parts of a run's scan, all of them together, and ask its network again.

        Parameters
        ----------
        run : Run
        covers : dict, Cover, or sequence of them
            See :func:`coverOf`; where two overlap, the later one is seen. Nothing stays covered for the next call.
        model : str or path-like, optional
            The run's network, where its name alone does not find it.
        reference : str or path-like, optional
            Name or folder of a reference cohort, whose mean scan ``"put": "reference"`` puts in.
        wait : bool
            True returns the Trial; False returns a Request at once, whose `result` it becomes.

        Raises
        ------
        ADAttributionError
        """
        given = [covers] if isinstance(covers, (dict, Cover)) else list(covers)
        read = [coverOf(run, cover) for cover in given]
        request = Request(self._explainer, onProgress, onDone, onError)
        asked = (str(model or run.provenance["model"]["name"]), None if reference is None else str(reference))
        self._start(request, run, read, asked)
        return self._waitFor(request) if wait else request

    def release(self):
        """Let the worker free the memory that it holds for trials."""
        if self._isOpen(self._session):
            self._explainer.client.request("what-if", {"session": self._session[3], "release": True})
        self._session = None

    def _isOpen(self, session):
        return session is not None and session[0] is not None and session[0] == self._explainer.client.pid

    def _start(self, request, run, covers, asked, isSecond=False):
        """Try; first begin with trials on the run where others, or none, are under way."""
        if self._isOpen(self._session) and self._session[1:3] == (run.identifier, asked):
            number = self._session[3]
            job = lambda folder, prefix: {"session": number, "covers": _entries(covers, folder, prefix)}  # noqa: E731
            onEnd = lambda ended: self._onTried(request, ended, run, covers, asked, isSecond)  # noqa: E731
        else:
            job = lambda folder, prefix: {"open": _question(run, asked, folder, prefix)}  # noqa: E731
            onEnd = lambda ended: self._onOpened(request, ended, run, covers, asked)  # noqa: E731
        request.job = self._explainer.client.whatIf(job, request.progress, onEnd)

    def _onOpened(self, request, job, run, covers, asked):
        if job.state != "done":
            self._fail(request, job)
            return
        self._session = (self._explainer.client.pid, run.identifier, asked, job.result["session"])
        with self._failing(request):
            self._start(request, run, covers, asked, isSecond=True)

    def _onTried(self, request, job, run, covers, asked, isSecond):
        if job.state == "failed" and job.error.kind == _NO_SESSION and not isSecond:
            self._session = None  # something else was computed in the meantime
            with self._failing(request):
                self._start(request, run, covers, asked)
            return
        if job.state != "done":
            self._fail(request, job)
            return
        request.job = job
        request.end(result=_trialOf(job.result))

    @contextlib.contextmanager
    def _failing(self, request):
        try:
            yield
        except ADAttributionError as error:
            request.end(error=error)

    def _fail(self, request, job):
        request.job = job
        cancelled = WorkerError("Cancelled; nothing has changed.", "Cancelled")
        request.end(error=cancelled if job.state == "cancelled" else job.error)

    def _waitFor(self, request):
        while request.result is None and request.error is None:
            self._explainer.poll()
            time.sleep(0.002)
        if request.error is not None:
            raise request.error
        return request.result


def _question(run, asked, folder, prefix):
    """What trials on a run begin with: the scan as its network saw it, on the network's grid."""
    model, reference = asked
    scan = run.gridScanNode or run.scanNode
    if scan is None:
        raise UsageError(
            f"The scan of {run.name} is no longer in the scene; there is nothing to cover. Explain it again."
        )
    transform = transformOfRun(run)
    return {
        "scan": save_volume(volumeFromNode(scan), folder, f"{prefix}-scan"),
        "model": model,
        "reference": reference,
        "weights_sha256": run.provenance["model"].get("weights_sha256"),
        "transform": None if transform is None else transform.store(folder, f"{prefix}-transform"),
        **_atlasEntry(run, folder, prefix),
    }


def _atlasEntry(run, folder, prefix):
    """The run's atlas: by its name where the worker has it, else as it is in the scene."""
    record, node = run.provenance.get("atlas"), run.atlasNode
    if record and record["name"] in {entry.name for entry in available_atlases()}:
        return {"atlas": {"name": record["name"]}}
    if node is None:
        return {"atlas": None}
    drawn = atlasFromSegmentation(node, volumeFromNode(run.backgroundNode).grid)
    return {"atlas": save_atlas(drawn, folder, f"{prefix}-atlas"), "atlas_is_drawn": True}


def _entries(covers, folder, prefix):
    """Covers as plain values, with masks in files."""
    return [_entry(cover, folder, f"{prefix}-mask-{number}") for number, cover in enumerate(covers)]


def _entry(cover, folder, name):
    what = cover.what
    if isinstance(what, Regions):
        return {"regions": list(what.names), "put": cover.put}
    if isinstance(what, Box):
        return {"box": {"centre": list(what.centre), "size": list(what.size)}, "put": cover.put}
    assert isinstance(what, Drawn)
    return {"mask": save_volume(what.mask, folder, name), "title": what.title, "put": cover.put}


def _trialOf(document):
    before, after = (read_outcome(document[key]) for key in ("before", "after"))
    return Trial(
        tuple(document["covers"]),
        before,
        after,
        document["volume_mm3"],
        document["seconds"],
        document["in_full"],
        tuple(document["notes"]),
    )
