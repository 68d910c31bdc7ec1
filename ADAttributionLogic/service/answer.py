"""What an explanation found, as plain values without the network: what travels between processes.

Needs no torch, so that 3D Slicer can read an answer while torch lives in the worker's Python only. Arrays travel as
``.npy`` files in a folder, warps as ITK's transform files, the quality figure as PNG, all else as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.atlas import MAX_LABEL, MAX_REGIONS, Atlas, Region
from ADAttributionLogic.errors import OutOfMemoryError, OutputError, UsageError, is_out_of_memory, sentence_of
from ADAttributionLogic.preparation import PreparationReport, Space, read_report, report_of
from ADAttributionLogic.registration.space_transform import SpaceTransform, restore_transform
from ADAttributionLogic.relevance.region_table import ALL_COLUMNS, COLUMNS, RegionTable
from ADAttributionLogic.service.exchange_schema import require_valid
from ADAttributionLogic.volume import Volume

if TYPE_CHECKING:
    from ADAttributionLogic.explanation import Explanation, Heatmap


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
class AnswerPreparation:
    """How the scan came onto the network's grid.

    Attributes
    ----------
    space : {"native", "model"}
        Where the answer's scan, maps, atlas and tables are.
    brain : Volume
        On the network's grid, with the scan's own intensities, 0 outside the brain.
    transform : SpaceTransform
        Between the scan and the network's space.
    report : PreparationReport
    """

    space: Space
    brain: Volume
    transform: SpaceTransform
    report: PreparationReport


@dataclass(frozen=True, eq=False)
class Answer:
    """All that an explanation found.

    Attributes
    ----------
    probabilities : mapping of str to float
        By class name, 0–1; {} for a score. The outcome, with what each network of an ensemble says, is in the
        provenance (:func:`ADAttributionLogic.outcome.read_outcome`).
    target_class : str
        What all maps explain.
    scan : Volume
        The scan on the network's grid, with its own intensities; of a prepared scan, in the space asked for.
    maps : tuple of AnswerMap
    atlas : Atlas or None
        Where the maps are.
    provenance : mapping
    preparation : AnswerPreparation or None
        None for a scan that was taken as registered.
    consensus : tuple of Volume, or None
        With checks of several maps: what they say together and how far they disagree, where the maps are
        (:class:`ADAttributionLogic.checks.agreement.Consensus`).
    """

    probabilities: Mapping[str, float]
    target_class: str
    scan: Volume
    maps: tuple[AnswerMap, ...]
    atlas: Atlas | None
    provenance: Mapping[str, Any]
    preparation: AnswerPreparation | None = None
    consensus: tuple[Volume, Volume] | None = None


def answer_of(explanation: Explanation, figure: bytes | None = None, note: str = "") -> Answer:
    """Leave out of an explanation what only the process that computed it can hold.

    Parameters
    ----------
    explanation : Explanation
    figure : bytes, optional
        Quality figure of a prepared scan, PNG.
    note : str
        Why there is none.
    """
    maps = tuple(
        AnswerMap(h.name, h.method.name, h.method.title, h.volume, h.table, _summary_of(h))
        for h in explanation.heatmaps
    )
    return Answer(
        explanation.probabilities,
        explanation.target_class,
        explanation.scan,
        maps,
        explanation.atlas,
        explanation.provenance,
        _preparation_of(explanation, figure, note),
        explanation.consensus,
    )


def _summary_of(heatmap: Heatmap) -> dict[str, Any]:
    return {**heatmap.attribution.summary(), **({"z_of": heatmap.z_of} if heatmap.z_of else {})}


def _preparation_of(explanation: Explanation, figure: bytes | None, note: str) -> AnswerPreparation | None:
    prepared, record = explanation.preprocessed, explanation.provenance
    if prepared is None:
        return None
    report = report_of(prepared, record["preprocessing_from_cache"]).with_figure(figure, note)
    return AnswerPreparation(record["space"], prepared.brain, prepared.transform, report)


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
    path = own_file(folder, name)
    try:
        # Mapped: the size in the file's header is compared with the file before anything is allocated.
        array: npt.NDArray[Any] = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as cause:  # whatever a damaged file makes numpy raise
        if is_out_of_memory(cause):
            raise OutOfMemoryError(sentence_of(cause)) from cause
        raise UsageError(f"The array {path} cannot be read: {cause!r:.200}. Compute it again.") from cause
    return array


def save_volume(volume: Volume, folder: Path, name: str) -> dict[str, Any]:
    """Write a volume's array and return the rest of it."""
    entry = {"file": save_array(volume.array, folder, name), "affine": volume.affine.tolist()}
    return {**entry, "source": volume.source, "notes": list(volume.notes)}


