"""Between which values the input of a network's first layer lies, when the image's voxels lie in a box.

A network that normalises the image itself (subtracts a mean, divides by a deviation, pads) hands other values to its
first convolution than the image's; the z-box rule needs the bounds of these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ADAttributionLogic.graph.arithmetic import PlacewiseAffine
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import Affine, Concatenate, MaxPool, Operation, Permute, Reshape, ZeroPad
from ADAttributionLogic.graph.rearranging import MaxOver, Take

#: Operations that move or rescale elements one by one, or choose the largest: bounds pass through them exactly.
_PASSING = (Affine, Concatenate, MaxOver, MaxPool, Permute, PlacewiseAffine, Reshape, Take, ZeroPad)


def keeps_bounds(operation: Operation) -> bool:
    """Whether the bounds of the operation's result follow from those of its inputs, element by element."""
    return isinstance(operation, _PASSING)


@torch.no_grad()
def bounds_at(graph: LayerGraph, layer: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of a layer's output that hold for every image whose voxels lie between `low` and `high`.

    Parameters
    ----------
    graph : LayerGraph
    layer : int
        The image (0), or a layer that only :func:`keeps_bounds` operations separate from it.
    low, high : Tensor, shape ()

    Returns
    -------
    low, high : Tensor
        Scalars for the image itself; else (1, C, 1, …), the smallest and largest at any place of each channel.
    """
    if layer == 0:
        return low, high
    low_map, high_map = _maps(graph, layer, low, high)
    places = tuple(range(2, low_map.ndim))
    return (low_map.amin(places, True), high_map.amax(places, True)) if places else (low_map, high_map)


def _maps(graph: LayerGraph, layer: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    if layer == 0:
        shape = (1, *graph.input_shape)
        return low.expand(shape), high.expand(shape)
    found = [_maps(graph, source, low, high) for source in graph.layers[layer].inputs]
    operation = graph.layers[layer].operation
    first, second = (operation.forward(*(pair[end] for pair in found)) for end in (0, 1))
    return torch.minimum(first, second), torch.maximum(first, second)
