"""Calls whose tensors do not begin with the batch axis, written for one image.

A network is traced with one image, and what it does with that image is what is explained. In most calls the batch axis
stays in front, with size 1. Attention and windows fold it into others: (images·heads, places, features), or (places,
images, features). As there is one image, such a tensor belongs to it as a whole; in the LayerGraph, whose outputs all
have a batch axis in front, it then stands behind that axis, and a call's axes are counted from there. A call that would
mix the images of a batch along an axis that certainly is the batch axis is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from ADAttributionLogic.errors import UnsupportedOperationError
from ADAttributionLogic.tracing.arguments import Arguments

Shape = tuple[int, ...]

#: Calls that keep the order of elements: the shape of their result says everything.
RESHAPES = frozenset(
    {
        *("aten.view", "aten._unsafe_view", "aten.reshape", "aten.unsqueeze"),
        *("aten.squeeze", "aten.squeeze.dim", "aten.squeeze.dims"),
    }
)

#: Calls that work on images or maps: their first axis is one of images, or of slices, and the second one of channels.
OF_MAPS = frozenset(
    {
        *("aten.convolution", "aten._native_batch_norm_legit_no_training", "aten.native_group_norm"),
        *("aten.instance_norm", "aten.prelu", "aten._prelu_kernel", "aten.avg_pool1d", "aten.avg_pool2d"),
        *("aten.avg_pool3d", "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices"),
        *("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d"),
        *("aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d"),
        *("aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d", "aten.upsample_linear1d.vec"),
        *("aten.upsample_bilinear2d.vec", "aten.upsample_trilinear3d.vec", "aten.upsample_nearest1d.vec"),
        *("aten.upsample_nearest2d.vec", "aten.upsample_nearest3d.vec"),
    }
)

#: Calls between layers that PyTorch broadcasts: the shorter shape is filled up in front.
_BROADCASTING = ("aten.copy", "aten.add", "aten.sub", "aten.mul", "aten.div", "aten.matmul", "aten.where")

_MIXES = (
    "It mixes or drops the batch axis: its result has shape {} for one image. Name the axes that it is for, and leave "
    "the first one out: squeeze(1), flatten(1), mean((1, 2, 3, 4))."
)


def of_one_image(shape: Sequence[int]) -> Shape:
    """The shape of a layer's output for a tensor of this shape: without the batch axis, if it has one in front."""
    return tuple(shape[1:]) if shape and shape[0] == 1 else tuple(shape)


def begins_with_batch(arguments: Arguments, inputs_do: bool) -> bool:
    """Whether the first axis of a call's result is the batch axis.

    Parameters
    ----------
    arguments : Arguments
    inputs_do : bool
        Whether the first axis of every layer that it takes is.
    """
    name = arguments.operation
    if not arguments.output_shape or arguments.output_shape[0] != 1:
        return False
    if name == "aten.unsqueeze":
        return int(arguments["dim"]) % len(arguments.output_shape) != 0 and inputs_do
    # What has been brought back to the usual order is taken to be in it.
    return inputs_do or name in RESHAPES or name in ("aten.permute", "aten.select.int")


def refuse_mixing(arguments: Arguments) -> None:
    """Refuse what drops or repeats images, given that the first axis of its input is that.

    Raises
    ------
    UnsupportedOperationError
    """
    name = arguments.operation
    may_move_it = (name in RESHAPES and not name.startswith("aten.squeeze")) or name in ("aten.permute", "aten.stack")
    if not may_move_it and arguments.output_shape[:1] != (1,):
        raise arguments.unsupported(_MIXES.format(arguments.output_shape))


def refuse_output(operation: str, location: str, shape: Shape) -> NoReturn:
    """Refuse scores that do not begin with the batch axis."""
    raise UnsupportedOperationError(operation, location, _MIXES.format(shape))


def is_for_one_image(arguments: Arguments, inputs_begin_with_batch: bool) -> bool:
    """Whether a call must be written for one image, with its axes behind a batch axis of the graph's own."""
    name = arguments.operation
    shapes = dynamic_shapes(arguments)
    if name in RESHAPES or name in OF_MAPS:
        return False
    if any(shape[:1] != (1,) for shape in (*shapes, arguments.output_shape)):
        return True
    if name == "aten.stack" and _axis(arguments["dim"], len(arguments.output_shape)) == 0:
        return True
    if name == "aten.permute" and _axis(arguments["dims"][0], len(shapes[0])) != 0:
        return True
    if name.startswith(_BROADCASTING) and len({len(shape) for shape in shapes}) > 1:
        return True
    return not inputs_begin_with_batch and _touches_first_axis(arguments, len(shapes[0]))


def _touches_first_axis(arguments: Arguments, axes: int) -> bool:
    values = arguments.values
    if "dim" in values:
        dims = values["dim"]
        dims = (dims or range(axes)) if dims is None or isinstance(dims, Sequence) else [dims]
    elif "dims" in values:
        dims = () if arguments.operation == "aten.permute" else values["dims"]
    elif "indices" in values:
        return values["indices"][0] is not None
    else:
        return arguments.operation in ("aten.mean", "aten.sum")
    return any(_axis(dim, axes) == 0 for dim in dims)


def dynamic_shapes(arguments: Arguments) -> tuple[Shape, ...]:
    """The shapes of the layers that a call takes, in the order of its arguments."""
    found: list[Shape] = []
    for name, value in arguments.values.items():
        if name not in arguments.dynamic:
            continue
        several = isinstance(value, Sequence) and any(not isinstance(item, int) for item in value)
        found += [item for item in value if isinstance(item, tuple)] if several else [tuple(value)]
    return tuple(found)


def written_for_one_image(arguments: Arguments) -> Arguments:
    """The same call with a batch axis in front of all its layers, as the LayerGraph has it.

    Shapes of layers get a 1 in front (after having been filled up to equally many axes, where they are broadcast); axes
    that are counted from the front move by one.
    """
    name, values = arguments.operation, dict(arguments.values)
    longest = max((len(shape) for shape in dynamic_shapes(arguments)), default=0)
    fill = longest if name.startswith(_BROADCASTING) else 0
    for key in arguments.dynamic:
        values[key] = _in_front(values[key], fill)
    axes = longest
    for key in ("dim", "dims"):
        if key in values:
            values[key] = _behind(values[key], axes, name)
    if name in ("aten.mean", "aten.sum"):
        values |= {"dim": list(range(1, axes + 1)), "keepdim": False}
    if "indices" in values:
        values["indices"] = [None, *arguments["indices"]]
    if "repeats" in values:
        values["repeats"] = [1, *values["repeats"]]
    return replace(arguments, values=values, output_shape=(1, *arguments.output_shape))


def _in_front(value: Any, fill: int) -> Any:
    if isinstance(value, Sequence) and any(not isinstance(item, int) for item in value):
        return [_in_front(item, fill) if isinstance(item, tuple) else item for item in value]
    return (1,) * (1 + max(fill - len(value), 0)) + tuple(value)


def _behind(value: Any, axes: int, name: str) -> Any:
    if value is None or (isinstance(value, Sequence) and not value):
        return list(range(1, axes + 1))
    if isinstance(value, Sequence):
        moved = [_axis(dim, axes) + 1 for dim in value]
        return [0, *moved] if name == "aten.permute" else moved
    return int(value) if value < 0 else int(value) + 1


def _axis(value: Any, axes: int) -> int:
    return int(value) % axes
