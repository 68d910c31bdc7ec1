"""Derivatives as the folder of a batch again, so that everything that reads batches reads them."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ADAttributionLogic.bids.publishing import Published
from ADAttributionLogic.bids.sidecars import document
from ADAttributionLogic.errors import CohortError
from ADAttributionLogic.networks.packages import file_sha256
from ADAttributionLogic.relevance.columns import ALL_COLUMNS
from ADAttributionLogic.report.placing import damaged
from ADAttributionLogic.report.result_places import KIND, PREPROCESSING_FOLDER, PROVENANCE_FILE

#: Of a result, what statistics of many need.
_NEEDED = ("heatmaps/", "tables/", f"{PREPROCESSING_FOLDER}/brain.nii.gz")


def restore(published: Published, folder: Path, question: Mapping[str, Any]) -> Path:
    """Maps, tables and provenance of a derivative as a result in the folder of a batch.

    Parameters
    ----------
    published : Published
    folder : Path
        New.
    question : mapping
        What the batch asks.

    Raises
    ------
    CohortError
        A file is missing or was changed since it was written.
    OSError
    """
    about, source = published.record["bids"], published.folder
    wanted = {file: name for file, name in about["files"].items() if file.startswith(_NEEDED)}
    broken = damaged(source, {name: about["sha256"][name] for name in wanted.values()})
    if broken:
        raise CohortError(f"{source / broken[0]} is missing or was changed since it was written.")
    for part in ("heatmaps", "tables", PREPROCESSING_FOLDER):
        (folder / part).mkdir(parents=True, mode=0o700)
    files = {}
    for file, name in wanted.items():
        if not file.startswith("tables/"):
            _take(source / name, folder / file)
            files[file] = about["sha256"][name]
    for map_, said in about["tables"].items():
        file = f"tables/{map_}.json"
        rows = _rows(source / wanted[f"tables/{map_}.tsv"])
        (folder / file).write_text(document({**said, "columns": {}, "rows": rows}), encoding="utf-8")
        files[file] = file_sha256(folder / file)
    record = {**published.record, "kind": KIND, "files": files}
    record["batch"] = {**published.record["batch"], "question": dict(question)}
    (folder / PROVENANCE_FILE).write_text(document(record), encoding="utf-8", errors="backslashreplace")
    return folder


def _take(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a region table, in their types."""
    kinds = {column.name: column.kind for column in ALL_COLUMNS}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [{name: _value(text, kinds.get(name, str)) for name, text in row.items()} for row in rows]


def _value(text: str, kind: type) -> Any:
    if text == "n/a" and kind is not str:
        return None
    # A text that begins like a formula was written with an apostrophe.
    return text.removeprefix("'") if kind is str else kind(text)
