"""How long a computation will take: counted in forward passes, timed by one real pass."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import ADAttributionLogic.attribution  # noqa: F401 (registers the methods)
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.packages import Model

#: A forward and a backward pass together, in forward passes (measured on the published networks on a CPU: 2.5–3.5).
_WITH_GRADIENT = 3.0
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
        return float(math.prod(max(math.ceil((n - size) / stride), 0) + 1 for n in shape))
    if method.name == "area-occlusion":
        return float(max(regions, 1))
    if method.name == "lrp":
        return _WITH_RULES
    repeats = options.get("steps") or options.get("samples") or 1
    return _WITH_GRADIENT * float(repeats)


def seconds_per_pass(model: Model, device: torch.device) -> float:
    """Seconds of one forward pass, measured by running one."""
    image = torch.zeros(1, 1, *model.shape)
    started = time.perf_counter()
    evaluation = Evaluation(model.network, image, device)
    _ = evaluation.logits.cpu()
    return time.perf_counter() - started


def estimate(
    requests: Sequence[MethodRequest], model: Model, pass_seconds: float, regions: int = 0
) -> Mapping[str, Any]:
    """Seconds per method and altogether."""
    seconds = [forward_passes(request, model.shape, regions) * pass_seconds for request in requests]
    named = [{"name": r.name, "seconds": round(s, 3)} for r, s in zip(requests, seconds, strict=True)]
    return {"methods": named, "seconds": round(sum(seconds) + pass_seconds, 3)}
