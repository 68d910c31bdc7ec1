"""Time and added peak memory of the methods at 193×229×193, against one plain forward pass of the same network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Figure

#: Name, method, options, bar for time, bar for memory.
CASES = (
    ("LRP b-rule beta=0", "lrp", {}, 2.5, 2.6),
    ("LRP b-rule beta=0.5", "lrp", {"beta": 0.5}, 5.0, None),
    ("LRP b-rule beta=1", "lrp", {"beta": 1.0}, 5.0, None),
    ("LRP e-rule", "lrp", {"rule": "e-rule"}, None, None),
    ("LRP epsilon-plus-flat", "lrp", {"rule": "epsilon-plus-flat"}, None, None),
    ("LRP epsilon-gamma-box", "lrp", {"rule": "epsilon-gamma-box"}, None, None),
    ("sensitivity", "sensitivity", {}, 2.5, None),
    ("guided backprop", "guided-backprop", {}, 2.5, None),
    ("gradient x input", "gradient-x-input", {}, None, None),
    ("Grad-CAM", "grad-cam", {}, None, None),
)

NETWORKS = ("boehle2019", "korolev2017")


def _measure(network: str, method: str, options: dict[str, object]) -> dict[str, float]:
    """Run one case in a process of its own, so that its peak memory is its own."""
    script = Path(__file__).with_name("measure_attribution.py")
    done = subprocess.run(
        [sys.executable, str(script), network, method, json.dumps(options)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{network} {method} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def attribution() -> Iterator[Figure]:
    forward = _measure("boehle2019", "forward", {})
    yield Figure("plain forward pass, seconds", forward["forward_seconds"])
    yield Figure("plain forward pass, added peak MB", forward["added_bytes"] / 1e6)
    yield Figure("tracing the network, seconds (once per model)", forward["trace_seconds"])
    for name, method, options, time_bar, memory_bar in CASES:
        found = _measure("boehle2019", method, options)
        yield Figure(f"{name}, time / forward", found["seconds"] / found["forward_seconds"], time_bar)
        yield Figure(f"{name}, added peak memory / forward", found["added_bytes"] / forward["added_bytes"], memory_bar)


def attribution_korolev() -> Iterator[Figure]:
    forward = _measure("korolev2017", "forward", {})
    for name, method, options, _, _ in (CASES[0], CASES[2], CASES[6]):
        found = _measure("korolev2017", method, options)
        yield Figure(f"Korolev, {name}, time / forward", found["seconds"] / found["forward_seconds"])
        yield Figure(f"Korolev, {name}, added peak memory / forward", found["added_bytes"] / forward["added_bytes"])


BENCHMARKS = (attribution, attribution_korolev)
