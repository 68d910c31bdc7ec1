"""From what the methods found to heatmaps: volumes on the network's grid, each with its region table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ADAttributionLogic.attribution.registry import Method
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.ensembles.agreement import Agreement
from ADAttributionLogic.explanation import Heatmap
from ADAttributionLogic.member_runs import Answered, Chosen, Found
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.model_input import ModelInput
from ADAttributionLogic.relevance.region_table import RegionIndex, region_table
from ADAttributionLogic.volume import Volume


def heatmaps_of(
    answered: Answered, chosen: Chosen, model: Model, model_input: ModelInput, index: RegionIndex | None
) -> tuple[Heatmap, ...]:
    """All that was finished, in the order in which it was asked; each with a name of its own."""
    heatmaps: list[Heatmap] = []
    for (method, _), found in zip(chosen, answered.found, strict=False):
        name = _unique_name(method.name, [h.name for h in heatmaps])
        result = found.attribution
        quantity = answered.outcome.quantity(model.classes[result.class_index], result.start)
        heatmaps += _maps_of(name, method, found, model_input, index, quantity)
    return tuple(heatmaps)


def _maps_of(
    name: str, method: Method, found: Found, model_input: ModelInput, index: RegionIndex | None, quantity: str
) -> list[Heatmap]:
    """What a method found as volumes: the map, and after it the standard deviation over the networks, if there is."""
    result = found.attribution
    made = [_heatmap(name, method, result, model_input, index, found.agreement, quantity)]
    if found.spread is not None:
        deviation = replace(method, title=f"{method.title}, sd over networks", is_signed=False, is_conserving=False)
        total = float(found.spread.sum(dtype=float))
        values = replace(
            result,
            values=found.spread,
            to_attribute=total,
            relevance_sum=total,
            unattributed=0.0,
            is_conserving=False,
            region_drops=None,
            region_pairs=(),
            agreement=None,
            notes=("The standard deviation (n − 1) of the networks' maps, voxel by voxel.",),
        )
        made.append(_heatmap(f"{name}-sd", deviation, values, model_input, index, None, quantity))
    return made


def _heatmap(
    name: str,
    method: Method,
    result: Attribution,
    model_input: ModelInput,
    index: RegionIndex | None,
    agreement: Agreement | None,
    quantity: str,
) -> Heatmap:
    volume = Volume(result.heatmap, model_input.volume.affine, f"{method.title} of {model_input.scan.source}")
    spread = None if agreement is None else agreement.by_label
    table = None if index is None else region_table(volume, index, name, result.region_drops, spread, quantity)
    return Heatmap(name, method, result, volume, table, agreement)


def _unique_name(name: str, taken: Sequence[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    return candidate
