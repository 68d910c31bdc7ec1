"""The persistent process that computes for 3D Slicer: ``python -m ADAttributionLogic.worker --folder DIR``.

One JSON object per line. Requests come in on stdin, events go out on stdout; whatever anything else prints lands on
stderr. Arrays travel as ``.npy`` files in the folder, which belongs to this connection alone and is removed with it.

Requests: ``{"id": 1, "command": "explain", "job": {…}}``, ``prepare``, ``batch``, ``simulate``, ``estimate``,
``describe`` and ``cancel``.
Events: ``hello`` (protocol, version, pid), ``ready`` (torch, devices) or ``unusable``, ``heartbeat`` (memory), and per
request ``started``, ``progress``, then one of ``result``, ``cancelled`` or ``error`` (that of a scan whose quality
checks failed holds them as ``quality``).

The process ends when stdin closes, when its parent dies, or when a GPU has failed (its memory is then lost, and only
a new process can use it again).
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ADAttributionLogic import __version__
from ADAttributionLogic.errors import ADAttributionError, Cancelled, UnknownNameError, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.atlas.atlas import Atlas
    from ADAttributionLogic.explain import MethodRequest
    from ADAttributionLogic.monitor import Monitor
    from ADAttributionLogic.networks.packages import Model
    from ADAttributionLogic.preparation import Preparation
    from ADAttributionLogic.preprocessing.pipeline import Preprocessed
    from ADAttributionLogic.volume import Volume

#: Raised whenever an old client could misunderstand a new worker, or the other way round.
PROTOCOL = 1

#: Exit codes of this process.
UNUSABLE, DEVICE_LOST = 4, 70

#: At least this long between two progress events, so that a fast method does not flood its reader.
_PROGRESS_SECONDS = 0.05


def main(arguments: list[str] | None = None) -> int:
    """Run the worker until its input ends, and return an exit code."""
    parser = argparse.ArgumentParser(description="Computes for the ADAttribution module of 3D Slicer.")
    parser.add_argument("--folder", required=True, help="private folder for arrays; removed at the end")
    parser.add_argument("--heartbeat", type=float, default=1.0, help="seconds between signs of life")
    parser.add_argument("--threads", type=int, help="CPU threads to compute with (default: all)")
    options = parser.parse_args(arguments)
    faulthandler.enable(sys.stderr)
    worker = Worker(Path(options.folder), _take_stdout(), sys.stdin.buffer, options.heartbeat, options.threads)
    return worker.run()


def _take_stdout() -> IO[bytes]:
    """Keep stdout for the protocol, and send what anyone prints, in Python or C, to stderr."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return channel


