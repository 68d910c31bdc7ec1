"""Work that is shared among processes of one thread each, so that their number changes no bit of a result."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

from ADAttributionLogic.errors import UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> Iterator[tuple[Task, Result]]:
    """Do each task in one of several processes; what is done comes at once, in the order in which it is done.

    Even a single job has its own process: sums in PyTorch depend on the number of threads, and that of the caller is
    left alone.

    Parameters
    ----------
    work : callable
        A function of a module, or a ``functools.partial`` of one; what it needs for every task it should keep itself.
    tasks : iterable
    jobs : int
        Processes.

    Yields
    ------
    task, result

    Raises
    ------
    UsageError
        Fewer than one job. Whatever `work` raises comes as it is; tasks that have not begun are then dropped.
    """
    wanted = list(tasks)
    if jobs < 1:
        raise UsageError(f"Work is shared among 1 process or more, not among {jobs}.")
    if not wanted:
        return
    # Not forked: neither threads nor a GPU's context survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(wanted)), mp_context=context, initializer=_one_thread)
    try:
        places = {pool.submit(work, task): task for task in wanted}
        for done in as_completed(places):
            yield places[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)
