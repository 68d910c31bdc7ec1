"""Threads that leave the result alone: sums on one thread, and independent work side by side.

ITK's similarity measure, its gradient and N4's spline fit add up what their threads found in the order in which these
finish. Floating-point sums depend on that order, and an optimiser carries the last bit of a first step on to the tenth
of a millimetre: the same scan got another answer each time. On one thread there is one order.

SimpleITK's ``SetNumberOfThreads`` does not reach the metric of a registration, which asks for ITK's global number when
it starts; so that number is set for as long as such a computation lasts. Resampling and distance maps compute each
voxel by itself and keep their threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from ADAttributionLogic.monitor import Monitor

Item = TypeVar("Item")
Found = TypeVar("Found")

#: Seconds between two looks at whether the user has cancelled.
_LOOK_SECONDS = 0.05


class _Inside:
    """How many computations are on one ITK thread now, and the number of threads to go back to after the last."""

    lock = threading.Lock()
    count = 0
    threads = 0


@contextmanager
def one_itk_thread() -> Iterator[None]:
    """Have ITK compute on one thread; also from several Python threads at once, each of which then has its own."""
    import SimpleITK as sitk

    with _Inside.lock:
        if _Inside.count == 0:
            _Inside.threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        _Inside.count += 1
    try:
        yield
    finally:
        with _Inside.lock:
            _Inside.count -= 1
            if _Inside.count == 0:
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(_Inside.threads)


def itk_threads() -> int:
    """How many threads ITK has, :func:`one_itk_thread` left aside."""
    import SimpleITK as sitk

    with _Inside.lock:
        return _Inside.threads if _Inside.count else int(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())


def side_by_side(
    work: Callable[[Item, Monitor], Found], items: Sequence[Item], monitor: Monitor, text: str
) -> list[Found]:
    """Do the same with several things at once, on as many threads as ITK has.

    Parameters
    ----------
    work : callable
        Gets an item and a monitor of its own; must not depend on what happens to the other items.
    items : sequence
    monitor : Monitor
        Hears of the progress of all, in the calling thread.
    text : str
        What is being done.

    Returns
    -------
    list
        What was found, in the order of the items.

    Raises
    ------
    Cancelled
        After the work that had begun was told to stop, and did.
    """
    stop = threading.Event()
    done = [0.0] * len(items)

    def one(number: int) -> Found:
        def note(fraction: float, _text: str) -> None:
            done[number] = fraction

        found = work(items[number], Monitor(note, stop.is_set))
        done[number] = 1.0
        return found

    monitor.report(0.0, text)
    with ThreadPoolExecutor(min(itk_threads(), max(len(items), 1))) as pool:
        futures = [pool.submit(one, number) for number in range(len(items))]
        pending = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                monitor.report(sum(done) / len(items), text)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [future.result() for future in futures]
