"""How long a computation will take: counted in forward passes, timed by real ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ADAttributionLogic import method_cost
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.errors import UnknownNameError
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preparation import PREPARATION_SECONDS

#: Forward passes for the answer: of the scan as it lies, and moved a little four times.
_ANSWERS = 5


def forward_passes(request: MethodRequest, model: Model, regions: int) -> float:
    """About how many forward passes a method's work is worth.

    Parameters
    ----------
    request : MethodRequest
    model : Model
    regions : int
        Regions of the atlas, 0 without one.

    Raises
    ------
    UnknownNameError, UsageError
        No such method, or an option it cannot take.
    """
    method = get_method(request.name)
    return method_cost.forward_passes(method, method.complete(request.options), model.shape, regions, model.network)


def seconds_per_pass(model: Model, device: torch.device) -> float:
    """Seconds of one forward pass: the shorter of two, since the first one also pays for what is set up once."""
    image = torch.zeros(1, 1, *model.shape)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        Evaluation(model.network, image, device).logits.cpu()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def estimate(
    requests: Sequence[MethodRequest],
    model: Model,
    pass_seconds: float,
    regions: int = 0,
    registration: str = "none",
    checks: float = 0.0,
) -> Mapping[str, Any]:
    """Seconds per method, of the preparation, of the checks at most, and altogether.

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
    checks : float
        Forward passes that checks may take per map.

    Raises
    ------
    UnknownNameError, UsageError
    """
    if registration not in PREPARATION_SECONDS:
        raise UnknownNameError("registration", registration, PREPARATION_SECONDS)
    # Every network of an ensemble answers and is explained.
    networks = max(len(model.members), 1)
    seconds = [networks * _seconds(request, model, pass_seconds, regions) for request in requests]
    named = [{"name": r.name, "seconds": round(s, 3)} for r, s in zip(requests, seconds, strict=True)]
    preparation = PREPARATION_SECONDS[registration]
    checking = networks * len(requests) * checks * pass_seconds
    total = sum(seconds) + networks * _ANSWERS * pass_seconds + preparation + checking
    return {"methods": named, "preparation": preparation, "checks": round(checking, 3), "seconds": round(total, 3)}


def _seconds(request: MethodRequest, model: Model, pass_seconds: float, regions: int) -> float:
    method = get_method(request.name)
    options = method.complete(request.options)
    return method_cost.expected_seconds(method, options, model.shape, regions, pass_seconds, model.network)
