"""Engines: every task has one outcome, whatever dies meanwhile; shares of a list; how a machine is filled."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tiny_tasks import Dying, Folders, Pages, Squares, Unopenable

from ADAttributionLogic.engines.here import Here
from ADAttributionLogic.engines.local import LocalProcesses
from ADAttributionLogic.engines.machine import Plan, available_cores, available_memory_mb, plan_for, worker_environment
from ADAttributionLogic.engines.shards import Shard, read_shard
from ADAttributionLogic.engines.tasks import Event, Task
from ADAttributionLogic.engines.turns import Turns
from ADAttributionLogic.errors import Cancelled, EngineError, UsageError
from ADAttributionLogic.monitor import Monitor


def processes(workers: int = 3, **given) -> LocalProcesses:
    return LocalProcesses(Plan(workers, 1, 50.0, "as the test wants it"), **given)


def numbers(count: int, seconds: float = 0.0) -> list[Task]:
    return [Task(f"t{n}", (n, seconds)) for n in range(count)]


@pytest.mark.parametrize("engine", [Here(), processes(1), processes(3)], ids=["here", "one process", "three"])
def test_each_task_has_its_value(engine) -> None:
    found = list(engine.run(numbers(12), Squares(5)))
    assert {o.task.key: o.value for o in found} == {f"t{n}": n * n + 5 for n in range(12)}
    assert all(o.failure is None and o.attempts == 1 and o.peak_mb for o in found)


@pytest.mark.parametrize("engine", [Here(), processes(2)], ids=["here", "processes"])
def test_a_bad_task_fails_once_and_stops_nobody(engine) -> None:
    events: list[Event] = []
    tasks = [Task("a", (1, 0)), Task("b", "bad"), Task("c", (3, 0))]
    found = {o.task.key: o for o in engine.run(tasks, Squares(), listener=events.append)}
    assert [found[key].value for key in "abc"] == [1, None, 9]
    failure = found["b"].failure
    assert (failure.message, failure.is_lost, failure.exit_code) == ("This scan is bad.", False, 3)
    assert "ScanError" in failure.story and found["b"].attempts == 1, "it would fail again"
    assert [e.key for e in events if e.kind == "started"].count("b") == 1


def test_a_lost_worker_costs_what_it_had_in_hand(tmp_path: Path) -> None:
    events: list[Event] = []
    tasks = [Task("once", ("once", str(tmp_path / "mark"))), *numbers(6)]
    found = {o.task.key: o for o in processes(2).run(tasks, Squares(), listener=events.append)}
    assert found["once"].value == "survived" and found["once"].attempts == 2
    assert [found[f"t{n}"].attempts for n in range(6)] == [1] * 6
    ((key, text),) = [(e.key, e.text) for e in events if e.kind == "lost"]
    assert key == "once" and text in ("worker 1 was killed (SIGKILL)", "worker 2 was killed (SIGKILL)")


def test_what_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    """After three times, with its last words; the others are computed."""
    tasks = [Task("fatal", "fatal"), *numbers(5)]
    found = {o.task.key: o for o in processes(2).run(tasks, Squares())}
    failure = found["fatal"].failure
    assert failure.is_lost and found["fatal"].attempts == 3 and "bad_alloc" in failure.story
    assert "lost 3 times" in failure.message and "take fewer workers" in failure.message
    assert all(found[f"t{n}"].value == n * n for n in range(5))


@pytest.mark.parametrize(("opening", "words"), [(Unopenable(), "There is no network here"), (Dying(), "SIGKILL")])
def test_workers_that_cannot_begin_end_the_run(opening, words: str) -> None:
    with pytest.raises(EngineError, match=words) as error:
        list(processes(2).run(numbers(100), opening))
    assert error.value.exit_code == (3 if isinstance(opening, Unopenable) else 9)


def test_cancelling_ends_the_workers(tmp_path: Path) -> None:
    engine, seen = processes(2), []
    monitor = Monitor(None, lambda: len(seen) >= 2)
    started = time.monotonic()
    with pytest.raises(Cancelled):
        for outcome in engine.run([*numbers(2), Task("long", (1, 60)), Task("longer", (1, 60))], Squares(),
                                  monitor=monitor):  # fmt: skip
            seen.append(outcome)
    assert time.monotonic() - started < 30 and not children_of(os.getpid())


def test_a_machine_without_memory_goes_on_with_fewer_workers() -> None:
    """The youngest has to go, its task is computed by another, and that counts as no attempt."""
    free = iter([100.0, *[5000.0] * 1000])
    events: list[Event] = []
    engine = processes(3, free_mb=lambda: next(free))
    found = list(engine.run(numbers(9, 0.6), Squares(), listener=events.append))
    assert sorted(o.value for o in found) == [n * n for n in range(9)] and {o.attempts for o in found} == {1}
    (note,) = (e.text for e in events if e.kind == "note")
    assert "100 MB of memory were left: worker 3 was ended, and 2 go on" in note


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_worker_keeps_the_memory_of_the_last_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the system finds and clears a page for every 4 kB of every array of every scan."""
    (kept,) = processes(1).run([Task("a", 256)], Pages())
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")  # a user's own word
    (given_back,) = processes(1).run([Task("a", 256)], Pages())
    assert kept.value < 100 < given_back.value


