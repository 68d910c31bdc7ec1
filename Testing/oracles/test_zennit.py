"""Agreement with zennit (LGPL, for tests only) on convolutional networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from covered_networks import leave_out_compiled_torchvision
from small_networks import image
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.networks.network import explainable

leave_out_compiled_torchvision()
pytest.importorskip("zennit", reason="optional oracle: pip install zennit")
from zennit.attribution import Gradient  # noqa: E402
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat, LayerMapComposite  # noqa: E402
from zennit.rules import AlphaBeta, Epsilon, Pass, ZPlus  # noqa: E402
from zennit.types import Activation, BatchNorm, Convolution, Linear  # noqa: E402


def network(norm: bool, bias: bool) -> nn.Module:
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Conv3d(1, 3, 3, bias=bias)]
    if norm:
        layers.append(nn.BatchNorm3d(3))
    layers += [nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(3, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten()]
    layers += [nn.Linear(4 * 27, 5, bias=bias), nn.ReLU(), nn.Linear(5, 2, bias=bias)]
    module = nn.Sequential(*layers).double().eval()
    if norm:
        nn.init.normal_(module[1].weight)
        module[1].running_mean.normal_()
    return module


def theirs(module: nn.Module, composite: object, x: Tensor) -> np.ndarray:
    def start(output: Tensor) -> Tensor:
        return torch.eye(2, dtype=output.dtype)[[1]] * output.detach()

    with Gradient(model=module, composite=composite) as attributor:
        _, relevance = attributor(x, start)
    return relevance[0].detach().numpy()


def ours(module: nn.Module, x: Tensor, **options: object) -> np.ndarray:
    evaluation = Evaluation(explainable(module, x.shape[1:]), x, torch.device("cpu"))
    return attribute(evaluation, "lrp", Target(1, "logit"), options).values


def uniform(rule: object) -> object:
    return LayerMapComposite([(Activation, Pass()), (BatchNorm, Pass()), (Convolution, rule), (Linear, rule)])


def test_e_rule_with_batch_norm_passed() -> None:
    module, x = network(norm=True, bias=True), image(1, 3, (18, 18, 18))
    expected = theirs(module, uniform(Epsilon(1e-6, zero_params="bias")), x)
    np.testing.assert_allclose(ours(module, x, rule="e-rule", batch_norm="pass"), expected, atol=1e-12)


@pytest.mark.parametrize("signed", [False, True])
def test_b_rule_with_beta_zero(signed: bool) -> None:
    module, x = network(norm=False, bias=False), image(1, 3, (18, 18, 18))
    x = x if signed else x.abs()
    np.testing.assert_allclose(ours(module, x), theirs(module, uniform(ZPlus()), x), atol=1e-12)
    np.testing.assert_allclose(ours(module, x), theirs(module, uniform(AlphaBeta(1, 0)), x), atol=1e-12)


def test_epsilon_plus_flat() -> None:
    module, x = network(norm=False, bias=True), image(1, 3, (18, 18, 18))
    np.testing.assert_allclose(
        ours(module, x, rule="epsilon-plus-flat"), theirs(module, EpsilonPlusFlat(), x), atol=1e-12
    )


def test_epsilon_gamma_box() -> None:
    module, x = network(norm=False, bias=True), image(1, 3, (18, 18, 18))
    composite = EpsilonGammaBox(low=-4.0, high=4.0)
    np.testing.assert_allclose(
        ours(module, x, rule="epsilon-gamma-box", low=-4, high=4), theirs(module, composite, x), atol=1e-12
    )
