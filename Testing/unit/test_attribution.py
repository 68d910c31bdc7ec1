"""Attribution: targets, options, sums, notes; the same for every method, in 2D and 3D."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import Attending, EveryOperation, PublishedStyle, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, Method, attribute, available_methods, get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import Cancelled, GridMismatchError, NetworkError, UnknownNameError, UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import explainable, opaque
from ADAttributionLogic.occlusion.windows import WindowGrid

CPU = torch.device("cpu")
METHODS = [method.name for method in available_methods()]


def case_of(name: str, dimensions: int = 2) -> tuple[nn.Module, Tensor]:
    """A network that the method can explain, and an image."""
    torch.manual_seed(dimensions)
    made = Attending(dimensions) if get_method(name).needs_attention else PublishedStyle(dimensions)
    return make_lively(made), image(1, dimensions, (20, 20, 20))


def evaluate(network: nn.Module, x: Tensor) -> Evaluation:
    return Evaluation(explainable(network, x.shape[1:]), x, CPU)


@pytest.fixture
def case() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return make_lively(PublishedStyle(2)), image(1, 2, (20, 20))


def regions_of(x: Tensor) -> Tensor:
    labels = torch.zeros(x.shape[2:], dtype=torch.int)
    labels[2:8, 3:9], labels[10:15, 5:12] = 1, 5
    return labels


def companions_of(x: Tensor) -> Companions:
    """What methods by region and methods that compare with a reference need."""
    regions = regions_of(x) if x.ndim == 4 else torch.ones(x.shape[2:], dtype=torch.int)
    return Companions(regions=regions, reference=x.roll(3, -1) / 2)


# ---------------------------------------------------------------------------------------------------- for all methods


def test_the_methods_that_there_are() -> None:
    assert METHODS == [
        "lrp", "deeplift", "sensitivity", "gradient-x-input", "guided-backprop", "integrated-gradients", "smoothgrad",
        "occlusion", "voxel-occlusion", "area-occlusion", "grad-cam", "attention-rollout",
    ]  # fmt: skip
    for method in available_methods():
        assert method.summary.endswith((".", "?", ")")) and method.source
        assert all(option.help for option in method.options)


@pytest.mark.parametrize("start", ["probability", "logit", "unit"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_result_carries_what_is_needed_to_judge_it(name: str, start: str, dimensions: int) -> None:
    network, x = case_of(name, dimensions)
    result = attribute(
        evaluate(network, x),
        name,
        Target(1, start),
        companions=companions_of(x),
    )
    assert result.values.shape == tuple(x.shape[1:]) and np.isfinite(result.values).all()
    assert result.heatmap.shape == tuple(x.shape[2:])
    logits = network(x)
    expected = torch.softmax(logits, 1)[0, 1] if start == "probability" else logits[0, 1]
    assert result.score == pytest.approx(float(expected))
    assert result.relevance_sum == pytest.approx(result.values.sum(dtype=np.float64))
    assert result.unattributed == pytest.approx(result.to_attribute - result.relevance_sum)
    assert (result.method, result.class_index, result.start) == (name, 1, start)
    assert set(result.options) == {option.name for option in get_method(name).options}
    assert result.seconds > 0 and result.device.startswith("cpu")
    assert sum(result.probabilities) == pytest.approx(1)
    if start == "unit" and name == "lrp":
        assert result.to_attribute == 1
    elif start == "unit":
        assert np.abs(result.values).sum() == pytest.approx(1) or not result.values.any()
    if not get_method(name).is_signed:
        assert (result.values >= 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_results_repeat_exactly(name: str) -> None:
    network, x = case_of(name)
    first = attribute(evaluate(network, x), name, companions=companions_of(x))
    second = attribute(evaluate(network, x), name, companions=companions_of(x))
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize("name", METHODS)
def test_sharing_an_evaluation_changes_nothing(name: str) -> None:
    network, x = case_of(name)
    shared = evaluate(network, x)
    others = [m for m in METHODS if not get_method(m).needs_attention]
    for other in ["sensitivity", "grad-cam", "lrp", name] if get_method(name).needs_attention else others:
        attribute(shared, other, companions=companions_of(x))
    alone = attribute(evaluate(network, x), name, companions=companions_of(x))
    np.testing.assert_array_equal(attribute(shared, name, companions=companions_of(x)).values, alone.values)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_cancelled(name: str) -> None:
    network, x = case_of(name)
    calls = 0

    def cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > 1

    with pytest.raises(Cancelled):
        monitor = Monitor(is_cancelled=cancelled)
        evaluation = Evaluation(explainable(network, x.shape[1:]), x, CPU, monitor)
        attribute(evaluation, name, monitor=monitor, companions=companions_of(x))


def test_unknown_names_and_values_out_of_range(case: tuple[nn.Module, Tensor]) -> None:
    evaluation = evaluate(*case)
    with pytest.raises(UnknownNameError, match="Did you mean guided-backprop"):
        attribute(evaluation, "guided-backpropagation")
    with pytest.raises(UnknownNameError, match="option of lrp named 'betta'. Did you mean beta"):
        attribute(evaluation, "lrp", options={"betta": 1})
    with pytest.raises(UnknownNameError, match="e-rule"):
        attribute(evaluation, "lrp", options={"rule": "erule"})
    with pytest.raises(UsageError, match="between 0 and 100, but is -1"):
        attribute(evaluation, "lrp", options={"beta": -1})
    with pytest.raises(UsageError, match="must be a whole number, but is 2.5"):
        attribute(evaluation, "occlusion", options={"size": 2.5})
    with pytest.raises(UsageError, match="must be a number, but is nan"):
        attribute(evaluation, "lrp", options={"beta": float("nan")})
    with pytest.raises(UsageError, match="must be of type bool"):
        attribute(evaluation, "occlusion", options={"signed": 1})
    with pytest.raises(UsageError, match="whole number ≥ 1, but is 1.5"):
        attribute(evaluation, "lrp", options={"rule": "e-rule", "exponent": 1.5})
    with pytest.raises(UsageError, match="2 classes .* no class 2"):
        attribute(evaluation, "lrp", Target(2))
    with pytest.raises(UsageError, match="start must be one of"):
        Target(start="probabilty")
    with pytest.raises(UsageError, match="needs an atlas"):
        attribute(evaluation, "area-occlusion")
    with pytest.raises(GridMismatchError, match="takes one image of 1×1×20×20"):
        Evaluation(evaluation.network, torch.zeros(1, 1, 20, 21), CPU)


def test_the_most_probable_class_is_explained_unless_told(case: tuple[nn.Module, Tensor]) -> None:
    network, x = case
    assert attribute(evaluate(network, x), "sensitivity").class_index == int(network(x).argmax())


def test_an_answer_that_is_nan_is_refused() -> None:
    network = PublishedStyle(2).double().eval()
    network.conv_2.weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(NetworkError, match=r"PublishedStyle gave NaN or infinite outputs for this image \(nan, nan\)"):
        attribute(evaluate(network, image(1, 2, (20, 20))), "lrp", Target(1))


@pytest.mark.parametrize("method", ["sensitivity", "gradient-x-input"])
def test_nan_never_becomes_a_map(method: str) -> None:
    """The answer to an empty image is finite, its derivative 1e400."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)).double().eval()
    for layer in (network[1], network[2]):
        nn.init.constant_(layer.weight, 1e200)
    network[2].weight.data[0] *= -1
    with pytest.raises(NetworkError, match="NaN or infinite relevance"):
        attribute(evaluate(network, torch.zeros(1, 1, 2, 2, dtype=torch.float64)), method, Target(1))


