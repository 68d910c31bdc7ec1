"""LRP's rules: how one weighted sum hands its relevance to its inputs.

Each rule is a value with one method. ``z`` is what a rule divides by; where it is exactly 0, nothing contributed and
the relevance is dropped (it then counts as unattributed). Biases take no part unless `absorb_bias` says so, as in
Böhle et al.'s code; with it, a bias keeps its share of the relevance.

References
----------
Bach et al. 2015, doi:10.1371/journal.pone.0130140 (ε, αβ). Montavon et al. 2017, doi:10.1016/j.patcog.2016.11.008
(w², z-box). Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4 (flat). Montavon et al. 2019, LNCS 11700, and
Andéol et al. 2021, arXiv:2105.09636 (γ, and its form for inputs of either sign). Böhle et al. 2019,
doi:10.3389/fnagi.2019.00194 (exponent p, rare neurons).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.graph.indicators import has_negative, ones_where_nonzero, ones_where_positive
from ADAttributionLogic.graph.operations import WeightedOperation
from ADAttributionLogic.propagation.conservation import Kept

Tensors = tuple[Tensor, ...]


class Rule(ABC):
    """How a weighted operation redistributes relevance."""

    @abstractmethod
    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        """Return the relevance of each input.

        Parameters
        ----------
        operation : WeightedOperation
        inputs : tuple of Tensor
        relevance : Tensor
            Of the operation's output.
        kept : Kept, optional
            Is told what the inputs do not get, and why.
        """

    def redistribute_known(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, output: Tensor, kept: Kept | None = None
    ) -> Tensors:
        """As :meth:`redistribute`, of an operation whose output was recorded: a rule need not compute it again."""
        return self.redistribute(operation, inputs, relevance, kept)


@dataclass(frozen=True)
class EpsilonRule(Rule):
    """ε-rule: ``R_i = Σ_j x_i^p w_ij^p R_j / (z_j + ε·sign z_j)``, ``z_j = Σ_i x_i^p w_ij^p``.

    Attributes
    ----------
    epsilon : float
    exponent : int
        p; 1 is the usual rule.
    absorb_bias : bool
        Whether ``z`` contains the bias (p = 1 only).
    """

    epsilon: float = 1e-6
    exponent: int = 1
    absorb_bias: bool = False

    def __post_init__(self) -> None:
        if self.exponent != int(self.exponent) or self.exponent < 1:
            raise UsageError(
                f"The exponent p must be a whole number ≥ 1, but is {self.exponent:g}: fractional powers of negative "
                "weights are not numbers."
            )
        if self.absorb_bias and self.exponent != 1:
            raise UsageError("A bias can only take part with exponent 1.")

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        weight = operation.weight
        if self.exponent != 1:
            inputs, weight = tuple(x**self.exponent for x in inputs), weight**self.exponent
        z = operation.map(inputs, weight)
        if self.absorb_bias:
            z = _add_bias(z, operation.shaped_bias(z))
        return self._hand_out(operation, inputs, weight, relevance, z, kept)

    def redistribute_known(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, output: Tensor, kept: Kept | None = None
    ) -> Tensors:
        if not self.absorb_bias:  # z is not the output
            return self.redistribute(operation, inputs, relevance, kept)
        return self._hand_out(operation, inputs, operation.weight, relevance, output, kept)

    def _hand_out(
        self,
        operation: WeightedOperation,
        inputs: Tensors,
        weight: Tensor,
        relevance: Tensor,
        z: Tensor,
        kept: Kept | None,
    ) -> Tensors:
        bias = operation.shaped_bias(z)
        share = stabilised_quotient(relevance, z, self.epsilon, kept, bias, bias if self.absorb_bias else None)
        shares = operation.transpose(share, weight, _shapes(inputs))
        return tuple(x * share for x, share in zip(inputs, shares, strict=True))


@dataclass(frozen=True)
class AlphaBetaRule(Rule):
    """αβ-rule with α = 1 + β: positive contributions get 1 + β of the relevance, negative ones −β.

    A *rare neuron*, to which only one sign contributes, hands everything to that sign, so that relevance is conserved
    (for β = 0, what has no positive contribution is dropped).

    Attributes
    ----------
    beta : float
        0: only positive contributions (the z⁺-rule).
    epsilon : float
    absorb_bias : bool
        Whether the bias takes part as a contribution of its sign.
    """

    beta: float = 0.0
    epsilon: float = 1e-6
    absorb_bias: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise UsageError(f"β must be ≥ 0, but is {self.beta:g} (0: positive contributions only; 1: α = 2, β = 1).")

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        x_positive, x_negative = _split_by_sign(inputs)
        helping: _Terms = [(x_positive, operation.weight.clamp(min=0))]
        if x_negative is not None:  # of a large dense layer, weights that are not needed take their time
            helping.append((x_negative, operation.weight.clamp(max=0)))
        bias = operation.shaped_bias(relevance)
        bias_plus, bias_minus = (bias.clamp(min=0), bias.clamp(max=0)) if self._counts(bias) else (None, None)
        z_plus = _add_bias(_sum_terms(operation, helping, relevance), bias_plus)
        if self.beta == 0:
            gain = stabilised_quotient(relevance, z_plus, self.epsilon, kept, bias, bias_plus)
            return _hand_out(operation, helping, gain, inputs)
        hindering: _Terms = [(x_positive, operation.weight.clamp(max=0))]
        if x_negative is not None:
            hindering.append((x_negative, operation.weight.clamp(min=0)))
        z_minus = _add_bias(_sum_terms(operation, hindering, relevance), bias_minus)
        # A rare neuron's z is scaled by the coefficient, which then cancels; before ε is added, so that it does fully.
        has_plus, has_minus = ones_where_nonzero(z_plus), ones_where_nonzero(z_minus)
        rare = 1 - has_plus * has_minus
        alpha_z = z_plus * (1 + rare * self.beta)
        beta_z = z_minus * (1 - rare - rare * self.beta)
        gain = stabilised_quotient(relevance * (1 + self.beta), alpha_z, self.epsilon)
        loss = stabilised_quotient(relevance * -self.beta, beta_z, self.epsilon)
        if kept is not None:
            dropped = relevance * ((1 - has_plus) * (1 - has_minus))
            kept.drop(dropped, bias)
            kept.add("stabiliser", relevance - dropped - gain * z_plus - loss * z_minus)
            if bias_plus is not None and bias_minus is not None:
                kept.add(kept.of_bias, gain * bias_plus + loss * bias_minus)
        first = _hand_out(operation, helping, gain, inputs)
        second = _hand_out(operation, hindering, loss, inputs)
        return tuple(a + b for a, b in zip(first, second, strict=True))

    def _counts(self, bias: Tensor | None) -> TypeGuard[Tensor]:
        return self.absorb_bias and bias is not None


@dataclass(frozen=True)
class GammaRule(Rule):
    """γ-rule: contributions of the output's own sign are weighted by 1 + γ.

    For inputs ≥ 0 and an active neuron: ``R_i = Σ_j x_i (w_ij + γ w_ij⁺) R_j / z_j``. Inputs of either sign and
    negative outputs are treated symmetrically (Andéol et al. 2021).

    Attributes
    ----------
    gamma : float
    epsilon : float
    absorb_bias : bool
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    absorb_bias: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise UsageError(f"γ must be ≥ 0, but is {self.gamma:g}.")

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        return self.redistribute_known(operation, inputs, relevance, operation.forward(*inputs), kept)

    def redistribute_known(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, output: Tensor, kept: Kept | None = None
    ) -> Tensors:
        weight = operation.weight
        more_positive = weight + self.gamma * weight.clamp(min=0)
        more_negative = weight + self.gamma * weight.clamp(max=0)
        x_positive, x_negative = _split_by_sign(inputs)
        own_bias = operation.shaped_bias(relevance)
        if kept is not None:
            kept.add("no contribution", relevance * (1 - ones_where_nonzero(output)))
        total: list[Tensor] | None = None
        for sign in (1, -1):
            of_sign = relevance * ones_where_positive(output * sign)
            if not float(of_sign.abs().amax()) > 0:  # behind a ReLU, negative outputs have none
                continue
            favoured, other = (more_positive, more_negative) if sign > 0 else (more_negative, more_positive)
            terms: _Terms = [(x_positive, favoured), (x_negative, other)]
            bias = own_bias if self.absorb_bias else None
            if bias is not None:
                bias = bias + self.gamma * (bias.clamp(min=0) if sign > 0 else bias.clamp(max=0))
            z = _add_bias(_sum_terms(operation, terms, relevance), bias)
            share = stabilised_quotient(of_sign, z, self.epsilon, kept, own_bias, bias)
            parts = _hand_out(operation, terms, share, inputs)
            total = list(parts) if total is None else [a + b for a, b in zip(total, parts, strict=True)]
        return tuple(torch.zeros_like(x) for x in inputs) if total is None else tuple(total)


