"""A run in a folder: whose it is, what a full disk says, and that all engines write the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_engines import children_of, dask_processes, on_linux

from ADAttributionLogic import rounding
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.one_scan import LOG_FILE
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.batch.workers import Sources
from ADAttributionLogic.cli import main
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.engines.dask_cluster import DaskCluster
from ADAttributionLogic.engines.local import LocalProcesses
from ADAttributionLogic.engines.machine import Plan
from ADAttributionLogic.engines.shards import Shard
from ADAttributionLogic.errors import DiskError, EngineError, OutputError, RunningError, UsageError
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.rounding import measured_rounding
from ADAttributionLogic.runs import lock as locks
from ADAttributionLogic.runs.lock import Owner, RunLock, look, shown_age, waiting_lock
from ADAttributionLogic.runs.record import Progress, grouped, lock_path, read_runs
from ADAttributionLogic.runs.spans import Spans
from ADAttributionLogic.runs.words import described
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.volume import Volume

OPTIONS = BatchOptions([MethodRequest("gradient-x-input")], figure=False, page=False, with_spread=False)


@pytest.fixture(scope="module")
def scans(small_scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, and a broken scan between them."""
    folder = tmp_path_factory.mktemp("cohort")
    scan = read_scan(small_scan_file)
    for number in range(4):
        ramp = np.linspace(1, 0.3 + 0.2 * number, scan.array.shape[1], dtype=np.float32)[None, :, None]
        write_volume(scan.with_array(scan.array * ramp), folder / f"sub-{number}.nii.gz")
    write_volume(Volume(np.ones((20, 20, 20), np.float32), np.eye(4)), folder / "sub-1b.nii.gz")
    return folder


def bytes_of(out: Path) -> dict[str, bytes]:
    """Maps, tables and summary: all that is to be the same."""
    found = [p for p in out.rglob("*") if p.suffix in (".gz", ".csv", ".tsv")]
    found += out.rglob("tables/*.json")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in found}


# ----------------------------------------------------------------------------------------------------- the same bytes


@pytest.mark.slow
def test_every_engine_writes_the_same_bytes(
    scans: Path, small_package: Path, small_model: Model, tmp_path: Path
) -> None:
    """This process, processes of one and two threads, a Dask cluster, eight shards in any order, and a resumed run."""
    from ADAttributionLogic.atlas.library import load_atlas

    listed, atlas = find_scans(scans), load_atlas("aal")
    sources = Sources.named(str(small_package), atlas="aal")

    def run(name: str, **given) -> dict[str, bytes]:
        found = explain_batch(listed, small_model, OPTIONS, tmp_path / name, atlas=atlas, sources=sources, **given)
        assert "shard" in given or (found.done, found.failed) == (4, 1)
        return bytes_of(tmp_path / name)

    expected = run("here")
    assert {f"sub-{n}/{part}" for n in range(4) for part in ("heatmaps/gradient-x-input.nii.gz",
            "tables/gradient-x-input.csv", "tables/gradient-x-input.json")} < set(expected)  # fmt: skip
    assert run("processes", engine=LocalProcesses(Plan(3, 1, 1000.0, ""))) == expected
    assert run("two threads", engine=LocalProcesses(Plan(1, 2, 1000.0, ""))) == expected
    with dask_processes(tmp_path / "scheduler.json") as (_, file):
        assert run("dask", engine=DaskCluster(str(file))) == expected
    order = list(range(1, 9))
    random.Random(1).shuffle(order)
    for number in order:
        run("shards", shard=Shard(number, 8))
    assert bytes_of(tmp_path / "shards") == expected
    shutil.rmtree(tmp_path / "shards" / "sub-2")
    again = explain_batch(listed, small_model, OPTIONS, tmp_path / "shards", atlas=atlas)
    assert (again.done, again.kept) == (1, 3) and bytes_of(tmp_path / "shards") == expected
    assert [p.name for p in (tmp_path / "shards").glob("_run*")] == ["_run.json"], "the shards' records are past"
    record = json.loads((tmp_path / "processes" / "sub-0" / "provenance.json").read_text(encoding="utf-8"))
    assert record["engine"]["kind"] == "processes" and record["threads"] == 1


