"""A folder that appears under its name only when it is complete, and replaces nothing but what it was told to.

It is written beside its place and renamed, which is atomic: what appeared there meanwhile stays, and of two writers one
wins. A mount point (a container's output) cannot be renamed; then the files are moved into it, the one that says that
all is complete as the last. A kill in between is finished at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.owned_folders import OwnedFolder, is_owned, remove_leftovers
from ADAttributionLogic.whole_files import WRITING

#: Names of the folders in which results are written.
#: Inside of them: the new result, the one that it replaces, and a file that says that moving has begun.
_NEW, _EARLIER, _JOURNAL = "result", "earlier", "placing.json"
#: What renaming a mount point, or from one file system to another, gives.
_NO_RENAMING = {errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EINVAL}


@dataclass(frozen=True)
class Place:
    """Where a result goes.

    Attributes
    ----------
    target : Path
        Absolute.
    last : str
        The file that says that all is complete.
    earlier : dict of str to str, or None
        Files of the result to be replaced with their SHA-256; None when there is nothing to be replaced.
    """

    target: Path
    last: str
    earlier: dict[str, str] | None = None

    @property
    def is_inside(self) -> bool:
        """Whether files are moved into the folder, because the folder itself cannot be renamed."""
        if not self.target.is_dir():
            return False
        return _is_mount_point(self.target) or not os.access(self.target.parent, os.W_OK) or _is_here(self.target)

    @property
    def workplace(self) -> Path:
        """Where it is written until it is complete."""
        return self.target if self.is_inside else self.target.parent


def check_place(folder: str | os.PathLike[str], last: str) -> Place:
    """Look, before anything is computed, whether a folder can be written and is free.

    Raises
    ------
    OutputError
        It is no folder, holds something, or cannot be written.
    """
    place = _usable(folder, last)
    if place.target.exists() and _contents(place.target):
        raise OutputError(f"{folder} exists; nothing is overwritten. Choose another folder.")
    return place


def check_replacement(folder: str | os.PathLike[str], last: str, files: Mapping[str, str]) -> Place:
    """The same for a folder that holds a result of ours.

    Parameters
    ----------
    folder : path-like
    last : str
    files : mapping of str to str
        Files of the earlier result with their SHA-256 ("" where it is not known), without `last`.

    Raises
    ------
    OutputError
        It holds something else, or files that were changed since.
    """
    place = _usable(folder, last)
    strangers = not_ours(place.target, {**files, last: ""})
    if strangers:
        raise OutputError(
            f"{folder} also holds what this program did not write, or what was changed since: {_some(strangers)}. "
            "It is not overwritten; move it away, or choose another folder."
        )
    present = [name for name in (*files, last) if (place.target / name).is_file()]
    return Place(place.target, last, {name: files.get(name) or _sha256(place.target / name) for name in present})


def _usable(folder: str | os.PathLike[str], last: str) -> Place:
    place = Place(Path(folder).resolve(), last)
    if Path(folder).is_symlink() or (place.target.exists() and not place.target.is_dir()):
        raise OutputError(f"{folder} is not a folder; choose another output.")
    for workplace in (place.target, place.target.parent):
        tidy_up(workplace)
    ancestor = place.workplace
    while not ancestor.exists():
        ancestor = ancestor.parent
    try:
        tempfile.TemporaryFile(dir=ancestor).close()  # has no name, so that a killed process leaves nothing
    except OSError as cause:
        raise OutputError(f"{folder} cannot be written: {cause}. Choose another folder.") from cause
    return place


def tidy_up(workplace: Path) -> int:
    """Finish or remove what killed processes have left in a folder; the number of what was found."""
    return remove_leftovers(workplace, f".*{WRITING}*", _finish)


@contextlib.contextmanager
def writing(place: Place) -> Iterator[Path]:
    """A folder to write the result into; at the end it is put into its place, for its owner only (0700, files 0600).

    Raises
    ------
    OutputError
        Something has appeared at the place meanwhile, or it cannot be written.
    """
    try:
        place.workplace.mkdir(parents=True, exist_ok=True)
        owned = OwnedFolder(place.workplace, f".{place.target.name}{WRITING}")
    except OSError as cause:
        raise OutputError(f"{place.target} cannot be written: {cause}") from cause
    try:
        new = owned.path / _NEW
        new.mkdir()
        yield new
        _make_private(new)
        _put(place, owned.path)
    except OSError as cause:
        if (owned.path / _JOURNAL).exists():
            owned.abandon()
            raise OutputError(
                f"{place.target} could not be completed: {cause}. Nothing is lost: both results are in {owned.path}, "
                "and the next start with this output goes on."
            ) from cause
        raise OutputError(f"{place.target} cannot be written: {cause}") from cause
    finally:
        if not (owned.path / _JOURNAL).exists():
            owned.close()


def not_ours(folder: Path, files: Mapping[str, str]) -> list[str]:
    """What a folder holds beside certain files, or of them with another SHA-256."""
    found = []
    for name in _contents(folder):
        expected = files.get(name)
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            continue  # an empty folder is nothing to be lost
        if expected is None or (expected and _sha256(folder / name) != expected):
            found.append(name)
    return found


def damaged(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Which of certain files a folder lacks, or holds with another SHA-256."""
    return [name for name, expected in files.items() if _sha256(folder / name) != expected]


