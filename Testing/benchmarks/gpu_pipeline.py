"""A batch on a GPU, with the pipeline and without: ``python Testing/benchmarks/gpu_pipeline.py FOLDER [SCANS]``.

Simulated scans as acquired, affine registration, LRP and region table. With the pipeline as many processes as cores
prepare scans and write results, and take turns on the GPU; without it one process does one thing after the other. The
results (one JSON file, a table on stdout) are written as soon as each is known. About 100 seconds on 16 cores.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import peak_bytes
from native_scans import make_scans

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.batch.workers import Sources
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.engines.local import LocalProcesses
from ADAttributionLogic.engines.machine import available_cores, plan_for
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.preprocessing.pipeline import Options
from ADAttributionLogic.scan_files import read_scan

MODEL, ATLAS = "simulated-atrophy", "aal"
#: Without the pipeline, for whose speed few scans are enough.
SERIAL = 3


def main() -> int:
    """Measure both, and say how they compare."""
    out, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 24
    out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, Any] = {"device": device, "cores": available_cores(), "scans": count}
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        started = time.perf_counter()
        make_scans(place / "scans", count)
        found["simulation_seconds"] = round(time.perf_counter() - started, 1)
        print(f"{count} scans simulated in {found['simulation_seconds']} s", flush=True)
        for name, pipeline in (("pipeline", True), ("one after the other", False)):
            found[name] = measure(place, name, count if pipeline else min(SERIAL, count), pipeline, device)
            (out / "gpu_pipeline.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(name, json.dumps(found[name]), flush=True)
        first = next(iter(sorted((place / "out one after the other").glob("sub-*")))).name
        pipeline = read_scan(place / "out pipeline" / first / "heatmaps" / "lrp.nii.gz").array
        alone = read_scan(place / "out one after the other" / first / "heatmaps" / "lrp.nii.gz").array
        measure(place, "cpu", 1, False, "cpu")
        on_cpu = read_scan(place / "out cpu" / first / "heatmaps" / "lrp.nii.gz").array
        found["largest difference of a map, pipeline / alone, of its maximum"] = difference(pipeline, alone)
        found[f"largest difference of a map, {device} / cpu, of its maximum"] = difference(pipeline, on_cpu)
    ratio = found["pipeline"]["scans_per_hour"] / found["one after the other"]["scans_per_hour"]
    found["pipeline / one after the other"] = round(ratio, 2)
    (out / "gpu_pipeline.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"pipeline / one after the other: {ratio:.2f}")
    return 0


def difference(one: Any, other: Any) -> float:
    """Largest of the voxels, as a share of the map's largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def measure(place: Path, name: str, count: int, pipeline: bool, device: str) -> dict[str, object]:
    """Scans per hour, from when the first scan is begun on, and the time in which the GPU explained."""
    model, atlas = load_model(MODEL), load_atlas(ATLAS)
    asked = BatchOptions(
        [MethodRequest("lrp")],
        device=device,
        preparation=Preparation(Options("affine"), "model", True),
        cache=place / f"cache {name}",
        with_spread=False,
    )
    engine = LocalProcesses(plan_for(count, 2500.0)) if pipeline else None
    begun: list[float] = []
    ended: list[float] = []
    out = place / f"out {name}"
    started = time.perf_counter()
    result = explain_batch(
        find_scans(place / "scans")[:count],
        model,
        asked,
        out,
        atlas=atlas,
        engine=engine,
        sources=Sources.named(MODEL, atlas=ATLAS),
        listener=lambda event: begun.append(time.perf_counter()) if event.kind == "started" else None,
        on_row=lambda row: ended.append(time.perf_counter()),
    )
    seconds = ended[-1] - begun[0]
    records = [json.loads(p.read_text(encoding="utf-8")) for p in out.glob("*/provenance.json")]
    explained = [sum(m["seconds"] for m in r["methods"].values()) for r in records]
    return {
        "scans": result.done,
        "failed": result.failed,
        "engine": engine.describe() if engine else "this process",
        "start_seconds": round(begun[0] - started, 1),
        "seconds": round(seconds, 1),
        "scans_per_hour": round(3600 * result.done / seconds, 1),
        "gpu_seconds_per_scan": round(math.fsum(explained) / max(len(explained), 1), 3),
        "gpu_busy": round(math.fsum(explained) / seconds, 3),
        "peak_mb_here": round(peak_bytes() / 2**20),
    }


if __name__ == "__main__":
    sys.exit(main())
