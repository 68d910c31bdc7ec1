"""ATen operations that move, choose, repeat or join elements without computing with them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph import operations as ops
from ADAttributionLogic.graph.arithmetic import PlacewiseAffine
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.tracing.arguments import Arguments, Conversion, Converter, Steps, Wired, coefficient


def _permute(a: Arguments) -> ops.Operation:
    order = tuple(int(d) % len(a["self"]) for d in a["dims"])
    if order[0] != 0:
        raise a.unsupported("It moves the batch axis.")
    return ops.Permute(order)


# ------------------------------------------------------------------------------------------------------------- joining


def _concatenate(a: Arguments) -> Conversion:
    parts = a["tensors"]
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else part for part in parts]
    axis = int(a["dim"]) % len(shapes[0])
    if axis == 0:
        raise a.unsupported("It concatenates along the batch axis.")
    dynamic = [number for number, part in enumerate(parts) if not isinstance(part, Tensor)]
    if len(dynamic) == len(parts):
        return ops.Concatenate(axis)
    if len(dynamic) > 1:
        raise a.unsupported("It joins several layers and a constant; join the layers first.")
    before = sum(shape[axis] for shape in shapes[: dynamic[0]])
    after = sum(shape[axis] for shape in shapes[dynamic[0] + 1 :])
    padding = ops.ZeroPad(((before, after), *((0, 0),) * (len(shapes[0]) - axis - 1)))
    constants = [part for part in parts if isinstance(part, Tensor)]
    if not any(bool(constant.any()) for constant in constants):
        return padding
    added = [part[:1] if isinstance(part, Tensor) else torch.zeros(part, dtype=constants[0].dtype) for part in parts]
    shape = a.output_shape[1:]
    return ((padding, shape), (PlacewiseAffine(coefficient(1.0), torch.cat(added, axis)), shape))


def _stack(a: Arguments) -> Conversion:
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else part for part in a["tensors"]]
    axis = int(a["dim"]) % (len(shapes[0]) + 1)
    if axis == 0 or any(isinstance(part, Tensor) for part in a["tensors"]):
        raise a.unsupported("It stacks a constant, or along the batch axis.")
    inner = [(*shape[1:axis], 1, *shape[axis:]) for shape in shapes]
    made = [Wired(ops.Reshape(shape), (number,), shape) for number, shape in enumerate(inner)]
    count = len(shapes)
    return (*made, Wired(ops.Concatenate(axis), tuple(range(count, 2 * count)), a.output_shape[1:]))


def _pad(a: Arguments) -> Conversion:
    numbers = [int(n) for n in a["pad"]]
    pairs = tuple(reversed([(numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)]))
    if len(pairs) >= len(a["self"]):
        raise a.unsupported("It pads the batch axis.")
    padding, value = ops.ZeroPad(pairs), float(a["value"] or 0)
    if value == 0:
        return padding
    shape = a.output_shape[1:]
    border = 1 - padding.forward(torch.ones(1, *a["self"][1:], dtype=torch.float64))
    return ((padding, shape), (PlacewiseAffine(coefficient(1.0), border * value), shape))


def _pad_mode(a: Arguments) -> Conversion:
    """Padding with zeros, a number, or the layer's own elements."""
    if a["mode"] == "constant":
        return _pad(a)
    shape = tuple(a["self"])
    numbers = [int(n) for n in a["pad"]]
    steps: Steps = ()
    for number in range(0, len(numbers), 2):
        axis = len(shape) - 1 - number // 2
        places = torch.arange(shape[axis], dtype=torch.float64)[None, None]
        index = F.pad(places, numbers[number : number + 2], mode=a["mode"])[0, 0].long()
        shape = (*shape[:axis], len(index), *shape[axis + 1 :])
        steps = (*steps, (Take(axis, index), shape[1:]))
    return steps


# ------------------------------------------------------------------------------------------------------------ choosing


def _slice(a: Arguments) -> Conversion:
    axis = a.axis(a["dim"], "It chooses images")
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(a["self"][axis])
    return _range(a, axis, range(start, stop, step))


