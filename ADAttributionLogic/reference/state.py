"""What was taken up of the controls so far, kept between runs: a reference grows without starting over.

It lies in the working folder, which is private: it holds the sums of each control's regions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic import provenance
from ADAttributionLogic.errors import ReferenceCohortError
from ADAttributionLogic.networks.packages import file_sha256
from ADAttributionLogic.reference.accumulation import Accumulation, Control
from ADAttributionLogic.reference.moments import VoxelMoments
from ADAttributionLogic.reference.statistics import QUANTITIES
from ADAttributionLogic.report.placing import check_place, check_replacement, writing

STATE_FILE = "taken.json"
_KIND = "ad-attribution/reference-state/2"


def save_state(found: Accumulation, folder: Path) -> None:
    """Keep what was taken up; an earlier state is replaced in one step.

    Raises
    ------
    OutputError
    """
    earlier = _read(folder)
    files = None if earlier is None else {name: str(sha) for name, sha in earlier["files"].items()}
    place = check_place(folder, STATE_FILE) if files is None else check_replacement(folder, STATE_FILE, files)
    with writing(place) as unfinished:
        for name, array in _arrays(found).items():
            np.save(unfinished / f"{name}.npy", array, allow_pickle=False)
        document = {
            "kind": _KIND,
            **_asked(found),
            "controls": [asdict(control) for control in found.controls],
            "files": {path.name: file_sha256(path) for path in sorted(unfinished.iterdir())},
        }
        (unfinished / STATE_FILE).write_text(json.dumps(document, indent=1, default=str), encoding="utf-8")


def load_state(found: Accumulation, folder: Path) -> bool:
    """Go on from an earlier state, where it was asked the same; whether there was one.

    Raises
    ------
    ReferenceCohortError
        It is damaged.
    """
    document = _read(folder)
    if document is None or any(document.get(key) != value for key, value in _asked(found).items()):
        return False
    controls = [Control(**entry) for entry in document["controls"]]
    arrays = {}
    for name, like in _arrays(found).items():
        path = folder / f"{name}.npy"
        if not path.is_file() or file_sha256(path) != document["files"].get(path.name):
            raise ReferenceCohortError(f"{path} is missing or damaged. Remove the folder {folder} and start again.")
        array = np.load(path, allow_pickle=False)
        shape = (len(controls), *like.shape[1:]) if name.startswith("values") else like.shape
        if array.shape != shape or array.dtype != np.float64:
            raise ReferenceCohortError(f"{path} does not fit. Remove the folder {folder} and start again.")
        arrays[name] = array
    found.controls = controls
    found.scan = _moments(arrays, "scan", len(controls))
    found.moments = {name: _moments(arrays, name, len(controls)) for name in found.moments}
    found.patterns = {name: _moments(arrays, f"{name}-pattern", len(controls)) for name in found.patterns}
    for number, key in enumerate(found.values):
        found.values[key] = list(arrays[f"values-{number}"])
    return True


def _asked(found: Accumulation) -> dict[str, Any]:
    """What a state must have been asked to be gone on with, as JSON brings it back."""
    atlases = [provenance.describe_atlas(atlas) for atlas in found.atlases]
    kept = [{key: atlas[key] for key in ("name", "labels_sha256", "regions_sha256")} for atlas in atlases]
    asked = {
        "question": found.question,
        "methods": found.methods,
        "atlases": kept,
        "values": [list(key) for key in found.values],
    }
    plain: dict[str, Any] = json.loads(json.dumps(asked, default=str))
    return plain


def _arrays(found: Accumulation) -> dict[str, npt.NDArray[np.float64]]:
    arrays = {}
    patterns = {f"{name}-pattern": moments for name, moments in found.patterns.items()}
    for name, moments in {"scan": found.scan, **found.moments, **patterns}.items():
        arrays[f"{name}-mean"], arrays[f"{name}-squares"] = moments.mean, moments.squares
    for number, ((method, atlas), values) in enumerate(found.values.items()):
        empty = np.empty((0, len(found.like(method, atlas)) - 1, len(QUANTITIES)))
        arrays[f"values-{number}"] = np.stack(values) if values else empty
    return arrays


def _moments(arrays: Mapping[str, npt.NDArray[np.float64]], name: str, n: int) -> VoxelMoments:
    return VoxelMoments.from_state(n, arrays[f"{name}-mean"], arrays[f"{name}-squares"])


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["kind"] != _KIND or not isinstance(document["files"], dict):
            raise ValueError(f"its kind is {document['kind']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        raise ReferenceCohortError(
            f"{path} is damaged ({cause}). Remove the folder {folder} and start again."
        ) from cause
    found: dict[str, Any] = document
    return found
