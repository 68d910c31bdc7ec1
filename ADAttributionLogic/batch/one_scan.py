"""One scan of a batch: explained, taken from an earlier start, or failed; each is a row."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.batch.question import BatchOptions, differences
from ADAttributionLogic.batch.rows import empty_row, row_from_folder, row_of
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.errors import Cancelled, OutputError, ScanError, sentence_of
from ADAttributionLogic.explain import Explanation, explain
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.private_results import (
    hide_paths,
    hide_uids,
    private_name,
    with_identifiers,
    without_names,
)
from ADAttributionLogic.provenance import source_sha256
from ADAttributionLogic.report.placing import damaged
from ADAttributionLogic.report.result_folder import (
    SceneWriter,
    check_output_folder,
    earlier_result,
    write_explanation,
)
from ADAttributionLogic.runs.disk import disk_error
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.volume import Volume

LOG_FILE = "failures.log"


@dataclass(frozen=True)
class Asked:
    """What is the same for all scans.

    Attributes
    ----------
    model : Model
    options : BatchOptions
    atlas : Atlas or None
    question : mapping
        What all results answer (:func:`~.question.question_of`).
    folder : Path
        Of the batch.
    scene_writer : callable or None
    engine : mapping
        What computes, for provenance.
    turn : callable
        Gives a context in which a device that several workers share is used.
    """

    model: Model
    options: BatchOptions
    atlas: Atlas | None
    question: Mapping[str, Any]
    folder: Path
    scene_writer: SceneWriter | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    turn: Callable[[], AbstractContextManager[object]] = nullcontext


def one_scan(scan: BatchScan, asked: Asked, monitor: Monitor) -> dict[str, Any]:
    """A scan's row; whatever is wrong with it, the others are still to be done.

    Raises
    ------
    DiskError
        Nothing can be written any more: then the others cannot be done either.
    Cancelled
    """
    try:
        sha256 = _hash_of(scan)
        if asked.options.private:
            scan = replace(scan, name=private_name(sha256))
        target = asked.folder / scan.name
        earlier = earlier_result(target)
        covariates = _covariates_of(scan, asked.options)
        because = "" if earlier is None else _why_not_kept(earlier, target, sha256, asked, covariates)
        if earlier is not None and not because:
            return shown_row(row_from_folder(scan, target, earlier), asked.options)
        try:
            return shown_row(_computed(scan, sha256, asked, because, monitor), asked.options)
        except OutputError:
            # A worker of a cluster may have gone on after its run had ended, and have finished it meanwhile.
            meanwhile = earlier_result(target)
            if meanwhile is None or _why_not_kept(meanwhile, target, sha256, asked, covariates):
                raise
            return shown_row(row_from_folder(scan, target, meanwhile), asked.options)
    except (Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # also what libraries written in Rust raise
        full = disk_error(asked.folder, error)
        if full is not None:
            raise full from error
        _write_log(scan, asked, error)
        return lost_row(scan, sentence_of(error), asked.options)


def shown_row(row: dict[str, Any], options: BatchOptions) -> dict[str, Any]:
    """Without what results must not tell: identifiers, and where they are private, the path."""
    if not options.keep_identifiers:
        row = {**row, "message": hide_uids(row["message"])}
    if not options.private:
        return row
    return {**row, "scan": "", "message": hide_paths(row["message"], row["scan"], row["name"])}


def lost_row(scan: BatchScan, message: str, options: BatchOptions) -> dict[str, Any]:
    """The row of a scan that nobody could compute."""
    return shown_row({**empty_row(scan), "status": "failed", "message": message}, options)


def row_on_disk(scan: BatchScan, asked: Asked) -> dict[str, Any] | None:
    """The row of a scan that has a result with this question, whoever computed it; None where there is none.

    The result's files are not held against their hashes: whoever computes the scan does that.
    """
    name = private_name(_hash_of(scan)) if asked.options.private and scan.path.exists() else scan.name
    earlier = earlier_result(asked.folder / name)
    if earlier is None or differences(earlier.get("batch", {}).get("question", {}), asked.question):
        return None
    named = replace(scan, name=name)
    return shown_row(row_from_folder(named, asked.folder / name, earlier), asked.options)


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
    earlier: Mapping[str, Any], target: Path, sha256: str, asked: Asked, covariates: Mapping[str, str]
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


def _computed(scan: BatchScan, sha256: str, asked: Asked, because: str, monitor: Monitor) -> dict[str, Any]:
    target = asked.folder / scan.name
    place = check_output_folder(target, overwrite=bool(because))
    with monitor.stage(0.0, 0.8) as part:
        options = asked.options
        if options.against is not None:
            options = replace(options, against=replace(options.against, covariates=_covariates_of(scan, options)))
        found = _explain_one(read_scan(scan.path), asked, options, part)
    if _hash_of(scan) != sha256:
        raise ScanError(f"{scan.path} was changed while it was read; start again.")
    found = without_names(found) if asked.options.private else found
    found = with_identifiers(found) if asked.options.keep_identifiers else found
    notes = [*filter(None, (because,)), *found.provenance["notes"]]
    stamp = {"question": dict(asked.question), "scan_sha256": sha256}
    if asked.options.adjusted:
        stamp["covariates"] = _covariates_of(scan, asked.options)
    engine = {"engine": dict(asked.engine)} if asked.engine else {}
    found = replace(found, provenance={**found.provenance, "notes": notes, "batch": stamp, **engine})
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
    return row_of(scan, target, "done", found.provenance, tables)


def _write_log(scan: BatchScan, asked: Asked, error: BaseException) -> None:
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


def _explain_one(scan: Volume, batch: Asked, options: BatchOptions, monitor: Monitor) -> Explanation:
    model = batch.model
    common: dict[str, Any] = {
        "atlas": batch.atlas,
        "target": options.target,
        "start": options.start,
        "start_reference": options.start_reference,
        "member_sd": options.member_sd,
        "against": options.against,
        "device": options.device,
        "checks": options.checks,
        "with_spread": options.with_spread,
        "turn": batch.turn,
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
