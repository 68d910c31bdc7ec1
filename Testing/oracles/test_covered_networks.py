"""Every network of the README's list, narrow and in double precision: autograd, captum, zennit and full passes agree.

With random weights (statistics and signs of batch normalisation included) and after some steps of training. MONAI's and
torchvision's networks are their own code; what each is compared with is derived without ours.
"""

from __future__ import annotations

import copy
import types
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from covered_networks import COVERED, Covered, leave_out_compiled_torchvision
from guided import with_guided
from small_networks import always_in_boxes, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import NetworkError, UnsupportedOperationError
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.networks.exported_file import read_exported_network
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.occlusion.covering import cover_boxes
from ADAttributionLogic.propagation.account import kept_by_cause

pytest.importorskip("monai", reason="MONAI is an optional oracle: pip install monai einops")
pytest.importorskip("einops", reason="MONAI's transformers need it: pip install einops")
captum = pytest.importorskip("captum.attr")

CPU = torch.device("cpu")
TARGET = Target(1, "logit")

CASES = [pytest.param((name, weights), id=f"{name}-{weights}") for name in COVERED for weights in ("random", "trained")]


@dataclass(frozen=True, eq=False)
class Case:
    """A network, an image, and the network as traced."""

    network: nn.Module
    image: Tensor
    evaluation: Evaluation
    is_transformer: bool


@lru_cache(maxsize=1)  # the tests of a case follow each other
def case(name: str, weights: str) -> Case:
    torch.manual_seed(0)
    covered = COVERED[name]
    if covered.source == "torchvision":
        leave_out_compiled_torchvision()
        pytest.importorskip("torchvision", reason="optional oracle: pip install torchvision")
    network = trained(covered) if weights == "trained" else make_lively(covered.narrow())
    image = torch.randn(1, *covered.small, dtype=torch.float64)
    try:
        explained = explainable(network, covered.small)
    except UnsupportedOperationError as refused:  # by its name: nothing is explained wrongly
        assert covered.is_transformer, refused
        pytest.skip(str(refused))
    return Case(network, image, Evaluation(explained, image, CPU), covered.is_transformer)


@pytest.fixture(scope="module", params=CASES)
def chosen(request: pytest.FixtureRequest) -> Case:
    return case(*request.param)


def trained(covered: Covered, steps: int = 3) -> nn.Module:
    """A few steps on two noisy images, of which one is brighter."""
    network = covered.narrow().train()
    images = torch.randn(2, *covered.small) + torch.tensor([0.0, 0.5]).view(2, *(1,) * len(covered.small))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), torch.tensor([0, 1])).backward()
        optimiser.step()
    return network.double().eval()


def require_same(found: np.ndarray, expected: Tensor, to: float) -> None:
    scale = max(float(expected.abs().max()), 1e-30)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0, atol=to * scale)


def test_gradients_are_autograds(chosen: Case) -> None:
    leaf = chosen.image.clone().requires_grad_()
    scores = chosen.network(leaf)
    np.testing.assert_allclose(chosen.evaluation.logits, scores.detach(), atol=1e-9 * float(scores.abs().max()))
    (expected,) = torch.autograd.grad(scores[0, 1], leaf)
    found = attribute(chosen.evaluation, "sensitivity", TARGET, {"postprocess": "signed"})
    require_same(found.values, expected[0], 1e-9)


def test_guided_backpropagation_is_captums(chosen: Case) -> None:
    """captum knows ReLU alone; at ELU, too, negative gradients are dropped here, which autograd is made to do."""
    network = copy.deepcopy(chosen.network)
    options = {"postprocess": "signed"}
    if not any(isinstance(module, (nn.ReLU, nn.ELU)) for module in network.modules()):
        with pytest.raises(NetworkError, match="has none; use sensitivity instead"):
            attribute(chosen.evaluation, "guided-backprop", TARGET, options)
        return
    found = attribute(chosen.evaluation, "guided-backprop", TARGET, options)
    leaf = chosen.image.clone().requires_grad_()
    if any(isinstance(module, nn.ELU) for module in network.modules()):
        (expected,) = torch.autograd.grad(with_guided(network, (nn.ELU, nn.ReLU))(leaf)[0, 1], leaf)
    else:
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        expected = captum.GuidedBackprop(network).attribute(leaf, 1)
    require_same(found.values, expected[0], 1e-9)


