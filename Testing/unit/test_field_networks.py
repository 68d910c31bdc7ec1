"""The networks of the field that tests and benchmarks use, and windows followed through them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from field_networks import SFCN, SHAPE_2MM, DenseNet121, ResNet18, field_network, settle
from small_networks import image, make_lively
from torch import nn

from ADAttributionLogic.graph.recording import record
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.occlusion.covering import WORTH_FOLLOWING, cover_boxes, mean_work


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_they_are_as_large_as_published() -> None:
    """ResNet-18 and DenseNet-121 as built by MONAI 1.6 for one channel and two classes; SFCN: about 3.0 million."""
    assert parameters(ResNet18()) == 33_161_922
    assert parameters(DenseNet121()) == 11_244_674
    assert parameters(SFCN(40, (160, 192, 160))) == 2_952_936


SMALL = {
    "resnet18": lambda: ResNet18(planes=(4, 6, 8), blocks=(2, 1, 1)),
    "densenet121": lambda: DenseNet121(first=6, growth=4, blocks=(3, 3, 2)),
    "sfcn": lambda: SFCN(shape=(40, 44, 38), channels=(4, 6, 8, 8, 5)),
}


@pytest.mark.parametrize("name", SMALL)
def test_windows_followed_through_them_give_the_logits_of_full_passes(name: str) -> None:
    """In double precision to 1e-9: boxes, joined channels, and whole maps behind them."""
    torch.manual_seed(0)
    x = image(1, 3, (40, 44, 38)) * 0.5 + 1
    network = make_lively(settle(SMALL[name](), x.float()))
    graph = explainable(network, x.shape[1:]).folded
    forward = IncrementalForward(record(graph, x))
    lows = np.array([[0, 0, 0], [36, 40, 34], [17, 21, 5], [18, 20, 19], [30, 2, 11]])
    highs = lows + 4
    ways = set()
    for size in (4, 1):
        highs = lows + size
        plan = forward.plan((size,) * 3)
        ways |= {"boxes"} if plan.steps else set()
        ways |= {"whole"} if plan.deep else set()
        found = torch.zeros(len(lows), 2, dtype=x.dtype)
        for numbers, logits in forward.run(lows, highs, cover_boxes(torch.zeros(1, 1, 1, 1, 1).double(), lows, highs)):
            found[torch.from_numpy(numbers)] = logits
        for row, low, high in zip(found, lows, highs, strict=True):
            covered = x.clone()
            covered[(0, 0, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 0
            with torch.no_grad():
                expected = network(covered)[0]
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
    assert ways == {"boxes", "whole"}, "both ways were taken"


def test_windows_give_the_same_bits_again() -> None:
    """Which way a window goes follows from counts of operations, not from the clock."""
    torch.manual_seed(0)
    x = image(1, 3, (40, 44, 38)) * 0.5 + 1
    graph = explainable(make_lively(settle(SMALL["densenet121"](), x.float())), x.shape[1:]).folded
    lows = np.array([[3, 4, 5], [17, 21, 5], [18, 20, 19]])
    runs = []
    for _ in range(2):
        forward = IncrementalForward(record(graph, x))
        cover = cover_boxes(torch.zeros(1, 1, 1, 1, 1).double(), lows, lows + 3)
        runs.append([(numbers.tolist(), logits) for numbers, logits in forward.run(lows, lows + 3, cover)])
    for (numbers, logits), (same_numbers, same_logits) in zip(*runs, strict=True):
        assert numbers == same_numbers and torch.equal(logits, same_logits)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "at_most"), [("resnet18", 0.2), ("densenet121", 0.5), ("sfcn", 0.1)])
def test_windows_of_8_at_2_mm(name: str, at_most: float) -> None:
    """Counted work, and the logits of full passes in single precision."""
    network = field_network(name)
    x = torch.rand(1, 1, *SHAPE_2MM, generator=torch.Generator().manual_seed(1))
    graph = explainable(network, x.shape[1:]).folded
    lows = np.array([[44, 52, 40], [10, 70, 30]])
    assert mean_work(graph, lows, lows + 8, 1 << 30) < min(at_most, WORTH_FOLLOWING)
    forward = IncrementalForward(record(graph, x))
    cover = cover_boxes(torch.zeros(1, 1, 1, 1, 1), lows, lows + 8)
    for numbers, logits in forward.run(lows, lows + 8, cover):
        for number, row in zip(numbers, logits, strict=True):
            covered = x.clone()
            covered[(0, 0, *(slice(a, a + 8) for a in lows[number]))] = 0
            with torch.no_grad():
                expected = torch.softmax(network(covered)[0], 0)
            torch.testing.assert_close(torch.softmax(row, 0), expected, rtol=0, atol=1e-5)
