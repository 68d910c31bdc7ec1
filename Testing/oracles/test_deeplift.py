"""DeepLIFT against captum, against full computation, and against its own promise: the differences add up (float64)."""

from __future__ import annotations

import captum.attr as oracle
import numpy as np
import pytest
import torch
from small_networks import EveryOperation, PublishedStyle, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.deeplift import coefficients
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.attribution.target import Target, decide
from ADAttributionLogic.errors import GridMismatchError, NetworkError, UsageError
from ADAttributionLogic.graph.chains import SLAB_BYTES
from ADAttributionLogic.networks.network import explainable

CPU = torch.device("cpu")


def ours(network: nn.Module, x: Tensor, reference: Tensor | None, target: Target, **options: object) -> Attribution:
    evaluation = Evaluation(explainable(network, x.shape[1:]), x, CPU)
    return attribute(evaluation, "deeplift", target, options, companions=Companions(reference=reference))


class Same(nn.Module):
    """Stands between a ReLU and a pooling: on the tensor that is the output of one and the input of the other, captum
    0.9 reads the gradient before it has replaced it, and its own differences do not add up."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


def published(dimensions: int) -> nn.Module:
    """A network of the publications' kind in which no module is used twice, as captum needs it."""
    torch.manual_seed(dimensions)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    max_pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dimensions - 1]
    layers = [conv(2, 3, 3), norm(3), nn.ReLU(), Same(), max_pool(2)]
    layers += [conv(3, 5, 3), norm(5), nn.ReLU(), Same(), max_pool(3)]
    sizes = {1: 5 * 3, 2: 5 * 9, 3: 5 * 27}
    layers += [nn.Flatten(), nn.Linear(sizes[dimensions], 7), nn.ReLU(), nn.Linear(7, 3)]
    return make_lively(nn.Sequential(*layers))


@pytest.mark.parametrize("class_index", [0, 2])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_rescale_rule_is_captums(dimensions: int, class_index: int) -> None:
    network, x = published(dimensions), image(2, dimensions, (26, 26, 26))
    reference = image(2, dimensions, (26, 26, 26), seed=5)
    expected, delta = oracle.DeepLift(network).attribute(
        x.clone(), reference.clone(), target=class_index, return_convergence_delta=True
    )
    found = ours(network, x, reference, Target(class_index, "logit"), epsilon=0.0)
    assert float(delta.abs().max()) < 1e-9
    np.testing.assert_allclose(found.values, expected.detach()[0], atol=1e-9 * float(expected.abs().max()))


