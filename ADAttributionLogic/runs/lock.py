"""Who has a folder: a file with the owner, touched while he lives, taken over when he does not.

A system's own locks do not reach from one computer of a cluster to the next. So the owner is told apart by computer,
process and the time at which it started; on the same computer a process that has gone is known at once, on another it
is taken for gone when its file was not touched for :data:`STALE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import OutputError, RunningError
from ADAttributionLogic.owned_folders import owned_folder

#: Seconds between two touches, and without one until the owner is taken for gone.
BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0


@dataclass(frozen=True)
class Owner:
    """A process, so that no other is taken for it.

    Attributes
    ----------
    host : str
        Name of the computer.
    system : str
        Of the running system, or the container on it: numbers of processes mean something there only.
    pid : int
    started : str
        When the process started, as the system counts; "" where it does not say.
    since : str
        When it took the folder, UTC.
    """

    host: str
    system: str
    pid: int
    started: str
    since: str

    @classmethod
    def this_process(cls) -> Owner:
        """The process that asks."""
        pid = os.getpid()
        now = datetime.now(UTC).replace(microsecond=0).isoformat()
        return cls(socket.gethostname(), _system(), pid, _start_of(pid) or "", now)

    @property
    def has_gone(self) -> bool | None:
        """Whether the process has ended; None for one of another computer."""
        if (self.host, self.system) != (socket.gethostname(), _system()):
            return None
        found = _start_of(self.pid)
        return found is None or (bool(self.started) and found != self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True)
class Held:
    """A lock that somebody has.

    Attributes
    ----------
    path : Path
    owner : Owner
    about : mapping
        What he said of his run.
    age_seconds : float
        Since he touched it last.
    """

    path: Path
    owner: Owner
    about: Mapping[str, Any]
    age_seconds: float

    @property
    def is_stale(self) -> bool:
        """Whether its owner has gone."""
        gone = self.owner.has_gone
        return self.age_seconds > STALE_SECONDS if gone is None else gone


class RunLock:
    """A lock that this process has, until it is closed.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    about : mapping
        Plain values for those who meet it.

    Raises
    ------
    RunningError
        A living process has it.
    OSError
        It cannot be written.
    """

    def __init__(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        self.path, self.owner = path, Owner.this_process()
        self._text = json.dumps({"owner": asdict(self.owner), "about": dict(about or {})}, indent=1) + "\n"
        _take(path, self._text)
        self._ended = threading.Event()
        self._lost = False
        threading.Thread(target=self._beat, daemon=True, name="lock").start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                if self.path.read_text(encoding="utf-8") != self._text:
                    self._lost = True
                    return
                os.utime(self.path)
            except FileNotFoundError:
                self._lost = True
                return
            except OSError:
                continue  # a file system that is away for a while; others will see how old it is

    def require(self) -> None:
        """Refuse to go on where another run has taken over.

        Raises
        ------
        RunningError
        """
        if self._lost:
            now = look(self.path)
            by = "" if now is None else f" by {now.owner}"
            raise RunningError(
                f"{self.path.parent} was taken over{by}, because this process could not be seen for "
                f"{STALE_SECONDS:.0f} s. What is complete is kept; the other run goes on."
            )

    def close(self) -> None:
        """Let go."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if self.path.read_text(encoding="utf-8") == self._text:
                self.path.unlink()


@contextlib.contextmanager
def waiting_lock(path: Path, seconds: float = 600.0) -> Iterator[None]:
    """Have a lock for a moment, after others that have it for a moment.

    Raises
    ------
    RunningError
        Not within so many seconds.
    """
    stop = time.monotonic() + seconds
    while True:
        try:
            lock = RunLock(path)
            break
        except RunningError:
            if time.monotonic() > stop:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.close()


def look(path: Path) -> Held | None:
    """Who has a lock; None where nobody has. One that cannot be read has an unknown owner.

    Raises
    ------
    OSError
    """
    try:
        text, touched = path.read_text(encoding="utf-8"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        document = json.loads(text)
        owner, about = Owner(**document["owner"]), document["about"]
    except (ValueError, KeyError, TypeError):
        owner, about = Owner("an unknown computer", "", 0, "", "an unknown time"), {}
    return Held(path, owner, about, max(_now_in(path.parent) - touched, 0.0))


def refuse(held: Held, what: str = "") -> RunningError:
    """The error that says who has a folder."""
    return RunningError(
        f"{held.path.parent} is being written{what}: {held.owner}, last seen {shown_age(held.age_seconds)} ago. Wait "
        f"until it has ended, or choose another folder. ('ad-attribution status {held.path.parent}' shows how far it "
        f"is; should that process be gone, it is taken over {STALE_SECONDS:.0f} s after it was last seen.)"
    )


def shown_age(seconds: float) -> str:
    """A duration in words: 40 s, 3 min, 5 h 12 min, 2 d 3 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _take(path: Path, text: str) -> None:
    """Make the file in one step, with what it says; a stale one goes first."""
    with owned_folder(path.parent, f".{path.name}-writing-") as folder:
        unfinished = folder / "file"
        unfinished.touch(mode=0o600)
        unfinished.write_text(text, encoding="utf-8")
        while True:
            try:
                _link(unfinished, path)
                return
            except FileExistsError:
                held = look(path)
                if held is None:
                    continue
                if not held.is_stale:
                    raise refuse(held) from None
                _remove_stale(held, folder / "stale")


def _link(source: Path, target: Path) -> None:
    """Give a file its name, unless the name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as file:
            file.write(source.read_bytes())


def _remove_stale(held: Held, aside: Path) -> None:
    """Of several who want to take over, one does; and nobody removes what another has just made."""
    try:
        held.path.rename(aside)
    except FileNotFoundError:
        return
    moved = look(aside)
    if moved is not None and moved.owner != held.owner:
        with contextlib.suppress(FileExistsError):
            _link(aside, held.path)
    aside.unlink()


def _now_in(folder: Path) -> float:
    """The time as the folder's file system has it: clocks of computers differ."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" ")
            file.flush()
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


@cache
def _system() -> str:
    """Tells systems and containers apart that have the same name."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _start_of(pid: int) -> str | None:
    """When a process started; None where there is none (any more), "" where the system does not say."""
    try:
        # The name, in brackets, may hold anything.
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if words[0] in "ZX" else words[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        pass
    return _start_elsewhere(pid)


def _start_elsewhere(pid: int) -> str | None:
    """The same where there is no /proc."""
    try:
        import psutil
    except ImportError:
        return ""
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return ""


def locks_in(folder: Path, pattern: str) -> list[Held]:
    """Those of the locks in a folder whose owners live.

    Raises
    ------
    OutputError
        The folder cannot be read.
    """
    try:
        found = [look(path) for path in sorted(folder.glob(pattern))]
    except OSError as cause:
        raise OutputError(f"{folder} cannot be read: {cause}") from cause
    return [held for held in found if held is not None and not held.is_stale]