def test_a_worker_has_the_users_tunables_as_well() -> None:
    environment = worker_environment(2, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    assert environment["OMP_NUM_THREADS"] == "2" and worker_environment(1, {})["GLIBC_TUNABLES"].endswith("hugetlb=1")


def children_of(pid: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = place.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == pid and words[0] != "Z" and "engines.worker" in command_of(int(place.parent.name)):
            found.append(int(place.parent.name))
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


@on_linux
def test_workers_killed_at_random_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """Twelve kills among sixty tasks: each is computed, none that was complete is computed again."""
    engine = processes(3, attempts=20)
    kills = 0
    generator = random.Random(7)
    over = threading.Event()

    def kill() -> None:
        nonlocal kills
        while kills < 12 and not over.is_set():
            time.sleep(0.05 + 0.2 * generator.random())
            alive = children_of(os.getpid())
            if alive:
                os.kill(generator.choice(alive), signal.SIGKILL)
                kills += 1

    thread = threading.Thread(target=kill)
    thread.start()
    tasks = [Task(f"t{n:02d}", (f"t{n:02d}", 0.1)) for n in range(60)]
    try:
        found = list(engine.run(tasks, Folders(str(tmp_path))))
    finally:
        over.set()
        thread.join()
    assert kills == 12 and Counter(o.task.key for o in found) == Counter(t.key for t in tasks)
    assert all(o.failure is None for o in found) and sum(o.attempts - 1 for o in found) <= kills
    whole = [p for p in tmp_path.iterdir() if (p / "done").is_file()]
    assert len(whole) == 60 and all(len(list(p.iterdir())) == 5 for p in whole)
    computed = Counter((tmp_path / "computed.log").read_text().split())
    assert max(computed.values()) == 1


MASTER = """
import sys
from tiny_tasks import Folders
from ADAttributionLogic.engines.local import LocalProcesses
from ADAttributionLogic.engines.machine import Plan
from ADAttributionLogic.engines.tasks import Task

tasks = [Task(f"t{n:02d}", (f"t{n:02d}", 0.15)) for n in range(40)]
for outcome in LocalProcesses(Plan(3, 1, 50.0, "")).run(tasks, Folders(sys.argv[1])):
    assert outcome.failure is None, outcome
print("complete")
"""


@on_linux
def test_a_killed_master_takes_its_workers_along(tmp_path: Path) -> None:
    """Six times; started again it goes on, and nothing that was complete is computed again."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    generator = random.Random(3)
    for _ in range(6):
        master = subprocess.Popen([sys.executable, "-c", MASTER, str(tmp_path)], env=environment)
        time.sleep(0.4 + 0.5 * generator.random())
        workers = children_of(master.pid)
        master.kill()
        master.wait()
        stop = time.monotonic() + 10
        while any(command_of(pid) for pid in workers) and time.monotonic() < stop:
            time.sleep(0.02)
        assert not any("engines.worker" in command_of(pid) for pid in workers)
    done = subprocess.run([sys.executable, "-c", MASTER, str(tmp_path)], env=environment, capture_output=True)
    assert done.stdout.split() == [b"complete"], done.stderr
    computed = Counter((tmp_path / "computed.log").read_text().split())
    assert len([p for p in tmp_path.iterdir() if (p / "done").is_file()]) == 40 and max(computed.values()) == 1


# -------------------------------------------------------------------------------------------------------------- shards


def test_shards_are_a_partition() -> None:
    items = list(range(23))
    shares = [Shard(number, 8).of(items) for number in range(1, 9)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ((3, 1, 8, 1, 8), Shard(3, 8)),
        ((0, 0, 7, 1, 8), Shard(1, 8)),
        ((5, 1, 9, 2, 5), Shard(3, 5)),
    ],
)
def test_a_job_array_of_slurm_says_which_shard_it_is(variables: tuple[int, ...], expected: Shard) -> None:
    assert read_shard("slurm", array(*variables)) == expected


def array(number: int, first: int, last: int, step: int, count: int) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    values = (number, first, last, step, count)
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("slurm", {}, "SLURM_ARRAY_TASK_ID.*is not set"),
        ("slurm", array(3, 1, 9, 1, 4), "numbers without gaps"),
        ("0/8", {}, "no shard 0 of 8"),
        ("9/8", {}, "from 1 to 8"),
        ("half", {}, "Write 3/8"),
    ],
)
def test_what_is_no_shard_is_refused(text: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_shard(text, environment)


# ------------------------------------------------------------------------------------------------------- turns on a GPU


@on_linux
def test_so_many_are_on_the_device_at_a_time(tmp_path: Path) -> None:
    """And whoever dies on it gives his turn back."""
    turns = Turns("cuda:0", 2, tmp_path)
    child = os.fork()
    if not child:
        with turns.turn(), turns.turn():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    inside, most, lock = 0, 0, threading.Lock()

    def explain() -> None:
        nonlocal inside, most
        with turns.turn():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=explain) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


# -------------------------------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("given", "workers", "threads", "words"),
    [
        ({"cores": 16, "free_mb": 131072.0}, 16, 1, "limited by cores"),
        ({"cores": 16, "free_mb": 16384.0}, 4, 4, "limited by memory"),
        ({"cores": 2, "free_mb": 1000.0}, 1, 2, "limited by memory"),
        ({"cores": 16, "free_mb": 131072.0, "tasks": 3}, 3, 5, "more would be of no use"),
        ({"cores": 16, "free_mb": 131072.0, "threads": 4}, 4, 4, "limited by cores"),
        ({"cores": 4, "free_mb": 131072.0, "workers": 6}, 6, 1, "as asked"),
        ({"cores": 16, "free_mb": 131072.0, "total_mb": 8192.0}, 2, 8, "limited by memory"),
    ],
)
def test_a_machine_is_full_and_does_not_swap(given: dict, workers: int, threads: int, words: str) -> None:
    plan = plan_for(given.pop("tasks", 100), 3400.0, **given)
    assert (plan.workers, plan.threads) == (workers, threads)
    assert words in plan.reason and f"{workers} worker" in plan.reason


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="3.3 GB"):
        plan_for(10, 3400.0, total_mb=2000.0)
    with pytest.raises(UsageError, match="must be 1 or more, but is 0"):
        plan_for(10, 3400.0, workers=0)


def test_what_this_machine_has() -> None:
    assert 1 <= available_cores() <= os.cpu_count()
    free = available_memory_mb()
    assert free is None or free > 10


# ---------------------------------------------------------------------------------------------------------------- Dask


@pytest.fixture
def cluster():
    """Real processes: a scheduler, and three workers whose nannies start them again."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1", silence_logs=50
    ) as cluster:
        yield cluster


def test_dask_gives_the_same_and_outlives_its_workers(cluster, tmp_path: Path) -> None:
    """Values, a bad task, a fatal one, and eight kills among thirty tasks."""
    from ADAttributionLogic.engines.dask_cluster import DaskCluster

    engine = DaskCluster(cluster.scheduler_address)
    found = {o.task.key: o for o in engine.run([*numbers(5), Task("b", "bad")], Squares(3))}
    assert [found[f"t{n}"].value for n in range(5)] == [n * n + 3 for n in range(5)]
    assert found["b"].failure.message == "This scan is bad." and found["b"].attempts == 1
    generator, kills, over = random.Random(5), 0, threading.Event()

    def kill() -> None:
        nonlocal kills
        while kills < 8 and not over.is_set():
            time.sleep(0.1 + 0.3 * generator.random())
            alive = [n.pid for n in (w.process for w in cluster.workers.values()) if n is not None and n.pid]
            if alive:
                os.kill(generator.choice(alive), signal.SIGKILL)
                kills += 1

    thread = threading.Thread(target=kill)
    thread.start()
    tasks = [Task(f"t{n:02d}", (f"t{n:02d}", 0.2)) for n in range(30)]
    try:
        found = {o.task.key: o for o in engine.run(tasks, Folders(str(tmp_path)))}
    finally:
        over.set()
        thread.join()
    # Dask gives a task up after three workers; started again, that one is computed as well.
    lost = [o for o in found.values() if o.failure is not None]
    assert all(o.failure.is_lost for o in lost) and kills >= 4
    again = list(engine.run(tasks, Folders(str(tmp_path))))
    assert [o.value for o in again].count("kept") >= 30 - len(lost) and not any(o.failure for o in again)
    computed = Counter((tmp_path / "computed.log").read_text().split())
    assert len(computed) == 30 and max(computed.values()) == 1


def test_a_scheduler_that_dies_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """Killed at random moments, four times; the next one goes on with what is left."""
    pytest.importorskip("distributed")
    from ADAttributionLogic.engines.dask_cluster import DaskCluster

    tasks = [Task(f"t{n:02d}", (f"t{n:02d}", 0.2)) for n in range(60)]
    generator, kills = random.Random(2), 0
    for trial in range(5):
        with dask_processes(tmp_path / f"scheduler-{trial}.json") as (scheduler, file):
            engine = DaskCluster(str(file))
            timer = threading.Timer(0.3 + generator.random(), scheduler.kill)
            try:
                outcomes = engine.run(tasks, Folders(str(tmp_path / "out")))
                first = next(outcomes)
                if trial < 4:
                    timer.start()
                assert first.failure is None and len([first, *outcomes]) == 60
                assert trial == 4
            except EngineError as error:
                assert "scheduler" in str(error) and "it goes on where it was" in str(error)
                kills += 1
            finally:
                timer.cancel()
    assert kills == 4
    computed = Counter((tmp_path / "out" / "computed.log").read_text().split())
    assert len(computed) == 60 and max(computed.values()) == 1


@contextlib.contextmanager
def dask_processes(file: Path):
    """A scheduler and two workers as people start them, by the command ``dask``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
    scheduler = subprocess.Popen([*command, *options], **quiet)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    worker += ["--no-nanny", "--no-dashboard", "--death-timeout", "20"]
    workers = [subprocess.Popen(worker, **quiet) for _ in range(2)]
    try:
        stop = time.monotonic() + 60
        while not file.is_file() and time.monotonic() < stop:
            time.sleep(0.05)
        yield scheduler, file
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait()


def test_dask_jobqueue_starts_workers_as_it_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own kind "local" writes and runs job scripts as those of queues do."""
    dask = pytest.importorskip("dask")
    pytest.importorskip("dask_jobqueue")
    from ADAttributionLogic.engines.dask_cluster import DaskCluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(tmp_path)
    configured = {"cores": 1, "memory": "1GB", "processes": 1, "interface": "lo", "death-timeout": 60}
    with dask.config.set({f"jobqueue.local.{key}": value for key, value in configured.items()}):
        found = list(DaskCluster(kind="local", jobs=2).run(numbers(6, 0.05), Squares()))
    assert sorted(o.value for o in found) == [n * n for n in range(6)]


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    from ADAttributionLogic.engines import dask_cluster

    monkeypatch.setattr(dask_cluster, "_SCHEDULER_SECONDS", 0.5)
    with pytest.raises(EngineError, match="no Dask scheduler at tcp://127.0.0.1:1"):
        list(dask_cluster.DaskCluster("tcp://127.0.0.1:1").run(numbers(1), Squares()))
    with pytest.raises(UsageError, match="slurm"):
        dask_cluster.DaskCluster(kind="slrm", jobs=2)
    with pytest.raises(UsageError, match="--jobs"):
        dask_cluster.DaskCluster(kind="slurm")