def hashes_of(folder: Path) -> dict[str, str]:
    """All files of a folder with their SHA-256."""
    return {name: _sha256(folder / name) for name in _contents(folder)}


# -------------------------------------------------------------------------------------------------------------- moving


def _put(place: Place, owned: Path) -> None:
    if not place.is_inside:
        try:
            _rename(place, owned)
            return
        except OSError as cause:
            if cause.errno not in _NO_RENAMING or not place.target.is_dir() or (owned / _JOURNAL).exists():
                raise
    _move_inside(place, owned)


def _rename(place: Place, owned: Path) -> None:
    earlier = owned / _EARLIER
    if place.earlier is not None and place.target.exists():
        _write_journal(place, owned)
        try:
            place.target.rename(earlier)
        except OSError:
            (owned / _JOURNAL).unlink()
            raise
        if _sha256(earlier / place.last) != place.earlier[place.last]:
            earlier.rename(place.target)
            (owned / _JOURNAL).unlink()
            raise _taken(place)
    _rename_new(place, owned)
    _part_with(earlier, place)
    (owned / _JOURNAL).unlink(missing_ok=True)


def _rename_new(place: Place, owned: Path) -> None:
    with contextlib.suppress(OSError):
        place.target.rmdir()  # an empty one; renaming onto it is refused by some systems
    try:
        (owned / _NEW).rename(place.target)
    except OSError as cause:
        if cause.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            _part_with(owned / _EARLIER, place)  # another writer has replaced it
            (owned / _JOURNAL).unlink(missing_ok=True)
            raise _taken(place) from cause
        if (owned / _EARLIER).exists():
            (owned / _EARLIER).rename(place.target)
        (owned / _JOURNAL).unlink(missing_ok=True)
        raise


def _part_with(earlier: Path, place: Place) -> None:
    """The replaced result goes; what somebody has put into it meanwhile stays, beside the new one."""
    if earlier.exists() and not_ours(earlier, place.earlier or {}):
        earlier.rename(_free_name(place.target))


def _free_name(target: Path) -> Path:
    number, name = 1, target.with_name(f"{target.name}-earlier")
    while name.exists():
        number, name = number + 1, target.with_name(f"{target.name}-earlier-{number + 1}")
    return name


def _move_inside(place: Place, owned: Path) -> None:
    """File by file, into a folder that stays."""
    with _only_one(place.target):
        files = _contents(place.target)
        if (place.earlier is None and files) or (
            place.earlier is not None and _hash_if_there(place.target / place.last) != place.earlier.get(place.last)
        ):
            raise _taken(place)
        foreign = set(files) - set(place.earlier or {})
        collisions = [name for name in _contents(owned / _NEW) if name in foreign]
        if collisions:
            raise _taken(place)
        if owned.parent != place.target:
            # Found to be no place for renaming only now: from here on as if it had been known.
            inner = OwnedFolder(place.target, f".{place.target.name}{WRITING}")
            shutil.copytree(owned / _NEW, inner.path / _NEW)
            _write_journal(place, inner.path)
            _go_on_inside(place, inner.path)
            inner.close()
            return
        _write_journal(place, owned)
        _go_on_inside(place, owned)