@dataclass(frozen=True)
class ZBoxRule(Rule):
    """z^B-rule for inputs known to lie in a box: ``z_j = Σ_i x_i w_ij − l w_ij⁺ − h w_ij⁻``.

    Attributes
    ----------
    low, high : float or Tensor
        Smallest and largest possible value of the input; tensors where it differs by channel (1, C, 1, …).
    epsilon : float
    """

    low: float | Tensor
    high: float | Tensor
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if isinstance(self.low, Tensor) or isinstance(self.high, Tensor):
            return  # derived from bounds of the image that were checked
        if not self.low < self.high:
            raise UsageError(f"The z-box needs low < high, but got {self.low:g} and {self.high:g}.")

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        weight = operation.weight
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        low = tuple(_filled(x, self.low) for x in inputs)
        high = tuple(_filled(x, self.high) for x in inputs)
        z = operation.map(inputs, weight) - operation.map(low, positive) - operation.map(high, negative)
        share = stabilised_quotient(relevance, z, self.epsilon, kept, operation.shaped_bias(z))
        shapes = _shapes(inputs)
        parts = zip(
            inputs,
            operation.transpose(share, weight, shapes),
            operation.transpose(share, positive, shapes),
            operation.transpose(share, negative, shapes),
            strict=True,
        )
        return tuple(x * plain - self.low * lower - self.high * upper for x, plain, lower, upper in parts)


