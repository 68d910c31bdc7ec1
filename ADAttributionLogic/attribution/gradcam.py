"""Grad-CAM and HiResCAM in any dimension, placed where the units of the feature map look."""

from __future__ import annotations

import math

from torch import Tensor

from ADAttributionLogic.attribution.evaluation import GradientRule
from ADAttributionLogic.attribution.registry import Job, MapResult, Method, register
from ADAttributionLogic.errors import NetworkError, UnknownNameError
from ADAttributionLogic.graph.layer_graph import Layer, LayerGraph
from ADAttributionLogic.graph.operations import (
    AdaptiveAveragePool,
    AveragePool,
    Input,
    MaxPool,
    Permute,
    Reshape,
    Softmax,
    ZeroPad,
)
from ADAttributionLogic.graph.receptive_field import place_on_image, unit_placement, unit_placements
from ADAttributionLogic.graph.recording import record, walk_back
from ADAttributionLogic.method_options import Option

#: Operations whose output holds no other features than their input.
_NO_FEATURES = (Input, AdaptiveAveragePool, AveragePool, MaxPool, Permute, Reshape, Softmax, ZeroPad)


def feature_layer(graph: LayerGraph) -> int:
    """The last maps with spatial extent that everything later passes through, after addition or concatenation.

    Pooled or padded maps are left for what they were made of, which is finer and says the same.

    Raises
    ------
    NetworkError
        There are none.
    """
    placed = unit_placements(graph)
    for index in reversed(graph.bottlenecks()):
        operation = graph.layers[index].operation
        if index in placed and _has_extent(graph.layers[index]) and not isinstance(operation, _NO_FEATURES):
            return index
    raise NetworkError(
        "The network has no feature maps that everything later passes through, and which Grad-CAM could show. "
        f"Choose a layer: {', '.join(layer_choices(graph)) or 'it has none with a place in the image'}."
    )


def layer_choices(graph: LayerGraph) -> dict[str, int]:
    """The layers that Grad-CAM can show: all whose units have a place in the image, by name.

    A module that consists of several layers goes by its name as well and stands for the last of them, its output.
    """
    placed = unit_placements(graph)
    inside: dict[str, int] = {}
    for index, layer in enumerate(graph.layers):
        parts = layer.name.split("#")[0].split(".")
        for depth in range(1, len(parts)):
            inside[".".join(parts[:depth])] = index
        if parts and ".".join(parts) in inside:  # a module's own functional operations, such as a residual addition
            inside[".".join(parts)] = index
    named = {layer.name: index for index, layer in enumerate(graph.layers)} | inside
    return {
        name: index
        for name, index in named.items()
        if index in placed and index > 0 and _has_extent(graph.layers[index])
    }


def _has_extent(layer: Layer) -> bool:
    return math.prod(layer.shape[1:]) > 1


def _averages_over_positions(graph: LayerGraph, layer: int) -> bool:
    """Whether the feature maps are averaged over all positions, as Grad-CAM presumes, and not weighed one by one."""
    for index in graph.bottlenecks():
        item = graph.layers[index]
        if index > layer and not _has_extent(item):
            return isinstance(item.operation, (AdaptiveAveragePool, AveragePool))
    return False


def _grad_cam(job: Job) -> MapResult:
    name = job.options["layer"]
    # A named layer's output is that of the user's module, in front of the batch normalisation that may follow it.
    graph = job.evaluation.graph(folded=name is None)
    layer = feature_layer(graph) if name is None else _named(graph, str(name))
    recording = record(graph, job.evaluation.image, keep=frozenset({layer}), check=job.monitor.check)
    seed = job.decision.gradient_at_logits(recording.logits)
    gradient = walk_back(recording, seed, GradientRule(), target_layer=layer, check=job.monitor.check)[0]
    features = recording.outputs[layer][0]
    variant = job.options["variant"]
    if variant == "auto":
        variant = "grad-cam" if _averages_over_positions(graph, layer) else "hires-cam"
    if variant == "grad-cam":
        gradient = gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
    units = (gradient * features).sum(dim=0)
    _check_that_it_varies(units, graph, layer)
    placement = unit_placement(graph, layer)
    size = "×".join(map(str, units.shape))
    step = "×".join(f"{s:g}" for s in placement.step)
    notes = [f"{variant} of {graph.layers[layer].name}: {size} units, {step} voxels apart, interpolated to the image."]
    if not job.options["signed"]:
        units = units.clamp(min=0)
        if not bool(units.any()):
            notes.append("No unit speaks for the class: the map is 0. The option signed shows what speaks against it.")
    heatmap = place_on_image(units, placement, tuple(job.evaluation.image.shape[2:]))
    return MapResult(heatmap[None], notes=tuple(notes))


def _named(graph: LayerGraph, name: str) -> int:
    choices = layer_choices(graph)
    if name not in choices:
        raise UnknownNameError("layer with feature maps", name, choices)
    return choices[name]


def _check_that_it_varies(units: Tensor, graph: LayerGraph, layer: int) -> None:
    low, high = float(units.min()), float(units.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        size = "×".join(map(str, units.shape))
        raise NetworkError(
            f"Grad-CAM of layer {graph.layers[layer]} is constant: {high:g} at all of its {size} units, which says "
            "nothing about places. Choose another layer, or another method."
        )


register(
    Method(
        "grad-cam",
        "Grad-CAM / HiResCAM",
        "Where did the last feature maps speak for the decision? (coarse)",
        "Selvaraju et al. 2017, arXiv:1610.02391; Draelos & Carin 2020, arXiv:2011.08891",
        _grad_cam,
        (
            Option(
                "variant",
                "auto",
                "grad-cam: gradients averaged over positions; hires-cam: position by position; auto: grad-cam only "
                "where the network averages over positions itself",
                str,
                ("auto", "grad-cam", "hires-cam"),
            ),
            Option(
                "layer",
                None,
                "layer or module whose output is shown; by default the last maps that all later layers depend on",
                str,
            ),
            Option("signed", False, "keep what speaks against the class", bool),
        ),
        is_signed=False,
        needs_layers=True,
    )
)
