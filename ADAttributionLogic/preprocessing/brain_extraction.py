"""Which voxels of a scan are brain: by a registered template, refined by brightness; a given mask; or HD-BET.

The template's mask, carried into the scan, is off by what the transform cannot express, mostly a few millimetres of
sulcal fluid and dura. Within a band around its surface the scan's own brightness decides.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ScanError, UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.owned_folders import temporary_folder
from ADAttributionLogic.preprocessing.history import BrainExtraction
from ADAttributionLogic.registration.space_transform import SpaceTransform, resample_to_model, resample_to_scan
from ADAttributionLogic.registration.target import RegistrationTarget, distance_outside
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.volume import Volume, resample

#: A scan whose scalp region is darker than this share of its brain has no scalp: the brain was extracted already.
#: Measured: simulated brains with noise 0.00–0.05, Colin27's head 0.5.
EXTRACTED_BELOW = 0.12
#: Around the template's surface (mm), the scan's brightness decides between these depths.
SURE_INSIDE_MM, SURE_OUTSIDE_MM = -4.0, 2.5


@dataclass(frozen=True)
class Tissue:
    """Typical brightness of the registered scan, where the template says which tissue it is.

    Attributes
    ----------
    white, grey, fluid, scalp : float
        Medians, in the scan's units; scalp is the mean of the shell around the brain (0 where there is nothing).
    """

    white: float
    grey: float
    fluid: float
    scalp: float

    @property
    def scalp_share(self) -> float:
        """Brightness of the scalp region relative to the brain's."""
        return self.scalp / max((self.white + self.grey) / 2, 1e-30)

    @property
    def contrast(self) -> float:
        """White relative to grey matter: above 1 in a T1, below in a T2 or FLAIR."""
        return self.white / self.grey if self.grey > 0 else 0.0


def measure_tissue(scan: Volume, transform: SpaceTransform, target: RegistrationTarget) -> Tissue:
    """Sample a registered scan where the template has white and grey matter, fluid and (above the ears) scalp."""
    coarse = target.at(2.0)
    placed = resample_to_model(scan, transform, coarse.brain.grid, fill=np.nan).array

    def median(region: Volume) -> float:
        values = placed[region.array]
        values = values[np.isfinite(values)]
        return float(np.median(values)) if values.size else 0.0

    shell = placed[coarse.scalp_shell.array]
    shell = shell[np.isfinite(shell)]
    scalp = float(shell.mean()) if shell.size else 0.0
    return Tissue(median(coarse.white_matter), median(coarse.grey_matter), median(coarse.fluid), scalp)


def extract_brain(
    scan: Volume, transform: SpaceTransform, target: RegistrationTarget, tissue: Tissue
) -> BrainExtraction:
    """The brain of a registered scan; of one that was extracted before, what is not background.

    Parameters
    ----------
    scan : Volume
        Corrected for bias where that was asked for.
    transform : SpaceTransform
    target : RegistrationTarget
    tissue : Tissue
        Of this scan.
    """
    depth = surface_distance(scan.grid, transform, target)
    if tissue.scalp_share < EXTRACTED_BELOW:
        mask = _foreground(scan, depth, tissue)
        method = "already extracted (nothing where the scalp would be)"
    else:
        mask = _refined(scan, depth, tissue)
        method = "template mask through the registration, refined by brightness"
    return BrainExtraction(
        scan.with_array(mask, "brain mask"), {"method": method, "scalp_to_brain": round(tissue.scalp_share, 3)}
    )


def given_brain(scan: Volume, mask: Volume, label: int | None = None) -> BrainExtraction:
    """A mask that the user gives, on any grid in the scan's space.

    Parameters
    ----------
    scan : Volume
    mask : Volume
        Brain where it is not 0, or where it equals `label` (a segment of a segmentation).
    label : int, optional

    Raises
    ------
    ScanError
        The mask is empty inside the scan's field of view.
    """
    chosen = mask.with_array((mask.array == label) if label is not None else (mask.array > 0))
    placed = resample(chosen, scan.grid, "nearest")
    cm3 = float(placed.array.sum()) * scan.grid.voxel_volume_mm3 / 1000
    if cm3 < 100:
        which = f"label {label} of {mask.source or 'the mask'}" if label is not None else mask.source or "the mask"
        raise ScanError(
            f"{which} covers {cm3:.0f} cm³ of the scan; a brain has at least 100 cm³. Is it a mask of this scan?"
        )
    return BrainExtraction(placed, {"method": "given mask", "source": mask.source, "label": label})


def hd_bet_available() -> bool:
    """Whether the command ``hd-bet`` is installed."""
    return shutil.which("hd-bet") is not None


