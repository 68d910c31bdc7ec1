"""Following what a window changes gives the logits of full forward passes: every operation, border and size."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import EveryOperation, PublishedStyle, always_in_boxes, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.architectures.catalogue import ICBM152_SHAPE, build_network, initialise
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import MaxPool
from ADAttributionLogic.graph.recording import record
from ADAttributionLogic.incremental.boxes import convolve_alone, paste
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.incremental.planning import fractions_of_a_pass, plan_within
from ADAttributionLogic.incremental.reach import Reach, reach_of
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.occlusion.covering import cover_boxes


def graph_of(network: nn.Module, x: Tensor) -> LayerGraph:
    return explainable(network, x.shape[1:]).folded.to("cpu", x.dtype)


def incremental(graph: LayerGraph, x: Tensor, max_memory: int = 1 << 30) -> IncrementalForward:
    return IncrementalForward(record(graph, x), max_memory)


def windows(shape: tuple[int, ...], size: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows from before the first voxel to behind the last, clipped to the image."""
    starts = np.array(list(itertools.product(*(range(-(size // 2), n, stride) for n in shape))))
    lows, highs = np.clip(starts, 0, None), np.minimum(starts + size, shape)
    kept = (highs > lows).all(1)
    return lows[kept], highs[kept]


def logits_of_all(found: IncrementalForward, lows: np.ndarray, highs: np.ndarray, fill: Tensor) -> Tensor:
    logits = torch.full((len(lows), found.graph.layers[-1].shape[0]), torch.nan, dtype=fill.dtype)
    for numbers, values in found.run(lows, highs, cover_boxes(fill, lows, highs)):
        assert torch.isnan(logits[torch.from_numpy(numbers)]).all(), "every window comes once"
        logits[torch.from_numpy(numbers)] = values
    return logits


def logits_in_full(graph: LayerGraph, x: Tensor, low: np.ndarray, high: np.ndarray, fill: Tensor) -> Tensor:
    covered = x.clone()
    here = (slice(None), slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
    covered[here] = fill.expand_as(x)[here]
    return graph.logits(covered)[0]


def assert_equal_to_full_passes(
    network: nn.Module, x: Tensor, size: int, stride: int, fill: Tensor, checked: int = 25
) -> None:
    graph = graph_of(network, x)
    lows, highs = windows(tuple(x.shape[2:]), size, stride)
    planned = logits_of_all(incremental(graph, x), lows, highs, fill)
    with always_in_boxes():
        boxed = logits_of_all(incremental(graph, x), lows, highs, fill)
    chosen = np.random.default_rng(0).permutation(len(lows))[:checked]
    for number in {0, len(lows) - 1, *chosen.tolist()}:
        expected = logits_in_full(graph, x, lows[number], highs[number], fill)
        scale = float(expected.abs().max())
        torch.testing.assert_close(planned[number], expected, rtol=0, atol=1e-9 * scale)
        torch.testing.assert_close(boxed[number], expected, rtol=0, atol=1e-9 * scale)


# ------------------------------------------------------------------------------------------------------------- geometry


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 6),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    data=st.data(),
)
def test_affected_outputs_are_those_that_read_a_changed_input(
    size: int, kernel: int, stride: int, padding: int, dilation: int, data: st.DataObject
) -> None:
    reach = Reach((kernel,), (stride,), (padding,), (dilation,))
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if outputs < 1:
        return
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, size - 1))
    reading = [
        o for o in range(outputs) if any(first <= o * stride - padding + dilation * t <= last for t in range(kernel))
    ]
    low, high = reach.affected(np.array([[first]]), np.array([[last]]), (outputs,))
    assert 0 <= low[0, 0] <= high[0, 0] < outputs
    assert not reading or (low[0, 0] <= reading[0] and reading[-1] <= high[0, 0])
    if reading and dilation == 1:
        assert (low[0, 0], high[0, 0]) == (reading[0], reading[-1]), "and no others, without gaps in the kernel"
    assert high[0, 0] - low[0, 0] + 1 <= reach.most_affected(np.array([last - first + 1]), (outputs,))[0]
    start, needed = reach.needed_from(low[0]), reach.needed(high[0] - low[0] + 1)
    assert start[0] == low[0, 0] * stride - padding
    assert start[0] + needed[0] - 1 == high[0, 0] * stride - padding + dilation * (kernel - 1)


@settings(max_examples=60, deadline=None)
@given(target=st.integers(1, 6), box=st.integers(1, 6), offsets=st.lists(st.integers(-7, 7), min_size=1, max_size=5))
def test_boxes_are_pasted_where_they_belong(target: int, box: int, offsets: list[int]) -> None:
    into, boxes = torch.zeros(len(offsets), 2, target), torch.rand(len(offsets), 2, box) + 1
    paste(into, boxes, np.array(offsets)[:, None], add=False)
    again = into.clone()
    paste(again, boxes, np.array(offsets)[:, None], add=True)
    torch.testing.assert_close(again, 2 * into)
    for row, offset in enumerate(offsets):
        for place in range(target):
            inside = 0 <= place - offset < box
            assert (into[row, :, place] == (boxes[row, :, place - offset] if inside else 0)).all()


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (2, 3)])
def test_the_convolution_of_a_change_alone(dimensions: int, kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, *(kernel,) * dimensions, dtype=torch.float64)
    ones = (1,) * dimensions
    reach = dilation * (kernel - 1)
    operation = Convolution(weight, None, ones, ((reach, reach),) * dimensions, (dilation,) * dimensions, 1)
    x = torch.randn(6, 4, *(3, 2, 4)[:dimensions], dtype=torch.float64)
    unpadded = replace(operation, padding=((0, 0),) * dimensions)
    torch.testing.assert_close(convolve_alone(unpadded, weight, x), operation.forward(x), rtol=1e-12, atol=1e-12)


def test_which_operations_couple_all_positions() -> None:
    assert reach_of(MaxPool((2, 2), (2, 2), ((0, 0),) * 2, (1, 1)), 2) is not None
    assert reach_of(MaxPool((2,), (2,), ((0, 0),), (1,)), 2) is None


# ------------------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize(("size", "stride"), [(5, 4), (1, 5), (3, 8), (40, 25)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_every_operation(dimensions: int, size: int, stride: int) -> None:
    """Strides, dilation, groups, 'same', residual add, concat, overlapping and padded pools, ceil mode, averages."""
    torch.manual_seed(dimensions)
    x = image(2, dimensions)
    stride = max(stride, 6) if dimensions == 3 else stride
    fill = torch.zeros(1, 2, *(1,) * dimensions, dtype=torch.float64)
    assert_equal_to_full_passes(make_lively(EveryOperation(dimensions)), x, size, stride, fill)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_an_image_as_fill(dimensions: int) -> None:
    torch.manual_seed(dimensions)
    network, x = make_lively(PublishedStyle(dimensions)), image(1, dimensions, (20, 20, 20))
    assert_equal_to_full_passes(network, x, 4, 5, image(1, dimensions, (20, 20, 20), seed=9))


LAYERS = st.lists(
    st.one_of(
        st.tuples(st.just("convolution"), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)),
        st.tuples(st.just("max"), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.booleans()),
        st.tuples(st.just("average"), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans()),
        st.tuples(st.just("relu")),
        st.tuples(st.just("norm")),
    ),
    min_size=1,
    max_size=5,
)


