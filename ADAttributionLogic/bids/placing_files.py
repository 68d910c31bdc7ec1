"""Files of one result among those of others: all of them appear, or none that says it is complete.

They are linked or copied into a folder beside their places, a journal is written, and each is renamed, the one that
says that all is complete as the last. What a kill interrupts after the journal is finished at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.owned_folders import OwnedFolder, remove_leftovers
from ADAttributionLogic.report.placing import damaged

_WRITING = ".placing-"
_NEW, _JOURNAL = "new", "journal.json"

#: Of the files that are in the way, how many a message names.
_NAMED = 3


def place_files(files: Mapping[str, Path | str], folder: Path, last: str, earlier: Mapping[str, str]) -> None:
    """Put files into a folder that also holds others.

    Parameters
    ----------
    files : mapping of str to Path or str
        By name, a file (which is linked where the file system can, and must not be changed any more) or a text.
    folder : Path
    last : str
        The file that says that all is complete.
    earlier : mapping of str to str
        Files of the result to be replaced with their SHA-256, `last` among them.

    Raises
    ------
    OutputError
        A file is in the way, was changed since it was written, or nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        finish_placing(folder)
        _refuse_others(files, folder, earlier)
        owned = OwnedFolder(folder, _WRITING)
        try:
            (owned.path / _NEW).mkdir()
            for name, content in files.items():
                _put(content, owned.path / _NEW / name)
            gone = [name for name in earlier if name not in files]
            _write_journal(owned.path, last, gone)
            _go_on(owned.path)
        except OSError:
            if (owned.path / _JOURNAL).exists():
                owned.abandon()
            raise
        finally:
            if not (owned.path / _JOURNAL).exists():
                owned.close()
    except OSError as cause:
        raise OutputError(f"{folder} cannot be written: {cause.strerror or cause}.") from cause


def finish_placing(folder: Path) -> int:
    """Finish what a killed process had begun to put there; the number of what was found."""
    return remove_leftovers(folder, f"{_WRITING}*", _go_on)


def _refuse_others(files: Mapping[str, Path | str], folder: Path, earlier: Mapping[str, str]) -> None:
    there = {name: sha256 for name, sha256 in earlier.items() if os.path.lexists(folder / name)}
    changed = damaged(folder, there)
    strangers = [name for name in files if name not in earlier and os.path.lexists(folder / name)]
    if changed or strangers:
        found = [*changed, *strangers]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        what = "was changed since it was written" if changed else "was not written by this program"
        raise OutputError(
            f"{folder} holds {', '.join(found[:_NAMED])}{more}, which {what}. Nothing is overwritten: move it away."
        )


def _put(content: Path | str, target: Path) -> None:
    if isinstance(content, str):
        target.write_text(content, encoding="utf-8", errors="backslashreplace", newline="")
    else:
        try:
            os.link(content, target)
        except OSError as cause:  # another file system, or one without links
            if cause.errno == errno.ENOSPC:
                raise
            shutil.copyfile(content, target)
    target.chmod(0o600)


def _write_journal(owned: Path, last: str, gone: list[str]) -> None:
    unfinished = owned / f"{_JOURNAL}-writing"
    unfinished.write_text(json.dumps({"last": last, "gone": gone}), encoding="utf-8")
    os.replace(unfinished, owned / _JOURNAL)


def _go_on(owned: Path) -> None:
    """Can be interrupted and called again."""
    try:
        journal = json.loads((owned / _JOURNAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return  # nothing had been placed
    waiting = sorted((path.name for path in (owned / _NEW).iterdir()), key=lambda name: name == journal["last"])
    folder = owned.parent
    if journal["last"] in waiting:
        with contextlib.suppress(FileNotFoundError):
            (folder / journal["last"]).unlink()
    for name in journal["gone"]:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    for name in waiting:
        os.replace(owned / _NEW / name, folder / name)
    (owned / _JOURNAL).unlink()
