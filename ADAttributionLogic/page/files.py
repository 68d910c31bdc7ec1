"""Pages as files: beside a result that is there already, or wherever the user says."""

from __future__ import annotations

import os
from pathlib import Path

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.networks.packages import file_sha256
from ADAttributionLogic.page.assembly import build_page, can_make_pages
from ADAttributionLogic.page.index import write_index
from ADAttributionLogic.report.overview import overview_png
from ADAttributionLogic.report.placing import read_marked
from ADAttributionLogic.report.result_folder import document_text
from ADAttributionLogic.report.result_places import (
    FIGURE_FILE,
    KIND,
    PROVENANCE_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    read_summary,
)
from ADAttributionLogic.report.result_reading import read_result
from ADAttributionLogic.service.answer import Answer
from ADAttributionLogic.volume import Volume
from ADAttributionLogic.whole_files import write_whole


def write_page(
    answer: Answer,
    path: str | os.PathLike[str],
    figure: bytes | None = None,
    *,
    keep_identifiers: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write an answer as one HTML file, in one step and for its owner only.

    Parameters
    ----------
    answer : Answer
    path : path-like
    figure : bytes, optional
        The overview as PNG; drawn where it is not given.
    keep_identifiers : bool
        Name the scan and its path.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    OutputError
        The file exists, its folder cannot be written, or what a page needs is not installed.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name, or say --overwrite.")
    if not target.parent.is_dir():
        raise OutputError(f"The folder {target.parent} does not exist.")
    page = build_page(answer, figure or overview_png(answer), keep_identifiers=keep_identifiers)
    try:
        write_whole(target, page)
    except OSError as cause:
        raise OutputError(f"{target} cannot be written: {cause.strerror or cause}.") from cause
    return target


def write_page_of_result(
    folder: Path,
    out: Path | None = None,
    *,
    scan: Volume | None = None,
    keep_identifiers: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the page of a result that is there; inside its folder it becomes one of the result's files.

    Parameters
    ----------
    folder : Path
        Of the result.
    out : Path, optional
        ``report.html`` in the folder by default.
    scan : Volume, optional
        The scan that was explained, where it is not any more what the provenance names.
    keep_identifiers, overwrite : bool
        As for :func:`write_page`.

    Raises
    ------
    UsageError, ScanError
        As :func:`~.report.result_reading.read_result`.
    OutputError
        As :func:`write_page`.
    """
    target = folder / REPORT_FILE if out is None else out
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name, or say --overwrite.")
    answer, _ = read_result(folder, scan)
    figure = folder / FIGURE_FILE
    overview = figure.read_bytes() if figure.is_file() else None
    written = write_page(answer, target, overview, keep_identifiers=keep_identifiers, overwrite=overwrite)
    if target == folder / REPORT_FILE:
        _note_file(folder)
    return written


def write_pages_of_batch(folder: Path, *, keep_identifiers: bool = False, overwrite: bool = False) -> Path:
    """Write the page of every scan of a batch that has a result, and the page that lists them.

    Raises
    ------
    UsageError, ScanError, OutputError
        As :func:`write_page_of_result`; without `overwrite`, pages that are there are kept.
    """
    rows = read_summary(folder / SUMMARY_FILE)
    title = "a network"
    for row in rows:
        place = folder / row["folder"] if row["folder"] else None
        if place is None or not (place / PROVENANCE_FILE).is_file() or place.parent != folder:
            continue
        record = read_marked(place / PROVENANCE_FILE, KIND) or {}
        title = str(record.get("model", {}).get("title", title))
        if overwrite or not (place / REPORT_FILE).exists():
            write_page_of_result(place, keep_identifiers=keep_identifiers, overwrite=overwrite)
    written = write_index(folder, rows, title)
    if written is None:
        raise OutputError(can_make_pages())
    return written


def _note_file(folder: Path) -> None:
    """The list of what belongs to a result says what may be replaced with it."""
    record = read_marked(folder / PROVENANCE_FILE, KIND)
    if record is None or not isinstance(record.get("files"), dict):
        return
    files = {**record["files"], REPORT_FILE: file_sha256(folder / REPORT_FILE)}
    try:
        write_whole(folder / PROVENANCE_FILE, document_text({**record, "files": dict(sorted(files.items()))}))
    except OSError as cause:
        raise OutputError(f"{folder / PROVENANCE_FILE} cannot be written: {cause.strerror or cause}.") from cause
