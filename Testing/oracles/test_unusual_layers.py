"""LRP through gates, constants, softmax inside and normalisation inside a network; and the warning when it leaks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.propagation.bounds import bounds_at
from ADAttributionLogic.tracing.tracer import trace

CPU = torch.device("cpu")
X = image(1, 2, (6, 6))


class Three(nn.Module):
    """A convolution, something, and a convolution over all that is left; no biases unless asked for."""

    def __init__(self, something: Callable[[nn.Module, Tensor], Tensor], bias: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, bias=bias), nn.Conv2d(1, 4, 3, bias=bias)
        self.down, self.scores = nn.Linear(4, 4, bias=bias), nn.Conv2d(4, 2, 4, bias=bias)
        self.gate = nn.Parameter(torch.randn(4, 1, 1))
        self.something = something

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.something(self, x)).flatten(1)


def network(something: Callable[[nn.Module, Tensor], Tensor], bias: bool = False) -> nn.Module:
    torch.manual_seed(3)
    return make_lively(Three(something, bias))


def lrp(made: nn.Module, **options: object) -> Attribution:
    return attribute(Evaluation(explainable(made, (1, 6, 6)), X, CPU), "lrp", options=options)


def squeeze(m: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(m.first(x))
    return y * torch.sigmoid(m.down(y.mean((2, 3))))[:, :, None, None]


CONSERVING = {
    "gate of parameters": lambda m, x: F.relu(m.first(x)) * torch.sigmoid(m.gate),
    "squeeze and excitation": squeeze,
    "gated branch": lambda m, x: F.relu(m.first(x)) * torch.sigmoid(m.second(x)),
    "product of two layers": lambda m, x: F.relu(m.first(x)) * F.relu(m.second(x)),
    "scaled addition": lambda m, x: torch.add(F.relu(m.first(x)), F.relu(m.second(x)), alpha=0.3),
    "softmax of channels": lambda m, x: F.softmax(m.first(x), 1),
    "attention over places": lambda m, x: F.relu(m.first(x)) * F.softmax(m.second(x).flatten(2), 2).view(1, 4, 4, 4),
    "SiLU": lambda m, x: F.silu(m.first(x)),
    "maximum of two channels": lambda m, x: F.relu(m.first(x)).amax(1, keepdim=True).expand(-1, 4, -1, -1),
    "rows plus columns": lambda m, x: m.first(x).relu().mean(2, True) + m.second(x).relu().mean(3, True),
    "spread over places": lambda m, x: m.first(x).relu().var((2, 3), keepdim=True).expand(-1, -1, 4, 4),
    "constant minus a layer": lambda m, x: 2.0 - m.first(x),
}


@pytest.mark.parametrize("how", ["signal", "half"])
@pytest.mark.parametrize("name", CONSERVING)
def test_relevance_is_conserved(name: str, how: str) -> None:
    """To rounding by the ε-rule without biases: nothing disappears in a gate, and none is made."""
    result = lrp(network(CONSERVING[name]), rule="e-rule", epsilon=1e-12, product=how)
    assert result.relevance_sum == pytest.approx(result.to_attribute, rel=1e-6)
    assert not any("not conserved" in note for note in result.notes)
    is_product = any(word in name for word in ("gated", "product", "excitation", "attention"))
    assert any("products of two layers" in note for note in result.notes) == is_product


def test_a_gate_is_held_constant() -> None:
    """The relevance that the gate's branch would get is the signal's: as if the gate were a constant."""
    made = network(CONSERVING["gated branch"])
    gate = torch.sigmoid(made.second(X)).detach()
    frozen = network(lambda m, x: F.relu(m.first(x)) * gate)
    options = {"rule": "e-rule", "batch_norm": "pass"}
    np.testing.assert_allclose(lrp(made, **options).values, lrp(frozen, **options).values, atol=1e-9)
    half = lrp(made, **options, product="half").values
    assert not np.allclose(half, lrp(made, **options).values)


def test_the_softmax_inside_is_named() -> None:
    result = lrp(network(CONSERVING["softmax of channels"]))
    assert any("softmax inside the network" in note for note in result.notes)


def test_relevance_that_leaks_is_warned_about() -> None:
    """What nearly cancels is enlarged; what nothing contributed to is lost; the layer and the amounts are named."""
    torch.manual_seed(0)
    cancelling = network(lambda m, x: F.relu(m.first(x)) - 0.999 * F.relu(m.first(x)))
    result = lrp(cancelling, rule="e-rule")
    leaking = network(lambda m, x: 5.0 - F.relu(m.first(x)))
    for made in (cancelling, leaking):
        for rule in ("b-rule", "e-rule"):
            result = lrp(made, rule=rule)
            found = [note for note in result.notes if "not conserved" in note]
            largest = np.abs(result.values).sum() / abs(result.to_attribute)
            off = abs(result.unattributed / result.to_attribute)
            assert (off <= 0.1) or (found and f"{result.relevance_sum:.3g} reached the image" in found[0]), largest


@pytest.mark.parametrize("rule", ["b-rule", "e-rule", "epsilon-plus-flat", "epsilon-gamma-box"])
@pytest.mark.parametrize("name", CONSERVING)
def test_no_map_is_silently_off(name: str, rule: str) -> None:
    result = lrp(network(CONSERVING[name], bias=True), rule=rule)
    tolerated = 0.75 if rule.startswith("epsilon-") else 0.1
    if abs(result.unattributed) > (tolerated + 1e-6) * abs(result.to_attribute):
        assert any("Relevance is not conserved: of" in note for note in result.notes)


# ------------------------------------------------------------------------------------------- normalisation inside


class Normalising(nn.Module):
    """A z-score with a mean for each voxel, a scaling with either sign for each channel, zeros around."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(1, 1, 6, 6))
        self.register_buffer("scale", torch.tensor([1.5, -2.0]).view(1, 2, 1, 1))
        self.first = nn.Conv2d(2, 3, 3, bias=False)
        self.scores = nn.Linear(3 * 7 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x - self.mean, x], 1) * self.scale
        return self.scores(F.relu(self.first(F.pad(y, (1, 1, 1, 2)))).flatten(1))


