"""The order in which a changed box is followed through a network: which layers are recomputed together, and how.

Up to the first layers that couple all positions (flattening, global pooling, dense layers), a network is *local*: a
changed box of voxels changes a box of every layer's output. The local layers are divided into steps; everything behind
them is the *tail*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ADAttributionLogic.graph.arithmetic import Product
from ADAttributionLogic.graph.chains import Block, split_into_blocks
from ADAttributionLogic.graph.layer_graph import Layer, LayerGraph
from ADAttributionLogic.graph.operations import Add, AveragePool, Convolution, Dense, MaxPool, Operation, Reshape
from ADAttributionLogic.graph.reach import Places, Reach, point, reach_of

Range = tuple[Places, Places]

#: Recomputing what a pooling needs instead of what has changed is worth this many times the arithmetic, because
#: nothing inside the chain is then stored, gathered or pasted.
WHOLE_CHAIN_FACTOR = 1.5


@dataclass(frozen=True, eq=False)
class Step:
    """Layers whose outputs' boxes are recomputed in one go.

    Attributes
    ----------
    layers : tuple of int
        Each takes the output of the one before.
    sources : tuple of int
        The first layer's inputs.
    reaches : tuple of Reach
        Of those layers that are not pointwise.
    shapes : tuple of tuple of int
        Spatial sizes of the outputs that belong to `reaches`.
    keeps_sums : bool
        Whether the output of the convolution that it begins with is kept, so that the convolution of a change can be
        added to it instead of convolving again all that lies around the change.
    """

    layers: tuple[int, ...]
    sources: tuple[int, ...]
    reaches: tuple[Reach, ...]
    shapes: tuple[tuple[int, ...], ...]
    keeps_sums: bool = False

    @property
    def output(self) -> int:
        """The layer whose output the step gives."""
        return self.layers[-1]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Spatial size of its output."""
        return self.shapes[-1]

    def affected(self, first: Places, last: Places) -> Range:
        """The range of outputs that the inputs `first` to `last` can reach."""
        for reach, shape in zip(self.reaches, self.shapes, strict=True):
            first, last = reach.affected(first, last, shape)
        return first, last

    def most_affected(self, inputs: Places) -> Places:
        """Size of the largest box of outputs that a box of `inputs` can reach."""
        for reach, shape in zip(self.reaches, self.shapes, strict=True):
            inputs = reach.most_affected(inputs, shape)
        return inputs

    def needed(self, starts: Places, size: Places) -> tuple[Places, Places]:
        """Starts and size of the boxes of inputs that boxes of outputs are computed from."""
        for reach in reversed(self.reaches):
            starts, size = reach.needed_from(starts), reach.needed(size)
        return starts, size


@dataclass(frozen=True, eq=False)
class Plan:
    """How windows of at most one size are followed.

    Attributes
    ----------
    steps : tuple of Step
    frontier : tuple of int
        Local layers that the tail takes.
    tail : tuple of int
        The layers that are not local, in order.
    flattened : frozenset of int
        Layers of the tail that do nothing but flatten a local layer's output for dense layers, which then look up the
        weights of the changed features only.
    largest : dict of int to tuple of int
        Per step's output, the size of the largest box.
    """

    steps: tuple[Step, ...]
    frontier: tuple[int, ...]
    tail: tuple[int, ...]
    flattened: frozenset[int]
    largest: dict[int, tuple[int, ...]]

    def ranges(self, first: Places, last: Places) -> dict[int, Range]:
        """Per local layer that a step gives (and the input), the first and last place that windows can reach."""
        found = {0: (first, last)}
        for step in self.steps:
            found[step.output] = step.affected(*union(found[source] for source in step.sources))
        return found


def union(ranges: Iterable[Range]) -> Range:
    """The smallest range that contains all of them."""
    firsts, lasts = zip(*ranges, strict=True)
    return np.minimum.reduce(firsts), np.maximum.reduce(lasts)


def first_coupling_layer(graph: LayerGraph) -> Layer | None:
    """The first layer, in order, whose outputs depend on all positions, if there is one."""
    axes = len(graph.input_shape) - 1
    return next((layer for layer in graph.layers[1:] if _reach(graph, layer, axes) is None), None)


