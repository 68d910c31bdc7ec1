"""What a dataset of derivatives says of itself: whose results these are, of which dataset, and what they answer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic import __version__, provenance
from ADAttributionLogic.batch.question import differences
from ADAttributionLogic.bids.cohort import DESCRIPTION_FILE
from ADAttributionLogic.bids.naming import IGNORED
from ADAttributionLogic.bids.sidecars import RAW, document
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.owned_folders import is_owned
from ADAttributionLogic.whole_files import write_whole

#: What all results of a dataset answer, and that the dataset is ours.
QUESTION_FILE = "ad-attribution.json"
KIND = "ad-attribution/bids-dataset/1"

#: Of the standard that names follow.
BIDS_VERSION = "1.11.0"
CODE_URL = "https://github.com/ADAttribution/SlicerADAttribution"

#: Set in container recipes; Apptainer says by itself what it runs.
CONTAINER_TYPE, CONTAINER_TAG = "AD_ATTRIBUTION_CONTAINER_TYPE", "AD_ATTRIBUTION_CONTAINER_TAG"
_APPTAINER = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")

#: What a dataset may hold before we write the first file into it.
_HARMLESS = (".git", ".gitattributes", ".gitignore", ".datalad", ".gitmodules", "lost+found", ".DS_Store")

#: Of what is in the way, how much a message names.
_NAMED = 5

_README = """# Explanations of a network's decisions

Made by ad-attribution {version} ({url}) from T1w images with the network *{model}*.

{notice}

Per image, in `sub-…/[ses-…/]anat`, with the entities of the image in front:

- `space-…_desc-METHOD_relevance.nii.gz`: relevance per voxel, with its affine; the `.json` beside it says of what
- `atlas-…_desc-METHOD_regions.tsv`: per region; columns and units are in the `.json` beside it
- `desc-explanation_scores.tsv`: what the network says
- `desc-explanation_report.html`: all of it on one page, for any browser, without network
- `desc-explanation_provenance.json`: hashes, versions, parameters, notes. Written last: without it nothing is complete
- `space-…_desc-brain_T1w.nii.gz`, `desc-brain_mask.nii.gz`, `from-…_to-…_xfm.*`: the prepared scan, where there is one