# --------------------------------------------------------------------------------------------------- sigmoid networks


@pytest.fixture
def sigmoid_case() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    return make_lively(nn.Sequential(PublishedStyle(2, classes=1), nn.Sigmoid())), image(1, 2, (20, 20))


@pytest.mark.parametrize("class_index", [0, 1])
@pytest.mark.parametrize("name", ["sensitivity", "gradient-x-input", "occlusion", "lrp", "integrated-gradients"])
@pytest.mark.parametrize("start", ["probability", "logit"])
def test_one_sigmoid_output_is_two_classes(
    sigmoid_case: tuple[nn.Module, Tensor], class_index: int, name: str, start: str
) -> None:
    """Equal to the same network with two softmax outputs, of which the first is −z/2 and the second z/2."""
    network, x = sigmoid_case
    two = make_lively(PublishedStyle(2, classes=2))
    two.load_state_dict({k: v for k, v in network[0].state_dict().items() if not k.startswith("dense_2")}, strict=False)
    last = network[0].dense_2
    two.dense_2.weight.data = torch.cat([-last.weight / 2, last.weight / 2]).detach()
    two.dense_2.bias.data = torch.cat([-last.bias / 2, last.bias / 2]).detach()
    options = {"occlusion": {"signed": True}, "sensitivity": {"postprocess": "signed"}, "lrp": {"epsilon": 1e-13}}.get(
        name, {}
    )
    one = attribute(evaluate(network, x), name, Target(class_index, start), options)
    other = attribute(evaluate(two, x), name, Target(class_index, start), options)
    factor = 2 if start == "logit" else 1
    assert one.score == pytest.approx(other.score * factor)
    np.testing.assert_allclose(one.values, other.values * factor, atol=1e-9 * max(1, np.abs(other.values).max()))


