"""Layer-wise relevance propagation: which rule at which layer, and the walk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.attribution.shift_mean import SHIFTED, over_shifts
from ADAttributionLogic.graph.arithmetic import Product
from ADAttributionLogic.graph.attention import DenseByGroup, MatrixProduct
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.normalisations import Normalisation, Variance
from ADAttributionLogic.graph.operations import (
    Activation,
    Dense,
    Input,
    Operation,
    Softmax,
    WeightedOperation,
    sum_to,
)
from ADAttributionLogic.graph.recording import BackwardRule, Recording, record, walk_back
from ADAttributionLogic.graph.upsampling import TransposedConvolution
from ADAttributionLogic.method_options import Option
from ADAttributionLogic.propagation.account import in_words
from ADAttributionLogic.propagation.bounds import bounds_at, keeps_bounds
from ADAttributionLogic.propagation.conservation import Balance, warnings
from ADAttributionLogic.propagation.parts import redistribute_in_parts
from ADAttributionLogic.propagation.products import ATTENTION_PRESETS, InnerRules, shares_of_products
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
    stabilised_quotient,
)
from ADAttributionLogic.tracing.heads import negated


@dataclass(frozen=True)
class Composite:
    """Which rule each kind of layer uses.

    Attributes
    ----------
    first : Rule
        Convolutions (or dense layers) that read the image.
    convolution, dense : Rule
    sums : Rule
        Average pooling and residual additions.
    scaling : Rule
        Batch normalisation that is a layer of its own, and multiplication by constants.
    """

    first: Rule
    convolution: Rule
    dense: Rule
    sums: Rule
    scaling: Rule

    def assign(self, graph: LayerGraph, image: Tensor) -> dict[int, Rule]:
        """Return the rule of every weighted layer; bounds of the image become those of the layers that read it."""
        rules: dict[int, Rule] = {}
        reading = _layers_that_read_the_image(graph)
        of_kind = {
            "convolution": self.convolution,
            "dense": self.dense,
            "sums": self.sums,
            "scaling": self.scaling,
        }
        for index, layer in enumerate(graph.layers):
            kind = kind_of(type(layer.operation))
            if kind in ("convolution", "dense") and index in reading:
                rules[index] = _with_bounds(self.first, graph, layer.inputs[0], image)
            elif kind in of_kind:
                rules[index] = of_kind[kind]
        return rules


#: The first that fits; all else moves or chooses elements.
_KINDS: tuple[tuple[type[Operation], str], ...] = (
    (Dense, "dense"),
    (DenseByGroup, "dense"),
    (Convolution, "convolution"),
    (TransposedConvolution, "convolution"),
    (WeightedOperation, "sums"),
    (Activation, "activation"),
    (Softmax, "softmax"),
    (MatrixProduct, "matrix product"),
    (Product, "product"),
    (Normalisation, "normalisation"),
    (Variance, "variance"),
)


def kind_of(operation: type[Operation]) -> str:
    """What decides how relevance passes an operation: a key of :data:`~.lrp_rule_table.KINDS`."""
    if issubclass(operation, WeightedOperation) and operation.one_to_one:
        return "scaling"
    return next((kind for known, kind in _KINDS if issubclass(operation, known)), "routing")


def _layers_that_read_the_image(graph: LayerGraph) -> set[int]:
    """Weighted layers with nothing but moving, choosing and scaling of voxels between them and the image."""
    raw = {0}
    reading: set[int] = set()
    for index, layer in enumerate(graph.layers):
        if isinstance(layer.operation, Input) or not set(layer.inputs) <= raw:
            continue
        if keeps_bounds(layer.operation):
            raw.add(index)
        elif isinstance(layer.operation, WeightedOperation):
            reading.add(index)
    return reading


def _with_bounds(rule: Rule, graph: LayerGraph, source: int, image: Tensor) -> Rule:
    if not isinstance(rule, ZBoxRule) or source == 0:
        return rule
    low, high = bounds_at(graph, source, image.new_tensor(rule.low), image.new_tensor(rule.high))
    return replace(rule, low=low, high=high)


PRESETS = ("b-rule", "e-rule", "epsilon-plus-flat", "epsilon-gamma-box", *ATTENTION_PRESETS)


def composite(options: Mapping[str, Any], image: Tensor) -> Composite:
    """Make a composite from the options of the method ``lrp``.

    ``b-rule`` and ``e-rule`` apply one rule everywhere, without biases (Böhle et al. 2019). ``epsilon-plus-flat`` and
    ``epsilon-gamma-box`` use ε in dense layers, z⁺ or γ in convolutions, and flat or z-box in the first layer, with
    biases (Montavon et al. 2019, Lapuschkin et al. 2019). ``attn-lrp`` and ``cp-lrp`` use ε everywhere, with biases;
    how they pass products, softmax and normalisation is said in :mod:`~.propagation.products`.
    """
    preset = options["rule"]
    epsilon = float(options["epsilon"])
    biased = _biases_absorb(options)
    low = float(image.min()) if options["low"] is None else float(options["low"])
    high = float(image.max()) if options["high"] is None else float(options["high"])
    dense: Rule = EpsilonRule(epsilon, absorb_bias=biased)
    sums: Rule = EpsilonRule(epsilon)
    if preset == "b-rule":
        convolution: Rule = AlphaBetaRule(float(options["beta"]), epsilon, biased)
        first = dense = convolution
        sums = AlphaBetaRule(float(options["beta"]), epsilon)
    elif preset == "e-rule":
        exponent = options["exponent"]
        convolution = EpsilonRule(epsilon, exponent, biased)
        first = dense = convolution
    elif preset in ATTENTION_PRESETS:
        convolution = EpsilonRule(epsilon, absorb_bias=biased)
        first, sums = convolution, EpsilonRule(epsilon, absorb_bias=biased)
        if options["dense"] == "gamma":
            first = dense = convolution = GammaRule(float(options["gamma"]), epsilon, biased)
    elif preset == "epsilon-plus-flat":
        convolution, first = AlphaBetaRule(0.0, epsilon, biased), FlatRule(epsilon)
    else:
        convolution, first = GammaRule(float(options["gamma"]), epsilon, biased), ZBoxRule(low, high, epsilon)
    chosen_first = {
        "preset": first,
        "same": convolution,
        "flat": FlatRule(epsilon),
        "w-square": WSquareRule(epsilon),
        "z-box": ZBoxRule(low, high, epsilon) if options["first_rule"] == "z-box" else first,
    }[options["first_rule"]]
    scaling: Rule = InheritRule() if options["batch_norm"] == "pass" else ContributingRule()
    if preset in ATTENTION_PRESETS and options["batch_norm"] != "pass":
        scaling = EpsilonRule(epsilon, absorb_bias=biased)  # what position codes add keeps its share
    return Composite(chosen_first, convolution, dense, sums, scaling)


class RelevanceRule(BackwardRule):
    """LRP at each kind of layer; element-wise functions pass relevance through.

    Parameters
    ----------
    rules : mapping of int to Rule
        Of every weighted layer.
    shares : mapping of int to (float, float)
        Of every product of two layers, how much of its relevance each gets.
    balance : Balance
        Is told what stays in each layer, and why.
    inner : InnerRules, optional
        How softmax inside the network, matrix products and normalisation are passed.
    """

    def __init__(
        self,
        rules: Mapping[int, Rule],
        shares: Mapping[int, tuple[float, float]],
        balance: Balance,
        inner: InnerRules | None = None,
    ) -> None:
        self.rules = rules
        self.shares = shares
        self.balance = balance
        self.inner = inner or InnerRules()

    def through_activation(self, operation: Activation, relevance: Tensor, output: Tensor) -> Tensor:
        return relevance

    def through_softmax(self, layer: int, operation: Softmax, x: Tensor, relevance: Tensor, output: Tensor) -> Tensor:
        return self.inner.through_softmax(operation, x, relevance, output, self.balance.at(layer))

    def through_weighted(
        self,
        layer: int,
        operation: WeightedOperation,
        inputs: tuple[Tensor, ...],
        relevance: Tensor,
        output: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return redistribute_in_parts(self.rules[layer], operation, inputs, relevance, output, self.balance.at(layer))

    def through_product(
        self,
        layer: int,
        operation: Product | MatrixProduct,
        inputs: tuple[Tensor, ...],
        relevance: Tensor,
        output: Tensor,
    ) -> tuple[Tensor, ...]:
        if isinstance(operation, MatrixProduct):
            return self.inner.through_matrix_product(
                operation, inputs, relevance, output, self.shares[layer], self.balance.at(layer)
            )
        shares = zip(self.shares[layer], inputs, strict=True)
        return tuple(sum_to(relevance * share, x.shape) for share, x in shares)

    def through_normalisation(
        self, layer: int, operation: Normalisation, inputs: tuple[Tensor, ...], relevance: Tensor
    ) -> tuple[Tensor, ...]:
        return (self.inner.through_normalisation(operation, inputs[0], relevance, self.balance.at(layer)),)

    def through_variance(self, layer: int, operation: Variance, x: Tensor, relevance: Tensor, output: Tensor) -> Tensor:
        """In proportion to the squared distances from the mean, of which a variance is the sum."""
        squares = (x - x.mean(operation.axes, keepdim=True)).square()
        total = squares.sum(operation.axes, keepdim=True)
        return squares * stabilised_quotient(relevance, total, self.inner.epsilon, self.balance.at(layer))


def _biases_absorb(options: Mapping[str, Any]) -> bool:
    if options["bias"] == "preset":
        return str(options["rule"]).startswith("epsilon-") or options["rule"] in ATTENTION_PRESETS
    return bool(options["bias"] == "absorbed")


def _settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset leaves open is decided, and what it does not have is left out."""
    settled = dict(options)
    if settled["product"] == "preset":
        settled["product"] = "half" if settled["rule"] == "attn-lrp" else "signal"
    if settled["rule"] not in ATTENTION_PRESETS:
        del settled["dense"]
    return settled


