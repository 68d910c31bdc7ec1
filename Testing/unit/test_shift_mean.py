"""The mean of maps over shifts: what it is made of, what it conserves and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import PublishedStyle, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute, get_method
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.attribution.shift_mean import _moved, _moved_back
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import Cancelled
from ADAttributionLogic.method_cost import forward_passes
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import Network, explainable

CPU = torch.device("cpu")
SIZE = (20, 19, 18)


def network_of(dimensions: int) -> Network:
    torch.manual_seed(dimensions)
    return explainable(make_lively(PublishedStyle(dimensions)), (1, *SIZE[:dimensions]))


def inside(x: Tensor) -> Tensor:
    """With a background of two voxels all around."""
    framed = torch.zeros_like(x)
    cut = (..., *(slice(2, -2) for _ in x.shape[2:]))
    framed[cut] = x[cut]
    return framed


def explained(network: Network, x: Tensor, reference: Tensor, method: str, **options: object) -> Attribution:
    asked = {"rule": "gamma", **options} if method == "deeplift" else options
    return attribute(Evaluation(network, x, CPU), method, Target(1), asked, companions=Companions(reference=reference))


@pytest.mark.parametrize("method", ["lrp", "deeplift"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_it_is_the_mean_of_the_maps_of_moved_scans_moved_back(method: str, dimensions: int) -> None:
    network, x = network_of(dimensions), inside(image(1, dimensions, SIZE))
    reference = inside(x.flip(-1) / 2)
    found = explained(network, x, reference, method, shifted=True)
    single = [explained(network, x, reference, method)]
    maps = [single[0].heatmap]
    for axis in range(dimensions):
        for step in (-1, 1):
            moved, with_it = (each.roll(step, axis + 2) for each in (x, reference))
            single.append(explained(network, moved, with_it, method))
            maps.append(np.roll(single[-1].heatmap, -step, axis))
    np.testing.assert_allclose(found.heatmap, np.mean(maps, axis=0), rtol=0, atol=1e-12 * np.abs(maps[0]).max())
    assert np.abs(found.heatmap - maps[0]).max() > 1e-3 * np.abs(maps[0]).max()
    assert found.to_attribute == pytest.approx(np.mean([one.to_attribute for one in single]), rel=1e-12)
    assert found.score == single[0].score and f"Mean of {len(maps)} maps" in found.notes[-1]
    assert found.relevance_by_layer is not None and found.conservation is not None
    for name, received in found.relevance_by_layer.items():
        of_each = [(one.relevance_by_layer or {})[name] for one in single]
        assert received == pytest.approx(np.mean(of_each), rel=1e-9, abs=1e-12)
    for line in found.conservation:
        assert line.received - line.passed_on == pytest.approx(sum(line.kept.values()), rel=1e-9, abs=1e-12)


def test_where_the_scan_reaches_the_border_nothing_of_the_relevance_is_lost() -> None:
    """What is moved out of the scan gives nothing, and what enters belongs to the border that it was copied from."""
    torch.manual_seed(1)
    layers = (
        nn.Conv2d(1, 4, 3, 2, 1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(100, 2, bias=False),
    )
    without_biases, x = nn.Sequential(*layers).double(), image(1, 2, SIZE)
    network = explainable(without_biases, x.shape[1:])
    plain, found = (explained(network, x, x / 3, "deeplift", shifted=shifted) for shifted in (False, True))
    for result in (plain, found):
        assert result.relevance_sum == pytest.approx(result.to_attribute, rel=1e-4)


@pytest.mark.parametrize("step", [-1, 1])
def test_moving_back_is_the_adjoint_of_moving(step: int) -> None:
    x, y = torch.rand(2, 3, 4, 5, dtype=torch.float64).unbind()
    for axis in range(3):
        torch.testing.assert_close((_moved(x, axis, step) * y).sum(), (x * _moved_back(y, axis, step)).sum())
        inner = _moved(x, axis, step).narrow(axis, 1, x.shape[axis] - 2)
        assert torch.equal(inner, x.roll(step, axis).narrow(axis, 1, x.shape[axis] - 2))


def test_all_maps_are_of_the_class_that_the_scan_as_it_is_has() -> None:
    """Of a network that finds the other class in every scan that moved: there is nothing of the first in them."""
    place = (3, 4)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False)).double()
    with torch.no_grad():
        weights = network[1].weight.view(2, 8, 8)
        weights[0], weights[1] = 0.0, 2.0
        weights[(0, *place)], weights[(1, *place)] = 1.0, 0.0
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    x[(0, 0, *place)] = 3
    evaluation = Evaluation(explainable(network, (1, 8, 8)), x, CPU)
    found = attribute(evaluation, "lrp", Target(start="logit"), {"shifted": True, "rule": "e-rule"})
    expected = np.zeros((8, 8))
    expected[place] = 3 / 5
    assert found.class_index == 0
    np.testing.assert_allclose(found.heatmap, expected, rtol=1e-5)


def test_it_costs_as_many_maps_as_there_are_places_and_says_so_beforehand() -> None:
    for name, dimensions, times in (("lrp", 3, 7), ("deeplift", 2, 5)):
        method = get_method(name)
        once, all_places = (
            forward_passes(method, method.complete({"shifted": on}), SIZE[:dimensions], 0) for on in (False, True)
        )
        assert all_places == times * once


def test_progress_goes_from_place_to_place_and_cancelling_ends_it() -> None:
    network, x = network_of(2), inside(image(1, 2, SIZE))
    told: list[float] = []
    monitor = Monitor(lambda part, text: told.append(part), lambda: len(told) > 4)
    with pytest.raises(Cancelled):
        attribute(
            Evaluation(network, x, CPU, monitor), "deeplift", Target(1), {"shifted": True, "baseline": "zero"},
            monitor=monitor,
        )  # fmt: skip
    assert told == sorted(told) and 0.4 < told[-1] < 1
