"""When something was in use, from spans that come in any order and may overlap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class Spans:
    """Spans of time, those that touch as one.

    Attributes
    ----------
    seconds : float
        Covered by at least one.
    """

    def __init__(self) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        self.seconds = 0.0

    def add(self, begin: float, end: float) -> None:
        """Add one; one that ends before it begins says nothing (a clock was set)."""
        if end <= begin:
            return
        first, last = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
            self.seconds -= _length(zip(self._begins[first:last], self._ends[first:last], strict=True))
        self._begins[first:last], self._ends[first:last] = [begin], [end]
        self.seconds += end - begin

    @property
    def share(self) -> float | None:
        """Of the time from the first span's begin to the last one's end; None as long as there is none."""
        return self.seconds / (self._ends[-1] - self._begins[0]) if self._begins else None


def _length(spans: Iterable[tuple[float, float]]) -> float:
    return sum(end - begin for begin, end in spans)
