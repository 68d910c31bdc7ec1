"""Which ATen operation becomes which operation of the LayerGraph.

Each converter takes the call's arguments and returns an operation, several in a row, or None where the call changes
nothing (dropout in evaluation mode, a copy). What a converter does not understand is an error that names the operation
and its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph import operations as ops
from ADAttributionLogic.graph.activations import ELU, Clamp, Curve, LeakyReLU, PReLU, ReLU, Sigmoid, Tanh
from ADAttributionLogic.graph.arithmetic import PlacewiseAffine, Product, Quotient, SumOver
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.normalisations import GroupNorm, LayerNorm, Variance
from ADAttributionLogic.graph.rearranging import MaxOver, Take
from ADAttributionLogic.graph.upsampling import LinearUpsampling, TransposedConvolution
from ADAttributionLogic.tracing.arguments import Arguments, Conversion, Converter, Steps, coefficient
from ADAttributionLogic.tracing.aten_attention import ATTENTION_CONVERTERS
from ADAttributionLogic.tracing.aten_shapes import SHAPE_CONVERTERS


def _spatial(values: Any, dimensions: int) -> tuple[int, ...]:
    """PyTorch's lists of one or n integers, as n integers."""
    numbers = tuple(int(v) for v in values)
    return numbers * dimensions if len(numbers) == 1 else numbers


def _symmetric(values: Any, dimensions: int) -> ops.Padding:
    return tuple((n, n) for n in _spatial(values, dimensions))


def _convolution(a: Arguments) -> ops.Operation:
    if "input" not in a.dynamic:
        raise a.unsupported("Its weight, not its input, depends on the image.")
    weight = a.constant("weight")
    n = weight.ndim - 2
    if not 1 <= n <= 3 or len(a["input"]) != n + 2:
        raise a.unsupported(
            f"Convolutions of 1 to 3 dimensions on batches of images are supported, not on {a['input']}."
        )
    bias = None if a["bias"] is None else a.constant("bias")
    if a["transposed"]:
        stride, padding = _spatial(a["stride"], n), _spatial(a["padding"], n)
        extra, dilation = _spatial(a["output_padding"], n), _spatial(a["dilation"], n)
        return TransposedConvolution(weight, bias, stride, padding, extra, dilation, int(a["groups"]))
    return Convolution(
        weight,
        bias,
        _spatial(a["stride"], n),
        _symmetric(a["padding"], n),
        _spatial(a["dilation"], n),
        int(a["groups"]),
    )


def _batch_norm(a: Arguments) -> ops.Operation:
    channels = a["input"][1]
    for name in ("running_mean", "running_var", "weight", "bias"):
        if a[name] is not None and tuple(a.constant(name).shape) != (channels,):
            found = tuple(a.constant(name).shape)
            raise NetworkError(
                f"{a.operation} at {a.location} is damaged: its {name} has shape {found}, but the layer has {channels} "
                "channels."
            )
    mean, variance = a.constant("running_mean"), a.constant("running_var")
    scale = torch.rsqrt(variance + a["eps"])
    if a["weight"] is not None:
        scale = scale * a.constant("weight")
    shift = -mean * scale
    if a["bias"] is not None:
        shift = shift + a.constant("bias")
    return ops.Affine(scale, shift)


def _group_norm(a: Arguments) -> ops.Operation:
    weight, bias = (None if a[name] is None else a.constant(name) for name in ("weight", "bias"))
    return GroupNorm(weight, bias, float(a["eps"]), int(a["group"]))


def _instance_norm(a: Arguments) -> ops.Operation:
    if not a["use_input_stats"]:
        return _batch_norm(a)
    weight, bias = (None if a[name] is None else a.constant(name) for name in ("weight", "bias"))
    return GroupNorm(weight, bias, float(a["eps"]), int(a["input"][1]))


def _layer_norm(a: Arguments) -> ops.Operation:
    weight, bias = (None if a[name] is None else a.constant(name) for name in ("weight", "bias"))
    return LayerNorm(weight, bias, float(a["eps"]), tuple(int(n) for n in a["normalized_shape"]))


