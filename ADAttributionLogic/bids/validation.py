"""Whether a folder is a BIDS dataset whose T1w images can be taken at their word.

Only what this program relies on is looked at: the description, names beside the images, the table of participants. For
all the rest there is the standard's own validator.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ADAttributionLogic.bids.cohort import DESCRIPTION_FILE, PARTICIPANTS_FILE
from ADAttributionLogic.errors import CohortError

#: Of what is wrong, how much a message names.
_NAMED = 10

_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")


def validate(root: str | os.PathLike[str], subjects: Sequence[str] = ()) -> None:
    """Refuse a dataset that contradicts the standard where it matters here.

    Parameters
    ----------
    root : path-like
    subjects : sequence of str
        Only these are looked at, e.g. ``sub-01``; by default all.

    Raises
    ------
    CohortError
        Naming what is wrong.
    """
    place = Path(root)
    problems = [*_description(place), *_participants(place), *_subjects(place, subjects)]
    if problems:
        rest = f"\n  … and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        listed = "\n  ".join(problems[:_NAMED])
        raise CohortError(
            f"{root} is no valid BIDS dataset:\n  {listed}{rest}\nMend it (bids-validator says more), or take it as it "
            "is with --skip-bids-validation."
        )


def _description(root: Path) -> list[str]:
    path = root / DESCRIPTION_FILE
    if not path.is_file():
        return [f"{DESCRIPTION_FILE} is missing; it has at least a Name and a BIDSVersion."]
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as cause:
        return [f"{DESCRIPTION_FILE} cannot be read: {cause}"]
    if not isinstance(found, dict):
        return [f"{DESCRIPTION_FILE} is no JSON object."]
    missing = [key for key in ("Name", "BIDSVersion") if not isinstance(found.get(key), str) or not found[key]]
    return [f"{DESCRIPTION_FILE} has no {' and no '.join(missing)}."] if missing else []


def _participants(root: Path) -> list[str]:
    path = root / PARTICIPANTS_FILE
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as cause:
        return [f"{PARTICIPANTS_FILE} cannot be read: {cause.strerror or cause}."]
    head = lines[0].split("\t") if lines else []
    if not head or head[0] != "participant_id":
        return [f"{PARTICIPANTS_FILE} begins with the column {head[0] if head else ''!r}, not participant_id."]
    wrong = [line.split("\t")[0] for line in lines[1:] if line.strip() and not _SUBJECT.fullmatch(line.split("\t")[0])]
    return [f"{PARTICIPANTS_FILE}: {name!r} is no participant (sub-, letters and numbers)." for name in wrong]


def _subjects(root: Path, subjects: Sequence[str]) -> list[str]:
    problems: list[str] = []
    for folder in sorted(path for path in root.glob("sub-*") if path.is_dir()):
        if subjects and folder.name not in subjects:
            continue
        if not _SUBJECT.fullmatch(folder.name):
            problems.append(f"{folder.name}: a subject's label has letters and numbers only.")
            continue
        problems += [
            problem
            for path in sorted(folder.rglob("*T1w.nii*"))
            if not path.name.startswith(".") and (problem := _misnamed(path.relative_to(root)))
        ]
    return problems


def _misnamed(path: Path) -> str:
    """What is wrong with the name or the place of an image; "" for nothing."""
    subject, *between, datatype, name = path.parts
    if datatype != "anat":
        return f"{path}: a T1w image lies in anat/, not in {datatype}/."
    if not name.endswith((".nii", ".nii.gz")):
        return f"{path}: an image is .nii or .nii.gz."
    session = between[0] if len(between) == 1 and between[0].startswith("ses-") else ""
    if between and not session:
        return f"{path}: between subject and anat/ there is at most a session (ses-…)."
    expected = f"{subject}_{session}_" if session else f"{subject}_"
    if not name.startswith(expected):
        return f"{path}: the name must begin with {expected}, as its folders do."
    if not session and "_ses-" in name:
        return f"{path}: the name has a session, but there is no folder of it."
    *entities, _ = name.split("_")
    wrong = [part for part in entities if not re.fullmatch(r"[a-z]+-[A-Za-z0-9]+", part)]
    return f"{path}: {wrong[0]!r} is no entity (key-label, of letters and numbers)." if wrong else ""
