"""Every LRP rule equals its formula written as matrix algebra on the layer's Jacobian (float64, 1e-10).

The matrix of a layer is found by feeding it unit vectors; the rules are then sums over its entries, with none of the
code of the implementation.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.operations import AdaptiveAveragePool, Add, Affine, AveragePool, Dense, WeightedOperation
from ADAttributionLogic.propagation.rules import (
    AlphaBetaRule,
    ContributingRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    InheritRule,
    WSquareRule,
    ZBoxRule,
)

TOLERANCE = 1e-10
one = torch.ones((), dtype=torch.float64)


def convolution(dimensions: int, **changes: object) -> tuple[WeightedOperation, tuple[int, ...]]:
    settings = {
        "stride": (1,) * dimensions,
        "padding": ((0, 0),) * dimensions,
        "dilation": (1,) * dimensions,
        "groups": 1,
    }
    settings.update(changes)
    torch.manual_seed(dimensions)
    inputs = 2 * settings["groups"]
    weight = torch.randn(2 * settings["groups"], 2, *(3,) * dimensions, dtype=torch.float64)
    bias = torch.randn(weight.shape[0], dtype=torch.float64)
    return Convolution(weight, bias, **settings), (inputs, *(7, 6, 5)[:dimensions])


def dense() -> tuple[WeightedOperation, tuple[int, ...]]:
    torch.manual_seed(9)
    return Dense(torch.randn(4, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)), (6,)


LAYERS = {
    "dense": dense(),
    "conv 1d": convolution(1),
    "conv 2d": convolution(2),
    "conv 3d": convolution(3),
    "conv 2d, stride 2 on odd and even sizes": convolution(2, stride=(2, 2)),
    "conv 2d, dilation and padding": convolution(2, dilation=(2, 1), padding=((2, 2), (1, 1))),
    "conv 2d, padding 'same' with an even rest": convolution(2, padding=((0, 1), (2, 0))),
    "conv 2d, groups": convolution(2, groups=2),
    "conv 3d, everything": convolution(
        3, stride=(2, 1, 2), padding=((1, 1), (0, 1), (2, 2)), dilation=(1, 2, 1), groups=2
    ),
}


def matrix(operation: WeightedOperation, shape: tuple[int, ...], weight: Tensor | None = None) -> np.ndarray:
    """W[j, i]: what output j gets from input i, found with unit vectors."""
    size = int(np.prod(shape))
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    rows = operation.map((units,), operation.weight if weight is None else weight)
    return rows.reshape(size, -1).T.numpy()


def connections(operation: WeightedOperation, shape: tuple[int, ...]) -> np.ndarray:
    """1 where output j reads input i."""
    return (matrix(operation, shape, torch.full_like(operation.weight, np.pi)) != 0).astype(float)


def divide(r: np.ndarray, z: np.ndarray, epsilon: float) -> np.ndarray:
    return np.array([0.0 if b == 0 else a / (b + epsilon * np.sign(b)) for a, b in zip(r, z, strict=True)])


def problem(
    name: str, nonnegative: bool = False
) -> tuple[WeightedOperation, Tensor, Tensor, np.ndarray, np.ndarray, np.ndarray]:
    operation, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, *shape, dtype=torch.float64, generator=generator)
    x[0].view(-1)[::5] = 0  # exact zeros, as after a ReLU or in the background
    if nonnegative:
        x = x.clamp(min=0)
    output = operation.forward(x)
    relevance = torch.randn(output.shape, dtype=torch.float64, generator=generator)
    return operation, x, relevance, matrix(operation, shape), x.reshape(-1).numpy(), relevance.reshape(-1).numpy()


def check(rule: object, operation: WeightedOperation, x: Tensor, relevance: Tensor, expected: np.ndarray) -> None:
    found = rule.redistribute(operation, (x,), relevance)[0].reshape(-1).numpy()
    scale = max(np.abs(expected).max(), 1e-300)
    assert np.abs(found - expected).max() / scale < TOLERANCE


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_epsilon_rule(name: str, exponent: int) -> None:
    operation, x, relevance, w, xs, r = problem(name)
    contributions = w**exponent * xs**exponent
    share = divide(r, contributions.sum(axis=1), 1e-3)
    check(EpsilonRule(1e-3, exponent), operation, x, relevance, contributions.T @ share)


@pytest.mark.parametrize("name", LAYERS)
def test_epsilon_rule_with_bias(name: str) -> None:
    operation, x, relevance, w, xs, r = problem(name)
    z = operation.forward(x).reshape(-1).numpy()
    check(EpsilonRule(1e-3, absorb_bias=True), operation, x, relevance, (w * xs).T @ divide(r, z, 1e-3))


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0])
def test_alpha_beta_rule(name: str, beta: float, nonnegative: bool) -> None:
    operation, x, relevance, w, xs, r = problem(name, nonnegative)
    contributions = w * xs
    expected = np.zeros_like(xs)
    for j, row in enumerate(contributions):
        helping, hindering = np.maximum(row, 0), np.minimum(row, 0)
        expected += alpha_beta_of_one_neuron(helping, hindering, r[j], beta, 1e-3)
    check(AlphaBetaRule(beta, 1e-3), operation, x, relevance, expected)


def alpha_beta_of_one_neuron(
    helping: np.ndarray, hindering: np.ndarray, r: float, beta: float, epsilon: float
) -> np.ndarray:
    """Bach et al. with the rare-neuron step of Böhle et al.: one neuron at a time, in words."""
    up, down = helping.sum(), hindering.sum()
    if beta == 0:
        return helping * (r / (up + epsilon)) if up > 0 else np.zeros_like(helping)
    if up == 0 and down == 0:
        return np.zeros_like(helping)
    if down == 0:  # only helping contributions: they get everything
        return helping * (1 + beta) * r / ((1 + beta) * up + epsilon)
    if up == 0:  # only hindering ones
        return hindering * -beta * r / (-beta * down + epsilon)
    return helping * (1 + beta) * r / (up + epsilon) - hindering * beta * r / (down - epsilon)


def test_rare_neurons_conserve_relevance() -> None:
    """A neuron with contributions of one sign only hands out all of its relevance, whatever β."""
    weight = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -0.5], [1.0, -1.0, 0.5]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.5, 2.0]], dtype=torch.float64)
    relevance = torch.tensor([[2.0, 3.0, -1.0]], dtype=torch.float64)
    (found,) = AlphaBetaRule(0.75, 1e-12).redistribute(Dense(weight, None), (x,), relevance)
    assert float(found.sum()) == pytest.approx(4.0, abs=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_alpha_beta_rule_with_bias(name: str) -> None:
    operation, x, relevance, w, xs, r = problem(name)
    bias = (operation.forward(x) - operation.map((x,), operation.weight)).reshape(-1).numpy()
    contributions = w * xs
    up = np.maximum(contributions, 0).sum(axis=1) + np.maximum(bias, 0)
    check(
        AlphaBetaRule(0, 1e-3, absorb_bias=True),
        operation,
        x,
        relevance,
        np.maximum(contributions, 0).T @ divide(r, up, 1e-3),
    )


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("absorb_bias", [False, True])
def test_gamma_rule(name: str, absorb_bias: bool) -> None:
    operation, x, relevance, w, xs, r = problem(name)
    output = operation.forward(x).reshape(-1).numpy()
    bias = output - (w @ xs)
    contributions, gamma = w * xs, 0.4
    expected = np.zeros_like(xs)
    for j, row in enumerate(contributions):
        if output[j] == 0:
            continue
        same_sign = np.maximum if output[j] > 0 else np.minimum
        favoured = row + gamma * same_sign(row, 0)
        z = favoured.sum() + (bias[j] + gamma * same_sign(bias[j], 0) if absorb_bias else 0)
        expected += favoured * divide(r[j : j + 1], np.array([z]), 1e-3)[0]
    check(GammaRule(gamma, 1e-3, absorb_bias), operation, x, relevance, expected)


@pytest.mark.parametrize("name", LAYERS)
def test_z_box_rule(name: str) -> None:
    operation, x, relevance, w, xs, r = problem(name)
    low, high = -3.0, 4.0
    parts = w * xs - low * np.maximum(w, 0) - high * np.minimum(w, 0)
    check(ZBoxRule(low, high, 1e-3), operation, x, relevance, parts.T @ divide(r, parts.sum(axis=1), 1e-3))


@pytest.mark.parametrize("name", LAYERS)
def test_w_square_and_flat_rules(name: str) -> None:
    operation, x, relevance, w, _, r = problem(name)
    check(WSquareRule(1e-3), operation, x, relevance, (w**2).T @ divide(r, (w**2).sum(axis=1), 1e-3))
    ones = connections(operation, tuple(x.shape[1:]))
    check(FlatRule(1e-3), operation, x, relevance, ones.T @ divide(r, ones.sum(axis=1), 1e-3))


POOLS = {
    "average": AveragePool(one, None, (3, 2), (2, 2), ((1, 1), (0, 0)), True, True, None),
    "average without counting the padding": AveragePool(
        one, None, (3, 3), (1, 2), ((1, 1), (1, 1)), False, False, None
    ),
    "adaptive": AdaptiveAveragePool(one, None, (3, 2)),
}


@pytest.mark.parametrize("name", POOLS)
def test_average_pooling_is_a_weighted_sum(name: str) -> None:
    """Pooling redistributes by the same rules, with its windows' coefficients as weights."""
    operation, shape = POOLS[name], (2, 7, 6)
    x = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    relevance = torch.randn(operation.forward(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    contributions = matrix(operation, shape) * x.reshape(-1).numpy()
    r = relevance.reshape(-1).numpy()
    check(EpsilonRule(1e-3), operation, x, relevance, contributions.T @ divide(r, contributions.sum(axis=1), 1e-3))
    up = np.maximum(contributions, 0)
    check(AlphaBetaRule(0, 1e-3), operation, x, relevance, up.T @ divide(r, up.sum(axis=1), 1e-3))


def test_addition_splits_relevance_by_contribution() -> None:
    """A residual connection: each branch gets its part, and nothing is made or lost (seeds: silently doubled)."""
    generator = torch.Generator().manual_seed(0)
    a, b, r = (torch.randn(1, 3, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    operation = Add(torch.tensor([1.0, -1.0], dtype=torch.float64), None)
    first, second = EpsilonRule(1e-9).redistribute(operation, (a, b), r)
    np.testing.assert_allclose(first, a * r / (a - b), rtol=1e-6)
    np.testing.assert_allclose(first + second, r, rtol=1e-6)
    first, second = AlphaBetaRule(0, 1e-12).redistribute(operation, (a, b), r)
    up_a, up_b = a.clamp(min=0), (-b).clamp(min=0)
    total = up_a + up_b
    expected = torch.where(total > 0, up_a * r / torch.where(total > 0, total, 1), 0)
    np.testing.assert_allclose(first, expected, atol=1e-9)


def test_one_to_one_layers_inherit() -> None:
    """Scaling has one input per output: it inherits all, or, in the strict form, all that it contributed to."""
    scaling = Affine(torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    x = torch.tensor([[[1.0, 0.0], [2.0, -1.0], [3.0, 1.0]]], dtype=torch.float64)
    relevance = torch.ones_like(x)
    assert torch.equal(InheritRule().redistribute(scaling, (x,), relevance)[0], relevance)
    expected = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    assert torch.equal(ContributingRule().redistribute(scaling, (x,), relevance)[0], expected)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: EpsilonRule(exponent=1.5), "whole number"),
        (lambda: EpsilonRule(exponent=0), "whole number"),
        (lambda: EpsilonRule(exponent=2, absorb_bias=True), "exponent 1"),
        (lambda: AlphaBetaRule(-0.5), "β must be"),
        (lambda: GammaRule(-1), "γ must be"),
        (lambda: ZBoxRule(1.0, 1.0), "low < high"),
    ],
)
def test_settings_without_meaning_are_refused(make: object, reason: str) -> None:
    """A fractional exponent of a negative weight would be NaN everywhere."""
    with pytest.raises(UsageError, match=reason):
        make()
