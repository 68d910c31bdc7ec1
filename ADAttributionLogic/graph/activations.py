"""Activations whose derivative is a function of their input, not of their output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph.operations import Activation


@dataclass(frozen=True, eq=False)
class Curve(Activation):
    """A function of each element that is not monotone, or whose slope its output does not tell (GELU, SiLU, …).

    Attributes
    ----------
    name : str
    function : callable
        Element by element.
    """

    name: str
    function: Callable[[Tensor], Tensor] = field(repr=False)
    needs_input = True

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return self.function(x)

    def derivative(self, values: Tensor) -> Tensor:
        with torch.enable_grad():
            x = values.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.function(x).sum(), x)
        return slope

    def describe(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Clamp(Activation):
    """The nearest value between two bounds; at a bound the derivative is 1, as in ``torch.clamp``."""

    low: float
    high: float
    needs_input = True

    @property
    def is_rectifier(self) -> bool:  # type: ignore[override]
        """Whether it does what a ReLU does."""
        return self.low == 0

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.clamp(self.low, self.high)

    def derivative(self, values: Tensor) -> Tensor:
        return ((values >= self.low) & (values <= self.high)).to(values.dtype)


@dataclass(frozen=True, eq=False)
class PReLU(Activation):
    """x for x > 0, slope·x below; one slope for all channels, or one each."""

    slope: Tensor
    needs_input = True
    is_rectifier = True

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return F.prelu(x, self.slope)

    def derivative(self, values: Tensor) -> Tensor:
        slope = self.slope.reshape((-1,) + (1,) * (values.ndim - 2))
        return torch.where(values > 0, torch.ones_like(values), slope.expand_as(values))
