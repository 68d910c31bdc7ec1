"""Deformable registration by ANTs (SyNQuick), where the package antspyx is installed.

ANTs runs in a process of its own: a registration of a minute and a half could not be cancelled otherwise, and a crash
or lack of memory in it must not take the caller along.

The same scan has the same warp to the last bit, also on a computer with more or fewer processors: ANTs divides its sums
among as many threads as it is told to have, and adds up the parts in their order, so that it is told a number of ours.

References
----------
Avants et al. 2008, Symmetric diffeomorphic image registration with cross-correlation, Med. Image Anal. 12(1).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ADAttributionLogic.errors import ScanError, UsageError
from ADAttributionLogic.geometry import Affine
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.owned_folders import temporary_folder
from ADAttributionLogic.registration.space_transform import SpaceTransform, itk_affine, itk_image, ras_matrix
from ADAttributionLogic.registration.target import RegistrationTarget, upright
from ADAttributionLogic.volume import Volume

#: SyN only: the affine is ours, found from many starts.
TYPE_OF_TRANSFORM = "antsRegistrationSyNQuick[so]"
#: More threads would be faster where there are more processors; another number is another result in the last digits.
ANTS_THREADS = 4
SEED = 20261121
#: The warp is kept at this spacing (mm). SyNQuick smooths it over 3 voxels, so that nothing is lost, and it takes an
#: eighth of the memory.
WARP_MM = 2.0
#: Lines that ANTs prints per run (three resolutions with iterations), for the progress bar only.
_EXPECTED_ITERATIONS = 150

_SCRIPT = """
import json, sys, ants
job = json.load(open(sys.argv[1]))
fixed, moving, mask = (ants.image_read(job[name]) for name in ("fixed", "moving", "mask"))
found = ants.registration(fixed, moving, type_of_transform=job["type"], initial_transform=[job["affine"]], mask=mask,
                          mask_all_stages=True, outprefix=job["prefix"], verbose=True)
json.dump({"forward": found["fwdtransforms"], "inverse": found["invtransforms"]}, open(job["result"], "w"))
"""


def ants_available() -> bool:
    """Whether antspyx is installed."""
    return find_spec("ants") is not None


def register_deformable(scan: Volume, target: RegistrationTarget, affine: Affine, monitor: Monitor) -> SpaceTransform:
    """Refine an affine registration by a smooth invertible warp.

    Parameters
    ----------
    scan : Volume
        Head or brain, corrected for bias.
    target : RegistrationTarget
    affine : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the scan.
    monitor : Monitor
        When cancelled, the process is killed.

    Raises
    ------
    UsageError
        antspyx is not installed.
    ScanError
        ANTs failed; its last words are in the message.
    """
    import SimpleITK as sitk

    if not ants_available():
        raise UsageError(
            "Deformable registration needs ANTs: pip install ad-attribution[registration], or choose affine."
        )
    moving = upright(scan, max(1.0, min(scan.grid.spacing)))
    with temporary_folder("ants") as folder:
        sitk.WriteImage(itk_image(target.brain), str(folder / "fixed.nii"))
        sitk.WriteImage(itk_image(target.metric_mask), str(folder / "mask.nii"))
        sitk.WriteImage(itk_image(moving), str(folder / "moving.nii"))
        sitk.WriteTransform(itk_affine(affine), str(folder / "affine.mat"))
        job = {key: str(folder / f"{key}.nii") for key in ("fixed", "moving", "mask")}
        job |= {"affine": str(folder / "affine.mat"), "prefix": str(folder / "syn-"), "type": TYPE_OF_TRANSFORM}
        job["result"] = str(folder / "result.json")
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        _run(folder, monitor)
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        warp, inverse = (_warp_of(found[key]) for key in ("forward", "inverse"))
        matrix = _matrix_of(found["forward"], affine)
    return SpaceTransform("deformable", matrix, warp, inverse)


def _run(folder: Path, monitor: Monitor) -> None:
    """Run ANTs in a child process, watching its output for progress and the monitor for cancellation."""
    fixed = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(ANTS_THREADS), "ANTS_RANDOM_SEED": str(SEED)}
    with open(folder / "log.txt", "wb") as log:
        command = [sys.executable or "python", "-c", _SCRIPT, str(folder / "job.json")]
        environment = {**os.environ, **fixed}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603
        try:
            while process.poll() is None:
                done = (folder / "log.txt").read_text(errors="replace").count("DIAGNOSTIC,")
                monitor.report(done / _EXPECTED_ITERATIONS, "warping (ANTs SyNQuick)")
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
    if process.returncode or not (folder / "result.json").exists():
        words = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        raise ScanError(f"ANTs failed (exit code {process.returncode}): {words[-1] if words else 'no message'}")


def _warp_of(files: list[str]) -> Any:
    """The displacement field among ANTs' files, at :data:`WARP_MM`, as an ITK transform."""
    import SimpleITK as sitk

    (path,) = [f for f in files if f.endswith(".nii.gz")]
    field = sitk.ReadImage(path, sitk.sitkVectorFloat64)
    spacing = np.array(field.GetSpacing())
    size = np.ceil(np.array(field.GetSize()) * spacing / WARP_MM).astype(int) + 1
    coarse = sitk.Resample(
        field,
        size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        field.GetOrigin(),
        [WARP_MM] * 3,
        field.GetDirection(),
        0.0,
        sitk.sitkVectorFloat64,
    )
    return sitk.DisplacementFieldTransform(coarse)


def _matrix_of(files: list[str], affine: Affine) -> Affine:
    """The affine part: ANTs writes the one that it was given back as it is, or collapsed with its own."""
    import SimpleITK as sitk

    linear = [f for f in files if f.endswith(".mat")]
    if not linear:
        return affine
    # The last of the list acts last on a point of the template.
    matrix = np.eye(4)
    for path in linear:
        matrix = ras_matrix(sitk.ReadTransform(path)) @ matrix
    return matrix