def network_of(layers: list[tuple], dimensions: int, shape: tuple[int, ...]) -> nn.Module | None:
    """A network of these layers, or None if nothing is left of the image."""
    d = dimensions - 1
    modules: list[nn.Module] = []
    for kind, *s in layers:
        if kind == "convolution":
            conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d]
            modules.append(conv(2, 2, s[0], stride=s[1], padding=s[2], dilation=s[3]))
        elif kind == "max":
            pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[d]
            modules.append(pool(s[0], s[1], padding=s[0] // 2 if s[2] else 0, ceil_mode=s[3]))
        elif kind == "average":
            pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[d]
            modules.append(pool(s[0], s[1], padding=s[0] // 2 if s[2] else 0, ceil_mode=s[3], count_include_pad=s[2]))
        else:
            modules.append(nn.ReLU() if kind == "relu" else (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d](2))
    body = make_lively(nn.Sequential(*modules))
    try:
        with torch.no_grad():
            features = body(torch.zeros(1, 2, *shape, dtype=torch.float64)).numel()
    except RuntimeError:
        return None
    return make_lively(nn.Sequential(body, nn.Flatten(), nn.Linear(features, 3))) if features else None


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    layers=LAYERS,
    shape=st.lists(st.integers(5, 13), min_size=1, max_size=2),
    size=st.integers(1, 9),
    stride=st.integers(1, 12),
)
def test_any_stack_of_layers_and_any_windows(layers: list[tuple], shape: list[int], size: int, stride: int) -> None:
    torch.manual_seed(0)
    network = network_of(layers, len(shape), tuple(shape))
    if network is None:
        return
    x = image(2, len(shape), tuple(shape))
    fill = torch.full((1, 2) + (1,) * len(shape), 0.3, dtype=torch.float64)
    assert_equal_to_full_passes(network, x, size, stride, fill, checked=6)


class Branches(nn.Module):
    """Two branches of different reach and stride from one image, summed and concatenated; a convolution that pads."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(1, 3, 1, stride=2), nn.Conv2d(1, 3, 5, stride=2, padding=2)
        self.asymmetric = nn.ZeroPad2d((2, 0, 1, 3))
        self.last, self.head = nn.Conv2d(6, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.near(x), self.far(x)
        y = self.asymmetric(torch.cat([torch.relu(a + b), b], 1))
        return self.head(torch.sigmoid(self.last(y)).mean((2, 3), keepdim=True).flatten(1))


def test_branches_meet_again() -> None:
    torch.manual_seed(4)
    fill = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    assert_equal_to_full_passes(make_lively(Branches()), image(1, 2, (17, 19)), 3, 4, fill)


@pytest.mark.slow
def test_the_published_network_at_its_real_size_in_single_precision() -> None:
    """Probabilities within 1e-5 of the full forward pass, at borders and in the middle."""
    network = build_network("boehle2019", ICBM152_SHAPE)
    initialise(network, 0)
    x = torch.rand(1, 1, *ICBM152_SHAPE, generator=torch.Generator().manual_seed(0))
    graph = graph_of(network, x)
    found = incremental(graph, x)
    fill = torch.zeros(1, 1, 1, 1, 1)
    for size in (40, 8, 1):
        lows = np.array([[0, 0, 0], [193 - size, 229 - size, 193 - size], [71, 101, 90]])
        logits = logits_of_all(found, lows, lows + size, fill)
        for low, row in zip(lows, logits, strict=True):
            expected = logits_in_full(graph, x, low, low + size, fill)
            torch.testing.assert_close(torch.softmax(row, 0), torch.softmax(expected, 0), rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------- economy and exact zeros


@always_in_boxes()
def test_windows_that_change_nothing_are_exactly_without_effect() -> None:
    torch.manual_seed(0)
    network, x = make_lively(PublishedStyle(2)), image(1, 2, (20, 20))
    x[:, :, :9] = 0
    graph = graph_of(network, x)
    found = incremental(graph, x)
    lows = np.array([[0, 0], [3, 7], [12, 3]])
    logits = logits_of_all(found, lows, lows + 4, torch.zeros(1, 1, 1, 1, dtype=torch.float64))
    known = record(graph, x).logits[0]
    assert torch.equal(logits[0], known) and torch.equal(logits[1], known) and not torch.equal(logits[2], known)


@always_in_boxes()
def test_what_no_output_reads_is_exactly_without_effect() -> None:
    """With a stride larger than the kernel, voxels between the kernels do not count."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(1, 2, 1, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(10, 2)).double().eval()
    x = image(1, 1, (20,))
    graph = graph_of(network, x)
    lows = np.arange(20)[:, None]
    logits = logits_of_all(incremental(graph, x), lows, lows + 1, torch.zeros(1, 1, 1, dtype=torch.float64))
    unchanged = (logits == record(graph, x).logits).all(1)
    assert unchanged[lows[:, 0] % 4 != 0].all()


@always_in_boxes()
def test_memory_bounds_the_batch() -> None:
    network = make_lively(PublishedStyle(3))
    x = image(1, 3, (20, 20, 20))
    graph = graph_of(network, x)
    roomy, tight = incremental(graph, x), incremental(graph, x, 3_000_000)
    assert tight.batch_size(tight.plan((4, 4, 4))) < roomy.batch_size(roomy.plan((4, 4, 4)))
    lows, highs = windows((20, 20, 20), 4, 9)
    fill = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)
    batches = [len(n) for n, _ in tight.run(lows, highs, cover_boxes(fill, lows, highs))]
    assert max(batches) <= tight.batch_size(tight.plan((4, 4, 4))) and sum(batches) == len(lows)
    torch.testing.assert_close(logits_of_all(tight, lows, highs, fill), logits_of_all(roomy, lows, highs, fill))


def test_small_windows_cost_little_and_whole_images_everything() -> None:
    network = make_lively(PublishedStyle(3, size=80))
    x = image(1, 3, (80, 80, 80))
    found = incremental(graph_of(network, x), x)
    (small,) = found.work(np.array([[38, 38, 38]]), np.array([[39, 39, 39]]))
    (whole,) = found.work(np.array([[0, 0, 0]]), np.array([[80, 80, 80]]))
    assert small < 0.01 and whole > 0.5


def test_the_counted_work_is_what_was_measured_at_real_size() -> None:
    """README, "Occlusion, down to single voxels": 1/1167 of a full pass for boxes of 8 voxels, 1/1700 for one."""
    network = build_network("boehle2019", ICBM152_SHAPE)
    graph = explainable(network, (1, *ICBM152_SHAPE), is_ours=True).folded
    middle = np.array([[96, 114, 96]])
    for size, measured in ((8, 1 / 1167), (1, 1 / 1700)):
        plan = plan_within(graph, (size,) * 3, 1 << 30, 4)
        (counted,) = fractions_of_a_pass(graph, plan, middle, middle + size)
        assert measured / 2 < counted < 2 * measured


def test_no_windows_take_no_time() -> None:
    x = image(1, 2, (20, 20))
    none = np.zeros((0, 2), dtype=np.int64)
    found = incremental(graph_of(make_lively(PublishedStyle(2)), x), x)
    assert list(found.run(none, none, lambda n, known, starts: known)) == []
