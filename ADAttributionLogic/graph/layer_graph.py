"""LayerGraph: a network as a list of known operations, in the order in which they run.

All methods that look inside a network are walks over this value. The user's network is only read while it is traced
(:mod:`ADAttributionLogic.tracing.tracer`); nothing is hooked, nothing mutated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ADAttributionLogic.errors import GridMismatchError, NetworkError
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.operations import Affine, Dense, MaxPool, Operation

Head = Literal["softmax", "sigmoid", "score"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation of a network.

    Attributes
    ----------
    name : str
        Unique: the module's path, with ``#2``, ``#3``, … from its second use on.
    operation : Operation
    inputs : tuple of int
        Indices of the layers whose outputs it takes.
    shape : tuple of int
        Shape of its output, without the batch axis.
    location : str
        Module path and source line, for messages.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    location: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.operation.describe()})"


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A traced network, up to and including its logits.

    Attributes
    ----------
    layers : tuple of Layer
        ``layers[0]`` is the input; every layer comes after its inputs; the last layer gives the logits (N, classes).
    head : {"softmax", "sigmoid", "score"}
        How logits become probabilities: softmax over classes, or the sigmoid of a single logit; a score is none. Where
        the network itself does not end with that function, what it is must be declared
        (:func:`ADAttributionLogic.networks.output.head_of`).
    returns : {"logits", "probabilities", "log-probabilities"}
        What the network itself returns; a softmax or sigmoid at its end is not among the layers.
    """

    layers: tuple[Layer, ...]
    head: Head
    returns: Literal["logits", "probabilities", "log-probabilities"] = "logits"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels and spatial size of the input."""
        return self.layers[0].shape

    @property
    def output(self) -> int:
        """Index of the last layer."""
        return len(self.layers) - 1

    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each layer, which layers take its output."""
        lists: list[list[int]] = [[] for _ in self.layers]
        for index, layer in enumerate(self.layers):
            for source in layer.inputs:
                lists[source].append(index)
        return tuple(tuple(consumers) for consumers in lists)

    def bottlenecks(self) -> tuple[int, ...]:
        """Layers that every path from the input to the logits passes through, in order (they dominate the output)."""
        furthest, found = 0, []
        for index, consumers in enumerate(self.consumers()):
            if furthest <= index:
                found.append(index)
            furthest = max(furthest, *consumers, 0)
        return tuple(found)

    def index(self, name: str) -> int:
        """Return the index of the layer with this name."""
        for index, layer in enumerate(self.layers):
            if layer.name == name:
                return index
        raise NetworkError(
            f"The network has no layer named {name!r}. Layers: {', '.join(x.name for x in self.layers)}."
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> LayerGraph:
        """Return the graph with all tensors moved and converted."""
        device = torch.device(device)
        return replace(self, layers=tuple(replace(x, operation=x.operation.to(device, dtype)) for x in self.layers))

    def check_input(self, x: Tensor) -> None:
        """Refuse a batch of images that the network cannot take.

        Raises
        ------
        GridMismatchError
        """
        if tuple(x.shape[1:]) != self.input_shape:
            given, needed = ("×".join(map(str, s)) for s in (x.shape[1:], self.input_shape))
            raise GridMismatchError(f"The network takes images of {needed} (channels×voxels), but got {given}.")

    def logits(self, x: Tensor) -> Tensor:
        """Run the network, keeping only what later layers need.

        Parameters
        ----------
        x : Tensor, shape (N, C, …)

        Returns
        -------
        Tensor, shape (N, classes)
        """
        self.check_input(x)
        last_use = {source: index for index, layer in enumerate(self.layers) for source in layer.inputs}
        values: dict[int, Tensor] = {0: x}
        for index, layer in enumerate(self.layers[1:], start=1):
            values[index] = layer.operation.forward(*(values[source] for source in layer.inputs))
            for source in set(layer.inputs):
                if last_use[source] == index:
                    del values[source]
        return values[self.output]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (N, classes) of logits; a single sigmoid output gives (1 − p, p)."""
        return class_probabilities(logits, self.head)


def class_probabilities(logits: Tensor, head: Head) -> Tensor:
    """Turn logits (N, K) into class probabilities: (N, K), or (N, 2) for a sigmoid head with one logit; not a score."""
    if head == "score":
        raise ValueError("A score is no probability.")
    if head == "softmax":
        return torch.softmax(logits, dim=1)
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)


def fold_batch_norm(graph: LayerGraph) -> LayerGraph:
    """Merge each constant scaling into the convolution or dense layer before it, where nothing lies between.

    By adjacency in the graph: the layer's output must go to the scaling only. Max pooling may lie between when all
    factors are positive: the largest of scaled values is the scaled largest (Qiu et al. 2022 pool before they
    normalise). A scaling that follows a ReLU (Korolev 2017) keeps its own layer.
    """
    layers = list(graph.layers)
    consumers = graph.consumers()
    removed: dict[int, int] = {}
    for index, layer in enumerate(layers):
        if not isinstance(layer.operation, Affine):
            continue
        replacement = removed.get(layer.inputs[0], layer.inputs[0])
        source, path = replacement, [layer.inputs[0]]
        while isinstance(layers[source].operation, MaxPool) and bool((layer.operation.weight > 0).all()):
            path.append(layers[source].inputs[0])
            source = removed.get(path[-1], path[-1])
        before = layers[source].operation
        # Of a dense layer on tokens (places, features), the channels are places.
        constants = (layer.operation.weight, layer.operation.bias)
        is_same_for_all = all(c is None or c.ndim == 0 for c in constants)
        by_output = is_same_for_all or isinstance(before, Convolution) or len(layer.shape) == 1
        if isinstance(before, (Convolution, Dense)) and by_output and all(len(consumers[place]) == 1 for place in path):
            layers[source] = replace(layers[source], operation=_absorb(before, layer.operation))
            removed[index] = replacement
    return replace(graph, layers=_without(layers, removed))


def _absorb(before: Convolution | Dense, scaling: Affine) -> Convolution | Dense:
    factor = scaling.weight.expand(before.weight.shape[0])
    weight = before.weight * factor.reshape((-1,) + (1,) * (before.weight.ndim - 1))
    bias = before.bias * factor if before.bias is not None else torch.zeros_like(factor)
    return replace(before, weight=weight, bias=bias if scaling.bias is None else bias + scaling.bias)


def _without(layers: Sequence[Layer], removed: dict[int, int]) -> tuple[Layer, ...]:
    """Drop layers; whoever took a removed layer's output takes its replacement's."""
    kept = [index for index in range(len(layers)) if index not in removed]
    position = {index: new for new, index in enumerate(kept)}
    position.update({index: position[source] for index, source in removed.items()})
    return tuple(replace(layers[i], inputs=tuple(position[s] for s in layers[i].inputs)) for i in kept)
