"""A measured figure, and how figures are measured."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the output.

    Attributes
    ----------
    name : str
    value : float
    bar : float or None
    at_most : bool
        Whether the value must be at most the bar, or at least.
    """

    name: str
    value: float
    bar: float | None = None
    at_most: bool = True

    @property
    def is_short(self) -> bool:
        if self.bar is None:
            return False
        return self.value > self.bar if self.at_most else self.value < self.bar

    def __str__(self) -> str:
        if self.bar is None:
            return f"{self.name}\t{self.value:.4g}\t-\t-"
        sign = "<=" if self.at_most else ">="
        return f"{self.name}\t{self.value:.4g}\t{sign} {self.bar:g}\t{'short' if self.is_short else 'ok'}"


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seconds_in_turn(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of two functions, run in turn so that a drift of the machine's speed meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for function, found in zip((first, second), times, strict=True):
            started = time.perf_counter()
            function()
            found.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])
