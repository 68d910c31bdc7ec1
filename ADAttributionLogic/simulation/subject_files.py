"""A simulated subject as files."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

import numpy as np

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.owned_folders import owned_folder, remove_leftovers
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.subject import SimulatedSubject


def write_subject(subject: SimulatedSubject, folder: str | os.PathLike[str], *, displacement: bool = False) -> Path:
    """Write ``scan.nii.gz``, ``atrophy_mm.nii.gz``, ``ground_truth.json`` and optionally ``displacement_mm.nii.gz``.

    The displacement is a NIfTI vector image (intent 1007), in mm along the array axes.

    Raises
    ------
    OutputError
        The folder exists.
    """
    target = Path(folder)
    if target.exists():
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, f".{glob.escape(target.name)}-writing-*")
    with owned_folder(target.parent, f".{target.name}-writing-") as temporary:
        unfinished = temporary / "subject"
        unfinished.mkdir()
        write_volume(subject.scan, unfinished / "scan.nii.gz")
        write_volume(subject.atrophy, unfinished / "atrophy_mm.nii.gz")
        if displacement:
            _write_displacement(subject, unfinished / "displacement_mm.nii.gz")
        text = json.dumps(subject.ground_truth(), indent=2) + "\n"
        (unfinished / "ground_truth.json").write_text(text, encoding="utf-8")
        os.replace(unfinished, target)
    return target


def _write_displacement(subject: SimulatedSubject, path: Path) -> None:
    import nibabel as nib

    vectors = np.moveaxis(subject.displacement.numpy(), 0, -1)[:, :, :, None, :]
    image = nib.Nifti1Image(vectors.astype(np.float32), subject.scan.affine)
    image.header.set_intent(1007)
    nib.save(image, path)
