"""A recorded forward pass, and the walk back through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ADAttributionLogic.graph.arithmetic import Product
from ADAttributionLogic.graph.attention import MatrixProduct
from ADAttributionLogic.graph.chains import Block, Chain, split_into_blocks
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.normalisations import Normalisation, Variance
from ADAttributionLogic.graph.operations import (
    Activation,
    MaxPool,
    Operation,
    Softmax,
    WeightedOperation,
    scatter_to_winners,
)


class BackwardRule(Protocol):
    """What a method does at each kind of layer on the way back. Routing operations need no rule.

    Attributes
    ----------
    is_linear : bool
        Whether what goes back through activations for a sum of relevances is the sum of what goes back for each.
    """

    is_linear: bool = True

    def through_activation(self, operation: Activation, relevance: Tensor, output: Tensor) -> Tensor:
        """From the output of an element-wise function to its input; given are the values that its derivative takes."""

    def through_softmax(self, layer: int, operation: Softmax, x: Tensor, relevance: Tensor, output: Tensor) -> Tensor:
        """From the output of a softmax inside the network to its input."""

    def through_weighted(
        self,
        layer: int,
        operation: WeightedOperation,
        inputs: tuple[Tensor, ...],
        relevance: Tensor,
        output: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """From the output of a weighted sum (None where it was not kept) to each of its inputs."""

    def through_product(
        self,
        layer: int,
        operation: Product | MatrixProduct,
        inputs: tuple[Tensor, ...],
        relevance: Tensor,
        output: Tensor,
    ) -> tuple[Tensor, ...]:
        """From the product of two layers to each of them."""

    def through_normalisation(
        self, layer: int, operation: Normalisation, inputs: tuple[Tensor, ...], relevance: Tensor
    ) -> tuple[Tensor, ...]:
        """From what was normalised by its own statistics to what it was."""

    def through_variance(self, layer: int, operation: Variance, x: Tensor, relevance: Tensor, output: Tensor) -> Tensor:
        """From the variance over places to these."""


@dataclass(eq=False)
class Recording:
    """What a forward pass left behind for walks back.

    Attributes
    ----------
    graph : LayerGraph
    blocks : tuple of Block
    outputs : dict of int to Tensor
        Per layer that ends a block (and the input, 0).
    winners : dict of int to list of Tensor
        Per block that ends with a max pooling.
    """

    graph: LayerGraph
    blocks: tuple[Block, ...]
    outputs: dict[int, Tensor] = field(default_factory=dict)
    winners: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """The network's logits (N, classes)."""
        return self.outputs[self.graph.output]


@torch.no_grad()
def record(
    graph: LayerGraph, x: Tensor, keep: frozenset[int] = frozenset(), check: Callable[[], None] | None = None
) -> Recording:
    """Run the network and keep what walks back need.

    Parameters
    ----------
    graph : LayerGraph
    x : Tensor, shape (N, C, …)
    keep : frozenset of int
        Layers inside chains whose outputs are wanted as well.
    check : callable, optional
        Called between blocks; raises to cancel.
    """
    graph.check_input(x)
    recording = Recording(graph, split_into_blocks(graph, keep), {0: x})
    for block in recording.blocks:
        if check is not None:
            check()
        inputs = tuple(recording.outputs[source] for source in block.sources)
        chain = Chain.of(graph, block)
        if chain is not None:
            output, winners = chain.forward(inputs[0], keep_winners=True)
            recording.winners[block.output] = winners
        else:
            operation = graph.layers[block.output].operation
            if isinstance(operation, MaxPool):
                output, indices = operation.forward_with_winners(inputs[0])
                recording.winners[block.output] = [indices]
            else:
                output = operation.forward(*inputs)
        recording.outputs[block.output] = output
    return recording


