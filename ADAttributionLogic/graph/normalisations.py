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
    is left is linear: :meth:`centred`, which is its own transpose, and :meth:`scale_of`.

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
    def centred(self, x: Tensor) -> Tensor:
        """`x` without its means."""

    @abstractmethod
    def scale_of(self, x: Tensor) -> Tensor:
        """The weight divided by the deviations of `x`, in a shape that broadcasts over it."""

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

    def centred(self, x: Tensor) -> Tensor:
        if self.is_by_map:
            return replace(self, is_by_map=False).centred(x.flatten(0, 1)).view_as(x)
        by_group = x.reshape(len(x), self.groups, -1)
        return (by_group - by_group.mean(2, keepdim=True)).reshape(x.shape)

    def scale_of(self, x: Tensor) -> Tensor:
        if self.is_by_map:
            scale = replace(self, is_by_map=False).scale_of(x.flatten(0, 1))
            return scale.reshape(*x.shape[:2], *scale.shape[1:])
        factor = _factor_of(self.centred(x).reshape(len(x), self.groups, -1), (2,), self.epsilon)
        of_channels = factor.repeat_interleave(x.shape[1] // self.groups, 1).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        return of_channels if self.weight is None else of_channels * self.weight.reshape(-1, *(1,) * (x.ndim - 2))


@dataclass(frozen=True, eq=False)
class LayerNorm(Normalisation):
    """Over the last axes, of this shape."""

    shape: tuple[int, ...]

    def normalise(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.shape), 0))

    def centred(self, x: Tensor) -> Tensor:
        return x - x.mean(self._axes, keepdim=True)

    def scale_of(self, x: Tensor) -> Tensor:
        factor = _factor_of(self.centred(x), self._axes, self.epsilon)
        return factor if self.weight is None else factor * self.weight


def _factor_of(centred: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    # torch's var takes thirty times as long along a short last axis.
    return torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)


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
