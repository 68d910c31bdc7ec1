"""Which rule LRP uses in which operation, preset by preset, and why: read from what computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ADAttributionLogic.attribution.lrp import PRESETS, Composite, composite, kind_of
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.graph.operations import Input, Operation
from ADAttributionLogic.propagation.products import InnerRules
from ADAttributionLogic.propagation.rules import (
    AlphaBetaRule,
    ContributingRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    InheritRule,
    Rule,
    WSquareRule,
    ZBoxRule,
)
from ADAttributionLogic.tracing import aten, heads  # noqa: F401 (with which every operation is known)

#: Kinds of operations: what they have in common, and why relevance passes them as it does.
KINDS = {
    "first": "Layers that read the image: there inputs have bounds instead of meaning (Montavon et al. 2019).",
    "convolution": "Weighted sums with many inputs: the rule that the preset is named for.",
    "dense": "Weighted sums near the answer.",
    "sums": "Fixed weights of one sign, nothing was learnt: by contribution.",
    "scaling": "One input each: it inherits the relevance, where it contributed.",
    "activation": "A function of one element, f(x)/x: relevance passes unchanged (Bach et al. 2015).",
    "softmax": "Couples places: unchanged, gradient × value (Achtibat et al. 2024) or held constant (Ali et al. 2022).",
    "product": "Product of two layers: a gate is held constant and the signal gets all (Arras et al. 2017), or each "
    "factor half (Achtibat et al. 2024); option product. A deviation is always held constant.",
    "matrix product": "Attention: each factor by ε with the other held constant; shares as in a product.",
    "normalisation": "By the activations' own statistics: unchanged, or the weighted sum that it is with its deviation "
    "held constant (Achtibat et al. 2024).",
    "variance": "A sum of squared distances from the mean, which is held constant: by contribution.",
    "routing": "Moves or chooses elements: relevance follows the element; of a maximum, the winner takes it.",
}


@dataclass(frozen=True)
class RuleRow:
    """How relevance passes one kind of operation.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`.
    operations : tuple of str
        Names of the operations of the network's graph; of ``first``, those of the layers that read the image.
    rules : dict of str to str
        By preset.
    why : str
    """

    kind: str
    operations: tuple[str, ...]
    rules: dict[str, str]
    why: str


def all_operations() -> tuple[type[Operation], ...]:
    """Every operation that a network may consist of, by name, but for its input."""
    found = {operation for operation in _below(Operation) if not operation.__subclasses__() or _is_built(operation)}
    return tuple(sorted(found - {Input}, key=lambda operation: operation.__name__))


def rule_rows() -> tuple[RuleRow, ...]:
    """The table, with the defaults of the method ``lrp``."""
    members: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for operation in all_operations():
        members[kind_of(operation)].append(operation.__name__)
    members["first"] = [*members["convolution"], *members["dense"]]
    rules = {preset: _rules_of(preset) for preset in PRESETS}
    return tuple(
        RuleRow(kind, tuple(members[kind]), {preset: rules[preset][kind] for preset in PRESETS}, why)
        for kind, why in KINDS.items()
    )


def _below(operation: Any) -> Iterator[type[Operation]]:
    for below in operation.__subclasses__():
        yield below
        yield from _below(below)


def _is_built(operation: type[Operation]) -> bool:
    """Whether a class that others extend is an operation of its own as well."""
    return kind_of(operation) in {"product"}


def _rules_of(preset: str) -> dict[str, str]:
    options: Mapping[str, Any] = get_method("lrp").complete({"rule": preset})
    chosen: Composite = composite(options, torch.tensor([0.0, 1.0]))
    inner = InnerRules.of_preset(preset, float(options["epsilon"]), absorb_bias=False)
    half = preset == "attn-lrp"
    return {
        "first": describe(chosen.first),
        "convolution": describe(chosen.convolution),
        "dense": describe(chosen.dense),
        "sums": describe(chosen.sums),
        "scaling": describe(chosen.scaling),
        "activation": "unchanged",
        "softmax": {"pass": "unchanged", "gradient": "gradient × value", "hold": "constant"}[inner.softmax],
        "product": "half each" if half else "gate constant",
        "matrix product": "ε, " + ("half each" if half else "gate constant"),
        "normalisation": "ε, deviation constant" if inner.holds_deviation else "unchanged",
        "variance": "ε",
        "routing": "follows",
    }


def describe(rule: Rule) -> str:
    """A rule in a few signs."""
    match rule:
        case EpsilonRule():
            return "ε" if rule.exponent == 1 else f"ε of powers {rule.exponent:g}"
        case AlphaBetaRule():
            return "z⁺" if rule.beta == 0 else f"αβ, β = {rule.beta:g}"
        case GammaRule():
            return f"γ = {rule.gamma:g}"
        case ZBoxRule():
            return "z-box"
        case WSquareRule():
            return "w²"
        case FlatRule():
            return "flat"
        case InheritRule():
            return "inherits"
        case ContributingRule():
            return "inherits"
    raise AssertionError(rule)