@pytest.mark.slow
def test_the_same_bytes_at_the_real_size(template: Volume, tmp_path: Path) -> None:
    """Registration, LRP and table of a scan as acquired, by what somebody writes himself on two threads, by two workers
    of one thread, and by a shard."""
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.explain_native import explain_native
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.preparation import Preparation
    from ADAttributionLogic.preprocessing.pipeline import Options
    from ADAttributionLogic.report.result_folder import write_explanation
    from ADAttributionLogic.simulation.native_scan import Acquisition, acquire

    (tmp_path / "scans").mkdir()
    for number, turn in enumerate(((6.0, -4.0, 3.0), (-5.0, 2.0, 7.0))):
        asked = Acquisition(turn, (5.0, -8.0, 3.0), (1.0, 1.0, 1.2), "sagittal", "int16", 0.15, 0.01, number)
        write_volume(acquire(template, asked).scan, tmp_path / "scans" / f"sub-{number}.nii.gz")
    model, atlas, listed = load_model("simulated-atrophy"), load_atlas("aal"), find_scans(tmp_path / "scans")
    preparation = Preparation(Options("affine"), "model", True)
    asked = BatchOptions([MethodRequest("lrp")], figure=False, page=False, with_spread=False, preparation=preparation)

    def run(name: str, **given) -> dict[str, bytes]:
        options = replace(asked, cache=tmp_path / f"cache {name}")  # each prepares them itself
        explain_batch(listed, model, options, tmp_path / name, atlas=atlas, **given)
        return bytes_of(tmp_path / name)

    sources = Sources.named("simulated-atrophy", atlas="aal")
    workers = run("workers", engine=LocalProcesses(Plan(2, 1, 2500.0, "")), sources=sources)
    alone = explain_native(read_scan(listed[0].path), model, ["lrp"], Options("affine"), space="model",
                           accept_quality=True, atlas=atlas, cache=tmp_path / "cache", with_spread=False)  # fmt: skip
    write_explanation(alone, tmp_path / "loop" / "sub-0", figure=False, page=False)
    loop, shard = bytes_of(tmp_path / "loop"), run("shard", shard=Shard(2, 2))
    of_maps = {name: data for name, data in workers.items() if name.startswith("sub-")}
    assert {"sub-0/heatmaps/lrp.nii.gz", "sub-0/tables/lrp.csv"} < set(loop)
    assert of_maps == loop | {name: data for name, data in shard.items() if name.startswith("sub-1")}
    record = json.loads((tmp_path / "workers" / "sub-0" / "provenance.json").read_text(encoding="utf-8"))
    ((rounding,),) = (record["engine"]["rounding"],)
    assert record["threads"] == 1 and rounding["between"] == ["cpu, 1 thread", "cpu, 2 threads"]
    assert rounding["map"] == rounding["answer"] == 0.0, "on one computer threads change nothing"


# ------------------------------------------------------------------------------------- what may differ, and by how much


def test_provenance_says_how_far_threads_move_a_map(small_model: Model, tmp_path: Path) -> None:
    """Measured once on this computer; a damaged note is measured again."""
    methods = [MethodRequest("occlusion", {"size": 8}), MethodRequest("lrp", {"beta": 0.5})]
    threads = torch.get_num_threads()
    (found,) = measured_rounding(small_model, methods, torch.device("cpu"), tmp_path)
    assert torch.get_num_threads() == threads and found["method"] == "lrp", "what costs little is measured"
    assert 0 <= found["map"] < 1e-3 and 0 <= found["answer"] < 1e-4 and found["between"][0] == "cpu, 1 thread"
    (note,) = tmp_path.iterdir()
    note.write_text(json.dumps([found | {"map": 0.25}]))
    assert measured_rounding(small_model, methods, torch.device("cpu"), tmp_path)[0]["map"] == 0.25, "is taken"
    note.write_text('[{"map": "much"}]')
    assert measured_rounding(small_model, methods, torch.device("cpu"), tmp_path) == [found]
    again = measured_rounding(small_model, methods, torch.device("cpu"), tmp_path / "away")
    assert again == [found], "the same image each time"