@dataclass(frozen=True)
class WSquareRule(Rule):
    """w²-rule: relevance in proportion to the squared weights, whatever the inputs."""

    epsilon: float = 1e-6

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        return _by_weight(operation, operation.weight**2, inputs, relevance, self.epsilon, kept)


@dataclass(frozen=True)
class FlatRule(Rule):
    """Flat rule: relevance in equal parts to all inputs of a window."""

    epsilon: float = 1e-6

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        return _by_weight(operation, torch.ones_like(operation.weight), inputs, relevance, self.epsilon, kept)


@dataclass(frozen=True)
class InheritRule(Rule):
    """For one-to-one operations: the only input inherits the relevance, whatever its value."""

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        return (relevance,)


@dataclass(frozen=True)
class ContributingRule(Rule):
    """For one-to-one operations: the only input inherits the relevance if it contributed (its product is not 0)."""

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        product = operation.map(inputs, operation.weight)
        inherited = relevance * ones_where_nonzero(product)
        if kept is not None:
            kept.drop(relevance - inherited, operation.shaped_bias(product))
        return (inherited,)


def _filled(x: Tensor, value: float | Tensor) -> Tensor:
    return value.expand_as(x) if isinstance(value, Tensor) else torch.full_like(x, value)


_Terms = list[tuple[Tensors | None, Tensor]]


def _shapes(inputs: Tensors) -> tuple[torch.Size, ...]:
    return tuple(x.shape for x in inputs)


def stabilised_quotient(
    relevance: Tensor,
    z: Tensor,
    epsilon: float,
    kept: Kept | None = None,
    bias: Tensor | None = None,
    bias_in_z: Tensor | None = None,
) -> Tensor:
    """``R / (z + ε·sign z)``, and 0 where z is 0.

    Parameters
    ----------
    relevance, z : Tensor
        Of the same shape.
    epsilon : float
    kept : Kept, optional
        Is told what the inputs do not get: R where z is 0, what ε takes, and the share of the bias.
    bias : Tensor, optional
        The operation's; broadcasts.
    bias_in_z : Tensor, optional
        The part of z that is the bias.
    """
    signs = z.sign()
    stabiliser = signs * epsilon
    divisor = z + stabiliser
    counts = signs.abs_()  # 1 where z is not 0, else 0: many times as fast as truth values
    if float(counts.amin()) == 0.0:
        going = relevance * counts
        if kept is not None:
            kept.drop(relevance - going, bias)
        relevance, divisor = going, divisor.add_(1 - counts)
    share = relevance / divisor
    if kept is not None:
        kept.add("stabiliser", share * stabiliser)
        if bias_in_z is not None:
            kept.add(kept.of_bias, share * bias_in_z)
    return share


def _add_bias(z: Tensor, bias: Tensor | None) -> Tensor:
    return z if bias is None else z + bias


def _split_by_sign(inputs: Tensors) -> tuple[Tensors | None, Tensors | None]:
    """Positive and negative parts of the inputs; None for a part that is 0 everywhere (after a ReLU, the negative)."""
    positive: Tensors | None = inputs
    negative: Tensors | None = None
    if any(has_negative(x) for x in inputs):
        positive = tuple(x.clamp(min=0) for x in inputs)
        negative = tuple(x.clamp(max=0) for x in inputs)
    return positive, negative


def _that_count(terms: _Terms) -> list[tuple[Tensors, Tensor]]:
    """The terms that can differ from 0: those with inputs, and of fixed weights (a sum, a mean) those of their sign."""
    return [
        (inputs, weight)
        for inputs, weight in terms
        if inputs is not None and (weight.ndim > 1 or bool((weight != 0).any()))
    ]


def _sum_terms(operation: WeightedOperation, terms: _Terms, like: Tensor) -> Tensor:
    total: Tensor | None = None
    for inputs, weight in _that_count(terms):
        value = operation.map(inputs, weight)
        total = value if total is None else total.add_(value)
    return torch.zeros_like(like) if total is None else total


def _hand_out(operation: WeightedOperation, terms: _Terms, share: Tensor, like: Tensors) -> Tensors:
    """``Σ_terms x ⊙ mapᵀ(share)``."""
    total: list[Tensor] | None = None
    for inputs, weight in _that_count(terms):
        parts = [x * part for x, part in zip(inputs, operation.transpose(share, weight, _shapes(like)), strict=True)]
        total = parts if total is None else [a.add_(b) for a, b in zip(total, parts, strict=True)]
    return tuple(torch.zeros_like(x) for x in like) if total is None else tuple(total)


def _by_weight(
    operation: WeightedOperation,
    weight: Tensor,
    inputs: Tensors,
    relevance: Tensor,
    epsilon: float,
    kept: Kept | None,
) -> Tensors:
    ones = tuple(torch.ones_like(x) for x in inputs)
    z = operation.map(ones, weight)
    share = stabilised_quotient(relevance, z, epsilon, kept, operation.shaped_bias(z))
    return operation.transpose(share, weight, _shapes(inputs))