def _range(a: Arguments, axis: int, chosen: range) -> Conversion:
    """Places at equal distances along an axis: a border cut off, and one of every few of the rest."""
    shape = tuple(a["self"])[1:]
    if chosen == range(shape[axis - 1]):
        return None
    if axis == 1 or len(shape) > 4 or not chosen:
        return Take(axis, torch.tensor(list(chosen), dtype=torch.int64))
    axes = len(shape) - 1
    cut = [(0, 0)] * axes
    cut[axis - 2] = (-chosen[0], chosen[-1] + 1 - shape[axis - 1])
    cropped = list(shape)
    cropped[axis - 1] = chosen[-1] + 1 - chosen[0]
    steps: Steps = ((ops.ZeroPad(tuple(cut)), tuple(cropped)),) if cropped[axis - 1] != shape[axis - 1] else ()
    if chosen.step > 1:
        stride = tuple(chosen.step if i == axis - 2 else 1 for i in range(axes))
        every = ops.MaxPool((1,) * axes, stride, ((0, 0),) * axes, (1,) * axes)
        left = (*shape[: axis - 1], len(chosen), *shape[axis:])
        steps = (*steps, (every, left))
    return steps


def _select(a: Arguments) -> Conversion:
    axis = a.axis(a["dim"], "It chooses images")
    place = int(a["index"]) % a["self"][axis]
    shape = a.output_shape[1:]
    reshape: Steps = ((ops.Reshape(shape), shape),)
    if a["self"][axis] == 1:
        return reshape
    kept = tuple(1 if i == axis else n for i, n in enumerate(a["self"]))[1:]
    return ((Take(axis, torch.tensor([place])), kept), *reshape)


def _slice_scatter(a: Arguments) -> Conversion:
    """A layer of which a slice is written anew (assignment to a slice in place)."""
    axis = a.axis(a["dim"], "It writes into images")
    if a.dynamic != {"self", "src"}:
        raise a.unsupported("What is written, and into what, must both depend on the image.")
    shape, written = tuple(a["self"]), tuple(a["src"])
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(shape[axis])
    if step != 1:
        raise a.unsupported(f"It writes every {step}th element; write them all.")
    if (start, stop) == (0, shape[axis]):
        return (Wired(ops.Reshape(written[1:]), (1,), written[1:]),)
    made: list[Wired] = []
    parts: list[int] = []
    for begin, end in ((0, start), (stop, shape[axis])):
        if begin < end:
            size = (*shape[1:axis], end - begin, *shape[axis + 1 :])
            made.append(Wired(Take(axis, torch.arange(begin, end)), (0,), size))
            parts.append(len(made) + 1)
        if begin == 0:
            parts.append(1)
    return (*made, Wired(ops.Concatenate(axis), tuple(parts), shape[1:]))


def _copy(a: Arguments) -> Conversion:
    """A layer written over another one."""
    if "src" not in a.dynamic or tuple(a["src"]) != a.output_shape:
        raise a.unsupported("What is written must be a layer of the same shape.")
    number = int("self" in a.dynamic)
    return (Wired(ops.Reshape(a.output_shape[1:]), (number,), a.output_shape[1:]),)


def split_part(a: Arguments, number: int) -> Conversion:
    """One of the parts into which a layer is split."""
    axis = a.axis(a["dim"], "It splits")
    n = a["self"][axis]
    if a.operation == "aten.split_with_sizes":
        sizes = [int(size) for size in a["split_sizes"]]
    else:
        size = int(a["split_size"])
        sizes = [min(size, n - start) for start in range(0, n, size)]
    start = sum(sizes[:number])
    return _range(a, axis, range(start, start + sizes[number]))


def _index_select(a: Arguments) -> ops.Operation:
    return Take(a.axis(a["dim"], "It chooses images"), a.constant("index").reshape(-1))


