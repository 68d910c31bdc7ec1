"""The participant level: every image that is meant is explained, and its derivatives appear as soon as it is.

What takes time is a batch in the working folder, which goes on where it stopped. An image whose derivatives are
complete, undamaged and answer the same question is not touched, whether or not the working folder is still there, so
that many processes can share the images of a dataset between them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions, differences, question_of
from ADAttributionLogic.bids.description import Dataset, check_dataset, claim_dataset
from ADAttributionLogic.bids.images import BidsImage
from ADAttributionLogic.bids.naming import folder_of
from ADAttributionLogic.bids.placing_files import finish_placing
from ADAttributionLogic.bids.publishing import publish, read_published
from ADAttributionLogic.bids.sidecars import document, source_uri
from ADAttributionLogic.bids.temporary_files import temporary_files_in
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.private_results import hide_in_record, hide_uids
from ADAttributionLogic.provenance import now, source_sha256, text_sha256
from ADAttributionLogic.report.placing import damaged
from ADAttributionLogic.whole_files import write_whole

LOGS_FOLDER = "logs"
#: In the output, where the user named none; hidden, as the standard knows no such folder.
WORK_FOLDER = ".work"
#: In a working folder that the user named: prepared scans.
_CACHE = "prepared"


@dataclass(frozen=True)
class Level:
    """What a run at the participant level is of.

    Attributes
    ----------
    raw, out : Path
    images : sequence of BidsImage
    model : Model
    options : BatchOptions
    atlas : Atlas or None
    work : Path or None
        Working folder; None for one in `out` that is gone afterwards.
    values : mapping of str to mapping
        By an image's path in the dataset, what is known of whom it shows (covariates).
    keeps_prepared : bool
        Keep prepared scans in `work`, for other questions.
    """

    raw: Path
    out: Path
    images: Sequence[BidsImage]
    model: Model
    options: BatchOptions
    atlas: Atlas | None = None
    work: Path | None = None
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    keeps_prepared: bool = True

    @property
    def dataset(self) -> Dataset:
        """Where derivatives go."""
        return Dataset(self.out, self.raw, self.question, self.model.title)

    @property
    def question(self) -> dict[str, Any]:
        """What is asked of every scan, without paths."""
        asked = question_of(self.model, self.options, self.atlas)
        found: dict[str, Any] = asked if self.options.keep_identifiers else hide_in_record(asked, "", "")
        return found


@dataclass(frozen=True)
class Planned:
    """An image, and what is to be done with it.

    Attributes
    ----------
    image : BidsImage
    is_done : bool
    because : str
        Why it is to be computed, where something was there or the scan is not.
    """

    image: BidsImage
    is_done: bool
    because: str = ""


@dataclass
class LevelResult:
    """How a run ended: images computed now, failed now, and complete from before."""

    done: int = 0
    failed: int = 0
    kept: int = 0


def plan_participants(level: Level) -> list[Planned]:
    """What is left to be done. Nothing is written.

    Raises
    ------
    OutputError
        The output holds something else.
    """
    check_dataset(level.dataset)
    question = level.question
    return [_planned(image, level, question) for image in level.images]


def explain_participants(
    level: Level,
    *,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
    monitor: Monitor | None = None,
    where: Callable[[int], Mapping[str, Any]] = lambda count: {},
) -> LevelResult:
    """Explain what is left to be done, and write its derivatives.

    Parameters
    ----------
    level : Level
    on_row : callable, optional
        Called with a row as of a batch's summary for each image.
    monitor : Monitor, optional
    where : callable, optional
        Of the number of scans to be computed, further arguments of :func:`~.batch.explain_batch`: the engine.

    Raises
    ------
    OutputError
        The output holds something else, or cannot be written.
    Cancelled
    """
    tell = on_row or (lambda row: None)
    claim_dataset(level.dataset)
    for folder in {level.out / folder_of(image) for image in level.images}:
        finish_placing(folder)
    result = LevelResult()
    todo: dict[str, Planned] = {}
    question = level.question
    for image in level.images:
        planned = _planned(image, level, question)
        if planned.is_done:
            result.kept += 1
            tell({"name": image.stem, "status": "done before", "message": ""})
        else:
            todo[image.stem] = planned
    if not todo:
        return result
    run = _run_folder(level, todo)
    take = _Taking(level, todo, run, result, tell)
    scans = [BatchScan(name, p.image.path, level.values.get(p.image.relative, {})) for name, p in todo.items()]
    with temporary_files_in(run) as temporary:
        cache = (level.work if level.work is not None and level.keeps_prepared else temporary) / _CACHE
        explain_batch(
            scans,
            level.model,
            replace(level.options, cache=cache),
            run / "results",
            atlas=level.atlas,
            monitor=monitor,
            on_row=take,
            **where(len(scans)),
        )
    if not result.failed:
        shutil.rmtree(run, ignore_errors=True)
        with contextlib.suppress(OSError):
            run.parent.rmdir()
    return result


@dataclass
class _Taking:
    """Takes up what became of each image."""

    level: Level
    todo: Mapping[str, Planned]
    run: Path
    result: LevelResult
    tell: Callable[[Mapping[str, Any]], None]

    def __call__(self, row: Mapping[str, Any]) -> None:
        planned = self.todo[str(row["name"])]
        message, status = str(row["message"]), str(row["status"])
        if status == "failed" and not planned.image.path.exists():
            message = planned.because
        if status != "failed":
            status, message = "done", " ".join(filter(None, (planned.because, message)))
            try:
                self._publish(self.run / "results" / str(row["folder"]), planned.image)
            except OutputError as refused:
                if isinstance(refused.__cause__, OSError):
                    raise
                status, message = "failed", str(refused)
        if status == "failed":
            self.result.failed += 1
        else:
            self.result.done += 1
        self._log(planned.image, status, message)
        self.tell({**row, "status": status, "message": message})

    def _publish(self, folder: Path, image: BidsImage) -> None:
        space = str(self.level.model.card.get("grid", {}).get("space", ""))
        publish(folder, image, self.level.out, space, self.level.options.keep_identifiers)

    def _log(self, image: BidsImage, status: str, message: str) -> None:
        """The reason of a failure, as long as it stands."""
        path = self.level.out / LOGS_FOLDER / f"{image.stem}_T1w.json"
        try:
            if status != "failed":
                path.unlink(missing_ok=True)
                return
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            about = {"scan": source_uri(image), "date": now(), "message": message}
            if not self.level.options.keep_identifiers:
                about["message"] = hide_uids(hide_in_record(message, str(image.path.absolute()), source_uri(image)))
            write_whole(path, document(about))
        except OSError as cause:
            raise OutputError(f"{path} cannot be written: {cause.strerror or cause}.") from cause


def failures_of(dataset: Path) -> dict[str, str]:
    """Reasons of the failures that stand, by the URI of the scan."""
    found = {}
    for path in sorted((dataset / LOGS_FOLDER).glob("*_T1w.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads(path.read_text(encoding="utf-8"))
            found[str(about["scan"])] = str(about["message"])
    return found


def _planned(image: BidsImage, level: Level, question: Mapping[str, Any]) -> Planned:
    earlier = read_published(image, level.out)
    if not image.path.exists():
        return Planned(image, False, _absent(image.path))
    if earlier is None:
        return Planned(image, False)
    stamp = earlier.record.get("batch", {})
    if stamp.get("scan_sha256") != source_sha256(image.path):
        return Planned(image, False, "The scan is another one than that of the derivatives that were here.")
    different = differences(stamp.get("question", {}), question)
    if different:
        return Planned(image, False, f"The derivatives that were here answered another {', '.join(different)}.")
    if level.options.adjusted and not _same_covariates(stamp, level.values.get(image.relative, {})):
        return Planned(image, False, "The derivatives that were here were adjusted for other covariates.")
    broken = damaged(earlier.folder, earlier.record["bids"]["sha256"])
    if broken:
        return Planned(image, False, f"The derivatives that were here were damaged ({', '.join(broken)}).")
    return Planned(image, True)


def _same_covariates(stamp: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    used: Mapping[str, str] = stamp.get("covariates", {})
    return all(values.get(name) == value for name, value in used.items())


def _absent(path: Path) -> str:
    """A file that DataLad knows of is a link into nowhere until it is fetched."""
    if path.is_symlink():
        return f"{path.name} is a link to a file that is not here; fetch it first (datalad get, git annex get)."
    return f"{path.name} is not there."


def _run_folder(level: Level, todo: Mapping[str, Planned]) -> Path:
    """Of the same images and the same question the same: what was interrupted goes on there."""
    digest = text_sha256([level.question, [image.relative for image in level.images]])[:12]
    work = level.out / WORK_FOLDER if level.work is None else level.work
    folder = work / f"ad-attribution-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as cause:
        raise OutputError(f"{folder} cannot be written: {cause.strerror or cause}.") from cause
    return folder
