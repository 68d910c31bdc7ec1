"""What the files of a result are called in a BIDS dataset of derivatives.

Where the standard has a name (a brain, its mask) it is that; it has none for maps of attribution and region tables,
which get suffixes of their own that ``.bidsignore`` lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ADAttributionLogic.bids.images import BidsImage, named
from ADAttributionLogic.report.preprocessing_files import QUALITY_FIGURE, RECORD
from ADAttributionLogic.report.result_places import (
    CHECKS_FOLDER,
    CONTROLS_FIGURE,
    FIGURE_FILE,
    PREPROCESSING_FOLDER,
    PROVENANCE_FILE,
    REPORT_FILE,
)

#: Suffixes that the standard does not know.
MAP, TABLE, SCORES, PROVENANCE, REPORT, FIGURE, CHECKS, TRANSFORM, OTHER = (
    *("relevance", "regions", "scores", "provenance", "report", "figure", "checks", "xfm", "other"),
)

#: What ``.bidsignore`` holds.
IGNORED = (
    *(f"*_{suffix}.*" for suffix in (MAP, TABLE, SCORES, PROVENANCE, REPORT, FIGURE, CHECKS, TRANSFORM, OTHER)),
    *("logs", "group", "ad-attribution.json"),  # a folder with a slash is not ignored by the validator
)

#: Of the whole explanation, as against one map.
WHOLE = "explanation"

#: Spaces of the standard, by how the cards of networks call them.
_SPACES = (
    (r"icbm ?152.*2009c.*nonlinear symmetric|2009csym", "MNI152NLin2009cSym"),
    (r"icbm ?152.*2009c|mni152nlin2009casym", "MNI152NLin2009cAsym"),
    (r"6th generation|nlin6asym", "MNI152NLin6Asym"),
)

#: The scan's own space.
ORIGINAL = "orig"


def space_label(text: str, model: str) -> str:
    """The standard's label of a network's space, or one made of the network's name.

    Parameters
    ----------
    text : str
        How the network's card calls its space; "" where it does not.
    model : str
        Name of the network.
    """
    for pattern, label in _SPACES:
        if re.search(pattern, text, re.IGNORECASE):
            return label
    return label_of(model) or "unknown"


def is_standard(space: str) -> bool:
    """Whether a label is one of the standard's, so that everybody knows the space."""
    return space == ORIGINAL or space in {label for _, label in _SPACES}


def label_of(text: str) -> str:
    """A label of letters and numbers: ``gradient-x-input`` becomes ``gradientXInput``."""
    parts: list[str] = re.findall(r"[A-Za-z0-9]+", text) or [""]
    first, *rest = parts
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def folder_of(image: BidsImage) -> str:
    """Where the derivatives of an image lie: ``sub-01/ses-1/anat``."""
    return PurePosixPath(image.relative).parent.as_posix()


def name_for(image: BidsImage, suffix: str, extension: str, **entities: str) -> str:
    """A name: the image's own entities, further ones, and a suffix."""
    return f"{named({**image.entities, **entities})}_{suffix}{extension}"


def provenance_name(image: BidsImage) -> str:
    """Of the file that says that all is complete."""
    return name_for(image, PROVENANCE, ".json", desc=WHOLE)


def derivative_names(image: BidsImage, files: Iterable[str], space: str, map_space: str, atlas: str) -> dict[str, str]:
    """Names in the derivatives of the files of a result.

    Parameters
    ----------
    image : BidsImage
        What was explained.
    files : iterable of str
        Of the result, e.g. ``heatmaps/lrp.nii.gz``. Tables are in it as CSV, TSV and JSON; one of them is kept.
    space : str
        Label of the network's space.
    map_space : str
        Label of the space of the maps: the same, or :data:`ORIGINAL`.
    atlas : str
        "" without one.

    Returns
    -------
    dict of str to str
        By their names in the result; those that are kept in another form are left out.
    """
    names: dict[str, str] = {}
    for file in sorted(files):
        if _is_kept_otherwise(file):
            continue
        name = _name_of(image, file, space, map_space, atlas)
        stem, extension = name.split(".", 1)
        number = 2
        while name in names.values():  # two maps of one label, as ``lrp-2`` and ``lrp2`` would be
            head, suffix = stem.rsplit("_", 1)
            name, number = f"{head}n{number}_{suffix}.{extension}", number + 1
        names[file] = name
    return names


def _is_kept_otherwise(file: str) -> bool:
    path = PurePosixPath(file)
    is_table = path.parent.name == "tables"
    return file == PROVENANCE_FILE or (is_table and path.suffix != ".tsv" and not path.name.endswith("-pairs.csv"))


def _name_of(image: BidsImage, file: str, space: str, map_space: str, atlas: str) -> str:
    path = PurePosixPath(file)
    stem, dot, extension = path.name.partition(".")
    extension, label = dot + extension, label_of(stem)
    fixed: Mapping[str, tuple[str, dict[str, str]]] = {
        REPORT_FILE: (REPORT, {"desc": WHOLE}),
        FIGURE_FILE: (FIGURE, {"desc": "overview"}),
        f"{PREPROCESSING_FOLDER}/brain.nii.gz": ("T1w", {"space": space, "desc": "brain"}),
        f"{PREPROCESSING_FOLDER}/brain-mask.nii.gz": ("mask", {"desc": "brain"}),
        f"{PREPROCESSING_FOLDER}/{QUALITY_FIGURE}": (FIGURE, {"desc": "preparation"}),
        f"{PREPROCESSING_FOLDER}/{RECORD}": (PROVENANCE, {"desc": "preparation"}),
    }
    if file in fixed:
        suffix, entities = fixed[file]
    elif path.parent.name == "heatmaps":
        suffix, entities = MAP, {"space": map_space, "desc": label}
    elif path.parent.name == "tables":
        suffix, entities = TABLE, {"space": map_space, "desc": label} | ({"atlas": label_of(atlas)} if atlas else {})
        extension = ".tsv"
    elif path.parent.name == "transforms":
        ends = {"scan-to-model": ("T1w", space), "model-to-scan": (space, "T1w")}
        suffix = TRANSFORM
        entities = dict(zip(("from", "to"), ends.get(stem, (label, label)), strict=True)) | {"mode": "image"}
    elif path.parent.name == CHECKS_FOLDER and extension == ".nii.gz":
        suffix, entities = MAP, {"space": map_space, "desc": label}
    elif path.parent.name == CHECKS_FOLDER:
        suffix, entities = CHECKS, {"desc": label}
    elif stem.startswith(f"{CONTROLS_FIGURE}-"):
        suffix, entities = FIGURE, {"desc": label}
    else:
        suffix, entities = OTHER, {"desc": label_of(file.removesuffix(extension))}
    return name_for(image, suffix, extension, **entities)
