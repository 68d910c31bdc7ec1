"""Preprocessed scans kept on disk, so that explaining the same scan with another method costs nothing.

An entry's name is the hash of all that determines it: voxels, affine, parameters, template, grid, versions, code. An
entry appears only when it is complete, and is taken only while its files have their hashes; the longest unused ones go
when there are too many. It holds a patient's brain: only its owner can read it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.owned_folders import owned_folder, remove_leftovers
from ADAttributionLogic.preprocessing.history import (
    BiasCorrection,
    BrainExtraction,
    Registration,
    Reorientation,
    Step,
    Winsorising,
)
from ADAttributionLogic.preprocessing.pipeline import Options, Preprocessed, preprocess
from ADAttributionLogic.preprocessing.quality import Check, QualityReport
from ADAttributionLogic.registration.space_transform import SpaceTransform, restore_transform
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.volume import Volume, check_usable_scan

#: To be raised whenever the same input would give another result.
VERSION = 4
#: Entries kept; one takes 10 to 70 MB.
MOST_ENTRIES = 20
_WRITING, _ENTRY = ".writing-", "entry.json"
FOLDER_VARIABLE = "AD_ATTRIBUTION_CACHE"
#: How far results move with threads and device on this computer (:mod:`~ADAttributionLogic.rounding`); of no scan.
ROUNDING_FILES = "rounding-*.json"


def cache_folder() -> Path:
    """Where entries are kept: ``$AD_ATTRIBUTION_CACHE``, or the user's cache folder as his system has it."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ad-attribution" / "preprocessed"


def preprocess_cached(
    scan: Volume,
    grid: Grid,
    target: RegistrationTarget,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    mask: Volume | None = None,
    monitor: Monitor | None = None,
    folder: Path | None = None,
) -> tuple[Preprocessed, bool]:
    """As :func:`~.pipeline.preprocess`, from the cache where possible.

    Returns
    -------
    Preprocessed
    bool
        Whether it came from the cache.
    """
    folder = folder or cache_folder()
    usable = check_usable_scan(scan, options.replace_non_finite)
    key = cache_key(usable, grid, target, options, mask)
    entry = folder / key
    found = _read(entry, usable, grid)
    if found is not None:
        if monitor is not None:
            monitor.report(1.0, "preprocessed before; taken from the cache")
        return found, True
    result = preprocess(scan, grid, target, options, mask=mask, monitor=monitor)
    try:
        _write(result, entry)
        _forget_oldest(folder)
    except OSError:
        # A full or read-only disk costs time at the next run, not this result.
        pass
    return result, False


def cache_key(scan: Volume, grid: Grid, target: RegistrationTarget, options: Options, mask: Volume | None) -> str:
    """Hash of all that determines the result."""
    digest = hashlib.sha256(f"{VERSION} {json.dumps(asdict(options), sort_keys=True)}".encode())
    for package in ("SimpleITK", "antspyx", "numpy", "scipy", "hd-bet"):
        digest.update(f"{package} {_version(package)}".encode())
    digest.update(preparing_code_sha256().encode())
    digest.update(json.dumps([scan.notes]).encode())
    for volume in (scan, target.brain, mask):
        if volume is not None:
            digest.update(f"{volume.array.dtype.str}{volume.array.shape}".encode())
            digest.update(np.ascontiguousarray(volume.array).data)
            digest.update(np.ascontiguousarray(volume.affine).data)
    digest.update(f"{grid.shape}".encode() + np.ascontiguousarray(grid.affine).tobytes())
    return digest.hexdigest()


@functools.cache
def preparing_code_sha256() -> str:
    """Hash of the code that preprocesses: whatever is changed there, old entries are not taken for new ones."""
    room = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted([*room.glob("*.py"), room.parent / "volume.py", room.parent / "geometry.py"]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


# ------------------------------------------------------------------------------------------------------------ writing


def _write(result: Preprocessed, entry: Path) -> None:
    """Write into a temporary folder beside the entry, which gets its name at the end."""
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_leftovers(entry.parent, f"{_WRITING}*")
    with owned_folder(entry.parent, _WRITING) as folder:
        unfinished = folder / "entry"
        unfinished.mkdir(mode=0o700)
        arrays: dict[str, npt.NDArray[Any]] = {
            "brain": result.brain.array,
            "brain_mask": np.packbits(result.brain_mask.array),
        }
        document = {
            "key": entry.name,
            "steps": [_step_document(step, number, arrays) for number, step in enumerate(result.steps)],
            "transform": result.transform.store(unfinished, "transform"),
            "quality": [asdict(check) for check in result.quality.checks],
            "provenance": result.provenance,
            "notes": list(result.notes),
        }
        _write_arrays(unfinished / "arrays.npz", arrays)
        document["files"] = {file.name: _sha256(file) for file in unfinished.iterdir()}
        text = json.dumps(document)
        (unfinished / _ENTRY).write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}", encoding="utf-8")
        for file in unfinished.iterdir():
            file.chmod(0o600)
        with contextlib.suppress(OSError):  # another process has just made the same
            unfinished.rename(entry)


