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


NAMES = sorted(OPERATIONS)


@pytest.mark.parametrize("names", [NAMES[i::25] for i in range(25)], ids=", ".join)
def test_every_operation(names: list[str]) -> None:
    """Each one at least once, between convolutions."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    layers: list[nn.Module] = []
    value = x
    for name in names:
        before = nn.Conv2d(value.shape[1], 4, 3, padding=2).double()
        value = before(value).detach()
        operation = OPERATIONS[name](Shape(4, tuple(value.shape[2:]))).double().eval()
        layers += [before, operation]
        value = operation(value.clone()).detach()
    head = HEADS["flatten, dense"](Shape(value.shape[1], tuple(value.shape[2:])))
    network = make_lively(nn.Sequential(*layers, head))
    assert faults(Drawn((*names, "flatten, dense"), network, x)) == []
