"""Chains of layers that are computed slab by slab, so that the largest activations never exist as a whole.

In a 3D CNN the first convolutions' outputs are by far the largest tensors (8×191×227×191 in Böhle 2019: 265 MB), and
on a CPU writing and re-reading them costs more than the arithmetic. A *chain* is a convolution followed by
element-wise layers and, at most, one max pooling, none of whose inner outputs is used elsewhere. It is computed in
slabs along the first spatial axis, small enough for the processor's cache; only the chain's input, its output and the
winners of the pooling are kept for the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import Activation, Affine, MaxPool, Operation, scatter_to_winners

#: Size of a slab of convolution output. On a CPU it should fit the second-level caches; on a GPU it bounds memory.
SLAB_BYTES = {"cpu": 4_000_000, "cuda": 512_000_000, "mps": 512_000_000}


@dataclass(frozen=True)
class Block:
    """Layers that are computed together: one layer, or a chain.

    Attributes
    ----------
    layers : tuple of int
        Indices in the graph; each takes the output of the one before.
    sources : tuple of int
        The first layer's inputs.
    """

    layers: tuple[int, ...]
    sources: tuple[int, ...]

    @property
    def output(self) -> int:
        """The layer whose output is the block's."""
        return self.layers[-1]


def split_into_blocks(graph: LayerGraph, keep: frozenset[int] = frozenset()) -> tuple[Block, ...]:
    """Divide a graph into blocks, in execution order.

    Parameters
    ----------
    graph : LayerGraph
    keep : frozenset of int
        Layers whose outputs must exist on their own (they end a block).
    """
    consumers = graph.consumers()
    blocks: list[Block] = []
    taken: set[int] = {0}
    for index, layer in enumerate(graph.layers):
        if index in taken:
            continue
        members = [index]
        if isinstance(layer.operation, Convolution):
            members = _extend_chain(graph, index, consumers, keep)
        taken.update(members)
        blocks.append(Block(tuple(members), layer.inputs))
    # A chain may run ahead of layers that stand before its end in the graph; its own inputs are always ready.
    return tuple(sorted(blocks, key=lambda b: b.output))


def _extend_chain(
    graph: LayerGraph, start: int, consumers: tuple[tuple[int, ...], ...], keep: frozenset[int]
) -> list[int]:
    members = [start]
    while True:
        last = members[-1]
        if last in keep or len(consumers[last]) != 1:
            return members
        following = consumers[last][0]
        operation = graph.layers[following].operation
        if isinstance(operation, (Activation, Affine)):
            members.append(following)
        elif isinstance(operation, MaxPool) and not operation.ceil_mode:
            return [*members, following]
        else:
            return members