def make_plan(graph: LayerGraph, window: Sequence[int], keep_bytes: int, itemsize: int) -> Plan:
    """Divide a graph for windows of at most this size.

    Parameters
    ----------
    graph : LayerGraph
    window : sequence of int
        Voxels along each axis.
    keep_bytes : int
        Convolutions' outputs larger than this are not kept.
    itemsize : int
        Bytes of a number.
    """
    axes = len(graph.input_shape) - 1
    sizes: dict[int, Places] = {0: np.asarray(window)}
    steps: list[Step] = []
    for block in split_into_blocks(graph):
        if not set(block.sources) <= sizes.keys():
            continue
        for part in _local_part(graph, block, axes):
            size = np.maximum.reduce([sizes[source] for source in part.sources])
            for step in _divide(graph, part, size, keep_bytes, itemsize):
                size = step.most_affected(size)
                steps.append(step)
                sizes[step.output] = size
    inner = {layer for step in steps for layer in step.layers[:-1]}
    tail = tuple(i for i in range(1, len(graph.layers)) if i not in sizes and i not in inner)
    frontier = tuple(sorted({s for i in tail for s in graph.layers[i].inputs if s in sizes}))
    return Plan(
        tuple(steps), frontier, tail, _flattened(graph, tail, sizes.keys()), {k: tuple(v) for k, v in sizes.items()}
    )


def _local_part(graph: LayerGraph, block: Block, axes: int) -> list[Step]:
    """The block as one step, or nothing if it begins with a coupling layer."""
    reaches: list[tuple[Reach, tuple[int, ...]]] = []
    for index in block.layers:
        layer = graph.layers[index]
        reach = _reach(graph, layer, axes)
        if reach is None:
            return []
        reaches.append((reach, layer.shape[1:]))
    moving = [pair for pair in reaches if not pair[0].is_point] or [reaches[-1]]
    return [Step(block.layers, block.sources, tuple(r for r, _ in moving), tuple(s for _, s in moving))]


def _reach(graph: LayerGraph, layer: Layer, axes: int) -> Reach | None:
    shapes = [layer.shape, *(graph.layers[source].shape for source in layer.inputs)]
    if axes == 0 or any(len(s) != axes + 1 for s in shapes):
        return None
    if isinstance(layer.operation, (Add, Product)) and any(s[1:] != layer.shape[1:] for s in shapes):
        return None  # a gate or summand that is the same at all places
    return reach_of(layer.operation, axes)


def _divide(graph: LayerGraph, whole: Step, size: Places, keep_bytes: int, itemsize: int) -> list[Step]:
    """Cut a chain in front of its pooling where that saves arithmetic, and say which sums are kept."""
    first, last = (graph.layers[i].operation for i in (whole.layers[0], whole.layers[-1]))
    if not isinstance(first, Convolution):
        return [whole]
    keeps = math.prod(graph.layers[whole.layers[0]].shape) * itemsize <= keep_bytes
    if not isinstance(last, MaxPool) or len(whole.layers) == 1:
        return [replace(whole, keeps_sums=keeps)]
    convolved, pooled = whole.reaches[0] if len(whole.reaches) == 2 else None, whole.reaches[-1]
    inner_shape = graph.layers[whole.layers[0]].shape[1:]
    changed = convolved.most_affected(size, inner_shape) if convolved is not None else size
    needed = pooled.needed(pooled.most_affected(changed, whole.output_shape))
    padded = any(pooled.padding)
    if not padded and (not keeps or np.prod(needed) <= WHOLE_CHAIN_FACTOR * np.prod(changed)):
        return [whole]
    before_reach = convolved if convolved is not None else point(len(pooled.kernel))
    before = Step(whole.layers[:-1], whole.sources, (before_reach,), (inner_shape,), keeps)
    return [before, Step(whole.layers[-1:], whole.layers[-2:-1], (pooled,), (whole.output_shape,))]


def _flattened(graph: LayerGraph, tail: Sequence[int], local: Iterable[int]) -> frozenset[int]:
    consumers, local = graph.consumers(), set(local)
    return frozenset(
        index
        for index in tail
        if isinstance(graph.layers[index].operation, Reshape)
        and len(graph.layers[index].shape) == 1
        and graph.layers[index].inputs[0] in local
        and consumers[index]
        and all(isinstance(graph.layers[c].operation, Dense) for c in consumers[index])
    )


def multiplications(operation: Operation, outputs: float) -> float:
    """Work for a number of output elements, in multiplications (or what takes as long)."""
    if isinstance(operation, Convolution):
        return outputs * math.prod(operation.weight.shape[1:])
    if isinstance(operation, Dense):
        return outputs * operation.weight.shape[1]
    if isinstance(operation, (MaxPool, AveragePool)):
        return outputs * math.prod(operation.kernel)
    return outputs
