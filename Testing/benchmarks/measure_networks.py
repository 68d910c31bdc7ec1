"""One network of the field at 96×112×96: ``measure_networks.py NAME`` prints a line of JSON.

Processor time of one thread, so that other programs matter little: of a plain forward pass of the module, of a window
of 8 voxels (sampled positions in the middle), of sensitivity, and of a plain gradient by autograd, in turn.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from field_networks import SHAPE_2MM, field_network

from ADAttributionLogic import attribution  # noqa: F401
from ADAttributionLogic.attribution.covering import cover_boxes, mean_work
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.networks.network import explainable

SIZE, WINDOWS, ROUNDS = 8, 12, 3


def seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    module = field_network(sys.argv[1])
    image = torch.rand(1, 1, *SHAPE_2MM, generator=torch.Generator().manual_seed(1))
    network = explainable(module, image.shape[1:])
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    generator = np.random.default_rng(0)
    lows = np.stack([generator.integers(10, n - 10 - SIZE, WINDOWS) for n in SHAPE_2MM], axis=1)
    highs = lows + SIZE
    evaluation = Evaluation(network, image, torch.device("cpu"))
    windows = IncrementalForward(evaluation.recording())
    cover = cover_boxes(torch.zeros(1, 1, 1, 1, 1), lows, highs)

    def forward() -> None:
        with torch.no_grad():
            module(image)

    def gradient() -> None:
        x = image.clone().requires_grad_()
        torch.autograd.grad(torch.softmax(module(x), 1)[0, 1], x)

    def sensitivity() -> None:
        attribute(Evaluation(network, image, torch.device("cpu")), "sensitivity", Target(1))

    cases = {
        "forward": forward,
        "gradient": gradient,
        "sensitivity": sensitivity,
        "windows": lambda: list(windows.run(lows, highs, cover)),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            taken[name].append(seconds(case))
    found = {name: statistics.median(each) for name, each in taken.items()}
    found["windows"] /= WINDOWS
    found["counted"] = mean_work(network.folded, lows, highs, 1 << 30)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
