"""Which ATen operation becomes which operation of the LayerGraph.

Each converter takes the call's arguments and returns an operation, or None where the call changes nothing (dropout
in evaluation mode, a copy). What a converter does not understand is an error that names the operation and its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ADAttributionLogic.errors import UnsupportedOperationError
from ADAttributionLogic.graph import operations as ops


@dataclass(frozen=True)
class Arguments:
    """A call's arguments.

    Attributes
    ----------
    operation, location : str
        For messages.
    values : mapping
        By name in the operation's schema; tensors that depend on the image are given as their shape.
    dynamic : frozenset of str
        Which arguments depend on the image.
    output_shape : tuple of int
        Shape of the result for one image, with the batch axis.
    """

    operation: str
    location: str
    values: Mapping[str, Any]
    dynamic: frozenset[str]
    output_shape: tuple[int, ...]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def unsupported(self, why: str) -> UnsupportedOperationError:
        """An error that names the operation, its place and what about it is not supported."""
        return UnsupportedOperationError(self.operation, self.location, why)

    def constant(self, name: str) -> Tensor:
        """A weight: a tensor that does not depend on the image."""
        value = self.values[name]
        if name in self.dynamic or not isinstance(value, Tensor):
            raise self.unsupported(f"Its {name} depends on the image.")
        return value


def _spatial(values: Any, dimensions: int) -> tuple[int, ...]:
    """PyTorch's lists of one or n integers, as n integers."""
    numbers = tuple(int(v) for v in values)
    return numbers * dimensions if len(numbers) == 1 else numbers


def _symmetric(values: Any, dimensions: int) -> ops.Padding:
    return tuple((n, n) for n in _spatial(values, dimensions))


def _convolution(a: Arguments) -> ops.Operation:
    if a["transposed"]:
        raise a.unsupported("Transposed convolutions have no rule.")
    if "input" not in a.dynamic:
        raise a.unsupported("Its weight, not its input, depends on the image.")
    weight = a.constant("weight")
    n = weight.ndim - 2
    if not 1 <= n <= 3 or len(a["input"]) != n + 2:
        raise a.unsupported(
            f"Convolutions of 1 to 3 dimensions on batches of images are supported, not on {a['input']}."
        )
    bias = None if a["bias"] is None else a.constant("bias")
    return ops.Convolution(
        weight,
        bias,
        _spatial(a["stride"], n),
        _symmetric(a["padding"], n),
        _spatial(a["dilation"], n),
        int(a["groups"]),
    )


def _addmm(a: Arguments) -> ops.Operation:
    if a["beta"] != 1 or a["alpha"] != 1:
        raise a.unsupported("Its factors beta and alpha must be 1.")
    return ops.Dense(a.constant("mat2").T, a.constant("self"))


def _mm(a: Arguments) -> ops.Operation:
    return ops.Dense(a.constant("mat2").T, None)


def _batch_norm(a: Arguments) -> ops.Operation:
    mean, variance = a.constant("running_mean"), a.constant("running_var")
    scale = torch.rsqrt(variance + a["eps"])
    if a["weight"] is not None:
        scale = scale * a.constant("weight")
    shift = -mean * scale
    if a["bias"] is not None:
        shift = shift + a.constant("bias")
    return ops.Affine(scale, shift)


def _max_pool(dimensions: int) -> Callable[[Arguments], ops.Operation]:
    def convert(a: Arguments) -> ops.Operation:
        kernel = _spatial(a["kernel_size"], dimensions)
        stride = _spatial(a["stride"], dimensions) if a["stride"] else kernel
        return ops.MaxPool(
            kernel,
            stride,
            _symmetric(a["padding"], dimensions),
            _spatial(a["dilation"], dimensions),
            bool(a["ceil_mode"]),
        )

    return convert


def _average_pool(dimensions: int) -> Callable[[Arguments], ops.Operation]:
    def convert(a: Arguments) -> ops.Operation:
        kernel = _spatial(a["kernel_size"], dimensions)
        return ops.AveragePool(
            _constant(1.0),
            None,
            kernel,
            _spatial(a["stride"], dimensions) if a["stride"] else kernel,
            _symmetric(a["padding"], dimensions),
            bool(a["ceil_mode"]),
            bool(a["count_include_pad"]),
            a.values.get("divisor_override"),
        )

    return convert


def _adaptive_average_pool(a: Arguments) -> ops.Operation:
    return ops.AdaptiveAveragePool(_constant(1.0), None, tuple(int(n) for n in a["output_size"]))


def _mean(a: Arguments) -> ops.Operation:
    shape = a["self"]
    axes = sorted(int(d) % len(shape) for d in (a["dim"] or range(len(shape))))
    if axes != list(range(2, len(shape))) or not 1 <= len(axes) <= 3:
        raise a.unsupported(f"Means are supported over all spatial axes, not over axes {axes} of {len(shape)}.")
    if not a["keepdim"]:
        raise a.unsupported("Use keepdim=True and flatten the result, or adaptive average pooling to size 1.")
    return ops.AdaptiveAveragePool(_constant(1.0), None, (1,) * len(axes))


