"""One measurement, in a process of its own: ``measure_attribution.py NETWORK METHOD OPTIONS`` prints a line of JSON.

Memory is that of the first run, above what the process holds once the network is loaded and traced; times are medians
of several runs in turn with a plain forward pass.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from figures import peak_bytes, seconds_in_turn

from ADAttributionLogic.architectures.catalogue import ARCHITECTURES, ICBM152_SHAPE, build_network, initialise
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.networks.network import explainable

ROUNDS = 5


def main() -> None:
    name, method, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    scan = load_template().array
    image = torch.from_numpy(scan / scan.max())[None, None]
    module = build_network(name, ICBM152_SHAPE)
    initialise(module, 0)
    started = time.perf_counter()
    network = explainable(module, image.shape[1:], output=ARCHITECTURES[name].output, is_ours=True)
    traced = time.perf_counter() - started

    def forward() -> object:
        with torch.no_grad():
            return module(image)

    def explain() -> object:
        return attribute(Evaluation(network, image, torch.device("cpu")), method, Target(1), options)

    run = forward if method == "forward" else explain
    before = peak_bytes()
    run()
    added = peak_bytes() - before
    forward_seconds, seconds = seconds_in_turn(forward, run, ROUNDS)
    print(
        json.dumps(
            {"forward_seconds": forward_seconds, "seconds": seconds, "added_bytes": added, "trace_seconds": traced}
        )
    )


if __name__ == "__main__":
    main()
