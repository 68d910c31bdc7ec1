"""Temporary folders that know their owner: what a killed process left behind is found and removed at the next start.

Each holds a file that its process keeps locked. The system lets the lock go when the process ends, however it ends, so
that a folder whose lock can be taken belongs to nobody any more; numbers of processes say nothing between containers.
Needs no torch: 3D Slicer and the worker use it as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

#: In each of these folders; a folder without it is somebody else's.
OWNER_FILE = ".ad-attribution-owner"

_TEMPORARY = "ad-attribution-"

#: Of this process, for those who have to leave at once.
_open: set[OwnedFolder] = set()


class OwnedFolder:
    """A new folder that only this user can enter, and that belongs to this process until it is closed.

    Parameters
    ----------
    parent : Path
        Exists.
    prefix : str

    Attributes
    ----------
    path : Path

    Raises
    ------
    OSError
        It cannot be made.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            lock = _lock(self.path / OWNER_FILE)
            # Who tidies up at this very moment may have taken the empty folder for a leftover.
            if lock is not None:
                break
        self._lock = lock
        self._process = os.getpid()
        _open.add(self)

    @classmethod
    def temporary(cls, purpose: str) -> OwnedFolder:
        """One in the system's folder for temporary files."""
        return cls(Path(tempfile.gettempdir()), f"{_TEMPORARY}{purpose}-")

    def close(self) -> None:
        """Remove it with all that it holds."""
        _open.discard(self)
        if os.getpid() == self._process:  # a forked child has copies of its parent's
            _remove(self.path, self._lock)

    def abandon(self) -> None:
        """Leave it for the next start, which finishes what it holds."""
        _open.discard(self)
        os.close(self._lock)


@contextlib.contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """An :class:`OwnedFolder` that is gone afterwards."""
    folder = OwnedFolder(parent, prefix)
    try:
        yield folder.path
    finally:
        folder.close()


@contextlib.contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """The same in the system's folder for temporary files."""
    folder = OwnedFolder.temporary(purpose)
    try:
        yield folder.path
    finally:
        folder.close()


def remove_own_folders() -> None:
    """Close all of this process: for one that ends without unwinding."""
    for folder in tuple(_open):
        folder.close()


def remove_leftovers(parent: Path, pattern: str, finish: Callable[[Path], None] | None = None) -> int:
    """Remove the folders that dead processes have left, and return their number.

    Parameters
    ----------
    parent : Path
    pattern : str
        Of their names, as for glob.
    finish : callable, optional
        Called with each before it is removed, to save what is worth it; an OSError keeps the folder.
    """
    removed = 0
    for folder in _of_this_user(parent, pattern):
        if not (folder / OWNER_FILE).exists():
            with contextlib.suppress(OSError):  # killed before it had its lock: there is nothing in it
                folder.rmdir()
                removed += 1
            continue
        lock = _lock(folder / OWNER_FILE, made=False)
        if lock is None:
            continue
        try:
            if finish is not None:
                finish(folder)
        except OSError:
            os.close(lock)
            continue
        _remove(folder, lock)
        removed += 1
    return removed


def remove_temporary_leftovers() -> int:
    """The same in the system's folder for temporary files."""
    return remove_leftovers(Path(tempfile.gettempdir()), f"{_TEMPORARY}*")


def is_owned(folder: Path) -> bool:
    """Whether a folder is one of these, of a living process or a dead one."""
    return (folder / OWNER_FILE).is_file()


def _of_this_user(parent: Path, pattern: str) -> list[Path]:
    """Folders of this name that are no links and nobody else's (others can make some in /tmp, too)."""
    user = os.getuid() if hasattr(os, "getuid") else None
    found = []
    with contextlib.suppress(OSError):
        for path in parent.glob(pattern):
            with contextlib.suppress(OSError):
                about = path.lstat()
                if stat.S_ISDIR(about.st_mode) and user in (None, about.st_uid):
                    found.append(path)
    return found


def _lock(path: Path, made: bool = True) -> int | None:
    """Open and lock a file; None when another process has it, or its folder has gone meanwhile."""
    try:
        handle = os.open(path, os.O_RDWR | (os.O_CREAT if made else 0), 0o600)
    except FileNotFoundError:
        return None
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
    except FileNotFoundError:
        pass
    except OSError:
        # A file system without locks: the owner goes on, and nobody else touches the folder.
        if made and not _is_held(path):
            return handle
    os.close(handle)
    return None


def _is_held(path: Path) -> bool:
    """Whether a lock failed because another process has it, rather than because there are none here."""
    if sys.platform == "win32":
        return True
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _remove(folder: Path, lock: int) -> None:
    """The mark of the owner last, so that a kill in between leaves a folder that is still recognised."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name == OWNER_FILE:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    if sys.platform == "win32":  # an open file cannot be removed there
        os.close(lock)
    with contextlib.suppress(OSError):
        (folder / OWNER_FILE).unlink(missing_ok=True)
        folder.rmdir()
    if sys.platform != "win32":
        os.close(lock)