`ad-attribution.json` holds what all results answer, `logs/` the reasons of those that failed, `group/` what the group
level wrote. Relevance, tables and scores are not part of BIDS, and stand in `.bidsignore`.
"""


@dataclass(frozen=True)
class Dataset:
    """Where derivatives go, and what they are of.

    Attributes
    ----------
    place : Path
    raw : Path
    question : mapping
        What is asked of every scan, without paths.
    model : str
        Title of the network.
    """

    place: Path
    raw: Path
    question: Mapping[str, Any]
    model: str


def check_dataset(dataset: Dataset) -> bool:
    """Look whether a folder may be written; whether it is such a dataset already. Nothing is written.

    Raises
    ------
    OutputError
        It is the raw dataset, holds something else, or answers another question.
    """
    place = dataset.place
    if place.exists() and not place.is_dir():
        raise OutputError(f"{place} is not a folder. Choose another.")
    raw, target = dataset.raw.resolve(), place.resolve()
    other = f"Choose another folder, e.g. {dataset.raw / 'derivatives' / 'ad-attribution'}."
    if raw.is_relative_to(target):
        raise OutputError(f"{place} holds the dataset itself. {other}")
    if target.is_relative_to(raw) and not target.is_relative_to(raw / "derivatives"):
        raise OutputError(f"{place} lies in the dataset, which is only read but for its derivatives. {other}")
    earlier = _earlier(place)
    if earlier is None:
        _refuse_strangers(place)
        return False
    different = differences(earlier, dataset.question)
    if different:
        raise OutputError(
            f"{place} holds derivatives that answer another {', '.join(different)}; results of different questions "
            "cannot be mixed. Choose another folder, or ask the same as before."
        )
    return True


def claim_dataset(dataset: Dataset) -> None:
    """Take a folder, and say in it what it is. Several processes may do so at a time: they write the same.

    Raises
    ------
    OutputError
    """
    check_dataset(dataset)
    place = dataset.place
    files = {
        QUESTION_FILE: document({"kind": KIND, "question": dict(dataset.question)}),
        ".bidsignore": "".join(f"{pattern}\n" for pattern in IGNORED),
        "README.md": _README.format(version=__version__, url=CODE_URL, model=dataset.model, notice=provenance.NOTICE),
        DESCRIPTION_FILE: document(describe(dataset)),
    }
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, text in files.items():
            if not (place / name).is_file() or (place / name).read_text(encoding="utf-8") != text:
                write_whole(place / name, text)
    except (OSError, ValueError) as cause:
        raise OutputError(f"{place} cannot be written: {cause}") from cause


def describe(dataset: Dataset, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The document dataset_description.json."""
    raw = _raw_description(dataset.raw)
    doi = str(raw.get("DatasetDOI", ""))
    source = {"Version": str(raw["DatasetVersion"])} if raw.get("DatasetVersion") else {}
    inside = dataset.place.resolve().is_relative_to(dataset.raw.resolve())
    # Where else the dataset lies is nobody's business but its owner's.
    link = os.path.relpath(dataset.raw.resolve(), dataset.place.resolve()) if inside else doi
    generator: dict[str, Any] = {
        "Name": "ad-attribution",
        "Version": __version__,
        "Description": "Which brain regions made a network decide as it did on a T1w image",
        "CodeURL": CODE_URL,
    }
    container = _container(environment)
    return {
        "Name": f"ad-attribution of {raw.get('Name') or 'a dataset without a name'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "as that of the dataset it was made from",
        "GeneratedBy": [generator | ({"Container": container} if container else {})],
        "SourceDatasets": [{**({"DOI": doi} if doi else {}), **({"URL": link} if inside else {}), **source}],
        **({"DatasetLinks": {RAW: link}} if link else {}),
        "HowToAcknowledge": "Cite the methods, the atlas, the network and this program as its README says.",
    }


def _earlier(place: Path) -> dict[str, Any] | None:
    """What the results that are there answer; None where there are none of ours."""
    path = place / QUESTION_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["kind"] != KIND or not isinstance(found["question"], dict):
            raise ValueError(f"its kind is {found['kind']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        raise OutputError(
            f"{path} is damaged or of another version ({cause}), so that nobody knows what the results beside it "
            "answer. Choose another folder."
        ) from cause
    question: dict[str, Any] = found["question"]
    return question


def _refuse_strangers(place: Path) -> None:
    """A folder that is not ours must be empty, but for what version control keeps there."""
    try:
        found = [] if not place.exists() else sorted(place.iterdir())
    except OSError as cause:
        raise OutputError(f"{place} cannot be read: {cause.strerror or cause}.") from cause
    strangers = [path.name for path in found if path.name not in _HARMLESS and not is_owned(path)]
    if strangers:
        more = f" and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        raise OutputError(
            f"{place} holds {', '.join(strangers[:_NAMED])}{more}, which this program did not write; nothing is mixed "
            "or overwritten. Choose a new folder."
        )


def _raw_description(raw: Path) -> dict[str, Any]:
    try:
        found = json.loads((raw / DESCRIPTION_FILE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _container(environment: Mapping[str, str]) -> dict[str, str]:
    """What this runs in, if it says so."""
    image = next((environment[name] for name in _APPTAINER if environment.get(name)), "")
    kind, tag = environment.get(CONTAINER_TYPE, ""), environment.get(CONTAINER_TAG, "")
    if image:
        return {"Type": "apptainer", "Tag": tag or Path(image).name}
    return {"Type": kind, **({"Tag": tag} if tag else {})} if kind else {}
