"""Operations on maps that are given several maps for one image: slices, heads, patches.

What a network does with each of n slices alone, it does with the volume by a kernel that is one slice thick; and what
it does with each of n volumes alone, it does with all of them by groups of channels that do not mix. Such an operation
therefore becomes an ordinary one, between two changes of shape, and all that works on images works on it.
"""

from __future__ import annotations

from dataclasses import replace

from ADAttributionLogic.graph.activations import PReLU
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.normalisations import GroupNorm
from ADAttributionLogic.graph.operations import (
    AdaptiveAveragePool,
    Affine,
    AveragePool,
    MaxPool,
    Operation,
    Permute,
    Reshape,
)
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.graph.upsampling import LinearUpsampling, TransposedConvolution
from ADAttributionLogic.tracing.arguments import Arguments, Conversion, Converter, Steps
from ADAttributionLogic.tracing.batch_axis import dynamic_shapes


def over_slices(arguments: Arguments, converter: Converter) -> Conversion:
    """What an operation on maps becomes that is given slices (n, C, …), each on its own.

    Raises
    ------
    UnsupportedOperationError
        Of operations that have no counterpart with an axis more.
    """
    (given, *_), wanted = dynamic_shapes(arguments), arguments.output_shape
    count, values = given[0], dict(arguments.values)
    for name in arguments.dynamic:
        values[name] = (1, *given[1:])
    made = converter(replace(arguments, values=values, output_shape=(1, *wanted[1:])))
    if made is None:
        return None
    steps: Steps = made if isinstance(made, tuple) else ((made, wanted[1:]),)  # type: ignore[assignment]
    is_flat = len(given) <= 4
    before, after = (_exchange(len(given)), _exchange(len(wanted))) if is_flat else (None, None)
    shape = _channels_first(given) if is_flat else _grouped(given)
    turned: Steps = ((before or Reshape(shape), shape),)
    for operation, size in steps:
        if isinstance(operation, GroupNorm):
            return replace(operation, is_by_map=True)
        made_of = _thick(operation, count) if is_flat else _by_groups(operation, count)
        if made_of is None:
            maps = "×".join(map(str, given[1:]))
            raise arguments.unsupported(f"It is given {count} maps of {maps} for one image, which it does not support.")
        shape = _channels_first((count, *size)) if is_flat else _grouped((count, *size))
        turned = (*turned, (made_of, shape))
    return (*turned, (after or Reshape(wanted), wanted))


def _grouped(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] * shape[1], *shape[2:])


def _by_groups(operation: Operation, count: int) -> Operation | None:
    """The same operation on the channels of several maps one after the other (n·C, …)."""
    if isinstance(operation, (AdaptiveAveragePool, AveragePool, LinearUpsampling, MaxPool)):
        return operation
    if isinstance(operation, Take):
        return operation if operation.axis > 1 else None
    if isinstance(operation, (Affine, Convolution, TransposedConvolution)):
        weight = operation.weight
        if weight.ndim > 0:
            weight = weight.repeat(count, *(1,) * (weight.ndim - 1))
        bias = operation.bias
        if bias is not None and bias.ndim > 0:
            bias = bias.repeat(count)
        repeated = replace(operation, weight=weight, bias=bias)
        return repeated if isinstance(repeated, Affine) else replace(repeated, groups=repeated.groups * count)
    if isinstance(operation, PReLU):
        slope = operation.slope
        return replace(operation, slope=slope if slope.numel() == 1 else slope.repeat(count))
    return None


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[1], shape[0], *shape[2:])


def _exchange(axes: int) -> Permute:
    """Slices and channels change places."""
    return Permute((0, 2, 1, *range(3, axes + 1)))


def _thick(operation: Operation, count: int) -> Operation | None:
    """The same operation on volumes (C, n, …), one slice thick."""
    if isinstance(operation, (Affine, PReLU)):
        return operation
    if isinstance(operation, Take):
        return replace(operation, axis=operation.axis + 1) if operation.axis > 1 else operation
    if isinstance(operation, AdaptiveAveragePool):
        return replace(operation, size=(count, *operation.size))
    if isinstance(operation, LinearUpsampling):
        size = None if operation.size is None else (count, *operation.size)
        factors = None if operation.factors is None else (1.0, *operation.factors)
        return replace(operation, size=size, factors=factors)
    if isinstance(operation, (AveragePool, MaxPool)):
        thick = replace(
            operation,
            kernel=(1, *operation.kernel),
            stride=(1, *operation.stride),
            padding=((0, 0), *operation.padding),
        )
        return replace(thick, dilation=(1, *thick.dilation)) if isinstance(thick, MaxPool) else thick
    if isinstance(operation, Convolution):
        return replace(
            operation,
            weight=operation.weight[:, :, None],
            stride=(1, *operation.stride),
            padding=((0, 0), *operation.padding),
            dilation=(1, *operation.dilation),
        )
    if not isinstance(operation, TransposedConvolution):
        return None
    return replace(
        operation,
        weight=operation.weight[:, :, None],
        stride=(1, *operation.stride),
        padding=(0, *operation.padding),
        output_padding=(0, *operation.output_padding),
        dilation=(1, *operation.dilation),
    )
