"""Sums over axes, constants that differ from place to place, and products of two layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ADAttributionLogic.graph.operations import Operation, WeightedOperation, sum_to


@dataclass(frozen=True, eq=False)
class SumOver(WeightedOperation):
    """Sum over whole axes, which remain with size 1, times the scalar weight (1/n for a mean)."""

    axes: tuple[int, ...]

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return x.sum(self.axes, keepdim=True) * weight

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        return ((output * weight).expand(shapes[0]),)


@dataclass(frozen=True, eq=False)
class PlacewiseAffine(WeightedOperation):
    """Multiplication by a constant image and addition of one (normalisation inside the network, position codes).

    Attributes
    ----------
    weight, bias : Tensor
        As :class:`~.operations.Affine`'s, or of a shape (1, C, …) that broadcasts over the input.
    """

    one_to_one = True

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return x * weight

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x + self.bias if self.bias is not None and _is_one(self.weight) else super().forward(x)

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        return (output if _is_one(weight) else output * weight,)

    def shaped_bias(self, output: Tensor) -> Tensor | None:
        return self.bias


def _is_one(weight: Tensor) -> bool:
    """Whether a multiplication changes nothing (of a GPU's memory, to look would take longer)."""
    return weight.ndim == 0 and weight.device.type == "cpu" and float(weight) == 1.0


@dataclass(frozen=True, eq=False)
class Product(Operation):
    """Product of two layers, one of which may be broadcast over the other (a gate)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        first, second = inputs
        return first * second

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        first, second = inputs
        return sum_to(gradient * second, first.shape), sum_to(gradient * first, second.shape)


@dataclass(frozen=True, eq=False)
class Quotient(Product):
    """One layer divided by another, which may be broadcast (a deviation)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        first, second = inputs
        return first / second

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        first, second = inputs
        by_divisor = gradient * -first / (second * second)
        return sum_to(gradient / second, first.shape), sum_to(by_divisor, second.shape)