class Worker:
    """Reads requests, computes one at a time, and reports.

    Parameters
    ----------
    folder : Path
        Where arrays are exchanged.
    output, requests : binary file
    heartbeat : float
        Seconds between signs of life.
    threads : int, optional
        Of the CPU.
    """

    def __init__(
        self, folder: Path, output: IO[bytes], requests: IO[bytes], heartbeat: float, threads: int | None
    ) -> None:
        self._folder = folder
        self._output = output
        self._requests = requests
        self._heartbeat = heartbeat
        self._threads = threads
        self._parent = os.getppid()
        self._writing = threading.Lock()
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        self._cancelled: set[Any] = set()
        self._store = Store()

    def run(self) -> int:
        """Serve until the input ends."""
        self._send(event="hello", protocol=PROTOCOL, version=__version__, pid=os.getpid())
        for target in (self._read_requests, self._show_life):
            threading.Thread(target=target, daemon=True).start()
        try:
            self._send(event="ready", **_prepare_torch(self._threads))
        except ImportError as cause:
            self._send(event="unusable", message=_what_is_missing(cause))
            self._leave(UNUSABLE)
        while True:
            self._serve(self._waiting.get())

    def _send(self, **event: Any) -> None:
        # NaN is no JSON: a value that is one is a defect that must not reach the reader half.
        line = json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            with self._writing:
                self._output.write(line)
                self._output.flush()
        except OSError:
            self._leave(0)  # nobody reads any more

    def _leave(self, code: int) -> None:
        """End at once, also from another thread than the computing one."""
        shutil.rmtree(self._folder, ignore_errors=True)
        sys.stderr.flush()
        os._exit(code)

    # Threads beside the computation.

    def _read_requests(self) -> None:
        for line in self._requests:
            try:
                request = json.loads(line)
                command = request["command"]
            except (ValueError, KeyError, TypeError):
                self._send(event="error", id=None, kind="protocol", message=f"Not a request: {line[:200]!r}")
                continue
            if command == "cancel":
                self._cancelled.add(request.get("id"))
            else:
                self._waiting.put(request)
        self._leave(0)

    def _show_life(self) -> None:
        while True:
            time.sleep(self._heartbeat)
            if os.getppid() != self._parent:  # it died, and something else keeps our input open
                self._leave(0)
            self._send(event="heartbeat", memory_mb=_memory_mb())

    # The computation.

    def _serve(self, request: dict[str, Any]) -> None:
        number = request.get("id")
        self._send(event="started", id=number)
        try:
            document = self._answer(request)
        except Cancelled:
            self._send(event="cancelled", id=number)
        except ADAttributionError as error:
            kind, quality = type(error).__name__, _quality_of(error)
            self._send(event="error", id=number, kind=kind, message=str(error), details="", **quality)
        except BaseException as error:
            self._report_failure(number, error)
        else:
            self._send(event="result", id=number, result=document)
        self._cancelled.discard(number)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        commands: dict[str, Callable[[Any, Monitor], dict[str, Any]]] = {
            "explain": lambda job, monitor: _explain(job, self._folder, self._store, monitor, f"job-{request['id']}"),
            "prepare": lambda job, monitor: _prepare(job, self._folder, self._store, monitor, f"job-{request['id']}"),
            "estimate": lambda job, monitor: _estimate(job, self._store),
            "batch": lambda job, monitor: _batch(job, self._folder, self._store, monitor),
            "simulate": lambda job, monitor: _simulate(job, self._folder, f"job-{request['id']}"),
            "describe": lambda job, monitor: _describe(),
        }
        if request["command"] not in commands:
            raise UsageError(f"The worker knows {', '.join(commands)} and cancel, but not {request['command']!r}.")
        return commands[request["command"]](request.get("job", {}), self._monitor(request.get("id")))

    def _monitor(self, number: Any) -> Monitor:
        from ADAttributionLogic.monitor import Monitor

        last_time, last_text = 0.0, ""

        def report(fraction: float, text: str) -> None:
            nonlocal last_time, last_text
            now = time.monotonic()
            if text != last_text or now - last_time >= _PROGRESS_SECONDS:
                last_time, last_text = now, text
                self._send(event="progress", id=number, fraction=round(fraction, 4), text=text)

        return Monitor(report, lambda: number in self._cancelled)

    def _report_failure(self, number: Any, error: BaseException) -> None:
        kind, message = _explain_failure(error)
        self._store.forget()
        self._send(event="error", id=number, kind=kind, message=message, details=traceback.format_exc())
        if kind == "DeviceLost":
            self._leave(DEVICE_LOST)


class Store:
    """Keeps the last model, and what was measured of it, between requests."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: Model | None = None
        self._pass_seconds: dict[str, float] = {}

    def model(self, name: str) -> Model:
        """The model of this name or path, loaded again only when its files have changed."""
        from ADAttributionLogic.networks.loading import load_model

        key = (name, *_stamps(name))
        if self._model is None or key != self._key:
            self.forget()
            self._model, self._key = load_model(name), key
        return self._model

    def seconds_per_pass(self, name: str, device: str) -> float:
        """Seconds of one forward pass of a model, measured once."""
        from ADAttributionLogic.device import choose_device
        from ADAttributionLogic.estimate import seconds_per_pass

        model, place = self.model(name), choose_device(device)
        if str(place) not in self._pass_seconds:
            self._pass_seconds[str(place)] = seconds_per_pass(model, place)
        return self._pass_seconds[str(place)]

    def forget(self) -> None:
        """Free the memory."""
        self._model, self._key, self._pass_seconds = None, None, {}


def _stamps(name: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a model's files, by which a change is seen without reading them."""
    from ADAttributionLogic.resources import resources_folder

    path = Path(name)
    if not path.exists():
        path = resources_folder() / "Models" / name
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file())


