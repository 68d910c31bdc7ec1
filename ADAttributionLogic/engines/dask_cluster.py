"""Workers of a Dask cluster: one that runs already, or one that dask-jobqueue starts as it is configured.

Tasks and values travel as pickles through Dask's scheduler, both ways: whoever can reach it, or stands between, can run
what he likes on the workers and here. So a scheduler must be one's own (TLS is configured in Dask); what a worker
unpickles itself is what this program has sent it. A worker computes one scan at a time, whatever its number of threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import importlib
import logging
import os
import pickle
import queue
import socket
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from ADAttributionLogic.engines.machine import keep_freed_memory, peak_memory_mb
from ADAttributionLogic.engines.tasks import (
    MOST_ATTEMPTS,
    Event,
    Failure,
    Listener,
    Opening,
    Outcome,
    Session,
    Task,
    no_listener,
)
from ADAttributionLogic.errors import EngineError, UnknownNameError, UsageError
from ADAttributionLogic.monitor import Monitor

#: Classes of dask-jobqueue, by what users call their systems.
CLUSTERS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "moab": "MoabCluster",
    "local": "LocalCluster",
}
#: Seconds until there must be a scheduler, and a first worker (of a queue: people wait for their jobs).
_SCHEDULER_SECONDS, _WORKER_SECONDS = 30.0, 60.0
_LOOK_SECONDS, _CLUSTER_SECONDS = 0.2, 5.0


class DaskCluster:
    """Workers of a Dask cluster.

    Parameters
    ----------
    scheduler : str
        Its address, or the file that it has written (``dask scheduler --scheduler-file``); "" to start one.
    kind : str
        Of :data:`CLUSTERS`, to be started by dask-jobqueue as the user's configuration of it says.
    jobs : int
        How many of those.
    attempts : int
        How often a task is tried whose worker is lost.
    """

    def __init__(self, scheduler: str = "", *, kind: str = "", jobs: int = 0, attempts: int = MOST_ATTEMPTS) -> None:
        if kind and kind.lower() not in CLUSTERS:
            raise UnknownNameError("kind of cluster", kind, CLUSTERS)
        if kind and jobs < 1:
            raise UsageError(f"Say how many workers are to be started on {kind} (--jobs).")
        self.scheduler, self.kind, self.jobs, self.attempts = scheduler, kind.lower(), jobs, attempts
        _require("distributed")
        if kind:
            _require("dask_jobqueue")

    def describe(self) -> dict[str, Any]:
        """See :class:`~.tasks.Engine`."""
        where = {"cluster": self.kind, "workers": self.jobs} if self.kind else {"scheduler": self.scheduler}
        return {"kind": "dask", **where}

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
        with self._client(monitor, listener) as client:
            yield from _Run(client, tasks, opening, monitor, listener, self.attempts).outcomes()

    @contextlib.contextmanager
    def _client(self, monitor: Monitor, listener: Listener) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            if self.kind:
                cluster = stack.enter_context(self._started())
                cluster.scale(jobs=self.jobs)
                where = cluster.scheduler_address
            else:
                where = self.scheduler
            client = stack.enter_context(_connected(where))
            _await_workers(client, where, _WORKER_SECONDS if not self.kind else None, monitor, listener)
            yield client

    def _started(self) -> Any:
        made = getattr(importlib.import_module("dask_jobqueue.local" if self.kind == "local" else "dask_jobqueue"),
                       CLUSTERS[self.kind])  # fmt: skip
        try:
            return made()
        except Exception as cause:
            raise EngineError(
                f"dask-jobqueue cannot start workers on {self.kind}: {cause}. It takes cores, memory, queue and the "
                "like from its configuration (~/.config/dask/jobqueue.yaml)."
            ) from cause


@contextlib.contextmanager
def _connected(where: str) -> Iterator[Any]:
    import distributed

    connect: Any = distributed.Client
    # A scheduler that goes is told in one sentence, not in the stories of every connection.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    for name in ("distributed.client", "distributed.utils", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    named: dict[str, Any] = {"scheduler_file": where} if Path(where).is_file() else {"address": where}
    try:
        client: Any = connect(**named, timeout=_SCHEDULER_SECONDS, set_as_default=False, name="ad-attribution")
    except (OSError, ValueError, TimeoutError) as cause:
        raise EngineError(
            f"There is no Dask scheduler at {where}: {cause}. Start one ('dask scheduler'), and workers that share "
            "this disk ('dask worker ADDRESS --nthreads 1 --nworkers N')."
        ) from cause
    try:
        yield client
    finally:
        # A scheduler that has gone does not answer any more.
        with contextlib.suppress(Exception):
            client.close(timeout=5)


def _await_workers(client: Any, where: str, seconds: float | None, monitor: Monitor, listener: Listener) -> None:
    stop, told = None if seconds is None else time.monotonic() + seconds, False
    while not client.scheduler_info(n_workers=-1)["workers"]:
        monitor.check()
        if not told:
            listener(Event("note", f"Waiting for the first worker of {where}."))
            told = True
        if stop is not None and time.monotonic() > stop:
            raise EngineError(f"The scheduler at {where} has no workers. Start some: dask worker {where} --nthreads 1.")
        time.sleep(_LOOK_SECONDS)


class _Run:
    """One run on a cluster."""

    def __init__(
        self,
        client: Any,
        tasks: Sequence[Task],
        opening: Opening,
        monitor: Monitor,
        listener: Listener,
        attempts: int,
    ) -> None:
        self.client, self.tasks, self.monitor, self.listener = client, tasks, monitor, listener
        self.opening, self.attempts = pickle.dumps(opening), attempts
        self.run = uuid.uuid4().hex[:8]
        self.inbox: queue.SimpleQueue[tuple[Any, Task, int]] = queue.SimpleQueue()
        self.futures: set[Any] = set()
        self.is_without_workers, self.next_look = False, 0.0

    def outcomes(self) -> Generator[Outcome, None, None]:
        done = 0
        try:
            for task in self.tasks:
                self._submit(task, 1)
            while done < len(self.tasks):
                self.monitor.report(done / len(self.tasks), f"{done} of {len(self.tasks)} done")
                self._look_at_the_cluster()
                try:
                    future, task, attempt = self.inbox.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                self.futures.discard(future)
                outcome = self._outcome(future, task, attempt)
                if outcome is not None:
                    done += 1
                    yield outcome
        except (OSError, TimeoutError, asyncio.CancelledError, concurrent.futures.CancelledError) as cause:
            raise _gone(self.client) from cause
        finally:
            self._give_up()

    def _submit(self, task: Task, attempt: int) -> None:
        future = self.client.submit(
            compute,
            self.opening,
            task.payload,
            key=f"ad-attribution-{self.run}-{task.key}-{attempt}",
            pure=False,
            retries=0,
            priority=-attempt,
        )
        self.futures.add(future)
        future.add_done_callback(lambda f: self.inbox.put((f, task, attempt)))

    def _outcome(self, future: Any, task: Task, attempt: int) -> Outcome | None:
        """What became of a task; None where it is tried again, or the cluster has gone."""
        from distributed import KilledWorker

        if future.status == "finished":
            kind, found, worker, seconds, peak = future.result()
            if kind == "unopened":
                raise EngineError(f"A worker cannot begin: {found.message}", found.exit_code, found.story)
            value, failure = (found, None) if kind == "done" else (None, found)
            return Outcome(task, value, failure, worker, attempt, seconds, peak)
        if future.status == "cancelled":
            raise _gone(self.client)
        error = future.exception()
        if isinstance(error, KilledWorker):
            # Dask itself has tried it several times, on other workers.
            text = f"The workers that computed it were lost, {error.allowed_failures + 1} times; the last one was "
            return Outcome(task, None, Failure(True, f"{text}{error.last_worker.address}."), "", attempt)
        if attempt < self.attempts:
            self.listener(Event("lost", f"{type(error).__name__}: {error}", task.key))
            self._submit(task, attempt + 1)
            return None
        return Outcome(task, None, Failure(True, f"Dask could not compute it: {error}"), "", attempt)

    def _look_at_the_cluster(self) -> None:
        if self.client.status not in ("running", "connecting"):
            raise _gone(self.client)
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + _CLUSTER_SECONDS
        try:
            without = not self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError) as cause:
            raise _gone(self.client) from cause
        if without and not self.is_without_workers:
            self.listener(Event("note", "There is no worker at the moment; new ones are waited for."))
        self.is_without_workers = without

    def _give_up(self) -> None:
        """Nothing is begun any more; what is being computed cannot be stopped from here."""
        with contextlib.suppress(Exception):
            self.client.cancel(list(self.futures), force=True)
        self.futures.clear()


def _gone(client: Any) -> EngineError:
    where = getattr(getattr(client, "scheduler", None), "address", "") or "the given address"
    return EngineError(
        f"The Dask scheduler at {where} has gone. What is complete is kept; start a scheduler and workers, and then "
        "this again: it goes on where it was."
    )


def _require(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as cause:
        raise UsageError(f"{package} is not installed. pip install 'ad-attribution[cluster]'.") from cause


# --------------------------------------------------------------------------------------------------------- in a worker


class _Warm:
    """What this worker has open: of one run at a time, used by one task at a time."""

    lock = threading.Lock()
    key = ""
    session: Session | None = None


def compute(opening: bytes, payload: Any) -> tuple[Any, ...]:
    """In a worker: the value of a payload; what is raised is a value as well, so that Dask does not try it again."""
    key = hashlib.sha256(opening).hexdigest()
    with _Warm.lock:
        worker = f"{socket.gethostname()} {os.getpid()}"
        if _Warm.key != key or _Warm.session is None:
            try:
                _Warm.session = None
                keep_freed_memory()
                _Warm.session, _Warm.key = pickle.loads(opening)(), key  # noqa: S301 (by our scheduler; see above)
            except Exception as error:
                return "unopened", Failure.of(error), worker, 0.0, peak_memory_mb()
        started = time.perf_counter()
        try:
            kind, found = "done", _Warm.session(payload, Monitor())
        except BaseException as error:
            kind, found = "raised", Failure.of(error)
        return kind, found, worker, time.perf_counter() - started, peak_memory_mb()
