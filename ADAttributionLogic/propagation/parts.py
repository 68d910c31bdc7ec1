"""Maps that go through a rule part by part, so that a part stays in the processor's cache.

A rule takes some twenty steps, each of which would write and read a whole map: of a residual network on a CPU, its
additions took longer than its convolutions, and of a transformer with windows, its matrices of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from ADAttributionLogic.graph.arithmetic import PlacewiseAffine
from ADAttributionLogic.graph.operations import Add, Affine, Dense, WeightedOperation
from ADAttributionLogic.propagation.conservation import Kept
from ADAttributionLogic.propagation.rules import Rule, Tensors

#: Size of a part.
PART_BYTES = 500_000
#: Fewest rows of a dense layer's part: its weights are read once for each part.
_ROWS = 1024
#: Size of a part of a dense layer's weights, and up to how many tokens they are divided.
WEIGHT_BYTES = 4_000_000
_FEW_TOKENS = 8


def redistribute_in_parts(
    rule: Rule,
    operation: WeightedOperation,
    inputs: Tensors,
    relevance: Tensor,
    output: Tensor | None,
    kept: Kept | None = None,
) -> Tensors:
    """Apply a rule; to operations on each element or each token alone, in parts.

    Parameters
    ----------
    rule : Rule
    operation : WeightedOperation
    inputs : tuple of Tensor
    relevance : Tensor
        Of the operation's output.
    output : Tensor or None
        What was recorded of it.
    kept : Kept, optional
    """
    if output is None:
        return rule.redistribute(operation, inputs, relevance, kept)

    def work(part: Tensor, output: Tensor, *of_inputs: Tensor) -> Tensors:
        return rule.redistribute_known(operation, of_inputs, part, output, kept)

    maps = (relevance, output, *inputs)
    is_alike = all(x.shape == relevance.shape for x in inputs)
    if isinstance(operation, Add) and is_alike:
        return _shaped(in_parts(work, [x.reshape(-1) for x in maps]), inputs)
    if isinstance(operation, Affine) and is_alike and relevance.ndim > 2:
        return in_parts(work, maps, axis=2)
    if isinstance(operation, PlacewiseAffine) and is_alike and relevance.ndim > 2:
        return _place_by_place(rule, operation, maps, kept)
    if isinstance(operation, Dense):
        if relevance.device.type == "cpu" and relevance.numel() <= _FEW_TOKENS * len(operation.weight):
            return (_output_by_output(rule, operation, maps, kept),)
        return _shaped(in_parts(work, [x.reshape(-1, x.shape[-1]) for x in maps], at_least=_ROWS), inputs)
    return work(*maps)


def _place_by_place(rule: Rule, operation: PlacewiseAffine, maps: Tensors, kept: Kept | None) -> Tensors:
    """Apply a rule to a constant image in parts along the first two axes, each with the constants of its places."""
    constants = {"weight": operation.weight, "bias": operation.bias}
    images = {name: each.expand(maps[0].shape) for name, each in constants.items() if each is not None and each.ndim}

    def work(part: Tensor, output: Tensor, x: Tensor, *of_images: Tensor) -> Tensors:
        own = dict(zip(images, of_images, strict=True))
        return rule.redistribute_known(replace(operation, **own), (x,), part, output, kept)

    return in_parts(lambda *parts: in_parts(work, parts, axis=2), (*maps, *images.values()), axis=1)


def _output_by_output(rule: Rule, operation: Dense, maps: Tensors, kept: Kept | None) -> Tensor:
    """Apply a rule to a dense layer in parts of its weights: of few tokens, to read and write these takes the time."""
    relevance, output, x = maps
    weight, bias = operation.weight, operation.bias
    step = max(WEIGHT_BYTES // (weight.shape[1] * weight.element_size()), 1)
    total: Tensor | None = None
    for start in range(0, len(weight), step):
        own = slice(start, start + step)
        part = replace(operation, weight=weight[own], bias=None if bias is None else bias[own])
        (found,) = rule.redistribute_known(part, (x,), relevance[..., own], output[..., own], kept)
        total = found if total is None else total.add_(found)
    assert total is not None
    return total


def in_matrices(work: Callable[..., Tensors], *tensors: Tensor) -> Tensors:
    """Do something with stacks of matrices (…, n, m), which are independent of each other, in parts.

    Stacks of different sizes, which are broadcast, are not divided.
    """
    stacks = {x.shape[:-2] for x in tensors}
    if len(stacks) > 1 or tensors[0].ndim < 3:
        return work(*tensors)
    found = in_parts(work, [x.flatten(0, -3) for x in tensors])
    return tuple(x.reshape(*tensors[0].shape[:-2], *x.shape[-2:]) for x in found)


def by_token(work: Callable[..., Tensors], features: int, *tensors: Tensor) -> Tensors:
    """Do something with tensors of one shape, whose tokens (of so many axes at the end) are independent, in parts."""
    found = in_parts(work, [x.reshape(-1, *x.shape[x.ndim - features :]) for x in tensors])
    return tuple(x.reshape(tensors[0].shape) for x in found)


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