def _constant(*values: float) -> Tensor:
    """A coefficient, in double precision until the graph gets its dtype."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def _scalar(a: Arguments, name: str) -> float | None:
    """A number or a constant tensor of one element; None for anything else."""
    value = a[name]
    if name in a.dynamic:
        return None
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) else None


def _add(sign: int) -> Callable[[Arguments], ops.Operation]:
    def convert(a: Arguments) -> ops.Operation:
        factor = sign * float(a["alpha"])
        if {"self", "other"} <= a.dynamic:
            if a["self"] != a["other"]:
                raise a.unsupported(f"Its two inputs have different shapes: {a['self']} and {a['other']}.")
            return ops.Add(_constant(1.0, factor), None)
        other = _scalar(a, "other")
        if other is not None:
            return ops.Affine(_constant(1.0), _constant(factor * other))
        constant = _scalar(a, "self")
        if constant is not None:
            return ops.Affine(_constant(factor), _constant(constant))
        raise a.unsupported("Adding a constant image or row is not supported; only a number or another layer.")

    return convert


def _multiply(a: Arguments) -> ops.Operation:
    for name in ("other", "self"):
        factor = _scalar(a, name)
        if factor is not None:
            return ops.Affine(_constant(factor), None)
    raise a.unsupported("Only multiplication by a number is supported, not of two layers (a gate) or by an image.")


def _divide(a: Arguments) -> ops.Operation:
    divisor = _scalar(a, "other")
    if divisor is None or divisor == 0:
        raise a.unsupported("Only division by a number other than 0 is supported.")
    return ops.Affine(_constant(1 / divisor), None)


def _reshape(a: Arguments) -> ops.Operation:
    # One image's elements keep their order, so that the shape without the batch axis says everything.
    return ops.Reshape(a.output_shape[1:])


def _permute(a: Arguments) -> ops.Operation:
    order = tuple(int(d) % len(a["self"]) for d in a["dims"])
    if order[0] != 0:
        raise a.unsupported("It moves the batch axis.")
    return ops.Permute(order)


def _concatenate(a: Arguments) -> ops.Operation:
    shapes = a["tensors"]
    if any(isinstance(shape, Tensor) for shape in shapes):
        raise a.unsupported("Concatenating a constant is not supported.")
    axis = int(a["dim"]) % len(shapes[0])
    if axis == 0:
        raise a.unsupported("It concatenates along the batch axis.")
    return ops.Concatenate(axis)


def _pad(a: Arguments) -> ops.Operation:
    if float(a["value"]) != 0:
        raise a.unsupported(f"Only padding with zeros is supported, not with {a['value']}.")
    numbers = [int(n) for n in a["pad"]]
    if len(numbers) // 2 > len(a["self"]) - 2:
        raise a.unsupported("Only spatial axes can be padded.")
    pairs = [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)]
    return ops.ZeroPad(tuple(reversed(pairs)))


def _relu6(a: Arguments) -> ops.Operation:
    if a["min_val"] != 0:
        raise a.unsupported(f"Only a lower bound of 0 is supported, not {a['min_val']}.")
    return ops.ReLU(cap=float(a["max_val"]))


def _softmax(logarithm: bool) -> Callable[[Arguments], ops.Operation]:
    def convert(a: Arguments) -> ops.Operation:
        axis = int(a["dim"]) % len(a["self"])
        if axis == 0:
            raise a.unsupported("It normalises over the batch axis.")
        return ops.Softmax(axis, logarithm)

    return convert


def _elu(a: Arguments) -> ops.Operation:
    return ops.ELU(float(a["alpha"]), float(a["scale"]), float(a["input_scale"]))


def _identity(a: Arguments) -> None:
    return None


def _same_type(a: Arguments) -> None:
    if a["dtype"] is not None and not a["dtype"].is_floating_point:
        raise a.unsupported(f"It converts the image to {a['dtype']}.")


def _expand(a: Arguments) -> None:
    if tuple(a["self"]) != a.output_shape:
        raise a.unsupported("Repeating elements is not supported.")


CONVERTERS: Mapping[str, Callable[[Arguments], ops.Operation | None]] = {
    "aten.convolution": _convolution,
    "aten.addmm": _addmm,
    "aten.mm": _mm,
    "aten._native_batch_norm_legit_no_training": _batch_norm,
    "aten.relu": lambda a: ops.ReLU(),
    "aten.hardtanh": _relu6,
    "aten.leaky_relu": lambda a: ops.LeakyReLU(float(a["negative_slope"])),
    "aten.elu": _elu,
    "aten.sigmoid": lambda a: ops.Sigmoid(),
    "aten.tanh": lambda a: ops.Tanh(),
    "aten._softmax": _softmax(False),
    "aten._log_softmax": _softmax(True),
    "aten.max_pool2d_with_indices": _max_pool(2),
    "aten.max_pool3d_with_indices": _max_pool(3),
    "aten.avg_pool1d": _average_pool(1),
    "aten.avg_pool2d": _average_pool(2),
    "aten.avg_pool3d": _average_pool(3),
    "aten.adaptive_avg_pool1d": _adaptive_average_pool,
    "aten._adaptive_avg_pool2d": _adaptive_average_pool,
    "aten._adaptive_avg_pool3d": _adaptive_average_pool,
    "aten.mean.dim": _mean,
    "aten.add.Tensor": _add(1),
    "aten.add.Scalar": _add(1),
    "aten.sub.Tensor": _add(-1),
    "aten.sub.Scalar": _add(-1),
    "aten.mul.Tensor": _multiply,
    "aten.mul.Scalar": _multiply,
    "aten.div.Tensor": _divide,
    "aten.div.Scalar": _divide,
    "aten.neg": lambda a: ops.Affine(_constant(-1.0), None),
    "aten.cat": _concatenate,
    "aten.constant_pad_nd": _pad,
    "aten.view": _reshape,
    "aten._unsafe_view": _reshape,
    "aten.reshape": _reshape,
    "aten.squeeze.dim": _reshape,
    "aten.squeeze.dims": _reshape,
    "aten.unsqueeze": _reshape,
    "aten.permute": _permute,
    "aten.clone": _identity,
    "aten.alias": _identity,
    "aten.detach": _identity,
    "aten.dropout": _identity,
    "aten._to_copy": _same_type,
    "aten.expand": _expand,
}
