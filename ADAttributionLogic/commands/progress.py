"""A progress bar on stderr, and Ctrl-C as cancellation between two steps."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ADAttributionLogic.monitor import Monitor


class Progress:
    """A progress bar on stderr, and Ctrl-C as cancellation between two steps."""

    def __enter__(self) -> Monitor:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        from ADAttributionLogic.monitor import Monitor

        self._cancelled = False
        self._previous = signal.signal(signal.SIGINT, self._interrupt)
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        task = self._bar.add_task("starting", total=1.0)
        return Monitor(
            lambda fraction, text: self._bar.update(task, completed=fraction, description=text), lambda: self._cancelled
        )

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        signal.signal(signal.SIGINT, self._previous)

    def _interrupt(self, *_: object) -> None:
        if self._cancelled:  # a second Ctrl-C does not wait for the current step
            raise KeyboardInterrupt
        self._cancelled = True
