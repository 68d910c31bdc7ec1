"""Messages between this program and its own workers over pipes: a length, and a pickle.

Pickles are of our own processes only, over pipes that nobody else can open; nothing from a file is ever unpickled.
"""

from __future__ import annotations

import pickle
import struct
import threading
from typing import IO, Any

_LENGTH = struct.Struct(">Q")


class Sender:
    """Sends messages, from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def send(self, message: Any) -> None:
        """Send one.

        Raises
        ------
        OSError
            The other side has gone.
        """
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._stream.write(_LENGTH.pack(len(data)) + data)
            self._stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Wait for the next message.

    Raises
    ------
    EOFError
        The other side has gone, also in the middle of a message.
    """
    head = _exactly(stream, _LENGTH.size)
    return pickle.loads(_exactly(stream, *_LENGTH.unpack(head)))  # noqa: S301 (of our own process)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    found = b""
    try:
        while len(found) < count:
            part = stream.read(count - len(found))
            if not part:
                raise EOFError
            found += part
    except (OSError, ValueError) as cause:  # closed under us
        raise EOFError from cause
    return found
