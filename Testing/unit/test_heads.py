"""What a network returns is never guessed silently: its probabilities are ours, or it is refused with the reason."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.networks.network import explainable

CPU = torch.device("cpu")


class Ending(nn.Module):
    """A convolution over the whole image (K scores of shape (K, 1, 1)) or its flattening, and an ending."""

    def __init__(self, ending: Callable[[Tensor], object], count: int = 2, flat: bool = True) -> None:
        super().__init__()
        self.features, self.scores, self.flat = nn.Conv2d(1, 3, 3), nn.Conv2d(3, count, 4), flat
        self.ending = ending

    def forward(self, x: Tensor) -> object:
        scores = self.scores(F.relu(self.features(x)))
        return self.ending(scores.flatten(1) if self.flat else scores)


def network_with(ending: Callable[[Tensor], object], count: int = 2, flat: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return make_lively(Ending(ending, count, flat))


X = image(1, 2, (6, 6))


def own_answer(network: nn.Module) -> Tensor:
    """Class probabilities that the network itself gives, as a row."""
    output = network(X)
    row = (output[0] if isinstance(output, (list, tuple)) else output).detach().reshape(1, -1)
    row = row.exp() if bool((row < 0).all()) else row
    return row if row.shape[1] > 1 else torch.cat([1 - row, row], 1)


ENDS = {
    "softmax, flatten": (lambda s: F.softmax(s, 1).flatten(1), 2, False),
    "softmax, squeeze": (lambda s: F.softmax(s, 1).squeeze(3).squeeze(2), 3, False),
    "softmax, view": (lambda s: F.softmax(s, 1).view(-1, 2), 2, False),
    "softmax, permute, flatten": (lambda s: F.softmax(s, 1).permute(0, 2, 3, 1).flatten(1), 2, False),
    "softmax of the last axis": (lambda s: F.softmax(s.permute(0, 2, 3, 1), -1).flatten(1), 2, False),
    "softmax × 1.0": (lambda s: F.softmax(s, 1) * 1.0, 2, True),
    "softmax + 0, / 1": (lambda s: (F.softmax(s, 1) + 0.0) / 1, 2, True),
    "log-softmax in 4D, as SFCN": (lambda s: [F.log_softmax(s, 1)], 5, False),
    "softmax in 4D": (lambda s: F.softmax(s, 1), 2, False),
    "sigmoid, flatten": (lambda s: torch.sigmoid(s).flatten(1), 1, False),
    "sigmoid, squeeze to (N,)": (lambda s: torch.sigmoid(s).squeeze(1), 1, True),
    "sigmoid, squeeze of all": (lambda s: torch.sigmoid(s).squeeze(), 1, True),
    "1 − sigmoid": (lambda s: 1 - torch.sigmoid(s), 1, True),
    "1 − sigmoid, flattened": (lambda s: (1 - torch.sigmoid(s).view(-1, 1)).flatten(1), 1, False),
    "cat of 1 − p and p": (lambda s: torch.cat([1 - torch.sigmoid(s), torch.sigmoid(s)], 1), 1, True),
    "cat of one p": (lambda s: (lambda p: torch.cat([1 - p, p], 1))(torch.sigmoid(s)), 1, True),
    "cat of p and 1 − p": (lambda s: (lambda p: torch.cat([p, 1 - p], 1))(torch.sigmoid(s)), 1, True),
    "stack of 1 − p and p": (lambda s: (lambda p: torch.stack([1 - p, p], 1))(torch.sigmoid(s)[:, 0]), 1, True),
}


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_are_the_networks_own(name: str) -> None:
    ending, count, flat = ENDS[name]
    network = network_with(ending, count, flat)
    evaluation = Evaluation(explainable(network, (1, 6, 6)), X, CPU)
    result = attribute(evaluation, "lrp")
    torch.testing.assert_close(torch.tensor([result.probabilities], dtype=torch.float64), own_answer(network))
    # The gradient of a probability is the network's own.
    x = X.clone().requires_grad_(True)
    output = network(x)
    row = (output[0] if isinstance(output, list) else output).reshape(1, -1)
    p = row.exp() if count == 5 else row
    p = p if p.shape[1] > 1 else torch.cat([1 - p, p], 1)
    (expected,) = torch.autograd.grad(p[0, result.class_index], x)
    found = attribute(evaluation, "sensitivity", options={"postprocess": "signed"})
    np.testing.assert_allclose(found.values, expected[0].numpy(), atol=1e-9)


REFUSED = {
    "two sigmoids": (torch.sigmoid, 2, r"ends with 2 sigmoids.*independent.*network\(x\)\[:, 1:\]"),
    "three sigmoids": (torch.sigmoid, 3, "ends with 3 sigmoids"),
    "smoothing": (lambda s: F.softmax(s, 1) * 0.9 + 0.05, 2, "results of .*Softmax.*no logits"),
    "mean of softmaxes": (lambda s: (F.softmax(s, 1) + F.softmax(2 * s, 1)) / 2, 2, "results of .*Softmax"),
    "mean of stacked softmaxes": (
        lambda s: torch.stack([F.softmax(s, 1), F.softmax(-s, 1)], 1).mean(1),
        2,
        "results of .*Softmax",
    ),
    "tanh": (torch.tanh, 2, "results of .*Tanh"),
    "two softmaxes": (lambda s: F.softmax(F.softmax(s, 1), 1), 2, "two softmax or sigmoid"),
    "softmax, then sigmoid": (lambda s: torch.sigmoid(F.softmax(s, 1)[:, 1:]), 2, "two softmax or sigmoid"),
    "softmax of one": (lambda s: F.softmax(s, 1), 1, "softmax of a single output"),
    "one number": (lambda s: s, 1, r"one output, and nothing says what it is.*--output score or --output sigmoid"),
    "map of scores": (lambda s: s[:, :, None].repeat(1, 1, 2), 2, r"one row of class scores .* returns \(N, 2, 2\)"),
    "two results": (lambda s: (s, s.relu()), 2, r"returns 2, of the shapes \(1, 2\), \(1, 2\).*Wrap it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_scores_that_are_neither_are_refused(name: str) -> None:
    ending, count, reason = REFUSED[name]
    with pytest.raises(NetworkError, match=reason):
        explainable(network_with(ending, count), (1, 6, 6))


@pytest.mark.parametrize("name", ["smoothing", "mean of softmaxes", "mean of stacked softmaxes"])
@pytest.mark.parametrize("method", ["lrp", "sensitivity", "guided-backprop", "occlusion"])
def test_probabilities_that_the_user_names_are_taken_as_they_are(name: str, method: str) -> None:
    ending, count, _ = REFUSED[name]
    network = network_with(ending, count)
    result = attribute(Evaluation(explainable(network, (1, 6, 6), gives_probabilities=True), X, CPU), method)
    np.testing.assert_allclose(result.probabilities, own_answer(network)[0], atol=1e-12)
    if method == "sensitivity":
        x = X.clone().requires_grad_(True)
        (expected,) = torch.autograd.grad(network(x)[0, result.class_index], x)
        np.testing.assert_allclose(result.values, expected[0].abs().numpy(), atol=1e-9)


def test_a_single_number_is_what_the_user_says() -> None:
    network = network_with(lambda s: s, 1)
    logit = network(X).item()
    found = Evaluation(explainable(network, (1, 6, 6), output="sigmoid"), X, CPU)
    assert attribute(found, "lrp").probabilities[1] == pytest.approx(1 / (1 + np.exp(-logit)))
    squashed = network_with(lambda s: 0.5 + 0.1 * torch.tanh(s), 1)
    found = Evaluation(explainable(squashed, (1, 6, 6), gives_probabilities=True), X, CPU)
    assert attribute(found, "lrp").probabilities[1] == pytest.approx(squashed(X).item())


def test_probabilities_that_are_none_are_refused_on_the_image() -> None:
    network = network_with(lambda s: s + 3, 2)
    with pytest.raises(NetworkError, match="said to return probabilities, but returns"):
        _ = Evaluation(explainable(network, (1, 6, 6), gives_probabilities=True), X, CPU).logits


def test_outputs_that_look_like_probabilities_are_asked_about() -> None:
    """Made in a way that no rule sees: a dense layer after the softmax, or layers that are not known."""

    class Mixed(Ending):
        def __init__(self, power: bool) -> None:
            super().__init__(lambda s: s)
            self.mix, self.power = nn.Linear(2, 2, bias=False), power
            self.mix.weight.data = torch.tensor([[0.9, 0.2], [0.1, 0.8]])

        def forward(self, x: Tensor) -> Tensor:
            p = self.mix(F.softmax(super().forward(x), 1))
            return p.cumsum(1).diff(dim=1, prepend=torch.zeros_like(p[:, :1])) if self.power else p

    for power in (False, True):
        network = make_lively(Mixed(power))
        with pytest.raises(NetworkError, match="between 0 and 1 and sum to 1.*--gives-probabilities"):
            _ = Evaluation(explainable(network, (1, 6, 6), allow_opaque=True), X, CPU).logits
        known = explainable(network, (1, 6, 6), allow_opaque=True, gives_probabilities=True)
        assert (known.graph is None) == power
        result = attribute(Evaluation(known, X, CPU), "sensitivity")
        np.testing.assert_allclose(result.probabilities, network(X)[0].detach().numpy(), atol=1e-12)


# ------------------------------------------------------------------------------------------------- changing answers


RANDOM = {
    "noise": lambda s: s + torch.randn_like(s),
    "dropout that never rests": lambda s: F.dropout(s, 0.5),
    "bernoulli": lambda s: s * torch.bernoulli(torch.full_like(s, 0.5)),
    "rrelu in training": lambda s: F.rrelu(s, training=True),
}


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("allow_opaque", [False, True])
def test_random_operations_are_refused_by_name(name: str, allow_opaque: bool) -> None:
    with pytest.raises(NetworkError, match=r"draws random numbers.*aten\.\w+.*test_heads\.py:\d+"):
        explainable(network_with(RANDOM[name]), (1, 6, 6), allow_opaque=allow_opaque)


def test_an_answer_that_changes_from_run_to_run_is_refused() -> None:
    """Random numbers of another library, and a counter: frozen in the trace, where nothing shows them."""
    calls = iter(range(1000))
    drawn = np.random.default_rng(0)
    for changing in (random.random, lambda: 1e-3 * float(drawn.random()), lambda: next(calls)):
        explained = explainable(network_with(lambda s, f=changing: s + f() * s.new_tensor([1.0, 0.0])), (1, 6, 6))
        with pytest.raises(NetworkError, match="answers differently each time: .* changed by"):
            _ = Evaluation(explained, X, CPU).logits


def test_a_network_that_changes_itself_is_refused() -> None:
    class Counting(Ending):
        def __init__(self) -> None:
            super().__init__(lambda s: s)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> object:
            self.seen += 1
            return super().forward(x) * self.seen

    network = make_lively(Counting())
    with pytest.raises(NetworkError, match=r"changes its own buffers .*\(seen\)"):
        explainable(network, (1, 6, 6), allow_opaque=True)
    assert network.seen == 0


@pytest.mark.parametrize("known", [True, False])
def test_the_image_stays_as_it_is(known: bool) -> None:
    """Also where the network begins with an operation in place."""
    made = nn.Sequential(nn.ReLU(inplace=True), network_with(lambda s: s if known else s.cumsum(1)))
    x = X.clone()
    explained = explainable(made, (1, 6, 6), allow_opaque=True)
    assert (explained.graph is not None) == known
    result = attribute(Evaluation(explained, x, CPU), "sensitivity", options={"postprocess": "signed"})
    assert torch.equal(x, X)
    np.testing.assert_allclose(result.probabilities, F.softmax(made(X.clone()), 1)[0].detach(), atol=1e-12)
    assert np.array_equal(result.values != 0, X[0].numpy() > 0)


def test_layers_that_answer_otherwise_than_the_network_are_refused() -> None:
    """What Python decided while the network was traced, and decides otherwise now."""

    class Moody(Ending):
        mood = 1.0

        def forward(self, x: Tensor) -> object:
            return super().forward(x) * torch.tensor([1.0, self.mood], dtype=torch.float64)

    network = make_lively(Moody(lambda s: s))
    explained = explainable(network, (1, 6, 6))
    Moody.mood = -1.0
    with pytest.raises(NetworkError, match="do not answer as it does itself: its outputs for .*, theirs"):
        _ = Evaluation(explained, X, CPU).logits


def test_an_answer_that_rounding_decides_is_refused_as_that() -> None:
    """A constant of 2²⁴ swallows the voxels in single precision; layers into which it was folded still see them."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
    with torch.no_grad():
        network[0].weight[:], network[0].bias[:], network[1].running_mean[:] = 1.0, 2.0**24, 2.0**24
        network[4].weight[0], network[4].weight[1] = 1.0, -1.0
    x = torch.full((1, 1, 6, 6), 0.7)
    with pytest.raises(NetworkError, match="Rounding decides what Sequential answers: in single .* in double .* both"):
        _ = Evaluation(explainable(network, (1, 6, 6)), x, CPU).logits
    assert Evaluation(explainable(network.double(), (1, 6, 6)), x.double(), CPU).logits[0, 0] > 50


def test_the_network_is_asked_once() -> None:
    """Two forward passes for each network that is loaded, not for each scan or method."""
    calls: list[int] = []

    class Counting(Ending):
        def forward(self, x: Tensor) -> object:
            calls.append(1)
            return super().forward(x)

    explained = explainable(make_lively(Counting(lambda s: s)), (1, 6, 6))
    calls.clear()
    for seed in range(3):
        evaluation = Evaluation(explained, image(1, 2, (6, 6), seed), CPU)
        for method in ("lrp", "sensitivity", "occlusion"):
            attribute(evaluation, method)
    assert len(calls) == 2


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_computed_weights_are_read() -> None:
    """weight_norm of old, whose weight is no parameter and cannot be copied, and both of the new kind."""
    for normalise in (
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ):
        network = make_lively(Ending(lambda s: s))
        normalise(network.features)
        network.eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        result = attribute(Evaluation(explainable(network, (1, 6, 6)), X, CPU), "lrp")
        np.testing.assert_allclose(result.probabilities, F.softmax(network(X), 1)[0].detach(), atol=1e-12)
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
