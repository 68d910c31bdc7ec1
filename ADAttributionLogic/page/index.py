"""The page of many scans: a line per scan, with its answer and a link to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ADAttributionLogic import __version__
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.page.assembly import can_make_pages, content_policy
from ADAttributionLogic.provenance import NOTICE
from ADAttributionLogic.report.result_places import INDEX_FILE, REPORT_FILE
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.whole_files import write_whole

#: What a row of the summary holds beside answers.
_SHOWN_ELSEWHERE = ("name", "scan", "status", "message", "folder", "report", "seconds", "explained_class")


@dataclass(frozen=True)
class IndexLink:
    """Something else that was made of the scans.

    Attributes
    ----------
    title : str
    target : str
        Relative to the page.
    is_there : bool
    """

    title: str
    target: str
    is_there: bool = True


def write_index(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    title: str,
    links: Sequence[IndexLink] = (),
    notes: Sequence[str] = (),
) -> Path | None:
    """Write ``index.html`` into the folder of a batch.

    Parameters
    ----------
    folder : Path
    rows : sequence of mapping
        Of the summary; their ``report`` is a link, where it is not that in the scan's folder.
    title : str
        Of the network.
    links : sequence of IndexLink
    notes : sequence of str

    Returns
    -------
    Path or None
        None where what a page needs is not installed.

    Raises
    ------
    OutputError
    """
    if can_make_pages():
        return None
    try:
        write_whole(folder / INDEX_FILE, build_index(folder, rows, title, links, notes))
    except OSError as cause:
        raise OutputError(f"{folder / INDEX_FILE} cannot be written: {cause.strerror or cause}.") from cause
    return folder / INDEX_FILE


def build_index(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    title: str,
    links: Sequence[IndexLink] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page as text; a scan without a report has no link."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    place = resources_folder() / "Report"
    style = (place / "report.css").read_text(encoding="utf-8")
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in _SHOWN_ELSEWHERE))
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (place / "index.html").read_text(encoding="utf-8")
    )
    return template.render(
        policy=Markup(content_policy(style, [])),  # noqa: S704 (of hashes)
        style=Markup(style),  # noqa: S704 (ours)
        title=title,
        notice=NOTICE,
        version=__version__,
        columns=columns,
        links=[link for link in links if link.is_there],
        notes=notes,
        rows=[
            {
                "name": str(row["name"]),
                "link": quote(str(row["report"])) if row.get("report") else _link(folder, str(row.get("folder", ""))),
                "status": str(row["status"]),
                "failed": row["status"] == "failed",
                "cells": [_text(row.get(column, "")) for column in columns],
                "message": str(row["message"]),
            }
            for row in rows
        ],
    )


def _link(folder: Path, name: str) -> str:
    """Relative, whatever the folder is called."""
    return f"./{quote(name)}/{REPORT_FILE}" if name and (folder / name / REPORT_FILE).is_file() else ""


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
