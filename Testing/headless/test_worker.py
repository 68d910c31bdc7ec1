"""The worker as a real process: computed, cancelled, killed, starved, cut off."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from ADAttributionLib.WorkerClient import WorkerClient, WorkerError, workerEnvironment
from ADAttributionLib.WorkerProcess import WorkerProcess
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.explain import explain
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.owned_folders import OWNER_FILE
from ADAttributionLogic.volume import Volume

#: Occlusion of the small network that takes minutes: something to be interrupted.
LONG = ("occlusion", {"size": 4, "stride": 2})

linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition, seconds: float = 20.0) -> bool:
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def client():
    made = WorkerClient(graceSeconds=0.5, arguments=("--heartbeat", "0.2", "--threads", "1"))
    yield made
    made.close()


def computing(client: WorkerClient, small_scan: Volume, package: Path):
    """A job that is in the middle of its computation."""
    job = client.explain(small_scan, package, [LONG])
    assert until(lambda: client.poll() or "window" in job.text, 60), (job.state, job.text, client.log)
    return job


def works(client: WorkerClient, small_scan: Volume, package: Path) -> bool:
    answer = client.wait(client.explain(small_scan, package, [("gradient-x-input", {})]), timeout=120)
    return bool(np.abs(answer.maps[0].volume.array).max() > 0)


# ------------------------------------------------------------------------------------------------------------- results


def test_the_worker_answers_what_the_function_answers(client, small_scan, small_package, small_model: Model) -> None:
    atlas = load_atlas("neuromorphometrics")
    seen = []
    job = client.explain(
        small_scan,
        small_package,
        [("lrp", {"beta": 0.5}), ("sensitivity", {})],
        {"name": "neuromorphometrics"},
        onProgress=lambda j: seen.append((j.fraction, j.text)),
    )
    answer = client.wait(job, timeout=120)
    expected = explain(small_scan, small_model, ["sensitivity"], atlas=atlas)
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert [m.name for m in answer.maps] == ["lrp", "sensitivity"] and answer.maps[0].summary["options"]["beta"] == 0.5
    np.testing.assert_allclose(answer.maps[1].volume.array, expected.heatmaps[0].volume.array, atol=1e-7)
    np.testing.assert_array_equal(answer.atlas.labels.array, expected.atlas.labels.array)
    for column, values in expected.heatmaps[0].table.columns.items():
        found = answer.maps[1].table.columns[column]
        assert found.dtype.kind == values.dtype.kind, column
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-6)
        elif "rank" not in column:
            np.testing.assert_array_equal(found, values)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] > 0.9 and len({text for _, text in seen}) > 3
    assert client.about["protocol"] == 1 and client.about["torch"]


def test_a_label_volume_of_the_users_own_is_an_atlas(client, small_scan, small_package) -> None:
    atlas = load_atlas("aal")
    answer = client.wait(client.explain(small_scan, small_package, [("sensitivity", {})], atlas), timeout=120)
    assert len(answer.maps[0].table) > 100 and answer.atlas.regions[0].name == atlas.regions[0].name


def test_the_second_job_uses_the_same_process_and_model(client, small_scan, small_package) -> None:
    assert works(client, small_scan, small_package)
    pid, times = client.pid, []
    for _ in range(3):
        started = time.monotonic()
        job = client.explain(small_scan, small_package, [("gradient-x-input", {})])
        assert until(lambda job=job: client.poll() or job.text.startswith(("moving", "running")))
        times.append(time.monotonic() - started)
        client.wait(job, timeout=60)
    assert client.pid == pid and min(times) < 0.3, times


def test_no_file_is_left_of_a_finished_job(client, small_scan, small_package) -> None:
    assert works(client, small_scan, small_package)
    assert [p.name for p in client._folder.iterdir()] == [OWNER_FILE] and client._folder.stat().st_mode & 0o077 == 0


def test_a_changed_package_is_loaded_again(client, small_scan, small_package, tmp_path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(small_package, copy)
    assert works(client, small_scan, copy)
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(WorkerError, match="not the file that its model card was written for"):
        client.wait(client.explain(small_scan, copy, [("sensitivity", {})]), timeout=60)


def test_estimate_and_description(client, small_package) -> None:
    job = {"model": str(small_package), "methods": [{"name": "lrp"}, {"name": LONG[0], "options": LONG[1]}]}
    found = client.wait(client.request("estimate", job), timeout=60)
    lrp, occlusion = (entry["seconds"] for entry in found["methods"])
    answers = 5 * found["pass_seconds"]  # the scan as it lies, and moved a little four times
    assert 0 < lrp < occlusion and found["seconds"] == pytest.approx(lrp + occlusion + answers, abs=0.01)
    assert "cpu" in found["device"]
    described = client.wait(client.request("describe"), timeout=60)
    assert {"lrp", "occlusion"} <= {m["name"] for m in described["methods"]}


# ------------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([("lpr", {})], {}, "Did you mean lrp"),
        ([("lrp", {"beta": -1})], {}, "must be between"),
        ([], {}, "at least one method"),
        ([("lrp", {})], {"device": "cuda"}, "finds no CUDA GPU"),
    ],
)
def test_a_refused_job_says_why_and_the_worker_stays(client, small_scan, small_package, methods, options, message):
    with pytest.raises(WorkerError, match=message):
        client.wait(client.explain(small_scan, small_package, methods, **options), timeout=60)
    assert client.isRunning and works(client, small_scan, small_package)


def test_a_request_that_is_none_is_answered(client, small_scan, small_package) -> None:
    client._requireProcess()
    client._process.write(b"this is not JSON\n[1]\n")
    with pytest.raises(WorkerError, match="knows explain"):
        client.wait(client.request("delete"), timeout=60)
    with pytest.raises(WorkerError, match="lacks 'scan'"):
        client.wait(client.request("explain", {}), timeout=60)
    outside = {"scan": {"file": "../../etc/passwd", "affine": np.eye(4).tolist()}, "model": "x", "methods": []}
    with pytest.raises(WorkerError, match="lies outside the folder"):
        client.wait(client.request("explain", outside), timeout=60)


# --------------------------------------------------------------------------------------------------- cancelled, killed


def test_cancel_stops_at_the_next_step_and_keeps_the_worker(client, small_scan, small_package) -> None:
    job = computing(client, small_scan, small_package)
    pid, started = client.pid, time.monotonic()
    client.cancel(job)
    with pytest.raises(WorkerError, match="Cancelled"):
        client.wait(job, timeout=30)
    assert time.monotonic() - started < 2 and client.pid == pid and job.state == "cancelled"
    assert works(client, small_scan, small_package)


@linux
def test_a_worker_that_does_not_heed_is_killed_after_the_grace_period(client, small_scan, small_package) -> None:
    job = computing(client, small_scan, small_package)
    pid, folder = client.pid, client._folder
    os.kill(pid, signal.SIGSTOP)  # it cannot heed
    started = time.monotonic()
    client.cancel(job)
    with pytest.raises(WorkerError, match="Cancelled"):
        client.wait(job, timeout=30)
    assert 0.4 < time.monotonic() - started < 3
    assert not exists(pid) and not folder.exists()
    assert works(client, small_scan, small_package)


@linux
@pytest.mark.parametrize(
    ("deed", "kind", "message"),
    [
        (signal.SIGKILL, "Killed", r"killed from outside \(signal 9\).*memory.*held \d+ MB"),
        (signal.SIGSEGV, "Crashed", r"crashed \(SIGSEGV\)"),
        (signal.SIGTERM, "Ended", r"told from outside to end \(SIGTERM\)"),
        (signal.SIGHUP, "Ended", r"told from outside to end \(SIGHUP\)"),
    ],
)
def test_a_death_is_a_message_with_its_cause(client, small_scan, small_package, deed, kind, message) -> None:
    job = computing(client, small_scan, small_package)
    until(lambda: client.poll() or client._memoryMb)
    pid, folder = client.pid, client._folder
    os.kill(pid, deed)
    with pytest.raises(WorkerError, match=message) as caught:
        client.wait(job, timeout=30)
    assert caught.value.kind == kind and not exists(pid) and not folder.exists()
    if deed == signal.SIGSEGV:
        assert "Segmentation fault" in caught.value.details, "the log shows where"
    assert works(client, small_scan, small_package), "usable afterwards"


@linux
def test_a_death_between_two_jobs_does_not_hurt(client, small_scan, small_package) -> None:
    assert works(client, small_scan, small_package)
    os.kill(client.pid, signal.SIGKILL)
    assert until(lambda: client._process.exitCode() is not None)
    assert works(client, small_scan, small_package)


@linux
def test_memory_that_runs_out_is_a_message(client, small_scan, small_package) -> None:
    """A real shortage: the running worker is forbidden to grow."""
    assert works(client, small_scan, small_package)
    used = int(Path(f"/proc/{client.pid}/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    _, hard = resource.prlimit(client.pid, resource.RLIMIT_AS)
    resource.prlimit(client.pid, resource.RLIMIT_AS, (used + (8 << 20), hard))
    pid = client.pid
    # Larger than what the allocator may still hold of earlier computations.
    large = Volume(np.ones((256, 256, 256), np.float32), small_scan.affine)
    with pytest.raises(WorkerError, match="memory did not suffice") as caught:
        client.wait(client.explain(large, small_package, [("lrp", {})]), timeout=60)
    assert caught.value.kind == "OutOfMemory"
    resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))
    assert works(client, small_scan, small_package) and client.pid == pid


@linux
def test_a_silent_worker_is_noticed(small_scan, small_package) -> None:
    client = WorkerClient(silenceSeconds=1.5, arguments=("--heartbeat", "0.1", "--threads", "1"))
    try:
        client.silenceSeconds = 60
        job = computing(client, small_scan, small_package)
        client.silenceSeconds = 1.5
        os.kill(client.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match=r"no sign of life for 1.5 s"):
            client.wait(job, timeout=30)
        assert not client.isRunning
    finally:
        client.close()


@linux
def test_the_children_of_the_worker_go_with_it(small_scan, small_package, tmp_path) -> None:
    """Killed or closed: a process that the worker started does not stay behind."""
    program = textwrap.dedent(
        f"""
        import subprocess, sys
        child = subprocess.Popen(["sleep", "600"])
        open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
        from ADAttributionLogic.service.worker import main
        sys.exit(main(sys.argv[sys.argv.index("--folder"):]))
        """
    )

    def start(arguments, environment):
        return WorkerProcess([sys.executable, "-c", program, *arguments[1:]], environment)

    for deed in ("kill", "close"):
        client = WorkerClient(startProcess=start, arguments=("--heartbeat", "0.1", "--threads", "1"))
        job = computing(client, small_scan, small_package)
        child = int((tmp_path / "child").read_text(encoding="utf-8"))
        assert exists(child)
        if deed == "kill":
            os.kill(client.pid, signal.SIGKILL)
            with pytest.raises(WorkerError):
                client.wait(job, timeout=30)
        client.close()
        assert until(lambda child=child: not exists(child), 5) and job.hasEnded


@linux
def test_the_worker_ends_with_its_parent(tmp_path) -> None:
    """Slicer is killed: nobody can tidy up but the worker itself."""
    program = textwrap.dedent(
        """
        import time
        from ADAttributionLib.WorkerClient import WorkerClient
        client = WorkerClient(arguments=("--heartbeat", "0.2", "--threads", "1"))
        client.request("describe")
        print(client.pid, client._folder, flush=True)
        time.sleep(600)
        """
    )
    folders = [
        path
        for path in sys.path
        if Path(path, "ADAttributionLib").is_dir() or Path(path, "ADAttributionLogic").is_dir()
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True)
    pid, folder = parent.stdout.readline().split()
    assert exists(int(pid)) and Path(folder).is_dir()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not exists(int(pid))) and until(lambda: not Path(folder).exists())


# -------------------------------------------------------------------------------------------------- start and protocol


def test_stray_prints_do_not_reach_the_protocol(small_scan, small_package) -> None:
    """From Python, from C, and from a child process: all of it ends up in the log."""
    program = textwrap.dedent(
        """
        import os, subprocess, sys, threading, time
        from ADAttributionLogic.service import worker
        def noise():
            while True:
                time.sleep(0.05)
                print("noise from Python", flush=True)
                os.write(1, b"noise from C\\n")
                subprocess.run(["echo", "noise from a child"])
        take = worker._take_stdout
        def taken():
            channel = take()
            threading.Thread(target=noise, daemon=True).start()
            return channel
        worker._take_stdout = taken
        sys.exit(worker.main(sys.argv[sys.argv.index("--folder"):]))
        """
    )

    def start(arguments, environment):
        return WorkerProcess([sys.executable, "-c", program, *arguments[1:]], environment)

    client = WorkerClient(startProcess=start, arguments=("--threads", "1"))
    try:
        assert works(client, small_scan, small_package)
        assert until(
            lambda: client.poll() or all(f"noise from {who}" in client.log for who in ("Python", "C", "a child"))
        )
    finally:
        client.close()


def test_a_python_that_is_not_there(small_scan, small_package) -> None:
    client = WorkerClient(interpreter="/nowhere/python")
    with pytest.raises(WorkerError, match="cannot be started with the Python /nowhere/python"):
        client.explain(small_scan, small_package, [("lrp", {})])
    assert not client.isRunning and client._folder is None


def test_a_python_without_torch(small_scan, small_package, tmp_path) -> None:
    """A real virtual environment with nothing in it."""
    import venv

    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    client = WorkerClient(interpreter=str(tmp_path / "bare" / "bin" / "python"))
    try:
        with pytest.raises(
            WorkerError, match="No module named 'numpy'|No module named 'torch'|cannot compute"
        ) as caught:
            client.wait(client.request("describe"), timeout=30)
        assert caught.value.kind == "MissingPackages"
    finally:
        client.close()


def test_another_protocol_is_refused(tmp_path) -> None:
    program = 'import time; print(\'{"event": "hello", "protocol": 99, "version": "9"}\', flush=True); time.sleep(60)'
    client = WorkerClient(startProcess=lambda a, e: WorkerProcess([sys.executable, "-c", program], e))
    with pytest.raises(WorkerError, match="speaks protocol 99"):
        client.wait(client.request("describe"), timeout=30)
    assert not client.isRunning


def test_the_workers_environment() -> None:
    base = {"PYTHONHOME": "/slicer", "LD_LIBRARY_PATH": "/slicer/lib", "PYTHONPATH": "/slicer/py", "HOME": "/home/a"}
    own = workerEnvironment("/opt/torch/bin/python", base)
    assert "PYTHONHOME" not in own and "LD_LIBRARY_PATH" not in own and "/slicer/py" not in own["PYTHONPATH"]
    slicers = workerEnvironment("/slicer/bin/PythonSlicer", base)
    assert slicers["PYTHONHOME"] == "/slicer" and slicers["PYTHONPATH"].endswith("/slicer/py")
    assert Path(own["PYTHONPATH"], "ADAttributionLogic", "service", "worker.py").is_file()


def test_closing_cancels_and_can_be_repeated(small_scan, small_package) -> None:
    client = WorkerClient(arguments=("--threads", "1"))
    ended = []
    job = client.explain(small_scan, small_package, [LONG], onEnd=ended.append)
    folder, pid = client._folder, client.pid
    client.close()
    client.close()
    assert ended == [job] and job.state == "cancelled" and not folder.exists() and not exists(pid)
