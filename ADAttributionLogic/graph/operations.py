"""The operations that a network may consist of: what each computes, and how gradients and relevance pass back.

An operation is a value: it holds its weights and settings, never the activations. Tensors have a batch axis first,
then channels, then 0–3 spatial axes. Three families matter to the methods that walk backwards:

* *weighted* operations sum weighted inputs (:class:`WeightedOperation`): LRP's rules redistribute relevance in them;
* *activations* act on each element alone (:class:`Activation`): LRP passes relevance through unchanged;
* *routing* operations move elements without mixing them (the rest): relevance follows the element like a gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """What a layer computes."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the output from the inputs."""

    @abstractmethod
    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian product for each input."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the operation with its tensors moved and (positions excepted) converted."""
        moved = {
            f.name: value.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved) if moved else self

    def describe(self) -> str:
        """Name and settings for messages."""
        return type(self).__name__


@dataclass(frozen=True, eq=False)
class Input(Operation):
    """The network's input; has no inputs of its own."""

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        return ()


# ------------------------------------------------------------------------------------------------ weighted operations


@dataclass(frozen=True, eq=False)
class WeightedOperation(Operation):
    """An operation ``Σ weight · input + bias``.

    Attributes
    ----------
    weight : Tensor
        What LRP's rules modify. A scalar for operations whose coefficients are all equal.
    bias : Tensor or None
        Broadcast over the output (see :meth:`shaped_bias`).
    """

    weight: Tensor
    bias: Tensor | None

    #: Whether every output depends on one input element only, which then simply inherits the relevance.
    one_to_one = False

    @abstractmethod
    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        """Apply the linear map with another weight of the same shape, without bias."""

    @abstractmethod
    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        """Apply the transposed linear map; `shapes` are those of the inputs."""

    def shaped_bias(self, output: Tensor) -> Tensor | None:
        """The bias in a shape that broadcasts over the output."""
        if self.bias is None or self.bias.ndim == 0:
            return self.bias
        return self.bias.reshape((-1,) + (1,) * (output.ndim - 2))

    def forward(self, *inputs: Tensor) -> Tensor:
        output = self.map(inputs, self.weight)
        bias = self.shaped_bias(output)
        return output if bias is None else output.add_(bias)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        return self.transpose(gradient, self.weight, tuple(x.shape for x in inputs))


@dataclass(frozen=True, eq=False)
class Dense(WeightedOperation):
    """Fully connected layer on the last axis."""

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return F.linear(x, weight)

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        return (output @ weight,)

    def shaped_bias(self, output: Tensor) -> Tensor | None:
        return self.bias

    def describe(self) -> str:
        return f"Dense {self.weight.shape[1]}→{self.weight.shape[0]}"


@dataclass(frozen=True, eq=False)
class Affine(WeightedOperation):
    """Multiplication by a constant and addition of one: a scalar, or one per channel (batch normalisation in use)."""

    one_to_one = True

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return x * _per_channel(weight, x)

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        return (output * _per_channel(weight, output),)


@dataclass(frozen=True, eq=False)
class Add(WeightedOperation):
    """Sum of layers (a residual connection), each times its entry of the weight; small ones are broadcast."""

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        total = inputs[0] * weight[0]
        for number, x in enumerate(inputs[1:], start=1):
            total = total + x * weight[number] if total.numel() < x.numel() else total.add_(x * weight[number])
        return total

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        return tuple(sum_to(output * weight[number], shape) for number, shape in enumerate(shapes))