def _go_on_inside(place: Place, owned: Path) -> None:
    """Can be interrupted and called again: what is still in the folder of new files has not been moved."""
    new, earlier = owned / _NEW, owned / _EARLIER
    waiting = {name for name in _contents(new) if not (new / name).is_dir()}
    if place.last in waiting:
        for name in sorted(place.earlier or (), key=lambda n: n != place.last):
            if (place.target / name).is_file() and not (earlier / name).exists():
                _move(place.target / name, earlier / name)
    for name in sorted(waiting, key=lambda n: n == place.last):
        _move(new / name, place.target / name)
    for folder in sorted({f for n in place.earlier or () for f in (place.target / n).parents}, reverse=True):
        if folder != place.target and place.target in folder.parents:
            with contextlib.suppress(OSError):
                folder.rmdir()  # emptied
    (owned / _JOURNAL).unlink()


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if target.exists():
        raise FileExistsError(errno.EEXIST, "appeared meanwhile", os.fspath(target))
    source.rename(target)


def _finish(owned: Path) -> None:
    """What a kill has interrupted after everything was written."""
    try:
        journal = json.loads((owned / _JOURNAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    is_inside = bool(journal["is_inside"])
    target = owned.parent if is_inside else owned.parent / journal["name"]
    place = Place(target, journal["last"], journal["earlier"])
    if is_inside:
        with _only_one(target):
            _go_on_inside(place, owned)
        return
    earlier = owned / _EARLIER
    if not earlier.exists():
        return  # nothing had been moved
    if place.earlier is None or _hash_if_there(earlier / place.last) != place.earlier[place.last]:
        earlier.rename(target if not target.exists() else _free_name(target))
    elif (owned / _NEW).exists() and not target.exists():
        (owned / _NEW).rename(target)
    _part_with(earlier, place)


def _write_journal(place: Place, owned: Path) -> None:
    document = {"name": place.target.name, "last": place.last, "earlier": place.earlier}
    text = json.dumps({**document, "is_inside": owned.parent == place.target})
    unfinished = owned / f"{_JOURNAL}-writing"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, owned / _JOURNAL)


# ------------------------------------------------------------------------------------------------------------- looking


def _contents(folder: Path) -> list[str]:
    """Files below a folder, and folders that are empty, without those in which results are being written."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not is_owned(here / name)]
        links = [name for name in folders if (here / name).is_symlink()]
        found += [os.path.relpath(here / name, folder) for name in (*files, *links)]
        if here != folder and not files and not folders:
            found.append(os.path.relpath(here, folder))
    return sorted(found)


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return "no file"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_if_there(path: Path) -> str | None:
    return _sha256(path) if path.is_file() else None


def _is_here(target: Path) -> bool:
    """Whether it is the working folder, which must not be renamed under its user."""
    try:
        return Path.cwd().samefile(target)
    except OSError:
        return False


def _is_mount_point(folder: Path) -> bool:
    """Also a folder that is bound from the same file system, which os.path.ismount does not see."""
    if os.path.ismount(folder):
        return True
    if not sys.platform.startswith("linux"):
        return False
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    # Blanks and the like are written as octal numbers.
    plain = os.path.realpath(folder).translate({ord(c): f"\\{ord(c):03o}" for c in " \t\n\\"})
    return any(line.split()[4] == plain for line in lines)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """While one process moves files into a folder, others wait."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_private(folder: Path) -> None:
    """What holds a patient's scan is for its owner only."""
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)


def _taken(place: Place) -> OutputError:
    return OutputError(
        f"Something has appeared or changed in {place.target} while this was computed; nothing is overwritten. Choose "
        "another folder."
    )


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read_marked(path: Path, kind: str) -> dict[str, Any] | None:
    """A JSON document that says that it is of a kind; None when it is not, or cannot be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and document.get("kind") == kind else None
