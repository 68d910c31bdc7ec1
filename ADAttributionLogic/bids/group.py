"""The group level: a reference of the controls, a comparison of groups and one report, of what derivatives there are.

Nothing is explained anew. What cannot be made of them (too few controls, nobody's diagnosis) is said, and the rest is
made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import QUESTION_FILE, differences, question_of
from ADAttributionLogic.bids.cohort import cohort_from_bids
from ADAttributionLogic.bids.description import check_dataset, claim_dataset
from ADAttributionLogic.bids.images import BidsImage
from ADAttributionLogic.bids.naming import REPORT, SCORES, WHOLE, folder_of, name_for
from ADAttributionLogic.bids.participant import WORK_FOLDER, Level, failures_of
from ADAttributionLogic.bids.publishing import Published, read_published
from ADAttributionLogic.bids.restoring import restore
from ADAttributionLogic.bids.selection import Selection
from ADAttributionLogic.bids.sidecars import document, source_uri
from ADAttributionLogic.bids.temporary_files import temporary_files_in
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.cohort.table import Cohort
from ADAttributionLogic.errors import ADAttributionError, Cancelled, CohortError, OutputError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.owned_folders import OwnedFolder
from ADAttributionLogic.page.index import IndexLink, write_index
from ADAttributionLogic.private_results import hide_in_record
from ADAttributionLogic.provenance import source_sha256
from ADAttributionLogic.reference.building import MAPS_FOLDER, BuildOptions, build_reference
from ADAttributionLogic.reference.package import CARD_FILE
from ADAttributionLogic.study.analysis import StudyOptions
from ADAttributionLogic.study.material import gather
from ADAttributionLogic.study.running import PAGE_FILE, run_study
from ADAttributionLogic.whole_files import write_whole

GROUP_FOLDER = "group"
REFERENCE_FOLDER, STUDY_FOLDER, SCORES_FILE = "reference", "study", "scores"


@dataclass(frozen=True)
class GroupOptions:
    """What the group level is told beside what the participant level was.

    Attributes
    ----------
    diagnosis : str
        The column of participants.tsv with the diagnosis; "" for diagnosis, dx or group.
    controls, patients : sequence of str
        Their diagnoses; by default the field's words for controls, and all others.
    study : StudyOptions
        Its covariates are those of the reference, too.
    """

    diagnosis: str = ""
    controls: Sequence[str] = ()
    patients: Sequence[str] = ()
    study: StudyOptions = StudyOptions()  # noqa: RUF009 (frozen)


@dataclass
class GroupResult:
    """What was made.

    Attributes
    ----------
    folder : Path
    images : int
        With derivatives.
    made : list of str
        Names in the folder.
    notes : list of str
        What could not be made and why, who is missing.
    """

    folder: Path
    images: int = 0
    made: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_group_level(
    level: Level, selection: Selection, options: GroupOptions, monitor: Monitor | None = None
) -> GroupResult:
    """Make of the derivatives that are there what can be made of them.

    Parameters
    ----------
    level : Level
        As the participant level was run.
    selection : Selection
        Which images `level` has.
    options : GroupOptions
    monitor : Monitor, optional

    Raises
    ------
    CohortError
        There are no derivatives.
    OutputError, Cancelled
    """
    monitor = monitor or Monitor()
    check_dataset(level.dataset)
    result = GroupResult(level.out / GROUP_FOLDER)
    there = _derivatives(level, result)
    if not there:
        why = " ".join(result.notes[:3])
        raise CohortError(f"No image has derivatives in {level.out}; run the participant level first. {why}")
    claim_dataset(level.dataset)
    result.images = len(there)
    result.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _working_folder(level) as work:
        rows = _summary(level, there, work / "derivatives", result)
        _write_scores(there, result)
        cohort = _cohort(level, selection, options, there, result)
        if cohort is not None:
            with monitor.stage(0.1, 0.4) as part:
                _reference(level, cohort, there, options, work, result, part)
            with monitor.stage(0.4, 0.95) as part:
                _study(level, cohort, options, work / "derivatives", result, part)
        result.notes = [_without_paths(note, level) for note in _shortened(result.notes)]
        _write_page(level, rows, result)
    return result


def _without_paths(note: str, level: Level) -> str:
    if level.options.keep_identifiers:
        return note
    shown: str = hide_in_record(note.replace(f"{level.raw}{os.sep}", ""), "", "")
    return shown


def _shortened(notes: list[str]) -> list[str]:
    """Once, and not by name for each of a thousand persons."""
    kept = [note for note in dict.fromkeys(notes) if "; only the first scan" not in note]
    return kept if len(kept) == len(set(notes)) else [*kept, "Of each person only the first scan counts in both."]


def _derivatives(level: Level, result: GroupResult) -> dict[BidsImage, Published]:
    """Those that are complete, of this scan and question; the notes name the others."""
    question, failures = level.question, failures_of(level.out)
    found = {}
    for image in level.images:
        published = read_published(image, level.out)
        why = ""
        if published is None:
            why = failures.get(source_uri(image), "it was not explained.")
        elif differences(published.record["batch"]["question"], question):
            why = "its derivatives answer another question; run the participant level again."
        elif not image.path.exists() or source_sha256(image.path) != published.record["batch"]["scan_sha256"]:
            why = "the scan is gone or was changed since it was explained."
        if why or published is None:
            result.notes.append(f"Left out: {image.stem}: {why}")
        else:
            found[image] = published
    return found


def _summary(
    level: Level, there: dict[BidsImage, Published], folder: Path, result: GroupResult
) -> list[dict[str, Any]]:
    """A row per image, as a batch has them; the folder is that batch."""
    options = replace(level.options, private=False)
    question = question_of(level.model, options, level.atlas)
    for image, published in there.items():
        restore(published, folder / image.stem, question)
    write_whole(folder / QUESTION_FILE, document(question))
    scans = [BatchScan(image.stem, image.path, level.values.get(image.relative, {})) for image in there]
    batch = explain_batch(scans, level.model, replace(options, page=False), folder, atlas=level.atlas)
    reports = {image.stem: _report_of(level, image) for image in there}
    return [{**row, "report": reports[row["name"]], "status": "done"} for row in batch.rows]


def _report_of(level: Level, image: BidsImage) -> str:
    place = f"{folder_of(image)}/{name_for(image, REPORT, '.html', desc=WHOLE)}"
    return f"../{place}" if (level.out / place).is_file() else ""


def _write_scores(there: dict[BidsImage, Published], result: GroupResult) -> None:
    """The answers of all images, one below the other, with what the columns are."""
    header, lines, columns = "", [], ""
    for image, published in there.items():
        table = published.folder / name_for(image, SCORES, ".tsv", desc=WHOLE)
        header, line, *_ = table.read_text(encoding="utf-8").split("\n")
        lines.append(line)
        columns = table.with_suffix(".json").read_text(encoding="utf-8")
    try:
        write_whole(result.folder / f"{SCORES_FILE}.tsv", "\n".join([header, *lines]) + "\n")
        write_whole(result.folder / f"{SCORES_FILE}.json", columns)
    except OSError as cause:
        raise OutputError(f"{result.folder} cannot be written: {cause}") from cause
    result.made.append(f"{SCORES_FILE}.tsv")


def _cohort(
    level: Level, selection: Selection, options: GroupOptions, there: dict[BidsImage, Published], result: GroupResult
) -> Cohort | None:
    """The rows of participants.tsv that have derivatives; None where nobody's diagnosis is known."""
    paths = {image.path for image in there}
    cohort = cohort_from_bids(level.raw, selection, diagnosis=options.diagnosis)
    found = cohort.where(lambda scan: scan.path in paths)
    result.notes += [note for note in cohort.notes if "not there" not in note]
    if found.diagnoses:
        return found
    result.notes.append(
        "No reference and no study: participants.tsv says nobody's diagnosis (--diagnosis-column names its column)."
    )
    return None


