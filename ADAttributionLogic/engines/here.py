"""The engine that is this process: one task after the other, with all threads."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from ADAttributionLogic.engines.machine import peak_memory_mb
from ADAttributionLogic.engines.tasks import Event, Failure, Listener, Opening, Outcome, Task, no_listener
from ADAttributionLogic.errors import Cancelled
from ADAttributionLogic.monitor import Monitor


class Here:
    """Computes in this process. What a task raises is its failure, but for cancellations."""

    def run(
        self,
        tasks: Sequence[Task],
        opening: Opening,
        *,
        monitor: Monitor | None = None,
        listener: Listener = no_listener,
    ) -> Generator[Outcome, None, None]:
        """See :class:`~.tasks.Engine`."""
        monitor = monitor or Monitor()
        session = opening()
        for number, task in enumerate(tasks):
            with monitor.stage(number / len(tasks), (number + 1) / len(tasks)) as part:
                part.report(0.0, f"{task.key}, {task.noun} {number + 1} of {len(tasks)}")
                listener(Event("started", key=task.key, worker="here"))
                started = time.perf_counter()
                value, failure = None, None
                try:
                    value = session(task.payload, part)
                except (Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit):
                    raise
                except BaseException as error:  # also what libraries written in Rust raise
                    failure = replace(Failure.of(error), error=error)
            seconds = time.perf_counter() - started
            yield Outcome(task, value, failure, "here", 1, seconds, peak_memory_mb())

    def describe(self) -> dict[str, Any]:
        """See :class:`~.tasks.Engine`."""
        return {"kind": "this process", "workers": 1}
