"""Several processes on this machine. Each keeps what all tasks share; one that dies costs what it had in hand."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ADAttributionLogic.engines.machine import Plan, available_memory_mb, worker_environment
from ADAttributionLogic.engines.messages import Sender, receive
from ADAttributionLogic.engines.tasks import (
    MOST_ATTEMPTS,
    Event,
    Failure,
    Listener,
    Opening,
    Outcome,
    Task,
    no_listener,
)
from ADAttributionLogic.errors import EngineError
from ADAttributionLogic.monitor import Monitor

#: Seconds between two looks at cancellation and memory.
_LOOK_SECONDS = 0.1
_MEMORY_SECONDS = 1.0
#: With less free memory than this the machine is about to swap: the youngest of several workers has to go.
LEAST_FREE_MB = 400.0
#: Of what a worker printed last, how much is kept for the message of its death.
_LAST_WORDS = 2000


class LocalProcesses:
    """Workers on this machine.

    Parameters
    ----------
    plan : Plan
        How many, and how large (:func:`~.machine.plan_for`).
    attempts : int
        How often a task is tried whose worker is lost.
    environment : mapping of str to str, optional
        Beside that of :func:`~.machine.worker_environment`.
    free_mb : callable, optional
        Free memory; by default that of this machine.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        attempts: int = MOST_ATTEMPTS,
        environment: dict[str, str] | None = None,
        free_mb: Callable[[], float | None] = available_memory_mb,
    ) -> None:
        self.plan, self.attempts, self.free_mb = plan, attempts, free_mb
        self.environment = {**worker_environment(plan.threads), **(environment or {})}

    def describe(self) -> dict[str, Any]:
        """See :class:`~.tasks.Engine`."""
        return {"kind": "processes", **self.plan.describe()}

    def run(
        self,
        tasks: Sequence[Task],
        opening: Opening,
        *,
        monitor: Monitor | None = None,
        listener: Listener = no_listener,
    ) -> Generator[Outcome, None, None]:
        """See :class:`~.tasks.Engine`."""
        running = _Run(self, tasks, opening, monitor or Monitor(), listener)
        try:
            yield from running.outcomes()
        finally:
            running.end()


@dataclass
class _Given:
    """A task with how often it was given to a worker."""

    task: Task
    attempts: int = 0


