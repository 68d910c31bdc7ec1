"""One measurement, in a process of its own: ``measure_occlusion.py CASE ARGUMENTS`` prints a line of JSON.

Cases: ``windows SIZE STRIDE COUNT`` (so many windows over the brain, at sampled positions), ``map SIZE STRIDE MASK``
(a whole map through the public function), ``voxels`` (the whole single-voxel map of the brain). All at 193×229×193 on
the network of Böhle et al. 2019, with two CPU threads, and in turn with plain full forward passes of the same network.
Memory is the peak of the occlusion above what the process holds when the network is traced and the image loaded,
recorded activations included.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from figures import peak_bytes

from ADAttributionLogic.architectures.catalogue import ICBM152_SHAPE, build_network, initialise
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.occlusion.covering import cover_boxes
from ADAttributionLogic.occlusion.windows import WindowGrid

CPU = torch.device("cpu")
ROUNDS = 3


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    case, *arguments = sys.argv[1:]
    torch.set_num_threads(2)
    scan = load_template().array
    image = torch.from_numpy(np.ascontiguousarray(scan / scan.max()))[None, None]
    module = build_network("boehle2019", ICBM152_SHAPE)
    initialise(module, 0)
    network = explainable(module, image.shape[1:], is_ours=True)

    def forward() -> None:
        with torch.no_grad():
            module(image)

    found: dict[str, float] = {}
    before = peak_bytes()
    if case == "windows":
        size, stride, count = map(int, arguments)
        evaluation = Evaluation(network, image, CPU)
        recording = evaluation.recording()
        grid = WindowGrid(ICBM152_SHAPE, size, stride)
        lows, highs = grid.limits(grid.touching(scan > 0))
        chosen = np.random.default_rng(0).permutation(len(lows))[:count]
        lows, highs = lows[chosen], highs[chosen]
        incremental = IncrementalForward(recording)
        cover = cover_boxes(torch.zeros(1, 1, 1, 1, 1), lows, highs)
        list(incremental.run(lows, highs, cover))  # the first run also pays for what is computed once per map
        found["added_bytes"] = peak_bytes() - before
        runs, forwards = [], []
        for _ in range(ROUNDS):
            forwards.append(seconds(forward))
            runs.append(seconds(lambda: list(incremental.run(lows, highs, cover))) / len(lows))
        forwards.append(seconds(forward))
        found |= {"seconds": statistics.median(runs), "forward_seconds": statistics.median(forwards)}
    else:
        method, options = "voxel-occlusion", {}
        if case == "map":
            size, stride = map(int, arguments[:2])
            method, options = "occlusion", {"size": size, "stride": stride, "mask": arguments[2]}
        taken = seconds(lambda: attribute(Evaluation(network, image, CPU), method, Target(1), options))
        # The plain passes come last, because they take more memory than the map.
        found["added_bytes"] = peak_bytes() - before
        found |= {"seconds": taken, "forward_seconds": statistics.median(seconds(forward) for _ in range(5))}
    found["brain_voxels"] = int((scan > 0).sum())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
