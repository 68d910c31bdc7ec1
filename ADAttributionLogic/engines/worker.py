"""A worker on this machine: opens what all tasks share, and computes what it is given. ``python -m …engines.worker``.

It ends when whoever started it has gone, in the middle of a task: nobody would take the value.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from typing import Any

#: Seconds between two messages of progress.
_PROGRESS_SECONDS = 0.5
#: Exit code of a worker without a master.
ORPHANED = 70


def main() -> None:
    """Read messages from standard input, answer on standard output; what libraries print goes to standard error."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    from ADAttributionLogic.engines.machine import keep_freed_memory
    from ADAttributionLogic.engines.messages import Sender, receive

    keep_freed_memory()

    sys.path[:] = receive(incoming)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sender = Sender(outgoing)

    def listen() -> None:
        while True:
            try:
                inbox.put(receive(incoming))
            except EOFError:
                os._exit(ORPHANED)
            except BaseException as error:  # an opening whose module is not here
                inbox.put(error)

    threading.Thread(target=listen, daemon=True, name="messages").start()
    _serve(inbox, sender)


def _serve(inbox: queue.SimpleQueue[Any], sender: Any) -> None:
    from ADAttributionLogic.engines.machine import peak_memory_mb
    from ADAttributionLogic.engines.tasks import Failure
    from ADAttributionLogic.monitor import Monitor

    try:
        opening = inbox.get()
        if isinstance(opening, BaseException):
            raise opening
        session = opening()
    except BaseException as error:
        sender.send(("unopened", Failure.of(error)))
        return
    sender.send(("ready", peak_memory_mb()))
    while True:
        payload = inbox.get()
        if isinstance(payload, BaseException):
            sender.send(("raised", Failure.of(payload), 0.0, peak_memory_mb()))
            continue
        told = 0.0

        def tell(fraction: float, text: str) -> None:
            nonlocal told
            if time.monotonic() - told >= _PROGRESS_SECONDS:
                told = time.monotonic()
                sender.send(("progress", fraction, text))

        started = time.perf_counter()
        try:
            value = session(payload, Monitor(tell))
            message: tuple[Any, ...] = ("done", value)
        except BaseException as error:  # whatever a library raises is this task's failure
            message = ("raised", Failure.of(error))
        sender.send((*message, time.perf_counter() - started, peak_memory_mb()))


if __name__ == "__main__":
    main()
