"""The operating system's side of the worker: start, read without waiting, write, kill with all children. Needs no Qt.

Reading never waits and needs no thread: Python threads get little time while Slicer's event loop runs, so that a timer
polls. :class:`WorkerClient` takes any object with these methods in place of :class:`WorkerProcess`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

if sys.platform == "win32":
    import _winapi
    import msvcrt

_CHUNK_BYTES = 1 << 20


class WorkerProcess:
    """A child process in a group of its own.

    Raises
    ------
    OSError
        The program cannot be started.
    """

    def __init__(self, arguments, environment=None):
        # Its own group, so that killing it takes its children along, and Ctrl-C in a terminal is not its business.
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        else:
            group = {"start_new_session": True}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0, **group
        )
        if sys.platform != "win32":
            for stream in (self._process.stdout, self._process.stderr):
                os.set_blocking(stream.fileno(), False)

    @property
    def pid(self):
        return self._process.pid

    def exitCode(self):
        """Exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def read(self):
        """What has arrived on stdout since the last time."""
        return _available(self._process.stdout)

    def readErrors(self):
        """What has arrived on stderr since the last time."""
        return _available(self._process.stderr)

    def write(self, data):
        """Send bytes to stdin.

        Raises
        ------
        OSError
            The process has gone.
        """
        self._process.stdin.write(data)

    def closeInput(self):
        """Ask the worker to end."""
        with contextlib.suppress(OSError):  # it has ended already
            self._process.stdin.close()

    def waitForEnd(self, seconds):
        """Wait for the end and return the exit code; None when it still runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self):
        """End the process and all its children, and release the pipes."""
        if sys.platform == "win32":
            subprocess.run(  # noqa: S603
                ["taskkill", "/T", "/F", "/PID", str(self.pid)],  # noqa: S607
                capture_output=True,
                check=False,
            )
        else:
            # The group outlives its leader for as long as it has members, so that orphans of a crash go as well.
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
                stream.close()


def _available(stream):
    """All bytes that can be read now."""
    parts = []
    while True:
        try:
            part = _readSome(stream)
        except (BlockingIOError, ValueError):  # nothing there, or closed
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def _readSome(stream):
    if sys.platform == "win32":
        try:
            waiting, _ = _winapi.PeekNamedPipe(msvcrt.get_osfhandle(stream.fileno()), 0)
        except OSError:  # broken pipe: the process has ended
            return b""
        return os.read(stream.fileno(), min(waiting, _CHUNK_BYTES)) if waiting else b""
    return os.read(stream.fileno(), _CHUNK_BYTES)