@dataclass(frozen=True)
class Slab:
    """Rows (along the first spatial axis) of a chain's output, and what they need.

    Attributes
    ----------
    rows : slice
        Of the chain's output.
    middle : slice
        Of the convolution's output.
    middle_padding : tuple of int
        Rows of −∞ that the pooling adds before and after.
    source : slice
        Of the chain's input.
    source_padding : tuple of int
        Rows of zeros that the convolution adds before and after.
    """

    rows: slice
    middle: slice
    middle_padding: tuple[int, int]
    source: slice
    source_padding: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Chain:
    """A convolution, the element-wise operations after it, and possibly a max pooling."""

    convolution: Convolution
    elementwise: tuple[Operation, ...]
    pool: MaxPool | None

    @classmethod
    def of(cls, graph: LayerGraph, block: Block) -> Chain | None:
        """The chain that a block is, or None when its first layer is no convolution."""
        operations = [graph.layers[i].operation for i in block.layers]
        first, rest = operations[0], operations[1:]
        if not isinstance(first, Convolution):
            return None
        pool = rest[-1] if rest and isinstance(rest[-1], MaxPool) else None
        return cls(first, tuple(op for op in rest if op is not pool), pool if isinstance(pool, MaxPool) else None)

    @property
    def passes_back_without_activations(self) -> bool:
        """Whether the way back needs none of the inner activations.

        So it is when there is at most one activation: pooling selects among its outputs, hence its derivative at the
        winners follows from the chain's output.
        """
        if len(self.elementwise) > 1:
            return False
        return all(isinstance(x, Activation) and not x.needs_input for x in self.elementwise)

    @property
    def windows_overlap(self) -> bool:
        """Whether an element can win several windows of the pooling."""
        if self.pool is None:
            return False
        windows = zip(self.pool.kernel, self.pool.dilation, self.pool.stride, strict=True)
        return any(dilation * (kernel - 1) >= stride for kernel, dilation, stride in windows)

    # ------------------------------------------------------------------------------------------------------- geometry

    def middle_size(self, size: int) -> int:
        """Rows of the convolution's output for rows of the input."""
        c = self.convolution
        return (size + sum(c.padding[0]) - c.dilation[0] * (c.kernel[0] - 1) - 1) // c.stride[0] + 1

    def output_size(self, size: int) -> int:
        """Rows of the chain's output for rows of the input."""
        middle = self.middle_size(size)
        if self.pool is None:
            return middle
        p = self.pool
        return (middle + sum(p.padding[0]) - p.dilation[0] * (p.kernel[0] - 1) - 1) // p.stride[0] + 1

    def slab(self, start: int, stop: int, size: int) -> Slab:
        """What output rows `start` to `stop` need, for an input of `size` rows."""
        middle, middle_padding = slice(start, stop), (0, 0)
        if self.pool is not None:
            middle, middle_padding = _window(
                start,
                stop,
                self.middle_size(size),
                self.pool.kernel[0],
                self.pool.stride[0],
                self.pool.dilation[0],
                self.pool.padding[0],
            )
        below = self.unpooled(middle.start, middle.stop, size)
        return Slab(slice(start, stop), middle, middle_padding, below.source, below.source_padding)

    def unpooled(self, start: int, stop: int, size: int) -> Slab:
        """What rows `start` to `stop` of the convolution's output need, whatever becomes of them."""
        c = self.convolution
        source, padding = _window(start, stop, size, c.kernel[0], c.stride[0], c.dilation[0], c.padding[0])
        rows = slice(start, stop)
        return Slab(rows, rows, (0, 0), source, padding)

    def slabs(self, x: Tensor) -> list[Slab]:
        """Divide the output into slabs that fit the cache of the device."""
        size = x.shape[2]
        rows = self.output_size(size)
        row_elements = self.convolution.weight.shape[0] * x.shape[0]
        for axis in range(1, self.convolution.dimensions):
            row_elements *= x.shape[axis + 2]
        step = self.pool.stride[0] if self.pool is not None else 1
        wanted = SLAB_BYTES[x.device.type] // max(row_elements * x.element_size() * step, 1)
        thickness = min(max(wanted, 1), rows)
        return [self.slab(a, min(a + thickness, rows), size) for a in range(0, rows, thickness)]

    def convolution_of(self, slab: Slab) -> Convolution:
        """The convolution with the padding that this slab needs."""
        return replace(self.convolution, padding=(slab.source_padding, *self.convolution.padding[1:]))

    # -------------------------------------------------------------------------------------------------------- forward

    def forward(self, x: Tensor, keep_winners: bool) -> tuple[Tensor, list[Tensor]]:
        """Compute the chain.

        Returns
        -------
        output : Tensor
        winners : list of Tensor
            Per slab, int32 flat spatial indices into the padded slab of convolution output (empty without pooling).
        """
        winners: list[Tensor] = []
        output: Tensor | None = None
        for slab in self.slabs(x):
            part = self._elementwise(slab, x)[-1]
            if self.pool is not None:
                part, indices = self._pool(slab, part, keep_winners)
                if indices is not None:
                    winners.append(indices.to(torch.int32))
            if slab.rows.stop - slab.rows.start == self.output_size(x.shape[2]):
                return part, winners
            if output is None:
                output = part.new_empty((*part.shape[:2], self.output_size(x.shape[2]), *part.shape[3:]))
            output[:, :, slab.rows] = part
        assert output is not None
        return output, winners

    def _elementwise(self, slab: Slab, x: Tensor) -> list[Tensor]:
        """Output of the convolution and of each element-wise operation, for one slab."""
        values = [self.convolution_of(slab).forward(x[:, :, slab.source])]
        for operation in self.elementwise:
            values.append(operation.forward(values[-1]))
        return values

    def _pool(self, slab: Slab, values: Tensor, keep_winners: bool) -> tuple[Tensor, Tensor | None]:
        assert self.pool is not None
        pool = replace(self.pool, padding=((0, 0), *self.pool.padding[1:]))
        if any(slab.middle_padding):
            values = _pad_rows(values, slab.middle_padding, float("-inf"))
        if keep_winners:
            return pool.forward_with_winners(values)
        return pool.forward(values), None

    # ----------------------------------------------------------------------------------------------------------- back

    def backward(
        self,
        x: Tensor,
        output: Tensor,
        winners: list[Tensor],
        relevance: Tensor,
        through_elementwise: Callable[[Operation, Tensor, Tensor | None, Tensor], Tensor],
        through_convolution: Callable[[Convolution, Tensor, Tensor, Tensor | None], Tensor],
        is_linear: bool = True,
    ) -> Tensor:
        """Pass relevance (or a gradient) from the chain's output to its input.

        Parameters
        ----------
        x, output, winners
            Input and result of :meth:`forward`.
        relevance : Tensor
            Of the output.
        through_elementwise : callable
            (operation, relevance, its input or None, its output) → relevance of its input.
        through_convolution : callable
            (convolution, input, relevance of its output, that output or None) → relevance of its input.
        is_linear : bool
            Whether `through_elementwise` gives the same for a sum of relevances as for each of them. Where it does not
            (guided backpropagation), an element that wins several windows gets their sum first.
        """
        result = torch.zeros_like(x)
        slabs = self.slabs(x)
        before_pooling = self.passes_back_without_activations and (is_linear or not self.windows_overlap)
        carried: Tensor | None = None
        for number, slab in enumerate(slabs):
            following = slabs[number + 1] if number + 1 < len(slabs) else None
            part = relevance[:, :, slab.rows]
            if before_pooling:
                for operation in self.elementwise:
                    part = through_elementwise(operation, part, None, output[:, :, slab.rows])
            part, carried = self._hand_over(slab, following, self._unpool(slab, part, winners, number, x), carried)
            if part.shape[2] == 0:
                continue
            done = self.unpooled(slab.middle.start, slab.middle.start + part.shape[2], x.shape[2])
            convolved = output[:, :, done.rows] if not self.elementwise and self.pool is None else None
            if not before_pooling:
                values = self._elementwise(done, x)
                convolved = values[0]
                for operation, before, after in reversed(list(zip(self.elementwise, values, values[1:], strict=False))):
                    part = through_elementwise(operation, part, before, after)
            convolution, source = self.convolution_of(done), x[:, :, done.source]
            result[:, :, done.source] += through_convolution(convolution, source, part, convolved)
        return result

    @staticmethod
    def _hand_over(
        slab: Slab, following: Slab | None, part: Tensor, carried: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The rows of the convolution's output that are complete, and those that the next slab adds to."""
        if carried is not None:
            part[:, :, : carried.shape[2]] += carried
        rows = slab.middle.stop - slab.middle.start
        complete = rows if following is None else min(following.middle.start - slab.middle.start, rows)
        return part[:, :, :complete], part[:, :, complete:] if complete < rows else None

    def _unpool(self, slab: Slab, values: Tensor, winners: list[Tensor], number: int, x: Tensor) -> Tensor:
        if self.pool is None:
            return values
        before, after = slab.middle_padding
        c = self.convolution
        sizes = [
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                x.shape[3:], c.padding[1:], c.dilation[1:], c.kernel[1:], c.stride[1:], strict=True
            )
        ]
        rows = slab.middle.stop - slab.middle.start
        shape = torch.Size((*values.shape[:2], rows + before + after, *sizes))
        return scatter_to_winners(values, winners[number].long(), shape)[:, :, before : before + rows]


def _window(
    start: int, stop: int, size: int, kernel: int, stride: int, dilation: int, padding: tuple[int, int]
) -> tuple[slice, tuple[int, int]]:
    """Input rows that output rows `start` to `stop` of a windowed operation read, and the padding before and after."""
    first = start * stride - padding[0]
    last = (stop - 1) * stride - padding[0] + dilation * (kernel - 1) + 1
    inside = slice(max(first, 0), min(last, size))
    return inside, (max(-first, 0), max(last - size, 0))


def _pad_rows(values: Tensor, padding: tuple[int, int], fill: float) -> Tensor:
    spatial = values.ndim - 2
    return F.pad(values, [0, 0] * (spatial - 1) + list(padding), value=fill)
