"""DeepLIFT: relevance of the difference between the scan and a reference image.

Two forward passes are recorded, of the scan and of the reference. What is handed back is the difference of their
scores, and what a layer divides it by are the differences of its inputs: LRP's rules, with differences in the place of
values. The biases are the same in both and drop out, so that nothing is lost in them, and what the scan and the
reference share (background, skull, all that is normal) gets exactly nothing.

With the ε-rule this is the *rescale* rule of Shrikumar et al. 2017: an activation's multiplier is Δoutput/Δinput, so
that relevance passes it unchanged. A max pooling hands its relevance to the winner of whichever image has the larger
maximum, as captum and SHAP do. The γ-rule carries the idea of Montavon et al. 2019 over to differences: contributions
that speak with the neuron's change are weighted by 1 + γ.

References
----------
Shrikumar et al. 2017, arXiv:1704.02685, section 3.5.1 (rescale rule). Montavon et al. 2019, LNCS 11700 (γ).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ADAttributionLogic.attribution.fill import BLUR
from ADAttributionLogic.attribution.lrp import RelevanceRule
from ADAttributionLogic.attribution.reference_image import baseline_option, reference_image
from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.attribution.shift_mean import SHIFTED, over_shifts
from ADAttributionLogic.attribution.target import Decision
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.chains import Chain
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import (
    Activation,
    Concatenate,
    Input,
    MaxPool,
    Permute,
    Reshape,
    WeightedOperation,
    ZeroPad,
)
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.graph.recording import Recording, record, walk_back
from ADAttributionLogic.method_options import Option
from ADAttributionLogic.propagation.conservation import Balance, Kept, warnings
from ADAttributionLogic.propagation.rules import EpsilonRule, GammaRule, InheritRule, Rule, Tensors

#: Operations of which the difference of two outputs follows from the differences of their inputs, element by element
#: or by a weighted sum.
_DIFFERENCES_PASS = (Activation, WeightedOperation, MaxPool, Reshape, Permute, ZeroPad, Concatenate, Take, Input)

#: Points between the two logits at which the derivative of a probability is averaged.
_POINTS = 64


@dataclass(frozen=True)
class WithoutBias(Rule):
    """A rule for differences, in which biases cancel.

    Attributes
    ----------
    rule : Rule
    """

    rule: Rule

    def redistribute(
        self, operation: WeightedOperation, inputs: Tensors, relevance: Tensor, kept: Kept | None = None
    ) -> Tensors:
        return self.rule.redistribute(replace(operation, bias=None), inputs, relevance, kept)


def rules_of_differences(graph: LayerGraph, how: str, gamma: float, epsilon: float) -> dict[int, Rule]:
    """The rule of every weighted layer: ε or γ in convolutions and dense layers, ε in other sums."""
    rules: dict[int, Rule] = {}
    plain = EpsilonRule(epsilon)
    chosen: Rule = plain if how == "rescale" else GammaRule(gamma, epsilon)
    for index, layer in enumerate(graph.layers):
        operation = layer.operation
        if not isinstance(operation, WeightedOperation):
            continue
        if operation.one_to_one:
            rules[index] = InheritRule()
        else:
            rules[index] = WithoutBias(chosen if operation.weight.ndim > 1 else plain)
    return rules


def difference(scan: Recording, reference: Recording) -> Recording:
    """What differs between two recorded passes through the same graph.

    Returns
    -------
    Recording
        ``outputs`` are scan − reference; ``winners`` of a pooling are those of the image with the larger maximum.
    """
    outputs = {layer: scan.outputs[layer] - reference.outputs[layer] for layer in scan.outputs}
    winners: dict[int, list[Tensor]] = {}
    for block in scan.blocks:
        if block.output not in scan.winners:
            continue
        of_scan = scan.winners[block.output]  # of a chain without pooling: []
        if not of_scan:
            winners[block.output] = []
            continue
        is_larger = outputs[block.output] >= 0
        chain = Chain.of(scan.graph, block)
        rows = [slice(None)] if chain is None else [s.rows for s in chain.slabs(scan.outputs[block.sources[0]])]
        parts = zip(rows, of_scan, reference.winners[block.output], strict=True)
        winners[block.output] = [torch.where(is_larger[:, :, r], a, b) for r, a, b in parts]
    return Recording(scan.graph, scan.blocks, outputs, winners)


def coefficients(decision: Decision, scan: Tensor, reference: Tensor) -> Tensor:
    """By what the difference of each logit (1, K) contributes to the difference of the explained quantity.

    The mean of its derivative on the straight way from the reference's logits to the scan's, so that the contributions
    add up: for a logit, a margin or a score the derivative itself; for the probability of one of two classes
    Δprobability/Δmargin, which is DeepLIFT's rescale rule again.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    places = torch.from_numpy((nodes + 1) / 2).to(scan.device)[:, None]
    points = reference.double() + places * (scan.double() - reference.double())
    slopes = decision.gradient_at_logits(points)
    return (slopes * torch.from_numpy(weights / 2).to(scan.device)[:, None]).sum(0, keepdim=True).to(scan.dtype)


def _deeplift(job: Job) -> MapResult:
    evaluation, options = job.evaluation, job.options
    scan = evaluation.recording()
    _require_differences(scan.graph)
    image = reference_image(job, "deeplift")
    reference = record(scan.graph, image.expand_as(evaluation.image).contiguous(), check=job.monitor.check)
    job.monitor.report(0.4, "DeepLIFT: the way back")
    changes = difference(scan, reference)
    shares = coefficients(job.decision, scan.logits, reference.logits)
    before = float(job.decision.score_of(reference.logits)[0])
    del reference
    rules = rules_of_differences(scan.graph, str(options["rule"]), float(options["gamma"]), float(options["epsilon"]))
    to_attribute = job.decision.score - before
    balance = Balance(scan.graph, to_attribute)
    rule = RelevanceRule(rules, {}, balance)
    relevance = walk_back(changes, shares * changes.logits, rule, check=job.monitor.check, pass_on=balance.pass_on)
    account = balance.account()
    notes = (f"The score of the reference is {before:.4g}; explained is the difference, {to_attribute:+.4g}.",)
    return MapResult(
        relevance[0],
        to_attribute,
        notes + warnings(account, to_attribute),
        relevance_by_layer=balance.received(),
        conservation=account,
    )


def _require_differences(graph: LayerGraph) -> None:
    for layer in graph.layers:
        if not isinstance(layer.operation, _DIFFERENCES_PASS):
            raise NetworkError(
                f"DeepLIFT has no rule for {layer.operation.describe()} ({layer.name}), whose output's difference does "
                "not follow from its inputs' differences. Use integrated-gradients with the baseline 'reference', "
                "which asks the same question of any network."
            )


METHODS = (
    Method(
        "deeplift",
        "DeepLIFT",
        "How much did what differs from the reference (the mean of controls) in this voxel contribute?",
        "Shrikumar et al. 2017, arXiv:1704.02685",
        over_shifts(_deeplift),
        (
            Option(
                "rule",
                "rescale",
                "rescale (ε-rule of the differences), or gamma (contributions with the neuron's change weigh more)",
                str,
                ("rescale", "gamma"),
            ),
            Option("gamma", 0.25, "rule gamma: extra weight of those contributions", float, minimum=0, maximum=1e3),
            baseline_option("reference"),
            BLUR,
            Option("epsilon", 1e-6, "stabiliser added to denominators", float, minimum=0, maximum=1e3),
            SHIFTED,
        ),
        is_conserving=True,
        needs_layers=True,
    ),
)
