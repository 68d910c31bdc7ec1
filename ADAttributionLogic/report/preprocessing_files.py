"""A preprocessed scan as files: brain, mask, transforms, checks, figure."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ADAttributionLogic import provenance
from ADAttributionLogic.preprocessing.pipeline import Preprocessed
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.report.placing import check_place, writing
from ADAttributionLogic.report.quality_figure import write_quality_figure
from ADAttributionLogic.scan_files import write_volume

QUALITY_FIGURE, RECORD = "quality.png", "preprocessing.json"


def write_preprocessing(
    prepared: Preprocessed, folder: Path, target: RegistrationTarget | None = None, figure: bool = True
) -> None:
    """Write into an existing folder: ``brain.nii.gz`` (model grid), ``brain-mask.nii.gz`` (scan's grid), transforms.

    ``transforms/scan-to-model`` and ``model-to-scan`` are ITK files that Slicer loads as transform nodes.

    Raises
    ------
    OutputError
    """
    write_volume(prepared.brain, folder / "brain.nii.gz")
    write_volume(prepared.brain_mask, folder / "brain-mask.nii.gz")
    (folder / "transforms").mkdir()
    prepared.transform.write(folder / "transforms")
    record: dict[str, Any] = {
        "notice": provenance.NOTICE,
        "software": provenance.software(),
        "scan": provenance.describe_scan(prepared.scan),
        **prepared.provenance,
        "quality": prepared.quality.describe(),
        "notes": list(prepared.notes),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8", errors="backslashreplace")
    if figure and target is not None:
        write_quality_figure(folder / QUALITY_FIGURE, prepared, target)


def write_preprocessing_folder(
    prepared: Preprocessed, folder: str | os.PathLike[str], target: RegistrationTarget, figure: bool = True
) -> Path:
    """Write a new folder, which appears only when it is complete.

    Raises
    ------
    OutputError
        It exists, or cannot be written.
    """
    with writing(check_place(folder, RECORD)) as unfinished:
        write_preprocessing(prepared, unfinished, target, figure)
    return Path(folder)
