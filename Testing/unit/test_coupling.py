"""What couples all positions through a few numbers: gates, norms and global pooling, followed without whole maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_networks import always_in_boxes, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.graph.recording import record
from ADAttributionLogic.incremental.boxes import Boxes
from ADAttributionLogic.incremental.coupling import Moments
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.occlusion.covering import cover_boxes


class Between(nn.Module):
    """A function between a convolution and a head."""

    def __init__(self, function: Callable[[Tensor], Tensor], head: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, channels, 3, padding=1)
        self.function, self.head = function, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.convolution(x)))


class Gate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.dense = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.dense(x.mean((2, 3, 4))))[:, :, None, None, None]


def z_score(x: Tensor) -> Tensor:
    axes = (1, 2, 3, 4)
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + 0.1)


def pooled() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))


def convolved() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv3d(4, 4, 3), pooled())


#: What couples; all of them only scale the maps, so that global pooling behind them needs no whole maps.
SCALING: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "squeeze and excitation": Gate,
    "two gates": lambda: nn.Sequential(Gate(), Gate()),
    "gate and batch norm": lambda: nn.Sequential(Gate(), nn.BatchNorm3d(4)),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm3d(4, affine=True),
    "gate, then group norm": lambda: nn.Sequential(Gate(), nn.GroupNorm(1, 4)),
    "group norm, then gate": lambda: nn.Sequential(nn.GroupNorm(4, 4), Gate()),
    "z-score": lambda: z_score,
    "mean taken off": lambda: lambda x: x - 0.5 * x.mean((2, 3, 4), keepdim=True),
    "sums": lambda: lambda x: x + 0.01 * x.sum((2, 3, 4), keepdim=True),
    "divided by the variance of each channel": lambda: lambda x: x / (1 + x.var((2, 3, 4), keepdim=True)),
}


def followed(network: nn.Module, x: Tensor, size: int = 3) -> tuple[Tensor, Tensor, IncrementalForward]:
    """Logits of windows by boxes and by the network itself, and the forward with its plan."""
    forward = IncrementalForward(record(explainable(network, x.shape[1:]).folded, x))
    lows = np.array([[0, 0, 0], [4, 3, 5], [6, 7, 5], [2, 2, 2]])
    highs = lows + size
    fill = torch.full((1, 1, 1, 1, 1), 0.3, dtype=x.dtype)
    found = torch.zeros(len(lows), 2, dtype=x.dtype)
    for numbers, logits in forward.run(lows, highs, cover_boxes(fill, lows, highs)):
        found[torch.from_numpy(numbers)] = logits
    rows = []
    for low, high in zip(lows, highs, strict=True):
        covered = x.clone()
        covered[(0, 0, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 0.3
        rows.append(network(covered).detach())
    return found, torch.cat(rows), forward


@pytest.mark.parametrize("head", [pooled, convolved])
@pytest.mark.parametrize("name", SCALING)
def test_windows_give_the_logits_of_full_passes(name: str, head: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x = image(1, 3, (9, 10, 8))
    network = make_lively(Between(SCALING[name](), head()))
    with always_in_boxes():
        found, expected, forward = followed(network, x)
        ways = forward.plan((3, 3, 3)).ways
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert "scaled" in ways.values()
    of_maps = [way for i, way in ways.items() if np.prod(forward.graph.layers[i].shape[1:]) > 1]
    assert ("whole" in of_maps) == (head is convolved), "without a convolution behind it, no whole map is made"


def test_in_single_precision_a_large_mean_costs_no_digits() -> None:
    """Variances are summed about the known mean in double precision: E[x²] − E[x]² would leave nothing of them."""
    torch.manual_seed(0)
    x = image(1, 3, (9, 10, 8))
    network = make_lively(Between(nn.InstanceNorm3d(4, affine=True), pooled()))
    with torch.no_grad():
        network.convolution.bias += 1000
    exact = followed(network, x)[1]
    with always_in_boxes():
        found, expected, _ = followed(network.float(), x.float())
    assert (found - exact).abs().max() <= 2 * (expected - exact).abs().max() + 1e-6


def test_moments_of_changed_groups() -> None:
    maps = image(6, 3, (4, 5, 3)) + 7
    changed = maps.clone()
    changed[:, :, 1:3, 2:4, :2] *= -3
    boxes = Boxes(np.array([[1, 2, 0]]), maps[:, :, 1:3, 2:4, :2], changed[:, :, 1:3, 2:4, :2])
    for groups in (1, 2, 6):
        found = Moments.of(maps).changed(boxes).of_groups(groups)
        of_group = changed.reshape(groups, -1)
        torch.testing.assert_close(found.mean[0], of_group.mean(1))
        torch.testing.assert_close(found.squares[0] / found.count, of_group.var(1, correction=0))


def test_a_gate_before_global_pooling_costs_what_its_box_costs() -> None:
    """Counted: a window takes a small part of a pass; in front of a convolution, most of it."""
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 64, 64, 64)
    works = []
    for head in (pooled, convolved):
        graph = explainable(Between(Gate(), head()).eval(), x.shape[1:]).folded
        forward = IncrementalForward(record(graph, x))
        works.append(float(forward.work(np.full((1, 3), 30), np.full((1, 3), 34))[0]))
    assert works[0] < 0.02 < 0.5 < works[1]
