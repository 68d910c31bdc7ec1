"""The scans of a batch, each with a name that depends on where it lies and on nothing else on the list."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.scan_files import ITK_SUFFIXES, NIBABEL_SUFFIXES, file_suffix

_SUFFIXES = NIBABEL_SUFFIXES + ITK_SUFFIXES

#: Files that mark a folder as one that this program wrote: what is in it is no scan.
_OUTPUT_FILES = ("batch.json", "provenance.json", "preprocessing.json", "model.json")

#: Longer names do not fit with what is written around them.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class BatchScan:
    """A scan on the list.

    Attributes
    ----------
    name : str
        Name of its result folder, unique in the batch.
    path : Path
    values : mapping of str to str
        Other columns of the list that are filled in, such as age.
    """

    name: str
    path: Path
    values: Mapping[str, str] = field(default_factory=dict)


def find_scans(source: str | os.PathLike[str], without: Sequence[str | os.PathLike[str]] = ()) -> tuple[BatchScan, ...]:
    """List the scans of a folder (with its subfolders) or of a CSV file.

    A scan's name comes from its path, of a path with a subject (``sub-01``) from there on; where two would be equal,
    each gets the hash of its path.

    Parameters
    ----------
    source : path-like
        A folder with NIfTI, MGH, NRRD or MetaImage files, or a CSV with a column ``scan`` (paths of files or of DICOM
        folders, relative to the CSV) and optionally ``name``. Folders that this program has written are left out.
    without : sequence of path-like
        Folders to leave out, such as the output.

    Raises
    ------
    ScanError
        Neither, or nothing in it.
    """
    path = Path(source)
    if path.is_dir():
        scans = _scans_in_folder(path, {Path(f).resolve() for f in without} - {path.resolve()})
    elif path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        scans = _scans_in_list(path)
    else:
        raise ScanError(f"{path} is neither a folder nor a CSV file with a column 'scan'.")
    if not scans:
        raise ScanError(f"{path} names no scan. Known files: {', '.join(_SUFFIXES)}.")
    return _with_unique_names(scans)


def name_scans(listed: Sequence[tuple[Path, str, str]]) -> tuple[BatchScan, ...]:
    """Scans with names as :func:`find_scans` gives them to the rows of a list.

    Parameters
    ----------
    listed : sequence of (Path, str, str)
        The path, the path as it stands on the list, and the name that the list gives, "" where it gives none.
    """
    return _with_unique_names([_listed(path, given, name) for path, given, name in listed])


@dataclass(frozen=True)
class _Listed:
    """A scan with the name it was given, or that its path gives, and its path as it stands on the list."""

    name: str
    path: Path
    given: str
    values: Mapping[str, str] = field(default_factory=dict)


def _scans_in_folder(folder: Path, without: set[Path]) -> list[_Listed]:
    def unreadable(cause: OSError) -> None:
        raise ScanError(f"The folder {cause.filename} cannot be read: {cause.strerror}.") from cause

    scans = []
    for place, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(place)
        if here.resolve() in without or (here != folder and any(name in files for name in _OUTPUT_FILES)):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = here / name
            # A device or a pipe would never end.
            if file_suffix(path, _SUFFIXES) and not name.startswith(".") and path.is_file():
                scans.append(_listed(path, path.relative_to(folder).as_posix()))
    return sorted((s for s in scans if not _is_second_of_a_pair(s.path)), key=lambda s: s.path)


def _is_second_of_a_pair(path: Path) -> bool:
    """Whether it is the image of a header that is listed as well."""
    return path.suffix.lower() == ".img" and any(path.with_suffix(s).is_file() for s in (".hdr", ".HDR"))


def _scans_in_list(file: Path) -> list[_Listed]:
    try:
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
            rows = list(csv.DictReader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
    except (OSError, csv.Error) as cause:
        raise ScanError(f"{file} cannot be read: {cause}") from cause
    scans = []
    for number, row in enumerate(rows, start=2):
        given = (row.get("scan") or "").strip()
        if not given:
            raise ScanError(f"{file}, line {number}: the column 'scan' is {'empty' if 'scan' in row else 'missing'}.")
        if "\0" in given:
            raise ScanError(f"{file}, line {number}: {given!r} is no path.")
        listed = _listed(file.parent / given, given, (row.get("name") or "").strip())
        known = {key: value.strip() for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
        scans.append(replace(listed, values={key: value for key, value in known.items() if value}))
    return scans


def _listed(path: Path, given: str, name: str = "") -> _Listed:
    if not name:
        parts = list(PurePath(given).parts)
        parts[-1] = parts[-1][: len(parts[-1]) - len(file_suffix(path, _SUFFIXES))]
        subject = next((n for n, part in enumerate(parts) if re.match(r"sub-\w", part)), 0)
        name = "/".join(parts[subject:])
    return _Listed(name, path, given)


def _with_unique_names(scans: Sequence[_Listed]) -> tuple[BatchScan, ...]:
    """Names as folder names, on every system. Who shares one, also but for capitals, gets the hash of the path."""
    names = [_as_folder_name(scan) for scan in scans]
    counts = Counter(name.lower() for name in names)
    names = [
        name if counts[name.lower()] == 1 else f"{name}-{_short_hash(scan)}"
        for name, scan in zip(names, scans, strict=True)
    ]
    again: Counter[str] = Counter()
    unique = []
    for name, scan in zip(names, scans, strict=True):
        again[name.lower()] += 1  # the same path twice: the same scan, whichever comes first
        number = again[name.lower()]
        unique.append(BatchScan(name if number == 1 else f"{name}-{number}", scan.path, scan.values))
    return tuple(unique)


def _as_folder_name(scan: _Listed) -> str:
    name = re.sub(r"[^\w.+-]+", "_", scan.name, flags=re.ASCII).strip("._").lstrip("+-._") or "scan"
    return name if len(name) <= _LONGEST_NAME else f"{name[-_LONGEST_NAME:]}-{_short_hash(scan)}"


def _short_hash(scan: _Listed) -> str:
    return hashlib.sha256(os.fsencode(scan.given)).hexdigest()[:8]
