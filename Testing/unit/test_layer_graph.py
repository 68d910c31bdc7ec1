"""LayerGraph: what is traced computes what the network computes, and what is not understood is an error."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small_networks import EveryOperation, PublishedStyle, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.architectures.catalogue import ARCHITECTURES, build_network
from ADAttributionLogic.attribution.evaluation import GradientRule
from ADAttributionLogic.errors import GridMismatchError, NetworkError, UnsupportedOperationError
from ADAttributionLogic.graph import chains
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import fold_batch_norm
from ADAttributionLogic.graph.operations import Affine
from ADAttributionLogic.graph.receptive_field import place_on_image, unit_placement
from ADAttributionLogic.graph.recording import BackwardRule, record, walk_back
from ADAttributionLogic.tracing.tracer import trace


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_every_operation_computes_the_same(dimensions: int) -> None:
    torch.manual_seed(0)
    network, x = make_lively(EveryOperation(dimensions)), image(2, dimensions)
    graph = trace(network, x.shape[1:])
    for variant in (graph, fold_batch_norm(graph)):
        torch.testing.assert_close(variant.logits(x), network(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_networks(name: str) -> None:
    shape = ARCHITECTURES[name].smallest_shape()
    network = build_network(name, shape)
    x = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    graph = fold_batch_norm(trace(network, (1, *shape)))
    torch.testing.assert_close(graph.logits(x), network(x), atol=1e-5, rtol=1e-5)
    assert graph.returns == "logits", "the network ends with logits or a score; what they are must be declared"


def test_batch_norm_is_folded_by_adjacency_only() -> None:
    """In Korolev's network it stands after the ReLU and keeps its own layer; elsewhere it disappears."""
    korolev = fold_batch_norm(trace(build_network("korolev2017", (124, 124, 124)), (1, 124, 124, 124)))
    assert sum(isinstance(x.operation, Affine) for x in korolev.layers) == 4
    boehle = fold_batch_norm(trace(build_network("boehle2019", (78, 78, 78)), (1, 78, 78, 78)))
    assert not any(isinstance(x.operation, Affine) for x in boehle.layers)


