"""Many scans with one question: a folder or a list in, one result folder per scan and a summary table out.

It can be interrupted at any time and started again: what is complete is not computed twice. A scan that fails is
reported in its row and does not stop the others.
"""

from __future__ import annotations

import csv
import io
import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.answer_spread import spread_of
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.batch_list import BatchScan, find_scans
from ADAttributionLogic.batch_question import claim, differences, question_of, write_whole
from ADAttributionLogic.checked_explanation import CheckRequest
from ADAttributionLogic.checks.findings import KEY, read_checks
from ADAttributionLogic.comparison.comparing import Against
from ADAttributionLogic.errors import Cancelled, OutputError, ScanError, UsageError, sentence_of
from ADAttributionLogic.explain import Explanation, MethodRequest, explain, require_comparable
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.page.index import write_index
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.private_results import (
    hide_in_question,
    hide_paths,
    hide_uids,
    private_name,
    with_identifiers,
    without_names,
)
from ADAttributionLogic.provenance import source_sha256
from ADAttributionLogic.report.placing import damaged, tidy_up
from ADAttributionLogic.report.result_folder import (
    SceneWriter,
    check_output_folder,
    earlier_result,
    write_explanation,
)
from ADAttributionLogic.report.result_places import SUMMARY_FILE
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.spreadsheet_cells import plain_cell
from ADAttributionLogic.volume import Volume

__all__ = ["BatchOptions", "BatchResult", "BatchScan", "explain_batch", "find_scans"]

LOG_FILE = "failures.log"

#: Columns before those of the classes and methods.
_COLUMNS = (
    "name",
    "scan",
    "status",
    "message",
    "explained_class",
    "predicted_class",
    "looks_registered",
    "seconds",
    "folder",
)


@dataclass(frozen=True)
class BatchOptions:
    """What is asked of every scan; see :func:`ADAttributionLogic.explain.explain`.

    With a `preparation` every scan is registered first (see :func:`~.explain_native.explain_native`); one that does not
    pass the quality checks is a failed scan, with the numbers in its row, unless the preparation accepts it.

    Attributes
    ----------
    cache : Path, optional
        Folder of preprocessed scans; the user's cache folder by default.
    private : bool
        Results without paths and names: a scan and its folder are called by the hash of its file.
    against : Against, optional
        Controls to compare every scan with.
    adjusted : bool
        Adjust z for the reference's covariates, which each scan's row of the list must have.
    page : bool
        A report per scan and an ``index.html``, where what they need is installed.
    keep_identifiers : bool
        Reports name scans and paths.
    checks : CheckRequest, optional
        Whether each map can be believed: two columns per map in the summary.
    with_spread : bool
        Also how far the answer moves with the scan's placement: four forward passes more per scan.
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
    cache: Path | None = None
    private: bool = False
    against: Against | None = None
    adjusted: bool = False
    page: bool = True
    keep_identifiers: bool = False
    checks: CheckRequest | None = None
    with_spread: bool = True


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
    ReferenceCohortError, UsageError
        Nothing can be compared with the reference: it was asked otherwise, or does not say what is to be adjusted for.
    Cancelled
    """
    folder = Path(out)
    if options.adjusted and (options.against is None or options.against.reference.covariates is None):
        raise UsageError("Nothing can be adjusted: there is no reference, or it was built without covariates.")
    _require_comparable(model, options, atlas)
    question = question_of(model, options, atlas)
    question = hide_in_question(question, atlas) if options.private else question
    asked = _Asked(model, options, atlas, question, folder, scene_writer)
    tidy_up(folder)
    claim(folder, asked.question)
    monitor = monitor or Monitor()
    result = BatchResult(folder / SUMMARY_FILE)
    for number, scan in enumerate(scans):
        with monitor.stage(number / len(scans), (number + 1) / len(scans)) as part:
            part.report(0.0, f"{scan.name}, scan {number + 1} of {len(scans)}")
            row = _one_scan(scan, asked, part)
        result.rows.append(row)
        counted = {"done": "done", "failed": "failed"}.get(row["status"], "kept")
        setattr(result, counted, getattr(result, counted) + 1)
        _write_summary(result)
        if on_row is not None:
            on_row(row)
    if options.page:
        write_index(folder, result.rows, model.title)
    return result


def _require_comparable(model: Model, options: BatchOptions, atlas: Atlas | None) -> None:
    """Controls that were asked otherwise are no comparison for any scan: that is said once, and at once."""
    if options.against is None or model.grid is None:
        return
    asked: dict[str, Any] = {
        "target": options.target,
        "start": options.start,
        "start_reference": options.start_reference,
    }
    require_comparable(model, options.methods, options.against, model.grid, atlas=atlas, **asked)


