"""What a network's output means: probabilities of classes, or a score on a scale. Declared, never guessed.

Needs no torch, so that a panel can read a card while the network lives in the worker only.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from ADAttributionLogic.architectures.output_kind import OutputKind
from ADAttributionLogic.errors import NetworkError, UnknownNameError

OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)


@dataclass(frozen=True)
class Output:
    """What a network's output is, as its card declares it.

    Attributes
    ----------
    kind : {"softmax", "sigmoid", "score"}
    name : str
        Short, e.g. ``"COG"``; "" for classes, which have names of their own.
    meaning : str
        One sentence.
    unit : str
        Of a score.
    scale : (float, float) or None
        Where a score usually lies; values beyond it are possible.
    levels : tuple of str
        Names of the ranges of a score, from low to high.
    thresholds : tuple of float
        Between them, one fewer, ascending; a score at a threshold has the upper level.
    reference : float or None
        The score from which the start ``distance`` measures.
    """

    kind: OutputKind
    name: str = ""
    meaning: str = ""
    unit: str = ""
    scale: tuple[float, float] | None = None
    levels: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    reference: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in OUTPUT_KINDS:
            raise UnknownNameError("kind of output", str(self.kind), OUTPUT_KINDS)
        check_thresholds(self.levels, self.thresholds, self.name or self.kind)
        if self.kind != "score" and (self.thresholds or self.scale or self.reference is not None):
            raise NetworkError(f"Only a score has a scale, thresholds and a reference; a {self.kind} has classes.")
        if self.kind == "score" and not self.name:
            raise NetworkError("A score needs a name, such as COG.")
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise NetworkError(f"The scale of {self.name} must ascend, but is {self.scale[0]:g} to {self.scale[1]:g}.")

    @property
    def is_score(self) -> bool:
        """Whether the output is a regression."""
        return self.kind == "score"

    def level_of(self, value: float, thresholds: Sequence[float] | None = None) -> str:
        """Name of the range that a score lies in, by other thresholds if given; "" where there are none."""
        chosen = self.thresholds if thresholds is None else thresholds
        return self.levels[bisect.bisect_right(chosen, value)] if self.levels else ""

    def describe(self) -> dict[str, Any]:
        """Plain values, as in a card; see :func:`read_output`."""
        found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in found.items() if value not in ("", [], None)}


def read_output(entry: Mapping[str, Any]) -> Output:
    """The inverse of :meth:`Output.describe`.

    Raises
    ------
    NetworkError
        Thresholds that do not fit the levels, or a score without a name.
    """
    low, high = entry.get("scale") or (None, None)
    return Output(
        entry["kind"],
        entry.get("name", ""),
        entry.get("meaning", ""),
        entry.get("unit", ""),
        None if low is None or high is None else (float(low), float(high)),
        tuple(entry.get("levels", ())),
        tuple(map(float, entry.get("thresholds", ()))),
        entry.get("reference"),
    )


def check_thresholds(levels: Sequence[str], thresholds: Sequence[float], name: str) -> None:
    """Refuse thresholds that do not separate the levels.

    Raises
    ------
    NetworkError
    """
    if len(thresholds) != max(len(levels) - 1, 0):
        raise NetworkError(
            f"{name} has {len(levels)} levels, which need {max(len(levels) - 1, 0)} thresholds between them, but "
            f"{len(thresholds)} are given."
        )
    if list(thresholds) != sorted(set(thresholds)):
        raise NetworkError(f"The thresholds of {name} must ascend, but are {', '.join(f'{t:g}' for t in thresholds)}.")


def head_of(outputs: int, traced: OutputKind | None, declared: OutputKind | None, name: str) -> OutputKind:
    """Say what a network's outputs are.

    Parameters
    ----------
    outputs : int
        How many it has.
    traced : str or None
        What the network itself ends with; None where it ends with neither softmax nor sigmoid.
    declared : str or None
        What its card or its user says.
    name : str

    Raises
    ------
    NetworkError
        One output of which nobody says what it is, or a declaration that the network contradicts.
    """
    if declared is None:
        if traced is None and outputs == 1:
            raise NetworkError(
                f"{name} has one output, and nothing says what it is: a score (a regression, whose value is the "
                "answer) or the log-odds of a class. Say --output score or --output sigmoid; in Python "
                'output="score" or output="sigmoid"; in a package, the entry output of model.json.'
            )
        return traced or "softmax"
    if declared not in OUTPUT_KINDS:
        raise UnknownNameError("kind of output", str(declared), OUTPUT_KINDS)
    if (declared == "softmax") == (outputs == 1):
        needed = "at least two outputs" if declared == "softmax" else "one output"
        raise NetworkError(f"The output of {name} is declared a {declared}, which needs {needed}; it has {outputs}.")
    if traced is not None and traced != declared:
        raise NetworkError(
            f"The output of {name} is declared a {declared}, but the network ends with a {traced}. Declare it so, or "
            "give the network without it."
        )
    return declared