def test_the_rescale_rule_is_captums_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SLAB_BYTES, "cpu", 30_000)
    network, x, reference = published(3), image(2, 3, (26, 26, 26)), image(2, 3, (26, 26, 26), seed=5)
    expected = oracle.DeepLift(network).attribute(x.clone(), reference.clone(), target=1).detach()
    found = ours(network, x, reference, Target(1, "logit"), epsilon=0.0)
    np.testing.assert_allclose(found.values, expected[0], atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("rule", ["rescale", "gamma"])
@pytest.mark.parametrize("start", ["probability", "logit", "margin"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_differences_add_up(dimensions: int, start: str, rule: str) -> None:
    """Σ relevance = score of the scan − score of the reference, through every operation, biases or not."""
    torch.manual_seed(dimensions)
    network, x = make_lively(EveryOperation(dimensions)), image(2, dimensions)
    reference = image(2, dimensions, seed=7) / 3
    found = ours(network, x, reference, Target(2, start), rule=rule, epsilon=1e-12)
    with torch.no_grad():
        logits = torch.cat([network(x.clone()), network(reference.clone())])
    scores = decide(logits[:1], "softmax", Target(2, start), 3).score_of(logits)
    assert found.to_attribute == pytest.approx(float(scores[0] - scores[1]))
    assert found.relevance_sum == pytest.approx(found.to_attribute, rel=1e-6, abs=1e-9)


def test_a_linear_network_gives_weight_times_difference() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(24, 2)).double().eval()
    x, reference = image(1, 2, (4, 6)), image(1, 2, (4, 6), seed=3)
    expected = network[1].weight[1].reshape(4, 6).detach() * (x - reference)[0, 0]
    for rule in ("rescale", "gamma"):
        found = ours(network, x, reference, Target(1, "logit"), rule=rule, gamma=0.0, epsilon=0.0)
        np.testing.assert_allclose(found.heatmap, expected, atol=1e-12)


def test_the_gamma_rule_by_matrix_algebra() -> None:
    """Two dense layers written out: contributions with the sign of the neuron's change count 1 + γ times."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    x, reference, gamma = image(1, 1, (6,)), image(1, 1, (6,), seed=4), 0.7
    found = ours(network, x, reference, Target(0, "logit"), rule="gamma", gamma=gamma, epsilon=0.0)

    def layer(weight: np.ndarray, change: np.ndarray, relevance: np.ndarray) -> np.ndarray:
        contributions = weight * change  # outputs × inputs
        total = contributions.sum(1, keepdims=True)
        weighed = contributions * (1 + gamma * (np.sign(contributions) == np.sign(total)))
        return (weighed / weighed.sum(1, keepdims=True) * relevance[:, None]).sum(0)

    first, second = (network[i].weight.detach().numpy() for i in (1, 3))
    hidden = [torch.relu(network[1](v.flatten(1)))[0].detach().numpy() for v in (x, reference)]
    change = hidden[0] - hidden[1]
    start = np.array([float((second @ change)[0]), 0.0])
    relevance = layer(second[:1], change, start[:1])
    np.testing.assert_allclose(
        found.heatmap, layer(first, (x - reference).numpy().ravel(), relevance), rtol=1e-9, atol=1e-12
    )


def test_what_does_not_differ_gets_nothing() -> None:
    network, x = published(3), image(2, 3, (26, 26, 26))
    reference = x.clone()
    reference[:, :, 5:9, 10:14, 3:20] += 1
    found = ours(network, x, reference, Target(1))
    untouched = torch.ones(26, 26, 26, dtype=torch.bool)
    untouched[5:9, 10:14, 3:20] = False
    assert not found.values[:, untouched.numpy()].any() and found.values.any()
    same = ours(network, x, x.clone(), Target(1))
    assert not same.values.any() and same.to_attribute == 0


def test_of_two_classes_the_probability_is_a_multiple_of_the_margin() -> None:
    torch.manual_seed(2)
    network, x = make_lively(PublishedStyle(2)), image(1, 2, (20, 20))
    reference = x.roll(2, 3)
    probability, margin = (ours(network, x, reference, Target(1, s)) for s in ("probability", "margin"))
    factor = probability.to_attribute / margin.to_attribute
    np.testing.assert_allclose(probability.values, margin.values * factor, atol=1e-12)


def test_coefficients_of_three_classes_add_up() -> None:
    scan, reference = torch.tensor([[2.0, -1.0, 0.5]]).double(), torch.tensor([[-0.5, 0.7, 1.2]]).double()
    decision = decide(scan, "softmax", Target(1), 3)
    shares = coefficients(decision, scan, reference) * (scan - reference)
    expected = torch.softmax(scan, 1)[0, 1] - torch.softmax(reference, 1)[0, 1]
    assert float(shares.sum()) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("class_index", [0, 1])
def test_one_sigmoid_output_is_two_classes(class_index: int) -> None:
    torch.manual_seed(3)
    network = make_lively(nn.Sequential(PublishedStyle(2, classes=1), nn.Sigmoid()))
    x = image(1, 2, (20, 20))
    found = ours(network, x, x.roll(2, 3), Target(class_index, "probability"), rule="gamma")
    p, q = (float(network(y)) for y in (x, x.roll(2, 3)))
    assert found.relevance_sum == pytest.approx((p - q) * (1 if class_index else -1), rel=1e-4)


# ---------------------------------------------------------------------------------------------- integrated gradients


def test_integrated_gradients_from_a_reference_are_captums() -> None:
    network, x = published(3), image(2, 3, (26, 26, 26))
    reference = image(2, 3, (26, 26, 26), seed=5)
    method = oracle.IntegratedGradients(network)
    expected = method.attribute(x, reference, target=1, n_steps=20, method="gausslegendre").detach()[0]
    evaluation = Evaluation(explainable(network, x.shape[1:]), x, CPU)
    companions = Companions(reference=reference)
    options = {"steps": 20, "baseline": "reference"}
    found = attribute(evaluation, "integrated-gradients", Target(1, "logit"), options, companions=companions)
    # captum multiplies the steps' weights in float32.
    np.testing.assert_allclose(found.values, expected, atol=1e-6 * float(expected.abs().max()))


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("method", ["deeplift", "integrated-gradients"])
def test_without_a_reference_the_error_says_how_to_get_one(method: str) -> None:
    network, x = published(2), image(2, 2, (26, 26))
    evaluation = Evaluation(explainable(network, x.shape[1:]), x, CPU)
    with pytest.raises(UsageError, match=f"none was given.*--reference.*--{method}-baseline blur"):
        attribute(evaluation, method, Target(1), {"baseline": "reference"})
    small = Companions(reference=x[..., :-1])
    with pytest.raises(GridMismatchError, match="1×2×26×25"):
        attribute(evaluation, method, Target(1), {"baseline": "reference"}, companions=small)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.dense = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Linear(3 * 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense((self.conv(x) * torch.sigmoid(self.gate(x))).flatten(1))


def test_an_operation_whose_differences_do_not_follow_is_named() -> None:
    torch.manual_seed(0)
    network, x = Gated().double().eval(), image(2, 2, (10, 10))
    with pytest.raises(NetworkError, match="DeepLIFT has no rule for Product.*integrated-gradients"):
        ours(network, x, x * 0, Target(1))
