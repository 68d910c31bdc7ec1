"""What each layer received of the relevance, what it passed on, and where the difference went, as plain values.

Needs no torch: it travels in the record of an explanation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Why relevance stays in a layer, and how that is said.
CAUSES: Mapping[str, str] = {
    "biases": "biases",
    "constants": "class tokens, position codes and other constants",
    "softmax": "softmax",
    "held constant": "factors that are held constant",
    "bias alone": "neurons that are active by their bias alone",
    "no contribution": "neurons to which nothing contributed with the sign that the rule asks for",
    "stabiliser": "the stabiliser ε, where contributions nearly cancel",
    "rounding": "rounding",
}

#: What rules keep on purpose: that it does not reach the image is what they say of it.
INTENDED = frozenset({"biases", "constants", "softmax", "held constant"})


@dataclass(frozen=True)
class LayerAccount:
    """The account of one layer.

    Attributes
    ----------
    layer, operation : str
        Its name, and what it does.
    received : float
        Σ relevance at its output.
    passed_on : float
        Σ relevance that its inputs got.
    kept : mapping of str to float
        By cause, one of :data:`CAUSES`: what stayed, or, with the other sign than the relevance, was added;
        ``received − passed_on`` is its sum.
    """

    layer: str
    operation: str
    received: float
    passed_on: float
    kept: Mapping[str, float]

    def describe(self) -> dict[str, Any]:
        """Plain values; see :func:`read_account`."""
        return {
            "layer": self.layer,
            "operation": self.operation,
            "received": self.received,
            "passed_on": self.passed_on,
            "kept": dict(self.kept),
        }


Account = tuple[LayerAccount, ...]


def read_account(written: Iterable[Mapping[str, Any]] | None) -> Account | None:
    """The account in the record of an explanation, or None where there is none."""
    if written is None:
        return None
    return tuple(
        LayerAccount(
            str(line["layer"]),
            str(line["operation"]),
            float(line["received"]),
            float(line["passed_on"]),
            {str(cause): float(amount) for cause, amount in line["kept"].items()},
        )
        for line in written
    )


def mean_account(accounts: Sequence[Account]) -> Account:
    """The mean of the accounts of one network, line by line."""
    count = len(accounts)
    return tuple(
        LayerAccount(
            lines[0].layer,
            lines[0].operation,
            sum(line.received for line in lines) / count,
            sum(line.passed_on for line in lines) / count,
            {
                c: sum(line.kept.get(c, 0.0) for line in lines) / count
                for c in CAUSES
                if any(c in x.kept for x in lines)
            },
        )
        for lines in zip(*accounts, strict=True)
    )


def kept_by_cause(account: Account) -> dict[str, float]:
    """What all layers kept together, by cause; causes that kept nothing are left out."""
    sums = dict.fromkeys(CAUSES, 0.0)
    for line in account:
        for cause, amount in line.kept.items():
            sums[cause] += amount
    return {cause: amount for cause, amount in sums.items() if amount != 0.0}


def in_words(account: Account, handed_out: float, least: float = 1e-3) -> str:
    """What was kept, by cause, largest first, with the layer that kept most of it; "" where all is below `least`.

    Parameters
    ----------
    account : tuple of LayerAccount
    handed_out : float
    least : float
        Fraction of `handed_out` from which on an amount is mentioned.
    """
    if handed_out == 0:
        return ""
    size = abs(handed_out)
    sums = {cause: amount for cause, amount in kept_by_cause(account).items() if abs(amount) >= least * size}
    told = []
    for cause in sorted(sums, key=lambda cause: -abs(sums[cause])):
        most = max(account, key=lambda line: abs(line.kept.get(cause, 0.0)))
        told.append(f"{CAUSES[cause]} {sums[cause] / handed_out:+.1%} (most at {most.layer})")
    return "; ".join(told)
