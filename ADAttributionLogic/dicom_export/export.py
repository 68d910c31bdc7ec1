"""All of a result as DICOM objects in a folder, once it is certain that the series is the scan that was explained."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ADAttributionLogic.atlas.atlas import Region
from ADAttributionLogic.dicom_export.context import Context, make_context, quiet
from ADAttributionLogic.dicom_export.described_map import describe_map
from ADAttributionLogic.dicom_export.measurement_report import make_measurement_report
from ADAttributionLogic.dicom_export.parametric_map import make_parametric_map
from ADAttributionLogic.dicom_export.secondary_capture import make_secondary_capture
from ADAttributionLogic.dicom_export.segmentation import make_segmentation
from ADAttributionLogic.errors import GeometryError, OutputError, ScanError, UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.reading.dicom_source import SourceSeries
from ADAttributionLogic.relevance.region_table import OUTSIDE_LABEL, RegionTable
from ADAttributionLogic.report.placing import Place, check_place, writing
from ADAttributionLogic.service.answer import Answer
from ADAttributionLogic.volume import Volume, resample, resampling_is_exact

if TYPE_CHECKING:
    from pydicom import Dataset

#: The files, in the order in which they are written; the map's name is put in.
SEGMENTATION_FILE = "regions.dcm"
FIGURE_FILE = "figure.dcm"
MAP_FILE, REPORT_FILE = "map-{}.dcm", "measurements-{}.dcm"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    folder : Path
    files : tuple of str
        Names in the folder.
    notes : tuple of str
        What was left out, and why.
    """

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]


def check_dicom_folder(folder: str | os.PathLike[str]) -> Place:
    """Refuse, before anything is computed, a folder that exists or cannot be written, and a missing package.

    Raises
    ------
    OutputError
    """
    with quiet():
        return check_place(folder, MAP_FILE.format(1))


def require_same_scan(scan: Volume, source: SourceSeries) -> None:
    """Refuse a series that is not, voxel by voxel, the scan that was explained; axes may run another way.

    Raises
    ------
    ScanError, GeometryError
    """
    series = source.volume
    if not resampling_is_exact(scan, series.grid) or sorted(scan.grid.shape) != sorted(series.grid.shape):
        raise GeometryError(
            f"The series is not the scan that was explained: it has {series.grid.describe()}, that one "
            f"{scan.grid.describe()} (or lies elsewhere). Give the series that was loaded."
        )
    turned = resample(scan, series.grid)
    differing = int(np.count_nonzero(turned.array.astype(np.float32) != series.array.astype(np.float32)))
    if differing:
        raise ScanError(
            f"The series is not the scan that was explained: {differing} of {series.array.size} voxels differ. Was the "
            "scan edited after it was loaded? Then explain it as it is in the archive."
        )


def export_dicom(
    answer: Answer,
    scan: Volume,
    source: SourceSeries,
    folder: str | os.PathLike[str],
    *,
    figure: bytes | None = None,
    place: Place | None = None,
    monitor: Monitor | None = None,
) -> Exported:
    """Write heatmaps, regions, tables and figure of an answer as DICOM objects that belong to the series' study.

    They carry the patient's name and number, as the series does. The folder appears only when it is complete.

    Parameters
    ----------
    answer : Answer
    scan : Volume
        The scan that was explained, as it was acquired.
    source : SourceSeries
        From :func:`~.reading.dicom_source.read_source`.
    folder : path-like
        Must not exist.
    figure : bytes, optional
        PNG; without it there is no Secondary Capture.
    place : Place, optional
        From :func:`check_dicom_folder` before the computation.
    monitor : Monitor, optional

    Raises
    ------
    ScanError, GeometryError
        The series is not the scan that was explained.
    UsageError
        The maps are on the network's grid, and not where the scan is.
    OutputError
        The folder exists or cannot be written; highdicom is missing.
    """
    monitor = monitor or Monitor()
    place = check_dicom_folder(folder) if place is None else place
    if answer.provenance.get("space") == "model":
        raise _elsewhere(answer.maps[0].volume if answer.maps else answer.scan, "the network's grid", source)
    require_same_scan(scan, source)
    volumes = [_on_series(found.volume, source) for found in answer.maps]
    with quiet(), writing(place) as unfinished:
        context = make_context(source, answer.provenance.get("software", {}))
        written, notes = [], list(context.notes)
        for name, made in _objects(answer, context, volumes, figure, notes, monitor):
            if "ContentSequence" not in made:
                made.BodyPartExamined = "BRAIN"  # which is not paired, so that no laterality has to be said
            made.save_as(unfinished / name, enforce_file_format=True)
            written.append(name)
    return Exported(Path(folder), tuple(written), tuple(notes))


