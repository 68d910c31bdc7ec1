"""Agreement with captum, on networks in 1, 2 and 3 dimensions (float64)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import captum.attr as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from field_networks import SFCN, DenseNet121, ResNet18, settle
from guided import Guided, with_guided
from small_networks import EveryOperation, PublishedStyle, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.gradcam import feature_layer, layer_choices
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.graph.chains import SLAB_BYTES
from ADAttributionLogic.graph.receptive_field import place_on_image, unit_placement
from ADAttributionLogic.networks.network import Network, explainable

CPU = torch.device("cpu")


class Probabilities(nn.Module):
    """Softmax after a network that returns logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.network(x), dim=1)


def ours(network: nn.Module, x: Tensor, method: str, target: Target, **options: object) -> np.ndarray:
    evaluation = Evaluation(explainable(network, x.shape[1:]), x, CPU)
    return attribute(evaluation, method, target, options).values


@pytest.fixture(params=[1, 2, 3], ids=["1D", "2D", "3D"])
def published(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(request.param + 10)
    return make_lively(PublishedStyle(request.param, channels=2)), image(2, request.param, (20, 20, 20))


@pytest.mark.parametrize("class_index", [0, 1])
def test_sensitivity(published: tuple[nn.Module, Tensor], class_index: int) -> None:
    network, x = published
    target = Target(class_index, "probability")
    expected = reference.Saliency(Probabilities(network)).attribute(x, class_index, abs=False)[0]
    np.testing.assert_allclose(ours(network, x, "sensitivity", target, postprocess="signed"), expected, atol=1e-13)
    np.testing.assert_allclose(ours(network, x, "sensitivity", target), expected.abs(), atol=1e-13)
    np.testing.assert_allclose(ours(network, x, "sensitivity", target, postprocess="square"), expected**2, atol=1e-13)
    expected = reference.Saliency(network).attribute(x, class_index, abs=False)[0]
    np.testing.assert_allclose(
        ours(network, x, "sensitivity", Target(class_index, "logit"), postprocess="signed"), expected, atol=1e-13
    )


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_sensitivity_of_every_operation(dimensions: int) -> None:
    torch.manual_seed(dimensions)
    network, x = make_lively(EveryOperation(dimensions)), image(2, dimensions)
    network.relu.inplace = False  # captum differentiates through autograd, which in-place ReLUs of leaves forbid
    expected = reference.Saliency(Probabilities(network)).attribute(x, 1, abs=False)[0]
    np.testing.assert_allclose(ours(network, x, "sensitivity", Target(1), postprocess="signed"), expected, atol=1e-13)


def test_gradient_times_input(published: tuple[nn.Module, Tensor]) -> None:
    network, x = published
    expected = reference.InputXGradient(network).attribute(x, 1)[0]
    np.testing.assert_allclose(ours(network, x, "gradient-x-input", Target(1, "logit")), expected.detach(), atol=1e-13)


def test_guided_backprop_of_a_nested_network(published: tuple[nn.Module, Tensor]) -> None:
    """captum needs a module of its own for each ReLU; ours sees shared and functional ones as well."""
    network, x = published
    unshared = UnsharedReLUs(network)
    expected = reference.GuidedBackprop(unshared).attribute(x, 1)[0].detach()
    found = ours(nn.Sequential(nn.Sequential(network)), x, "guided-backprop", Target(1, "logit"), postprocess="signed")
    np.testing.assert_allclose(found, expected, atol=1e-13)
    plain = reference.Saliency(network).attribute(x, 1, abs=False)[0]
    assert np.abs(found - plain.numpy()).max() > 1e-6


class UnsharedReLUs(nn.Module):
    """PublishedStyle with one ReLU module per use."""

    def __init__(self, network: PublishedStyle) -> None:
        super().__init__()
        self.n = network
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        n = self.n
        x = n.pool(self.relus[0](n.norm_1(n.conv_1(x))))
        x = n.pool(self.relus[1](n.norm_2(n.conv_2(x))))
        return n.dense_2(self.relus[2](n.dense_1(x.flatten(1))))


POOLS = [
    nn.MaxPool3d(3, 2, 1),
    nn.MaxPool3d(2, 1),
    nn.MaxPool3d(3, 2),
    nn.MaxPool3d(3, 1, 1),
    nn.MaxPool3d(3, 2, 1, ceil_mode=True),
    nn.MaxPool3d(2, 2, dilation=2),
    nn.MaxPool3d(2, 3),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_guided_backprop_through_pools_whose_windows_overlap(pool: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches a unit that wins several windows is summed before it is clamped, also across slabs."""
    torch.manual_seed(1)
    norm = nn.BatchNorm3d(4) if pool.stride != 1 else nn.Identity()
    body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), norm, nn.ReLU(), pool, nn.Conv3d(4, 4, 3), nn.ReLU())
    x = image(1, 3, (11, 12, 13))
    network = make_lively(nn.Sequential(body, nn.Flatten(), nn.Linear(body(x.float()).numel(), 2)))
    guided = reference.GuidedBackprop(network).attribute(x, 1)[0].detach()
    plain = reference.Saliency(network).attribute(x, 1, abs=False)[0]
    traced = explainable(network, x.shape[1:])
    for slab_bytes in (1, 20_000, 4_000_000):
        monkeypatch.setitem(SLAB_BYTES, "cpu", slab_bytes)
        for method, expected in (("guided-backprop", guided), ("sensitivity", plain)):
            options = {"postprocess": "signed"}
            found = attribute(Evaluation(traced, x, CPU), method, Target(1, "logit"), options).values
            np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize(
    "activation",
    [nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.ReLU6()],
    ids=lambda a: type(a).__name__,
)
def test_guided_backprop_of_the_relatives_of_relu(activation: nn.Module) -> None:
    """Autograd with activations that drop negative gradients; captum itself does so for nn.ReLU only."""

    def network(function: nn.Module) -> nn.Module:
        torch.manual_seed(3)
        layers = [nn.Conv2d(1, 4, 3), function, nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), function]
        return make_lively(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 5 * 6, 2)))

    x = image(1, 2, (17, 19)).requires_grad_()
    (expected,) = torch.autograd.grad(network(Guided(activation))(x)[0, 1], x)
    evaluation = Evaluation(explainable(network(activation), x.shape[1:]), x.detach(), CPU)
    found = attribute(evaluation, "guided-backprop", Target(1, "logit"), {"postprocess": "signed"})
    np.testing.assert_allclose(found.values, expected[0], atol=1e-13)
    assert "negative gradients are dropped" in found.notes[0]


@dataclass(frozen=True)
class Field:
    """A network of the field in narrow, an image, and the network as traced."""

    network: nn.Module
    image: Tensor
    traced: Network


@pytest.fixture(scope="module", params=["resnet18", "densenet121", "sfcn"])
def field(request: pytest.FixtureRequest) -> Field:
    """An overlapping pool in the stem, shared ReLUs, additions, concatenations, a convolution as head."""
    x = image(1, 3, (32, 36, 33)) * 0.5 + 1
    torch.manual_seed(0)
    network = {
        "resnet18": lambda: ResNet18(planes=(4, 6, 8), blocks=(2, 1, 1), stem_stride=2),
        "densenet121": lambda: DenseNet121(first=6, growth=4, blocks=(2, 3, 2)),
        "sfcn": lambda: SFCN(shape=(32, 36, 33), channels=(4, 6, 8, 8, 5)),
    }[request.param]()
    network = make_lively(settle(network, x.float()))
    return Field(network, x, explainable(network, x.shape[1:]))


def test_guided_backprop_of_the_field(field: Field) -> None:
    leaf = field.image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(with_guided(copy.deepcopy(field.network), (nn.ReLU,))(leaf)[0, 1], leaf)
    evaluation = Evaluation(field.traced, field.image, CPU)
    found = attribute(evaluation, "guided-backprop", Target(1, "logit"), {"postprocess": "signed"}).values
    np.testing.assert_allclose(found, expected[0], atol=1e-12 * float(expected.abs().max()), rtol=0)


def test_guided_backprop_of_an_alexnet() -> None:
    """Böhle-like networks pool without overlap; AlexNet's pools of 3 with stride 2 overlap."""
    torch.manual_seed(2)
    layers = [nn.Conv3d(1, 6, 5, 2), nn.ReLU(), nn.MaxPool3d(3, 2), nn.Conv3d(6, 8, 3, padding=1), nn.BatchNorm3d(8)]
    layers += [nn.ReLU(), nn.MaxPool3d(3, 2), nn.Flatten(), nn.Dropout(), nn.Linear(32, 9), nn.ReLU(), nn.Linear(9, 2)]
    network, x = make_lively(nn.Sequential(*layers)), image(1, 3, (27, 25, 23))
    expected = reference.GuidedBackprop(network).attribute(x, 1)[0].detach()
    found = ours(network, x, "guided-backprop", Target(1, "logit"), postprocess="signed")
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_integrated_gradients(published: tuple[nn.Module, Tensor]) -> None:
    network, x = published
    method = reference.IntegratedGradients(Probabilities(network))
    expected = method.attribute(x, baselines=0.25, target=1, n_steps=20, method="gausslegendre")[0]
    found = ours(network, x, "integrated-gradients", Target(1), steps=20, baseline=0.25)
    # captum multiplies the steps' weights in float32.
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6 * float(expected.abs().max()))


def test_epsilon_rule_with_bias_on_dense_networks() -> None:
    """captum's LRP knows no 3D layers; on dense ones, ε with the bias in the denominator agrees."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(1, 9, dtype=torch.float64)
    found = ours(network, x, "lrp", Target(2, "logit"), rule="e-rule", bias="absorbed", epsilon=1e-9)
    expected = reference.LRP(network).attribute(x, 2)[0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_epsilon_rule_without_epsilon_is_gradient_times_input(published: tuple[nn.Module, Tensor]) -> None:
    """With biases absorbed and ε → 0 the ε-rule is gradient × input in ReLU networks (Shrikumar et al.)."""
    network, x = published
    found = ours(network, x, "lrp", Target(1, "logit"), rule="e-rule", bias="absorbed", epsilon=1e-13)
    np.testing.assert_allclose(found, ours(network, x, "gradient-x-input", Target(1, "logit")), atol=1e-8)


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (6, 6)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_occlusion(dimensions: int, size: int, stride: int) -> None:
    """captum's windows start at voxel 0; padded in front by size/2, they are those of Rieke et al."""
    torch.manual_seed(dimensions)
    network, x = make_lively(PublishedStyle(dimensions)), image(1, dimensions, (20, 20, 20))
    front = size // 2

    class Padded(nn.Module):
        def forward(self, padded: Tensor) -> Tensor:
            return F.softmax(network(padded[(..., *(slice(front, None),) * dimensions)]), dim=1)

    padded = F.pad(x, [front, 0] * dimensions)
    window, strides = (1, *(size,) * dimensions), (1, *(stride,) * dimensions)
    expected = reference.Occlusion(Padded()).attribute(padded, window, strides, target=1)[0]
    expected = expected[(..., *(slice(front, None),) * dimensions)]
    found = ours(network, x, "occlusion", Target(1), size=size, stride=stride, signed=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


def test_grad_cam_before_upsampling() -> None:
    """Where the network averages over positions, Grad-CAM's units are captum's."""
    torch.manual_seed(4)
    network = (
        nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 2),
        )
        .double()
        .eval()
    )
    x = image(1, 2, (21, 19))
    expected = reference.LayerGradCam(network, network[3]).attribute(x, 1, relu_attributions=True)[0, 0]
    found = ours(network, x, "grad-cam", Target(1, "logit"))[0]
    # The last convolution's unit (i, j) sits at voxel 2 + 2·(i, j).
    np.testing.assert_allclose(found[2:20:2, 2:18:2], expected.detach().numpy()[:9, :8], atol=1e-12)


#: Modules whose output Grad-CAM shows: by default (after the addition, of all concatenated channels, before the
#: pooling), and by name (a convolution in front of its batch normalisation, blocks).
SHOWN = {
    "ResNet18": ["layer3.0", "layer1.0.conv2", "layer1.0", "layer2.0.downsample", "bn1"],
    "DenseNet121": ["class_layers.relu", "features.denseblock1.denselayer2", "features.transition1.conv"],
    "SFCN": ["feature_extractor.conv_4", "feature_extractor.conv_1.0", "feature_extractor.conv_2"],
}


def test_grad_cam_of_the_field(field: Field) -> None:
    in_use = copy.deepcopy(field.network)
    for module in in_use.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    default, *others = SHOWN[type(field.network).__name__]
    evaluation = Evaluation(field.traced, field.image, CPU)
    for module, name in ((default, None), (default, default), *((name, name) for name in others)):
        explainer = reference.LayerGradCam(in_use, in_use.get_submodule(module))
        expected = explainer.attribute(field.image, 1, relu_attributions=False)[0, 0].detach()
        assert expected.numel() > 1
        graph = evaluation.graph(folded=name is None)
        layer = feature_layer(graph) if name is None else layer_choices(graph)[name]
        placed = place_on_image(expected, unit_placement(graph, layer), tuple(field.image.shape[2:]))
        found = attribute(evaluation, "grad-cam", Target(1, "logit"), {"layer": name, "signed": True})
        assert found.notes[0].startswith("grad-cam of ")
        np.testing.assert_allclose(found.values[0], placed.numpy(), atol=1e-12 * float(expected.abs().max()), rtol=0)