def _index(a: Arguments) -> Conversion:
    """Indexing by constant positions, separately along each axis (mirrored borders, nearest neighbours)."""
    shape, indices = tuple(a["self"]), a["indices"]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if "indices" in a.dynamic or any(indices[axis].dtype != torch.int64 for axis in axes) or axes[0] == 0:
        raise a.unsupported("Only indexing by constant positions, not along the batch axis, is supported.")
    dimensions = max(indices[axis].ndim for axis in axes)
    separate = dimensions == len(axes) and axes == list(range(axes[0], axes[0] + len(axes)))
    steps: Steps = ()
    for number, axis in enumerate(axes):
        index = indices[axis]
        varies = tuple(range(dimensions - index.ndim, dimensions))
        if not separate or any(n > 1 and i != number for i, n in zip(varies, index.shape, strict=True)):
            raise a.unsupported("Positions must be chosen along each axis separately.")
        flat = index.reshape(-1) % shape[axis]
        shape = (*shape[:axis], len(flat), *shape[axis + 1 :])
        steps = (*steps, (Take(axis, flat), shape[1:]))
    return steps


def _flip(a: Arguments) -> Conversion:
    steps: Steps = ()
    for dim in a["dims"]:
        axis = a.axis(dim, "It flips")
        steps = (*steps, (Take(axis, torch.arange(a["self"][axis] - 1, -1, -1)), tuple(a["self"])[1:]))
    return steps or None


def _expand(a: Arguments) -> Conversion:
    given = tuple(a["self"])
    shape = (1,) * (len(a.output_shape) - len(given)) + given
    if given[0] != 1 or (len(given) != len(a.output_shape) and math.prod(given) != 1):
        raise a.unsupported("It puts an axis in front of the batch axis.")
    steps: Steps = () if shape == given else ((ops.Reshape(shape[1:]), shape[1:]),)
    for axis, (n, wanted) in enumerate(zip(shape, a.output_shape, strict=True)):
        if n != wanted:
            shape = (*shape[:axis], wanted, *shape[axis + 1 :])
            steps = (*steps, (Take(axis, torch.zeros(wanted, dtype=torch.int64)), shape[1:]))
    return steps or None


def _nearest(a: Arguments) -> Conversion:
    """Nearest-neighbour upsampling: which element each is a copy of, along each axis, as PyTorch finds it."""
    shape = tuple(a.values["input" if "input" in a.values else "self"])
    factors = a.values.get("scale_factors") or [a.values.get(f"scales_{axis}") for axis in "dhw"[5 - len(shape) :]]
    steps: Steps = ()
    for axis, (size, factor) in enumerate(zip(a.output_shape[2:], factors, strict=False), start=2):
        places = torch.arange(shape[axis], dtype=torch.float64)[None, None]
        index = torch.ops.aten.upsample_nearest1d(places, [size], factor)[0, 0].long()
        shape = (*shape[:axis], size, *shape[axis + 1 :])
        steps = (*steps, (Take(axis, index), shape[1:]))
    return steps


def _repeat(a: Arguments) -> Conversion:
    given, repeats = tuple(a["self"]), [int(n) for n in a["repeats"]]
    if len(repeats) != len(given) or repeats[0] != 1:
        raise a.unsupported("It repeats images of the batch.")
    steps: Steps = ()
    for axis, (n, times) in enumerate(zip(given, repeats, strict=True)):
        if times != 1:
            given = (*given[:axis], n * times, *given[axis + 1 :])
            steps = (*steps, (Take(axis, torch.arange(n).repeat(times)), given[1:]))
    return steps or None


#: Calls that return several tensors, of which each is taken out by a call of its own.
SPLITS = frozenset({"aten.split_with_sizes", "aten.split.Tensor"})

SHAPE_CONVERTERS: Mapping[str, Converter] = {
    "aten.cat": _concatenate,
    "aten.stack": _stack,
    "aten.constant_pad_nd": _pad,
    "aten.pad": _pad_mode,
    "aten.permute": _permute,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.slice_scatter": _slice_scatter,
    "aten.copy": _copy,
    "aten.index_select": _index_select,
    "aten.index.Tensor": _index,
    "aten.flip": _flip,
    "aten.expand": _expand,
    "aten.repeat": _repeat,
    **{f"aten.upsample_nearest{d}d.vec": _nearest for d in (1, 2, 3)},
}
