"""Attention between the tokens of an image, found in a network's layers: which tokens look at which, and who is asked.

What is found is exact: tokens are the same in all layers, mixed by attention alone, and read by one class token or by
their mean. Anything else (windows, pooled keys, tokens that are no places in the image) is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NoReturn

import torch

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.arithmetic import PlacewiseAffine, Product, SumOver
from ADAttributionLogic.graph.attention import DenseByGroup, MatrixProduct
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.layouts import Axis, Layout, layouts
from ADAttributionLogic.graph.normalisations import LayerNorm
from ADAttributionLogic.graph.operations import (
    Activation,
    AdaptiveAveragePool,
    Add,
    Affine,
    Concatenate,
    Dense,
    Permute,
    Reshape,
    Softmax,
    ZeroPad,
)
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.graph.receptive_field import UnitGrid, unit_grid

Readout = Literal["class-token", "mean"]

_OTHERWISE = "Use grad-cam, lrp (attn-lrp), gradient-x-input or occlusion."


@dataclass(frozen=True)
class AttentionLayer:
    """One attention.

    Attributes
    ----------
    weights : int
        The layer that gives the weights with which tokens look at tokens: a softmax.
    mixed : int
        The layer that sums the values.
    queries, keys : int
        Axes of the weights, with the batch axis counted: who looks, and at whom.
    has_way_around : bool
        Whether an addition takes the tokens past it as well (a residual connection).
    """

    weights: int
    mixed: int
    queries: int
    keys: int
    has_way_around: bool


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """All attention of a network.

    Attributes
    ----------
    layers : tuple of AttentionLayer
        In the order in which they run.
    tokens : int
    grid : UnitGrid
        Of an axis of tokens.
    readouts : mapping of str to tuple of float
        What the answer is read from: for each way in which it is, the weight of each token.
    """

    layers: tuple[AttentionLayer, ...]
    tokens: int
    grid: UnitGrid
    readouts: Mapping[Readout, tuple[float, ...]]


def has_attention(graph: LayerGraph) -> bool:
    """Whether there is a softmax whose result multiplies a layer as a matrix."""
    return bool(_pairs(graph))


def find_self_attention(graph: LayerGraph) -> SelfAttention:
    """All attention of a network, if its tokens are places in the image and the same throughout.

    Raises
    ------
    NetworkError
        There is none, or it is of another kind; says of which, and where.
    """
    pairs = _pairs(graph)
    if not pairs:
        raise NetworkError(f"The network has no attention, and attention is what rollout follows. {_OTHERWISE}")
    known = layouts(graph)
    around = set(graph.bottlenecks())
    found: list[AttentionLayer] = []
    tokens: Axis | None = None
    for weights, mixed in pairs:
        keys, queries, axis = _axes(graph, known, weights, len(graph.input_shape) - 1)
        if tokens is not None and axis != tokens:
            _refuse(graph, weights, f"it is between {axis.size} tokens, the one before between {tokens.size} others")
        tokens = axis
        if not _sums_over_keys(graph, weights, mixed, keys):
            _refuse(graph, weights, "its weights do not go to the sum of the values as they are")
        found.append(AttentionLayer(weights, mixed, queries, keys, mixed not in around))
    assert tokens is not None
    _require_sequence(graph, found)
    grid = unit_grid((tokens,), len(graph.input_shape) - 1)
    if grid is None:
        _refuse(graph, found[0].weights, "its tokens are no grid of voxels")
    return SelfAttention(tuple(found), tokens.size, grid, _Reading(graph, known, found, tokens).readouts())


def _refuse(graph: LayerGraph, layer: int, why: str) -> NoReturn:
    item = graph.layers[layer]
    place = item.location or "the top level"
    raise NetworkError(f"Attention cannot be rolled out through {item}, at {place}: {why}. {_OTHERWISE}")


def _pairs(graph: LayerGraph) -> list[tuple[int, int]]:
    """Softmax and product with the values, of each attention."""
    pairs: list[tuple[int, int]] = []
    for index, layer in enumerate(graph.layers):
        if isinstance(layer.operation, MatrixProduct):
            for source in layer.inputs:
                while isinstance(graph.layers[source].operation, (Permute, Reshape)):
                    source = graph.layers[source].inputs[0]
                operation = graph.layers[source].operation
                if isinstance(operation, Softmax) and not operation.logarithm:
                    pairs.append((source, index))
    return sorted(pairs)


def _axes(graph: LayerGraph, known: Mapping[int, Layout], weights: int, image_axes: int) -> tuple[int, int, Axis]:
    """Axes of keys and queries among those of the weights, with the batch axis counted, and what both stand for."""
    operation = graph.layers[weights].operation
    assert isinstance(operation, Softmax)
    if weights not in known:
        _refuse(graph, weights, "its tokens are no grid of voxels, and have no place of their own in the image")
    layout = known[weights]
    keys = layout[operation.axis - 1]
    placed = [number for number, axis in enumerate(layout) if axis.image_axes and number != operation.axis - 1]
    if not keys.image_axes or not placed:
        _refuse(graph, weights, "it is not between tokens that are places in the image")
    if len(placed) > 1:
        windows = layout[placed[0]].size
        _refuse(graph, weights, f"it stays within {windows} windows of {keys.size} tokens each")
    queries = layout[placed[0]]
    if queries != keys:
        _refuse(graph, weights, f"its {queries.size} queries and {keys.size} keys are not the same tokens")
    if set(keys.image_axes) != set(range(image_axes)):
        _refuse(graph, weights, "its tokens lie along some axes of the image only")
    return operation.axis, placed[0] + 1, keys


def _sums_over_keys(graph: LayerGraph, weights: int, mixed: int, keys: int) -> bool:
    """Whether the product sums over the axis of keys, by following that axis through the changes of shape between."""
    shape = graph.layers[weights].shape
    count = shape[keys - 1]
    view = [count if axis == keys else 1 for axis in range(len(shape) + 1)]
    marks = torch.arange(count).view(view).expand(1, *shape)
    for number, source in enumerate(graph.layers[mixed].inputs):
        path: list[int] = []
        while isinstance(graph.layers[source].operation, (Permute, Reshape)):
            path.append(source)
            source = graph.layers[source].inputs[0]
        if source != weights:
            continue
        for index in reversed(path):
            marks = graph.layers[index].operation.forward(marks)
        summed = marks.movedim(-1 if number == 0 else -2, -1)
        return bool((summed == torch.arange(summed.shape[-1])).all()) and summed.shape[-1] == count
    return False


def _require_sequence(graph: LayerGraph, found: Sequence[AttentionLayer]) -> None:
    """Each attention must be to what the one before gave."""
    depends: list[frozenset[int]] = []
    for layer in graph.layers:
        depends.append(frozenset(layer.inputs).union(*(depends[i] for i in layer.inputs)))
    for before, after in pairwise(found):
        if before.mixed not in depends[after.weights]:
            _refuse(graph, after.weights, f"it stands beside {graph.layers[before.weights].name}, not behind it")


class _Reading:
    """How tokens become the answer, and that nothing but attention mixes them on the way."""

    def __init__(
        self, graph: LayerGraph, known: Mapping[int, Layout], found: Sequence[AttentionLayer], tokens: Axis
    ) -> None:
        self.graph, self.known, self.tokens = graph, known, tokens
        self.products = {layer.mixed for layer in found}
        self.softmaxes = {layer.weights for layer in found}
        self.last = found[-1].mixed
        self.start = max(index for index in graph.bottlenecks() if index < found[0].weights)

    def readouts(self) -> dict[Readout, tuple[float, ...]]:
        found: dict[Readout, tuple[float, ...]] = {}
        for index in range(self.start + 1, len(self.graph.layers)):
            for number, source in enumerate(self.graph.layers[index].inputs):
                if source < self.start or source not in self.known:
                    continue
                for axis, what in enumerate(self.known[source]):
                    if what.image_axes:
                        read = self._read(index, number, axis, what)
                        if read is not None:
                            self._add(found, read, index)
        if not found:
            _refuse(self.graph, self.last, "the answer reads neither a class token nor the mean of all tokens")
        return found

    def _add(self, found: dict[Readout, tuple[float, ...]], read: tuple[Readout, list[int]], index: int) -> None:
        how, places = read
        if index < self.last:
            _refuse(self.graph, index, "tokens are read together before the last attention")
        weights = tuple(1 / len(places) if token in places else 0.0 for token in range(self.tokens.size))
        if found.get(how, weights) != weights:
            _refuse(self.graph, index, "the answer reads several class tokens")
        found[how] = weights

    def _read(self, index: int, number: int, axis: int, what: Axis) -> tuple[Readout, list[int]] | None:
        """Which tokens a layer reads, if it does so; an error if it mixes them."""
        layer = self.graph.layers[index]
        operation, given = layer.operation, self.known[layer.inputs[number]]
        behind = len(given) - axis  # counted from the end
        if isinstance(operation, (Activation, Add, Affine, PlacewiseAffine, Product)):
            return None
        if isinstance(operation, LayerNorm) and len(operation.shape) < behind:
            return None
        if isinstance(operation, (Dense, DenseByGroup)) and behind > 1:
            return None
        if isinstance(operation, Softmax) and (index in self.softmaxes or operation.axis != axis + 1):
            return None
        if isinstance(operation, MatrixProduct) and (index in self.products or behind == (2, 1)[number]):
            return None
        if isinstance(operation, (Permute, Reshape)) and index in self.known and what in self.known[index]:
            return None
        if isinstance(operation, Concatenate) and operation.axis != axis + 1:
            return None
        if isinstance(operation, SumOver):
            return ("mean", self._places(what)) if axis + 1 in operation.axes else None
        if isinstance(operation, AdaptiveAveragePool) and layer.shape[axis] == 1:
            return "mean", self._places(what)
        if isinstance(operation, (Take, ZeroPad)) and index in self.known:
            after = self.known[index][axis]
            if after == what:
                return None
            if after.image_axes == what.image_axes and index > self.last:
                return None  # without its class tokens
            if not after.image_axes and after.size == 1:
                return "class-token", [self._chosen(operation, axis, len(given), what)]
        kind = type(operation).__name__
        _refuse(self.graph, index, f"it mixes or regroups tokens outside attention ({kind})")

    def _places(self, what: Axis) -> list[int]:
        """Numbers among all tokens of those that an axis still has."""
        first = self.tokens.before - what.before
        return list(range(first, first + what.size))

    def _chosen(self, operation: Take | ZeroPad, axis: int, axes: int, what: Axis) -> int:
        place = int(operation.index[0]) if isinstance(operation, Take) else -operation.padding[axis - axes][0]
        return self._places(what)[place]
