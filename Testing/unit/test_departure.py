"""Programs that are told to end, that run out of memory, and that meet names which are no UTF-8: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ADAttributionLogic.cli import EXIT_CODES
from ADAttributionLogic.errors import OutOfMemoryError, is_out_of_memory, sentence_of

ROOT = Path(__file__).resolve().parents[2]

#: Holds a temporary folder, and computes: in Python, or in C without end.
PROGRAM = """
import ctypes, signal, sys, time
from ADAttributionLogic.departure import leave_in_order
from ADAttributionLogic.owned_folders import owned_folder
from pathlib import Path
leave_in_order()
if sys.argv[2] == "C":
    signal.signal(signal.SIGINT, lambda *_: None)  # as the progress bar does: it waits for the current step
with owned_folder(Path(sys.argv[1]), "x-") as folder:
    (folder / "half").write_text("half", encoding="utf-8")
    print("computing", flush=True)
    if sys.argv[2] == "python":
        while True:
            time.sleep(0.01)
    # A call into C that never comes back, as one layer of a network that hangs: a lock that is taken twice.
    lock, take = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    take(lock)
    take(lock)
"""


def start(folder: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), kind],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "computing\n"
    return process


@pytest.mark.parametrize("kind", ["python", "C"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_tidies_up(tmp_path: Path, number: int, kind: str) -> None:
    process = start(tmp_path, kind)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_an_endless_network_is_stopped_by_a_second_interruption(tmp_path: Path) -> None:
    process = start(tmp_path, "C")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None and process.stderr.readline() == "\n"
    assert "press Ctrl-C again" in process.stderr.readline()
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130 and "ended by SIGINT" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_who_is_told_to_ignore_a_hangup_does(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(tmp_path, "python")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.wait()


def test_memory_that_runs_out_is_a_sentence(small_scan_file: Path, small_package: Path, tmp_path: Path) -> None:
    """On the command line, under a real limit: exit code 7, no traceback, nothing left."""
    program = textwrap.dedent(
        """
        import resource, sys
        import torch, ADAttributionLogic.explain, ADAttributionLogic.report.result_folder
        from ADAttributionLogic.attribution.registry import available_methods
        available_methods()
        from ADAttributionLogic import seen_scan
        from ADAttributionLogic.cli import main
        prepare = seen_scan.prepare
        def limited(*given, **options):
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), used + (4 << 20)))
            return prepare(*given, **options)
        seen_scan.prepare = limited
        sys.exit(main(sys.argv[1:]))
        """
    )
    command = ["explain", str(small_scan_file), "--model", str(small_package), "--method", "lrp", "--no-scene"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == OutOfMemoryError.exit_code == 7 and 7 in EXIT_CODES, done.stderr
    assert "The memory did not suffice" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_running_out_of_memory_looks_like() -> None:
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ):
        assert is_out_of_memory(error) and "memory did not suffice" in sentence_of(error)
    assert not is_out_of_memory(ValueError("the text says out of memory"))
    assert sentence_of(ZeroDivisionError("float division by zero")) == "ZeroDivisionError: float division by zero"


# ---------------------------------------------------------------------------------------------------------- the worker


class Spoken:
    """A worker, spoken to line by line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "ADAttributionLogic.service.worker", "--folder", str(folder), "--threads", "1"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        while self.event()["event"] != "ready":
            pass

    def say(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def event(self) -> dict[str, object]:
        assert self.process.stdout is not None
        event: dict[str, object] = json.loads(self.process.stdout.readline())
        return event if event["event"] != "heartbeat" else self.event()

    def answer(self, line: bytes) -> dict[str, object]:
        self.say(line)
        while (event := self.event())["event"] in ("started", "progress"):
            pass
        return event


def test_a_worker_answers_whatever_it_is_told(tmp_path: Path) -> None:
    """With an error that has a reason; afterwards it works."""
    worker = Spoken(tmp_path / "exchange")
    try:
        for line in (
            b"[" * 100_000,
            b'{"id": 1, "command": "describe", "job": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
            b'{"id": {"a": 1}, "command": "describe"}',
            b'{"id": [1], "command": "cancel"}',
            b'{"id": "../../escape", "command": "describe"}',
            b'{"id": 1e999, "command": "describe"}',
            b'{"id": ' + b"9" * 400 + b', "command": "describe"}',
            b'{"id": ' + b"9" * 10_000 + b', "command": "describe"}',
            b'{"id": 1, "command": ["describe"]}',
            b'{"id": 1, "command": "describe", "job": [1]}',
            b'"\\ud800"',
            b"\xff\xfe\x00",
            b"",
        ):
            event = worker.answer(line)
            assert event["event"] == "error" and event["id"] is None and "Not a request" in str(event["message"]), line
        for line in (
            b'{"id": 7, "command": "\\ud800"}',
            b'{"id": 7, "command": "explain", "job": {"model": "\\udcff", "scan": 3, "methods": "\\ud800"}}',
            b'{"id": 7, "command": "batch", "job": {"input": "/\\udcff", "output": 5, "methods": [], "model": []}}',
            b'{"id": 7, "command": "estimate", "job": {"model": {"a": 1}, "methods": [[]]}}',
        ):
            event = worker.answer(line)
            assert event["event"] == "error" and event["id"] == 7 and event["message"], line
        found = worker.answer(b'{"id": "last-one", "command": "describe"}')
        assert found["event"] == "result" and found["id"] == "last-one"
    finally:
        worker.process.kill()
        worker.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_is_told_to_end_removes_its_folder(tmp_path: Path, number: int) -> None:
    worker = Spoken(tmp_path / "exchange")
    worker.process.send_signal(number)
    assert worker.process.wait(20) == 128 + number and not (tmp_path / "exchange").exists()


def test_a_file_whose_name_is_no_utf_8(small_scan_file: Path, small_package: Path, tmp_path: Path) -> None:
    """Read, explained, and named in the result as it can be."""
    scan = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.nii.gz"))
    scan.write_bytes(small_scan_file.read_bytes())
    command = ["-m", "ADAttributionLogic.cli", "explain", str(scan), "--model", str(small_package), "--atlas", "none"]
    command += ["--method", "sensitivity", "--no-scene", "--no-figure", "--out", f"{scan}-out"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["scan"]["source"] == str(scan)
