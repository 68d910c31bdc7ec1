"""How long a computation will take: counted in forward passes, timed by one real pass."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import ADAttributionLogic.attribution  # noqa: F401 (registers the methods)
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.errors import UnknownNameError
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.packages import Model

#: A forward and a backward pass together, in forward passes (measured on the published networks on a CPU: 2.5–3.5).
_WITH_GRADIENT = 3.0
#: What covering one box costs, by its edge in voxels: measured on the network of Böhle et al. on a CPU.
_BOX_EDGES = (1, 4, 8, 16, 25, 40)
_BOX_PASSES = (1 / 1784, 1 / 1369, 1 / 1169, 1 / 748, 1 / 365, 1 / 160)
#: Part of the grid that is brain.
_BRAIN = 0.22
#: Seconds of a scan's preparation (registration, N4, brain, checks, figure) by engine. Measured on a head of 1 mm
#: (Colin27) on two shared CPU cores: rigid and affine 11 to 15; ANTs SyNQuick adds two minutes, four on a busy machine.
PREPARATION_SECONDS = {"none": 0.0, "rigid": 15.0, "affine": 15.0, "deformable": 140.0}
#: A walk of relevance rules over the layers, each of which is run several times.
_WITH_RULES = 6.0


def forward_passes(request: MethodRequest, shape: Sequence[int], regions: int) -> float:
    """About how many forward passes a method's work is worth.

    Parameters
    ----------
    request : MethodRequest
    shape : sequence of int
        Voxels of the network's grid.
    regions : int
        Regions of the atlas, 0 without one.

    Raises
    ------
    UnknownNameError, UsageError
        No such method, or an option it cannot take.
    """
    method = get_method(request.name)
    options = method.complete(request.options)
    if method.name == "occlusion":
        size, stride = int(options["size"] or 1), int(options["stride"] or 1)
        return math.prod(math.ceil(n / stride) for n in shape) * _passes_per_box(size)
    if method.name == "voxel-occlusion":
        return math.prod(shape) * _BRAIN * _passes_per_box(1)
    if method.name == "area-occlusion":
        return float(max(regions, 1))
    if method.name == "lrp":
        return _WITH_RULES
    repeats = options.get("steps") or options.get("samples") or 1
    return _WITH_GRADIENT * float(repeats)


def _passes_per_box(edge: int) -> float:
    return float(np.exp(np.interp(np.log(edge), np.log(_BOX_EDGES), np.log(_BOX_PASSES))))


def seconds_per_pass(model: Model, device: torch.device) -> float:
    """Seconds of one forward pass, measured by running one."""
    image = torch.zeros(1, 1, *model.shape)
    started = time.perf_counter()
    evaluation = Evaluation(model.network, image, device)
    _ = evaluation.logits.cpu()
    return time.perf_counter() - started


def estimate(
    requests: Sequence[MethodRequest],
    model: Model,
    pass_seconds: float,
    regions: int = 0,
    registration: str = "none",
) -> Mapping[str, Any]:
    """Seconds per method, of the preparation and altogether.

    Parameters
    ----------
    requests : sequence of MethodRequest
    model : Model
    pass_seconds : float
        Of one forward pass.
    regions : int
        Regions of the atlas, 0 without one.
    registration : str
        How the scan is prepared; "none" also where that was done before and is in the cache.

    Raises
    ------
    UnknownNameError, UsageError
    """
    if registration not in PREPARATION_SECONDS:
        raise UnknownNameError("registration", registration, PREPARATION_SECONDS)
    seconds = [_seconds(request, model, pass_seconds, regions) for request in requests]
    named = [{"name": r.name, "seconds": round(s, 3)} for r, s in zip(requests, seconds, strict=True)]
    preparation = PREPARATION_SECONDS[registration]
    total = sum(seconds) + pass_seconds + preparation
    return {"methods": named, "preparation": preparation, "seconds": round(total, 3)}


def _seconds(request: MethodRequest, model: Model, pass_seconds: float, regions: int) -> float:
    seconds = forward_passes(request, model.shape, regions) * pass_seconds
    minutes = request.options.get("minutes")
    return seconds if minutes is None else min(seconds, 60 * float(minutes))
