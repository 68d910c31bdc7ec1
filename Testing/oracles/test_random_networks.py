"""No random network is silently wrong: 60 here, 500 and more at night (``make fuzz``, :mod:`Testing.fuzz.networks`)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from random_networks import HEADS, OPERATIONS, RARE, Drawn, Shape, faults, networks, refusal
from small_networks import make_lively
from torch import nn


@given(networks())
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_random_network_is_silently_wrong(drawn: Drawn) -> None:
    """Refused is only what holds an operation that need not be known."""
    refused = refusal(drawn)
    if refused:
        assert set(drawn.names) & set(RARE), refused
        assert refused.startswith("Operation aten."), "by its name"
    else:
        assert faults(drawn) == [], drawn.names


#: What the networks of the field need, and which operations here are that, in the forms in which it is written.
NEEDED = {
    "product of two tensors": ["product", "squeeze and excitation", "own sigmoid gate", "gate of tokens", "GLU"],
    "group, instance and layer norm": ["group norm", "instance norm, affine", "layer norm of the last axis"],
    "GELU, SiLU, Hardswish, Softplus, Mish, PReLU": ["GELU", "SiLU", "Hardswish", "Softplus", "Mish", "PReLU"],
    "products of matrices": ["attention", "attention, bmm", "attention, einsum", "attention, pooled keys"],
    "scaled dot-product attention": ["attention, fused", "attention, fused, closed places", "MultiheadAttention"],
    "transposed convolution": ["transposed convolution", "grouped transposed convolution"],
    "upsampling": ["nearest upsampling", "linear upsampling", "linear upsampling, aligned"],
    "adaptive pooling to any size": ["adaptive average pool to 4", "adaptive max pool", "adaptive max pool to 3"],
    "max pooling": ["max pool, padded, ceil", "dilated max pool", "overlapping max pool"],
    "padding": ["wrapped border", "mirrored border", "wrapping convolution", "mirroring convolution"],
    "choosing": ["crop", "split", "chunk", "select", "stack", "flip", "roll", "expand", "every second", "narrow"],
    "statistics over any axes": ["mean of two axes", "variance of an axis", "deviation of two axes"],
    "position tokens, class token": ["attention, fused, biased", "attention, class token", "attention, turned"],
}


def test_what_the_field_needs_is_among_the_operations() -> None:
    assert not {name for names in NEEDED.values() for name in names} - set(OPERATIONS)


NAMES = sorted(OPERATIONS)


@pytest.mark.parametrize("names", [NAMES[i::25] for i in range(25)], ids=", ".join)
def test_every_operation(names: list[str]) -> None:
    """Each one at least once, between convolutions."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    layers: list[nn.Module] = []
    value = x
    for name in names:
        before = nn.Conv2d(value.shape[1], 4, 3, padding=2 if value[0, 0].numel() < 120 else 0).double()
        value = before(value).detach()
        operation = OPERATIONS[name](Shape(4, tuple(value.shape[2:]))).double().eval()
        layers += [before, operation]
        value = operation(value.clone()).detach()
    head = HEADS["flatten, dense"](Shape(value.shape[1], tuple(value.shape[2:])))
    network = make_lively(nn.Sequential(*layers, head))
    assert faults(Drawn((*names, "flatten, dense"), network, x)) == []
