"""The order in which a changed box is followed through a network: which layers are recomputed together, and how.

Up to the first layers that couple all positions (flattening, global pooling, dense layers), a network is *local*: a
changed box of voxels changes a box of every layer's output. The local layers are divided into steps, as long as boxes
pay: once a box has grown to much of its map, cutting it out costs more than it saves, and the layers behind, the *deep*
ones, are computed on whole maps, many windows at a time; so are those behind a layer that couples all positions, but
for what a few numbers say (:mod:`~.coupling`). What comes behind the last maps is the *tail*.

Which way a layer goes follows from counts of operations alone, weighted by what they cost (below), never from the
clock: both ways agree to rounding only, and the same scan must give the same map to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.graph.arithmetic import Product
from ADAttributionLogic.graph.chains import Block, split_into_blocks
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import Layer, LayerGraph
from ADAttributionLogic.graph.operations import Add, AveragePool, Concatenate, Dense, MaxPool, Operation, Reshape
from ADAttributionLogic.incremental.boxes import adding_work, can_add
from ADAttributionLogic.incremental.coupling import Way, ways_of
from ADAttributionLogic.incremental.reach import Places, Reach, point, reach_of

Range = tuple[Places, Places]

#: Recomputing what a pooling needs instead of what has changed is worth this many times the arithmetic, because
#: nothing inside the chain is then stored, gathered or pasted.
WHOLE_CHAIN_FACTOR = 1.5

#: What work takes in multiplications of a convolution, measured as processor time of one thread (47 multiplications
#: per nanosecond) on ResNet-18, DenseNet-121 and the network of Böhle et al.: an element of a pooling's window; one
#: that passes through a pointwise layer; one that is cut out, pasted and compared in boxes; one of a whole map that
#: boxes are put into; and a step for one window, whatever the size of its boxes.
POOLING, PASSING, HANDLING, SPREADING, STARTING = 100.0, 25.0, 100.0, 50.0, 300_000.0


@dataclass(frozen=True, eq=False)
class Step:
    """Layers whose outputs' boxes are recomputed in one go.

    Attributes
    ----------
    layers : tuple of int
        Each takes the output of the one before.
    parts : tuple of tuple of int
        For each of the first layer's inputs, the layers whose outputs, one after the other along the channels, it is:
        concatenations are never stored.
    reaches : tuple of Reach
        Of those layers that are not pointwise.
    shapes : tuple of tuple of int
        Spatial sizes of the outputs that belong to `reaches`.
    keeps_sums : bool
        Whether the output of the convolution that it begins with is kept, so that the convolution of a change can be
        added to it instead of convolving again all that lies around the change.
    """

    layers: tuple[int, ...]
    parts: tuple[tuple[int, ...], ...]
    reaches: tuple[Reach, ...]
    shapes: tuple[tuple[int, ...], ...]
    keeps_sums: bool = False

    @property
    def sources(self) -> tuple[int, ...]:
        """All layers whose outputs it reads."""
        return tuple(dict.fromkeys(layer for part in self.parts for layer in part))

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
    deep : tuple of int
        Layers that are computed on whole maps, or that whole maps depend on, in order.
    tail : tuple of int
        The layers behind the last maps, in order.
    frontier : tuple of int
        Layers with boxes that the deep layers and the tail take.
    flattened : frozenset of int
        Layers of the tail that do nothing but flatten a local layer's output for dense layers, which then look up the
        weights of the changed features only.
    ways : dict of int to Way
        How each layer behind the boxes is computed (:mod:`~.coupling`).
    largest : dict of int to tuple of int
        Per step's output, the size of the largest box.
    """

    steps: tuple[Step, ...]
    deep: tuple[int, ...]
    frontier: tuple[int, ...]
    tail: tuple[int, ...]
    flattened: frozenset[int]
    ways: dict[int, Way]
    largest: dict[int, tuple[int, ...]]

    def ranges(self, first: Places, last: Places) -> dict[int, Range]:
        """Per local layer that a step gives (and the input), the first and last place that windows can reach."""
        found = {0: (first, last)}
        for step in self.steps:
            found[step.output] = step.affected(*union(found[source] for source in step.sources))
        return found