def _explain(job: Mapping[str, Any], folder: Path, store: Store, monitor: Monitor, prefix: str) -> dict[str, Any]:
    from ADAttributionLogic.answer import answer_of, load_volume, save_answer
    from ADAttributionLogic.explain import explain
    from ADAttributionLogic.explain_native import explain_native
    from ADAttributionLogic.preparation import wanted_preparation

    given, mask = _preparation_entry(job, folder)
    asked = wanted_preparation(given, job.get("replace_non_finite"))
    if asked is None and mask is not None:
        raise UsageError("A brain mask was given, but no registration that could use it: choose affine, for example.")
    scan = load_volume(_required(job, "scan"), folder)
    monitor.report(0.0, "loading the network")
    model = store.model(_required(job, "model"))
    common: dict[str, Any] = {
        "atlas": _atlas(job.get("atlas"), folder),
        "target": job.get("target", "positive"),
        "start": job.get("start", "probability"),
        "device": job.get("device", "auto"),
    }
    if asked is None:
        with monitor.stage(0.02, 0.98) as part:
            common["replace_non_finite"] = job.get("replace_non_finite")
            found = explain(scan, model, _requests(job), **common, monitor=part)
        monitor.report(0.98, "handing over the result")
        return save_answer(answer_of(found), folder, prefix)
    with monitor.stage(0.02, 0.95) as part:
        found = explain_native(
            scan,
            model,
            _requests(job),
            asked.options,
            space=asked.space,
            accept_quality=asked.accept_quality,
            mask=mask,
            # Regions that the user drew lie on the scan; those that the worker loads lie in the network's space.
            atlas_space="native" if "labels" in (job.get("atlas") or {}) else "model",
            monitor=part,
            **common,
        )
    monitor.report(0.95, "drawing the quality figure")
    assert found.preprocessed is not None
    figure = _quality_figure(found.preprocessed)
    monitor.report(0.98, "handing over the result")
    return save_answer(answer_of(found, *figure), folder, prefix)


def _prepare(job: Mapping[str, Any], folder: Path, store: Store, monitor: Monitor, prefix: str) -> dict[str, Any]:
    from ADAttributionLogic.answer import load_volume, save_report
    from ADAttributionLogic.explain_native import preprocess_for
    from ADAttributionLogic.preparation import read_preparation, report_of

    _refuse_strangers(job, ("scan", "model", "preparation", "replace_non_finite"))
    given, mask = _preparation_entry(job, folder)
    asked: Preparation = read_preparation(given or {}, job.get("replace_non_finite"))
    scan = load_volume(_required(job, "scan"), folder)
    monitor.report(0.0, "loading the network")
    model = store.model(_required(job, "model"))
    with monitor.stage(0.02, 0.9) as part:
        prepared, from_cache = preprocess_for(scan, model, asked.options, mask=mask, monitor=part)
    monitor.report(0.9, "drawing the quality figure")
    return save_report(
        report_of(prepared, from_cache).with_figure(*_quality_figure(prepared)), folder, f"{prefix}-quality"
    )


def _preparation_entry(job: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any] | None, Volume | None]:
    """What is asked of the preparation without its mask, and the mask."""
    from ADAttributionLogic.answer import load_volume

    if job.get("preparation") is None:
        return None, None
    if not isinstance(job["preparation"], dict):
        raise UsageError(f"A preparation is an object with keys such as registration, not {job['preparation']!r}.")
    given = dict(job["preparation"])
    mask = given.pop("mask", None)
    return given, None if mask is None else load_volume(mask, folder)


def _quality_figure(prepared: Preprocessed) -> tuple[bytes | None, str]:
    """The figure as PNG, or why there is none: this Python may lack matplotlib, and the numbers are there without."""
    from ADAttributionLogic.atlas.library import load_template
    from ADAttributionLogic.errors import OutputError
    from ADAttributionLogic.preprocessing.registration_target import RegistrationTarget
    from ADAttributionLogic.report.quality_figure import write_quality_figure

    with tempfile.TemporaryDirectory(prefix="ad-attribution-figure-") as name:
        try:
            path = write_quality_figure(Path(name) / "quality.png", prepared, RegistrationTarget(load_template()))
        except OutputError as cause:
            return None, str(cause)
        return path.read_bytes(), ""


def _quality_of(error: ADAttributionError) -> dict[str, Any]:
    """The numbers of quality checks that did not pass."""
    report = getattr(error, "report", None)
    return {} if report is None else {"quality": report.describe()}


