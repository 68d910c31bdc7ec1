"""Layers that couple all positions through a few numbers: means, variances, and the gates and norms made of them.

A window changes a mean by what its box contributes, so that the mean of the changed image follows from the known one
and the box alone. Where such numbers then multiply or shift whole maps (squeeze-and-excitation, group and instance
normalisation), every position changes, but outside the box by one factor and one summand for each channel: the maps are
kept as those of the known image, the box, and these two, until a layer needs them whole. A convolution or an activation
does: what it makes of scaled maps is no scaling of what it made of the known ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ADAttributionLogic.graph.arithmetic import Product, Quotient, SumOver
from ADAttributionLogic.graph.layer_graph import Layer, LayerGraph
from ADAttributionLogic.graph.normalisations import GroupNorm, Variance
from ADAttributionLogic.graph.operations import AdaptiveAveragePool, Add, Affine
from ADAttributionLogic.incremental.boxes import Boxes, paste
from ADAttributionLogic.incremental.known_activations import KnownActivations

#: How a layer behind the boxes is computed: ``scaled``, not at all, but for a factor and a summand for each channel;
#: ``summed``, from the sums of a layer's boxes; ``whole``, like in any forward pass.
Way = Literal["scaled", "summed", "whole"]


@dataclass(frozen=True, eq=False)
class Scaled:
    """Maps that are those of a layer with boxes, times a factor, plus a summand.

    Attributes
    ----------
    source : int
        The layer that has boxes.
    factor, summand : Tensor or None, shape (B or 1, channels or 1, 1, …)
        None stands for 1 and 0.
    """

    source: int
    factor: Tensor | None = None
    summand: Tensor | None = None

    def times(self, factor: Tensor) -> Scaled:
        """The maps times a factor."""
        summand = None if self.summand is None else self.summand * factor
        return Scaled(self.source, factor if self.factor is None else self.factor * factor, summand)

    def plus(self, summand: Tensor) -> Scaled:
        """The maps plus a summand."""
        return Scaled(self.source, self.factor, summand if self.summand is None else self.summand + summand)

    def of(self, maps: Tensor) -> Tensor:
        """Apply the factor and the summand (B or 1, C, …)."""
        if self.factor is None:
            return maps if self.summand is None else maps + self.summand
        return maps * self.factor if self.summand is None else torch.addcmul(self.summand, maps, self.factor)


def ways_of(graph: LayerGraph, layers: Iterable[int], boxed: Iterable[int], axes: int) -> dict[int, Way]:
    """How each of some layers, in order, is computed.

    Parameters
    ----------
    graph : LayerGraph
    layers : iterable of int
    boxed : iterable of int
        Layers whose changes are known as boxes.
    axes : int
        Spatial axes of the image.
    """
    maps, ways = set(boxed), dict[int, Way]()
    for index in layers:
        ways[index] = _way(graph, graph.layers[index], maps, axes)
        if ways[index] == "scaled":
            maps.add(index)
    return ways


def _way(graph: LayerGraph, layer: Layer, maps: set[int], axes: int) -> Way:
    operation = layer.operation
    on_maps = [source for source in layer.inputs if source in maps]
    if len(on_maps) != 1 or len(graph.layers[on_maps[0]].shape) != axes + 1:
        return "whole"
    if isinstance(operation, (Affine, GroupNorm)):
        return "scaled"
    if isinstance(operation, (Product, Add)) and layer.shape == graph.layers[on_maps[0]].shape:
        others = [source for source in layer.inputs if source not in maps]
        divides = isinstance(operation, Quotient) and layer.inputs[0] != on_maps[0]
        flat = all(math.prod(graph.layers[source].shape[1:]) == 1 for source in others)
        return "scaled" if flat and len(others) == len(layer.inputs) - 1 and not divides else "whole"
    everywhere = tuple(range(2, axes + 2))
    if isinstance(operation, AdaptiveAveragePool):
        return "summed" if set(operation.size) == {1} else "whole"
    if isinstance(operation, (SumOver, Variance)):
        return "summed" if tuple(sorted(operation.axes))[-axes:] == everywhere else "whole"
    return "whole"


@dataclass(frozen=True, eq=False)
class Moments:
    """For each window, the channels' means, and sums of squared distances from them (B or 1, C), in double precision.

    Attributes
    ----------
    mean, squares : Tensor
    count : int
        Positions.
    """

    mean: Tensor
    squares: Tensor
    count: int

    @classmethod
    def of(cls, maps: Tensor) -> Moments:
        """Of whole maps (N, C, …)."""
        flat = maps.double().flatten(2)
        mean = flat.mean(2)
        return cls(mean, ((flat - mean[:, :, None]) ** 2).sum(2), flat.shape[2])

    def changed(self, boxes: Boxes) -> Moments:
        """Of the maps of one image with boxes replaced."""
        before, after = (x.double().flatten(2) - self.mean[:, :, None] for x in (boxes.known, boxes.values))
        moved = (after.sum(2) - before.sum(2)) / self.count
        # About the known mean: nothing large is subtracted from anything large.
        squares = self.squares + (after**2).sum(2) - (before**2).sum(2) - self.count * moved**2
        return Moments(self.mean + moved, squares.clamp_min(0), self.count)

    def scaled(self, maps: Scaled) -> Moments:
        """Of maps that are scaled."""
        mean, squares = self.mean, self.squares
        if maps.factor is not None:
            factor = maps.factor.double().flatten(1)
            mean, squares = mean * factor, squares * factor**2
        return Moments(mean if maps.summand is None else mean + maps.summand.double().flatten(1), squares, self.count)

    def of_groups(self, groups: int) -> Moments:
        """Of equal groups of channels."""
        mean, squares = (x.unflatten(1, (groups, -1)) for x in (self.mean, self.squares))
        centre = mean.mean(2)
        joint = (squares + self.count * (mean - centre[:, :, None]) ** 2).sum(2)
        return Moments(centre, joint, self.count * mean.shape[2])


class Coupling:
    """Computes, for some windows, layers that need a few numbers of maps only.

    Parameters
    ----------
    graph : LayerGraph
    known : KnownActivations
    moments : dict of int to Moments
        Of known maps; filled on demand.
    live : dict of int to Boxes
        What is different in the layers with boxes.
    count : int
        Windows.
    """

    def __init__(
        self,
        graph: LayerGraph,
        known: KnownActivations,
        moments: dict[int, Moments],
        live: Mapping[int, Boxes],
        count: int,
    ) -> None:
        self._graph, self._known, self._known_moments, self._live = graph, known, moments, live
        self._count = count

    def whole(self, maps: Scaled) -> Tensor:
        """The maps of all windows (B, C, …)."""
        whole = maps.of(self._known.output(maps.source))
        if len(whole) < self._count or maps.factor is None:
            whole = whole.repeat(self._count // len(whole), *(1,) * (whole.ndim - 1))
        if maps.source in self._live:
            boxes = self._live[maps.source]
            paste(whole, maps.of(boxes.values), boxes.starts, add=False)
        return whole

    def scaled(self, index: int, inputs: Sequence[Tensor | Scaled]) -> Scaled:
        """A layer that only scales maps."""
        operation = self._graph.layers[index].operation
        maps = next(x for x in inputs if isinstance(x, Scaled))
        axes = len(self._graph.layers[index].shape) - 1
        if isinstance(operation, Affine):
            scaled = maps.times(_by_channel(operation.weight, axes))
            return scaled if operation.bias is None else scaled.plus(_by_channel(operation.bias, axes))
        if isinstance(operation, GroupNorm):
            return self._normalised(operation, maps, axes)
        if isinstance(operation, Add):
            for number, x in enumerate(inputs):
                weight = operation.weight[number]
                maps = maps.times(weight.reshape((1,) * (axes + 2))) if isinstance(x, Scaled) else maps
            for number, x in enumerate(inputs):
                if isinstance(x, Tensor):
                    maps = maps.plus(operation.weight[number] * x)
            return maps
        (other,) = (x for x in inputs if isinstance(x, Tensor))
        return maps.times(1 / other if isinstance(operation, Quotient) else other)

    def summed(self, index: int, maps: Scaled) -> Tensor:
        """A mean, sum or variance over all positions (B, …)."""
        layer = self._graph.layers[index]
        operation, moments = layer.operation, self._moments(maps)
        if isinstance(operation, (SumOver, Variance)) and 1 in operation.axes:
            moments = moments.of_groups(1)
        if isinstance(operation, Variance):
            found = moments.squares / (moments.count - operation.correction)
        elif isinstance(operation, SumOver):
            found = moments.mean * moments.count * operation.weight
        else:
            assert isinstance(operation, AdaptiveAveragePool)
            found = moments.mean * operation.weight
        known = self._known.output(index)
        return found.to(known.dtype).reshape(-1, *layer.shape).expand(self._count, *layer.shape)

    def _moments(self, maps: Scaled) -> Moments:
        if maps.source not in self._known_moments:
            self._known_moments[maps.source] = Moments.of(self._known.output(maps.source))
        moments = self._known_moments[maps.source]
        if maps.source in self._live:
            moments = moments.changed(self._live[maps.source])
        return moments.scaled(maps)

    def _normalised(self, operation: GroupNorm, maps: Scaled, axes: int) -> Scaled:
        moments = self._moments(maps)
        channels = moments.mean.shape[1]
        groups = moments.of_groups(operation.groups)
        factor = torch.rsqrt(groups.squares / groups.count + operation.epsilon)
        factor, mean = (x.repeat_interleave(channels // operation.groups, 1) for x in (factor, groups.mean))
        if operation.weight is not None:
            factor = factor * operation.weight
        summand = -mean * factor
        if operation.bias is not None:
            summand = summand + operation.bias
        dtype = self._known.output(maps.source).dtype
        by_channel = [x.to(dtype).reshape(*x.shape, *(1,) * axes) for x in (factor, summand)]
        return maps.times(by_channel[0]).plus(by_channel[1])


def change_of_sum(operation: AdaptiveAveragePool | SumOver, boxes: Boxes, shape: tuple[int, ...]) -> Tensor:
    """How much a sum or mean over all positions of maps of this shape (C, …) differs from the known one (B, …)."""
    axes = tuple(range(2, len(shape) + 1))
    if isinstance(operation, SumOver):
        return (boxes.values - boxes.known).sum(operation.axes, keepdim=True) * operation.weight
    return (boxes.values - boxes.known).sum(axes, keepdim=True) * (operation.weight / math.prod(shape[1:]))


def _by_channel(values: Tensor, axes: int) -> Tensor:
    return values.reshape((1, -1) + (1,) * axes)
