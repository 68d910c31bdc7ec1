"""Building a reference: memory for many maps of the real size, and what one more map costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figures import Figure, peak_bytes

from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.reference.accumulation import Accumulation, Control
from ADAttributionLogic.reference.package import read_reference
from ADAttributionLogic.reference.question import method_of_record, question_of_record
from ADAttributionLogic.reference.state import save_state
from ADAttributionLogic.reference.writing import About, write_reference

SHORT = 40
#: Memory does not grow after the first maps: 150 take a minute, REFERENCE_MAPS=1000 six.
LONG = int(os.environ.get("REFERENCE_MAPS", "150"))

_RECORD = {
    "model": {
        "name": "none",
        "title": "synthetic maps",
        "weights_sha256": "0" * 64,
        "normalisation": {},
        "output": {},
        "classes": ["CN", "AD"],
        "positive_class": "AD",
    },
    "target_class": "AD",
    "start": "probability",
    "methods": {"lrp": {"title": "LRP", "method": "lrp", "options": {}}},
}


def _build(count: int) -> dict[str, float]:
    """Take up random maps, keep the state and write the reference, in this process."""
    template, atlas = load_template(), load_atlas("aal")
    brain = (template.array != 0).astype(np.float32)
    question = question_of_record(_RECORD, template.grid)
    found = Accumulation(question, {"lrp": method_of_record(_RECORD, "lrp")}, [atlas])
    generator = np.random.default_rng(0)
    seconds = []
    for number in range(count):
        heatmap = template.with_array(generator.standard_normal(brain.shape, dtype=np.float32) * brain)
        started = time.process_time()
        found.add(Control(f"p{number}", "", f"{number}"), _RECORD, {"lrp": heatmap}, template)
        seconds.append(time.process_time() - started)
    with tempfile.TemporaryDirectory() as folder:
        save_state(found, Path(folder) / "taken")
        reference = read_reference(write_reference(found, Path(folder) / "reference", About()))
        inside = reference.voxel_sd("lrp").array[brain > 0]
    # Of n normal numbers the standard deviation is 1 ± 1/√(2n).
    return {
        "peak_gib": peak_bytes() / 2**30,
        "first": float(np.median(seconds[1:11])),
        "last": float(np.median(seconds[-10:])),
        "error": abs(float(inside.mean()) - 1),
    }


def _built(count: int) -> dict[str, float]:
    """The same in a process of its own, whose memory nothing else has raised."""
    command = [sys.executable, __file__, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _figures(count: int, found: dict[str, float]) -> Iterator[Figure]:
    yield Figure(f"reference of {count} maps at 193×229×193, peak memory, GiB", found["peak_gib"], 2)
    yield Figure(
        f"reference, processor time of the last of {count} maps / the first", found["last"] / found["first"], 1.25
    )
    yield Figure("reference, processor seconds of one more map", found["last"])
    yield Figure(f"reference of {count} maps, error of the mean standard deviation", found["error"], 1 / count)


def reference_building() -> Iterator[Figure]:
    few, more = _built(SHORT // 4), _built(SHORT)
    yield from _figures(SHORT, more)
    yield Figure(f"reference, peak memory of {SHORT} maps / of {SHORT // 4}", more["peak_gib"] / few["peak_gib"], 1.05)


def reference_of_a_thousand() -> Iterator[Figure]:
    """Of as many as LONG says; its lines say how many."""
    yield from _figures(LONG, _built(LONG))


BENCHMARKS = (reference_building,)
LONG_BENCHMARKS = (reference_of_a_thousand,)

if __name__ == "__main__":
    print(json.dumps(_build(int(sys.argv[1]))))
