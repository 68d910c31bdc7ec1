"""ResNet-18, DenseNet-121 and SFCN at 96×112×96: windows of 8 voxels and sensitivity, against their plain passes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Figure

#: Network, bar for the speed-up of a window over a full forward pass.
NETWORKS = (("resnet18", 10), ("densenet121", 2), ("sfcn", 1))


def networks() -> Iterator[Figure]:
    script = Path(__file__).with_name("measure_networks.py")
    for name, bar in NETWORKS:
        done = subprocess.run([sys.executable, str(script), name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        yield Figure(f"{name}, occlusion 8, full forward / window", found["forward"] / found["windows"], bar, False)
        yield Figure(f"{name}, occlusion 8, full forward / window as counted", 1 / found["counted"])
        yield Figure(f"{name}, sensitivity, time / forward", found["sensitivity"] / found["forward"])
        yield Figure(f"{name}, sensitivity, time / autograd", found["sensitivity"] / found["gradient"], 1.0)


BENCHMARKS = (networks,)