def load_volume(entry: Mapping[str, Any], folder: Path) -> Volume:
    """The inverse of :func:`save_volume`.

    Raises
    ------
    UsageError, ScanError, GeometryError
    """
    require_valid(entry, "volume")
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
    """The inverse of :func:`save_atlas`.

    Raises
    ------
    UsageError
    """
    require_valid(entry, "atlas")
    regions = tuple(
        Region(r["label"], r["name"], r["hemisphere"], r["group"], tuple(r["members"]), tuple(r["colour"]))
        for r in entry["regions"]
    )
    labels = load_volume(entry["labels"], folder)
    kind, low, high = labels.array.dtype.kind, labels.array.min(initial=0), labels.array.max(initial=0)
    if kind not in "iu" or low < 0 or high > MAX_LABEL or len(regions) > MAX_REGIONS:
        raise UsageError(
            f"The labels of the atlas {entry['name']} go from {low} to {high} ({labels.array.dtype}, {len(regions)} "
            f"regions); whole numbers from 0 to {MAX_LABEL} and at most {MAX_REGIONS} regions are read."
        )
    return Atlas(entry["name"], labels, regions, entry["title"], entry["licence"], entry["source"])


def save_report(report: PreparationReport, folder: Path, name: str) -> dict[str, Any]:
    """Write a report's figure and return the rest of it.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    document = report.describe()
    if report.figure is None:
        return {**document, "figure": None}
    try:
        (folder / f"{name}.png").write_bytes(report.figure)
    except OSError as cause:
        raise OutputError(f"The quality figure cannot be written to {folder}: {cause}") from cause
    return {**document, "figure": f"{name}.png"}


def load_report(document: Mapping[str, Any], folder: Path) -> PreparationReport:
    """The inverse of :func:`save_report`.

    Raises
    ------
    UsageError
    """
    require_valid(document, "report")
    if document["figure"] is None:
        return read_report(document)
    try:
        return read_report(document, own_file(folder, document["figure"]).read_bytes())
    except OSError as cause:
        raise UsageError(f"The quality figure {document['figure']} cannot be read: {cause}") from cause


def own_file(folder: Path, name: str) -> Path:
    """A file that the other process wrote into the folder; a name that leads out of it is refused."""
    path = folder / name
    if "\0" in name or path.resolve().parent != folder.resolve():
        raise UsageError(f"The file {name!r} lies outside the folder {folder}; it is refused.")
    if not path.is_file():
        raise UsageError(f"The file {path} is missing, or is no plain file. Compute it again.")
    return path


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
            "preparation": answer.preparation and _save_preparation(answer.preparation, folder, prefix),
            "consensus": [save_volume(v, folder, f"{prefix}-ranks-{n}") for n, v in enumerate(answer.consensus or ())],
        }
    except OSError as cause:
        raise OutputError(f"The result cannot be written to {folder}: {cause}") from cause


def load_answer(document: Mapping[str, Any], folder: Path) -> Answer:
    """The inverse of :func:`save_answer`.

    Raises
    ------
    UsageError
        Not as :func:`save_answer` writes it.
    """
    require_valid(document, "answer")
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
    ranks = [load_volume(entry, folder) for entry in document["consensus"]]
    return Answer(
        document["probabilities"],
        document["target_class"],
        load_volume(document["scan"], folder),
        maps,
        atlas,
        document["provenance"],
        document["preparation"] and _load_preparation(document["preparation"], folder),
        (ranks[0], ranks[1]) if ranks else None,
    )


def _save_preparation(found: AnswerPreparation, folder: Path, prefix: str) -> dict[str, Any]:
    return {
        "space": found.space,
        "brain": save_volume(found.brain, folder, f"{prefix}-brain"),
        "transform": found.transform.store(folder, f"{prefix}-transform"),
        "report": save_report(found.report, folder, f"{prefix}-quality"),
    }


def _load_preparation(document: Mapping[str, Any], folder: Path) -> AnswerPreparation:
    return AnswerPreparation(
        document["space"],
        load_volume(document["brain"], folder),
        restore_transform(document["transform"], folder),
        load_report(document["report"], folder),
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
    return {"atlas": table.atlas, "method": table.method, "quantity": table.quantity, "columns": columns}


def _table_from(entry: Mapping[str, Any]) -> RegionTable:
    types: dict[type, Any] = {str: object, int: np.int64, float: np.float64}
    given = entry["columns"]
    # JSON's null becomes NaN.
    try:
        columns = {c.name: np.array(given[c.name], dtype=types[c.kind]) for c in ALL_COLUMNS if c.name in given}
    except (ValueError, TypeError, OverflowError) as cause:
        raise UsageError(f"A column of the table of {entry['method']} is of another type: {cause}.") from cause
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or not {c.name for c in COLUMNS} <= set(columns):
        raise UsageError(f"The columns of the table of {entry['method']} are missing or of several lengths: {lengths}.")
    return RegionTable(columns, entry["atlas"], entry["method"], entry.get("quantity", ""))
