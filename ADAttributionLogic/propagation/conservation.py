"""Whether relevance was conserved on its way back, and where not."""

from __future__ import annotations

import torch
from torch import Tensor

from ADAttributionLogic.graph.arithmetic import PlacewiseAffine
from ADAttributionLogic.graph.chains import Block
from ADAttributionLogic.graph.indicators import ones_where_nonzero
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import Operation, ZeroPad
from ADAttributionLogic.propagation.account import CAUSES, INTENDED, Account, LayerAccount, in_words

#: Fraction of the start relevance that may be missing, or too much, without a word.
TOLERATED = 0.1

#: The same of what rules keep on purpose (biases, class tokens, softmax), which is much in most networks.
TOLERATED_ON_PURPOSE = 0.75


class Kept:
    """What stays in one layer, by cause; rules tell it while they divide.

    Parameters
    ----------
    operation : Operation
        Of the layer.
    """

    def __init__(self, operation: Operation) -> None:
        is_constant = isinstance(operation, PlacewiseAffine)  # a class token, position codes, a filled border
        self.of_bias = "constants" if is_constant else "biases"
        self._by_bias_alone = "constants" if is_constant else "bias alone"
        self._sums: dict[str, Tensor] = {}

    def add(self, cause: str, amounts: Tensor) -> None:
        """Note amounts of relevance (…) that stay, for one of the causes."""
        total = total_of(amounts)
        self._sums[cause] = self._sums[cause] + total if cause in self._sums else total

    def drop(self, amounts: Tensor, bias: Tensor | None) -> None:
        """Note relevance (…) of neurons to which nothing contributed; `bias` broadcasts over it."""
        if bias is None:
            self.add("no contribution", amounts)
            return
        by_bias = amounts * ones_where_nonzero(bias)
        self.add(self._by_bias_alone, by_bias)
        self.add("no contribution", amounts - by_bias)

    def by_cause(self) -> dict[str, float]:
        """The sums that are not 0, in the order of :data:`CAUSES`."""
        found = {cause: float(self._sums[cause]) for cause in CAUSES if cause in self._sums}
        return {cause: amount for cause, amount in found.items() if amount != 0.0}


class Balance:
    """What comes to each layer and what goes on.

    Parameters
    ----------
    graph : LayerGraph
    start : float
        Relevance that is handed out.
    """

    def __init__(self, graph: LayerGraph, start: float) -> None:
        self.graph = graph
        self.start = start
        self._received: dict[int, float] = {graph.output: start}
        self._kept: dict[int, Kept] = {}
        self._blocks: list[tuple[Block, float]] = []

    def at(self, layer: int) -> Kept:
        """Where the rule of a layer tells what stays there."""
        return self._kept.setdefault(layer, Kept(self.graph.layers[layer].operation))

    def pass_on(self, block: Block, parts: tuple[Tensor, ...]) -> None:
        """Note the relevance that the inputs of a block got."""
        totals = [float(total_of(part)) for part in parts]
        for source, total in zip(block.sources, totals, strict=True):
            self._received[source] = self._received.get(source, 0.0) + total
        self._blocks.append((block, sum(totals)))

    def received(self) -> dict[str, float]:
        """Σ relevance at the output of each block of layers, from the answer to the image, by the last one's name."""
        order = (*(block.output for block, _ in self._blocks), 0)
        return {self.graph.layers[index].name: self._received[index] for index in order if index in self._received}

    def account(self) -> Account:
        """The account of every layer that relevance came to, from the answer to the image."""
        lines: list[LayerAccount] = []
        for block, passed_on in self._blocks:
            received = self._received[block.output]
            for index in reversed(block.layers):
                layer = self.graph.layers[index]
                kept = self.at(index).by_cause()
                left = received - sum(kept.values())
                if index == block.layers[0]:
                    rest = left - passed_on
                    if rest:
                        # What comes to a border goes no further: the network made it, not the image.
                        kept["constants" if isinstance(layer.operation, ZeroPad) else "rounding"] = rest
                    left = passed_on
                lines.append(LayerAccount(layer.name, layer.operation.describe(), received, left, kept))
                received = left
        return tuple(lines)


def warnings(account: Account, start: float, keeps_on_purpose: bool = False) -> tuple[str, ...]:
    """What a user must know: relevance that appeared or disappeared beyond what the rules promise.

    Parameters
    ----------
    account : tuple of LayerAccount
    start : float
        Relevance that was handed out.
    keeps_on_purpose : bool
        Whether the rules are to leave biases, class tokens and softmax their share.
    """
    size = max(abs(start), 1e-12)
    intended = INTENDED if keeps_on_purpose else frozenset()
    net = sum(amount for line in account for amount in line.kept.values())
    astray = [(line, sum(a for cause, a in line.kept.items() if cause not in intended)) for line in account]
    lost, gross = sum(amount for _, amount in astray), sum(abs(amount) for _, amount in astray)
    on_purpose = net - lost
    if abs(lost) <= TOLERATED * size and gross <= size and abs(on_purpose) <= TOLERATED_ON_PURPOSE * size:
        return ()
    reached = f"of {start:.3g} that was handed out, {start - net:.3g} reached the image"
    causes = in_words(account, start, 0.01)
    swings = ""
    if gross > size:
        line, amount = max(astray, key=lambda each: abs(each[1]))
        swings = (
            f" Contributions of both signs nearly cancel and are enlarged: {line.layer} ({line.operation}) alone "
            f"{'keeps' if amount * start > 0 else 'adds'} {abs(amount / size):.3g} times of it."
        )
    kept = f" Kept by: {causes}." if causes else ""
    return (
        f"Relevance is not conserved: {reached}.{kept}{swings} Read the map with this in mind, or choose another rule.",
    )


def total_of(values: Tensor) -> Tensor:
    """Σ of all values, in double precision but for the last axis (a sum of floats in doubles would copy them)."""
    return (values.sum(-1) if values.ndim else values).sum(dtype=torch.float64)
