"""The list of attribution methods, their options, and the one function that runs them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.result import Attribution, RegionPair
from ADAttributionLogic.attribution.target import Decision, Target
from ADAttributionLogic.device import describe_device, is_out_of_memory
from ADAttributionLogic.errors import NetworkError, UnknownNameError, UsageError
from ADAttributionLogic.method_options import Option, OptionValue
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.propagation.account import Account


@dataclass(frozen=True, eq=False)
class MapResult:
    """What a method's function returns.

    Attributes
    ----------
    values : Tensor, shape (C, …)
    to_attribute : float or None
        None: the score.
    notes, relevance_by_layer, conservation, region_drops, region_pairs, is_partial
        See :class:`Attribution`.
    """

    values: Tensor
    to_attribute: float | None = None
    notes: tuple[str, ...] = ()
    relevance_by_layer: Mapping[str, float] | None = None
    conservation: Account | None = None
    region_drops: Mapping[int, float] | None = None
    region_pairs: tuple[RegionPair, ...] = ()
    is_partial: bool = False


@dataclass(frozen=True, eq=False)
class Companions:
    """What comes with the image, voxel by voxel on its grid.

    Attributes
    ----------
    regions : Tensor or None
        Label per voxel (…), int, for methods that work by region.
    areas : mapping of int to Tensor, or None
        Masks (…), bool, by label, which may overlap: instead of `regions` where methods work by region.
    mask : Tensor or None
        Voxels of interest (…), bool.
    reference : Tensor or None
        An image (1, C, …) to compare with, such as the mean of controls.
    """

    regions: Tensor | None = None
    areas: Mapping[int, Tensor] | None = None
    mask: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """All that a method's function gets.

    Attributes
    ----------
    evaluation : Evaluation
    decision : Decision
    options : mapping
        Complete and checked.
    monitor : Monitor
    companions : Companions
    """

    evaluation: Evaluation
    decision: Decision
    options: Mapping[str, Any]
    monitor: Monitor
    companions: Companions = field(default_factory=Companions)


@dataclass(frozen=True, eq=False)
class Method:
    """A method of the list.

    Attributes
    ----------
    name, title : str
    summary : str
        One sentence: which question the map answers.
    source : str
        Paper.
    run : callable
    options : tuple of Option
    is_conserving : bool
        Whether Σ relevance should equal what is to be attributed.
    is_signed : bool
        Whether the map has negative values.
    starts_with_relevance : bool
        Whether it hands out a start relevance (LRP), which the start ``unit`` sets to 1; the maps of other methods
        are then scaled to Σ|R| = 1.
    needs_layers, needs_regions, needs_attention : bool
    settle : callable
        Of complete options, what takes effect: maps by options that settle alike are alike.
    """

    name: str
    title: str
    summary: str
    source: str
    run: Callable[[Job], MapResult] = field(repr=False)
    options: tuple[Option, ...] = ()
    is_conserving: bool = False
    is_signed: bool = True
    starts_with_relevance: bool = False
    needs_layers: bool = False
    needs_regions: bool = False
    needs_attention: bool = False
    settle: Callable[[Mapping[str, Any]], dict[str, Any]] = field(default=dict, repr=False)

    def complete(self, given: Mapping[str, Any]) -> dict[str, OptionValue]:
        """Check options and add the defaults.

        Raises
        ------
        UnknownNameError, UsageError
        """
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                raise UnknownNameError(f"option of {self.name}", name, known)
        return {name: option.check(self.name, given.get(name, option.default)) for name, option in known.items()}


#: Modules with methods, :data:`METHODS` of each; in this order they are listed. By name, because they need this one.
_FAMILIES = (
    "attribution.lrp",
    "attribution.deeplift",
    "attribution.gradients",
    "occlusion.boxes",
    "occlusion.voxels",
    "occlusion.regions",
    "attribution.gradcam",
    "attribution.rollout",
)


@cache
def _methods() -> dict[str, Method]:
    modules = (import_module(f"ADAttributionLogic.{family}") for family in _FAMILIES)
    return {method.name: method for module in modules for method in module.METHODS}


def available_methods() -> tuple[Method, ...]:
    """All methods, in the order in which they are listed."""
    return tuple(_methods().values())


def get_method(name: str) -> Method:
    """Return a method by name.

    Raises
    ------
    UnknownNameError
    """
    known = _methods()
    if name not in known:
        raise UnknownNameError("method", name, known)
    return known[name]


def attribute(
    evaluation: Evaluation,
    method: str | Method,
    target: Target | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    monitor: Monitor | None = None,
    regions: Tensor | None = None,
    companions: Companions | None = None,
) -> Attribution:
    """Explain an image.

    Parameters
    ----------
    evaluation : Evaluation
        Network and image. Where several methods explain the same image, share it: the forward pass is done once.
    method : str or Method
    target : Target, optional
        The most probable class's probability by default.
    options : mapping, optional
        Of the method.
    monitor : Monitor, optional
    regions : Tensor, optional
        Labels (…) of the voxels, for methods by region; short for companions with nothing else.
    companions : Companions, optional
        What else comes with the image.

    Returns
    -------
    Attribution
        When the GPU's memory does not suffice, computed on the CPU, with a note that says so.

    Raises
    ------
    UnknownNameError, UsageError, NetworkError, Cancelled
    """
    chosen = get_method(method) if isinstance(method, str) else method
    complete = chosen.complete(options or {})
    if chosen.needs_layers and evaluation.is_opaque:
        evaluation.network.layers  # noqa: B018 (raises, saying which methods remain)
    companions = companions or Companions(regions=regions)
    if chosen.needs_regions and companions.regions is None and companions.areas is None:
        raise UsageError(f"{chosen.title} needs an atlas: its maps are per region.")
    target, monitor = target or Target(), monitor or Monitor()
    started = time.perf_counter()
    notes: tuple[str, ...] = ()
    try:
        result, decision = _run(evaluation, chosen, target, complete, monitor, companions)
    except RuntimeError as cause:
        if evaluation.device.type == "cpu" or not is_out_of_memory(cause):
            raise
        notes = (f"{describe_device(evaluation.device)} ran out of memory; {chosen.title} was computed on the CPU.",)
        evaluation = Evaluation(evaluation.network, evaluation.image.cpu(), torch.device("cpu"), monitor)
        result, decision = _run(evaluation, chosen, target, complete, monitor, companions)
    return _finish(chosen, complete, evaluation, decision, result, notes, time.perf_counter() - started)


def _run(
    evaluation: Evaluation,
    method: Method,
    target: Target,
    options: Mapping[str, OptionValue],
    monitor: Monitor,
    companions: Companions,
) -> tuple[MapResult, Decision]:
    monitor.report(0.0, method.title)
    decision = evaluation.decision(target)
    result = method.run(Job(evaluation, decision, options, monitor, companions))
    if evaluation.device.type == "cuda":
        torch.cuda.synchronize(evaluation.device)
    return result, decision


def _finish(
    method: Method,
    options: Mapping[str, OptionValue],
    evaluation: Evaluation,
    decision: Decision,
    result: MapResult,
    notes: tuple[str, ...],
    seconds: float,
) -> Attribution:
    values = result.values.detach()
    relevance_sum = float(values.double().sum())
    if not math.isfinite(relevance_sum):  # voxels show in their sum; a look at each takes ten times as long
        raise NetworkError(
            f"{method.title} gave NaN or infinite relevance. The network's weights or activations are not finite, or a "
            "stabiliser (ε) is too small."
        )
    to_attribute = decision.score if result.to_attribute is None else result.to_attribute
    if decision.start == "unit" and not method.starts_with_relevance:
        total = float(values.double().abs().sum()) or 1.0
        values, to_attribute = values / total, to_attribute / total
        relevance_sum = float(values.double().sum())
    return Attribution(
        values=values.cpu().numpy(),
        method=method.name,
        options=options,
        class_index=decision.class_index,
        start=decision.start,
        score=decision.score,
        to_attribute=to_attribute,
        relevance_sum=relevance_sum,
        unattributed=to_attribute - relevance_sum,
        is_conserving=method.is_conserving,
        probabilities=() if decision.head == "score" else tuple(float(p) for p in decision.outputs[0]),
        device=describe_device(evaluation.device),
        seconds=seconds,
        notes=notes + result.notes,
        relevance_by_layer=result.relevance_by_layer,
        conservation=result.conservation,
        region_drops=result.region_drops,
        region_pairs=result.region_pairs,
        is_partial=result.is_partial,
    )