def extract_with_hd_bet(scan: Volume, monitor: Monitor) -> BrainExtraction:
    """Run the user's HD-BET 2 (Isensee et al. 2019, Hum. Brain Mapp. 40(17)) on the CPU.

    Raises
    ------
    UsageError
        It is not installed.
    ScanError
        It failed; its own last words are in the message.
    """
    program = shutil.which("hd-bet")
    if program is None:
        raise UsageError("HD-BET is not installed (no command hd-bet): pip install hd-bet, or choose another way.")
    with temporary_folder("hd-bet") as folder:
        source = write_volume(scan, folder / "scan.nii.gz")
        command = [program, "-i", str(source), "-o", str(folder / "brain.nii.gz"), "-device", "cpu"]
        command += ["--disable_tta", "--save_bet_mask", "--no_bet_image"]
        with open(folder / "log.txt", "w+b") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 (the user's own program)
            try:
                while process.poll() is None:
                    monitor.report(0.5, "HD-BET is extracting the brain")
                    try:
                        process.wait(0.3)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                process.kill()
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()
        found = folder / "brain_bet.nii.gz"
        if process.returncode or not found.is_file():
            raise ScanError(
                f"HD-BET failed (exit code {process.returncode}; version 2 is needed): "
                f"{words[-1] if words else 'no message'}"
            )
        mask = read_scan(found)
    return BrainExtraction(scan.with_array(resample(mask, scan.grid, "nearest").array > 0), {"method": "HD-BET"})


def surface_distance(grid: Grid, transform: SpaceTransform, target: RegistrationTarget) -> npt.NDArray[np.float32]:
    """Distance (mm of model space) to the template brain's surface at the scan's voxels; negative inside."""
    distance = target.mask.with_array(target.distance_outside, "distance to the template's surface")
    return resample_to_scan(distance, transform, grid, "linear", fill=1e3).array


def _foreground(scan: Volume, depth: npt.NDArray[np.float32], tissue: Tissue) -> npt.NDArray[np.bool_]:
    """What is brighter than the background near the template's brain."""
    background = scan.array[(depth > 8) & (depth < 1e3)]
    # Background that is exactly 0 leaves even the darkest fluid in the mask; noise does not get in.
    threshold = float(np.percentile(background, 99.5)) if background.size else 0.0
    threshold = min(max(threshold, 0.0), 0.35 * tissue.grey)
    bright = (scan.array > threshold) & (depth < 10)
    return _one_piece(scan, bright, closing_mm=3.0, opening_mm=1.0)


def _refined(scan: Volume, depth: npt.NDArray[np.float32], tissue: Tissue) -> npt.NDArray[np.bool_]:
    """The template's mask, its surface moved to where the scan's brightness changes."""
    low = tissue.fluid + 0.4 * (tissue.grey - tissue.fluid)
    high = tissue.white + 0.6 * abs(tissue.white - tissue.grey) + 0.05 * tissue.white
    band = (depth > SURE_INSIDE_MM) & (depth < SURE_OUTSIDE_MM)
    tissue_like = (scan.array > low) & (scan.array < high)
    mask = (depth <= SURE_INSIDE_MM) | (band & tissue_like)
    return _one_piece(scan, mask, closing_mm=4.0, opening_mm=1.5)


def _one_piece(
    scan: Volume, mask: npt.NDArray[np.bool_], closing_mm: float, opening_mm: float
) -> npt.NDArray[np.bool_]:
    """Cut thin bridges, keep the largest piece, close sulci, fill holes."""
    if not mask.any():
        return mask
    margin = [int(np.ceil((closing_mm + 2) / s)) for s in scan.grid.spacing]
    box = _box(mask, margin)
    # Padded, so that a brain that is cut by the field of view is not eroded there.
    inner = np.pad(mask[box], [(m, m) for m in margin], mode="edge")
    opened = _grown(~_grown(~inner, opening_mm, scan), opening_mm, scan) & inner
    largest = _largest_piece(opened)
    closed = ~_grown(~_grown(largest, closing_mm, scan), closing_mm, scan)
    result = np.zeros(mask.shape, dtype=np.bool_)
    result[box] = _filled(closed)[tuple(slice(m, -m) for m in margin)]
    return result


def _box(mask: npt.NDArray[np.bool_], margin: list[int]) -> tuple[slice, ...]:
    """The mask's bounding box and a margin, inside the array."""
    box = []
    for axis, width in enumerate(margin):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(int(inside[0]) - width, 0), int(inside[-1]) + 1 + width))
    return tuple(box)


def _grown(mask: npt.NDArray[np.bool_], millimetres: float, scan: Volume) -> npt.NDArray[np.bool_]:
    """The mask and what lies within a distance of it."""
    if not mask.any():
        return mask
    result: npt.NDArray[np.bool_] = distance_outside(Volume(mask, scan.affine)) <= millimetres
    return result


def _largest_piece(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy.ndimage import label

    pieces, count = label(mask)
    if count == 0:
        return mask
    largest: npt.NDArray[np.bool_] = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return largest


def _filled(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask without holes; ITK does in one pass what scipy does by hundreds of dilations."""
    import SimpleITK as sitk

    image = sitk.BinaryFillhole(
        sitk.GetImageFromArray(mask.astype(np.uint8).T), fullyConnected=False, foregroundValue=1
    )
    filled: npt.NDArray[np.bool_] = sitk.GetArrayFromImage(image).T > 0
    return filled


def overlap(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Dice coefficient of two masks (1: the same)."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2.0 * int(np.count_nonzero((one != 0) & (other != 0))) / total if total else 0.0
