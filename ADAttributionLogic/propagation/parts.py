"""Maps that go through a rule part by part, so that a part stays in the processor's cache.

A rule takes some twenty steps, each of which would write and read a whole map: of a residual network on a CPU, its
additions took longer than its convolutions, and of a transformer with windows, its matrices of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ADAttributionLogic.graph.operations import Add, Affine, Dense, WeightedOperation
from ADAttributionLogic.propagation.conservation import Kept
from ADAttributionLogic.propagation.rules import Rule, Tensors

#: Size of a part.
PART_BYTES = 500_000
#: Fewest rows of a dense layer's part: its weights are read once for each part.
_ROWS = 1024


def redistribute_in_parts(
    rule: Rule, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
) -> Tensors:
    """Apply a rule; to operations on each element or each token alone, in parts."""

    def work(part: Tensor, *of_inputs: Tensor) -> Tensors:
        return rule.redistribute(operation, of_inputs, part, kept)

    is_alike = all(x.shape == relevance.shape for x in inputs)
    if isinstance(operation, Add) and is_alike:
        rows = [x.reshape(-1) for x in (relevance, *inputs)]
        return _shaped(in_parts(work, rows), inputs)
    if isinstance(operation, Affine) and is_alike and relevance.ndim > 2:
        return in_parts(work, (relevance, *inputs), axis=2)
    if isinstance(operation, Dense):
        rows = [x.reshape(-1, x.shape[-1]) for x in (relevance, *inputs)]
        return _shaped(in_parts(work, rows, at_least=_ROWS), inputs)
    return work(relevance, *inputs)


def in_matrices(work: Callable[..., Tensors], *tensors: Tensor) -> Tensors:
    """Do something with stacks of matrices (…, n, m), which are independent of each other, in parts.

    Stacks of different sizes, which are broadcast, are not divided.
    """
    stacks = {x.shape[:-2] for x in tensors}
    if len(stacks) > 1 or tensors[0].ndim < 3:
        return work(*tensors)
    found = in_parts(work, [x.flatten(0, -3) for x in tensors])
    return tuple(x.reshape(*tensors[0].shape[:-2], *x.shape[-2:]) for x in found)


def in_parts(work: Callable[..., Tensors], tensors: Sequence[Tensor], axis: int = 0, at_least: int = 1) -> Tensors:
    """Do something with parts of tensors along an axis, and join what comes out; on a GPU, with all at once.

    Parameters
    ----------
    work : callable
        Parts of the tensors → tensors of the same length along the axis.
    tensors : sequence of Tensor
        As long as each other along the axis; the first has the size that counts.
    axis : int
    at_least : int
        Length of a part.
    """
    length, size = tensors[0].shape[axis], tensors[0].numel() * tensors[0].element_size()
    step = max(length * PART_BYTES // max(size, 1), at_least)
    if step >= length or tensors[0].device.type != "cpu":
        return work(*tensors)
    found: list[Tensor] = []
    for start in range(0, length, step):
        count = min(step, length - start)
        parts = work(*(x.narrow(axis, start, count) for x in tensors))
        if not found:
            found = [x.new_empty((*x.shape[:axis], length, *x.shape[axis + 1 :])) for x in parts]
        for whole, part in zip(found, parts, strict=True):
            whole.narrow(axis, start, count).copy_(part)
    return tuple(found)


def _shaped(found: Tensors, like: Tensors) -> Tensors:
    return tuple(x.reshape(y.shape) for x, y in zip(found, like, strict=True))
