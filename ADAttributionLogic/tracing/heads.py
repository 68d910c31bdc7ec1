"""What a network returns: logits, or probabilities whose softmax or sigmoid is found and taken off.

Methods need the logits. A softmax or sigmoid at the end is recognised whatever only moves its results (flatten,
squeeze, view) or restates them (1 − p, cat([1 − p, p])). Scores that were made of probabilities in another way (a mean
of softmaxes, smoothing) are neither: they are refused, or, where the user says that they are probabilities, their
logarithm is taken for the logits, whose softmax they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.activations import Sigmoid, Tanh
from ADAttributionLogic.graph.arithmetic import Product
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import Head, Layer, LayerGraph
from ADAttributionLogic.graph.operations import (
    Activation,
    Affine,
    Concatenate,
    Dense,
    Input,
    Operation,
    Permute,
    Reshape,
    Softmax,
)

_SAY_SO = "say so (gives_probabilities=True; --gives-probabilities on the command line)"


@dataclass(frozen=True, eq=False)
class Logarithm(Activation):
    """Logarithm of probabilities, or log-odds of a single one: the logits that they belong to."""

    of_odds: bool

    def forward(self, *inputs: Tensor) -> Tensor:
        (p,) = inputs
        p = p.clamp_min(float(torch.finfo(torch.float32).tiny))
        return torch.log(p) - torch.log1p(-p.clamp_max(1 - 1e-7)) if self.of_odds else torch.log(p)

    def derivative(self, values: Tensor) -> Tensor:
        if self.of_odds:
            return 1 / (torch.sigmoid(values) * torch.sigmoid(-values))
        return torch.exp(-values)


def strip_head(layers: Sequence[Layer], output: Head | None = None, gives_probabilities: bool = False) -> LayerGraph:
    """Separate the final softmax or sigmoid, if the network has one, from the layers that give the logits.

    Parameters
    ----------
    layers : sequence of Layer
    output : {"softmax", "sigmoid", "score"}, optional
        What the user says that the outputs are.
    gives_probabilities : bool
        Whether the user says that they are probabilities.

    Raises
    ------
    NetworkError
        Its scores are not one row, or are made of probabilities and thus no logits.
    """
    layers = _as_row(list(layers))
    count = layers[-1].shape[0]
    graph = _softmax_or_sigmoid(layers) or _pair(layers)
    if graph is not None:
        again = _bounded_function(graph.layers)
        if again is not None:
            raise NetworkError(
                f"The network applies two softmax or sigmoid functions at its end, the first at {again}; its logits "
                "are undefined."
            )
        return graph
    head: Head = "sigmoid" if count == 1 else "softmax"
    if gives_probabilities:
        last = layers[-1]
        logits = Layer("logarithm", Logarithm(count == 1), (len(layers) - 1,), last.shape, "the declared output")
        return LayerGraph((*layers, logits), head, "probabilities")
    bounded = _bounded_function(layers)
    if bounded is not None and output != "score":
        raise NetworkError(_neither(bounded, count))
    return LayerGraph(tuple(layers), head, "logits")


def _neither(bounded: Layer, count: int) -> str:
    if isinstance(bounded.operation, Sigmoid) and count > 1:
        return (
            f"The network ends with {count} sigmoids ({bounded}), which are independent answers and no probabilities "
            "of exclusive classes: they need not sum to 1. Wrap it in a module that returns one of them, e.g. "
            "network(x)[:, 1:], or the logits if they were trained with a softmax."
        )
    return (
        f"The network's scores are made of the results of {bounded} by operations after it, so that they are no "
        "logits. Let it return the logits, or end with that function; or, if the scores are probabilities, "
        f"{_SAY_SO}."
    )


def _as_row(layers: list[Layer]) -> list[Layer]:
    """A last layer of shape (K,), whatever other axes of length 1 the network returns."""
    shape = layers[-1].shape
    count = math.prod(shape)
    if sum(n != 1 for n in shape) > 1 or count == 0:
        found = ", ".join(map(str, shape))
        raise NetworkError(f"The network must return one row of class scores per image, but returns (N, {found}).")
    if len(shape) == 1:
        return layers
    return [*layers, Layer("scores", Reshape((count,)), (len(layers) - 1,), (count,), "the network's output")]


def _moves_only(layer: Layer) -> bool:
    """Whether a layer leaves a row of scores as it is, but for axes of length 1."""
    return isinstance(layer.operation, Reshape) or (
        isinstance(layer.operation, Permute) and sum(n != 1 for n in layer.shape) <= 1
    )


def _before_moves(layers: Sequence[Layer], index: int) -> int:
    while _moves_only(layers[index]):
        index = layers[index].inputs[0]
    return index


def _softmax_or_sigmoid(layers: Sequence[Layer]) -> LayerGraph | None:
    index = _before_moves(layers, len(layers) - 1)
    layer = layers[index]
    operation, count = layer.operation, layers[-1].shape[0]
    if isinstance(operation, Softmax) and layer.shape[operation.axis - 1 if operation.axis > 0 else -1] == count:
        if count == 1:
            raise NetworkError("The softmax of a single output is always 1; the network cannot decide anything.")
        kept = _removed(layers, index)
        return LayerGraph(kept, "softmax", "log-probabilities" if operation.logarithm else "probabilities")
    if count != 1:
        return None
    if isinstance(operation, Sigmoid):
        return LayerGraph(_removed(layers, index), "sigmoid", "probabilities")
    source = _before_moves(layers, layer.inputs[0])
    if _is_complement(operation) and isinstance(layers[source].operation, Sigmoid):
        kept = _removed(_removed(layers, index), source)
        return negated(LayerGraph(kept, "sigmoid", "probabilities"))
    return None


def _pair(layers: Sequence[Layer]) -> LayerGraph | None:
    """``cat([1 − p, p])`` or ``cat([p, 1 − p])`` of one sigmoid."""
    index = _before_moves(layers, len(layers) - 1)
    if not isinstance(layers[index].operation, Concatenate) or layers[-1].shape != (2,):
        return None
    if len(layers[index].inputs) != 2:
        return None
    ends = [_before_moves(layers, source) for source in layers[index].inputs]
    complements = [_is_complement(layers[i].operation) for i in ends]
    sigmoids = [
        _before_moves(layers, layers[i].inputs[0]) if is_complement else i
        for i, is_complement in zip(ends, complements, strict=True)
    ]
    if complements[0] == complements[1] or not all(isinstance(layers[i].operation, Sigmoid) for i in sigmoids):
        return None
    logits = [_before_moves(layers, layers[i].inputs[0]) for i in sigmoids]
    if logits[0] != logits[1]:
        return None
    scores = Layer("scores", Reshape((1,)), (logits[0],), (1,), "the network's output")
    graph = LayerGraph((*layers[: logits[0] + 1], scores), "sigmoid", "probabilities")
    return negated(graph) if complements[1] else graph  # the positive class is the second


def negated(graph: LayerGraph) -> LayerGraph:
    """Return the network whose single logit is −z, so that what speaks against z speaks for it.

    The last weighted layer is negated, so that LRP's rules see its contributions with their sign for −z.

    Raises
    ------
    NetworkError
        The logit does not come from a dense layer or convolution.
    """
    layers = list(graph.layers)
    index = graph.output
    while isinstance(layers[index].operation, (Reshape, Affine)):
        operation = layers[index].operation
        if isinstance(operation, Affine) and operation.bias is not None:
            layers[index] = replace(layers[index], operation=replace(operation, bias=-operation.bias))
        index = layers[index].inputs[0]
    operation = layers[index].operation
    if not isinstance(operation, (Convolution, Dense)):
        raise NetworkError(
            f"Explaining class 0 of a single output needs a dense layer or convolution at the end, but found "
            f"{layers[index]}."
        )
    opposite = replace(operation, weight=-operation.weight, bias=None if operation.bias is None else -operation.bias)
    layers[index] = replace(layers[index], operation=opposite)
    return replace(graph, layers=tuple(layers))


def _is_complement(operation: Operation) -> bool:
    if not isinstance(operation, Affine) or operation.bias is None:
        return False
    return bool((operation.weight == -1).all()) and bool((operation.bias == 1).all())


def _removed(layers: Sequence[Layer], index: int) -> tuple[Layer, ...]:
    """Drop a layer with one input; whoever took its output takes its input's."""
    source = layers[index].inputs[0]

    def moved(i: int) -> int:
        i = source if i == index else i
        return i - 1 if i > index else i

    return tuple(
        replace(layer, inputs=tuple(moved(i) for i in layer.inputs)) for i, layer in enumerate(layers) if i != index
    )


def _bounded_function(layers: Sequence[Layer]) -> Layer | None:
    """A softmax, sigmoid or tanh whose results become the scores without any weighted layer after it."""
    waiting, seen = [len(layers) - 1], set[int]()
    while waiting:
        index = waiting.pop()
        operation = layers[index].operation
        if index in seen or isinstance(operation, (Convolution, Dense, Input, Product)):
            continue
        seen.add(index)
        if isinstance(operation, (Softmax, Sigmoid, Tanh)):
            return layers[index]
        waiting += layers[index].inputs
    return None