def _adaptive_max_pool(a: Arguments) -> Conversion:
    """One pool where all windows are alike; else axis by axis, the shorter windows with their last place repeated.

    From the last axis to the first: among equal maxima, the one that comes first then wins, as in PyTorch.
    """
    sizes, shape = tuple(int(n) for n in a["output_size"]), tuple(a["self"])[1:]
    if all(n % wanted == 0 for n, wanted in zip(shape[1:], sizes, strict=True)):
        return _equal_windows(tuple(n // wanted for n, wanted in zip(shape[1:], sizes, strict=True)))
    steps: Steps = ()
    for axis in range(len(sizes), 0, -1):
        n, wanted = shape[axis], sizes[axis - 1]
        starts = [i * n // wanted for i in range(wanted)]
        ends = [-(-(i + 1) * n // wanted) for i in range(wanted)]
        width = max(end - start for start, end in zip(starts, ends, strict=True))
        places = [min(start + i, end - 1) for start, end in zip(starts, ends, strict=True) for i in range(width)]
        if places != list(range(n)):
            shape = (*shape[:axis], len(places), *shape[axis + 1 :])
            steps = (*steps, (Take(axis + 1, torch.tensor(places)), shape))
        if width > 1:
            shape = (*shape[:axis], wanted, *shape[axis + 1 :])
            steps = (*steps, (_equal_windows(tuple(width if i == axis else 1 for i in range(1, len(shape)))), shape))
    return steps


def _equal_windows(kernel: tuple[int, ...]) -> ops.MaxPool:
    return ops.MaxPool(kernel, kernel, ((0, 0),) * len(kernel), (1,) * len(kernel))


def _linear_upsampling(a: Arguments) -> ops.Operation:
    size = None if a["output_size"] is None else tuple(int(n) for n in a["output_size"])
    factors = None if a["scale_factors"] is None else tuple(float(f) for f in a["scale_factors"])
    return LinearUpsampling(coefficient(1.0), None, size, factors, bool(a["align_corners"]))


def _max_pool(dimensions: int) -> Converter:
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


def _average_pool(dimensions: int) -> Converter:
    def convert(a: Arguments) -> ops.Operation:
        kernel = _spatial(a["kernel_size"], dimensions)
        return ops.AveragePool(
            coefficient(1.0),
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
    return ops.AdaptiveAveragePool(coefficient(1.0), None, tuple(int(n) for n in a["output_size"]))


def _axes(a: Arguments) -> tuple[int, ...]:
    axes = tuple(sorted(int(d) % len(a["self"]) for d in (a["dim"] or range(len(a["self"])))))
    if 0 in axes:
        raise a.unsupported("It mixes the images of a batch.")
    return axes


def _over_axes(a: Arguments, operation: ops.Operation, axes: tuple[int, ...]) -> Conversion:
    """An operation that leaves its axes with size 1, and what takes them away unless they are to stay."""
    if a["keepdim"]:
        return operation
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(a["self"]))[1:]
    return ((operation, kept), (ops.Reshape(a.output_shape[1:]), a.output_shape[1:]))


def _mean(a: Arguments) -> Conversion:
    shape, axes = a["self"], _axes(a)
    if axes == tuple(range(2, len(shape))) and 1 <= len(axes) <= 3:
        return _over_axes(a, ops.AdaptiveAveragePool(coefficient(1.0), None, (1,) * len(axes)), axes)
    return _over_axes(a, SumOver(coefficient(1 / math.prod(shape[i] for i in axes)), None, axes), axes)


def _sum(a: Arguments) -> Conversion:
    return _over_axes(a, SumOver(coefficient(1.0), None, _axes(a)), _axes(a))


def _variance(a: Arguments) -> Conversion:
    axes = _axes(a)
    return _over_axes(a, Variance(axes, 1.0 if a["correction"] is None else float(a["correction"])), axes)


def _power(a: Arguments) -> ops.Operation:
    return Curve(f"power {a['exponent']}", partial(torch.pow, exponent=a["exponent"]))


def _maximum(a: Arguments) -> Conversion:
    axes = (a.axis(a["dim"], "It takes the maximum"),) if isinstance(a["dim"], int) else _axes(a)
    return _over_axes(a, MaxOver(axes), axes)


def _minimum(a: Arguments) -> Conversion:
    """The maximum of what is negated, negated."""
    negated, shape = ops.Affine(coefficient(-1.0), None), tuple(a["self"])[1:]
    return ((negated, shape), *_steps(_maximum(a), a), (negated, a.output_shape[1:]))


def _norm(a: Arguments) -> Conversion:
    """The root of the sum of squares."""
    if a["ord"] != 2:
        raise a.unsupported(f"Its order is {a['ord']:g}; 2 is supported.")
    square, root = Curve("power 2", torch.square), Curve("root of squares", _root)
    return ((square, tuple(a["self"])[1:]), *_steps(_sum(a), a), (root, a.output_shape[1:]))


def _root(squares: Tensor) -> Tensor:
    """As PyTorch's norm has it, with a slope of 0 at 0."""
    is_positive = squares > 0
    return torch.where(is_positive, squares, 1.0).sqrt() * is_positive


def _steps(made: Conversion, a: Arguments) -> Steps:
    """One operation, or several in a row, as several in a row."""
    assert made is not None
    return made if isinstance(made, tuple) else ((made, a.output_shape[1:]),)  # type: ignore[return-value]


def _affine(a: Arguments, factor: Tensor, summand: Tensor | None) -> Conversion:
    """Multiplication by one constant and addition of another, each a number, one per channel or an image."""
    name = "self" if "self" in a.dynamic else "other"
    shape = tuple(a[name])
    if a.output_shape != shape:
        raise a.unsupported(f"It repeats the layer's elements, from shape {shape} to {a.output_shape}.")
    summand = None if summand is None or not bool(summand.any()) else summand
    if summand is None and bool((factor == 1).all()):
        return None
    weight, bias = _by_channel(factor, len(shape)), None if summand is None else _by_channel(summand, len(shape))
    if weight is not None and (bias is not None or summand is None):
        return ops.Affine(weight, bias)
    return PlacewiseAffine(factor, summand)


def _by_channel(values: Tensor, axes: int) -> Tensor | None:
    """A constant as a scalar or as one number per channel, if it is the same at all places."""
    if values.numel() == 1:
        return values.reshape(())
    shape = (1,) * (axes - values.ndim) + tuple(values.shape)
    if math.prod(shape) != shape[1]:
        return None
    return values.reshape(-1)


def _as_constant(a: Arguments, name: str) -> Tensor:
    value = a[name]
    if not isinstance(value, Tensor):
        return coefficient(float(value))
    return value if value.is_floating_point() else value.to(torch.float64)


def _add(sign: int) -> Converter:
    def convert(a: Arguments) -> Conversion:
        factor = sign * float(a["alpha"])
        if {"self", "other"} <= a.dynamic:
            if len(a["self"]) != len(a["other"]):
                raise a.unsupported(f"Its inputs have different numbers of axes: {a['self']} and {a['other']}.")
            return ops.Add(coefficient(1.0, factor), None)
        if "self" in a.dynamic:
            return _affine(a, coefficient(1.0), factor * _as_constant(a, "other"))
        return _affine(a, coefficient(factor), _as_constant(a, "self"))

    return convert


def _reversed_difference(a: Arguments) -> Conversion:
    if "other" in a.dynamic:
        raise a.unsupported("Both its inputs depend on the image.")
    return _affine(a, coefficient(-float(a["alpha"])), _as_constant(a, "other"))


def _multiply(a: Arguments) -> Conversion:
    if {"self", "other"} <= a.dynamic:
        if len(a["self"]) != len(a["other"]):
            raise a.unsupported(f"Its inputs have different numbers of axes: {a['self']} and {a['other']}.")
        return Product()
    return _affine(a, _as_constant(a, "other" if "self" in a.dynamic else "self"), None)


def _divide(a: Arguments) -> Conversion:
    if {"self", "other"} <= a.dynamic:
        if len(a["self"]) != len(a["other"]):
            raise a.unsupported(f"Its inputs have different numbers of axes: {a['self']} and {a['other']}.")
        return Quotient()
    if "other" in a.dynamic:
        raise a.unsupported("It divides a constant by a layer.")
    divisor = _as_constant(a, "other")
    if not bool((divisor != 0).all()):
        raise a.unsupported("It divides by 0.")
    return _affine(a, 1 / divisor, None)


def _hardtanh(a: Arguments) -> ops.Operation:
    low, high = float(a["min_val"]), float(a["max_val"])
    if low == 0:
        return ReLU(cap=high)
    return Curve("Hardtanh", partial(F.hardtanh, min_val=low, max_val=high))


def _softmax(logarithm: bool) -> Converter:
    def convert(a: Arguments) -> ops.Operation:
        axis = int(a["dim"]) % len(a["self"])
        if axis == 0:
            raise a.unsupported("It normalises over the batch axis.")
        return ops.Softmax(axis, logarithm)

    return convert


def _safe_softmax(a: Arguments) -> ops.Operation:
    return ops.Softmax(a.axis(a["dim"], "It normalises"), is_zero_where_all_is_masked=True)


def _celu(a: Arguments) -> ops.Operation:
    return ELU(float(a["alpha"]), 1.0, 1 / float(a["alpha"]))


def _elu(a: Arguments) -> ops.Operation:
    return ELU(float(a["alpha"]), float(a["scale"]), float(a["input_scale"]))


def _clamp(a: Arguments) -> ops.Operation:
    bounds = []
    for name, unbounded in (("min", -math.inf), ("max", math.inf)):
        value = a.values.get(name)
        if name in a.dynamic or (isinstance(value, Tensor) and value.numel() != 1):
            raise a.unsupported(f"Its bound {name} must be a number.")
        bounds.append(unbounded if value is None else float(value))
    return Clamp(*bounds)


def _prelu(a: Arguments) -> ops.Operation:
    return PReLU(a.constant("weight"))


def _gelu(a: Arguments) -> ops.Operation:
    return Curve("GELU", partial(F.gelu, approximate=a["approximate"]))


def _softplus(a: Arguments) -> ops.Operation:
    return Curve("Softplus", partial(F.softplus, beta=float(a["beta"]), threshold=float(a["threshold"])))


def _curve(name: str, function: Callable[[Tensor], Tensor]) -> Converter:
    return lambda a: Curve(name, function)


def _identity(a: Arguments) -> None:
    return None


def _dropout(a: Arguments) -> None:
    if a["train"]:
        raise a.unsupported("It drops elements at random although the network is in evaluation mode.")


def _same_type(a: Arguments) -> None:
    if a["dtype"] not in (None, torch.float32, torch.float64):
        raise a.unsupported(f"It converts the image to {a['dtype']}, which is less precise; leave the conversion out.")


CONVERTERS: Mapping[str, Converter] = {
    **SHAPE_CONVERTERS,
    **ATTENTION_CONVERTERS,
    "aten.convolution": _convolution,
    "aten._native_batch_norm_legit_no_training": _batch_norm,
    "aten.native_group_norm": _group_norm,
    "aten.instance_norm": _instance_norm,
    "aten.native_layer_norm": _layer_norm,
    "aten.upsample_linear1d.vec": _linear_upsampling,
    "aten.upsample_bilinear2d.vec": _linear_upsampling,
    "aten.upsample_trilinear3d.vec": _linear_upsampling,
    "aten.adaptive_max_pool2d": _adaptive_max_pool,
    "aten.adaptive_max_pool3d": _adaptive_max_pool,
    "aten.relu": lambda a: ReLU(),
    "aten.hardtanh": _hardtanh,
    "aten.leaky_relu": lambda a: LeakyReLU(float(a["negative_slope"])),
    "aten.elu": _elu,
    "aten.celu": _celu,
    "aten.prelu": _prelu,
    "aten._prelu_kernel": _prelu,
    "aten.clamp": _clamp,
    "aten.clamp_min": _clamp,
    "aten.clamp_max": _clamp,
    "aten.gelu": _gelu,
    "aten.silu": _curve("SiLU", F.silu),
    "aten.hardswish": _curve("Hardswish", F.hardswish),
    "aten.hardsigmoid": _curve("Hardsigmoid", F.hardsigmoid),
    "aten.mish": _curve("Mish", F.mish),
    "aten.softplus": _softplus,
    "aten.abs": _curve("absolute value", torch.abs),
    "aten.exp": _curve("exponential", torch.exp),
    "aten.log": _curve("logarithm", torch.log),
    "aten.sqrt": _curve("square root", torch.sqrt),
    "aten.rsqrt": _curve("reciprocal square root", torch.rsqrt),
    "aten.pow.Tensor_Scalar": _power,
    "aten.var.correction": _variance,
    "aten.sigmoid": lambda a: Sigmoid(),
    "aten.tanh": lambda a: Tanh(),
    "aten._softmax": _softmax(False),
    "aten._safe_softmax": _safe_softmax,
    "aten._log_softmax": _softmax(True),
    "aten.max_pool2d_with_indices": _max_pool(2),
    "aten.max_pool3d_with_indices": _max_pool(3),
    "aten.avg_pool1d": _average_pool(1),
    "aten.avg_pool2d": _average_pool(2),
    "aten.avg_pool3d": _average_pool(3),
    "aten.adaptive_avg_pool1d": _adaptive_average_pool,
    "aten.adaptive_avg_pool2d": _adaptive_average_pool,
    "aten.adaptive_avg_pool3d": _adaptive_average_pool,
    "aten._adaptive_avg_pool2d": _adaptive_average_pool,
    "aten._adaptive_avg_pool3d": _adaptive_average_pool,
    "aten.mean": _mean,
    "aten.mean.dim": _mean,
    "aten.sum": _sum,
    "aten.sum.dim_IntList": _sum,
    "aten.amax": _maximum,
    "aten.max.dim": _maximum,
    "aten.amin": _minimum,
    "aten.min.dim": _minimum,
    "aten.linalg_vector_norm": _norm,
    "aten.add.Tensor": _add(1),
    "aten.add.Scalar": _add(1),
    "aten.sub.Tensor": _add(-1),
    "aten.sub.Scalar": _add(-1),
    "aten.mul.Tensor": _multiply,
    "aten.mul.Scalar": _multiply,
    "aten.div.Tensor": _divide,
    "aten.div.Scalar": _divide,
    "aten.rsub.Scalar": _reversed_difference,
    "aten.rsub.Tensor": _reversed_difference,
    "aten.neg": lambda a: ops.Affine(coefficient(-1.0), None),
    "aten.clone": _identity,
    "aten.alias": _identity,
    "aten.detach": _identity,
    "aten.dropout": _dropout,
    "aten._to_copy": _same_type,
}