def _recording(job: Job) -> Recording:
    folded = job.options["batch_norm"] == "fold"
    if not job.decision.is_negated:
        return job.evaluation.recording(folded)
    return record(negated(job.evaluation.graph(folded)), job.evaluation.image, check=job.monitor.check)


def _lrp(job: Job) -> MapResult:
    recording = _recording(job)
    graph, image = recording.graph, job.evaluation.image
    rules = composite(job.options, image).assign(graph, image)
    preset = str(job.options["rule"])
    shares = shares_of_products(graph, _settled(job.options)["product"])
    inner = InnerRules.of_preset(preset, float(job.options["epsilon"]), _biases_absorb(job.options))
    start = torch.zeros_like(recording.logits)
    neuron = 0 if job.decision.head != "softmax" else job.decision.class_index
    start[0, neuron] = job.decision.start_relevance
    balance = Balance(graph, job.decision.start_relevance)
    rule = RelevanceRule(rules, shares, balance, inner)
    relevance = walk_back(recording, start, rule, check=job.monitor.check, pass_on=balance.pass_on)
    notes: tuple[str, ...] = ()
    if job.options["rule"] == "b-rule" and job.options["beta"] == 0 and job.decision.start_relevance < 0:
        what = "raises the score" if job.decision.head == "score" else "speaks for the class"
        notes = (f"The start relevance is negative: the map shows what {what}, with a negative sign.",)
    if shares:
        held = sum(share != (0.5, 0.5) for share in shares.values())
        notes += (
            f"{len(shares)} products of two layers: in {held}, the gate is held constant and the other layer gets the "
            f"relevance; in {len(shares) - held}, both get half.",
        )
    notes += inner.notes(graph)
    account = balance.account()
    warned = warnings(account, job.decision.start_relevance, _biases_absorb(job.options))
    told = in_words(account, job.decision.start_relevance)
    if preset in ATTENTION_PRESETS and told and not warned:
        notes += (f"Of {job.decision.start_relevance:.3g} that was handed out, layers kept: {told}.",)
    notes += warned
    return MapResult(
        relevance[0],
        job.decision.start_relevance,
        notes,
        relevance_by_layer=balance.received(),
        conservation=account,
    )