def test_the_z_box_bounds_what_the_first_layer_reads() -> None:
    """No image between the bounds leaves the box, and some image touches each side of it."""
    made = make_lively(Normalising())
    graph = trace(made, (1, 6, 6))
    first = next(layer for layer in graph.layers if isinstance(layer.operation, Convolution))
    low, high = bounds_at(graph, first.inputs[0], X.new_tensor(-1.0), X.new_tensor(2.0))

    def read(x: Tensor) -> Tensor:
        return F.pad(torch.cat([x - made.mean, x], 1) * made.scale, (1, 1, 1, 2))

    generator = torch.Generator().manual_seed(0)
    inputs = torch.cat([read(torch.rand(1, 1, 6, 6, generator=generator).double() * 3 - 1) for _ in range(200)])
    assert bool((inputs >= low).all() and (inputs <= high).all())
    corners = torch.cat([read(torch.full((1, 1, 6, 6), v).double()) for v in (-1.0, 2.0)])
    torch.testing.assert_close(low[0, :, 0, 0], corners.amin((0, 2, 3)))
    torch.testing.assert_close(high[0, :, 0, 0], corners.amax((0, 2, 3)))


def test_the_z_box_is_that_of_the_network_without_its_normalisation() -> None:
    """Normalising inside the network, or before it with the bounds of that: the same relevance."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.scores = nn.Conv2d(1, 3, 3), nn.Linear(3 * 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.scores(F.relu(self.first(x)).flatten(1))

    class Outer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x - 3.0) / -2.0)

    torch.manual_seed(0)
    inner = make_lively(Inner())
    x = X * 2 + 3
    options = {"rule": "epsilon-gamma-box"}
    inside = attribute(
        Evaluation(explainable(Outer(inner), (1, 6, 6)), x, CPU), "lrp", options=options | {"low": -4.0, "high": 9.0}
    )
    before = attribute(
        Evaluation(explainable(inner, (1, 6, 6)), (x - 3) / -2, CPU),
        "lrp",
        options=options | {"low": -3.0, "high": 3.5},
    )
    np.testing.assert_allclose(inside.values, before.values, atol=1e-9)


# ------------------------------------------------------------------------------------------------ pools written in 2D


def test_a_reshape_before_a_flat_pool_is_no_unsqueeze() -> None:
    """A user's view to height 1, or an axis that stays for a 2D convolution: not PyTorch's way of pooling in 1D."""

    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Linear(18, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.scores(F.max_pool2d(x.view(-1, 1, 1, 36), (1, 2)).flatten(1))

    class Staying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.scores = nn.Conv2d(1, 2, (1, 3)), nn.Linear(2 * 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = F.max_pool2d(x.flatten(2).unsqueeze(2), (1, 2))
            return self.scores(self.convolution(y).flatten(1))

    class Regrouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.scores = nn.Conv1d(1, 4, 1), nn.Linear(4 * 18, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x.flatten(2)).view(-1, 2, 1, 72)
            return self.scores(F.max_pool2d(y, (1, 2)).flatten(1))

    for kind in (Viewed, Staying, Regrouped):
        torch.manual_seed(0)
        made = make_lively(kind())
        torch.testing.assert_close(trace(made, (1, 6, 6)).logits(X), made(X))


def test_half_images_and_types() -> None:
    """x.float() and x.to(…) in a float32 network change nothing."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2)).eval()

    class Converting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = made

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float().to(torch.float32).to(x.device).contiguous())

    x = X.float()
    torch.testing.assert_close(trace(Converting(), (1, 6, 6)).logits(x), made(x))


def test_units_behind_gates_and_crops_have_their_place() -> None:
    """By autograd, the voxels that a unit reads are centred on its place, behind a gate, a crop and added channels."""
    from ADAttributionLogic.graph.receptive_field import unit_placement

    class Cropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.down, self.second = nn.Conv2d(1, 3, 3), nn.Linear(3, 3), nn.Conv2d(4, 2, 3, bias=False)
            self.scores = nn.Linear(2 * 4 * 9, 2)

        def features(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
            y = self.first(x)[:, :, 2:, ::1]
            y = y * (torch.sigmoid(self.down(y.mean((2, 3))))[:, :, None, None] if gate is None else gate)
            return self.second(torch.cat([y, torch.zeros_like(y[:, :1])], 1)[:, :, 1::2])

        def forward(self, x: Tensor) -> Tensor:
            return self.scores(self.features(x).flatten(1))

    torch.manual_seed(0)
    made = make_lively(Cropped())
    x = image(1, 2, (17, 13)).requires_grad_(True)
    graph = trace(made, (1, 17, 13))
    last = max(i for i, layer in enumerate(graph.layers) if isinstance(layer.operation, Convolution))
    placement = unit_placement(graph, last)
    (gradient,) = torch.autograd.grad(made.features(x, torch.ones(1, 3, 1, 1).double())[0, :, 2, 3].sum(), x)
    read = gradient[0, 0].nonzero().double()
    centre = (read.amin(0) + read.amax(0)) / 2
    found = [o + s * i for o, s, i in zip(placement.offset, placement.step, (2, 3), strict=True)]
    np.testing.assert_allclose(found, centre)