class PoolBeforeNorm(nn.Module):
    """As the blocks of Qiu et al. (2022)."""

    def __init__(self, factors: tuple[float, ...]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(1, len(factors), 3), nn.BatchNorm3d(len(factors))
        self.head = nn.Linear(len(factors), 2)
        make_lively(self)
        self.norm.weight.data = torch.tensor(factors, dtype=self.norm.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.leaky_relu(self.norm(torch.nn.functional.max_pool3d(self.conv(x), 3, 2, 1)))
        return self.head(y.mean((2, 3, 4)))


@pytest.mark.parametrize(("factors", "left"), [((0.7, 1.2, 0.1), 0), ((0.7, -1.2, 0.1), 1), ((0.7, 0.0, 0.1), 1)])
def test_batch_norm_behind_max_pooling_is_folded_when_all_its_factors_are_positive(
    factors: tuple[float, ...], left: int
) -> None:
    network, x = PoolBeforeNorm(factors).double().eval(), image(1, 3)
    graph = fold_batch_norm(trace(network, x.shape[1:]))
    assert sum(isinstance(layer.operation, Affine) for layer in graph.layers) == left
    torch.testing.assert_close(graph.logits(x), network(x), atol=1e-12, rtol=1e-12)


def test_batch_norm_behind_pooling_of_an_output_that_is_used_twice_is_not_folded() -> None:
    class Twice(PoolBeforeNorm):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            pooled = self.norm(torch.nn.functional.max_pool3d(y, 2))
            return self.head(pooled.mean((2, 3, 4)) + y.mean((2, 3, 4)))

    network, x = Twice((0.7, 1.2, 0.1)).double().eval(), image(1, 3)
    graph = fold_batch_norm(trace(network, x.shape[1:]))
    assert any(isinstance(layer.operation, Affine) for layer in graph.layers)
    torch.testing.assert_close(graph.logits(x), network(x), atol=1e-12, rtol=1e-12)


def test_pooling_in_1d_is_one_layer() -> None:
    """PyTorch runs it in 2D, between two reshapes, which no user wrote."""
    graph = trace(make_lively(PublishedStyle(1)), (1, 20))
    assert [layer.name for layer in graph.layers if "pool" in layer.name] == ["pool", "pool#4"]
    assert sum(type(layer.operation).__name__ == "Reshape" for layer in graph.layers) == 1


def test_batch_norm_of_an_output_that_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return (self.norm(y) + y).mean((2, 3), keepdim=True).flatten(1)

    network, x = make_lively(Twice()), image(1, 2, (6, 6))
    graph = fold_batch_norm(trace(network, x.shape[1:]))
    assert any(isinstance(layer.operation, Affine) for layer in graph.layers)
    torch.testing.assert_close(graph.logits(x), network(x))


# -------------------------------------------------------------------------------------------- the network stays as is


def fingerprint(network: nn.Module) -> list[object]:
    hooks = [
        (
            len(m._forward_hooks),
            len(m._backward_hooks),
            len(m._forward_pre_hooks),
            len(m._backward_pre_hooks),
            m.training,
        )
        for m in network.modules()
    ]
    return [hooks, [dict(m.__dict__.get("_modules", {})) for m in network.modules()], sorted(vars(network))]


@pytest.mark.parametrize("training", [False, True])
def test_a_network_is_bit_identical_before_and_after(training: bool) -> None:
    """No hooks, no changed weights, no changed mode, no gradients (trap 8)."""
    from ADAttributionLogic.attribution.evaluation import Evaluation
    from ADAttributionLogic.attribution.registry import Companions, attribute, available_methods
    from ADAttributionLogic.networks.network import explainable

    network = make_lively(PublishedStyle(2)).train(training)
    network.norm_1.eval()  # a mixture of modes must survive as well
    before, state = fingerprint(network), copy.deepcopy(network.state_dict())
    x = image(1, 2, (20, 20))
    evaluation = Evaluation(explainable(network, x.shape[1:]), x, torch.device("cpu"))
    regions = torch.zeros(20, 20, dtype=torch.int)
    regions[5:9] = 1
    for method in available_methods():
        if method.needs_attention:
            continue
        attribute(evaluation, method, companions=Companions(regions=regions, reference=x / 2))
    assert fingerprint(network) == before
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_tracing_uses_evaluation_mode_whatever_the_flag() -> None:
    network, x = make_lively(PublishedStyle(2)), image(1, 2, (20, 20))
    expected = network(x)
    torch.testing.assert_close(trace(network.train(), x.shape[1:]).logits(x), expected)


def test_in_place_operations_are_seen_by_later_uses() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2.0
            z = F.relu_(y)
            return (y + z).flatten(1)  # y was changed by the ReLU

    x = image(1, 1, (6,))
    torch.testing.assert_close(trace(InPlace(), x.shape[1:]).logits(x), InPlace()(x))


# -------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("tail", "head", "returns"),
    [
        (nn.Softmax(1), "softmax", "probabilities"),
        (nn.LogSoftmax(-1), "softmax", "log-probabilities"),
        (nn.Identity(), "softmax", "logits"),
        (nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()), "sigmoid", "probabilities"),
    ],
)
def test_the_final_softmax_or_sigmoid_is_the_head(tail: nn.Module, head: str, returns: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), tail).double()
    x = image(1, 1, (4,))
    graph = trace(network, x.shape[1:])
    assert (graph.head, graph.returns) == (head, returns)
    probabilities = graph.probabilities(graph.logits(x))
    assert probabilities.shape == (1, 2 if head == "sigmoid" else 3)
    torch.testing.assert_close(probabilities.sum(), torch.ones((), dtype=torch.float64))
    if returns != "logits":
        expected = network(x).exp() if isinstance(tail, nn.LogSoftmax) else network(x)
        torch.testing.assert_close(probabilities[:, -expected.shape[1] :], expected)