METHODS = (
    Method(
        "lrp",
        "Layer-wise relevance propagation",
        "How much did this voxel contribute to the decision? (Why does this person have AD?)",
        "Bach et al. 2015, doi:10.1371/journal.pone.0130140; Böhle et al. 2019, doi:10.3389/fnagi.2019.00194",
        over_shifts(_lrp),
        (
            Option(
                "rule",
                "b-rule",
                "b-rule (αβ everywhere), e-rule (ε everywhere), epsilon-plus-flat, epsilon-gamma-box; for transformers "
                "attn-lrp or cp-lrp (queries and keys held constant)",
                str,
                PRESETS,
            ),
            Option(
                "beta",
                0.0,
                "b-rule: weight of contributions against the class; α = 1 + β",
                float,
                minimum=0,
                maximum=100,
            ),
            Option("epsilon", 1e-6, "stabiliser added to denominators", float, minimum=0, maximum=1e3),
            Option("exponent", 1, "e-rule: power p of inputs and weights", float, minimum=1, maximum=9),
            Option(
                "gamma",
                0.25,
                "epsilon-gamma-box, dense=gamma: extra weight of favourable contributions",
                float,
                minimum=0,
                maximum=1e3,
            ),
            Option("low", None, "z-box: smallest possible voxel value (default: the image's)", float),
            Option("high", None, "z-box: largest possible voxel value (default: the image's)", float),
            Option(
                "first_rule",
                "preset",
                "rule of the first layer: the preset's, the same as in other convolutions, flat, w-square or z-box",
                str,
                ("preset", "same", "flat", "w-square", "z-box"),
            ),
            Option(
                "bias",
                "preset",
                "whether biases keep a share: ignored (b-rule, e-rule) or absorbed (epsilon-…)",
                str,
                ("preset", "ignored", "absorbed"),
            ),
            Option(
                "batch_norm",
                "fold",
                "fold: merged into the layer before it; pass: relevance passes unchanged, as in the published code",
                str,
                ("fold", "pass"),
            ),
            Option(
                "product",
                "preset",
                "products of two layers: signal (a gate is held constant, the rest gets all), half (each gets half) or "
                "the preset's (attn-lrp: half; all others: signal)",
                str,
                ("preset", "signal", "half"),
            ),
            Option(
                "dense",
                "preset",
                "attn-lrp, cp-lrp: rule of dense layers and convolutions, ε (the preset's) or γ",
                str,
                ("preset", "gamma"),
            ),
            SHIFTED,
        ),
        is_conserving=True,
        starts_with_relevance=True,
        needs_layers=True,
        settle=_settled,
    ),
)