def _on_series(volume: Volume, source: SourceSeries) -> Volume:
    """A map on the grid of the series: voxels are copied, none is interpolated."""
    grid = source.volume.grid
    if not resampling_is_exact(volume, grid) or sorted(volume.grid.shape) != sorted(grid.shape):
        raise _elsewhere(volume, "another grid", source)
    return resample(volume, grid)


def _elsewhere(volume: Volume, where: str, source: SourceSeries) -> UsageError:
    return UsageError(
        f"The maps are on {where} ({volume.grid.describe()}), not on that of the series "
        f"({source.volume.grid.describe()}), and numbers in a patient's study must be those of the result. Explain the "
        "scan with its result on the scan itself: --registration affine --space native (in 3D Slicer: result on the "
        "scan)."
    )


def _objects(
    answer: Answer,
    context: Context,
    volumes: list[Volume],
    figure: bytes | None,
    notes: list[str],
    monitor: Monitor,
) -> Iterator[tuple[str, Dataset]]:
    """File names and objects, one after the other, so that only one large one is in memory beside the regions."""
    segmentation, regions = None, _regions(answer, notes)
    if regions and answer.atlas is not None:
        monitor.report(0.1, "writing the regions as DICOM")
        labels = _on_series(answer.atlas.labels, context.source)
        segmentation = make_segmentation(context, answer.atlas, regions, labels, 1)
        yield SEGMENTATION_FILE, segmentation
    number = 2
    for place, (found, volume) in enumerate(zip(answer.maps, volumes, strict=True), start=1):
        monitor.report(0.3 + 0.6 * place / len(volumes), f"writing {found.name} as DICOM")
        described, name = describe_map(answer, found), _file_part(place, found.name)
        heatmap = make_parametric_map(context, described, volume, number)
        yield MAP_FILE.format(name), heatmap
        number += 1
        if segmentation is not None and found.table is not None:
            report = make_measurement_report(context, described, found.table, regions, heatmap, segmentation, number)
            yield REPORT_FILE.format(name), report
            number += 1
    if figure is None:
        notes.append("There is no figure, and so no Secondary Capture.")
    else:
        yield FIGURE_FILE, make_secondary_capture(context, figure, number)
    monitor.report(1.0, "written")


def _file_part(place: int, name: str) -> str:
    """Of a file's name: only what is harmless everywhere."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{place}-{plain}" if plain else str(place)


def _regions(answer: Answer, notes: list[str]) -> tuple[Region, ...]:
    """Those of the tables, in the atlas's order; none where there is no atlas to outline them.

    Raises
    ------
    OutputError
        Tables and atlas do not belong together.
    """
    if answer.atlas is None:
        notes += [str(note) for note in answer.provenance.get("notes", ()) if "outlined" in str(note)] or [
            "There is no atlas, and so neither regions nor measurements."
        ]
        return ()
    counts = np.bincount(answer.atlas.labels.array.ravel())
    found = tuple(r for r in answer.atlas.regions if r.label < counts.size and counts[r.label] > 0)
    for entry in answer.maps:
        if entry.table is not None:
            _require_belonging(entry.table, {region.label: int(counts[region.label]) for region in found}, entry.name)
    return found


def _require_belonging(table: RegionTable, voxels: dict[int, int], name: str) -> None:
    rows = {row["label"]: row["voxels"] for row in table.rows() if row["label"] != OUTSIDE_LABEL}
    differing = sorted(label for label in rows.keys() | voxels.keys() if rows.get(label) != voxels.get(label))
    if differing:
        label = differing[0]
        raise OutputError(
            f"The table of {name} was not computed from these regions: {len(differing)} of {len(voxels)} have another "
            f"number of voxels (label {label}: {rows.get(label, 0)} in the table, {voxels.get(label, 0)} in the atlas)."
        )
