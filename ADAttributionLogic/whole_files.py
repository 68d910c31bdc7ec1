"""Files that are replaced in one step, so that they are whole at any moment. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from ADAttributionLogic.owned_folders import owned_folder, remove_leftovers

#: In the names of the folders in which something is written before it has its own name.
WRITING = "-writing-"


def write_whole(path: Path, content: str | bytes, on_disk: bool = False) -> None:
    """Write or replace a file in one step; for its owner only.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    content : str or bytes
        What is no UTF-8 in a text (some file names) is written as an escape, which JSON understands.
    on_disk : bool
        Whether to wait until the disk has it, so that it also outlives a loss of power.

    Raises
    ------
    OSError
    """
    if isinstance(content, str):
        content = content.encode("utf-8", errors="backslashreplace")
    with owned_folder(path.parent, f".{path.name}{WRITING}") as folder:
        unfinished = folder / "file"
        unfinished.touch(mode=0o600)
        with open(unfinished, "wb") as file:
            file.write(content)
            if on_disk:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)


def remove_unfinished(folder: Path) -> int:
    """Remove what killed processes had begun to write here, and return how many they were."""
    return remove_leftovers(folder, f".*{WRITING}*")
