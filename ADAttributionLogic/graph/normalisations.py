"""Normalisation by the statistics of the image itself: group, instance and layer normalisation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph.operations import Operation


@dataclass(frozen=True, eq=False)
class Normalisation(Operation):
    """Subtraction of a mean and division by a deviation that the activations themselves have.

    Most presets of LRP pass relevance through unchanged: by the centred values, which lie around 0, it could be
    enlarged without bound. AttnLRP (Achtibat et al. 2024, arXiv:2402.05602) holds the deviation constant, so that what
    is left is linear: :meth:`scale_as`.

    Attributes
    ----------
    weight, bias : Tensor or None
        Multiplied with and added to the result.
    epsilon : float
        Added to the variance.
    """

    weight: Tensor | None
    bias: Tensor | None
    epsilon: float

    @abstractmethod
    def normalise(self, x: Tensor) -> Tensor:
        """Compute the output."""

    @abstractmethod
    def scale_as(self, x: Tensor, values: Tensor) -> Tensor:
        """Centre `values`, divide them by the deviation of `x` and multiply by the weight: linear in `values`."""

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return self.normalise(x)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x = inputs[0].detach().requires_grad_(True)
            return torch.autograd.grad(self.normalise(x), x, gradient)


@dataclass(frozen=True, eq=False)
class GroupNorm(Normalisation):
    """By groups of channels; each channel alone is instance normalisation.

    Attributes
    ----------
    groups : int
    is_by_map : bool
        Whether the first axis behind the batch axis is one of several maps, each of which is normalised on its own.
    """

    groups: int
    is_by_map: bool = False

    def normalise(self, x: Tensor) -> Tensor:
        if self.is_by_map:
            return replace(self, is_by_map=False).normalise(x.flatten(0, 1)).view_as(x)
        return F.group_norm(x, self.groups, self.weight, self.bias, self.epsilon)

    def scale_as(self, x: Tensor, values: Tensor) -> Tensor:
        if self.is_by_map:
            one = replace(self, is_by_map=False)
            return one.scale_as(x.flatten(0, 1), values.flatten(0, 1)).view_as(x)
        shape = (len(x), self.groups, -1)
        scaled = _scale_as(x.reshape(shape), values.reshape(shape), (2,), self.epsilon).reshape(x.shape)
        return scaled if self.weight is None else scaled * self.weight.reshape(-1, *(1,) * (x.ndim - 2))


@dataclass(frozen=True, eq=False)
class LayerNorm(Normalisation):
    """Over the last axes, of this shape."""

    shape: tuple[int, ...]

    def normalise(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon)

    def scale_as(self, x: Tensor, values: Tensor) -> Tensor:
        axes = tuple(range(-len(self.shape), 0))
        scaled = _scale_as(x, values, axes, self.epsilon)
        return scaled if self.weight is None else scaled * self.weight


def _scale_as(x: Tensor, values: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    factor = torch.rsqrt(x.var(axes, correction=0, keepdim=True) + epsilon)
    return (values - values.mean(axes, keepdim=True)) * factor


@dataclass(frozen=True, eq=False)
class Variance(Operation):
    """Variance over whole axes, which remain with size 1.

    Attributes
    ----------
    axes : tuple of int
    correction : float
        Subtracted from the number of elements.
    """

    axes: tuple[int, ...]
    correction: float

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.var(self.axes, correction=self.correction, keepdim=True)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        (x,) = inputs
        centred = x - x.mean(self.axes, keepdim=True)
        count = x.numel() / output.numel()
        return (gradient * centred * (2 / (count - self.correction)),)