def _reference(
    level: Level,
    cohort: Cohort,
    there: dict[BidsImage, Published],
    options: GroupOptions,
    work: Path,
    result: GroupResult,
    monitor: Monitor,
) -> None:
    if level.options.against is not None:
        result.notes.append("No reference: the scans were compared with one already.")
        return
    asked = replace(level.options, figure=False, private=False, with_spread=False, checks=None, adjusted=False)
    atlases = [] if level.atlas is None else [level.atlas]
    with _said(result, "No reference"):
        by_regions = any(get_method(request.name).needs_regions for request in asked.methods)
        question = question_of(level.model, asked, level.atlas if by_regions else None)
        place = work / "reference"
        by_path = {image.path: published for image, published in there.items()}
        for scan in cohort.scans:
            assert scan.path is not None
            restore(by_path[scan.path], place / MAPS_FOLDER / scan.name, question)
        write_whole(place / MAPS_FOLDER / QUESTION_FILE, document(question))
        built = build_reference(
            cohort,
            level.model,
            asked,
            atlases,
            result.folder / REFERENCE_FOLDER,
            BuildOptions(options.controls, options.study.covariates, leave_out=True),
            work=place,
            monitor=monitor,
        )
        result.notes += built.notes
        result.made.append(REFERENCE_FOLDER)


def _study(
    level: Level, cohort: Cohort, options: GroupOptions, results: Path, result: GroupResult, monitor: Monitor
) -> None:
    with _said(result, "No study"):
        material = gather(cohort, [(level.model.name, results)], positive=options.patients, negative=options.controls)
        run_study(material, result.folder / STUDY_FOLDER, options.study, overwrite=True, monitor=monitor)
        result.notes += [note for note in material.notes if note not in result.notes]
        result.made.append(STUDY_FOLDER)


@contextlib.contextmanager
def _said(result: GroupResult, what: str) -> Iterator[None]:
    """What cannot be made of these scans is no reason not to make the rest; a disk that is full is."""
    try:
        yield
    except (Cancelled, OutputError):
        raise
    except ADAttributionError as refused:
        result.notes.append(f"{what}: {refused}")


def _write_page(level: Level, rows: list[dict[str, Any]], result: GroupResult) -> None:
    failed = [
        {"name": uri.rpartition("/")[2], "status": "failed", "message": message, "folder": ""}
        for uri, message in failures_of(level.out).items()
    ]
    links = [
        IndexLink("Comparison of the groups", f"./{STUDY_FOLDER}/{PAGE_FILE}", STUDY_FOLDER in result.made),
        IndexLink("Reference of the controls", f"./{REFERENCE_FOLDER}/{CARD_FILE}", REFERENCE_FOLDER in result.made),
        IndexLink("All answers as a table", f"./{SCORES_FILE}.tsv", True),
    ]
    page = write_index(
        result.folder, [*rows, *failed], level.model.title, [link for link in links if link.is_there], result.notes
    )
    if page is not None:
        result.made.append(page.name)


@contextlib.contextmanager
def _working_folder(level: Level) -> Iterator[Path]:
    parent = level.out / WORK_FOLDER if level.work is None else level.work
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        owned = OwnedFolder(parent, ".group-writing-")
    except OSError as cause:
        raise OutputError(f"{parent} cannot be written: {cause.strerror or cause}.") from cause
    try:
        with temporary_files_in(owned.path):
            yield owned.path
    finally:
        owned.close()
        with contextlib.suppress(OSError):
            parent.rmdir()
