"""Leaving in order when told to: signals are heeded at once, also while the computation is inside a library.

Python runs its handlers between two of its own instructions only; an endless operation of a network would keep the
program alive. Its arrival is therefore watched by a thread beside.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from ADAttributionLogic.owned_folders import remove_own_folders

#: How long the computation may take to come back to Python before the program ends without it.
GRACE_SECONDS = 3.0

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def watch_signals(arrived: Callable[[int], None]) -> None:
    """Call a function with the number of each signal that arrives, in a thread; to be called from the main thread.

    Who ignores a signal from the start (nohup) goes on ignoring it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while True:
            for number in os.read(reader, 64):
                arrived(number)

    threading.Thread(target=watch, daemon=True, name="signals").start()


def handle_ending(handler: Callable[..., None]) -> None:
    """Set a handler of the signals that ask to end, but for those that are ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave_in_order() -> None:
    """For a program on the command line: SIGTERM and SIGHUP unwind it, and a second Ctrl-C ends it in any case.

    Temporary folders are removed each time.
    """
    if sys.platform == "win32":  # no wakeup file for pipes, and no SIGHUP
        return
    interruptions = 0

    def unwind(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    def arrived(number: int) -> None:
        nonlocal interruptions
        if number == signal.SIGINT:
            interruptions += 1
            if interruptions == 1:
                print("\ncancelling; press Ctrl-C again to end at once", file=sys.stderr)
                return
        elif number not in ENDING or signal.getsignal(number) is signal.SIG_IGN:
            return
        timer = threading.Timer(GRACE_SECONDS, _end, [number])
        timer.daemon = True
        timer.start()

    handle_ending(unwind)
    watch_signals(arrived)


def _end(number: int) -> None:
    """Without unwinding."""
    remove_own_folders()
    print(f"ad-attribution: ended by {signal.Signals(number).name}; nothing unfinished was kept.", file=sys.stderr)
    os._exit(128 + number)
