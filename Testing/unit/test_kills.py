"""Killed at any moment (forty times each): nothing is partial, nothing is lost, and nothing is left behind.

The processes are forked from this one, which has loaded everything, so that a trial costs only what is to be killed.
Run with ``-s`` to read the counts.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import PublishedStyle, image, make_lively

from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLib.WorkerProcess import WorkerProcess
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.batch.explaining import BatchResult, explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.explain import MethodRequest, explain
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.incremental import forward
from ADAttributionLogic.networks.loading import model_from_module
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.occlusion import voxels as voxel_occlusion
from ADAttributionLogic.preprocessing import cache
from ADAttributionLogic.preprocessing.pipeline import Options, preprocess
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.report.placing import damaged, tidy_up
from ADAttributionLogic.report.result_folder import earlier_result, write_explanation
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.service import worker
from ADAttributionLogic.volume import Volume, resample

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")]

TRIALS = 40
SIZE = 20
_NEVER = 1e6


def run_and_kill(work: Callable[[], object], seconds: float = _NEVER) -> bool:
    """Do something in a child that is killed after so much processor time; whether it was before it was done.

    The system's own timer ends it: by processor time a moment is the same part of the work on a busy machine as on an
    idle one, so that few trials come too late. Nothing handles the signal: it is as sudden as SIGKILL.
    """
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # the threads of the parent are not here
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, max(seconds, 1e-3))
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time that it takes in a child, by the very clock that will kill it."""
    told, tell = os.pipe()

    def timed() -> None:
        work()
        os.write(tell, f"{_NEVER - signal.getitimer(signal.ITIMER_PROF)[0]}".encode())

    assert not run_and_kill(timed)
    found = float(os.read(told, 100))
    os.close(told)
    os.close(tell)
    return found


def moments(work: Callable[[], object]) -> Iterator[float]:
    """Moments (seconds of processor time) spread at random over what something takes."""
    generator, whole = random.Random(7), seconds_of(work)
    while True:
        yield generator.random() * whole
        yield (0.75 + 0.25 * generator.random()) * whole  # where files get their names


def say(what: str, **counts: int) -> None:
    print(f"\nkills, {what}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return model_from_module(make_lively(PublishedStyle(3, SIZE)).float(), (SIZE, SIZE, SIZE))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        values = np.random.default_rng(number).random((SIZE, SIZE, SIZE)).astype(np.float32)
        write_volume(Volume(values, np.eye(4)), folder / f"sub-{number}.nii.gz")
    return folder


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*")]


def test_a_result(model: Model, scans: Path, tmp_path: Path) -> None:
    """New ones and replaced ones: the folder holds one result, whole, or none where there was none."""
    found = {
        seed: explain(
            Volume(np.random.default_rng(seed).random((SIZE,) * 3).astype(np.float32), np.eye(4)), model, ["lrp"]
        )
        for seed in (1, 2)
    }
    hashes = {seed: e.provenance["scan"]["voxels_sha256"] for seed, e in found.items()}
    target, counts = tmp_path / "out", {"killed": 0, "nothing": 0, "earlier": 0, "new": 0}

    def replaced() -> None:
        write_explanation(found[2], target, overwrite=True, figure=False)

    timed = tmp_path / "timed"
    for number, moment in enumerate(moments(lambda: write_explanation(found[2], timed, figure=False))):
        shutil.rmtree(target, ignore_errors=True)
        if number % 2:
            write_explanation(found[1], target, figure=False)
        counts["killed"] += run_and_kill(replaced, moment)
        tidy_up(tmp_path)
        result = earlier_result(target)
        if result is None:
            assert not target.exists() and not number % 2
            counts["nothing"] += 1
        else:
            assert not damaged(target, result["files"])
            which = result["scan"]["voxels_sha256"]
            assert which == hashes[2] or (which == hashes[1] and number % 2)
            counts["new" if which == hashes[2] else "earlier"] += 1
        assert sorted(p.name for p in tmp_path.iterdir() if p != target) == ["timed"]
        if counts["killed"] == TRIALS:
            break
    say("result", **counts, partial=0, leftovers=len(hidden(tmp_path)))


def answers(result: BatchResult) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k not in ("status", "seconds")} for row in result.rows]


def test_a_batch(model: Model, scans: Path, tmp_path: Path) -> None:
    """Killed and started again until it is complete: as if nothing had been."""
    listed = find_scans(scans)
    options = BatchOptions([MethodRequest("lrp"), MethodRequest("sensitivity")], figure=False)
    whole = explain_batch(listed, model, options, tmp_path / "whole")
    maps = {p.relative_to(tmp_path / "whole"): p.read_bytes() for p in (tmp_path / "whole").rglob("*.nii.gz")}
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    killed = batches = 0
    when = moments(lambda: explain_batch(listed, model, options, tmp_path / "timed"))
    while killed < TRIALS:
        out = tmp_path / f"out-{batches}"
        while run_and_kill(lambda out=out: explain_batch(listed, model, options, out), next(when)):
            killed += 1
        result = explain_batch(listed, model, options, out)
        assert answers(result) == answers(whole) and result.failed == 0
        assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*.nii.gz")} == maps
        assert all(not damaged(out / s.name, earlier_result(out / s.name)["files"]) for s in listed)
        assert hidden(out) == [] and sorted(p.name for p in out.iterdir()) == names
        batches += 1
    say("batch", killed=killed, batches=batches, different=0, leftovers=0)


