"""How far a network's answer and map move with what should not matter: the number of threads, and the device.

Floating-point sums depend on their order, which threads and devices choose. How much that is depends on the network and
the computer; so it is measured there, once, on one image: the control mean of the network's card where there is one,
else noise. Maps of many scans say it in their provenance.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute, get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.device import describe_device
from ADAttributionLogic.errors import EngineError
from ADAttributionLogic.explanation import MethodRequest
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.whole_files import write_whole

#: Not empty in a process that was forked: the threads of OpenMP do not come along.
_FORKED: list[bool] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _FORKED.append(True))

#: Asked where the methods of a run cost more than a few forward passes.
_CHEAP = ("lrp", "deeplift", "guided-backprop", "gradient-x-input", "sensitivity")
_ELSE = "gradient-x-input"


def measured_rounding(
    model: Model, methods: Sequence[MethodRequest], device: torch.device, cache: Path | None = None
) -> list[dict[str, Any]]:
    """Measure it, or take it from the cache.

    Parameters
    ----------
    model : Model
    methods : sequence of MethodRequest
        Of the run: the first one that costs a few forward passes is taken, else gradient × input.
    device : torch.device
        Where the run computes; on a GPU also compared with the processor.
    cache : Path, optional
        Folder for what was measured on this computer.

    Returns
    -------
    list of dict
        Per comparison ``between`` (two settings), ``method``, and the largest difference of the outputs (``answer``)
        and of a voxel (``map``), each as a share of the largest absolute value.

    Raises
    ------
    EngineError
        This process was forked: more threads than its parent left it would wait for ever.
    ADAttributionError
        As :func:`~.attribution.registry.attribute`.
    """
    if _FORKED:
        raise EngineError("a forked process cannot compute on other numbers of threads")
    request = next((m for m in methods if m.name in _CHEAP and "reference" not in m.options.values()), None)
    request = request or MethodRequest(_ELSE)
    described = [model.weights_sha256, request.name, get_method(request.name).complete(request.options)]
    described += [describe_device(device), torch.__version__, platform.platform(), _processor()]
    key = hashlib.sha256(json.dumps(described, default=str).encode()).hexdigest()[:24]
    path = None if cache is None or not model.weights_sha256 else cache / f"rounding-{key}.json"
    found = None if path is None else _kept(path)
    if found is None:
        found = _measure(model, request, device)
        if path is not None:
            _keep(path, found)
    return found


def _measure(model: Model, request: MethodRequest, device: torch.device) -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    one, many = (1, threads) if threads > 1 else (1, 2)
    try:
        with_one, with_many = (_run(model, request, torch.device("cpu"), n) for n in (one, many))
    finally:
        torch.set_num_threads(threads)
    found = [_compared(request, "cpu, 1 thread", f"cpu, {many} threads", with_one, with_many)]
    if device.type != "cpu":
        there = _run(model, request, device, threads)
        found.append(_compared(request, "cpu, 1 thread", describe_device(device), with_one, there))
    return found


_Found = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def _run(model: Model, request: MethodRequest, device: torch.device, threads: int) -> _Found:
    torch.set_num_threads(threads)
    shape = (1, *model.network.input_shape)
    if model.control_mean is not None and shape[1] == 1:
        values = model.control_mean().array.reshape(shape)
    else:
        values = np.random.default_rng(0).random(shape, np.float32)
    evaluation = Evaluation(model.network, torch.from_numpy(np.ascontiguousarray(values, np.float32)), device)
    heatmap = attribute(evaluation, request.name, Target(0), request.options).heatmap
    return evaluation.logits.cpu().numpy(), heatmap


def _compared(request: MethodRequest, one: str, other: str, first: _Found, second: _Found) -> dict[str, Any]:
    answer, heatmap = (_largest(a, b) for a, b in zip(first, second, strict=True))
    return {"between": [one, other], "method": request.name, "answer": answer, "map": heatmap}


def _largest(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    whole = float(np.abs(one).max())
    return float(f"{float(np.abs(one - other).max()) / whole:.3g}") if whole else 0.0


def _processor() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in lines if line.startswith("model name")), "")
    return platform.processor()


def _kept(path: Path) -> list[dict[str, Any]] | None:
    """What was measured before; None where there is nothing, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ok = all(isinstance(part[name], float) for part in found for name in ("answer", "map"))
        return found if ok and all(len(part["between"]) == 2 for part in found) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(path: Path, found: list[dict[str, Any]]) -> None:
    """A disk that takes nothing costs the measurement again, nothing else."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, json.dumps(found))
