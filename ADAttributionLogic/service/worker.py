"""The persistent process that computes for 3D Slicer: ``python -m ADAttributionLogic.service.worker --folder DIR``.

One JSON object per line. Requests come in on stdin, events go out on stdout; whatever anything else prints lands on
stderr. Arrays travel as ``.npy`` files in the folder, which belongs to this connection alone and is removed with it.

Requests: ``{"id": 1, "command": "explain", "job": {…}}``, ``prepare``, ``open``, ``chart``, ``page``, ``dicom``,
``batch``, ``reference``, ``simulate``, ``estimate``, ``what-if``, ``install``, ``known``, ``create``, ``describe`` and
``cancel``.
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
import re
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ADAttributionLogic import __version__
from ADAttributionLogic.departure import ENDING, handle_ending, watch_signals
from ADAttributionLogic.errors import ADAttributionError, Cancelled, OutOfMemoryError, UsageError, is_out_of_memory
from ADAttributionLogic.owned_folders import remove_own_folders, remove_temporary_leftovers
from ADAttributionLogic.service.jobs import (
    batch_job,
    chart_job,
    create_job,
    describe,
    dicom_job,
    estimate_job,
    explain_job,
    install_job,
    known_job,
    open_job,
    page_job,
    prepare_job,
    simulate_job,
)
from ADAttributionLogic.service.reference_job import reference_job
from ADAttributionLogic.service.store import Store
from ADAttributionLogic.service.study_job import study_job
from ADAttributionLogic.service.what_if import what_if_job

if TYPE_CHECKING:
    from ADAttributionLogic.monitor import Monitor

#: Raised whenever an old client could misunderstand a new worker, or the other way round.
PROTOCOL = 1

#: Exit codes of this process.
UNUSABLE, DEVICE_LOST = 4, 70

#: Requests that need the memory that trials under way hold.
_OTHER_QUESTIONS = ("explain", "prepare", "batch", "reference", "simulate", "create")

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
        if sys.platform != "win32":
            handle_ending(lambda *_: None)
            watch_signals(lambda number: self._leave(128 + number) if number in ENDING else None)
        remove_temporary_leftovers()
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
        # Half a surrogate, in a file's name, is no UTF-8, but has an escape in JSON.
        text = json.dumps(event, ensure_ascii=False, allow_nan=False)
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        try:
            with self._writing:
                self._output.write(line)
                self._output.flush()
        except OSError:
            self._leave(0)  # nobody reads any more

    def _leave(self, code: int) -> None:
        """End at once, also from another thread than the computing one."""
        remove_own_folders()
        shutil.rmtree(self._folder, ignore_errors=True)
        sys.stderr.flush()
        os._exit(code)

    # Threads beside the computation.

    def _read_requests(self) -> None:
        for line in self._requests:
            try:
                request = _checked_request(line)
            except (ValueError, RecursionError) as cause:
                message = f"Not a request ({cause}): {line[:200]!r}"
                self._send(event="error", id=None, kind="protocol", message=message)
                continue
            if request["command"] == "cancel":
                self._cancelled.add(request["id"])
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
        number = request["id"]
        self._send(event="started", id=number)
        try:
            document = self._answer(request)
        except Cancelled:
            self._send(event="cancelled", id=number)
        except ADAttributionError as error:
            kind = "OutOfMemory" if isinstance(error, OutOfMemoryError) else type(error).__name__
            quality = _quality_of(error)
            self._send(event="error", id=number, kind=kind, message=str(error), details="", **quality)
        except BaseException as error:
            self._report_failure(number, error)
        else:
            try:
                self._send(event="result", id=number, result=document)
            except ValueError as error:  # not a number where one was expected
                self._report_failure(number, error)
        self._cancelled.discard(number)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        prefix = f"job-{request['id']}"
        commands: dict[str, Callable[[Any, Monitor], dict[str, Any]]] = {
            "explain": lambda job, monitor: explain_job(job, self._folder, self._store, monitor, prefix),
            "prepare": lambda job, monitor: prepare_job(job, self._folder, self._store, monitor, prefix),
            "open": lambda job, monitor: open_job(job, self._folder, monitor, prefix),
            "chart": lambda job, monitor: chart_job(job, self._folder, prefix),
            "dicom": lambda job, monitor: dicom_job(job, self._folder, monitor),
            "page": lambda job, monitor: page_job(job, self._folder, monitor),
            "estimate": lambda job, monitor: estimate_job(job, self._store),
            "batch": lambda job, monitor: batch_job(job, self._folder, self._store, monitor),
            "reference": lambda job, monitor: reference_job(job, self._store, monitor),
            "study": lambda job, monitor: study_job(job, monitor),
            "simulate": lambda job, monitor: simulate_job(job, self._folder, prefix),
            "what-if": lambda job, monitor: what_if_job(job, self._folder, self._store, monitor),
            "install": lambda job, monitor: install_job(job, monitor),
            "known": lambda job, monitor: known_job(job),
            "create": lambda job, monitor: create_job(job, monitor),
            "describe": lambda job, monitor: describe(),
        }
        if request["command"] not in commands:
            raise UsageError(f"The worker knows {', '.join(commands)} and cancel, but not {request['command']!r}.")
        if request["command"] in _OTHER_QUESTIONS:
            self._store.release_session()
        return commands[request["command"]](request.get("job", {}), self._monitor(request["id"]))

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


def _checked_request(line: bytes) -> dict[str, Any]:
    """A request that can be served; its id also names files.

    Raises
    ------
    ValueError, RecursionError
        It is none.
    """
    request = json.loads(line)
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise ValueError("an object with a command is needed")
    number = request.setdefault("id", None)
    is_number = isinstance(number, int) and not isinstance(number, bool) and abs(number) < 2**63
    is_name = isinstance(number, str) and re.fullmatch(r"[\w-]{1,64}", number, re.ASCII)
    if not (number is None or is_number or is_name):
        raise ValueError("the id must be a whole number, or a word of at most 64 letters, digits, - and _")
    if not isinstance(request.get("job", {}), dict):
        raise ValueError("the job must be an object")
    return request


def _quality_of(error: ADAttributionError) -> dict[str, Any]:
    """The numbers of quality checks that did not pass."""
    report = getattr(error, "report", None)
    return {} if report is None else {"quality": report.describe()}


def _prepare_torch(threads: int | None) -> dict[str, Any]:
    """Import all that a computation needs, and say what there is to compute on."""
    import torch

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
    if is_out_of_memory(error):
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
