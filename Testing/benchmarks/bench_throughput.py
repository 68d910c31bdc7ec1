"""Scans per hour of a batch with workers against a loop, what the executor costs, and what 64 workers would do.

Affine registration, LRP and region table of scans as acquired at the real size; about five minutes on two idle cores.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from figures import Figure
from native_scans import make_scans
from worker_simulation import Times, simulate

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.batch.workers import Sources
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.command_options.engine import memory_need_mb
from ADAttributionLogic.engines.local import LocalProcesses
from ADAttributionLogic.engines.machine import Plan, available_cores, plan_for, thread_environment
from ADAttributionLogic.engines.tasks import Outcome, Task
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.preprocessing.pipeline import Options

MODEL, ATLAS = "simulated-atrophy", "aal"
LOOP, BATCH = 4, 8
#: Of an H200, measured by gpu_pipeline.py, where its result is kept; otherwise this.
GPU_RESULT = Path(__file__).parent / "engine" / "gpu_pipeline.json"
GPU_SECONDS = 0.5

#: What somebody writes who has no engine: one scan after the other, all threads, the network warm.
_LOOP = """
import json, sys, time
from pathlib import Path
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.preprocessing.pipeline import Options
from ADAttributionLogic.report.result_folder import write_explanation
from ADAttributionLogic.scan_files import read_scan

scans, out = sorted(Path(sys.argv[1]).glob("*.nii.gz"))[: int(sys.argv[3])], Path(sys.argv[2])
model, atlas = load_model("simulated-atrophy"), load_atlas("aal")
started = time.perf_counter()
for scan in scans:
    found = explain_native(
        read_scan(scan), model, ["lrp"], Options("affine"), space="model", accept_quality=True, atlas=atlas,
        cache=out / "cache", with_spread=False,
    )
    write_explanation(found, out / scan.name[:6], figure=False, page=False)
print(json.dumps(time.perf_counter() - started))
"""


def _options(place: Path) -> BatchOptions:
    preparation = Preparation(Options("affine"), "model", True)
    return BatchOptions(
        [MethodRequest("lrp")],
        figure=False,
        page=False,
        preparation=preparation,
        cache=place / "cache",
        with_spread=False,
    )


class _Noted(LocalProcesses):
    """Keeps the outcomes, with what passed from the first task's beginning to the last one's end."""

    outcomes: list[Outcome]
    seconds = processor_seconds = 0.0

    def run(self, tasks, opening, *, monitor=None, listener=None):
        self.outcomes, begun = [], []

        def hear(event) -> None:
            if event.kind == "started":
                begun.append((time.perf_counter(), time.process_time()))

        for outcome in super().run(tasks, opening, monitor=monitor, listener=hear):
            self.outcomes.append(outcome)
            self.seconds = time.perf_counter() - begun[0][0]
            yield outcome
            self.processor_seconds = time.process_time() - begun[0][1]


def _loop(scans: Path, place: Path) -> float:
    """Seconds per scan of the loop, in a process of its own."""
    environment = {
        **os.environ,
        **thread_environment(available_cores()),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", _LOOP, str(scans), str(place), str(LOOP)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)) / LOOP


def _overhead_of_a_task() -> float:
    """Seconds between two tasks that do nothing, on one worker."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tiny_tasks import Squares

    begun: list[float] = []
    engine = LocalProcesses(Plan(1, 1, 50.0, ""))
    tasks = [Task(f"{n}", (n, 0.0)) for n in range(1000)]
    for _ in engine.run(tasks, Squares(), listener=lambda event: begun.append(time.perf_counter())):
        pass
    return statistics.median(b - a for a, b in itertools.pairwise(begun))


def batch_throughput() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_scans(place / "scans", BATCH)
        (place / "loop").mkdir()
        loop = _loop(place / "scans", place / "loop")
        model, options = load_model(MODEL), _options(place)
        stated = memory_need_mb(model, options)
        engine = _Noted(plan_for(BATCH, stated))
        result = explain_batch(
            find_scans(place / "scans"),
            model,
            options,
            place / "out",
            atlas=load_atlas(ATLAS),
            engine=engine,
            sources=Sources.named(MODEL, atlas=ATLAS),
        )
        assert result.done == BATCH, result.rows
        records = [json.loads(p.read_text(encoding="utf-8")) for p in (place / "out").glob("*/provenance.json")]
    seconds, spent = engine.seconds, engine.processor_seconds
    work = math.fsum(o.seconds for o in engine.outcomes)
    peak = max(o.peak_mb or 0.0 for o in engine.outcomes)
    workers, per_hour = engine.plan.workers, 3600 * BATCH / seconds
    between = _overhead_of_a_task()
    print(f"# {engine.plan.reason}; loop {3600 / loop:.0f} scans an hour", flush=True)
    yield Figure(f"batch, scans an hour with {workers} workers (affine, LRP, table)", per_hour, 100, at_most=False)
    yield Figure("batch, scans an hour / those of a loop in Python, network warm", per_hour * loop / 3600, 1.8, False)
    yield Figure("engine, seconds between two tasks / seconds of a scan", between / (work / BATCH), 0.02)
    yield Figure("master, processor seconds per scan / seconds of a scan", spent / BATCH / (work / BATCH), 0.02)
    yield Figure("worker, peak memory / what the plan says", peak / stated, 1.0)
    yield Figure("worker, peak memory, MB", peak)
    explained = statistics.mean(sum(m["seconds"] for m in r["methods"].values()) for r in records)
    yield from _simulated(work / BATCH, explained, spent / BATCH)


def _simulated(worker: float, explained: float, master: float) -> Iterator[Figure]:
    """64 workers and one GPU, and what limits them; on stderr also other numbers of workers."""
    device, where = GPU_SECONDS, "assumed"
    if GPU_RESULT.is_file():
        device = json.loads(GPU_RESULT.read_text(encoding="utf-8"))["pipeline"]["gpu_seconds_per_scan"]
        where = "measured on an H200"
    rest = max(worker - explained, 0.0)
    times = Times(0.85 * rest, device, 0.15 * rest, master)
    print(
        f"# simulated: {times.before:.1f} s before, {device:.2f} s on the GPU ({where}), {times.after:.1f} s after, "
        f"{1000 * master:.0f} ms in the master"
    )
    print("# workers\tscans an hour\tGPU busy\tworkers busy\tlimit")
    for workers in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        found = simulate(times, workers, turns=4)
        print(
            f"# {workers}\t{found.per_hour:.0f}\t{found.device_busy:.0%}\t{found.workers_busy:.0%}\t{found.limit}",
            flush=True,
        )
    found = simulate(times, 64, turns=4)
    yield Figure("simulated: 64 workers and one GPU, scans an hour", found.per_hour)
    yield Figure("simulated: workers that keep one GPU busy", times.of_worker / device if device else math.inf)


BENCHMARKS = (batch_throughput,)
