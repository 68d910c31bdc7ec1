"""Whether relevance was conserved on its way back, and where not."""

from __future__ import annotations

import torch
from torch import Tensor

from ADAttributionLogic.graph.layer_graph import LayerGraph

#: Fraction of the start relevance that may be missing, or too much, without a word.
TOLERATED = 0.1

#: The same where biases are to keep their share, which is much of it in most networks.
TOLERATED_WITH_BIASES = 0.75


class Balance:
    """What comes and goes at each block of layers.

    Parameters
    ----------
    graph : LayerGraph
    start : float
        Relevance that is handed out.
    """

    def __init__(self, graph: LayerGraph, start: float) -> None:
        self.graph = graph
        self.start = start
        self.changes: dict[int, float] = {}

    def add(self, layer: int, entering: Tensor, leaving: tuple[Tensor, ...]) -> None:
        """Note the relevance of a block's output and those of its inputs."""
        self.changes[layer] = sum(_total(part) for part in leaving) - _total(entering)

    def absorbed(self) -> tuple[str, ...]:
        """How much relevance stayed in each kind of layer (or, with a minus, was added by it), largest first."""
        by_kind: dict[str, float] = {}
        for layer, change in self.changes.items():
            kind = type(self.graph.layers[layer].operation).__name__
            by_kind[kind] = by_kind.get(kind, 0.0) - change
        size = max(abs(self.start), 1e-12)
        told = sorted((k for k in by_kind if abs(by_kind[k]) > 1e-3 * size), key=lambda k: -abs(by_kind[k]))
        if not told:
            return ()
        amounts = ", ".join(f"{kind} {by_kind[kind]:+.3g}" for kind in told)
        return (f"Of {self.start:.3g} that was handed out, layers kept (biases, position codes, softmax): {amounts}.",)

    def warnings(self, biases_absorb: bool) -> tuple[str, ...]:
        """What a user must know: relevance that appeared or disappeared beyond what the rules promise."""
        size = max(abs(self.start), 1e-12)
        net = sum(self.changes.values())
        gross = sum(abs(change) for change in self.changes.values())
        tolerated = TOLERATED_WITH_BIASES if biases_absorb else TOLERATED
        if not self.changes or (abs(net) <= tolerated * size and gross <= 10 * tolerated * size):
            return ()
        worst = max(self.changes, key=lambda layer: abs(self.changes[layer]))
        change = self.changes[worst]
        what = "appeared" if change * self.start > 0 else "was lost"
        why = (
            "positive and negative contributions nearly cancel there, so that dividing by their sum enlarges them"
            if what == "appeared" or abs(change) > size
            else "nothing contributed there with the sign that the rule asks for, or biases kept their share"
        )
        return (
            f"Relevance is not conserved: of {self.start:.3g} that was handed out, {self.start + net:.3g} reached the "
            f"image. Most {what} at {self.graph.layers[worst]}, {change:+.3g}: {why}. Read the map with this in mind, "
            "or choose another rule.",
        )


def _total(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))
