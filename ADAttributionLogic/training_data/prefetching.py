"""The next batches are read and varied in the background while the network learns from the present one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: Batches that wait, beside the one that is being made and the one that is learned from.
WAITING = 1


def prefetched(items: Iterable[T], waiting: int = WAITING) -> Iterator[T]:
    """The same items in the same order, made by a thread that is at most a few ahead.

    One thread makes all of them, so that what it draws at random is drawn in the order of the items. What it raises is
    raised here; when whoever takes the items stops, it stops.

    Parameters
    ----------
    items : iterable
    waiting : int
        How many may lie ready; with the one in the making and the one in use there are two more.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(waiting)
    stopped = threading.Event()

    def offer(item: T | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not offer(item, None):
                    return
        except BaseException as error:  # whoever waits for it must hear of it
            offer(None, error)
        else:
            offer(None, StopIteration())

    maker = threading.Thread(target=make, name="next batches", daemon=True)
    maker.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        maker.join()