def test_a_difference_between_two_settings_is_seen(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a device that computes a little differently."""
    computed = rounding.attribute

    def attribute(*given):
        found = computed(*given)
        return replace(found, values=found.values * np.float32(1 + 1e-5 * (torch.get_num_threads() > 1)))

    monkeypatch.setattr(rounding, "attribute", attribute)
    (found,) = measured_rounding(small_model, [MethodRequest("lrp")], torch.device("cpu"))
    assert found["map"] == pytest.approx(1e-5, rel=0.1) and found["answer"] < 1e-4


# ------------------------------------------------------------------------------------------- a device that many share


def test_spans_in_any_order_are_counted_once() -> None:
    generator, spans = np.random.default_rng(3), Spans()
    covered = np.zeros(1000, bool)
    for _ in range(300):
        begin = int(generator.integers(0, 990))
        end = begin + int(generator.integers(0, 9))
        spans.add(begin, end)
        covered[begin:end] = True
        assert spans.seconds == covered.sum()
    inside = np.flatnonzero(covered)
    assert spans.share == covered.sum() / (inside[-1] + 1 - inside[0]) and Spans().share is None


@pytest.mark.slow
@on_linux
def test_one_explains_while_the_others_prepare(
    small_scan_file: Path, small_package: Path, small_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three workers with one turn on the device between them: hardly ever is nobody on it, and never are two."""
    (tmp_path / "scans").mkdir()
    for number in range(6):
        shutil.copy(small_scan_file, tmp_path / "scans" / f"sub-{number:02d}.nii.gz")
    asked = replace(OPTIONS, methods=[MethodRequest("occlusion", {"size": 12, "stride": 8})], device="cpu")
    busy = {}
    for name, workers in (("alone", 1), ("pipeline", 3)):
        result = explain_batch(
            find_scans(tmp_path / "scans"),
            small_model,
            replace(asked, turns=1),
            tmp_path / name,
            engine=LocalProcesses(Plan(workers, 1, 1000.0, "")),
            sources=Sources.named(str(small_package)),
        )
        assert result.done == 6
        (run,) = read_runs(tmp_path / name)
        ((place, found),) = run.progress.devices.items()
        assert place.startswith("cpu of ") and run.describe()["devices"][place] == found
        assert f"{place} {found['busy']:.0%} busy" in described(tmp_path / name, [run])
        busy[name] = found
    with capsys.disabled():
        print(f"\nthe device is busy: {busy}")
    assert busy["pipeline"]["busy"] > 0.8 and busy["pipeline"]["busy"] > busy["alone"]["busy"]
    assert busy["pipeline"]["waited_seconds"] > busy["alone"]["waited_seconds"]
    assert "device" not in (tmp_path / "alone" / "summary.csv").read_text(encoding="utf-8"), "it is no part of a result"


@pytest.mark.slow
@on_linux
def test_a_batch_that_is_killed_with_its_workers_goes_on(scans: Path, small_package: Path, tmp_path: Path) -> None:
    """Workers killed by a system without memory, then the whole; nothing complete is computed again."""
    command = [sys.executable, "-m", "ADAttributionLogic.cli", "batch", str(scans), "--model", str(small_package)]
    command += ["--method", "gradient-x-input", "--atlas", "none", "--no-figure", "--no-report", "--no-spread"]
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    batch = subprocess.Popen([*command, "--workers", "2", "--out", str(out)], env=environment, stderr=subprocess.PIPE)
    stop, killed = time.monotonic() + 120, 0
    while not any(out.glob("sub-*")) and time.monotonic() < stop:
        time.sleep(0.05)
        if not killed and len(children_of(batch.pid)) == 2:
            os.kill(children_of(batch.pid)[0], signal.SIGKILL)
            killed = 1
    batch.kill()
    batch.communicate()
    done = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("sub-*/provenance.json")}
    again = subprocess.run([*command, "--workers", "2", "--out", str(out)], env=environment, capture_output=True)
    assert killed and again.returncode == 3, again.stderr
    assert {p.parent.name: p.stat().st_mtime_ns for p in out.glob("sub-*/provenance.json")}.items() >= done.items()
    assert len(list(out.glob("sub-*"))) == 4 and not list(out.glob(".*"))


