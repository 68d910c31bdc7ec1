"""What this program, its libraries and other programs keep for a moment lies in the working folder as well."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ADAttributionLogic.owned_folders import owned_folder, remove_leftovers

_PREFIX = ".temporary-"


@contextlib.contextmanager
def temporary_files_in(parent: Path) -> Iterator[Path]:
    """Have temporary files written into a new folder, also by processes that are started meanwhile; then it is gone.

    Raises
    ------
    OSError
        It cannot be made.
    """
    remove_leftovers(parent, f"{_PREFIX}*")
    with owned_folder(parent, _PREFIX) as folder, _environment(str(folder.absolute())):
        yield folder


@contextlib.contextmanager
def _environment(place: str) -> Iterator[None]:
    wanted = {"TMPDIR": place}
    # matplotlib lists the machine's fonts once, for its user; where it has no list yet, none stays behind.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if "MPLCONFIGDIR" not in os.environ and not (cache / "matplotlib").is_dir():
        wanted["MPLCONFIGDIR"] = place
    known, environment = tempfile.tempdir, {name: os.environ.get(name) for name in wanted}
    tempfile.tempdir = place
    os.environ.update(wanted)
    try:
        yield
    finally:
        tempfile.tempdir = known
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
