"""One network of the field at the size at which it is used: ``measure_networks.py NAME [counted]`` prints JSON.

Processor time of one thread, so that other programs matter little: of a plain forward pass of the module, of a window
of 8 voxels (sampled positions in the middle), of sensitivity, of LRP, and of a plain gradient by autograd, in turn. LRP
is by the b-rule, and by AttnLRP as well where there is attention or an activation that is no ReLU: of inputs of either
sign the b-rule takes the two parts one by one. The memory is what each takes at most beyond what the process has
before it (on Linux); the times are those in a process that keeps what it frees, as the program's workers do: for a
network as SwinUNETR, whose matrices of attention take gigabytes, the system would need longer to find and clear pages
than the processor to compute. ``counted``: the network is only traced, and the work of a window counted.
"""

from __future__ import annotations

import ctypes
import gc
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
from covered_networks import COVERED

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.engines.machine import keep_freed_memory
from ADAttributionLogic.errors import ADAttributionError
from ADAttributionLogic.graph.self_attention import has_attention
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.occlusion.covering import WORTH_FOLLOWING, cover_boxes, mean_work

SIZE, WINDOWS = 8, 12
#: Rounds that are measured, of networks whose forward pass takes less than a second and of the others.
ROUNDS, LONG_ROUNDS = 3, 1


def seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def added_bytes(function: Callable[[], object]) -> int:
    """The most memory that the process had during a call, beyond what it had before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def normalise_by(module: torch.nn.Module, image: torch.Tensor) -> None:
    """Batch normalisation by what the image gives: without, the values of SENet-154 grow until rounding decides."""
    of_maps = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)  # the others have one value each
    norms = [x for x in module.modules() if isinstance(x, of_maps)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad():
            module(image)
    module.eval()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    covered = COVERED[sys.argv[1]]
    module = covered.published().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    image = torch.rand(1, *covered.shape)
    normalise_by(module, image)
    found: dict[str, object] = {"source": covered.source, "shape": list(covered.shape)}
    try:
        network = explainable(module, covered.shape)
    except ADAttributionError as error:
        print(json.dumps(found | {"refused": str(error)}))
        return
    operations = sorted({type(layer.operation).__name__ for layer in network.folded.layers[1:]})
    found |= {"refused": "", "layers": len(network.folded.layers), "operations": operations}
    generator = np.random.default_rng(0)
    shape = covered.shape[1:]
    size = np.minimum(SIZE, shape)
    margins = [min(10, (n - s) // 2) for n, s in zip(shape, size, strict=True)]
    ends = zip(shape, size, margins, strict=True)
    lows = np.stack([generator.integers(m, n - s - m + 1, WINDOWS) for n, s, m in ends], axis=1)
    highs = lows + size
    counted = mean_work(network.folded, lows, highs, 1 << 30)
    found["counted"] = min(counted, 1.0)
    if sys.argv[2:] == ["counted"]:
        print(json.dumps(found))
        return
    cover = cover_boxes(torch.zeros(1, 1, 1, 1, 1), lows, highs)

    def forward() -> None:
        with torch.no_grad():
            module(image)

    def gradient() -> None:
        x = image.clone().requires_grad_()
        torch.autograd.grad(torch.softmax(module(x), 1)[0, 1], x)

    def method(name: str, **options: object) -> Callable[[], None]:
        return lambda: (attribute(Evaluation(network, image, torch.device("cpu")), name, Target(1), options), None)[1]

    cases = {"forward": forward, "sensitivity": method("sensitivity"), "lrp": method("lrp")}
    if has_attention(network.folded) or "Curve" in operations:
        cases["attn-lrp"] = method("lrp", rule="attn-lrp")
    for name, case in cases.items():
        case()  # what is made once is not counted
        found[f"memory {name}"] = added_bytes(case)
    keep_freed_memory()
    cases["gradient"] = gradient
    if counted < WORTH_FOLLOWING:
        windows = IncrementalForward(Evaluation(network, image, torch.device("cpu")).recording())
        cases["windows"] = lambda: list(windows.run(lows, highs, cover))
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS if seconds(forward) < 1 else LONG_ROUNDS):
        for name, case in cases.items():
            taken[name].append(seconds(case))
    found |= {name: statistics.median(each) for name, each in taken.items()}
    found["windows"] = found["windows"] / WINDOWS if "windows" in found else found["forward"]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
