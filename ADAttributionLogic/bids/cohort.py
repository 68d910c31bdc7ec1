"""A BIDS dataset as a cohort: of every T1w image that is meant, whose it is and what is known of them.

Raw datasets and derivatives (those of this program, and of any other that writes brains in a template's space).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ADAttributionLogic.bids.images import BidsImage
from ADAttributionLogic.bids.selection import EVERYTHING, Chosen, Selection, choose_images
from ADAttributionLogic.cohort.contradictions import notes_on, refuse_contradictions
from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.cohort.scan_list import name_scans
from ADAttributionLogic.cohort.table import Cohort, read_cohorts
from ADAttributionLogic.errors import CohortError

PARTICIPANTS_FILE = "participants.tsv"
DESCRIPTION_FILE = "dataset_description.json"

#: Of subjects that a note is about, how many it names.
_NAMED = 12


def cohort_from_bids(
    root: str | os.PathLike[str],
    selection: Selection = EVERYTHING,
    *,
    participants: str | os.PathLike[str] | None = None,
    diagnosis: str = "",
) -> Cohort:
    """Read a BIDS dataset as rows, one for each T1w image that is meant.

    Of a raw dataset these are images as acquired; of derivatives (``DatasetType`` in dataset_description.json) brains
    in a template's space, ``sub-01_space-…_desc-brain_T1w.nii.gz``.

    Parameters
    ----------
    root : path-like
        With folders ``sub-…``.
    selection : Selection
        Labels, filters, which of several runs.
    participants : path-like, optional
        Table with what is known of the subjects; by default participants.tsv of the dataset or, of derivatives inside
        of a raw dataset, of that. Without one there are no diagnoses.
    diagnosis : str
        Its column with the diagnosis, where that is not called diagnosis, dx or group.

    Raises
    ------
    CohortError
        No subjects, no images, a table that cannot be read, brains in several spaces.
    UsageError
        Labels that are not there, several images of a session, bids2table is missing.
    """
    chosen = choose_images(root, selection, is_derived(root))
    _refuse_several_spaces(root, chosen.images)
    table = _participants_of(Path(root)) if participants is None else Path(participants)
    if table is None:
        if diagnosis:
            raise CohortError(f"{root} has no {PARTICIPANTS_FILE}, and so no column {diagnosis!r}.")
        return _without_table(root, chosen)
    by_subject: dict[str, list[Path]] = {subject: [] for subject in chosen.missing}
    for image in chosen.images:
        by_subject.setdefault(image.subject, []).append(image.path)
    # Who is on the table and was not asked for is no row; who was, but has no image, is one without.
    others: list[Path] | None = None if selection.participants else []
    found = read_cohorts([table], root, images=lambda s: by_subject.get(s, others), diagnosis=diagnosis)
    listed = {scan.subject if scan.subject.startswith("sub-") else f"sub-{scan.subject}" for scan in found.scans}
    unlisted = [subject for subject in by_subject if subject not in listed and by_subject[subject]]
    if not found.scans:
        raise CohortError(
            f"{table} has a row for none of the {len(unlisted)} subjects with T1w images in {root} "
            f"({', '.join(unlisted[:_NAMED])})."
        )
    if unlisted:
        who = ", ".join(unlisted[:_NAMED]) + (" …" if len(unlisted) > _NAMED else "")
        note = f"{len(unlisted)} subjects have no row in {table.name} and are left out: {who}."
        found = replace(found, notes=(*found.notes, note))
    return found


def is_derived(root: str | os.PathLike[str]) -> bool:
    """Whether a dataset says that it is one of derivatives; without a description it is raw.

    Raises
    ------
    CohortError
        The description cannot be read.
    """
    path = Path(root) / DESCRIPTION_FILE
    if not path.is_file():
        return False
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as cause:
        raise CohortError(f"{path} cannot be read: {cause}") from cause
    return isinstance(document, dict) and document.get("DatasetType") == "derivative"


def _participants_of(root: Path) -> Path | None:
    """The dataset's own, or that of the raw dataset around it."""
    for folder in (root.resolve(), *root.resolve().parents):
        if (folder / PARTICIPANTS_FILE).is_file():
            return folder / PARTICIPANTS_FILE
        if not is_derived(folder) and (folder / DESCRIPTION_FILE).is_file():
            return None
    return None


def _without_table(root: str | os.PathLike[str], chosen: Chosen) -> Cohort:
    """Rows that say only whose each image is."""
    named = name_scans([(image.path, image.relative, "") for image in chosen.images])
    rows = [
        CohortScan(scan.name, image.path, image.subject, image.session, "", {}, line)
        for line, (scan, image) in enumerate(zip(named, chosen.images, strict=True), start=1)
    ]
    refuse_contradictions(os.fspath(root), rows)
    note = f"There is no {PARTICIPANTS_FILE}: nothing is known of the subjects."
    return Cohort(os.fspath(root), tuple(rows), (), (*notes_on(rows), note))


def _refuse_several_spaces(root: str | os.PathLike[str], images: Sequence[BidsImage]) -> None:
    spaces = sorted({image.entities["space"] for image in images if "space" in image.entities})
    if len(spaces) > 1:
        raise CohortError(f"{root} has brains in the spaces {', '.join(spaces)}; say which (space).")
