"""Many scans with one question: a folder or a list in, one result folder per scan and a summary table out.

It can be interrupted at any time and started again: what is complete is not computed twice. A scan that fails is
reported in its row and does not stop the others. An engine (:mod:`~.engines`) says where scans are computed; shards of
a job array may write into one folder side by side, two runs may not.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.batch.one_scan import Asked, lost_row, row_on_disk
from ADAttributionLogic.batch.question import BatchOptions, claim, question_of, require_claimable
from ADAttributionLogic.batch.rows import write_summary
from ADAttributionLogic.batch.workers import STOP, TURNS, BatchOpening, HereOpening, Sources, task_of
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.engines.here import Here
from ADAttributionLogic.engines.shards import Shard
from ADAttributionLogic.engines.tasks import Engine, Listener, Outcome, no_listener
from ADAttributionLogic.errors import DiskError, RunningError, UsageError
from ADAttributionLogic.explain import require_comparable
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.page.index import write_index
from ADAttributionLogic.private_results import hide_in_question
from ADAttributionLogic.provenance import text_sha256
from ADAttributionLogic.report.placing import tidy_up
from ADAttributionLogic.report.result_folder import SceneWriter, earlier_result
from ADAttributionLogic.report.result_places import SUMMARY_FILE
from ADAttributionLogic.runs.disk import said
from ADAttributionLogic.runs.lock import RunLock, locks_in, refuse, waiting_lock
from ADAttributionLogic.runs.record import (
    LOCKS,
    RECORDS,
    SUMMARY_LOCK,
    Progress,
    Record,
    known_failures,
    lock_path,
    record_path,
)

#: Of the time that a batch takes, how much writing its summary again and again may take.
_SUMMARY_SHARE = 0.01


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


@dataclass
class _Run:
    """A batch, or a shard of one, while it runs."""

    asked: Asked
    scans: Sequence[BatchScan]
    share: Sequence[BatchScan]
    shard: Shard | None
    lock: RunLock
    record: Record
    result: BatchResult
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    due: float = 0.0

    def __post_init__(self) -> None:
        self.by_name = {scan.name: scan for scan in self.share}

    def take(self, outcome: Outcome) -> dict[str, Any]:
        """Take up what became of a scan.

        Raises
        ------
        DiskError
            Nothing can be written any more.
        """
        scan = self.by_name[outcome.task.key]
        if outcome.failure is not None:
            row = lost_row(scan, outcome.failure.message, self.asked.options)
        else:
            row = outcome.value
        if STOP in row:
            raise DiskError(row[STOP])
        if TURNS in row:
            place, turns = row.pop(TURNS)
            self.record.progress.on_device(place, turns)
        self.lock.require()
        self.rows[scan.name] = row
        counted = {"done": "done", "failed": "failed"}.get(row["status"], "kept")
        setattr(self.result, counted, getattr(self.result, counted) + 1)
        self.record.progress.count(row, outcome.peak_mb)
        with _writing(self.asked.folder):
            self.record.write(whether_due=True)
        self._summarise_if_due()
        return row

    def known_rows(self) -> list[dict[str, Any]]:
        """Of this share, in the order of the list."""
        return [self.rows[scan.name] for scan in self.share if scan.name in self.rows]

    def _summarise_if_due(self) -> None:
        """Shards write it at their end: each would have to read what all others have done."""
        started = time.monotonic()
        if self.shard is not None or started < self.due:
            return
        write_summary(self.result.summary, self.known_rows())
        now = time.monotonic()
        self.due = now + (now - started) / _SUMMARY_SHARE

    def summarise(self) -> None:
        """Write summary and index of all that is in the folder, also by other shards."""
        folder, asked = self.asked.folder, self.asked
        self.result.rows = self.known_rows()
        if self.shard is None:
            write_summary(self.result.summary, self.result.rows)
            if asked.options.page:
                write_index(folder, self.result.rows, asked.model.title)
            return
        # One after the other, so that the last one has seen what all have done.
        with _writing(folder), waiting_lock(folder / SUMMARY_LOCK):
            failed = known_failures(folder, [record_path(folder, str(self.shard))])
            rows = [self._row_of(scan, failed) for scan in self.scans]
            known = [row for row in rows if row is not None]
            write_summary(self.result.summary, known)
            if asked.options.page:
                write_index(folder, known, asked.model.title)

    def _row_of(self, scan: BatchScan, failed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        mine = self.rows.get(scan.name)
        if mine is not None:
            return mine
        found = row_on_disk(scan, self.asked)
        if found is None and scan.name in failed:
            return dict(failed[scan.name])
        return found

    def end(self, error: BaseException | None) -> None:
        """Note how it ended, and let go of the folder."""
        progress = self.record.progress
        progress.ended = time.time()
        progress.ending = "complete" if error is None else str(error) or type(error).__name__
        with contextlib.suppress(OSError):
            self.record.write()
        with contextlib.suppress(OSError):
            tidy_up(self.asked.folder)  # what workers that were ended had begun
        self.lock.close()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What a disk says of it, as a sentence."""
    try:
        yield
    except OSError as cause:
        raise said(folder, cause.errno) from cause


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
    engine: Engine | None = None,
    sources: Sources | None = None,
    shard: Shard | None = None,
    listener: Listener = no_listener,
    on_progress: Callable[[Progress], None] | None = None,
) -> BatchResult:
    """Explain every scan, and write the summary again and again.

    Parameters
    ----------
    scans : sequence of BatchScan
        From :func:`find_scans`; of shards, the whole list.
    model : Model
    options : BatchOptions
    out : path-like
        Folder: new, or of an earlier, interrupted batch with the same question.
    atlas : Atlas, optional
    scene_writer : callable, optional
        Writes a Slicer scene per scan; in this process only.
    monitor : Monitor, optional
        Progress over all scans; cancellation leaves what is complete.
    on_row : callable, optional
        Called with each row of the summary as soon as it is known, in the order in which scans are done.
    engine : Engine, optional
        Where scans are computed; by default in this process.
    sources : Sources, optional
        From where workers read network and atlas; needed by engines with processes of their own.
    shard : Shard, optional
        Compute only this share of the scans. The summary holds what all shards have done so far.
    listener : callable, optional
        Hears what the engine does meanwhile.
    on_progress : callable, optional
        Called with the progress at the beginning and after each scan.

    Returns
    -------
    BatchResult
        Of a shard, its own share.

    Raises
    ------
    OutputError
        The folder holds something else, or answers to another question.
    ReferenceCohortError, UsageError
        Nothing can be compared with the reference: it was asked otherwise, or does not say what is to be adjusted for.
    RunningError
        Another run that lives writes into it.
    DiskError
        The disk is full, or cannot be written; what is complete is kept.
    EngineError
        The workers cannot begin, or are gone.
    Cancelled
    """
    folder = Path(out)
    if options.adjusted and (options.against is None or options.against.reference.covariates is None):
        raise UsageError("Nothing can be adjusted: there is no reference, or it was built without covariates.")
    computes_here = engine is None or isinstance(engine, Here)
    if not computes_here and (sources is None or scene_writer is not None):
        raise UsageError("Workers need to be told from where they read the network (sources), and write no scenes.")
    _require_comparable(model, options, atlas)
    engine = engine or Here()
    question = question_of(model, options, atlas)
    question = hide_in_question(question, atlas) if options.private else question
    scans = [replace(scan, path=scan.path.absolute()) for scan in scans]
    asked = Asked(model, options, atlas, question, folder, scene_writer, engine.describe())
    run = _begin(asked, scans, shard)
    opening = HereOpening(asked) if sources is None or computes_here else BatchOpening.of(asked, sources)
    try:
        if on_progress is not None:
            on_progress(run.record.progress)
        outcomes = engine.run([task_of(scan) for scan in run.share], opening, monitor=monitor, listener=listener)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                row = run.take(outcome)
                if on_row is not None:
                    on_row(row)
                if on_progress is not None:
                    on_progress(run.record.progress)
        run.summarise()
    except BaseException as error:
        if not isinstance(error, DiskError | RunningError):
            with contextlib.suppress(Exception):
                run.summarise()
        run.end(error)
        raise
    run.end(None)
    return run.result


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