def test_a_cache(template: Volume, tmp_path: Path) -> None:
    """An entry is there, whole, or it is not."""
    brain = resample(template, Grid((40, 48, 40), np.diag((5.0, 5, 5, 1)) + _shift(-98, -134, -72)))
    options = Options(registered=True, bias_correction=False)
    target = RegistrationTarget(template).at(4.0)
    prepared = preprocess(brain, brain.grid, target, options)
    entry, counts = tmp_path / "key", {"killed": 0, "whole": 0, "none": 0}

    def fill(folder: Path) -> None:
        cache._write(prepared, folder / "key")
        cache._read(folder / "key", prepared.scan, brain.grid)

    (tmp_path / "timed").mkdir()
    for moment in moments(lambda: fill(tmp_path / "timed")):
        counts["killed"] += run_and_kill(lambda: fill(tmp_path), moment)
        if entry.exists():
            read = cache._read(entry, prepared.scan, brain.grid)
            assert read is not None
            np.testing.assert_array_equal(read.brain.array, prepared.brain.array)
            shutil.rmtree(entry)
            counts["whole"] += 1
        else:
            counts["none"] += 1
        if counts["killed"] == TRIALS:
            break
    cache._write(prepared, entry)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key", "timed"]
    say("cache", **counts, damaged=0, leftovers=0)


def _shift(*millimetres: float) -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[:3, 3] = millimetres
    return matrix


def test_a_checkpoint_of_voxel_occlusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed and resumed until it is complete: the same map, bit by bit."""
    monkeypatch.setattr(voxel_occlusion, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setitem(forward.MAX_BATCH, "cpu", 8)
    torch.manual_seed(0)
    network, scan = make_lively(PublishedStyle(2)), image(1, 2, (SIZE, SIZE))
    scan[:, :, :4] = 0
    traced = explainable(network, scan.shape[1:])

    def cover(path: Path | None) -> np.ndarray:
        options = {} if path is None else {"checkpoint": str(path)}
        return attribute(Evaluation(traced, scan, torch.device("cpu")), "voxel-occlusion", Target(1), options).heatmap

    complete = cover(None)
    killed = runs = gone_on = 0
    when = moments(lambda: cover(tmp_path / "timed.npz"))
    while killed < TRIALS:
        path = tmp_path / f"run-{runs}.npz"
        while run_and_kill(lambda path=path: cover(path), next(when)):
            killed += 1
            gone_on += path.exists()
        np.testing.assert_array_equal(cover(path), complete)
        runs += 1
    assert hidden(tmp_path) == [] and gone_on > 0
    say("voxel checkpoint", killed=killed, runs=runs, with_a_checkpoint=gone_on, different=0, leftovers=0)


class ForkedWorker(WorkerProcess):
    """The worker itself, in a child that has loaded torch already."""

    def __init__(self, arguments, environment=None):
        (self_in, to_worker), (from_worker, self_out), (errors, self_errors) = os.pipe(), os.pipe(), os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.setsid()
                for mine, standard in ((self_in, 0), (self_out, 1), (self_errors, 2)):
                    os.dup2(mine, standard)
                os.closerange(3, 256)
                streams = ((0, "r"), (1, "w"), (2, "w"))
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in streams)
                torch.set_num_threads(1)
                worker.main(arguments[arguments.index("--folder") :])
            finally:
                os._exit(1)
        for mine in (self_in, self_out, self_errors):
            os.close(mine)
        self._process = _Child(self._pid, to_worker, from_worker, errors)


class _Child:
    """As much of subprocess.Popen as WorkerProcess uses."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid, self.returncode = pid, None
        self.stdin = os.fdopen(stdin, "wb", buffering=0)
        self.stdout, self.stderr = (os.fdopen(n, "rb", buffering=0) for n in (stdout, stderr))
        for stream in (self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, seconds: float = 60.0) -> int | None:
        stop = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < stop:
            time.sleep(0.002)
        return self.returncode


def test_a_worker(small_package: Path, small_scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each death is a message, the next request works, and no exchange folder stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client = WorkerClient(startProcess=ForkedWorker, arguments=("--heartbeat", "0.2"))
    generator, killed, worked = random.Random(7), 0, 0
    try:
        for number in range(TRIALS):
            job = client.explain(small_scan, small_package, [("occlusion", {"size": 4, "stride": 2})])
            stop = time.monotonic() + generator.random() * 0.4
            while time.monotonic() < stop:
                client.poll()
                time.sleep(0.005)
            os.kill(client.pid, signal.SIGKILL)
            with pytest.raises(WorkerError, match="killed from outside"):
                client.wait(job, timeout=60)
            killed += 1
            assert list(tmp_path.iterdir()) == []
            if number % 8 == 0:
                answer = client.wait(client.explain(small_scan, small_package, [("sensitivity", {})]), timeout=120)
            else:
                answer = client.wait(client.request("describe"), timeout=120)
            worked += bool(answer)
    finally:
        client.close()
    assert worked == TRIALS
    # Both sides killed at once: nobody is left to tidy up but the next start.
    left = os.fork()
    if not left:
        orphan = WorkerClient(startProcess=ForkedWorker)
        orphan.request("describe")
        os.kill(orphan.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(left, 0)
    assert len(list(tmp_path.iterdir())) == 1
    client = WorkerClient(startProcess=ForkedWorker)
    client.wait(client.request("describe"), timeout=60)
    client.close()
    assert list(tmp_path.iterdir()) == []
    say("worker", killed=killed, next_request_works=worked, leftovers=0)