def test_a_sigmoid_before_more_layers_is_an_ordinary_layer() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Sigmoid(), nn.Linear(1, 2)).double()
    assert [type(x.operation).__name__ for x in trace(network, (1, 4)).layers].count("Sigmoid") == 1


# ----------------------------------------------------------------------------------------------------------- refusals


def module(function: object, *members: nn.Module) -> nn.Module:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(members)

        def forward(self, x: Tensor) -> Tensor:
            return function(self, x)

    return Made()


UNSUPPORTED = {
    "batch norm in training mode": (
        module(lambda m, x: F.batch_norm(x, None, None, training=True).flatten(1)),
        "statistics of the image itself",
    ),
    "cumulative sum": (
        module(lambda m, x: x.cumsum(2).flatten(1)),
        r"aten\.cumsum at the top level \(test_layer_graph\.py:\d+: .*function",
    ),
    "constant over a layer": (module(lambda m, x: (2 / x).flatten(1)), "aten"),
    "mean of everything": (module(lambda m, x: (x - x.mean()).flatten(1)), r"batch axis.*mean\(\(1, 2, 3, 4\)\)"),
    "mixing the batch": (module(lambda m, x: x.flatten(0)), "batch axis"),
    "squeezing the batch": (module(lambda m, x: F.relu(x[:, :, :1, :1].squeeze())), r"batch axis.*squeeze\(1\)"),
    "sorting": (module(lambda m, x: x.flatten(1).sort(1)[1].float()), "aten.sort"),
    "half precision": (module(lambda m, x: x.half().float().flatten(1)), "less precise"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unknown_operations_are_named_with_their_place(name: str) -> None:
    """Never a silent pass (trap 9)."""
    network, reason = UNSUPPORTED[name]
    with pytest.raises(UnsupportedOperationError, match=reason):
        trace(network, (1, 6, 6))


def test_an_image_that_does_not_fit_is_an_error_with_its_size() -> None:
    with pytest.raises(GridMismatchError, match="1×70×70×70"):
        trace(build_network("boehle2019", (78, 78, 78)), (1, 70, 70, 70))
    graph = trace(PublishedStyle(2), (1, 20, 20))
    with pytest.raises(GridMismatchError, match="takes images of 1×20×20 .*, but got 1×21×20"):
        graph.logits(torch.zeros(1, 1, 21, 20))


def test_networks_that_are_no_classifiers_of_one_image() -> None:
    with pytest.raises(NetworkError, match="one row of class scores"):
        trace(nn.Conv2d(1, 2, 3), (1, 5, 5))
    with pytest.raises(NetworkError, match="returns 2, of the shapes"):
        trace(module(lambda m, x: (x.flatten(1), x.flatten(1))), (1, 5))
    with pytest.raises(NetworkError, match="does not depend on its input"):
        trace(module(lambda m, x: m.members[0].weight, nn.Linear(2, 2)), (1, 5))
    with pytest.raises(NetworkError, match=r"path depends on voxel values \(test_layer_graph\.py:\d+: .*if x\.sum"):
        trace(module(lambda m, x: x.flatten(1) if x.sum() > 0 else -x.flatten(1)), (1, 5))
    with pytest.raises(NetworkError, match=r"leaves PyTorch \(test_layer_graph\.py:\d+: .*numpy"):
        trace(module(lambda m, x: torch.from_numpy(x.numpy()).flatten(1)), (1, 5))
    with pytest.raises(NetworkError, match=r"fails on an image of 1×5 \(test_layer_graph.*KeyError: 'no such key'"):
        trace(module(lambda m, x: {}["no such key"]), (1, 5))
    with pytest.raises(NetworkError, match="softmax of a single output"):
        trace(nn.Sequential(nn.Flatten(), nn.Linear(5, 1), nn.Softmax(1)), (1, 5))


# ------------------------------------------------------------------------------------------------------------- chains


class Gradient(BackwardRule):
    """The chain rule, to compare walks back with autograd."""

    def through_activation(self, operation: object, relevance: Tensor, output: Tensor) -> Tensor:
        return relevance * operation.derivative(output)

    def through_softmax(self, layer: int, operation: object, x: Tensor, relevance: Tensor, output: Tensor) -> Tensor:
        return operation.gradient(relevance, (output,), output)[0]

    def through_weighted(
        self, layer: int, operation: object, inputs: tuple[Tensor, ...], relevance: Tensor, output: Tensor | None
    ) -> tuple[Tensor, ...]:
        return operation.gradient(relevance, inputs, relevance)


class PooledChains(nn.Module):
    """Every kind of window: overlapping, padded, dilated pools after strided, padded, dilated convolutions."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        d = dimensions - 1
        conv, pool = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d], (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[d]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d]
        self.body = nn.Sequential(
            conv(2, 3, 3, padding=2), nn.ReLU(), pool(3, 2, 1),
            conv(3, 4, 3, stride=2, padding=1), nn.ELU(), norm(4), nn.ReLU(), pool(2, 1),
            conv(4, 3, 2, dilation=2, padding=2), nn.LeakyReLU(0.2), pool(2, 2, dilation=2), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize("slab_bytes", [1, 3000, 10**9])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch, dimensions: int, slab_bytes: int) -> None:
    """Forward and back, a chain computed row by row equals the whole, and autograd."""
    monkeypatch.setitem(chains.SLAB_BYTES, "cpu", slab_bytes)
    torch.manual_seed(0)
    network = make_lively(PooledChains(dimensions))
    x = image(2, dimensions, (27, 22, 19)).requires_grad_(True)
    expected = network(x)
    start = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, start)
    recording = record(fold_batch_norm(trace(network, x.shape[1:])), x.detach())
    torch.testing.assert_close(recording.logits, expected.detach(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(walk_back(recording, start, Gradient()), gradient, atol=1e-12, rtol=1e-12)


def test_slabs_of_a_batch() -> None:
    network = make_lively(PublishedStyle(3))
    x = torch.cat([image(1, 3, (20, 20, 20), seed) for seed in range(3)])
    recording = record(trace(network, x.shape[1:]), x)
    torch.testing.assert_close(recording.logits, network(x))


def test_large_activations_are_not_kept() -> None:
    """Of a convolution, ReLU and pool, only the pooled output and the winners remain."""
    graph = fold_batch_norm(trace(build_network("boehle2019", (78, 78, 78)), (1, 78, 78, 78)))
    recording = record(graph, torch.rand(1, 1, 78, 78, 78))
    first = next(i for i, layer in enumerate(graph.layers) if isinstance(layer.operation, Convolution))
    assert first not in recording.outputs and first + 1 not in recording.outputs
    assert recording.outputs[first + 2].shape == (1, 8, 38, 38, 38)
    kept = sum(t.numel() * t.element_size() for t in recording.outputs.values())
    assert kept < 8 * 76**3 * 4, "less than the first convolution's output alone"


def test_gradient_at_an_inner_layer() -> None:
    network = make_lively(PublishedStyle(2))
    x = image(1, 2, (20, 20))
    graph = fold_batch_norm(trace(network, x.shape[1:]))
    layer = graph.index("relu#2")
    recording = record(graph, x, keep=frozenset({layer}))
    features = recording.outputs[layer].clone().requires_grad_(True)
    logits = network.dense_2(network.relu(network.dense_1(network.pool(features).flatten(1))))
    (expected,) = torch.autograd.grad(logits[0, 1], features)
    found = walk_back(recording, torch.tensor([[0.0, 1.0]], dtype=torch.float64), Gradient(), target_layer=layer)
    torch.testing.assert_close(found, expected)


# --------------------------------------------------------------------------------------------------- receptive fields


def test_units_of_the_published_network_sit_where_their_windows_look() -> None:
    """METHODS: unit i of the last convolution sits at voxel 26.5 + 12·i."""
    graph = trace(build_network("rieke2018", (193, 229, 193)), (1, 193, 229, 193))
    last = max(i for i, layer in enumerate(graph.layers) if isinstance(layer.operation, Convolution))
    placement = unit_placement(graph, last)
    assert placement.offset == (26.5,) * 3 and placement.step == (12.0,) * 3


def test_unit_placement_equals_the_centre_of_the_units_gradient() -> None:
    """Found independently: the voxels that a unit depends on, by autograd, are centred on its place."""
    network = nn.Sequential(
        nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.AvgPool2d(2), nn.Conv2d(1, 1, 4, dilation=2), nn.Flatten()
    ).double()
    for p in network.parameters():
        nn.init.ones_(p)
    x = torch.zeros(1, 1, 40, 36, dtype=torch.float64, requires_grad=True)
    graph = trace(network, x.shape[1:])
    placement = unit_placement(graph, 3)
    features = network[2](network[1](network[0](x)))
    for unit in ((1, 1), (2, 1)):
        (gradient,) = torch.autograd.grad(features[0, 0][unit], x, retain_graph=True)
        where = torch.argwhere(gradient[0, 0] > 0).double()
        centre = (where.min(0).values + where.max(0).values) / 2
        expected = [o + s * u for o, s, u in zip(placement.offset, placement.step, unit, strict=True)]
        assert centre.tolist() == pytest.approx(expected)


def test_units_without_a_place_are_an_error() -> None:
    graph = trace(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(1, 2, 2), nn.Flatten()), (1, 10, 10))
    with pytest.raises(NetworkError, match="no fixed place"):
        unit_placement(graph, 2)


def test_a_map_of_units_is_interpolated_between_their_places() -> None:
    from ADAttributionLogic.graph.receptive_field import UnitPlacement

    units = torch.tensor([0.0, 4.0, 8.0])
    placed = place_on_image(units, UnitPlacement((2.5,), (4.0,)), (14,))
    assert placed[:3].tolist() == [0, 0, 0] and placed[12:].tolist() == [8, 8]
    assert placed[4].item() == pytest.approx(1.5)


# ----------------------------------------------------------------------------------------------- convolution in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1, 1), ((0, 0),) * 3, (1, 1, 1), 1),
        ((1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 1),
        ((1, 1, 1), ((3, 3), (0, 0), (1, 1)), (1, 1, 1), 1),  # wider than the kernel reaches
        ((1, 1, 1), ((0, 2), (1, 0), (2, 1)), (1, 2, 1), 1),
        ((1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 2),
        ((2, 1, 3), ((1, 1), (0, 0), (2, 2)), (1, 1, 1), 1),
    ],
)
def test_convolutions_and_their_transposes_are_pytorchs(
    dtype: torch.dtype,
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> None:
    """Whichever implementation computes them: against conv3d in float64, and against its gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 9, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4 // groups, 3, 2, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    flat = [size for pair in reversed(padding) for size in pair]
    expected = torch.nn.functional.conv3d(torch.nn.functional.pad(x, flat), weight, bias, stride, 0, dilation, groups)
    back = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(expected, x, back)
    operation = Convolution(weight.to(dtype), bias.to(dtype), stride, padding, dilation, groups)
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 1e-11, "rtol": 1e-11}
    found = operation.forward(x.detach().to(dtype))
    torch.testing.assert_close(found, expected.detach().to(dtype), **tolerance)
    (found,) = operation.transpose(back.to(dtype), operation.weight, (x.shape,))
    torch.testing.assert_close(found, gradient.to(dtype), **tolerance)


@pytest.mark.parametrize(
    ("channels", "to", "kernel", "size", "padding", "dilation", "groups"),
    [
        pytest.param(1, 5, (3, 2, 4), (9, 8, 7), ((1, 1), (0, 2), (3, 0)), (1, 1, 1), 1, id="one channel"),
        pytest.param(1, 5, (3, 2, 2), (9, 8, 7), ((0, 1), (1, 0), (2, 2)), (2, 3, 2), 1, id="one channel, dilated"),
        pytest.param(1, 5, (2, 2, 2), (9, 8, 7), ((-1, 0), (0, 0), (0, -2)), (1, 1, 1), 1, id="one channel, cut"),
        pytest.param(9, 8, (3, 3, 3), (3, 2, 3), ((1, 1),) * 3, (1, 1, 1), 1, id="more weights than places"),
        pytest.param(6, 6, (3, 3, 3), (9, 8, 7), ((1, 1), (0, 0), (2, 1)), (1, 1, 1), 6, id="each channel alone"),
        pytest.param(6, 4, (1, 1, 1), (9, 8, 7), ((0, 0),) * 3, (1, 1, 1), 2, id="only channels"),
    ],
)
def test_transposes_in_float32_are_those_in_float64(
    channels: int,
    to: int,
    kernel: tuple[int, ...],
    size: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> None:
    """In float32 each kind of convolution has its own fast form; in float64 it is autograd's."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(to, channels // groups, *kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    exact = Convolution(weight, None, (1, 1, 1), padding, dilation, groups)
    forward = exact.map((x,), weight)
    output = torch.randn(forward.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(forward, x, output)
    (found,) = exact.to(torch.device("cpu"), torch.float32).transpose(output.float(), weight.float(), (x.shape,))
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ strided convolutions


@pytest.mark.parametrize("channels", [1, 3, 20])
@pytest.mark.parametrize("padding", [(0, 0), (3, 3), (0, 2), (2, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 2), (4, 2), (7, 2), (2, 3), (7, 3), (5, (1, 2, 3))])
def test_a_strided_convolution_is_transposed_as_autograd_does_it(
    channels: int, padding: tuple[int, int], kernel: int, stride: int | tuple[int, int, int]
) -> None:
    """In float32, by residues of the stride (as fast as a convolution); autograd in float64 is the other way."""
    generator = torch.Generator().manual_seed(0)
    strides = (stride,) * 3 if isinstance(stride, int) else stride
    weight = torch.randn(4, channels, *(kernel,) * 3, generator=generator)
    x = torch.randn(2, channels, 11, 8, 9, generator=generator)

    def convolution(weight: Tensor) -> Convolution:
        return Convolution(weight, None, strides, (padding,) * 3, (1, 1, 1), 1)

    exact = x.double().requires_grad_(True)
    forward = convolution(weight.double()).map((exact,), weight.double())
    output = torch.randn(forward.shape, generator=generator)
    (expected,) = torch.autograd.grad(forward, exact, output.double())
    (found,) = convolution(weight).transpose(output, weight, (x.shape,))
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("hang", "changes_answer"),
    [
        (lambda n: n[0].register_forward_hook(lambda module, given, found: 2 * found), True),
        (lambda n: n[0].register_forward_pre_hook(lambda module, given: (given[0] + 1,)), True),
        (lambda n: n[1].register_full_backward_hook(lambda module, to, back: (to[0].clamp(min=0),)), False),
    ],
    ids=["forward", "forward pre", "backward"],
)
def test_hooks_of_the_answer_are_explained_and_those_of_gradients_change_nothing(hang, changes_answer) -> None:
    """What is explained is the function from image to answer: a forward hook is part of it, a backward hook is not."""

    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double().eval()

    x = torch.rand(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    network, plain = made(), made()
    hang(network)
    graph = trace(network, x.shape[1:])
    torch.testing.assert_close(graph.logits(x), network(x))
    assert torch.allclose(network(x), plain(x)) != changes_answer
    (expected,) = torch.autograd.grad((network if changes_answer else plain)(x)[0, 1], x)
    seed = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(walk_back(record(graph, x.detach()), seed, GradientRule()), expected)
