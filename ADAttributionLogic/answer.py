"""What an explanation found, as plain values without the network: what travels between processes.

Needs no torch, so that 3D Slicer can read an answer while torch lives in the worker's Python only. Arrays travel as
``.npy`` files in a folder, all else as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.atlas import Atlas, Region
from ADAttributionLogic.errors import OutputError, UsageError
from ADAttributionLogic.relevance.region_table import COLUMNS, DROP, RegionTable
from ADAttributionLogic.volume import Volume

if TYPE_CHECKING:
    from ADAttributionLogic.explain import Explanation


@dataclass(frozen=True, eq=False)
class AnswerMap:
    """One method's result.

    Attributes
    ----------
    name : str
        Unique in its answer.
    method, title : str
        Name and title of the method.
    volume : Volume
        float32, relevance on the network's grid.
    table : RegionTable or None
        None without an atlas.
    summary : mapping
        Options, score, sum of relevance, seconds, device, notes.
    """

    name: str
    method: str
    title: str
    volume: Volume
    table: RegionTable | None
    summary: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Answer:
    """All that an explanation found.

    Attributes
    ----------
    probabilities : mapping of str to float
        By class name, 0–1.
    target_class : str
        What all maps explain.
    scan : Volume
        The scan on the network's grid, with its own intensities.
    maps : tuple of AnswerMap
    atlas : Atlas or None
        On the network's grid.
    provenance : mapping
    """

    probabilities: Mapping[str, float]
    target_class: str
    scan: Volume
    maps: tuple[AnswerMap, ...]
    atlas: Atlas | None
    provenance: Mapping[str, Any]


def answer_of(explanation: Explanation) -> Answer:
    """Leave out of an explanation what only the process that computed it can hold."""
    maps = tuple(
        AnswerMap(h.name, h.method.name, h.method.title, h.volume, h.table, h.attribution.summary())
        for h in explanation.heatmaps
    )
    return Answer(
        explanation.probabilities,
        explanation.target_class,
        explanation.scan,
        maps,
        explanation.atlas,
        explanation.provenance,
    )


# ---------------------------------------------------------------------------------------------------------- transport


def save_array(array: npt.NDArray[Any], folder: Path, name: str) -> str:
    """Write an array into the folder and return the file's name."""
    file = f"{name}.npy"
    np.save(folder / file, np.ascontiguousarray(array), allow_pickle=False)
    return file


def load_array(folder: Path, name: str) -> npt.NDArray[Any]:
    """Read an array that the other process wrote; nothing in it is executed.

    Raises
    ------
    UsageError
        The name leads out of the folder, or the file is no array.
    """
    path = folder / name
    if path.resolve().parent != folder.resolve():
        raise UsageError(f"The array {name} lies outside the folder {folder}; it is refused.")
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as cause:
        raise UsageError(f"The array {path} cannot be read: {cause}") from cause
    return array


def save_volume(volume: Volume, folder: Path, name: str) -> dict[str, Any]:
    """Write a volume's array and return the rest of it."""
    entry = {"file": save_array(volume.array, folder, name), "affine": volume.affine.tolist()}
    return {**entry, "source": volume.source, "notes": list(volume.notes)}


def load_volume(entry: Mapping[str, Any], folder: Path) -> Volume:
    """The inverse of :func:`save_volume`."""
    affine = np.array(entry["affine"], dtype=np.float64)
    return Volume(load_array(folder, entry["file"]), affine, entry.get("source", ""), tuple(entry.get("notes", ())))


def save_atlas(atlas: Atlas, folder: Path, name: str) -> dict[str, Any]:
    """Write an atlas's labels and return the rest of it."""
    regions = [
        {
            "label": r.label,
            "name": r.name,
            "hemisphere": r.hemisphere,
            "group": r.group,
            "members": list(r.members),
            "colour": list(r.colour),
        }
        for r in atlas.regions
    ]
    entry = {"labels": save_volume(atlas.labels, folder, name), "name": atlas.name, "title": atlas.title}
    return {**entry, "licence": atlas.licence, "source": atlas.source, "regions": regions}


def load_atlas_entry(entry: Mapping[str, Any], folder: Path) -> Atlas:
    """The inverse of :func:`save_atlas`."""
    regions = tuple(
        Region(r["label"], r["name"], r["hemisphere"], r["group"], tuple(r["members"]), tuple(r["colour"]))
        for r in entry["regions"]
    )
    labels = load_volume(entry["labels"], folder)
    return Atlas(entry["name"], labels, regions, entry["title"], entry["licence"], entry["source"])


def save_answer(answer: Answer, folder: Path, prefix: str) -> dict[str, Any]:
    """Write an answer's arrays into a folder and return the rest as plain values.

    Raises
    ------
    OutputError
        The folder cannot be written (a full disk, for example).
    """
    try:
        return {
            "probabilities": dict(answer.probabilities),
            "target_class": answer.target_class,
            "scan": save_volume(answer.scan, folder, f"{prefix}-scan"),
            "maps": [_map_entry(m, folder, f"{prefix}-{m.name}") for m in answer.maps],
            "atlas": None if answer.atlas is None else save_atlas(answer.atlas, folder, f"{prefix}-atlas"),
            "provenance": dict(answer.provenance),
        }
    except OSError as cause:
        raise OutputError(f"The result cannot be written to {folder}: {cause}") from cause


def load_answer(document: Mapping[str, Any], folder: Path) -> Answer:
    """The inverse of :func:`save_answer`."""
    maps = tuple(
        AnswerMap(
            m["name"],
            m["method"],
            m["title"],
            load_volume(m["volume"], folder),
            None if m["table"] is None else _table_from(m["table"]),
            m["summary"],
        )
        for m in document["maps"]
    )
    atlas = None if document["atlas"] is None else load_atlas_entry(document["atlas"], folder)
    return Answer(
        document["probabilities"],
        document["target_class"],
        load_volume(document["scan"], folder),
        maps,
        atlas,
        document["provenance"],
    )


def _map_entry(found: AnswerMap, folder: Path, name: str) -> dict[str, Any]:
    return {
        "name": found.name,
        "method": found.method,
        "title": found.title,
        "volume": save_volume(found.volume, folder, name),
        "table": None if found.table is None else _table_entry(found.table),
        "summary": dict(found.summary),
    }


def _table_entry(table: RegionTable) -> dict[str, Any]:
    columns = {
        name: [None if isinstance(v, float) and math.isnan(v) else v for v in column.tolist()]
        for name, column in table.columns.items()
    }
    return {"atlas": table.atlas, "method": table.method, "columns": columns}


def _table_from(entry: Mapping[str, Any]) -> RegionTable:
    types: dict[type, Any] = {str: object, int: np.int64, float: np.float64}
    given = entry["columns"]
    # JSON's null becomes NaN.
    columns = {c.name: np.array(given[c.name], dtype=types[c.kind]) for c in (*COLUMNS, DROP) if c.name in given}
    return RegionTable(columns, entry["atlas"], entry["method"])