def test_windows_give_the_logits_of_full_passes(chosen: Case) -> None:
    shape = np.array(chosen.image.shape[2:])
    lows = np.stack([shape * 0, shape // 2 - 1, shape - 3])
    highs = lows + 3
    expected = []
    for low, high in zip(lows, highs, strict=True):
        covered = chosen.image.clone()
        covered[(0, slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 0
        with torch.no_grad():
            expected.append(chosen.network(covered)[0])
    cover = cover_boxes(torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64), lows, highs)
    with always_in_boxes():
        for numbers, logits in IncrementalForward(chosen.evaluation.recording()).run(lows, highs, cover):
            for number, row in zip(numbers, logits, strict=True):
                torch.testing.assert_close(row, expected[number], rtol=1e-9, atol=1e-9)


def kept_in(found: Attribution) -> dict[str, float]:
    """What layers kept, by cause, but for rounding; "gross": all amounts without their signs."""
    assert found.conservation is not None
    kept = kept_by_cause(found.conservation)
    kept.pop("rounding", None)
    return kept | {"gross": sum(abs(a) for line in found.conservation for a in line.kept.values())}


def rules_for(chosen: Case) -> list[str]:
    return ["e-rule", "attn-lrp"] if chosen.is_transformer else ["e-rule", "b-rule"]


def test_what_does_not_reach_the_image_is_accounted_for(chosen: Case) -> None:
    """What each rule tells of its own neurons adds up to what the image lacks; from a tenth on a note says so.

    With random weights, sums nearly cancel and relevances become 10¹⁰ times what was handed out; the account closes
    to rounding of these.
    """
    for rule in rules_for(chosen):
        found = attribute(chosen.evaluation, "lrp", TARGET, {"rule": rule})
        assert np.isfinite(found.values).all()
        kept = kept_in(found)
        gross, size = kept.pop("gross"), abs(found.to_attribute)
        assert found.unattributed == pytest.approx(sum(kept.values()), abs=1e-6 * max(size, gross)), rule
        is_said = any("not conserved" in note for note in found.notes)
        assert is_said or abs(found.unattributed) <= (0.75 if rule == "attn-lrp" else 0.1) * size * (1 + 1e-6), rule


def test_without_biases_relevance_is_conserved(chosen: Case) -> None:
    """To 1e-3, but for what the network adds without being asked (class tokens, position codes) and AttnLRP's softmax.

    So what is lost with biases is lost by them alone, and by the stabiliser.
    """
    network = copy.deepcopy(chosen.network)
    with torch.no_grad():
        for module in network.modules():
            for name in ("bias", "in_proj_bias", "running_mean"):
                if isinstance(getattr(module, name, None), Tensor):
                    getattr(module, name).zero_()
    evaluation = Evaluation(explainable(network, tuple(chosen.image.shape[1:])), chosen.image, CPU)
    for rule in {"e-rule", *rules_for(chosen)} - {"b-rule"}:  # with one sign alone, there can be none of that sign
        found = attribute(evaluation, "lrp", TARGET, {"rule": rule, "epsilon": 1e-12})
        kept = kept_in(found)
        promised = kept.get("constants", 0.0) + kept.get("softmax", 0.0) if chosen.is_transformer else 0.0
        assert abs(found.unattributed - promised) <= 1e-3 * abs(found.to_attribute), (rule, kept)


def gradient_by_autograd(network: nn.Module, image: Tensor) -> Tensor:
    leaf = image.clone().requires_grad_()
    (found,) = torch.autograd.grad(network(leaf)[0, 1], leaf)
    return found[0].double()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SFCN", "ViT"])
def test_at_the_size_at_which_it_is_used_the_same_holds_in_single_precision(name: str) -> None:
    """With the weights that its code draws. Poolings choose between nearly equal voxels by rounding, here as in
    autograd: the gradient is as near to that of double precision as autograd's. LRP loses what its account says."""
    torch.manual_seed(0)
    covered = COVERED[name]
    network, image = covered.published().eval(), torch.rand(1, *covered.shape)
    evaluation = Evaluation(explainable(network, covered.shape), image, CPU)
    found = attribute(evaluation, "sensitivity", TARGET, {"postprocess": "signed"})
    by_autograd = gradient_by_autograd(network, image)
    relevance = attribute(evaluation, "lrp", TARGET, {"rule": "attn-lrp" if covered.is_transformer else "b-rule"})
    kept = kept_in(relevance)
    gross = kept.pop("gross")
    assert relevance.unattributed == pytest.approx(sum(kept.values()), abs=1e-3 * max(gross, relevance.to_attribute))
    exact = gradient_by_autograd(network.double(), image.double())
    ours, theirs = (
        float((each - exact).norm() / exact.norm()) for each in (torch.from_numpy(found.values), by_autograd)
    )
    assert ours <= max(2 * theirs, 1e-4) and theirs < 0.05


# --------------------------------------------------------------------------------------------------------------- zennit


#: Of these, zennit knows every layer. Its z⁺-rule is for layers with weights, not for sums and means of either sign.
WITHOUT_SUMS = ["ClinicaDL Conv5_FC3", "ClinicaDL Conv4_FC3", "ClinicaDL Stride_Conv5_FC3", "SFCN", "VoxCNN (Korolev)"]
WITH_SUMS = ["ResNet18", "ResNet50", "DenseNet121", "r3d_18", "mc3_18", "r2plus1d_18"]
LRP_CASES = [(name, "e-rule") for name in (*WITHOUT_SUMS, *WITH_SUMS)] + [(name, "b-rule") for name in WITHOUT_SUMS]


def show_additions(network: nn.Module, addition: type[nn.Module]) -> nn.Module:
    """Residual blocks that add by a module, at which zennit divides the relevance (its canonizers do so in 2D)."""

    def residual(block: nn.Module, x: Tensor) -> Tensor:
        shortcut = x if block.downsample is None else block.downsample(x)
        if hasattr(block, "bn1"):  # MONAI
            y = block.bn2(block.conv2(block.act(block.bn1(block.conv1(x)))))
            if hasattr(block, "bn3"):
                y = block.bn3(block.conv3(block.act(y)))
            return block.act(block.addition(torch.stack([y, shortcut], -1)))
        return block.relu(block.addition(torch.stack([block.conv2(block.conv1(x)), shortcut], -1)))

    for module in list(network.modules()):
        if hasattr(module, "downsample") and hasattr(module, "conv2"):
            module.addition = addition()
            module.forward = types.MethodType(residual, module)
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return network


@pytest.mark.parametrize(("name", "rule"), sorted(LRP_CASES))
def test_lrp_is_zennits(name: str, rule: str) -> None:
    chosen = case(name, "random")
    leave_out_compiled_torchvision()
    composites = pytest.importorskip("zennit.composites", reason="optional oracle: pip install zennit")
    from zennit.attribution import Gradient
    from zennit.layer import Sum
    from zennit.rules import Epsilon, Norm, Pass, ZPlus
    from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

    weighted, sums = (
        (Epsilon(1e-6, zero_params=["bias"]), Norm()) if rule == "e-rule" else (ZPlus(zero_params=["bias"]), ZPlus())
    )
    kinds = [(Activation, Pass()), (BatchNorm, Pass()), (AvgPool, sums), (Sum, sums)]
    composite = composites.LayerMapComposite([*kinds, (Convolution, weighted), (Linear, weighted)])
    network = show_additions(copy.deepcopy(chosen.network), Sum)
    with Gradient(model=network, composite=composite) as attributor:
        _, expected = attributor(chosen.image, lambda y: torch.eye(2, dtype=y.dtype)[[1]] * y.detach())
    options = {"rule": rule, "batch_norm": "pass"}
    found = attribute(chosen.evaluation, "lrp", TARGET, options)
    require_same(found.values, expected[0], 1e-5)


# --------------------------------------------------------------------------------------------------------------- files

#: One of each family: what the others consist of is among them.
FAMILIES = [
    *("ResNet50", "DenseNet121", "SEResNet50", "EfficientNetBN-B0", "ViT", "SwinUNETR's encoder", "r2plus1d_18"),
    *("mvit_v2_s", "swin3d_t", "ClinicaDL Conv5_FC3", "ClinicaDL SqueezeExcitationCNN", "VoxResNet (Korolev)", "SFCN"),
    "M3T's form",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_file_is_explained_as_the_network_is(name: str, tmp_path: Path) -> None:
    """All that it consists of is on the list of operations that may be run from a file."""
    covered = COVERED[name]
    leave_out_compiled_torchvision()
    if covered.source == "torchvision":
        pytest.importorskip("torchvision", reason="optional oracle: pip install torchvision")
    torch.manual_seed(0)
    network = make_lively(covered.narrow()).float()
    image = torch.randn(1, *covered.small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, (image,), strict=False), tmp_path / "network.pt2")
    read = read_exported_network(tmp_path / "network.pt2")
    assert read.input_shape == covered.small
    torch.testing.assert_close(read(image), network(image))
    evaluation = Evaluation(explainable(read, covered.small), image, CPU)
    leaf = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf)[0, 1], leaf)
    found = attribute(evaluation, "sensitivity", TARGET, {"postprocess": "signed"})
    require_same(found.values, expected[0], 1e-3)
