"""Products of matrices that both come from the image: queries with keys, and what attention chooses with values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ADAttributionLogic.graph.operations import Operation, WeightedOperation, sum_to


@dataclass(frozen=True, eq=False)
class MatrixProduct(Operation):
    """Matrix product of two layers over their last two axes; the axes before are the same, or have size 1."""

    def forward(self, *inputs: Tensor) -> Tensor:
        first, second = inputs
        return torch.matmul(first, second)

    def gradient(self, gradient: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
        first, second = inputs
        return (
            sum_to(torch.matmul(gradient, second.mT), first.shape),
            sum_to(torch.matmul(first.mT, gradient), second.shape),
        )

    def describe(self) -> str:
        return "Matrix product"


@dataclass(frozen=True, eq=False)
class DenseByGroup(WeightedOperation):
    """A dense layer of its own for each group (head, position): ``x @ weight`` with axes before the last two."""

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return torch.matmul(x, weight)

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        return (sum_to(torch.matmul(output, weight.mT), shapes[0]),)

    def shaped_bias(self, output: Tensor) -> Tensor | None:
        return self.bias
