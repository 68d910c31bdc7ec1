"""A disk that takes nothing more ends a run at once: every other scan would be computed for nothing."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from ADAttributionLogic.errors import DiskError

_SENTENCES = {
    errno.ENOSPC: "the disk is full ({free} free). Make room",
    errno.EDQUOT: "your share of the disk is used up ({free} free on it). Make room",
    errno.EROFS: "it lies on a disk that is mounted read-only. Mount it for writing",
    errno.EFBIG: "no file may become as large as a result (ulimit -f, or the file system). Raise the limit",
    errno.EIO: "the disk reports an error of its own. Look at it",
    errno.EACCES: "you may not write there. Change the folder's permissions",
    errno.EPERM: "you may not write there. Change the folder's permissions",
    errno.ESTALE: "the network disk has gone. Mount it again",
}
#: What only a disk that is written to can say, wherever in a computation it is heard.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
#: What is tried to be written where nobody said what is wrong.
_PROBE_BYTES = 1 << 20


def disk_error(folder: Path, error: BaseException) -> DiskError | None:
    """What to say when an error comes from a disk that takes nothing more; None when it comes from elsewhere.

    Parameters
    ----------
    folder : Path
        That is written to; it is tried out where the error itself does not tell.
    error : BaseException
    """
    number = next((n for n in _numbers(error) if n in _OF_WRITING), None) or _tried(folder)
    return None if number is None else said(folder, number)


def said(folder: Path, number: int | None) -> DiskError:
    """The sentence for a number of an OSError."""
    sentence = _SENTENCES.get(number or 0, f"{os.strerror(number or 0)}. Mend it")
    return DiskError(
        f"Nothing can be written to {folder}: {sentence.format(free=_free(folder))}, and start again: what is complete "
        "is kept, and only what is not is computed."
    )


def _numbers(error: BaseException | None) -> list[int]:
    found, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno is not None:
            found.append(error.errno)
        error = error.__cause__ or error.__context__
    return found


def _tried(folder: Path) -> int | None:
    """Why a folder cannot be written now; some libraries only say that it failed."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * _PROBE_BYTES)
            file.flush()
    except OSError as cause:
        return cause.errno
    return None


def _free(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MB"
    except OSError:
        return "an unknown amount"