@dataclass(frozen=True)
class _Asked:
    """What is the same for all scans."""

    model: Model
    options: BatchOptions
    atlas: Atlas | None
    question: Mapping[str, Any]
    folder: Path
    scene_writer: SceneWriter | None


def _one_scan(scan: BatchScan, asked: _Asked, monitor: Monitor) -> dict[str, Any]:
    """A scan's row; whatever is wrong with it, the others are still to be done."""
    try:
        sha256 = _hash_of(scan)
        if asked.options.private:
            scan = replace(scan, name=private_name(sha256))
        target = asked.folder / scan.name
        earlier = earlier_result(target)
        covariates = _covariates_of(scan, asked.options)
        because = "" if earlier is None else _why_not_kept(earlier, target, sha256, asked, covariates)
        if earlier is not None and not because:
            return _shown(_row_from_folder(scan, target, earlier), asked)
        return _shown(_computed(scan, sha256, asked, because, monitor), asked)
    except (Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # also what libraries written in Rust raise
        _write_log(scan, asked, error)
        return _shown({**_empty_row(scan), "status": "failed", "message": sentence_of(error)}, asked)


def _covariates_of(scan: BatchScan, options: BatchOptions) -> dict[str, str]:
    """What the scan's row says of the reference's covariates; what is missing is named when it is compared."""
    model = None if options.against is None else options.against.reference.covariates
    if model is None or not options.adjusted:
        return {}
    wanted = {name.lower() for name in model.names}
    found = {name: value for name, value in scan.values.items() if name.lower() in wanted}
    if not found:
        raise ScanError(f"The list says nothing of {', '.join(model.names)} of {scan.name}, for which z is adjusted.")
    return found


def _hash_of(scan: BatchScan) -> str:
    if not scan.path.exists():
        raise ScanError(f"{scan.path} does not exist.")
    return source_sha256(scan.path)


def _why_not_kept(
    earlier: Mapping[str, Any], target: Path, sha256: str, asked: _Asked, covariates: Mapping[str, str]
) -> str:
    """Why the earlier result in a scan's folder does not answer this question for this scan; "" when it does."""
    stamp = earlier.get("batch")
    if not isinstance(stamp, dict) or not isinstance(stamp.get("question"), dict):
        return "The result that was here did not say what it answers; it was computed again."
    if stamp.get("scan_sha256") != sha256:
        return "The scan is another one than that of the result that was here; it was computed again."
    if stamp.get("covariates", {}) != covariates:
        return "The result that was here was adjusted for other covariates; it was computed again."
    different = differences(stamp["question"], asked.question)
    if different:
        return f"The result that was here answered another {', '.join(different)}; it was computed again."
    broken = damaged(target, earlier.get("files", {}))
    return f"The result that was here was damaged ({', '.join(broken)}); it was computed again." if broken else ""


def _computed(scan: BatchScan, sha256: str, asked: _Asked, because: str, monitor: Monitor) -> dict[str, Any]:
    target = asked.folder / scan.name
    place = check_output_folder(target, overwrite=bool(because))
    with monitor.stage(0.0, 0.8) as part:
        options = asked.options
        if options.against is not None:
            options = replace(options, against=replace(options.against, covariates=_covariates_of(scan, options)))
        found = _explain_one(read_scan(scan.path), asked.model, options, asked.atlas, part)
    if _hash_of(scan) != sha256:
        raise ScanError(f"{scan.path} was changed while it was read; start again.")
    found = without_names(found) if asked.options.private else found
    found = with_identifiers(found) if asked.options.keep_identifiers else found
    notes = [*filter(None, (because,)), *found.provenance["notes"]]
    stamp = {"question": dict(asked.question), "scan_sha256": sha256}
    if asked.options.adjusted:
        stamp["covariates"] = _covariates_of(scan, asked.options)
    found = replace(found, provenance={**found.provenance, "notes": notes, "batch": stamp})
    # An unfinished explanation would look finished when the batch is resumed.
    monitor.check()
    with monitor.stage(0.8, 1.0) as part:
        write_explanation(
            found,
            target,
            place=place,
            figure=asked.options.figure,
            page=asked.options.page,
            keep_identifiers=asked.options.keep_identifiers,
            scene_writer=asked.scene_writer,
            monitor=part,
        )
    tables = {h.name: h.table.rows() for h in found.heatmaps if h.table is not None and not h.z_of}
    return _row(scan, target, "done", found.provenance, tables)


def _write_log(scan: BatchScan, asked: _Asked, error: BaseException) -> None:
    """The whole story of a failure, for those who mend it."""
    story = "".join(traceback.format_exception(error))
    if not asked.options.keep_identifiers:
        story = hide_uids(story)
    if asked.options.private:
        story = hide_paths(story, str(scan.path), scan.name)
    path = asked.folder / LOG_FILE
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(handle, "a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"{scan.name}{'' if asked.options.private else f' ({scan.path})'}\n{story}\n")
    except OSError as cause:
        raise OutputError(f"{path} cannot be written: {cause}") from cause


def _shown(row: dict[str, Any], asked: _Asked) -> dict[str, Any]:
    """Without the path, where results are private."""
    if not asked.options.keep_identifiers:
        row = {**row, "message": hide_uids(row["message"])}
    if not asked.options.private:
        return row
    return {**row, "scan": "", "message": hide_paths(row["message"], row["scan"], row["name"])}


def _explain_one(
    scan: Volume, model: Model, options: BatchOptions, atlas: Atlas | None, monitor: Monitor
) -> Explanation:
    common: dict[str, Any] = {
        "atlas": atlas,
        "target": options.target,
        "start": options.start,
        "start_reference": options.start_reference,
        "member_sd": options.member_sd,
        "against": options.against,
        "device": options.device,
        "checks": options.checks,
        "with_spread": options.with_spread,
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
        cache=options.cache,
        **common,
    )


def _row(
    scan: BatchScan,
    target: Path,
    status: str,
    record: Mapping[str, Any],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    best = {name: _first(rows, "density_rank") for name, rows in tables.items()}
    outcome = _outcome_of(record)
    return {
        **_empty_row(scan),
        "status": status,
        "message": " ".join(record["notes"]),
        "explained_class": record["target_class"],
        "predicted_class": outcome["verdict"],
        "looks_registered": _looks_registered(record),
        "seconds": record["seconds"],
        "folder": target.name,
        **_answer_columns(outcome, spread_of(record)),
        **{f"top region ({name})": row["name"] if row else "" for name, row in best.items()},
        **_comparison_columns(record, tables),
        **_check_columns(record),
    }


def _first(rows: Sequence[Mapping[str, Any]], rank: str) -> Mapping[str, Any] | None:
    return next((row for row in rows if row.get(rank) == 1), None)


def _comparison_columns(record: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Against controls: how many regions are beyond the limits, and which is the most unusual, adjusted or not."""
    found: dict[str, Any] = {}
    for name, entry in record.get("comparison", {}).get("maps", {}).items():
        if "beyond" not in entry:
            continue
        column = "z_adjusted" if "adjusted_limit" in entry else "z"
        top = _first(tables.get(name, ()), f"{column}_rank")
        kind = "adjusted z" if column == "z_adjusted" else "z"
        found[f"regions beyond the limits ({name})"] = entry["beyond"]["regions"]
        found[f"top region by {kind} ({name})"] = top["name"] if top else ""
        found[f"its {kind} ({name})"] = top[column] if top else ""
    return found


def _check_columns(record: Mapping[str, Any]) -> dict[str, str]:
    """Of each map that was checked, the verdict and which checks failed."""
    found = read_checks(record.get(KEY))
    columns: dict[str, str] = {}
    for checked in () if found is None else found.maps:
        columns[f"checks ({checked.map})"] = checked.verdict
        columns[f"failed checks ({checked.map})"] = " ".join(check.name for check in checked.failed)
    return columns


def _looks_registered(record: Mapping[str, Any]) -> str:
    """Whether the scan lies where the network needs it: its answer means nothing otherwise."""
    if "quality" in record:
        return "prepared" if record["quality"]["passed"] else "prepared, checks failed"
    look = record.get("looks_registered")
    return "unknown" if look is None else "yes" if look["looks_registered"] else "no"


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


def _row_from_folder(scan: BatchScan, target: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a scan that an earlier start has completed."""
    try:
        tables = {}
        for name in record["methods"]:
            table = target / "tables" / f"{name}.json"
            if table.is_file():
                tables[name] = json.loads(table.read_text(encoding="utf-8"))["rows"]
        return _row(scan, target, "done before", record, tables)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise OutputError(
            f"The earlier result in {target} cannot be read ({cause!r}). Remove it and start again."
        ) from cause


def _write_summary(result: BatchResult) -> None:
    """Replace the summary in one step, so that it is whole at any moment."""
    columns = list(_COLUMNS)
    for row in result.rows:
        columns += [name for name in row if name not in columns]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([plain_cell(name) for name in columns])
    writer.writerows([plain_cell(row.get(name, "")) for name in columns] for row in result.rows)
    try:
        write_whole(result.summary, table.getvalue())
    except OSError as cause:
        raise OutputError(f"{result.summary} cannot be written: {cause}. Is it open in another program?") from cause
