"""Turns on a GPU: many processes prepare scans and write results, a few at a time explain.

That is the pipeline: while one scan is explained, others are prepared on the processors, and the memory of the GPU
suffices whatever the number of processes. All runs of a user on a computer take turns with each other.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: Seconds between two looks whether it is one's turn; an explanation takes tenths of seconds.
_LOOK_SECONDS = 0.005


class Turns:
    """So many processes at a time. The system takes a turn back from a process that ends, however it ends.

    Parameters
    ----------
    name : str
        Of the device.
    count : int
    folder : Path, optional
        Where the turns' files are; by default the system's folder for temporary files.
    """

    def __init__(self, name: str, count: int, folder: Path | None = None) -> None:
        self.count = max(count, 1)
        plain = "".join(c if c.isalnum() else "-" for c in name)
        self._folder = (folder or Path(tempfile.gettempdir())) / f"ad-attribution-turns-{getpass.getuser()}-{plain}"

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one, and have it."""
        if sys.platform == "win32":  # without locks that end with their process, everybody goes on
            yield
            return
        import fcntl

        self._folder.mkdir(mode=0o700, exist_ok=True)
        handles = [os.open(self._folder / str(n), os.O_RDWR | os.O_CREAT, 0o600) for n in range(self.count)]
        try:
            while not any(_locked(handle) for handle in handles):
                time.sleep(_LOOK_SECONDS)
            yield
        finally:
            for handle in handles:
                fcntl.flock(handle, fcntl.LOCK_UN)
                os.close(handle)


class NotedTurns:
    """Turns, with when each was waited for, had and given back.

    Parameters
    ----------
    turns : Turns
    place : str
        Whose: the computer and its device.
    """

    def __init__(self, turns: Turns, place: str) -> None:
        self._turns, self.place = turns, place
        self._noted: list[tuple[float, float, float]] = []

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """As :meth:`Turns.turn`."""
        asked = time.time()
        with self._turns.turn():
            begun = time.time()
            try:
                yield
            finally:
                self._noted.append((asked, begun, time.time()))

    def take(self) -> list[tuple[float, float, float]]:
        """What was noted since the last time, as seconds of :func:`time.time`."""
        noted, self._noted = self._noted, []
        return noted


def _locked(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
