"""Many scans with one question: a folder or a list in, one result folder per scan and a summary table out.

It can be interrupted at any time and started again: what is complete is not computed twice. A scan that fails is
reported in its row and does not stop the others.
"""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ADAttributionLogic.answer_spread import spread_of
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.errors import ADAttributionError, Cancelled, OutputError, ScanError
from ADAttributionLogic.explain import Explanation, MethodRequest, explain
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.provenance import describe_atlas, describe_model
from ADAttributionLogic.report.result_folder import SceneWriter, write_explanation
from ADAttributionLogic.report.result_places import PROVENANCE_FILE, SUMMARY_FILE
from ADAttributionLogic.scan_files import ITK_SUFFIXES, NIBABEL_SUFFIXES, file_suffix, read_scan
from ADAttributionLogic.volume import Volume

QUESTION_FILE = "batch.json"
LOG_FILE = "failures.log"
KIND = "ad-attribution/batch/1"

#: Columns before those of the classes and methods.
_COLUMNS = ("name", "scan", "status", "message", "explained_class", "predicted_class", "seconds", "folder")


@dataclass(frozen=True)
class BatchScan:
    """A scan on the list.

    Attributes
    ----------
    name : str
        Name of its result folder, unique in the batch.
    path : Path
    """

    name: str
    path: Path


@dataclass(frozen=True)
class BatchOptions:
    """What is asked of every scan; see :func:`ADAttributionLogic.explain.explain`.

    With a `preparation` every scan is registered first (see :func:`~.explain_native.explain_native`); one that does not
    pass the quality checks is a failed scan, with the numbers in its row, unless the preparation accepts it.
    """

    methods: Sequence[MethodRequest]
    target: str | int = "positive"
    start: str | None = None
    start_reference: float | None = None
    member_sd: bool = False
    device: str = "auto"
    replace_non_finite: float | None = None
    figure: bool = True
    preparation: Preparation | None = None


@dataclass
class BatchResult:
    """How a batch ended.

    Attributes
    ----------
    summary : Path
        CSV, one row per scan.
    done, failed, kept : int
        Scans computed now, failed now, and complete from before.
    rows : list of dict
    """

    summary: Path
    done: int = 0
    failed: int = 0
    kept: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def find_scans(source: str | os.PathLike[str]) -> tuple[BatchScan, ...]:
    """List the scans of a folder (with its subfolders) or of a CSV file.

    Parameters
    ----------
    source : path-like
        A folder with NIfTI, MGH, NRRD or MetaImage files, or a CSV with a column ``scan`` (paths of files or of DICOM
        folders, relative to the CSV) and optionally ``name``.

    Raises
    ------
    ScanError
        Neither, or nothing in it.
    """
    path = Path(source)
    if path.is_dir():
        scans = _scans_in_folder(path)
    elif path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        scans = _scans_in_list(path)
    else:
        raise ScanError(f"{path} is neither a folder nor a CSV file with a column 'scan'.")
    if not scans:
        raise ScanError(f"{path} names no scan. Known files: {', '.join(NIBABEL_SUFFIXES + ITK_SUFFIXES)}.")
    return _with_unique_names(scans)


def _scans_in_folder(folder: Path) -> list[BatchScan]:
    scans = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        suffix = file_suffix(path, NIBABEL_SUFFIXES + ITK_SUFFIXES)
        if path.is_file() and suffix and not any(part.startswith(".") for part in relative.parts):
            scans.append(BatchScan(str(relative)[: -len(suffix)], path))
    return scans


