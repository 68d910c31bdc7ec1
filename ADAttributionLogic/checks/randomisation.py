"""Does the map change when the network knows nothing any more?

All weights are shuffled within their layers, and the map is made anew: a map that depends on what the network learned
gets more disordered. The number is the relative rise of the entropy of the map's histogram (Efficient MPRT: Hedström et
al. 2024, arXiv:2401.06465); similarity measures would favour noisy maps (Binder et al. 2023). It is passed or failed:
no method is better for a larger rise.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.checks.findings import Check
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.graph.layer_graph import Layer
from ADAttributionLogic.graph.operations import WeightedOperation
from ADAttributionLogic.networks.network import Network

NAME, TITLE = "randomisation", "Randomisation"

#: Bins of the histograms, as Hedström et al. (2024) have them.
BINS = 100
#: A rise below this is no rise: shuffling another way changes it by more.
LEAST_RISE = 0.1


def randomisation(question: Question, checked: CheckedMap, cost: float, seed: int = 1) -> Check:
    """Compare the entropy of a map with that of the same network with its weights shuffled.

    Parameters
    ----------
    question : Question
    checked : CheckedMap
    cost : float
        As estimated beforehand.
    seed : int
        Of the shuffling.
    """
    question.monitor.report(0.0, f"{checked.title} of the network with its weights shuffled")
    random = question.map_of(checked, question.image, lambda network: shuffled(network, seed))
    before, after = (entropy(values[question.brain]) for values in (checked.values, random))
    details = {"entropy": before, "entropy_of_shuffled": after, "seed": seed}
    check = partial(
        Check,
        NAME,
        TITLE,
        null=0.0,
        number_is="relative rise of the map's entropy",
        null_is="no rise",
        cost=cost,
        details=details,
    )
    if not random[question.brain].any():
        text = "The network with its weights shuffled gives an empty map: nothing can be compared."
        return check(number=None, verdict="unsure", sentence=text)
    if before < 1e-9:
        text = "The map is the same everywhere: it depends on nothing that the network learned."
        return check(number=None, verdict="fail", sentence=text)
    rise = after / before - 1
    if rise >= LEAST_RISE:
        text = f"With the network's weights shuffled the map's disorder rises by {rise:.0%}: it shows what was learned."
        return check(number=rise, verdict="pass", sentence=text)
    text = (
        f"With the network's weights shuffled the map's disorder changes by {rise:+.0%} only: the map looks much as "
        "that of a network that learned nothing."
    )
    return check(number=rise, verdict="fail", sentence=text)


def entropy(values: npt.NDArray[Any], bins: int = BINS) -> float:
    """Shannon entropy, in nats, of the histogram of values."""
    counts, _ = np.histogram(values, bins=bins)
    shares = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def shuffled(network: Network, seed: int) -> Network:
    """The network with the weights of each layer in another order: their distribution stays, what they know is gone.

    Biases and normalisations by constants stay. The user's network is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    if network.graph is None:
        module = copy.deepcopy(network.module)
        assert module is not None
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim >= 2:
                    parameter.copy_(_in_another_order(parameter, generator))
        return replace(network, module=module, original=None)
    layers = tuple(_shuffled_layer(layer, generator) for layer in network.graph.layers)
    return replace(network, graph=replace(network.graph, layers=layers), original=None)


def _shuffled_layer(layer: Layer, generator: torch.Generator) -> Layer:
    operation = layer.operation
    if not isinstance(operation, WeightedOperation) or operation.weight.ndim < 2:
        return layer
    return replace(layer, operation=replace(operation, weight=_in_another_order(operation.weight, generator)))


def _in_another_order(weight: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    return weight.flatten()[order].reshape(weight.shape)
