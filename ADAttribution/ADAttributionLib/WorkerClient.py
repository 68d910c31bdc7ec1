"""Talks to the persistent worker process (ADAttributionLogic.service.worker). Needs no Qt.

``poll()`` does all the work and never waits: Slicer calls it from a timer, scripts call ``wait()``. Whatever happens to
the worker ends as a message with its cause on the job that was running, and the next job starts a new worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import ADAttributionLogic
from ADAttributionLib.QualityText import failureText, inPanelWords
from ADAttributionLib.WorkerProcess import WorkerProcess
from ADAttributionLogic.errors import ADAttributionError
from ADAttributionLogic.owned_folders import OwnedFolder, remove_temporary_leftovers
from ADAttributionLogic.preparation import read_quality
from ADAttributionLogic.service.answer import (
    load_answer,
    load_report,
    load_volume,
    own_file,
    save_answer,
    save_atlas,
    save_volume,
)

#: The version of the protocol that this client speaks (PROTOCOL in ADAttributionLogic.service.worker, not imported: it
#: is the other side that must say which one it speaks).
PROTOCOL = 1

#: Variables that make a Python of its own take Slicer's libraries for its own.
_FOREIGN = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH")

_LOG_BYTES = 200_000


class WorkerError(ADAttributionError):
    """A job failed. ``kind`` names the cause, ``details`` is the log.

    ``quality`` is the QualityReport when a scan's checks did not pass (kind QualityError), else None.
    """

    def __init__(self, message, kind="WorkerError", details="", quality=None):
        super().__init__(message)
        self.kind = kind
        self.details = details
        self.quality = quality


class Job:
    """A request on its way.

    Attributes
    ----------
    state : str
        ``waiting``, ``running``, ``done``, ``cancelled`` or ``failed``.
    fraction, text
        Progress.
    result : object
        When done: the Answer of an explanation, the PreparationReport of a preparation, else a dict.
    error : WorkerError or None
        When failed.
    """

    def __init__(self, number, command, onProgress=None, onEnd=None):
        self.number = number
        self.command = command
        self.state = "waiting"
        self.fraction, self.text = 0.0, "starting"
        self.result = None
        self.error = None
        self.sentAt = time.monotonic()
        self.cancelledAt = None
        self._onProgress = onProgress
        self._onEnd = onEnd

    @property
    def hasEnded(self):
        return self.state in ("done", "cancelled", "failed")

    def secondsLeft(self):
        """Remaining time, judged by the progress so far; None while there is too little of it."""
        passed = time.monotonic() - self.sentAt
        if self.fraction < 0.05 or passed < 1:
            return None
        return passed * (1 - self.fraction) / self.fraction

    def progress(self, fraction, text):
        self.state, self.fraction, self.text = "running", fraction, text
        if self._onProgress is not None:
            self._onProgress(self)

    def end(self, state, result=None, error=None):
        self.state, self.result, self.error = state, result, error
        if self._onEnd is not None:
            self._onEnd(self)


def workerEnvironment(interpreter, base=None):
    """Environment variables for the worker.

    A Python of its own gets none of Slicer's; PythonSlicer needs them. Both find ADAttributionLogic.
    """
    environment = dict(os.environ if base is None else base)
    root = os.fspath(Path(ADAttributionLogic.__file__).resolve().parents[1])
    if "PythonSlicer" in Path(interpreter).name:
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = root if not inherited else root + os.pathsep + inherited
    else:
        for name in _FOREIGN:
            environment.pop(name, None)
        environment["PYTHONPATH"] = root
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment


class WorkerClient:
    """Starts the worker when it is first needed and keeps it warm.

    Parameters
    ----------
    interpreter : str, optional
        The Python that has torch; by default the running one.
    startProcess : callable, optional
        (arguments, environment) → an object like WorkerProcess.
    graceSeconds : float
        How long a cancelled job may take to stop before the worker is killed.
    silenceSeconds : float
        How long the worker may give no sign of life before it counts as dead.
    arguments : sequence of str
        More arguments of the worker.
    """

    def __init__(
        self, interpreter=None, startProcess=WorkerProcess, graceSeconds=3.0, silenceSeconds=60.0, arguments=()
    ):
        self.interpreter = interpreter or sys.executable
        self.graceSeconds = graceSeconds
        self.silenceSeconds = silenceSeconds
        self.about = {}
        self._startProcess = startProcess
        self._arguments = tuple(arguments)
        self._process = None
        self._owned = None
        self._folder = None
        self._jobs = {}
        self._lastNumber = 0
        self._unread = b""
        self._log = b""
        self._heardAt = 0.0
        self._memoryMb = None

    # ------------------------------------------------------------------------------------------------------ requests

    def explain(self, scan, model, methods, atlas=None, onProgress=None, onEnd=None, brainMask=None, **options):
        """Ask for an explanation.

        Parameters
        ----------
        scan : Volume
        model : str
            Name or path.
        methods : sequence of (str, dict)
            Names and options.
        atlas : Atlas, dict or None
            An atlas, or the name, names_file and grouping of one that the worker loads.
        onProgress, onEnd : callable, optional
            Called by poll() with the Job.
        brainMask : Volume, optional
            For the preparation.
        options
            target, start, device, replace_non_finite, preparation (see ADAttributionLogic.preparation).
        """

        def arrays(prefix):
            drawn = hasattr(atlas, "labels")
            return {
                "scan": save_volume(scan, self._folder, f"{prefix}-scan"),
                "atlas": save_atlas(atlas, self._folder, f"{prefix}-atlas") if drawn else atlas,
                **self._preparationEntry(options.get("preparation"), brainMask, prefix),
            }

        named = [{"name": name, "options": dict(given)} for name, given in methods]
        return self._requestWith(
            arrays, "explain", {**options, "model": os.fspath(model), "methods": named}, onProgress, onEnd
        )

    def prepare(self, scan, model, preparation, brainMask=None, onProgress=None, onEnd=None):
        """Ask for the preparation of a scan alone; an explanation with the same preparation then finds it done.

        Parameters
        ----------
        scan : Volume
        model : str
        preparation : dict
            See ADAttributionLogic.preparation.
        brainMask : Volume, optional
        """

        def arrays(prefix):
            return {
                "scan": save_volume(scan, self._folder, f"{prefix}-scan"),
                **self._preparationEntry(preparation, brainMask, prefix),
            }

        return self._requestWith(arrays, "prepare", {"model": os.fspath(model)}, onProgress, onEnd)

    def open(self, path, name=None, scan=None, onProgress=None, onEnd=None):
        """Ask for a result that was written earlier; the Job's result is the Answer and the scan as acquired.

        Parameters
        ----------
        path, name : str
            See ADAttributionLogic.report.result_places.
        scan : Volume, optional
            Where it is not any more what the result names.
        """

        def arrays(prefix):
            return {"scan": None if scan is None else save_volume(scan, self._folder, f"{prefix}-scan")}

        return self._requestWith(arrays, "open", {"path": os.fspath(path), "name": name}, onProgress, onEnd)

    def whatIf(self, makeJob, onProgress=None, onEnd=None):
        """Ask for a trial, or to begin with trials: see ADAttributionLogic.service.what_if.

        Parameters
        ----------
        makeJob : callable
            (folder for arrays, prefix of their names) → the job.
        """
        return self._requestWith(lambda prefix: makeJob(self._folder, prefix), "what-if", {}, onProgress, onEnd)

    def _answerEntry(self, answer, prefix):
        return {"answer": save_answer(answer, self._folder, prefix)}

    def _preparationEntry(self, preparation, mask, prefix):
        if preparation is None:
            return {}
        if mask is None:
            return {"preparation": preparation}
        return {"preparation": {**preparation, "mask": save_volume(mask, self._folder, f"{prefix}-mask")}}

    def _requestWith(self, arrays, command, job, onProgress, onEnd):
        """Send a request whose arrays are written first, under the number that it will get."""
        self._requireProcess()
        prefix = f"request-{self._lastNumber + 1}"
        try:
            job = {**job, **arrays(prefix)}
        except OSError as cause:
            self._removeFiles(prefix)
            raise WorkerError(f"The scan cannot be handed to the worker: {cause}", "OutputError") from cause
        return self.request(command, job, onProgress, onEnd)

    def request(self, command, job=None, onProgress=None, onEnd=None, answer=None):
        """Send a request, with an Answer if one is to be written somewhere, and return its Job at once."""
        if answer is not None:
            return self._requestWith(lambda prefix: self._answerEntry(answer, prefix), command, job, onProgress, onEnd)
        self._requireProcess()
        self._lastNumber += 1
        entry = Job(self._lastNumber, command, onProgress, onEnd)
        self._jobs[entry.number] = entry
        self._send({"id": entry.number, "command": command, "job": job or {}})
        return entry

    def cancel(self, job):
        """Ask a job to stop; after the grace period the worker is killed."""
        if not job.hasEnded and job.cancelledAt is None:
            job.cancelledAt = time.monotonic()
            self._send({"id": job.number, "command": "cancel"})

    def wait(self, job, timeout=None, pause=0.005):
        """Poll until a job has ended; return its result, or raise its error.

        Raises
        ------
        WorkerError
            It failed, was cancelled, or did not end in time (it is then cancelled).
        """
        started = time.monotonic()
        while not job.hasEnded:
            self.poll()
            if timeout is not None and time.monotonic() - started > timeout and job.cancelledAt is None:
                self.cancel(job)
            time.sleep(pause)
        if job.state == "failed":
            raise job.error
        if job.state == "cancelled":
            raise WorkerError("Cancelled; nothing was kept.", "Cancelled")
        return job.result

    # ------------------------------------------------------------------------------------------------------- polling

    @property
    def isBusy(self):
        """Whether a job has not ended."""
        return bool(self._jobs)

    @property
    def isRunning(self):
        """Whether there is a worker process."""
        return self._process is not None

    @property
    def pid(self):
        return None if self._process is None else self._process.pid

    @property
    def log(self):
        """The end of what the worker printed."""
        return self._log.decode("utf-8", "replace")

    def poll(self):
        """Take in what the worker has said since the last time, and see whether it lives. Never waits."""
        if self._process is None:
            return
        exitCode = self._process.exitCode()  # first: what it said before its end is read below
        self._log = (self._log + self._process.readErrors())[-_LOG_BYTES:]
        for event in self._newEvents():
            self._heardAt = time.monotonic()
            self._take(event)
        if self._process is None:  # closed by a callback
            return
        if exitCode is not None:
            self._end(self._causeOfDeath(exitCode))
            return
        self._killIfOverdue()

    def close(self):
        """End the worker with its children, remove its folder, and cancel what was running."""
        self._release()
        for job in self._takeJobs():
            job.end("cancelled")

    # ------------------------------------------------------------------------------------------------------ internals

    def _requireProcess(self):
        if self._process is not None and self._process.exitCode() is not None:
            self.poll()  # it died in the meantime: tell those who waited
        if self._process is not None:
            return
        remove_temporary_leftovers()
        self._owned = OwnedFolder.temporary("exchange")
        self._folder = self._owned.path
        self._unread, self._log, self.about = b"", b"", {}
        arguments = [self.interpreter, "-m", "ADAttributionLogic.service.worker", "--folder", os.fspath(self._folder)]
        try:
            self._process = self._startProcess([*arguments, *self._arguments], workerEnvironment(self.interpreter))
        except OSError as cause:
            self._owned.close()
            self._folder = None
            raise WorkerError(
                f"The worker cannot be started with the Python {self.interpreter}: {cause}. Choose another one in the "
                "module's settings.",
                "StartError",
            ) from cause
        self._heardAt = time.monotonic()

    def _send(self, request):
        with contextlib.suppress(OSError):  # it is gone; the next poll finds out why
            self._process.write(json.dumps(request, ensure_ascii=False).encode() + b"\n")

    def _newEvents(self):
        self._unread += self._process.read()
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                self._log = (self._log + line + b"\n")[-_LOG_BYTES:]
                continue
            if isinstance(event, dict):
                yield event

    def _take(self, event):
        kind = event.get("event")
        if kind == "hello" and event.get("protocol") != PROTOCOL:
            self._end(
                WorkerError(
                    f"The worker of {self.interpreter} speaks protocol {event.get('protocol')} (version "
                    f"{event.get('version')}), this module {PROTOCOL}. Install the same ADAttribution there.",
                    "ProtocolError",
                )
            )
        elif kind in ("hello", "ready"):
            self.about.update({k: v for k, v in event.items() if k != "event"})
        elif kind == "heartbeat":
            self._memoryMb = event.get("memory_mb")
        elif kind == "unusable":
            self._end(WorkerError(event["message"], "MissingPackages", self.log))
        elif event.get("id") in self._jobs:
            self._takeForJob(self._jobs[event["id"]], event)

    def _takeForJob(self, job, event):
        kind = event["event"]
        if kind == "started":
            job.progress(0.0, "computing")
        elif kind == "progress":
            job.progress(event["fraction"], event["text"])
        elif kind == "cancelled":
            self._finish(job, "cancelled")
        elif kind == "error":
            self._finish(job, "failed", error=self._errorOf(event))
        elif kind == "result":
            try:
                result = event["result"]
                if job.command == "explain":
                    result = load_answer(result, self._folder)
                elif job.command == "open":
                    answer, own = load_answer(result["answer"], self._folder), result["scan"]
                    result = answer, answer.scan if own is None else load_volume(own, self._folder)
                elif job.command == "chart":
                    result = own_file(self._folder, result["picture"]).read_bytes()
                elif job.command == "prepare":
                    result = load_report(result, self._folder)
                elif job.command == "simulate":
                    result = load_volume(result, self._folder)
            except (ADAttributionError, KeyError, TypeError, ValueError, MemoryError) as cause:
                error = WorkerError(f"The worker's result cannot be read: {cause!r}", type(cause).__name__, self.log)
                self._finish(job, "failed", error=error)
            else:
                self._finish(job, "done", result)

    def _errorOf(self, event):
        quality = event.get("quality") and read_quality(event["quality"])
        message = failureText(quality) if quality else inPanelWords(event["message"])
        return WorkerError(message, event["kind"], event.get("details") or self.log, quality)

    def _finish(self, job, state, result=None, error=None):
        del self._jobs[job.number]
        for prefix in (f"request-{job.number}", f"job-{job.number}"):
            self._removeFiles(prefix)
        job.end(state, result, error)

    def _removeFiles(self, prefix):
        if self._folder is not None:
            for path in self._folder.glob(f"{prefix}-*"):
                path.unlink(missing_ok=True)

    def _killIfOverdue(self):
        now = time.monotonic()
        overdue = [j for j in self._jobs.values() if j.cancelledAt and now - j.cancelledAt > self.graceSeconds]
        if overdue:
            self._end(WorkerError("The worker was ended because another job had to be stopped.", "Killed", self.log))
        elif self._jobs and now - self._heardAt > self.silenceSeconds:
            self._end(
                WorkerError(
                    f"The worker (process {self._process.pid}) has given no sign of life for {self.silenceSeconds:g} s "
                    "and was ended. The computer may be out of memory; close other programs and run again.",
                    "Silent",
                    self.log,
                )
            )

    def _end(self, error):
        """Get rid of the worker and tell all jobs why; the next request starts a new one."""
        self._release()
        for job in self._takeJobs():
            if job.cancelledAt is not None:
                job.end("cancelled")
            else:
                job.end("failed", error=error)

    def _takeJobs(self):
        jobs, self._jobs = list(self._jobs.values()), {}
        return jobs

    def _release(self):
        process, self._process = self._process, None
        if process is not None:
            process.closeInput()
            if not self._jobs:  # nothing to lose: let it end by itself
                process.waitForEnd(0.2)
            self._log = (self._log + process.readErrors())[-_LOG_BYTES:]
            process.kill()
        if self._folder is not None:
            self._owned.close()
            self._folder = None

    def _causeOfDeath(self, exitCode):
        lastWords = [line for line in self.log.splitlines() if line.strip()][-1:]
        said = f" Its last words: {lastWords[0].strip()}" if lastWords else ""
        if exitCode == -getattr(signal, "SIGKILL", 9):
            memory = f" It held {self._memoryMb:.0f} MB when last heard of." if self._memoryMb else ""
            message = (
                "The worker was killed from outside (signal 9); most often the system does so when memory runs out."
                f"{memory} Close other programs, or choose fewer methods at a time."
            )
            return WorkerError(message, "Killed", self.log)
        if exitCode in (129, 143):  # it has tidied up before
            name = signal.Signals(exitCode - 128).name
            return WorkerError(f"The worker was told from outside to end ({name}).", "Ended", self.log)
        if exitCode < 0:
            try:
                name = signal.Signals(-exitCode).name
            except ValueError:
                name = f"signal {-exitCode}"
            return WorkerError(f"The worker crashed ({name}).{said}", "Crashed", self.log)
        return WorkerError(f"The worker ended unexpectedly with exit code {exitCode}.{said}", "Ended", self.log)
