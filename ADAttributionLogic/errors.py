"""Errors that a user can act on, one class per kind of cause.

Every error of the package derives from :class:`ADAttributionError`. Its text says what is wrong, the number found and
the number needed, and what to do. ``exit_code`` is what the command line returns for it (see ``README.md``).
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class ADAttributionError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class UsageError(ADAttributionError):
    """An option, or a combination of options, that makes no sense."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name (method, option, atlas, model, ...) that does not exist; the text lists the nearest ones.

    Parameters
    ----------
    kind : str
        What the name should have been, e.g. ``"method"``.
    name : str
        The name as given.
    known : iterable of str
        The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(near)}?" if near else "See the list."
        super().__init__(f"There is no {kind} named {name!r}. {hint} Known: {', '.join(names) or 'none'}.")


class NoSessionError(UsageError):
    """Trials that have ended in the meantime; they can begin anew."""


class ScanError(ADAttributionError):
    """A scan or label file that cannot be read or used."""

    exit_code = 3


class GeometryError(ScanError):
    """An affine, grid or orientation that cannot be used."""


class NetworkError(ADAttributionError):
    """A network, its weights or its package cannot be used."""

    exit_code = 4


class GridMismatchError(NetworkError):
    """The network cannot take an image of this size."""


class UnsupportedOperationError(NetworkError):
    """The network contains an operation for which there is no rule.

    Parameters
    ----------
    operation : str
        Name of the operation, e.g. ``"aten.gelu"``.
    location : str
        Where it sits in the network, e.g. ``"blocks.0.act"``.
    advice : str, optional
        What to do instead.
    """

    def __init__(self, operation: str, location: str, advice: str = "") -> None:
        self.operation = operation
        self.location = location
        text = f"Operation {operation} at {location} is not supported."
        super().__init__(f"{text} {advice}".strip())


class UnsafeFileError(NetworkError):
    """A file that could only be loaded by executing what it contains."""


class AtlasError(ADAttributionError):
    """An atlas or its region names cannot be read or used."""

    exit_code = 5


class OutputError(ADAttributionError):
    """The output cannot be written, or would overwrite something."""

    exit_code = 6


class RunningError(OutputError):
    """A living run has the output."""


class DiskError(OutputError):
    """The disk of the output takes nothing more."""


class OutOfMemoryError(ADAttributionError):
    """The memory did not suffice."""

    exit_code = 7


class CohortError(ADAttributionError):
    """A table of subjects that cannot be read or used: rows are missing, doubled, or contradict one another."""

    exit_code = 8


class ReferenceCohortError(CohortError):
    """A reference cohort that cannot be built, read, or compared with."""


class EngineError(ADAttributionError):
    """Workers, or their scheduler, cannot begin or were lost; what is complete is kept.

    Parameters
    ----------
    text : str
    exit_code : int, optional
        That of what went wrong in the workers.
    story : str
        What they said of it.
    """

    exit_code = 9

    def __init__(self, text: str, exit_code: int | None = None, story: str = "") -> None:
        super().__init__(text)
        self.story = story
        if exit_code is not None:
            self.exit_code = exit_code


class Cancelled(ADAttributionError):
    """The user cancelled the computation."""

    exit_code = 130


#: How torch, oneDNN, ITK and C++ say that memory ran out.
_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to allocate",
    "failed to map segment",
    "can't start new thread",
    "could not create a primitive",  # oneDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a GPU, in whatever words."""
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def sentence_of(error: BaseException) -> str:
    """An error as a sentence for its user, also one that nobody raised on purpose."""
    if isinstance(error, ADAttributionError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    if is_out_of_memory(error):
        return (
            f"The memory did not suffice{f': {first}' if first else ''}. Close other programs, choose fewer methods at "
            "a time, or a smaller network."
        )
    return f"{type(error).__name__}{f': {first}' if first else ''}"