@torch.no_grad()
def walk_back(
    recording: Recording,
    start: Tensor,
    rule: BackwardRule,
    target_layer: int = 0,
    observe: Callable[[str, Tensor], None] | None = None,
    check: Callable[[], None] | None = None,
    pass_on: Callable[[Block, tuple[Tensor, ...]], None] | None = None,
) -> Tensor:
    """Carry relevance (or a gradient) from the logits back to a layer's output, by default to the input.

    Parameters
    ----------
    recording : Recording
    start : Tensor, shape (N, classes)
        At the logits.
    rule : BackwardRule
    target_layer : int
        Must end a block of the recording.
    observe : callable, optional
        Called with each block's last layer's name and the relevance of its output.
    check : callable, optional
        Called between blocks; raises to cancel.
    pass_on : callable, optional
        Called with each block and the relevance that each of its inputs gets from it.

    Returns
    -------
    Tensor
        Of the shape of that layer's output.
    """
    waiting: dict[int, Tensor] = {recording.graph.output: start}
    for block in reversed(recording.blocks):
        if block.output <= target_layer:
            break
        relevance = waiting.pop(block.output, None)
        if relevance is None:  # nothing on the way to the logits uses it
            continue
        if check is not None:
            check()
        if observe is not None:
            observe(recording.graph.layers[block.output].name, relevance)
        parts = _through_block(recording, block, relevance, rule)
        if pass_on is not None:
            pass_on(block, parts)
        for source, part in zip(block.sources, parts, strict=True):
            waiting[source] = waiting[source] + part if source in waiting else part
    result = waiting.get(target_layer)
    if result is None:
        return torch.zeros_like(recording.outputs[target_layer])
    if observe is not None:
        observe(recording.graph.layers[target_layer].name, result)
    return result


def _through_block(recording: Recording, block: Block, relevance: Tensor, rule: BackwardRule) -> tuple[Tensor, ...]:
    graph = recording.graph
    inputs = tuple(recording.outputs[source] for source in block.sources)
    output = recording.outputs[block.output]
    chain = Chain.of(graph, block)
    if chain is None:
        winners = recording.winners.get(block.output)
        return _through_layer(
            block.output, graph.layers[block.output].operation, inputs, output, winners, relevance, rule
        )

    convolution_layer = block.layers[0]
    layer_of = {id(graph.layers[i].operation): i for i in block.layers}

    def through_elementwise(operation: Operation, part: Tensor, before: Tensor | None, after: Tensor) -> Tensor:
        if isinstance(operation, Activation):
            values = before if operation.needs_input else after
            assert values is not None  # such a chain keeps what its activations need
            return rule.through_activation(operation, part, values)
        assert isinstance(operation, WeightedOperation) and before is not None
        return rule.through_weighted(layer_of[id(operation)], operation, (before,), part, after)[0]

    return (
        chain.backward(
            inputs[0],
            output,
            recording.winners[block.output],
            relevance,
            through_elementwise,
            lambda operation, x, part, z: rule.through_weighted(convolution_layer, operation, (x,), part, z)[0],
            rule.is_linear,
        ),
    )


def _through_layer(
    index: int,
    operation: Operation,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    winners: list[Tensor] | None,
    relevance: Tensor,
    rule: BackwardRule,
) -> tuple[Tensor, ...]:
    if isinstance(operation, Activation):
        return (rule.through_activation(operation, relevance, inputs[0] if operation.needs_input else output),)
    if isinstance(operation, Softmax):
        return (rule.through_softmax(index, operation, inputs[0], relevance, output),)
    if isinstance(operation, WeightedOperation):
        return rule.through_weighted(index, operation, inputs, relevance, output)
    if isinstance(operation, Normalisation):
        return rule.through_normalisation(index, operation, inputs, relevance)
    if isinstance(operation, (Product, MatrixProduct)):
        return rule.through_product(index, operation, inputs, relevance, output)
    if isinstance(operation, Variance):
        return (rule.through_variance(index, operation, inputs[0], relevance, output),)
    if isinstance(operation, MaxPool) and winners is not None:
        return (scatter_to_winners(relevance, winners[0], inputs[0].shape),)
    return operation.gradient(relevance, inputs, output)
