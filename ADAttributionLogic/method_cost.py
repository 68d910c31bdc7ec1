"""What the work of a method is worth, in forward passes of the network.

The factors were measured in November 2026 on the bundled network (``simulated-atrophy``, that of Böhle et al. 2019) at
193×229×193 on a CPU, as processor time of one thread, so that other programs do not matter (0.35 s per forward pass):

================================================  ======
method                                            passes
================================================  ======
sensitivity, gradient × input, guided, Grad-CAM   1.5–1.7
integrated gradients, SmoothGrad, per repetition  3.5–3.7
LRP: b-rule with β = 0, e-rule, ε-plus-flat       3.5–3.9
LRP: b-rule with β > 0, ε-γ-box                   7.1–7.4
DeepLIFT: rescale; γ                              4.6; 11
LRP and DeepLIFT with the option shifted          7 maps
occlusion, box 40, stride 25 (640 windows)        9.0–9.8
area occlusion, AAL 2 (120 regions)               12
area occlusion, Neuromorphometrics (136)          21
area occlusion, Desikan-Killiany (112)            24
voxel occlusion, per 1000 voxels                  1.1
================================================  ======

Each estimate is within a factor of two of these. On two threads of the same computer small boxes were up to twice as
fast in relation to a pass (see the README); their factors lie between both. DeepLIFT's were measured beside other
programs, which slow down what needs much memory: ``make bench BENCH=deeplift_passes`` measures them again. On a GPU
nothing was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ADAttributionLogic.attribution.registry import Method
from ADAttributionLogic.attribution.shift_mean import SHIFTED, places
from ADAttributionLogic.incremental.reach import Places
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.occlusion.covering import WORTH_FOLLOWING, mean_work
from ADAttributionLogic.occlusion.windows import WindowGrid

#: One gradient of the image whose forward pass is there already, and one with its forward pass.
_GRADIENT, _REPEATED_GRADIENT = 1.6, 3.6
#: The forward pass itself; matrices of tokens are small beside it.
_ATTENTION = 1.0
#: Relevance rules over the layers: those that run a layer once or twice, and those that run it four times.
_RULES, _MORE_RULES = 3.8, 7.3
#: Two recorded passes and the way back, by DeepLIFT's two rules.
_DIFFERENCES, _WEIGHED_DIFFERENCES = 4.6, 11.0
#: What covering one box costs, by its edge in voxels; and what is computed once before.
_BOX_EDGES = (1, 8, 12, 16, 20, 25, 40, 60, 80, 120, 200)
_BOX_PASSES = (1 / 1270, 1 / 1135, 1 / 980, 1 / 650, 1 / 400, 1 / 300, 1 / 110, 1 / 28, 1 / 12.8, 1 / 2.25, 1.0)
_BEFORE_BOXES = 1.0
#: Part of the grid that is brain.
_BRAIN = 0.22
#: A region is no cube: the edge of a box that costs as much, relative to that of a cube of its volume.
_REGION_EDGE = 3.4


def forward_passes(
    method: Method, options: Mapping[str, Any], shape: Sequence[int], regions: int, network: Network | None = None
) -> float:
    """About how many forward passes a method's work is worth.

    Parameters
    ----------
    method : Method
    options : mapping
        All of them, as ``method.complete()`` returns them.
    shape : sequence of int
        Voxels of the network's grid.
    regions : int
        Regions of the atlas, 0 without one.
    network : Network, optional
        What windows cost is counted on its layers, as the run does when it chooses between following what a window
        changes and full passes; without it, it is what was measured on the bundled network.
    """

    def per_box(edge: float) -> float:
        if network is None:
            return _passes_per_box(edge)
        return _passes_per_window(network, *_boxes_of(shape, edge), options)

    if method.name == "occlusion":
        grid = WindowGrid(tuple(shape), int(options["size"] or 1), int(options["stride"] or 1))
        each = per_box(grid.size) if network is None else _passes_per_window(network, *grid.all_limits(), options)
        return _BEFORE_BOXES + math.prod(grid.counts) * each
    if method.name == "voxel-occlusion":
        return _BEFORE_BOXES + math.prod(shape) * _covered(str(options["mask"]), regions) * per_box(1)
    if method.name == "area-occlusion":
        count, pairs = max(regions, 1), int(options["pairs"] or 0)
        each = per_box(_REGION_EDGE * (math.prod(shape) * _BRAIN / count) ** (1 / 3))
        return _BEFORE_BOXES + count * each + math.comb(min(pairs, count), 2) * min(1.0, 2 * each)
    return _at_one_place(method, options) * (places(len(shape)) if options.get(SHIFTED.name) else 1)


def _at_one_place(method: Method, options: Mapping[str, Any]) -> float:
    """Of methods that follow relevance or gradients."""
    if method.name == "deeplift":
        return _DIFFERENCES if options["rule"] == "rescale" else _WEIGHED_DIFFERENCES
    if method.name == "lrp":
        positive_alone = options["rule"] != "b-rule" or not options["beta"]
        return _RULES if positive_alone and options["rule"] != "epsilon-gamma-box" else _MORE_RULES
    if method.name == "attention-rollout" and options["variant"] == "rollout":
        return _ATTENTION
    repeats = options.get("steps") or options.get("samples")
    return _GRADIENT if repeats is None else _REPEATED_GRADIENT * float(repeats)


def expected_seconds(
    method: Method,
    options: Mapping[str, Any],
    shape: Sequence[int],
    regions: int,
    pass_seconds: float,
    network: Network | None = None,
) -> float:
    """About how long a method takes; one that stops after some minutes, no longer than that."""
    seconds = forward_passes(method, options, shape, regions, network) * pass_seconds
    minutes = options.get("minutes")
    return seconds if minutes is None else min(seconds, 60 * float(minutes))


def _covered(mask: str, regions: int) -> float:
    """Part of the grid that a mask chooses, as far as it can be known without the scan."""
    if mask == "all":
        return 1.0
    if mask.replace(",", "").replace(" ", "").isdigit():
        return _BRAIN * min(1.0, (mask.count(",") + 1) / max(regions, 1))
    return _BRAIN


def _boxes_of(shape: Sequence[int], edge: float) -> tuple[Places, Places]:
    """Boxes of one size all over the image."""
    size = np.minimum(round(edge), shape)
    starts = [np.unique(np.linspace(0, n - s, 5).astype(np.int64)) for n, s in zip(shape, size.tolist(), strict=True)]
    lows = np.stack([axis.ravel() for axis in np.meshgrid(*starts, indexing="ij")], axis=1)
    return lows, lows + size


def _passes_per_window(network: Network, lows: Places, highs: Places, options: Mapping[str, Any]) -> float:
    if network.graph is None:
        return 1.0
    work = mean_work(network.folded, lows, highs, int(options["memory"]) << 20)
    return work if work < WORTH_FOLLOWING else 1.0


def _passes_per_box(edge: float) -> float:
    return float(np.exp(np.interp(np.log(edge), np.log(_BOX_EDGES), np.log(_BOX_PASSES))))