class _Worker:
    """A process and what it has in hand; its messages come to a queue with itself."""

    def __init__(self, number: int, environment: dict[str, str], inbox: queue.SimpleQueue[Any]) -> None:
        self.name = f"worker {number}"
        self.task: _Given | None = None
        self.is_ready = False
        self.is_dismissed = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        # A group of its own: Ctrl-C in the terminal is for us to pass on.
        apart: dict[str, Any] = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ADAttributionLogic.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            **apart,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._sender = Sender(self.process.stdin)
        threading.Thread(target=self._listen, args=(self.process.stdout, inbox), daemon=True).start()

    def _listen(self, stream: IO[bytes], inbox: queue.SimpleQueue[Any]) -> None:
        while True:
            try:
                message = receive(stream)
            except EOFError:
                break
            inbox.put((self, message))
        self.process.wait()
        stream.close()
        inbox.put((self, ("gone", self.process.returncode)))

    def send(self, message: Any) -> None:
        """Hand over; a worker that has just died says so itself."""
        with contextlib.suppress(OSError):
            self._sender.send(message)

    def last_words(self) -> str:
        """The end of what it printed."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - _LAST_WORDS, 0))
        return self._errors.read().decode(errors="backslashreplace").strip()

    def kill(self) -> None:
        """End it at once, with what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """After it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self._errors.close()


class _Run:
    """One run of an engine: who does what."""

    def __init__(
        self, engine: LocalProcesses, tasks: Sequence[Task], opening: Opening, monitor: Monitor, listener: Listener
    ) -> None:
        self.engine, self.opening, self.monitor, self.listener = engine, opening, monitor, listener
        self.total = len(tasks)
        self.waiting = deque(_Given(task) for task in tasks)
        self.inbox: queue.SimpleQueue[tuple[_Worker, tuple[Any, ...]]] = queue.SimpleQueue()
        self.workers: list[_Worker] = []
        self.wanted = engine.plan.workers
        self.started = self.done = self.unready_deaths = 0
        self.looked = time.monotonic()

    def outcomes(self) -> Iterator[Outcome]:
        while self.done < self.total:
            self._fill()
            for worker in self.workers:
                if worker.is_ready and worker.task is None:
                    self._give(worker)  # what a lost worker had, to one that had nothing left to do
            self.monitor.report(self.done / self.total, f"{self.done} of {self.total} done")
            self._mind_the_memory()
            try:
                worker, message = self.inbox.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            outcome = self._heard(worker, *message)
            if outcome is not None:
                self.done += 1
                yield outcome

    def _fill(self) -> None:
        """As many workers as there is work for."""
        busy = sum(worker.task is not None for worker in self.workers)
        while len(self.workers) < min(self.wanted, busy + len(self.waiting)):
            self.started += 1
            worker = _Worker(self.started, self.engine.environment, self.inbox)
            self.workers.append(worker)
            worker.send(list(filter(None, sys.path)))
            worker.send(self.opening)

    def _give(self, worker: _Worker) -> None:
        if not self.waiting or worker.is_dismissed:
            return
        worker.task = self.waiting.popleft()
        worker.task.attempts += 1
        self.listener(Event("started", key=worker.task.task.key, worker=worker.name))
        worker.send(worker.task.task.payload)

    def _heard(self, worker: _Worker, kind: str, *said: Any) -> Outcome | None:
        if kind == "unopened":
            raise EngineError(f"A worker cannot begin: {said[0].message}", said[0].exit_code, said[0].story)
        if kind == "ready":
            worker.is_ready, self.unready_deaths = True, 0
            self._give(worker)
        elif kind == "progress" and worker.task is not None:
            self.listener(Event("progress", said[1], worker.task.task.key, worker.name, said[0]))
        elif kind in ("done", "raised") and worker.task is not None:
            found, seconds, peak = said
            given, worker.task = worker.task, None
            self._give(worker)
            value, failure = (found, None) if kind == "done" else (None, found)
            return Outcome(given.task, value, failure, worker.name, given.attempts, seconds, peak)
        elif kind == "gone":
            return self._lost(worker, said[0])
        return None

    def _lost(self, worker: _Worker, code: int) -> Outcome | None:
        """A worker has died; what it had in hand is tried again, so often."""
        if worker in self.workers:
            self.workers.remove(worker)
        words, given = worker.last_words(), worker.task
        worker.close()
        if given is None:
            if not worker.is_ready and not worker.is_dismissed:
                self.unready_deaths += 1
            if self.unready_deaths >= self.engine.attempts:
                text = f"{self.unready_deaths} workers ended before they had begun; the last one {_died(code)}."
                raise EngineError(f"{text} {words}".strip())
            return None
        if worker.is_dismissed:  # by us, for want of memory
            given.attempts -= 1
            self.waiting.appendleft(given)
            return None
        self.listener(Event("lost", f"{worker.name} {_died(code)}", given.task.key, worker.name))
        if given.attempts < self.engine.attempts:
            self.waiting.append(given)  # last: what is wrong with it must not hold up the others
            return None
        times = "once" if given.attempts == 1 else f"{given.attempts} times"
        advice = " That is what a system without memory does: take fewer workers." if code in (-9, 137) else ""
        text = f"The worker that computed it was lost {times}; it {_died(code)}.{advice}"
        return Outcome(given.task, None, Failure(True, text, 1, words), worker.name, given.attempts)

    def _mind_the_memory(self) -> None:
        """Rather one worker less than a machine that swaps."""
        now = time.monotonic()
        if now - self.looked < _MEMORY_SECONDS:
            return
        self.looked = now
        free = self.engine.free_mb()
        alive = [worker for worker in self.workers if not worker.is_dismissed]
        if free is None or free >= LEAST_FREE_MB or len(alive) < 2:
            return
        self.wanted = len(alive) - 1
        alive[-1].is_dismissed = True
        alive[-1].kill()
        text = (
            f"{free:.0f} MB of memory were left: {alive[-1].name} was ended, and {self.wanted} "
            f"{'goes' if self.wanted == 1 else 'go'} on. What it had in hand is computed by another."
        )
        self.listener(Event("note", text))

    def end(self) -> None:
        """End all workers, also in the middle of a task."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.process.wait()
            worker.close()


def _died(code: int) -> str:
    """How a process ended."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed ({name})"
    return f"ended by itself (exit code {code})"