# ---------------------------------------------------------------------------------------------------------------- LRP


def without_biases(network: nn.Module) -> nn.Module:
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    for m in network.modules():
        if hasattr(m, "running_mean"):
            m.running_mean.zero_()
            m.weight.data.abs_()
    return network


@pytest.mark.parametrize("rule", ["b-rule", "e-rule"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("start", ["probability", "logit", "unit"])
def test_relevance_is_conserved_layer_by_layer(rule: str, beta: float, start: str) -> None:
    """Without biases and zeros, all of the start relevance reaches the image, through every layer."""
    torch.manual_seed(1)
    network = without_biases(make_lively(PublishedStyle(3)))
    network.dense_2.weight.data.abs_()
    x = image(1, 3, (20, 20, 20)).abs() + 0.1
    result = attribute(evaluate(network, x), "lrp", Target(1, start), {"rule": rule, "beta": beta, "epsilon": 1e-12})
    assert result.is_conserving
    assert result.relevance_by_layer["input"] == pytest.approx(result.relevance_sum)
    lost_at = [layer for layer, total in result.relevance_by_layer.items() if abs(total - result.to_attribute) > 1e-6]
    # With β = 0 a neuron without positive contributions keeps its relevance; here none is active.
    assert not lost_at and abs(result.unattributed) < 1e-6


def test_what_does_not_reach_the_image_is_reported() -> None:
    """Zero background: in a seed-like network part of the relevance ends in voxels that are 0 (trap 7)."""
    torch.manual_seed(1)
    network = make_lively(PublishedStyle(3))
    x = image(1, 3, (20, 20, 20)).abs()
    x[:, :, :8] = 0
    result = attribute(evaluate(network, x), "lrp", Target(1, "unit"))
    assert result.unattributed == pytest.approx(1 - result.values.sum())
    assert result.unattributed > 0.01
    assert not result.values[:, :8].any()


def test_batch_norm_pass_equals_fold_where_they_must_be_equal() -> None:
    """METHODS: for the e-rule without bias always; for the b-rule when every γ > 0, and not otherwise."""
    torch.manual_seed(2)
    network, x = make_lively(PublishedStyle(3)), image(1, 3, (20, 20, 20)).abs()

    def difference(**options: object) -> float:
        fold, ignore = (
            attribute(evaluate(network, x), "lrp", Target(1, "logit"), {**options, "batch_norm": how}).values
            for how in ("fold", "pass")
        )
        return float(np.abs(fold - ignore).max() / np.abs(fold).max())

    assert difference(rule="e-rule", epsilon=1e-12) < 1e-7
    assert difference(rule="b-rule", epsilon=1e-12) > 0.01
    for m in (network.norm_1, network.norm_2):
        m.weight.data.abs_()
    assert difference(rule="b-rule", epsilon=1e-12) < 1e-9


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("rule", ["b-rule", "e-rule", "epsilon-plus-flat", "epsilon-gamma-box"])
def test_lrp_passes_every_operation(dimensions: int, rule: str) -> None:
    """Residual adds, overlapping pools, dilation, shared ReLUs, stride 2, 'same', reuse: no exception, no NaN."""
    torch.manual_seed(dimensions)
    network, x = make_lively(EveryOperation(dimensions)), image(2, dimensions)
    result = attribute(evaluate(network, x), "lrp", Target(2), {"rule": rule})
    assert np.isfinite(result.values).all() and np.abs(result.values).max() > 0


def test_the_first_layers_rule_can_be_chosen(case: tuple[nn.Module, Tensor]) -> None:
    evaluation = evaluate(*case)
    maps = {
        r: attribute(evaluation, "lrp", Target(1), {"first_rule": r}).values
        for r in ("preset", "same", "flat", "w-square", "z-box")
    }
    np.testing.assert_array_equal(maps["preset"], maps["same"])
    assert len({m.tobytes() for m in maps.values()}) == 4
    assert (maps["flat"] != 0).mean() > (maps["same"] != 0).mean() - 1e-9, "flat gives relevance to zero voxels, too"


# ------------------------------------------------------------------------------------------------------ other methods


def test_integrated_gradients_are_complete(case: tuple[nn.Module, Tensor]) -> None:
    network, x = case
    result = attribute(evaluate(network, x), "integrated-gradients", Target(1), {"steps": 300, "baseline": 0.1})
    baseline = torch.softmax(network(torch.full_like(x, 0.1)), 1)[0, 1]
    assert result.to_attribute == pytest.approx(result.score - float(baseline))
    assert abs(result.unattributed) < 1e-3 * abs(result.to_attribute) + 1e-6


def test_smoothgrad_without_noise_is_sensitivity(case: tuple[nn.Module, Tensor]) -> None:
    evaluation = evaluate(*case)
    for how in ("abs", "square", "signed"):
        smooth = attribute(evaluation, "smoothgrad", Target(1), {"noise": 0, "samples": 2, "postprocess": how})
        plain = attribute(evaluation, "sensitivity", Target(1), {"postprocess": how})
        np.testing.assert_allclose(smooth.values, plain.values, atol=1e-15)


def test_smoothgrad_depends_on_its_seed_only(case: tuple[nn.Module, Tensor]) -> None:
    evaluation = evaluate(*case)
    one, again, other = (
        attribute(evaluation, "smoothgrad", Target(1), {"seed": s, "samples": 3}).values for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0


def test_guided_backprop_needs_relus() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with pytest.raises(NetworkError, match="has none; use sensitivity"):
        attribute(evaluate(network, image(1, 2, (3, 3))), "guided-backprop")


def test_grad_cam_chooses_the_variant_that_the_head_allows(case: tuple[nn.Module, Tensor]) -> None:
    """Averaging gradients over positions is meaningless before a dense layer that weighs positions differently."""
    assert "hires-cam of relu#2" in attribute(evaluate(*case), "grad-cam", Target(1)).notes[0]
    pooled = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    ).double()
    assert "grad-cam of 1" in attribute(evaluate(pooled, case[1]), "grad-cam", Target(1)).notes[0]
    named = attribute(evaluate(*case), "grad-cam", Target(1), {"layer": "conv_1"})
    assert "hires-cam of conv_1" in named.notes[0]
    with pytest.raises(UnknownNameError, match="no layer with feature maps named 'conv_9'.*Known: .*conv_1, conv_2"):
        attribute(evaluate(*case), "grad-cam", options={"layer": "conv_9"})
    with pytest.raises(UsageError, match="dense_1 .* is no grid of units with a place in the image.*one of conv_1"):
        attribute(evaluate(*case), "grad-cam", options={"layer": "dense_1"})


def test_grad_cam_refuses_a_constant_map() -> None:
    """Of maps that no longer differ from place to place, and where no layer is left that all others depend on."""
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.nn.init.zeros_(network[0].weight)
    evaluation = evaluate(network.double(), image(1, 2, (9, 9)))
    with pytest.raises(NetworkError, match="Grad-CAM of layer 2 .* is constant: .* at all of its 7×7 units"):
        attribute(evaluation, "grad-cam", Target(1))
    dense = nn.Sequential(nn.Flatten(), nn.Linear(81, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with pytest.raises(NetworkError, match="no feature maps"):
        attribute(evaluate(dense, image(1, 2, (9, 9))), "grad-cam", Target(1))


def test_grad_cam_says_when_nothing_speaks_for_the_class() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    torch.nn.init.constant_(network[4].weight, -1.0)
    found = attribute(evaluate(network.double(), image(1, 2, (9, 9))), "grad-cam", Target(1, "logit"))
    assert not found.values.any() and "No unit speaks for the class" in found.notes[1]


@pytest.mark.parametrize(("size", "stride"), [(6, 3), (5, 4), (1, 7), (40, 25), (3, 8)])
@pytest.mark.parametrize("shape", [(20, 17), (20, 17, 9)])
def test_occlusion_values_stand_where_the_windows_were(shape: tuple[int, ...], size: int, stride: int) -> None:
    """No corner-to-corner zoom (trap 2): a voxel's value is the mean over the windows that cover it."""
    grid = WindowGrid(shape, size, stride)
    boxes = list(grid.boxes())
    values = torch.arange(1.0, len(boxes) + 1)
    total, hits = np.zeros(shape), np.zeros(shape)
    for value, box in zip(values, boxes, strict=True):
        total[box] += value.item()
        hits[box] += 1
    np.testing.assert_allclose(grid.place(values.reshape(grid.counts)), total / np.maximum(hits, 1), atol=1e-12)


def test_occlusion_windows_are_those_of_the_publication() -> None:
    """Centres at range(0, N, stride), window [c − size//2, c + size//2) clipped to the image; 640 windows of 40/25."""
    grid = WindowGrid((193, 229, 193), 40, 25)
    assert grid.counts == (8, 10, 8) and len(list(grid.boxes())) == 640
    assert grid.intervals(0)[:2] == [(0, 20), (5, 45)] and grid.intervals(0)[-1] == (155, 193)
    assert WindowGrid((9,), 1, 4).intervals(0) == [(0, 1), (4, 5), (8, 9)]
    assert WindowGrid((9,), 5, 4).intervals(0) == [(0, 3), (2, 7), (6, 9)]


@pytest.mark.parametrize("signed", [False, True])
def test_area_occlusion_covers_one_region_at_a_time(case: tuple[nn.Module, Tensor], signed: bool) -> None:
    network, x = case
    labels = regions_of(x)
    result = attribute(
        evaluate(network, x), "area-occlusion", Target(1), {"signed": signed, "fill": 0.3}, regions=labels
    )
    for label in (1, 5):
        covered = torch.where(labels == label, 0.3, x)
        drop = float(torch.softmax(network(x), 1)[0, 1] - torch.softmax(network(covered), 1)[0, 1])
        np.testing.assert_allclose(result.heatmap[labels == label], drop if signed else max(drop, 0), atol=1e-12)
    assert not result.heatmap[labels == 0].any()


def test_occlusion_leaves_the_image_as_it_was(case: tuple[nn.Module, Tensor]) -> None:
    network, x = case
    before = x.clone()
    attribute(evaluate(network, x), "occlusion", options={"size": 5, "stride": 5})
    assert torch.equal(x, before)


# ---------------------------------------------------------------------------------- networks whose layers are unknown


class Unknown(nn.Module):
    """Has an operation without rule."""

    def __init__(self, ends_with_softmax: bool = False) -> None:
        super().__init__()
        self.conv, self.dense, self.softmax = nn.Conv2d(1, 3, 3), nn.Linear(3 * 18 * 18, 2), ends_with_softmax

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.dense((x / torch.log2(2 + x**2)).flatten(1))
        return torch.softmax(x, 1) if self.softmax else x


@pytest.mark.parametrize("method", [m for m in METHODS if not get_method(m).needs_layers])
def test_gradients_and_occlusion_explain_any_network(method: str) -> None:
    torch.manual_seed(0)
    network, x = Unknown().eval(), image(1, 2, (20, 20)).float()
    explained = explainable(network, x.shape[1:], allow_opaque=True)
    assert explained.graph is None and "aten.log2" in explained.why_opaque
    result = attribute(Evaluation(explained, x, CPU), method, Target(1), regions=regions_of(x))
    assert result.score == pytest.approx(float(torch.softmax(network(x), 1)[0, 1]), abs=1e-6)
    assert np.abs(result.values).max() > 0


def test_opaque_probabilities_have_logarithms_for_logits() -> None:
    torch.manual_seed(0)
    network, x = Unknown(ends_with_softmax=True).eval(), image(1, 2, (20, 20)).float()
    explained = opaque(network, x.shape[1:], "a test", gives_probabilities=True)
    result = attribute(Evaluation(explained, x, CPU), "sensitivity", Target(1), {"postprocess": "signed"})
    x.requires_grad_(True)
    (expected,) = torch.autograd.grad(network(x)[0, 1], x)
    assert result.score == pytest.approx(float(network(x)[0, 1]), abs=1e-6)
    np.testing.assert_allclose(result.values, expected[0], atol=1e-7)


@pytest.mark.parametrize("method", [m for m in METHODS if get_method(m).needs_layers])
def test_methods_that_need_the_layers_say_so(method: str) -> None:
    explained = explainable(Unknown().eval(), (1, 20, 20), allow_opaque=True)
    with pytest.raises(NetworkError, match="layers of Unknown are not known .*aten.log2.*only the gradient"):
        attribute(Evaluation(explained, torch.rand(1, 1, 20, 20), CPU), method)


# ------------------------------------------------------------------------------------------------------ out of memory


def test_when_the_gpu_is_full_the_cpu_takes_over(case: tuple[nn.Module, Tensor]) -> None:
    """The real fallback with a real out-of-memory error of PyTorch, raised where a GPU would raise it."""
    network, x = case
    real = get_method("sensitivity")
    evaluation = evaluate(network, x)
    asked_on: list[str] = []

    def run(job: object) -> object:
        asked_on.append(job.evaluation.device.type)
        if job.evaluation.device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real.run(job)

    method = Method("hungry", "Hungry", "?", "none", run, real.options)
    _ = evaluation.logits
    evaluation.device = torch.device("meta")  # stands for a device that is not the CPU
    result = attribute(evaluation, method, Target(1))
    assert asked_on == ["meta", "cpu"]
    assert "ran out of memory; Hungry was computed on the CPU" in result.notes[0]
    np.testing.assert_array_equal(result.values, attribute(evaluate(network, x), "sensitivity", Target(1)).values)
