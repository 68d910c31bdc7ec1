"""How large each region is in each subject: by a table, own segmentations, or the atlas carried onto the scan."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import CohortError, UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.study.material import Material

FloatArray = npt.NDArray[np.float64]

#: What is asked for instead of a file, where the atlas is to be carried onto each scan.
PROPAGATED = "propagated"


def asked_volumes(
    what: str | None, table: str | os.PathLike[str], material: Material, monitor: Monitor
) -> FloatArray | None:
    """Volumes as the command line asks for them.

    Parameters
    ----------
    what : str, optional
        A table's file, ``column:NAME`` of the cohort's table with own segmentations, or ``propagated``; None for none.
    table : path-like
        Of the cohort.
    material : Material
    monitor : Monitor

    Returns
    -------
    ndarray, shape (n, R), or None
        mm³.

    Raises
    ------
    CohortError, UsageError
    """
    if what is None:
        return None
    if what == PROPAGATED:
        return propagated_volumes(material, monitor)
    kind, colon, name = what.partition(":")
    if colon and kind == "column":
        return volumes_of_segmentations(name, table, material, monitor)
    return volumes_from_table(what, material)


def volumes_from_table(path: str | os.PathLike[str], material: Material) -> FloatArray:
    """Read volumes (mm³): one row per subject, one column per region, called as in the atlas.

    Parameters
    ----------
    path : path-like
        CSV or TSV with a column ``subject`` or ``participant_id``. Regions that it lacks are missing; columns that are
        no region are ignored.

    Returns
    -------
    ndarray, shape (n, R)
        NaN where the table says nothing.

    Raises
    ------
    CohortError
        No column is a region, a subject stands on two rows, or a cell is no number.
    """
    file = Path(path)
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            rows = list(csv.DictReader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as cause:
        raise CohortError(f"{file} cannot be read: {cause}") from cause
    header = list(rows[0]) if rows else []
    key = next((name for name in header if name.lower() in ("subject", "participant_id", "subject_id")), None)
    column_of = {_plain(name): name for name in header if name}
    regions = {n: column_of[_plain(name)] for n, name in enumerate(material.regions.name) if _plain(name) in column_of}
    if key is None or not regions:
        raise CohortError(
            f"{file} gives no volumes: it needs a column 'subject' and columns called like the regions, such as "
            f"{', '.join(material.regions.name[:3])}."
        )
    found = np.full((len(material.subjects), len(material.regions.name)), np.nan)
    by_subject: dict[str, Mapping[str, str]] = {}
    for row in rows:
        if row[key] in by_subject:
            raise CohortError(f"{file}: {row[key]} stands on two rows.")
        by_subject[row[key]] = row
    for number, subject in enumerate(material.subjects):
        for region, column in regions.items():
            cell = (by_subject.get(subject.subject, {}).get(column) or "").strip()
            found[number, region] = _number(cell, f"{file}: {column} of {subject.subject}")
    return found


def volumes_of_segmentations(
    column: str, table: str | os.PathLike[str], material: Material, monitor: Monitor
) -> FloatArray:
    """Count the labels of each subject's own segmentation, which has the atlas's labels.

    Parameters
    ----------
    column : str
        Of the cohort's table: paths of label maps, relative to the table; any space.
    table : path-like
    material : Material
    monitor : Monitor

    Returns
    -------
    ndarray, shape (n, R)
        mm³; NaN for subjects without one.

    Raises
    ------
    UsageError
        A segmentation has none of the atlas's labels.
    """
    found = np.full((len(material.subjects), len(material.regions.name)), np.nan)
    for number, text in enumerate(material.column(column)):
        monitor.report(number / len(material.subjects), "volumes of segmentations")
        if text:
            labels = read_scan(Path(table).parent / text)
            found[number] = _counted(labels.array, material, text) * labels.grid.voxel_volume_mm3
    return found


def propagated_volumes(material: Material, monitor: Monitor) -> FloatArray:
    """Volumes of the atlas's regions, carried onto each scan by the registration that prepared it.

    A deformable registration makes them follow the anatomy; of an affine one they only tell the size of the head.

    Raises
    ------
    UsageError
        The results were not prepared by this program (their scans were registered already), or the atlas is gone.
    """
    from ADAttributionLogic.registration.space_transform import resample_to_scan
    from ADAttributionLogic.report.result_reading import read_result

    found = np.full((len(material.subjects), len(material.regions.name)), np.nan)
    for number, path in material.sets[0].paths.items():
        monitor.report(number / len(material.subjects), "volumes of the atlas on each scan")
        folder = path.parent.parent
        answer, scan = read_result(folder)
        if answer.atlas is None:
            raise UsageError(f"{folder}: the atlas is not here any more. {' '.join(answer.provenance['notes'][-1:])}")
        if answer.preparation is None:
            raise UsageError(
                f"{folder} was not prepared here, so that no transform says how large its regions are on the scan; "
                "give volumes as a table or segmentations."
            )
        labels = resample_to_scan(answer.atlas.labels, answer.preparation.transform, scan.grid, "nearest")
        found[number] = _counted(labels.array, material, str(folder)) * scan.grid.voxel_volume_mm3
    return found


def _counted(labels: npt.NDArray[np.generic], material: Material, source: str) -> FloatArray:
    whole = np.rint(labels.astype(np.float64)).astype(np.int64)
    if (whole < 0).any():
        raise UsageError(f"{source} has negative labels; it is no segmentation.")
    wanted = np.array(material.regions.label)
    counts: FloatArray = np.bincount(whole.ravel(), minlength=int(wanted.max()) + 1)[wanted].astype(np.float64)
    if not counts.any():
        raise UsageError(f"{source} has none of the atlas's labels ({wanted[:5].tolist()} …).")
    return counts


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _number(text: str, where: str) -> float:
    if not text or text.lower() == "n/a":
        return math.nan
    try:
        value = float(text)
    except ValueError as cause:
        raise CohortError(f"{where} is {text!r}, which is no volume.") from cause
    if not (math.isfinite(value) and value >= 0):
        raise CohortError(f"{where} is {text!r}, which is no volume.")
    return value