def _refuse_strangers(job: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in job:
        if key not in known:
            raise UnknownNameError("key of this request", key, known)


def _estimate(job: Mapping[str, Any], store: Store) -> dict[str, Any]:
    from ADAttributionLogic.device import choose_device, describe_device
    from ADAttributionLogic.estimate import estimate

    name, device = _required(job, "model"), job.get("device", "auto")
    pass_seconds = store.seconds_per_pass(name, device)
    registration = job.get("registration", "none")
    found = estimate(_requests(job), store.model(name), pass_seconds, int(job.get("regions", 0)), registration)
    return {**found, "device": describe_device(choose_device(device)), "pass_seconds": round(pass_seconds, 4)}


def _batch(job: Mapping[str, Any], folder: Path, store: Store, monitor: Monitor) -> dict[str, Any]:
    from ADAttributionLogic.batch import BatchOptions, explain_batch, find_scans
    from ADAttributionLogic.preparation import wanted_preparation

    given, mask = _preparation_entry(job, folder)
    if mask is not None:
        raise UsageError("One brain mask does not fit many scans: leave it out, and the brain is searched for.")
    options = BatchOptions(
        _requests(job),
        job.get("target", "positive"),
        job.get("start", "probability"),
        job.get("device", "auto"),
        job.get("replace_non_finite"),
        bool(job.get("figure", False)),
        wanted_preparation(given, job.get("replace_non_finite")),
    )
    scans = find_scans(_required(job, "input"))
    model = store.model(_required(job, "model"))
    atlas = _atlas(job.get("atlas"), folder)
    result = explain_batch(scans, model, options, _required(job, "output"), atlas=atlas, monitor=monitor)
    counts = {"done": result.done, "failed": result.failed, "kept": result.kept}
    return {"summary": str(result.summary), "rows": result.rows, **counts}


def _simulate(job: Mapping[str, Any], folder: Path, prefix: str) -> dict[str, Any]:
    from ADAttributionLogic.answer import save_volume
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, draw_parameters, simulate_subject

    label = PATIENT if _required(job, "label") == "AD" else CONTROL
    subject = simulate_subject(icbm152_anatomy(), draw_parameters(label, int(job.get("seed", 1))))
    return save_volume(subject.scan, folder, f"{prefix}-simulated")


def _describe() -> dict[str, Any]:
    from ADAttributionLogic import attribution  # noqa: F401
    from ADAttributionLogic.atlas.library import available_atlases
    from ADAttributionLogic.attribution.registry import available_methods

    methods = [
        {
            "name": method.name,
            "title": method.title,
            "summary": method.summary,
            "source": method.source,
            "options": [option.document() for option in method.options],
        }
        for method in available_methods()
    ]
    return {"methods": methods, "atlases": [{"name": e.name, "title": e.title} for e in available_atlases()]}


def _requests(job: Mapping[str, Any]) -> list[MethodRequest]:
    from ADAttributionLogic.explain import MethodRequest

    return [MethodRequest(entry["name"], entry.get("options", {})) for entry in _required(job, "methods")]


def _atlas(entry: Mapping[str, Any] | None, folder: Path) -> Atlas | None:
    from ADAttributionLogic.answer import load_atlas_entry
    from ADAttributionLogic.atlas.library import load_atlas

    if entry is None:
        return None
    if "labels" in entry:
        return load_atlas_entry(entry, folder)
    return load_atlas(entry["name"], names_file=entry.get("names_file"), grouping=entry.get("grouping"))


def _required(job: Mapping[str, Any], name: str) -> Any:
    if name not in job:
        raise UsageError(f"The request lacks {name!r}; it has {', '.join(job) or 'nothing'}.")
    return job[name]


def _prepare_torch(threads: int | None) -> dict[str, Any]:
    """Import all that a computation needs, and say what there is to compute on."""
    import torch

    import ADAttributionLogic.explain
    import ADAttributionLogic.networks.loading  # noqa: F401
    from ADAttributionLogic.device import choose_device, describe_device

    if threads:
        torch.set_num_threads(threads)
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return {"torch": torch.__version__, "device": describe_device(choose_device()), "gpu": gpu}


def _what_is_missing(cause: ImportError) -> str:
    return (
        f"The worker's Python ({sys.executable}) cannot compute: {cause}. Install the missing packages, or choose "
        "another Python in the module's settings."
    )


def _explain_failure(error: BaseException) -> tuple[str, str]:
    """Kind and message of an error that nobody raised on purpose."""
    text = str(error) or type(error).__name__
    first, lower = text.splitlines()[0], text.lower()
    if isinstance(error, MemoryError) or "out of memory" in lower or "can't allocate memory" in lower:
        return "OutOfMemory", (
            f"The memory did not suffice: {first}. The worker uses {_memory_mb() or 0:.0f} MB. Close other programs, "
            "choose fewer methods at a time, or a smaller network."
        )
    if "cuda error" in lower or "mps backend" in lower or type(error).__name__ == "AcceleratorError":
        return "DeviceLost", (
            f"The GPU failed: {first}. The next run starts a new worker; choose the CPU if it happens again."
        )
    kind = type(error).__name__
    return kind, f"An error inside the program: {kind}: {first}. Please report it with the log."


def _memory_mb() -> float | None:
    """Memory that this process holds now, in MB; None where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return round(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    except (OSError, ValueError, AttributeError):
        from ADAttributionLogic.provenance import peak_memory_mb

        return peak_memory_mb()


if __name__ == "__main__":
    sys.exit(main())
