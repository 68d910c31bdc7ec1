"""Grad-CAM and HiResCAM in any dimension, placed where the units of the feature map, or the tokens, look."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ADAttributionLogic.attribution.evaluation import GradientRule
from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.errors import NetworkError, UnknownNameError, UsageError
from ADAttributionLogic.graph.arithmetic import PlacewiseAffine, SumOver
from ADAttributionLogic.graph.attention import MatrixProduct
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.layouts import layouts
from ADAttributionLogic.graph.normalisations import Normalisation
from ADAttributionLogic.graph.operations import (
    AdaptiveAveragePool,
    Affine,
    AveragePool,
    Concatenate,
    Dense,
    Input,
    MaxPool,
    Permute,
    Reshape,
    Softmax,
    ZeroPad,
)
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.graph.receptive_field import UnitGrid, place_on_image, unit_grids
from ADAttributionLogic.graph.recording import record, walk_back
from ADAttributionLogic.graph.token_flow import grid_bottlenecks
from ADAttributionLogic.method_options import Option

#: Operations whose output holds no other features than their input.
_NO_FEATURES = (Input, AdaptiveAveragePool, AveragePool, MaxPool, Permute, Reshape, Softmax, Take, ZeroPad)
#: What may lie between a dense layer and the products of its queries, keys and values (which some pool first).
_TO_ATTENTION = (Affine, Concatenate, Convolution, Normalisation, Permute, PlacewiseAffine, Reshape, Take, ZeroPad)


def feature_layer(graph: LayerGraph) -> int:
    """The last maps, or tokens, with spatial extent that everything later passes through.

    After addition or concatenation; pooled or padded maps are left for what they were made of, which is finer and says
    the same. Where the answer reads a class token, these are the tokens that its last attention was to.

    Raises
    ------
    NetworkError
        There are none, or tokens that are no grid of voxels come after them.
    """
    known, grids = layouts(graph), _shown(graph)
    for index in reversed(grid_bottlenecks(graph, known)):
        operation = graph.layers[index].operation
        if index not in grids or isinstance(operation, _NO_FEATURES) or _is_for_attention(graph, index):
            continue
        _refuse_tokens_without_places(graph, index, grids)
        return index
    raise NetworkError(
        "The network has no feature maps that everything later passes through, and which Grad-CAM could show. "
        f"Choose a layer: {', '.join(layer_choices(graph)) or 'it has none with a place in the image'}."
    )


def _is_for_attention(graph: LayerGraph, layer: int) -> bool:
    """Whether a layer makes queries, keys or values of what is before it."""
    if not isinstance(graph.layers[layer].operation, Dense):
        return False
    consumers, waiting, seen = graph.consumers(), [layer], {layer}
    while waiting:
        for index in set(consumers[waiting.pop()]) - seen:
            seen.add(index)
            operation = graph.layers[index].operation
            if isinstance(operation, MatrixProduct):
                return True
            if isinstance(operation, _TO_ATTENTION):
                waiting.append(index)
    return False


def _refuse_tokens_without_places(graph: LayerGraph, layer: int, grids: Mapping[int, UnitGrid]) -> None:
    """Refuse to show the layer before attention between tokens that are no grid as if it were the last one."""
    if not any(isinstance(item.operation, MatrixProduct) for item in graph.layers[layer + 1 :]):
        return
    known = unit_grids(graph)
    if any(isinstance(item.operation, MatrixProduct) and i in known for i, item in enumerate(graph.layers)):
        return
    first = next(i for i in range(layer + 1, len(graph.layers)) if i not in known)
    raise NetworkError(
        f"The network's tokens are no grid of voxels: from {graph.layers[first]} on, at "
        f"{graph.layers[first].location or 'the top level'}, they have no place of their own in the image, so that "
        "Grad-CAM of its attention cannot be drawn. Use lrp (attn-lrp), gradient-x-input or occlusion; or choose the "
        f"last maps with a place yourself: the option layer, {graph.layers[layer].name}."
    )


def layer_choices(graph: LayerGraph) -> dict[str, int]:
    """The layers that Grad-CAM can show: all whose units have a place in the image, by name.

    A module that consists of several layers goes by its name as well and stands for the last of them, its output.
    """
    grids = _shown(graph)
    inside: dict[str, int] = {}
    for index, layer in enumerate(graph.layers):
        parts = layer.name.split("#")[0].split(".")
        for depth in range(1, len(parts)):
            inside[".".join(parts[:depth])] = index
        if parts and ".".join(parts) in inside:  # a module's own functional operations, such as a residual addition
            inside[".".join(parts)] = index
    named = {layer.name: index for index, layer in enumerate(graph.layers)} | inside
    return {name: index for name, index in named.items() if index in grids and index > 0}


def _shown(graph: LayerGraph) -> dict[int, UnitGrid]:
    """The layers whose units have places in the image, and of which there are several."""
    return {index: grid for index, grid in unit_grids(graph).items() if math.prod(grid.size) > 1}


def _averages_over_positions(graph: LayerGraph, layer: int) -> bool:
    """Whether the feature maps are averaged over all positions, as Grad-CAM presumes, and not weighed one by one."""
    shown, known = _shown(graph), layouts(graph)
    for index in graph.bottlenecks():
        item = graph.layers[index]
        if index > layer and index not in shown and (index in known or math.prod(item.shape[1:]) == 1):
            return isinstance(item.operation, (AdaptiveAveragePool, AveragePool, SumOver))
    return False


def _grad_cam(job: Job) -> MapResult:
    name = job.options["layer"]
    # A named layer's output is that of the user's module, in front of the batch normalisation that may follow it.
    graph = job.evaluation.graph(folded=name is None)
    layer = feature_layer(graph) if name is None else _named(graph, str(name))
    recording = record(graph, job.evaluation.image, keep=frozenset({layer}), check=job.monitor.check)
    seed = job.decision.gradient_at_logits(recording.logits)
    grid = unit_grids(graph)[layer]
    gradient = grid.maps(walk_back(recording, seed, GradientRule(), target_layer=layer, check=job.monitor.check)[0])
    features = grid.maps(recording.outputs[layer][0])
    variant = job.options["variant"]
    if variant == "auto":
        variant = "grad-cam" if _averages_over_positions(graph, layer) else "hires-cam"
    if variant == "grad-cam":
        gradient = gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
    units = (gradient * features).sum(dim=0)
    _check_that_it_varies(units, graph, layer)
    size = "×".join(map(str, units.shape))
    step = "×".join(f"{s:g}" for s in grid.placement.step)
    what = "tokens (without the class token)" if grid.has_extras else "units"
    notes = [f"{variant} of {graph.layers[layer].name}: {size} {what}, {step} voxels apart, interpolated to the image."]
    if not job.options["signed"]:
        units = units.clamp(min=0)
        if not bool(units.any()):
            notes.append("No unit speaks for the class: the map is 0. The option signed shows what speaks against it.")
    heatmap = place_on_image(units, grid.placement, tuple(job.evaluation.image.shape[2:]))
    return MapResult(heatmap[None], notes=tuple(notes))


def _named(graph: LayerGraph, name: str) -> int:
    choices = layer_choices(graph)
    if name not in choices:
        _refuse_without_place(graph, name, list(choices))
        raise UnknownNameError("layer with feature maps", name, choices)
    return choices[name]


def _refuse_without_place(graph: LayerGraph, name: str, choices: list[str]) -> None:
    """Say of a layer that exists why it cannot be shown."""
    found = [item for item in graph.layers if item.name == name or item.name.startswith(f"{name}.")]
    if found:
        shape = "×".join(map(str, found[-1].shape))
        raise UsageError(
            f"The output of {found[-1]} ({shape}) is no grid of units with a place in the image, so that Grad-CAM of "
            f"it cannot be drawn. Choose one of {', '.join(choices) or 'none: it has no such layer'}; or use lrp, "
            "gradient-x-input or occlusion."
        )


def _check_that_it_varies(units: Tensor, graph: LayerGraph, layer: int) -> None:
    low, high = float(units.min()), float(units.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        size = "×".join(map(str, units.shape))
        raise NetworkError(
            f"Grad-CAM of layer {graph.layers[layer]} is constant: {high:g} at all of its {size} units, which says "
            "nothing about places. Choose another layer, or another method."
        )


METHODS = (
    Method(
        "grad-cam",
        "Grad-CAM / HiResCAM",
        "Where did the last feature maps, or tokens, speak for the decision? (coarse)",
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
                "layer or module whose output is shown; by default the last maps, or tokens, that all else depends on",
                str,
            ),
            Option("signed", False, "keep what speaks against the class", bool),
        ),
        is_signed=False,
        needs_layers=True,
    ),
)
