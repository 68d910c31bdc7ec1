"""Every network of the README's list at its size: LRP, sensitivity and windows of 8 voxels against its plain passes.

``make bench BENCH=networks`` also writes ``networks/networks.tsv``: what each consists of, whether it is refused, and
the ratios. Run as a script, this file writes the table without what has to be measured (two minutes), or, with names
of networks, their lines alone.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import Figure

from ADAttributionLogic.engines.machine import worker_environment

HERE = Path(__file__).parent
TABLE = HERE / "networks" / "networks.tsv"
COLUMNS = (
    "network",
    "source",
    "shape",
    "layers",
    "operations",
    "refused",
    "LRP / forward",
    "AttnLRP / forward",
    "LRP memory / forward",
    "sensitivity / forward",
    "sensitivity / autograd",
    "forward / window",
    "forward / window, counted",
)

#: Bars for the speed-up of a window over a full forward pass.
BARS = {"ResNet18": 5, "DenseNet121": 2, "SFCN": 10}


def covered() -> list[str]:
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
    from covered_networks import COVERED

    return list(COVERED)


def measured(name: str, *how: str) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "measure_networks.py"), name, *how]
    environment = {**os.environ, **worker_environment(1)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, found: dict[str, Any]) -> dict[str, str]:
    """A line of the table; what was refused has no ratios."""
    line = {"network": name, "source": found["source"], "shape": "×".join(map(str, found["shape"]))}
    line["refused"] = found["refused"] or "no"
    if found["refused"]:
        return line
    line |= {"layers": str(found["layers"]), "operations": ", ".join(found["operations"])}
    ratios = {"forward / window, counted": 1 / found["counted"]}
    if "forward" in found:
        ratios |= {
            "LRP / forward": found["lrp"] / found["forward"],
            "LRP memory / forward": found["memory lrp"] / max(found["memory forward"], 1),
            "sensitivity / forward": found["sensitivity"] / found["forward"],
            "sensitivity / autograd": found["sensitivity"] / found["gradient"],
            "forward / window": found["forward"] / found["windows"],
        }
    if "attn-lrp" in found:
        ratios["AttnLRP / forward"] = found["attn-lrp"] / found["forward"]
    return line | {column: f"{ratio:.2f}" for column, ratio in ratios.items()}


def lines(*how: str) -> Iterator[dict[str, str]]:
    """Write the table line by line."""
    done: list[dict[str, str]] = []
    for name in covered():
        done.append(row(name, measured(name, *how)))
        write(done)
        yield done[-1]


def measure_again(names: list[str]) -> None:
    """Measure some networks, and keep the lines of the others."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        kept = {line["network"]: line for line in csv.DictReader(file, delimiter="\t")}
    for name in names:
        kept[name] = row(name, measured(name))
        write([kept[each] for each in covered() if each in kept])
        print(name, kept[name].get("LRP / forward", kept[name]["refused"]), flush=True)


def write(table: list[dict[str, str]]) -> None:
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def networks() -> Iterator[Figure]:
    for line in lines():
        name = line["network"]
        if line["refused"] != "no":
            continue
        has_attn_lrp = bool(line.get("AttnLRP / forward"))
        # The rule that was made for a network has to be fast; the b-rule is there for all.
        yield Figure(f"{name}, LRP, time / forward", float(line["LRP / forward"]), None if has_attn_lrp else 5.0)
        if has_attn_lrp:
            yield Figure(f"{name}, AttnLRP, time / forward", float(line["AttnLRP / forward"]), 5.0)
        yield Figure(f"{name}, LRP, memory / forward", float(line["LRP memory / forward"]))
        yield Figure(f"{name}, sensitivity, time / forward", float(line["sensitivity / forward"]))
        yield Figure(f"{name}, sensitivity, time / autograd", float(line["sensitivity / autograd"]))
        window = float(line["forward / window"])
        yield Figure(f"{name}, occlusion 8, full forward / window", window, BARS.get(name), False)


BENCHMARKS = (networks,)

if __name__ == "__main__" and sys.argv[1:]:
    measure_again(sys.argv[1:])
elif __name__ == "__main__":
    for line in lines("counted"):
        print(line["network"], line.get("forward / window, counted", line["refused"]))
