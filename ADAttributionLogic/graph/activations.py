"""Functions of each element alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph.indicators import ones_where_positive
from ADAttributionLogic.graph.operations import Activation


@dataclass(frozen=True, eq=False)
class ReLU(Activation):
    """max(0, x), optionally capped from above (ReLU6)."""

    cap: float = math.inf
    is_rectifier = True

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return F.relu(x) if math.isinf(self.cap) else x.clamp(0, self.cap)

    def derivative(self, output: Tensor) -> Tensor:
        active = ones_where_positive(output)
        return active if math.isinf(self.cap) else active * ones_where_positive(self.cap - output)


@dataclass(frozen=True, eq=False)
class LeakyReLU(Activation):
    """x for x > 0, slope·x below."""

    slope: float = 0.01
    is_rectifier = True

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return F.leaky_relu(x, self.slope)

    @property
    def needs_input(self) -> bool:
        """With a negative slope, outputs are positive on both sides."""
        return self.slope < 0

    def derivative(self, values: Tensor) -> Tensor:
        active = ones_where_positive(values)
        return active + self.slope * (1 - active)


@dataclass(frozen=True, eq=False)
class ELU(Activation):
    """Exponential linear unit: scale·x for x > 0, scale·alpha·(exp(input_scale·x) − 1) below."""

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0
    is_rectifier = True

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        result: Tensor = torch.ops.aten.elu(x, self.alpha, self.scale, self.input_scale)
        return result

    @property
    def needs_input(self) -> bool:
        """With a negative factor, the output's sign is not the input's."""
        return min(self.alpha, self.scale, self.input_scale) < 0

    def derivative(self, values: Tensor) -> Tensor:
        if self.needs_input:
            below = self.alpha * self.scale * self.input_scale * torch.exp(self.input_scale * values.clamp(max=0))
        else:
            below = (values + self.alpha * self.scale) * self.input_scale
        active = ones_where_positive(values)
        return self.scale * active + below * (1 - active)


@dataclass(frozen=True, eq=False)
class Sigmoid(Activation):
    """1 / (1 + exp(−x))."""

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return torch.sigmoid(x)

    def derivative(self, output: Tensor) -> Tensor:
        return output * (1 - output)


@dataclass(frozen=True, eq=False)
class Tanh(Activation):
    """Hyperbolic tangent."""

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return torch.tanh(x)

    def derivative(self, output: Tensor) -> Tensor:
        return 1 - output * output


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
        active = ones_where_positive(values)
        return active + slope * (1 - active)