def fractions_of_a_pass(graph: LayerGraph, plan: Plan, lows: Places, highs: Places) -> npt.NDArray[np.float64]:
    """Work per window, as a fraction of a full forward pass.

    Parameters
    ----------
    graph : LayerGraph
    plan : Plan
    lows, highs : ndarray of int, shape (N, axes)
        First and last-plus-one voxel of each window.
    """
    ranges = plan.ranges(lows, highs - 1)
    total = np.zeros(len(lows))
    for step in plan.steps:
        (first, last), (low, high) = union(ranges[source] for source in step.sources), ranges[step.output]
        total += work_of(graph, step, last - first + 1, high - low + 1)
    total += sum(_work_behind(graph, plan, index) for index in (*plan.deep, *plan.tail))
    return total / sum(whole_work(layer) for layer in graph.layers[1:])


def _work_behind(graph: LayerGraph, plan: Plan, index: int) -> float:
    """Work of a layer behind the boxes, and of making whole what it takes from them."""
    layer = graph.layers[index]
    if index in plan.flattened or plan.ways[index] != "whole":
        return 0.0
    kept = {*plan.frontier, *(i for i, way in plan.ways.items() if way == "scaled")}.intersection(layer.inputs)
    return whole_work(layer) + sum(SPREADING * math.prod(graph.layers[source].shape) for source in kept)


def union(ranges: Iterable[Range]) -> Range:
    """The smallest range that contains all of them."""
    firsts, lasts = zip(*ranges, strict=True)
    return np.minimum.reduce(firsts), np.maximum.reduce(lasts)


def first_coupling_layer(graph: LayerGraph) -> Layer | None:
    """The first layer, in order, whose outputs depend on all positions, if there is one."""
    axes = len(graph.input_shape) - 1
    return next((layer for layer in graph.layers[1:] if _reach(graph, layer, axes) is None), None)