@dataclass(frozen=True, eq=False)
class AveragePool(WeightedOperation):
    """Average over windows. The coefficients of a window are equal, so the weight is the scalar 1.

    Attributes
    ----------
    kernel, stride : tuple of int
    padding : tuple of (int, int)
    ceil_mode, count_include_pad : bool
        As in PyTorch.
    divisor : int or None
        Instead of the window's size.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return self._pool(x) * weight

    def _pool(self, x: Tensor) -> Tensor:
        padding = tuple(before for before, _ in self.padding)
        if len(self.kernel) == 1:
            return F.avg_pool1d(x, self.kernel, self.stride, padding, self.ceil_mode, self.count_include_pad)
        pool = F.avg_pool2d if len(self.kernel) == 2 else F.avg_pool3d
        result: Tensor = pool(
            x, self.kernel, self.stride, padding, self.ceil_mode, self.count_include_pad, self.divisor
        )
        return result

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        # The map is linear, so autograd's product with its Jacobian is the transpose, with every border case.
        (result,) = linear_transpose(self._pool, output, shapes[0])
        return (result * weight,)


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(WeightedOperation):
    """Average over windows whose number is given."""

    size: tuple[int, ...]

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return self._pool(x) * weight

    def _pool(self, x: Tensor) -> Tensor:
        pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(self.size) - 1]
        result: Tensor = pool(x, self.size)
        return result

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        (result,) = linear_transpose(self._pool, output, shapes[0])
        return (result * weight,)


# -------------------------------------------------------------------------------------------------------- activations


@dataclass(frozen=True, eq=False)
class Activation(Operation):
    """A function of each element alone."""

    @property
    def needs_input(self) -> bool:
        """Whether the derivative follows from the input only; for monotone functions the output tells it, too."""
        return False

    @abstractmethod
    def derivative(self, values: Tensor) -> Tensor:
        """Derivative where the activation has this output (this input, if it :attr:`needs_input`)."""

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (gradient * self.derivative(inputs[0] if self.needs_input else output),)

    #: Whether it is a ReLU or a relative of it (LeakyReLU, ELU, …), at which guided backpropagation clamps.
    is_rectifier = False


@dataclass(frozen=True, eq=False)
class Softmax(Operation):
    """Softmax or its logarithm along one axis. LRP passes relevance through, as in the published code."""

    axis: int
    logarithm: bool = False

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return torch.log_softmax(x, self.axis) if self.logarithm else torch.softmax(x, self.axis)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        if self.logarithm:
            return (gradient - output.exp() * gradient.sum(self.axis, keepdim=True),)
        return (output * (gradient - (output * gradient).sum(self.axis, keepdim=True)),)


# ------------------------------------------------------------------------------------------------------------ routing


@dataclass(frozen=True, eq=False)
class MaxPool(Operation):
    """Maximum over windows; the winner takes all of the gradient or relevance.

    Attributes
    ----------
    kernel, stride, dilation : tuple of int
    padding : tuple of (int, int)
        Filled with −∞; the same before and after.
    ceil_mode : bool
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(self.kernel) - 1]
        padding = tuple(before for before, _ in self.padding)
        result: Tensor = pool(x, self.kernel, self.stride, padding, self.dilation, self.ceil_mode)
        return result

    def forward_with_winners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and, for each of its elements, the flat spatial index (int64) of the winner."""
        pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(self.kernel) - 1]
        padding = tuple(before for before, _ in self.padding)
        output, winners = pool(
            x, self.kernel, self.stride, padding, self.dilation, ceil_mode=self.ceil_mode, return_indices=True
        )
        return output, winners

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        (x,) = inputs
        _, winners = self.forward_with_winners(x)
        return (scatter_to_winners(gradient, winners, x.shape),)


def scatter_to_winners(values: Tensor, winners: Tensor, shape: torch.Size) -> Tensor:
    """Add each value to the element of its map that won it."""
    spatial = values.ndim - 2
    result = values.new_zeros(shape)
    result.flatten(-spatial).scatter_add_(-1, winners.flatten(-spatial), values.flatten(-spatial))
    return result


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """Another shape of the same elements (flatten, view, squeeze, ...); the batch axis stays."""

    shape: tuple[int, ...]

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.reshape(x.shape[0], *self.shape)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (gradient.reshape(inputs[0].shape),)


@dataclass(frozen=True, eq=False)
class Permute(Operation):
    """Another order of the axes; the batch axis stays first."""

    order: tuple[int, ...]

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.permute(self.order)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return (gradient.permute(inverse),)


@dataclass(frozen=True, eq=False)
class ZeroPad(Operation):
    """Zeros around (or, where negative, a cut off) the last axes; (before, after) per axis, last axis last."""

    padding: Padding

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return F.pad(x, pad_argument(self.padding))

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (F.pad(gradient, [-n for n in pad_argument(self.padding)]),)


@dataclass(frozen=True, eq=False)
class Concatenate(Operation):
    """Inputs one after the other along an axis."""

    axis: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.axis)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.split([x.shape[self.axis] for x in inputs], self.axis))


# ------------------------------------------------------------------------------------------------------------ helpers


def pad_argument(padding: Padding) -> list[int]:
    """(before, after) per axis in the order that :func:`torch.nn.functional.pad` wants: last axis first."""
    return [n for pair in reversed(padding) for n in pair]


def linear_transpose(function: Any, output: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """Transpose of a linear function, by autograd."""
    with torch.enable_grad():
        x = output.new_zeros(shape, requires_grad=True)
        return torch.autograd.grad(function(x), x, output)


def sum_to(values: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of broadcasting from this shape: sums over the axes that have size 1 in it."""
    axes = [axis for axis, (n, wanted) in enumerate(zip(values.shape, shape, strict=True)) if n != wanted]
    return values.sum(axes, keepdim=True) if axes else values


def _per_channel(weight: Tensor, x: Tensor) -> Tensor:
    return weight if weight.ndim == 0 else weight.reshape((-1,) + (1,) * (x.ndim - 2))
