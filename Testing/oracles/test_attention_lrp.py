"""AttnLRP and CP-LRP against gradient × input with changed gradients, which is how their authors define them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.networks.network import explainable

SIZE = (8, 6, 4)


def half(x: Tensor) -> Tensor:
    return x / 2 + (x / 2).detach()


class Block(nn.Module):
    """Attention and two dense layers on tokens, as defined or with the gradients of a preset."""

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.first, self.second = nn.LayerNorm(12), nn.LayerNorm(12)
        self.up, self.gate, self.down = nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 12)
        self.gradients = gradients

    def norm(self, layer: nn.LayerNorm, x: Tensor) -> Tensor:
        if self.gradients == "true":
            return layer(x)
        deviation = (x.var(-1, correction=0, keepdim=True) + layer.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x) if self.gradients == "true" else x * (F.gelu(x) / x).detach()

    def product(self, x: Tensor) -> Tensor:
        return half(x) if self.gradients == "attn-lrp" else x

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (3, 4)).transpose(1, 2) for y in self.qkv(self.norm(self.first, x)).chunk(3, -1))
        if self.gradients == "cp-lrp":
            q, k = q.detach(), k.detach()
        weights = (self.product(q @ k.mT) / 2).softmax(-1)
        y = x + self.out(self.product(weights @ v).transpose(1, 2).flatten(2))
        z = self.norm(self.second, y)
        sign = self.gate(z).sigmoid()
        if self.gradients != "true":
            sign = self.gate(z) * (sign / self.gate(z)).detach()
        if self.gradients == "cp-lrp":
            sign = sign.detach()
        return y + self.down(self.product(self.gelu(self.up(z)) * sign))


class Transformer(nn.Module):
    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.patches = nn.Conv3d(1, 12, 2, 2)
        self.position, self.token = nn.Parameter(torch.randn(1, 25, 12)), nn.Parameter(torch.randn(1, 1, 12))
        self.blocks = nn.Sequential(Block(gradients), Block(gradients))
        self.norm, self.scores = nn.LayerNorm(12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        tokens = self.blocks(tokens)
        return self.scores(self.blocks[0].norm(self.norm, tokens)[:, 0])


def transformer(gradients: str = "true") -> nn.Module:
    torch.manual_seed(0)
    return make_lively(Transformer(gradients))


def explained(**options: object) -> Attribution:
    evaluation = Evaluation(explainable(transformer(), (1, *SIZE)), image(1, 3, SIZE), torch.device("cpu"))
    return attribute(evaluation, "lrp", Target(1, "logit"), options)


@pytest.mark.parametrize("preset", ["attn-lrp", "cp-lrp"])
def test_presets_are_gradient_times_input_with_changed_gradients(preset: str) -> None:
    x = image(1, 3, SIZE).requires_grad_(True)
    (gradient,) = torch.autograd.grad(transformer(preset)(x)[0, 1], x)
    expected = (x * gradient)[0].detach().numpy()
    found = explained(rule=preset, epsilon=1e-14).values
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max(), rtol=1e-5)


def by_lxt(network: nn.Module, x: Tensor) -> Tensor:
    """The network's scores by the functions of AttnLRP's authors, whose "gradient" is the relevance."""
    lxt = pytest.importorskip("lxt.explicit.functional")
    identity = pytest.importorskip("lxt.explicit.rules").identity
    tiny = 1e-14

    def dense(layer: nn.Linear, y: Tensor) -> Tensor:
        return lxt.linear_epsilon(y, layer.weight, layer.bias, tiny)

    def norm(layer: nn.LayerNorm, y: Tensor) -> Tensor:
        return lxt.layer_norm_grad_fn.apply(y, layer.weight, layer.bias, layer.eps, tiny)

    def block(layers: nn.Module, y: Tensor) -> Tensor:
        parts = dense(layers.qkv, norm(layers.first, y)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in parts)
        scores = lxt.mul2(lxt.matmul(q, k.mT, False, tiny), torch.tensor(0.5, dtype=y.dtype))
        mixed = lxt.matmul(lxt.softmax(scores, -1), v, False, tiny).transpose(1, 2).flatten(2)
        y = lxt.add2(y, dense(layers.out, mixed), False, tiny)
        z = norm(layers.second, y)
        gated = lxt.mul2(identity(F.gelu, dense(layers.up, z)), identity(torch.sigmoid, dense(layers.gate, z)))
        return lxt.add2(y, dense(layers.down, gated), False, tiny)

    # A convolution whose stride is its kernel is a dense layer of each patch.
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).flatten(5).flatten(2, 4)[:, 0]
    tokens = lxt.linear_epsilon(patches, network.patches.weight.flatten(1), network.patches.bias, tiny)
    tokens = lxt.add2(torch.cat([network.token, tokens], 1), network.position, False, tiny)
    for layers in network.blocks:
        tokens = block(layers, tokens)
    return dense(network.scores, norm(network.norm, tokens)[:, 0])


def test_attn_lrp_is_that_of_its_authors() -> None:
    """lxt 2.1: rules for each function on its own, in place of the changed gradients above."""
    network, x = transformer(), image(1, 3, SIZE).requires_grad_(True)
    scores = by_lxt(network, x)
    torch.testing.assert_close(scores, network(x), rtol=1e-9, atol=1e-12)
    start = torch.zeros_like(scores)
    start[0, 1] = scores[0, 1].detach()
    (expected,) = torch.autograd.grad(scores, x, start)
    found = explained(rule="attn-lrp", epsilon=1e-14).values
    largest = float(expected.abs().max())
    np.testing.assert_allclose(found, expected[0].detach().numpy(), atol=1e-8 * largest, rtol=1e-5)


def test_without_biases_cp_lrp_conserves() -> None:
    """Softmax is held constant and biases are ignored: nothing is lost between the scores and the tokens."""
    result = explained(rule="cp-lrp", bias="ignored", epsilon=1e-12, batch_norm="pass")
    sums = result.relevance_by_layer
    assert sums is not None and any("CP-LRP" in note for note in result.notes)
    assert sums["scores"] == pytest.approx(result.to_attribute)
    assert sums["add"] == pytest.approx(result.to_attribute, rel=1e-3), sums


def test_what_was_absorbed_is_said() -> None:
    result = explained(rule="attn-lrp")
    note = next(note for note in result.notes if "handed out" in note)
    assert "softmax" in note and "biases" in note
    assert any("in 6, both get half" in note for note in result.notes)


def test_gamma_in_dense_layers() -> None:
    plain, gamma = explained(rule="cp-lrp").values, explained(rule="cp-lrp", dense="gamma", gamma=0.05).values
    assert not np.allclose(plain, gamma)
    zero = explained(rule="cp-lrp", dense="gamma", gamma=0.0).values
    np.testing.assert_allclose(zero, plain, atol=1e-9 * np.abs(plain).max() + 1e-12, rtol=1e-4)


@pytest.mark.parametrize("preset", ["b-rule", "e-rule", "epsilon-plus-flat", "epsilon-gamma-box"])
def test_presets_of_cnns_take_transformers(preset: str) -> None:
    assert np.isfinite(explained(rule=preset).values).all()