def plan_within(graph: LayerGraph, window: tuple[int, ...], max_memory: int, itemsize: int) -> Plan:
    """The plan for a bound on the memory for activations, in bytes."""
    return make_plan(graph, window, max_memory // 8, itemsize)


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
    for block in _join_pointwise(graph, split_into_blocks(graph), axes):
        part = _local_part(graph, block, axes)
        if part is None or not sizes.keys() >= set(part.sources):
            continue
        size = np.maximum.reduce([sizes[source] for source in part.sources])
        divided = _divide(graph, part, size, keep_bytes, itemsize)
        if _boxes_pay(graph, divided, size):
            for step in divided:
                size = sizes[step.output] = step.most_affected(size)
                steps.append(step)
    deep, tail = _behind(graph, {layer for step in steps for layer in step.layers}, sizes.keys(), axes)
    frontier = tuple(sorted({s for i in (*deep, *tail) for s in graph.layers[i].inputs if s in sizes}))
    flattened = _flattened(graph, tail, sizes.keys())
    ways = ways_of(graph, (*deep, *tail), sizes.keys(), axes)
    # A sum over maps that are only scaled belongs to them: the tail would want them whole.
    summed = {i for i in tail if ways[i] == "summed" and graph.layers[i].inputs[0] in deep}
    deep, tail = tuple(sorted({*deep, *summed})), tuple(i for i in tail if i not in summed)
    return Plan(tuple(steps), deep, frontier, tail, flattened, ways, {k: tuple(v) for k, v in sizes.items()})


def _join_pointwise(graph: LayerGraph, blocks: Sequence[Block], axes: int) -> list[Block]:
    """Make one block of pointwise layers that follow each other, so that boxes are cut and compared once for all."""
    consumers = graph.consumers()
    joined: dict[int, Block] = {}
    for block in blocks:
        before = joined.get(block.sources[0]) if len(block.sources) == 1 else None
        if before is not None and len(consumers[before.output]) == 1 and _pointwise(graph, (before, block), axes):
            del joined[before.output]
            block = Block(before.layers + block.layers, before.sources)
        joined[block.output] = block
    return sorted(joined.values(), key=lambda block: block.output)


def _pointwise(graph: LayerGraph, blocks: Sequence[Block], axes: int) -> bool:
    layers = [graph.layers[index] for block in blocks for index in block.layers]
    reaches = [_reach(graph, layer, axes) for layer in layers]
    return all(r is not None and r.is_point for r in reaches) and not any(
        isinstance(layer.operation, Concatenate) for layer in layers
    )


def _local_part(graph: LayerGraph, block: Block, axes: int) -> Step | None:
    """The block as one step; None if it holds a coupling layer, or is a concatenation, which needs no step."""
    reaches: list[tuple[Reach, tuple[int, ...]]] = []
    for index in block.layers:
        layer = graph.layers[index]
        reach = _reach(graph, layer, axes)
        if reach is None or isinstance(layer.operation, Concatenate):
            return None
        reaches.append((reach, layer.shape[1:]))
    moving = [pair for pair in reaches if not pair[0].is_point] or [reaches[-1]]
    parts = tuple(_concatenated(graph, source, axes) for source in block.sources)
    return Step(block.layers, parts, tuple(r for r, _ in moving), tuple(s for _, s in moving))


def _concatenated(graph: LayerGraph, index: int, axes: int) -> tuple[int, ...]:
    """The layers that a layer's output is the concatenation of: itself, unless it is one along the channels."""
    layer = graph.layers[index]
    if not isinstance(layer.operation, Concatenate) or _reach(graph, layer, axes) is None:
        return (index,)
    return tuple(leaf for source in layer.inputs for leaf in _concatenated(graph, source, axes))


def _behind(graph: LayerGraph, inside: set[int], stored: Iterable[int], axes: int) -> tuple[tuple[int, ...], ...]:
    """The layers behind the boxes: those that maps depend on, and the tail."""
    boxes = set(stored)
    needed = {graph.output} - boxes
    deep: set[int] = set()
    for index in range(graph.output, 0, -1):
        if index in needed:
            layer = graph.layers[index]
            if index in deep or (len(layer.shape) == axes + 1 and math.prod(layer.shape[1:]) > 1):
                deep.update({index, *layer.inputs} - boxes)
            needed.update(source for source in layer.inputs if source not in boxes)
    return tuple(sorted(deep)), tuple(sorted(needed - deep))


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
    before = Step(whole.layers[:-1], whole.parts, (before_reach,), (inner_shape,), keeps)
    return [before, Step(whole.layers[-1:], (whole.layers[-2:-1],), (pooled,), (whole.output_shape,))]


def _boxes_pay(graph: LayerGraph, steps: Sequence[Step], size: Places) -> bool:
    """Whether it is less work to follow the largest boxes than to make the input whole and compute whole maps."""
    boxes = 0.0
    for step in steps:
        outputs = step.most_affected(size)
        boxes += float(work_of(graph, step, *(np.asarray(n)[None] for n in (size, outputs)))[0])
        size = outputs
    whole = sum(whole_work(graph.layers[index]) for step in steps for index in step.layers)
    return boxes < whole + SPREADING * sum(math.prod(graph.layers[source].shape) for source in steps[0].sources)


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


def work_of(graph: LayerGraph, step: Step, entering: Places, outputs: Places) -> Any:
    """Work of a step on boxes of its input and output (N, axes)."""
    layers = [graph.layers[index] for index in step.layers]
    first, needed = layers[0], step.needed(outputs * 0, outputs)[1]
    inner = np.prod(step.reaches[-1].needed(outputs) if len(step.reaches) > 1 else outputs, axis=1)
    leaving = np.prod(outputs, axis=1)
    work = multiplications(first.operation, 1) * first.shape[0] * inner
    if step.keeps_sums and isinstance(first.operation, Convolution) and can_add(first.operation):
        work = np.minimum(work, adding_work(first.operation) * np.prod(entering, axis=1))
    for layer in layers[1:]:
        work = work + multiplications(layer.operation, 1) * layer.shape[0] * leaving
    channels = sum(graph.layers[source].shape[0] for part in step.parts for source in part)
    read = np.prod(needed, axis=1) * channels
    moved = np.minimum(read, inner * first.shape[0]) + leaving * layers[-1].shape[0]
    if len(layers) > 1:
        moved = moved + inner * first.shape[0]
    return STARTING + work + HANDLING * moved


def whole_work(layer: Layer) -> float:
    """Work of a layer on its whole maps."""
    return multiplications(layer.operation, math.prod(layer.shape))


def multiplications(operation: Operation, outputs: float) -> float:
    """Work for a number of output elements, in multiplications of a convolution."""
    if isinstance(operation, Convolution):
        return outputs * math.prod(operation.weight.shape[1:])
    if isinstance(operation, Dense):
        return outputs * operation.weight.shape[1]
    if isinstance(operation, (MaxPool, AveragePool)):
        return outputs * math.prod(operation.kernel) * POOLING
    return outputs * PASSING
