"""A result folder read back: what was written by :mod:`.result_folder`, as the answer that it was.

The scan and the atlas are not in the folder: they are taken from where the provenance says they were, and only if they
are still the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ADAttributionLogic import provenance
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.atlas.library import available_atlases, load_atlas
from ADAttributionLogic.errors import ADAttributionError, ScanError, UnknownNameError, UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preparation import PreparationReport, read_quality
from ADAttributionLogic.preprocessing.history import Registration, Reorientation, take_back_all, turned_grid
from ADAttributionLogic.registration.space_transform import SpaceTransform, read_transform
from ADAttributionLogic.relevance.region_table import ALL_COLUMNS, COLUMNS, RANKS, RegionTable, rank_columns
from ADAttributionLogic.report.preprocessing_files import QUALITY_FIGURE
from ADAttributionLogic.report.result_places import KIND, PREPROCESSING_FOLDER, PROVENANCE_FILE
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.service.answer import Answer, AnswerMap, AnswerPreparation
from ADAttributionLogic.volume import Volume


def read_result(folder: str | os.PathLike[str], scan: Volume | None = None) -> tuple[Answer, Volume]:
    """Read what was written into a folder.

    Parameters
    ----------
    folder : path-like
        From :func:`~.result_places.find_result`.
    scan : Volume, optional
        The scan that was explained, where it is not any more what the provenance names.

    Returns
    -------
    answer : Answer
        Its notes say what could not be brought back, e.g. the atlas.
    scan : Volume
        As it was acquired.

    Raises
    ------
    UsageError
        The folder is no result of this program, or a file of it is missing or damaged.
    ScanError
        The scan is gone, was changed, or the given one is another.
    """
    place = Path(folder)
    record = _provenance(place)
    try:
        given = _scan(record["scan"], place, scan)
        maps = tuple(_map(place, name, summary) for name, summary in record["methods"].items())
        preparation = _preparation(record, place)
        in_model = preparation is not None and preparation.space == "model"
        shown = preparation.brain if preparation is not None and in_model else given
        atlas, notes = _atlas(record.get("atlas"), maps, preparation)
        record = {**record, "notes": [*record.get("notes", ()), *notes]}
        chances = record["probabilities"]
        return Answer(chances, record["target_class"], shown, maps, atlas, record, preparation), given
    except (KeyError, TypeError, ValueError, OSError) as cause:
        raise UsageError(f"The result {place} is damaged or of another version: {cause!r}.") from cause


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise UsageError(f"{path} cannot be read: {cause}") from cause
    if not isinstance(record, dict) or record.get("kind") != KIND:
        found = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise UsageError(f"{folder} is no result of 'ad-attribution explain': its kind is {found!r}, not {KIND!r}.")
    return record


# ----------------------------------------------------------------------------------------------------------- the scan


def _scan(record: Mapping[str, Any], folder: Path, given: Volume | None) -> Volume:
    expected = Grid(tuple(record["shape"]), np.array(record["affine_ras_mm"]))
    if given is not None:
        if not given.grid.is_same(expected):
            raise ScanError(
                f"This is not the scan that was explained: it has {given.grid.describe()}, that one "
                f"{expected.describe()} (or lies elsewhere)."
            )
        return given
    source = Path(record["source"])
    # A relative path was relative to where the command ran: often somewhere above the result.
    tried = [source] if source.is_absolute() else [base / source for base in (Path.cwd(), *folder.absolute().parents)]
    path = next((p for p in tried if record["source"] and p.exists()), None)
    advice = "Put it back, or load it and give it as the scan."
    if path is None:
        raise ScanError(f"The scan that was explained, {source or 'without a file'}, is not there any more. {advice}")
    scan = read_scan(path)
    if provenance.array_sha256(scan.array) != record["voxels_sha256"] or not scan.grid.is_same(expected):
        raise ScanError(f"{path} is not the scan that was explained any more: its voxels have changed. {advice}")
    return scan


# ----------------------------------------------------------------------------------------------------- maps and tables


def _map(folder: Path, name: str, summary: Mapping[str, Any]) -> AnswerMap:
    method = str(summary["method"])
    volume = read_scan(folder / "heatmaps" / f"{name}.nii.gz")
    table = folder / "tables" / f"{summary.get('z_of') or name}.json"
    title = str(summary.get("title") or _title(method))
    return AnswerMap(
        name,
        method,
        title,
        replace(volume, source=f"{title}, read from {folder}"),
        read_region_table(table) if table.is_file() else None,
        summary,
    )


def _title(method: str) -> str:
    from ADAttributionLogic.attribution.registry import get_method

    try:
        return get_method(method).title
    except UnknownNameError:  # of a newer version
        return method


def read_region_table(path: Path) -> RegionTable:
    """A region table as :func:`~ADAttributionLogic.relevance.table_files.write_region_table` wrote it (JSON)."""
    document = json.loads(path.read_text(encoding="utf-8"))
    rows, columns = document["rows"], {}
    for column in ALL_COLUMNS:
        if column not in COLUMNS and column.name not in rows[0]:
            continue
        values = [row[column.name] for row in rows]
        if column.name in RANKS:
            values = [value or 0 for value in values]
        kinds: dict[type, Any] = {str: object, int: np.int64, float: np.float64}
        columns[column.name] = np.array(values, dtype=kinds[column.kind])
    # Ranks by today's rule: those of older results count regions of a single voxel.
    return RegionTable(
        {**columns, **rank_columns(columns)}, document["atlas"], document["method"], document.get("quantity", "")
    )


# ------------------------------------------------------------------------------------------------ preparation and atlas


def _preparation(record: Mapping[str, Any], folder: Path) -> AnswerPreparation | None:
    if "preprocessing_decisions" not in record:
        return None
    place, decisions = folder / PREPROCESSING_FOLDER, record["preprocessing_decisions"]
    steps = {step["step"]: step for step in record["preprocessing"]}
    transform = read_transform(steps.get("registration and resampling"), place / "transforms")
    figure = place / QUALITY_FIGURE
    report = PreparationReport(
        read_quality(record["quality"]),
        decisions["options"]["registration"],
        decisions["already_registered"],
        decisions["already_registered_because"],
        transform.describe(),
        decisions["seconds"],
        tuple(decisions.get("notes", ())),
        record["preprocessing_from_cache"],
        figure.read_bytes() if figure.is_file() else None,
    )
    return AnswerPreparation(record["space"], read_scan(place / "brain.nii.gz"), transform, report)


def _atlas(
    record: Mapping[str, Any] | None, maps: tuple[AnswerMap, ...], preparation: AnswerPreparation | None
) -> tuple[Atlas | None, tuple[str, ...]]:
    """The atlas on the maps' grid, or why there is none."""
    if record is None or not maps:
        return None, ()
    shown = maps[0].volume.grid
    used = shown if preparation is None else preparation.brain.grid
    try:
        atlas = recorded_atlas(record).on_grid(used)
        found = provenance.array_sha256(atlas.labels.array)
        why = "" if found == record["labels_sha256"] else "its labels are others than those that were used"
    except ADAttributionError as cause:
        atlas, why = None, str(cause)
    if atlas is None or why:
        return None, (f"Regions cannot be outlined: the atlas {record['name']} could not be brought back ({why}).",)
    if preparation is not None and preparation.space == "native":
        return replace(atlas, labels=_on_scan(atlas.labels, preparation.transform, shown)), ()
    return atlas, ()


def _on_scan(labels: Volume, transform: SpaceTransform, grid: Grid) -> Volume:
    """By the same steps as when the result was computed, so that not one voxel differs."""
    turned = turned_grid(grid, labels.grid)
    steps = (Reorientation(grid, turned), Registration(transform, turned, labels.grid, {}))
    carried = take_back_all(steps, labels, "nearest")
    return replace(carried, array=carried.array.astype(np.int32))


def recorded_atlas(record: Mapping[str, Any]) -> Atlas:
    """The atlas that a provenance names, with the grouping that follows its name; or its label file."""
    name = str(record["name"])
    for entry in available_atlases():
        if name == entry.name:
            return load_atlas(name)
        if name.startswith(f"{entry.name}-"):
            return load_atlas(entry.name, grouping=name.removeprefix(f"{entry.name}-"))
    return load_atlas(str(record.get("source") or name))