def test_workers_that_find_another_network_refuse(
    scans: Path, small_package: Path, small_model: Model, tmp_path: Path
) -> None:
    other = replace(small_model, weights_sha256="0" * 64)
    with pytest.raises(EngineError, match="another model than the batch"):
        explain_batch(
            find_scans(scans),
            other,
            OPTIONS,
            tmp_path / "out",
            engine=LocalProcesses(Plan(1, 1, 1000.0, "")),
            sources=Sources.named(str(small_package)),
        )
    assert not lock_path(tmp_path / "out").exists(), "the folder is free again"


def test_a_scan_whose_workers_are_lost_is_a_row(
    scans: Path, small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ADAttributionLogic.engines.here import Here
    from ADAttributionLogic.engines.tasks import Failure, Outcome

    class Losing(Here):
        def run(self, tasks, *rest, **given):
            for number, outcome in enumerate(super().run(tasks, *rest, **given)):
                lost = Outcome(outcome.task, None, Failure(True, "The worker was lost 3 times."), attempts=3)
                yield lost if number == 2 else outcome

    found = explain_batch(find_scans(scans), small_model, OPTIONS, tmp_path / "out", engine=Losing())
    assert found.rows[2]["status"] == "failed" and "lost 3 times" in found.rows[2]["message"]


# ------------------------------------------------------------------------------------------------------------- locks


def test_a_living_runs_folder_is_refused_naming_owner_and_age(scans: Path, small_model: Model, tmp_path: Path) -> None:
    out, listed = tmp_path / "out", find_scans(scans)[:1]
    explain_batch(listed, small_model, OPTIONS, out)
    held = RunLock(lock_path(out))
    os.utime(held.path, (time.time() - 40, time.time() - 40))
    with pytest.raises(RunningError, match=rf"process {os.getpid()} on .*last seen (39|40|41) s ago.*status"):
        explain_batch(listed, small_model, OPTIONS, out)
    with pytest.raises(RunningError, match="is being written"):
        explain_batch(listed, small_model, OPTIONS, out, shard=Shard(1, 2))
    held.close()
    assert explain_batch(listed, small_model, OPTIONS, out).kept == 1
    assert not list(out.glob("*.lock"))


def test_shards_of_one_plan_may_others_may_not(scans: Path, small_model: Model, tmp_path: Path) -> None:
    out, listed = tmp_path / "out", find_scans(scans)
    seen = []

    def meanwhile(row) -> None:
        if not seen:
            seen.append(row)
            explain_batch(listed, small_model, OPTIONS, out, shard=Shard(2, 3))
            with pytest.raises(RunningError, match="shard 1/3"):
                explain_batch(listed, small_model, OPTIONS, out, shard=Shard(2, 4))
            with pytest.raises(RunningError, match="shard 1/3"):
                explain_batch(listed[:3], small_model, OPTIONS, out, shard=Shard(3, 3))
            with pytest.raises(RunningError):
                explain_batch(listed, small_model, OPTIONS, out, shard=Shard(1, 3))
            with pytest.raises(RunningError):
                explain_batch(listed, small_model, OPTIONS, out)

    explain_batch(listed, small_model, OPTIONS, out, shard=Shard(1, 3), on_row=meanwhile)
    assert (out / "summary.csv").read_text(encoding="utf-8").count("\n") == 1 + 2 + 2


def write_lock(path: Path, owner: Owner, age: float) -> None:
    path.write_text(json.dumps({"owner": vars(owner), "about": {}}), encoding="utf-8")
    os.utime(path, (time.time() - age, time.time() - age))


def test_a_lock_whose_owner_has_gone_is_taken_over(tmp_path: Path) -> None:
    """At once on the same computer; from another one when it was not seen for a while; and a damaged one as well."""
    path, me = tmp_path / "_run.lock", Owner.this_process()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for stale in (replace(me, pid=child.pid), replace(me, started="another start")):
        write_lock(path, stale, 0)
        if Path("/proc").exists():
            assert look(path).is_stale
            RunLock(path).close()
    elsewhere = replace(me, host="node-17", system="another")
    write_lock(path, elsewhere, locks.STALE_SECONDS - 20)
    with pytest.raises(RunningError, match="on node-17"):
        RunLock(path)
    write_lock(path, elsewhere, locks.STALE_SECONDS + 1)
    RunLock(path).close()
    path.write_text("{", encoding="utf-8")
    with pytest.raises(RunningError, match="an unknown computer"):
        RunLock(path)
    os.utime(path, (0, 0))
    RunLock(path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_taken_over_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer that was asleep for so long must not go on beside the one that took over."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    mine = RunLock(tmp_path / "_run.lock")
    first = (tmp_path / "_run.lock").stat().st_mtime_ns
    time.sleep(0.2)
    assert (tmp_path / "_run.lock").stat().st_mtime_ns > first, "a heartbeat"
    mine.require()
    write_lock(tmp_path / "_run.lock", replace(mine.owner, host="node-18", system="x"), 0)
    time.sleep(0.2)
    with pytest.raises(RunningError, match=r"taken over by process \d+ on node-18"):
        mine.require()
    mine.close()
    assert (tmp_path / "_run.lock").exists(), "it is the other's now"


def test_of_many_who_want_a_lock_one_has_it(tmp_path: Path) -> None:
    """Also when all want to take over the same stale one."""
    inside, most = 0, 0
    write_lock(tmp_path / "_summary.lock", replace(Owner.this_process(), host="gone", system=""), 1000)

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with waiting_lock(tmp_path / "_summary.lock"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- disks


def test_a_disk_that_takes_no_more_ends_the_run_with_one_sentence(
    scans: Path, small_model: Model, tmp_path: Path
) -> None:
    """Not one failed row for each of a thousand scans; then it goes on."""
    out, rows = tmp_path / "out", []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full_from_now(row) -> None:
        rows.append(row)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    try:
        with pytest.raises(DiskError, match=r"no file may become as large.*start again.*only what is not"):
            explain_batch(find_scans(scans), small_model, OPTIONS, out, on_row=full_from_now)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [row["status"] for row in rows] == ["done"]
    assert [p.name for p in out.glob("sub-*")] == ["sub-0"] and not (out / LOG_FILE).exists()
    (state,) = read_runs(out)
    assert not state.is_running and "as large" in state.state
    found = explain_batch(find_scans(scans), small_model, OPTIONS, out)
    assert (found.done, found.kept, found.failed) == (3, 1, 1)


@contextlib.contextmanager
def mounted(place: Path, options: str):
    """A real file system of its own."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can mount a file system")
def test_a_full_disk_and_a_read_only_one(scans: Path, small_model: Model, tmp_path: Path) -> None:
    disk, listed = tmp_path / "disk", find_scans(scans)
    filler = disk / "somebody's film"

    def fill(row) -> None:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as film:
            while True:
                film.write(b"\0" * 4096)

    with mounted(disk, "size=20m"):
        with pytest.raises(DiskError, match=r"the disk is full \(\d\.\d MB free\). Make room, and start again"):
            explain_batch(listed, small_model, OPTIONS, disk / "out", on_row=fill)
        complete = [p.name for p in (disk / "out").glob("sub-*")]
        assert complete == ["sub-0"] and not list((disk / "out").glob("*.lock"))
        filler.unlink()
        found = explain_batch(listed, small_model, OPTIONS, disk / "out")
        assert (found.kept, found.done, found.failed) == (1, 3, 1)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OutputError, match="mounted read-only"):
            explain_batch(listed, small_model, OPTIONS, disk / "out")
        with pytest.raises(OutputError, match="mounted read-only"):
            explain_batch(listed, small_model, OPTIONS, disk / "new")


# -------------------------------------------------------------------------------------------------------- as it is seen


def row(name: str, message: str, status: str = "failed") -> dict[str, str]:
    return {"name": name, "scan": f"/data/{name}.nii", "status": status, "message": message}


def test_failures_are_grouped_by_reason() -> None:
    rows = [row(f"s{n}", f"/data/s{n}.nii has {n} voxels; 8536523 are needed.") for n in range(12, 15)]
    rows.append(row("x", "/data/x.nii does not exist."))
    (message, names), (other, one) = grouped(rows)
    assert names == ["s12", "s13", "s14"] and "has 12 voxels" in message
    assert one == ["x"] and "does not exist" in other


def test_speed_and_remaining_time_are_of_what_was_computed() -> None:
    progress = Progress(10, began=time.time() - 360)
    for status in ("done before", "done before", "done", "failed", "done"):
        progress.count(row(f"a{progress.left}", "", status), 1900.0)
    assert (progress.kept, progress.done, len(progress.failed), progress.left) == (2, 2, 1, 5)
    assert progress.per_hour == pytest.approx(30, rel=0.01) and progress.remaining_seconds == pytest.approx(
        600, rel=0.01
    )
    assert [shown_age(s) for s in (5, 90, 3700, 200000)] == ["5 s", "2 min", "1 h 2 min", "2 d 7 h"]


def test_status_from_another_terminal(
    scans: Path, small_model: Model, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, said = tmp_path / "out", []

    def look_in(row) -> None:
        assert main(["status", str(out)]) == 0
        said.append(capsys.readouterr().out)

    explain_batch(find_scans(scans), small_model, OPTIONS, out, on_row=look_in)
    assert "run: running; process" in said[0] and f"process {os.getpid()} on" in said[0]
    assert main(["status", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["done"], found["failed"], found["left"]) == (5, 4, 1, 0)
    assert found["runs"][0]["state"] == "complete" and "constant" in found["runs"][0]["failures"][0]["message"]
    write_lock(lock_path(out), replace(Owner.this_process(), pid=2**22 + 1), 0)
    (out / "_run.json").write_text((out / "_run.json").read_text().replace('"ending": "complete"', '"ending": ""'))
    assert "stopped without a word" in described(out, read_runs(out))
    with pytest.raises(UsageError, match="holds no run"):
        read_runs(tmp_path)


def test_json_lines_are_for_machines(
    scans: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["batch", str(scans), "--model", str(small_package), "--method", "sensitivity", "--atlas", "none"]
    command += ["--no-figure", "--no-report", "--no-spread", "--out", str(tmp_path / "out"), "--json-lines"]
    assert main([*command, "--workers", "1"]) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line["event"] == "row"]
    assert [r["name"] for r in rows] == ["sub-0", "sub-1", "sub-1b", "sub-2", "sub-3"]
    assert lines[-1]["event"] == "progress" and lines[-1]["left"] == 0 and lines[-1]["failed"] == 1
    for given, words in ((["--workers", "0"], "must be 1 or more"), (["--jobs", "3"], "say which cluster"),
                         (["--workers", "2", "--scheduler", "tcp://x:1"], "choose one"),
                         (["--mem-gb", "0.1", "--workers", "2"], "0.1 GB of memory were given"),
                         (["--shard", "9/8"], "no shard 9 of 8")):  # fmt: skip
        assert main([*command, *given]) == 2
        assert words in capsys.readouterr().err
