"""Weighted operations that make maps larger: linear interpolation and transposed convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph.operations import WeightedOperation, linear_transpose


@dataclass(frozen=True, eq=False)
class LinearUpsampling(WeightedOperation):
    """Linear interpolation between places; the weight is the scalar 1.

    Attributes
    ----------
    size : tuple of int or None
        Of the result; None where `factors` say it.
    factors : tuple of float or None
    align_corners : bool
        As in PyTorch.
    """

    size: tuple[int, ...] | None
    factors: tuple[float, ...] | None
    align_corners: bool

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return self._enlarge(x) * weight

    def _enlarge(self, x: Tensor) -> Tensor:
        mode = ("linear", "bilinear", "trilinear")[x.ndim - 3]
        return F.interpolate(x, self.size, self.factors, mode, self.align_corners)

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        (result,) = linear_transpose(self._enlarge, output, shapes[0])
        return (result * weight,)


@dataclass(frozen=True, eq=False)
class TransposedConvolution(WeightedOperation):
    """Transposed convolution; its weight has the input's channels first.

    Attributes
    ----------
    stride, padding, output_padding, dilation : tuple of int
        Per spatial axis, as in PyTorch.
    groups : int
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(self.stride) - 1]
        result: Tensor = transposed(
            x, weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )
        return result

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.stride) - 1]
        return (convolve(output, weight, None, self.stride, self.padding, self.dilation, self.groups),)
