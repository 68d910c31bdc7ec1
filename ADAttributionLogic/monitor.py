"""How a long computation reports progress and is cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ADAttributionLogic.errors import Cancelled

ProgressCallback = Callable[[float, str], None]


class Monitor:
    """Progress and cancellation of one job, handed down to whatever does the work.

    Parameters
    ----------
    progress : callable, optional
        Called with the fraction done (0–1) and what is being done.
    is_cancelled : callable, optional
        Returns True when the user has cancelled.
    """

    def __init__(
        self, progress: ProgressCallback | None = None, is_cancelled: Callable[[], bool] | None = None
    ) -> None:
        self._progress = progress
        self._is_cancelled = is_cancelled
        self._start, self._length = 0.0, 1.0

    def check(self) -> None:
        """Raise :class:`Cancelled` if the user has cancelled."""
        if self.is_cancelled:
            raise Cancelled("Cancelled; nothing was kept.")

    @property
    def is_cancelled(self) -> bool:
        """Whether the user has cancelled."""
        return self._is_cancelled is not None and self._is_cancelled()

    def deaf(self) -> Monitor:
        """The same progress, but no cancellation: for keeping what was finished before the user cancelled."""
        part = Monitor(self._progress)
        part._start, part._length = self._start, self._length
        return part

    def report(self, fraction: float, text: str) -> None:
        """Report how much of the current stage is done, and check for cancellation."""
        self.check()
        if self._progress is not None:
            self._progress(self._start + self._length * min(max(fraction, 0.0), 1.0), text)

    @contextmanager
    def stage(self, start: float, stop: float) -> Iterator[Monitor]:
        """A part of the job, whose own 0–1 is mapped to `start`–`stop` of this monitor's."""
        part = Monitor(self._progress, self._is_cancelled)
        part._start = self._start + self._length * start
        part._length = self._length * (stop - start)
        yield part
