"""What a network says of a scan: probabilities of classes or a score with its level, and what each member says.

Plain values without torch: an outcome travels in the provenance, to figures, tables and the panel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ADAttributionLogic.answer_spread import value_text
from ADAttributionLogic.networks.output import Output, read_output


@dataclass(frozen=True)
class MemberOutcome:
    """What one network of an ensemble says.

    Attributes
    ----------
    name : str
    values : mapping of str to float
        Probability by class, or the score by its name.
    verdict : str
        The most probable class, or the level of the score by the network's own thresholds; "" without levels.
    """

    name: str
    values: Mapping[str, float]
    verdict: str


@dataclass(frozen=True)
class Outcome:
    """What a network, or the mean of an ensemble, says.

    Attributes
    ----------
    output : Output
        What the values are.
    values : mapping of str to float
        Probability by class, or the score by its name.
    verdict : str
        The most probable class, or the level of the score; "" for a score without levels.
    members : tuple of MemberOutcome
        () for a single network.
    """

    output: Output
    values: Mapping[str, float]
    verdict: str
    members: tuple[MemberOutcome, ...] = ()

    @property
    def score(self) -> float:
        """The value of a score."""
        (value,) = self.values.values()
        return value

    @property
    def agreeing(self) -> int:
        """How many members come to the verdict of their mean."""
        return sum(member.verdict == self.verdict for member in self.members)

    @property
    def spread(self) -> float | None:
        """Standard deviation (n − 1) of the members' scores, or of their probabilities of the verdict."""
        if len(self.members) < 2:
            return None
        key = next(iter(self.values)) if self.output.is_score else self.verdict
        found = [member.values[key] for member in self.members]
        mean = math.fsum(found) / len(found)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1))

    def quantity(self, target: str, start: str) -> str:
        """What is explained, with its unit: of a class its probability, logit or margin, of a score the score.

        Parameters
        ----------
        target : str
            The class, or the name of the score.
        start : str
            As of :class:`ADAttributionLogic.attribution.target.Target`.
        """
        if start == "unit":
            return f"share of what speaks for {target}"
        if not self.output.is_score:
            return f"P({target})" if start == "probability" else f"{start} of {target}"
        name = f"{target} − reference" if start == "distance" else target
        return f"{name} ({self.output.unit})" if self.output.unit else name

    def headline(self, plus_minus: Mapping[str, float] | None = None) -> str:
        """The answer in one line, with what stands after ± by class or score (see :mod:`~.answer_spread`)."""
        moves = plus_minus or {}
        if not self.output.is_score:
            text = "   ".join(f"P({n}) = {value_text(p, moves.get(n), 3)}" for n, p in self.values.items())
        else:
            unit = f" {self.output.unit}" if self.output.unit else ""
            text = f"{self.output.name} = {value_text(self.score, moves.get(next(iter(self.values))), 2)}{unit}"
            text += f", {self.verdict}" if self.verdict else ""
        agreement = self.agreement_text()
        return f"{text} ({agreement})" if agreement else text

    def agreement_text(self) -> str:
        """How many networks say so; "" for a single one, or without levels to agree on."""
        if not self.members or not self.verdict:
            return ""
        verb = "says" if self.agreeing == 1 else "say"
        return f"{self.agreeing} of {len(self.members)} networks {verb} {self.verdict}"

    def describe(self) -> dict[str, Any]:
        """Plain values; see :func:`read_outcome`."""
        members = [{"name": m.name, "values": dict(m.values), "verdict": m.verdict} for m in self.members]
        found: dict[str, Any] = {"output": self.output.describe(), "values": dict(self.values), "verdict": self.verdict}
        if members:
            found |= {"members": members, "agreeing": self.agreeing, "standard_deviation": self.spread}
        return found


def read_outcome(document: Mapping[str, Any]) -> Outcome:
    """The inverse of :meth:`Outcome.describe`."""
    members = tuple(MemberOutcome(m["name"], m["values"], m["verdict"]) for m in document.get("members", ()))
    return Outcome(read_output(document["output"]), document["values"], document["verdict"], members)


def outcome_in(record: Mapping[str, Any]) -> Outcome:
    """The outcome in the record of an explanation; those of version 0.1 have probabilities only."""
    if "outcome" in record:
        return read_outcome(record["outcome"])
    chances: Mapping[str, float] = record["probabilities"]
    verdict = max(chances, key=chances.__getitem__)
    return read_outcome({"output": {"kind": "softmax"}, "values": chances, "verdict": verdict})


def outcome_of(
    output: Output,
    names: Sequence[str],
    members: Sequence[tuple[str, Sequence[float], Sequence[float]]],
) -> Outcome:
    """The outcome of what each network gave.

    Parameters
    ----------
    output : Output
    names : sequence of str
        Of the classes, or of the score alone.
    members : sequence of (name, values, thresholds)
        Of each network: probabilities in the order of the classes, or the score; its own thresholds, or none.
    """
    each = tuple(
        MemberOutcome(name, dict(zip(names, values, strict=True)), _verdict(output, names, values, thresholds))
        for name, values, thresholds in members
    )
    means = [math.fsum(member.values[name] for member in each) / len(each) for name in names]
    values = dict(zip(names, means, strict=True))
    return Outcome(output, values, _verdict(output, names, means, ()), each if len(each) > 1 else ())


def _verdict(output: Output, names: Sequence[str], values: Sequence[float], thresholds: Sequence[float]) -> str:
    if output.is_score:
        return output.level_of(values[0], thresholds or None)
    return max(zip(names, values, strict=True), key=lambda pair: pair[1])[0]
