"""Operations that choose among elements: positions along an axis, and maxima over whole axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ADAttributionLogic.graph.operations import Operation


@dataclass(frozen=True, eq=False)
class Take(Operation):
    """Elements along one axis by their positions: a slice, flip, roll, repetition, mirrored border, nearest neighbour.

    Attributes
    ----------
    axis : int
    index : Tensor, shape (n,), int64
        Which elements; one may be taken several times, and then gets the sum of what goes back.
    """

    axis: int
    index: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.index_select(self.axis, self.index)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros_like(inputs[0]).index_add_(self.axis, self.index, gradient),)


@dataclass(frozen=True, eq=False)
class MaxOver(Operation):
    """Maximum over whole axes, which remain with size 1; equal maxima share what goes back, as in ``torch.amax``."""

    axes: tuple[int, ...]

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.amax(self.axes, keepdim=True)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        winners = (inputs[0] == output).to(gradient.dtype)
        return (winners * (gradient / winners.sum(self.axes, keepdim=True)),)