def _begin(asked: Asked, scans: Sequence[BatchScan], shard: Shard | None) -> _Run:
    """Take the folder."""
    folder, name = asked.folder, "" if shard is None else str(shard)
    require_claimable(folder, asked.question)
    plan = text_sha256([dict(asked.question), [scan.name for scan in scans], 0 if shard is None else shard.count])
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tidy_up(folder)
        lock = RunLock(lock_path(folder, name), {"plan": plan, "shard": name})
    try:
        for held in locks_in(folder, LOCKS):
            if held.path != lock.path and (shard is None or held.about.get("plan") != plan):
                raise refuse(held, f" (shard {held.about['shard']})" if held.about.get("shard") else "")
        claim(folder, asked.question)
        if shard is None:
            for path in set(folder.glob(RECORDS)) - {record_path(folder)}:
                path.unlink()  # of shards that were here before
        share = list(scans) if shard is None else shard.of(scans)
        record = Record(folder, Progress(len(share), name, dict(asked.engine)))
        with _writing(folder):
            record.write()
    except BaseException:
        lock.close()
        raise
    return _Run(asked, scans, share, shard, lock, record, BatchResult(folder / SUMMARY_FILE))


def count_open(scans: Sequence[BatchScan], out: str | os.PathLike[str]) -> int:
    """About how many scans are left to be computed: those without a result."""
    return sum(earlier_result(Path(out) / scan.name) is None for scan in scans)