def _write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """As ``numpy.savez_compressed``, which has no choice of compression: this one takes half of its time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step_document(step: Step, number: int, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """A step as plain values; its arrays go to `arrays` under its number."""
    if isinstance(step, Reorientation):
        return {"kind": "reorientation", "before": _grid_document(step.before), "after": _grid_document(step.after)}
    if isinstance(step, BiasCorrection):
        arrays[f"{number}"] = step.log_field.array
        return {"kind": "bias", "affine": step.log_field.affine.tolist(), "parameters": step.parameters}
    if isinstance(step, BrainExtraction):
        arrays[f"{number}"] = np.packbits(step.mask.array)
        return {"kind": "brain", "grid": _grid_document(step.mask.grid), "parameters": step.parameters}
    if isinstance(step, Winsorising):
        return {"kind": "winsorising", "limit": step.limit, "parameters": step.parameters}
    assert isinstance(step, Registration)
    grids = {"before": _grid_document(step.before), "after": _grid_document(step.after)}
    return {"kind": "registration", **grids, "parameters": step.parameters}


def _grid_document(grid: Grid) -> dict[str, Any]:
    return {"shape": list(grid.shape), "affine": grid.affine.tolist()}


# ------------------------------------------------------------------------------------------------------------ reading


def _read(entry: Path, scan: Volume, grid: Grid) -> Preprocessed | None:
    """The entry, marked as used just now; None when there is none, or it is damaged (then it is removed)."""
    if not entry.is_dir():
        return None
    try:
        text, _, own_hash = (entry / _ENTRY).read_text(encoding="utf-8").rpartition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != own_hash:
            raise ValueError("damaged")
        document = json.loads(text)
        if document["key"] != entry.name or any(_sha256(entry / n) != h for n, h in document["files"].items()):
            raise ValueError("damaged")
        with np.load(entry / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        transform = restore_transform(document["transform"], entry)
        steps = tuple(_step(d, n, arrays, transform) for n, d in enumerate(document["steps"]))
        quality = QualityReport(tuple(Check(**check) for check in document["quality"]))
        brain = Volume(arrays["brain"], grid.affine, scan.source, scan.notes)
        os.utime(entry)
        mask = _mask(arrays["brain_mask"], scan.grid)
        notes = tuple(document["notes"])
        return Preprocessed(scan, brain, mask, steps, transform, quality, document["provenance"], notes)
    except MemoryError:
        return None
    except Exception:  # whatever the damage leads to: it is only a cache
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _step(
    document: dict[str, Any], number: int, arrays: dict[str, npt.NDArray[Any]], transform: SpaceTransform
) -> Step:
    kind = document["kind"]
    if kind == "reorientation":
        return Reorientation(_grid(document["before"]), _grid(document["after"]))
    if kind == "bias":
        return BiasCorrection(Volume(arrays[f"{number}"], np.array(document["affine"])), document["parameters"])
    if kind == "brain":
        return BrainExtraction(_mask(arrays[f"{number}"], _grid(document["grid"])), document["parameters"])
    if kind == "winsorising":
        return Winsorising(document["limit"], document["parameters"])
    return Registration(transform, _grid(document["before"]), _grid(document["after"]), document["parameters"])


def _mask(bits: npt.NDArray[Any], grid: Grid) -> Volume:
    return Volume(np.unpackbits(bits, count=grid.size).astype(bool).reshape(grid.shape), grid.affine, "brain mask")


def _grid(document: dict[str, Any]) -> Grid:
    i, j, k = document["shape"]
    return Grid((i, j, k), np.array(document["affine"]))


def cache_entries(folder: Path | None = None) -> list[Path]:
    """The entries that are kept, the most recently used one first."""
    folder = folder or cache_folder()
    if not folder.is_dir():
        return []
    entries = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and (p / _ENTRY).is_file()]
    return sorted(entries, key=lambda p: -p.stat().st_mtime)


def clear_cache(folder: Path | None = None) -> int:
    """Remove all entries, also of killed processes, and what was measured of rounding; returns the entries' number.

    Raises
    ------
    OSError
    """
    entries = cache_entries(folder)
    for entry in entries:
        shutil.rmtree(entry)
    remove_leftovers(folder or cache_folder(), f"{_WRITING}*")
    for measured in (folder or cache_folder()).glob(ROUNDING_FILES):
        measured.unlink(missing_ok=True)
    return len(entries)


def _forget_oldest(folder: Path) -> None:
    """Keep the most recently used entries."""
    for entry in cache_entries(folder)[MOST_ENTRIES:]:
        shutil.rmtree(entry, ignore_errors=True)