def _scans_in_list(file: Path) -> list[BatchScan]:
    with open(file, newline="", encoding="utf-8-sig") as text:
        rows = list(csv.DictReader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
    scans = []
    for number, row in enumerate(rows, start=2):
        given = (row.get("scan") or "").strip()
        if not given:
            raise ScanError(f"{file}, line {number}: the column 'scan' is {'empty' if 'scan' in row else 'missing'}.")
        path = file.parent / given
        suffix = file_suffix(path, NIBABEL_SUFFIXES + ITK_SUFFIXES)
        scans.append(BatchScan((row.get("name") or "").strip() or path.name[: len(path.name) - len(suffix)], path))
    return scans


def _with_unique_names(scans: Sequence[BatchScan]) -> tuple[BatchScan, ...]:
    """Names as folder names, on every system; equal ones get a number."""
    taken: set[str] = set()
    unique = []
    for scan in scans:
        name = re.sub(r"[^\w.+-]+", "_", scan.name, flags=re.ASCII).strip("._") or "scan"
        candidate, number = name, 2
        while candidate.lower() in taken:
            candidate, number = f"{name}-{number}", number + 1
        taken.add(candidate.lower())
        unique.append(BatchScan(candidate, scan.path))
    return tuple(unique)


def explain_batch(
    scans: Sequence[BatchScan],
    model: Model,
    options: BatchOptions,
    out: str | os.PathLike[str],
    *,
    atlas: Atlas | None = None,
    scene_writer: SceneWriter | None = None,
    monitor: Monitor | None = None,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
) -> BatchResult:
    """Explain every scan, and write the summary after each.

    Parameters
    ----------
    scans : sequence of BatchScan
        From :func:`find_scans`.
    model : Model
    options : BatchOptions
    out : path-like
        Folder: new, or of an earlier, interrupted batch with the same question.
    atlas : Atlas, optional
    scene_writer : callable, optional
        Writes a Slicer scene per scan.
    monitor : Monitor, optional
        Progress over all scans; cancellation leaves what is complete.
    on_row : callable, optional
        Called with each row of the summary as soon as it is known.

    Raises
    ------
    OutputError
        The folder holds something else, or answers to another question.
    Cancelled
    """
    folder = Path(out)
    _claim(folder, _question(model, options, atlas))
    monitor = monitor or Monitor()
    result = BatchResult(folder / SUMMARY_FILE)
    for number, scan in enumerate(scans):
        with monitor.stage(number / len(scans), (number + 1) / len(scans)) as part:
            part.report(0.0, f"{scan.name}, scan {number + 1} of {len(scans)}")
            row = _one_scan(scan, model, options, folder, atlas, scene_writer, part)
        result.rows.append(row)
        counted = {"done": "done", "failed": "failed"}.get(row["status"], "kept")
        setattr(result, counted, getattr(result, counted) + 1)
        _write_summary(result)
        if on_row is not None:
            on_row(row)
    return result


def _one_scan(
    scan: BatchScan,
    model: Model,
    options: BatchOptions,
    folder: Path,
    atlas: Atlas | None,
    scene_writer: SceneWriter | None,
    monitor: Monitor,
) -> dict[str, Any]:
    target = folder / scan.name
    if (target / PROVENANCE_FILE).is_file():
        return _row_from_folder(scan, target)
    try:
        with monitor.stage(0.0, 0.8) as part:
            found = _explain_one(read_scan(scan.path), model, options, atlas, part)
        # An unfinished explanation would look finished when the batch is resumed.
        monitor.check()
        with monitor.stage(0.8, 1.0) as part:
            write_explanation(found, target, figure=options.figure, scene_writer=scene_writer, monitor=part)
    except Cancelled:
        raise
    except (ADAttributionError, RuntimeError, MemoryError, OSError, ValueError) as error:
        # Whatever is wrong with one scan, the others are still to be done.
        with open(folder / LOG_FILE, "a", encoding="utf-8") as log:
            log.write(f"{scan.name} ({scan.path})\n{traceback.format_exc()}\n")
        return {**_empty_row(scan), "status": "failed", "message": str(error) or type(error).__name__}
    return _row(scan, target, "done", found.provenance, _best_regions(found))


def _explain_one(
    scan: Volume, model: Model, options: BatchOptions, atlas: Atlas | None, monitor: Monitor
) -> Explanation:
    common: dict[str, Any] = {
        "atlas": atlas,
        "target": options.target,
        "start": options.start,
        "start_reference": options.start_reference,
        "member_sd": options.member_sd,
        "device": options.device,
        "monitor": monitor,
    }
    asked = options.preparation
    if asked is None:
        return explain(scan, model, options.methods, replace_non_finite=options.replace_non_finite, **common)
    return explain_native(
        scan,
        model,
        options.methods,
        asked.options,
        space=asked.space,
        accept_quality=asked.accept_quality,
        **common,
    )


def _row(
    scan: BatchScan, target: Path, status: str, record: Mapping[str, Any], best: Mapping[str, str]
) -> dict[str, Any]:
    outcome = _outcome_of(record)
    return {
        **_empty_row(scan),
        "status": status,
        "message": " ".join(record["notes"]),
        "explained_class": record["target_class"],
        "predicted_class": outcome["verdict"],
        "seconds": record["seconds"],
        "folder": target.name,
        **_answer_columns(outcome, spread_of(record)),
        **{f"top region ({name})": region for name, region in best.items()},
    }


def _outcome_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the network said; results of version 0.1 have probabilities only."""
    if "outcome" in record:
        found: Mapping[str, Any] = record["outcome"]
        return found
    probabilities: Mapping[str, float] = record["probabilities"]
    verdict = max(probabilities, key=probabilities.__getitem__)
    return {"output": {"kind": "softmax"}, "values": probabilities, "verdict": verdict}


def _answer_columns(outcome: Mapping[str, Any], spread: Mapping[str, float]) -> dict[str, Any]:
    """The answer, ± its spread, then that of each network of an ensemble and how many agree; a score has its unit."""
    output, members = outcome["output"], outcome.get("members", ())
    unit = f" [{output['unit']}]" if output.get("unit") else ""

    def column(name: str) -> str:
        return f"{name}{unit}" if output["kind"] == "score" else f"P({name})"

    found: dict[str, Any] = {column(name): value for name, value in outcome["values"].items()}
    found |= {f"{column(name)} ±": value for name, value in spread.items()}
    if not members:
        return found
    for member in members:
        found |= {f"{column(name)} {member['name']}": value for name, value in member["values"].items()}
    return {**found, "networks agreeing": outcome["agreeing"], "networks": len(members)}


def _empty_row(scan: BatchScan) -> dict[str, Any]:
    return {**dict.fromkeys(_COLUMNS, ""), "name": scan.name, "scan": str(scan.path)}


def _best_regions(found: Explanation) -> dict[str, str]:
    tables = {h.name: h.table for h in found.heatmaps if h.table is not None}
    ranked = {name: table.ranked("density_rank") for name, table in tables.items()}
    return {name: str(rows[0]["name"]) if rows else "" for name, rows in ranked.items()}


def _row_from_folder(scan: BatchScan, target: Path) -> dict[str, Any]:
    """The row of a scan that an earlier start has completed."""
    try:
        record = json.loads((target / PROVENANCE_FILE).read_text(encoding="utf-8"))
        best = {}
        for name in record["methods"]:
            table = target / "tables" / f"{name}.json"
            if table.is_file():
                rows = json.loads(table.read_text(encoding="utf-8"))["rows"]
                best[name] = next((row["name"] for row in rows if row["density_rank"] == 1), "")
        return _row(scan, target, "done before", record, best)
    except (OSError, ValueError, KeyError) as cause:
        message = f"The earlier result in {target} cannot be read ({cause!r}). Remove it and start again."
        return {**_empty_row(scan), "status": "failed", "message": message, "folder": target.name}


def _question(model: Model, options: BatchOptions, atlas: Atlas | None) -> dict[str, Any]:
    described = describe_model(model)
    return {
        "kind": KIND,
        "model": {"name": described["name"], "weights_sha256": described["weights_sha256"]},
        "methods": [{"name": m.name, "options": dict(m.options)} for m in options.methods],
        "target": options.target,
        "start": options.start or ("score" if model.output.is_score else "probability"),
        "start_reference": options.start_reference,
        "member_sd": options.member_sd,
        "replace_non_finite": options.replace_non_finite,
        "preparation": None if options.preparation is None else options.preparation.describe(),
        "atlas": None if atlas is None else describe_atlas(atlas),
    }


def _claim(folder: Path, question: dict[str, Any]) -> None:
    """Take a new or empty folder, or go on in one that answers the same question."""
    mark = folder / QUESTION_FILE
    if mark.is_file():
        earlier = json.loads(mark.read_text(encoding="utf-8"))
        different = [key for key in question if earlier.get(key) != question[key]]
        if different:
            raise OutputError(
                f"{folder} holds a batch with another {', '.join(different)}; the results cannot be mixed. Choose "
                "another folder, or ask the same as before."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is no batch of this program; nothing is overwritten. Choose another.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps(question, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as cause:
        raise OutputError(f"{folder} cannot be written: {cause}") from cause


def _write_summary(result: BatchResult) -> None:
    """Replace the summary in one step, so that it is whole at any moment."""
    columns = list(_COLUMNS)
    for row in result.rows:
        columns += [name for name in row if name not in columns]
    folder = result.summary.parent
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=folder, prefix=".summary-", newline="", encoding="utf-8", delete=False
        ) as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(result.rows)
        os.replace(file.name, result.summary)
    except OSError as cause:
        raise OutputError(f"{result.summary} cannot be written: {cause}. Is it open in another program?") from cause
