"""LRP through products of layers, softmax inside a network and normalisation by the image's own statistics.

``attn-lrp`` is AttnLRP (Achtibat et al. 2024, arXiv:2402.05602, section 3): a product gives each factor half; softmax
has its gradient × value; a normalisation's deviation is held constant, and what is left is a weighted sum; functions of
one element pass relevance unchanged (f(x)/x). ``cp-lrp`` (Ali et al. 2022, arXiv:2202.07304) holds constant what
softmax gives, and with it queries and keys. All other presets pass softmax and normalisation unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ADAttributionLogic.graph.activations import Sigmoid
from ADAttributionLogic.graph.arithmetic import Product, Quotient
from ADAttributionLogic.graph.attention import MatrixProduct
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.normalisations import LayerNorm, Normalisation
from ADAttributionLogic.graph.operations import Activation, Permute, Reshape, Softmax
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.propagation.conservation import Kept
from ADAttributionLogic.propagation.parts import by_token, in_matrices
from ADAttributionLogic.propagation.rules import stabilised_quotient

ATTENTION_PRESETS = ("attn-lrp", "cp-lrp")


@dataclass(frozen=True)
class InnerRules:
    """How relevance passes what is neither a weighted sum nor a function of one element.

    Attributes
    ----------
    softmax : {"pass", "gradient", "hold"}
        Unchanged; gradient × value; or not at all, because its result is held constant.
    holds_deviation : bool
        Whether a normalisation is the weighted sum that it is with its deviation held constant; else unchanged.
    epsilon : float
        Stabiliser added to denominators.
    absorb_bias : bool
        Whether a normalisation's bias keeps its share.
    """

    softmax: str = "pass"
    holds_deviation: bool = False
    epsilon: float = 1e-6
    absorb_bias: bool = False

    @classmethod
    def of_preset(cls, preset: str, epsilon: float, absorb_bias: bool) -> InnerRules:
        """Those of a preset of the method ``lrp``."""
        softmax = {"attn-lrp": "gradient", "cp-lrp": "hold"}.get(preset, "pass")
        return cls(softmax, preset in ATTENTION_PRESETS, epsilon, absorb_bias)

    def through_softmax(self, operation: Softmax, x: Tensor, relevance: Tensor, output: Tensor, kept: Kept) -> Tensor:
        """From the output of a softmax to its input `x`."""
        if self.softmax == "pass":
            return relevance
        if self.softmax == "hold":
            kept.add("held constant", relevance)
            return torch.zeros_like(relevance)

        is_of_rows = operation.axis in (-1, x.ndim - 1)
        if is_of_rows:
            operation = replace(operation, axis=-1)

        # With the gradient g = R / s at the output s, x · s · (g − Σ s·g); masked places (x = −∞) have no share.
        def by_gradient(part: Tensor, x: Tensor, output: Tensor) -> tuple[Tensor]:
            if operation.logarithm:
                gradient = stabilised_quotient(part, output, self.epsilon)
                passed = operation.gradient(gradient, (x,), output)[0]
            else:
                passed = part - output * part.sum(operation.axis, keepdim=True)
            found = x.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) * passed
            kept.add("softmax", part - found)
            return (found,)

        if not is_of_rows:
            return by_gradient(relevance, x, output)[0]
        return in_matrices(by_gradient, relevance, x, output)[0]

    def through_matrix_product(
        self,
        operation: MatrixProduct,
        inputs: tuple[Tensor, ...],
        relevance: Tensor,
        output: Tensor,
        shares: tuple[float, float],
        kept: Kept,
    ) -> tuple[Tensor, ...]:
        """From a matrix product to its factors, by the ε-rule for each with the other held constant."""

        def by_quotient(relevance: Tensor, output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            quotient = stabilised_quotient(relevance, output, self.epsilon, kept)
            parts = operation.gradient(quotient, inputs, output)
            return tuple(x * part * share for x, part, share in zip(inputs, parts, shares, strict=True))

        return in_matrices(by_quotient, relevance, output, *inputs)

    def through_normalisation(self, operation: Normalisation, x: Tensor, relevance: Tensor, kept: Kept) -> Tensor:
        """From what was normalised by its own statistics to what it was."""
        if not self.holds_deviation:
            return relevance

        def by_quotient(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            scale = operation.scale_of(x)
            weighted = operation.centred(x) * scale
            z = operation.normalise(x) if self.absorb_bias else weighted
            quotient = stabilised_quotient(relevance, z, self.epsilon, kept, bias_in_z=z - weighted)
            return (x * operation.centred(quotient * scale),)

        if isinstance(operation, LayerNorm):
            return by_token(by_quotient, len(operation.shape), relevance, x)[0]
        return by_quotient(relevance, x)[0]

    def notes(self, graph: LayerGraph) -> tuple[str, ...]:
        """What a user must know of the operations that the network has."""
        notes: tuple[str, ...] = ()
        if any(isinstance(layer.operation, Softmax) for layer in graph.layers):
            notes += (
                {
                    "pass": "Relevance passes the softmax inside the network unchanged; what it weighs down is not "
                    "attributed.",
                    "gradient": "Relevance passes the softmax inside the network by gradient × value, which keeps a "
                    "share (AttnLRP).",
                    "hold": "What the softmax inside the network gives is held constant, and with it queries and keys "
                    "(CP-LRP): the map does not say why attention went where it went.",
                }[self.softmax],
            )
        if any(isinstance(layer.operation, Normalisation) for layer in graph.layers):
            how = "with its deviation held constant" if self.holds_deviation else "unchanged"
            notes += (f"Relevance passes group, instance and layer normalisation {how}.",)
        return notes


def shares_of_products(graph: LayerGraph, how: str) -> dict[int, tuple[float, float]]:
    """How each product of two layers divides its relevance.

    Parameters
    ----------
    graph : LayerGraph
    how : {"signal", "half"}
        ``signal``: a gate (a sigmoid, softmax or the smaller of the two, which is broadcast) is held constant and the
        other one gets all (Arras et al. 2017, arXiv:1706.07206); where neither is a gate, or both, as ``half``: both
        get half (Achtibat et al. 2024, arXiv:2402.05602). The reciprocal of a deviation is held constant in any case:
        it normalises.
    """
    shares: dict[int, tuple[float, float]] = {}
    for index, layer in enumerate(graph.layers):
        if isinstance(layer.operation, (Product, MatrixProduct)):
            if isinstance(layer.operation, Quotient):  # the divisor, a deviation, is held constant
                shares[index] = (1.0, 0.0)
                continue
            deviations = [_is_deviation(graph, source) for source in layer.inputs]
            if deviations[0] != deviations[1]:
                shares[index] = (float(deviations[1]), float(deviations[0]))
                continue
            of_matrices = isinstance(layer.operation, MatrixProduct)
            size = () if of_matrices else layer.shape
            first, second = (_is_gate(graph, source, size) for source in layer.inputs)
            shares[index] = (0.5, 0.5) if how == "half" or first == second else (float(second), float(first))
    return shares


def _is_gate(graph: LayerGraph, index: int, shape: tuple[int, ...]) -> bool:
    if math.prod(graph.layers[index].shape) < math.prod(shape):
        return True
    while isinstance(graph.layers[index].operation, (Reshape, Take, Permute)):
        index = graph.layers[index].inputs[0]
    operation = graph.layers[index].operation
    return isinstance(operation, (Sigmoid, Softmax)) or operation.describe() == "Hardsigmoid"


def _is_deviation(graph: LayerGraph, index: int) -> bool:
    operation = graph.layers[index].operation
    return operation.describe() == "reciprocal square root" and isinstance(operation, Activation)
