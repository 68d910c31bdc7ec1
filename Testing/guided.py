"""Activations at which negative gradients are dropped on the way back, by autograd: guided backpropagation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class GuidedFunction(torch.autograd.Function):
    """An activation at which negative gradients are dropped, as captum does for ReLU modules."""

    @staticmethod
    def forward(context: Any, x: Tensor, function: nn.Module) -> Tensor:
        with torch.enable_grad():
            context.x = x.detach().requires_grad_()
            context.y = function(context.x)
        return context.y.detach()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.autograd.grad(context.y, context.x, gradient)[0].clamp(min=0), None


class Guided(nn.Module):
    """The activation as a module."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return GuidedFunction.apply(x, self.function)


def with_guided(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """Replace the activations of these kinds, in place."""
    for name, child in module.named_children():
        if isinstance(child, kinds):
            child.inplace = False
            setattr(module, name, Guided(child))
        else:
            with_guided(child, kinds)
    return module
