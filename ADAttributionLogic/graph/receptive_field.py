"""Where in the image the units of a feature map sit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.arithmetic import PlacewiseAffine, Product, SumOver
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concatenate,
    Input,
    MaxPool,
    Operation,
    Softmax,
    ZeroPad,
)
from ADAttributionLogic.graph.rearranging import MaxOver, Take


@dataclass(frozen=True)
class UnitPlacement:
    """Unit ``i`` of a feature map is centred on voxel ``offset + step · i``, per spatial axis (voxel centres at whole
    numbers)."""

    offset: tuple[float, ...]
    step: tuple[float, ...]


def unit_placement(graph: LayerGraph, layer: int) -> UnitPlacement:
    """Follow the windows of all operations from the input to a layer.

    Raises
    ------
    NetworkError
        An operation on the way has no fixed windows, or two paths put the units at different places.
    """
    known = unit_placements(graph)
    if layer not in known:
        raise NetworkError(f"The units of layer {graph.layers[layer]} have no fixed place in the image.")
    return known[layer]


def unit_placements(graph: LayerGraph) -> dict[int, UnitPlacement]:
    """Where the units sit, for each layer for which that can be said."""
    known: dict[int, UnitPlacement] = {}
    for index, item in enumerate(graph.layers):
        if isinstance(item.operation, Input):
            axes = len(item.shape) - 1
            known[index] = UnitPlacement((0.0,) * axes, (1.0,) * axes)
            continue
        inputs = item.inputs
        if isinstance(item.operation, (Add, Product)):  # a gate or summand for all places does not move units
            inputs = tuple(i for i in inputs if graph.layers[i].shape[1:] == item.shape[1:])
        if not known.keys() >= set(inputs):
            continue
        places = {known[i] for i in inputs}
        moved = _through(item.operation, next(iter(places))) if len(places) == 1 else None
        if moved is not None:
            known[index] = moved
    return known


def _through(operation: Operation, place: UnitPlacement) -> UnitPlacement | None:
    if isinstance(operation, (Activation, Affine, Add, PlacewiseAffine, Product, Softmax)):
        return place
    if isinstance(operation, (MaxOver, SumOver)):
        return place if operation.axes == (1,) else None
    if isinstance(operation, Take):
        return place if operation.axis == 1 else None
    if isinstance(operation, Concatenate):
        return place if operation.axis == 1 else None
    if isinstance(operation, ZeroPad):
        spatial = operation.padding[-len(place.step) :]  # what is left pads channels
        pads = ((0, 0),) * (len(place.step) - len(spatial)) + spatial
        return UnitPlacement(
            tuple(o - s * p[0] for o, s, p in zip(place.offset, place.step, pads, strict=True)), place.step
        )
    if not isinstance(operation, (Convolution, MaxPool, AveragePool)):
        return None
    dilation = (1,) * len(place.step) if isinstance(operation, AveragePool) else operation.dilation
    windows = zip(operation.kernel, operation.padding, dilation, place.offset, place.step, strict=True)
    offset = tuple(o + s * ((k - 1) * d / 2 - p[0]) for k, p, d, o, s in windows)
    return UnitPlacement(offset, tuple(s * stride for s, stride in zip(place.step, operation.stride, strict=True)))


def place_on_image(units: Tensor, placement: UnitPlacement, shape: tuple[int, ...]) -> Tensor:
    """Interpolate a map (…) of units linearly onto the image's voxels; beyond the outermost units it stays constant."""
    for axis, (offset, step, size) in enumerate(zip(placement.offset, placement.step, shape, strict=True)):
        count = units.shape[axis]
        positions = (torch.arange(size, dtype=units.dtype, device=units.device) - offset) / step
        positions = positions.clamp(0, count - 1)
        low = positions.floor().clamp(max=max(count - 2, 0)).long()
        weight = (positions - low).reshape([-1 if a == axis else 1 for a in range(units.ndim)])
        high = (low + 1).clamp(max=count - 1)
        units = units.index_select(axis, low) * (1 - weight) + units.index_select(axis, high) * weight
    return units
