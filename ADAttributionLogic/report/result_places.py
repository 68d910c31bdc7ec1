"""Where results are: what their files are called, which folder is one, and which of a batch. Needs no torch."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from ADAttributionLogic.errors import UnknownNameError, UsageError

PROVENANCE_FILE = "provenance.json"
FIGURE_FILE = "overview.png"
REPORT_FILE = "report.html"
#: Of a batch.
INDEX_FILE = "index.html"
SCENE_FILE = "scene.mrb"
PREPROCESSING_FOLDER = "preprocessing"
CHECKS_FOLDER = "checks"
#: In the folder of the checks, of several maps: the mean of their ranks, and their standard deviation.
CONSENSUS_FILES = ("consensus.nii.gz", "disagreement.nii.gz")

#: Marks a folder as one that this program wrote, and may replace when told to overwrite.
KIND = "ad-attribution/explanation/1"

#: Of a batch: which scans there are, and how each ended.
SUMMARY_FILE = "summary.csv"
_DONE = ("done", "done before")


def find_result(path: str | os.PathLike[str], name: str | None = None) -> Path:
    """The folder of one result.

    Parameters
    ----------
    path : path-like
        The folder, a file in it (a heatmap, for example), the folder of a batch, or its ``summary.csv``.
    name : str, optional
        Which row of a batch's summary.

    Raises
    ------
    UsageError
        There is no result, a batch has several and none was named, or the named one failed.
    """
    place = Path(path)
    if not place.exists():
        raise UsageError(f"{place} does not exist.")
    folder = place if place.is_dir() else place.parent
    if not place.is_dir() and not (folder / PROVENANCE_FILE).is_file() and (folder.parent / PROVENANCE_FILE).is_file():
        folder = folder.parent
    if (folder / SUMMARY_FILE).is_file() and not (folder / PROVENANCE_FILE).is_file():
        return _row_of(folder, name)
    if name is not None:
        raise UsageError(f"{folder} is no batch: it has no {SUMMARY_FILE}, and so no row {name!r}.")
    if not (folder / PROVENANCE_FILE).is_file():
        raise UsageError(
            f"{folder} holds no result: there is no {PROVENANCE_FILE}. Choose a folder that 'ad-attribution explain' "
            f"or 'batch' wrote, or a batch's {SUMMARY_FILE}."
        )
    return folder


def batch_rows(path: str | os.PathLike[str]) -> dict[str, str]:
    """Names of the scans of a batch and how each ended (``done`` or the reason); empty for anything else."""
    place = Path(path)
    summary = (place if place.is_dir() else place.parent) / SUMMARY_FILE
    if not summary.is_file():
        return {}
    rows = read_summary(summary)
    return {row["name"]: "done" if row["status"] in _DONE else row["message"] or row["status"] for row in rows}


def summary_rows(folder: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a batch's summary; ``folder`` is "" in those of scans that failed.

    Raises
    ------
    UsageError
        The folder is no batch.
    """
    path = Path(folder) / SUMMARY_FILE
    if not path.is_file():
        raise UsageError(f"{folder} is no batch: it has no {SUMMARY_FILE}.")
    return [{**row, "folder": row["folder"] if row["status"] in _DONE else ""} for row in read_summary(path)]


def read_summary(path: Path) -> list[dict[str, str]]:
    """The rows of a batch's summary.

    Raises
    ------
    UsageError
        It cannot be read, or is none.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as cause:
        raise UsageError(f"{path} cannot be read: {cause}") from cause
    if any(None in (row.get("name"), row.get("status"), row.get("folder")) for row in rows):
        raise UsageError(f"{path} is no summary of a batch: it lacks the columns name, status or folder.")
    return rows


def _row_of(folder: Path, name: str | None) -> Path:
    rows = {row["name"]: row for row in read_summary(folder / SUMMARY_FILE)}
    done = [row["name"] for row in rows.values() if row["status"] in _DONE]
    if name is None and len(done) == 1:
        name = done[0]
    if name is None:
        raise UsageError(
            f"{folder} is a batch of {len(rows)} scans, {len(done)} of them done; say which one: {', '.join(done)}."
        )
    if name not in rows:
        raise UnknownNameError("scan in this batch", name, rows)
    row = rows[name]
    if row["status"] not in _DONE:
        raise UsageError(f"{name} has no result: {row.get('message') or row['status']}")
    return find_result(folder / row["folder"])
