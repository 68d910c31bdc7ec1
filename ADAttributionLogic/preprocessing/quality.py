"""Checks that a person would make by looking: does the scan show what it should, and did every step work?

Each check says what was found, what is needed and what to do. A run goes on only when all of them pass, or when the
user accepts the scan as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preprocessing.brain_extraction import Tissue, overlap
from ADAttributionLogic.registration.space_transform import SpaceTransform, resample_to_model
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.volume import Volume, resample

#: Correlation with the template inside the brain. Measured: Colin27 affine 0.65; two other real heads .51 and .65.
LEAST_SIMILARITY = {"identity": 0.40, "rigid": 0.30, "affine": 0.35, "deformable": 0.55}
#: Dice of the extracted brain with the template's.
LEAST_OVERLAP = 0.85
#: Intracranial volume of adults (Colin27: 1.7 litres).
VOLUME_CM3 = (1000.0, 2200.0)
#: Share of the template's brain inside the scan's field of view.
LEAST_COVERAGE = 0.98
#: Voxel edges: longest in mm, and longest to shortest.
LONGEST_EDGE_MM, GREATEST_ANISOTROPY = 5.0, 5.0
#: White to grey matter in a T1 is above 1.
LEAST_CONTRAST = 1.05
#: A hole in the brain where the template has tissue.
LARGEST_HOLE_CM3 = 25.0
#: How much better the mirrored scan may fit the (asymmetric) template.
MIRROR_MARGIN = 0.01
#: Scale factors of the affine: the template's brain is 1.9 litres.
SCALES = (0.75, 1.25)


class QualityError(ScanError):
    """The scan did not pass the checks, and the user has not accepted it as it is.

    Attributes
    ----------
    report : QualityReport or None
        The checks, for those who show them in another way.
    """

    def __init__(self, message: str, report: QualityReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes
    ----------
    name : str
    value : float
    needed : str
        What the value should be.
    passed : bool
    advice : str
        What a failure may mean, and what to do.
    unit : str
    """

    name: str
    value: float
    needed: str
    passed: bool
    advice: str
    unit: str = ""

    def __str__(self) -> str:
        value = f"{self.value:.0f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        text = f"{self.name}: {value}{' ' if self.unit else ''}{self.unit} (needed: {self.needed})"
        return text if self.passed else f"{text}. {self.advice}"


@dataclass(frozen=True)
class QualityReport:
    """All checks of a scan."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """Those that did not."""
        return tuple(check for check in self.checks if not check.passed)

    def require(self, accept: bool) -> tuple[str, ...]:
        """Raise unless the checks passed; returns what to tell the user when he accepted failures.

        Raises
        ------
        QualityError
        """
        lines = tuple(str(check) for check in self.failures)
        if lines and not accept:
            listing = "\n  ".join(lines)
            raise QualityError(
                f"The scan did not pass {len(lines)} of {len(self.checks)} checks:\n  {listing}\n"
                "Nothing was explained. To go on all the same, say --accept-qc and look at the quality figure.",
                self,
            )
        return tuple(f"quality check not passed, accepted by the user: {line}" for line in lines)

    def describe(self) -> dict[str, Any]:
        """Plain values for provenance."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def check_before(scan: Volume) -> tuple[Check, ...]:
    """What can be said before anything is registered.

    Raises
    ------
    ScanError
        There is no image to work on: constant, or a localiser of a few slices.
    """
    grid = scan.grid
    extent = np.array(grid.shape) * np.array(grid.spacing)
    if min(grid.shape) < 16 or extent.min() < 60:
        raise ScanError(
            f"{scan.source or 'The scan'} has {grid.describe()}: a field of view of "
            f"{'×'.join(f'{e:.0f}' for e in extent)} mm. A whole brain needs at least 16 slices and 60 mm in every "
            "direction; this looks like a localiser or a slab. Choose the 3D T1 series."
        )
    longest, shortest = max(grid.spacing), min(grid.spacing)
    return (
        Check(
            "longest voxel edge", longest, f"at most {LONGEST_EDGE_MM:g} mm", longest <= LONGEST_EDGE_MM,
            "The slices are too thick for regions such as the hippocampus; choose a 3D T1 series.", "mm",
        ),
        Check(
            "voxel anisotropy", longest / shortest, f"at most {GREATEST_ANISOTROPY:g}",
            longest / shortest <= GREATEST_ANISOTROPY,
            "The voxels are very long in one direction; choose a 3D T1 series.",
        ),
    )  # fmt: skip


def check_after(
    scan: Volume,
    brain: Volume,
    transform: SpaceTransform,
    tissue: Tissue,
    target: RegistrationTarget,
    size: Sequence[float] = (),
) -> tuple[Check, ...]:
    """Checks of a registered scan and its extracted brain.

    Parameters
    ----------
    scan : Volume
        In its own space, corrected for bias.
    brain : Volume
        Bool mask on the scan's grid.
    transform : SpaceTransform
    tissue : Tissue
    target : RegistrationTarget
    size : sequence of float
        Scale factors of the registration's affine, if it has any.
    """
    coarse = target.at(2.0)
    inside = coarse.mask.array
    placed = resample_to_model(scan, transform, coarse.brain.grid, fill=np.nan).array
    covered = float(np.isfinite(placed[inside]).mean())
    placed = np.nan_to_num(placed)
    mask = resample_to_model(brain, transform, coarse.brain.grid, "nearest").array
    similarity = correlation(placed, coarse.brain.array, inside)
    checks = [
        _similarity_check(similarity, transform.kind),
        _contrast_check(tissue),
        Check(
            "share of the brain inside the field of view", covered, f"at least {LEAST_COVERAGE:g}",
            covered >= LEAST_COVERAGE, "The scan is cropped; regions outside it would be explained by nothing.",
        ),
        _overlap_check(overlap(mask, inside)),
        _volume_check(float(brain.array.sum()) * brain.grid.voxel_volume_mm3 / 1000),
        _hole_check(placed, tissue, coarse),
        _side_check(placed, coarse),
    ]  # fmt: skip
    if len(size):
        checks.append(_size_check(size))
    return tuple(checks)


def correlation(one: Any, other: Any, where: Any) -> float:
    """Pearson's correlation of two images inside a mask; 0 when one of them is constant there."""
    a, b = one[where].astype(np.float64), other[where].astype(np.float64)
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    # Not np.corrcoef, whose matrix product adds up on as many threads as there are.
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _similarity_check(similarity: float, kind: str) -> Check:
    least = LEAST_SIMILARITY[kind]
    return Check(
        "similarity to the template", similarity, f"at least {least:g}", similarity >= least,
        "The registration failed, or this is no T1 of a human head (a phantom, another contrast, another body part). "
        "Look at the quality figure.",
    )  # fmt: skip


def _contrast_check(tissue: Tissue) -> Check:
    return Check(
        "white to grey matter", tissue.contrast, f"at least {LEAST_CONTRAST:g}", tissue.contrast >= LEAST_CONTRAST,
        "In a T1 white matter is brighter than grey; this looks like a T2, FLAIR or proton density. Choose the T1.",
    )  # fmt: skip


def _overlap_check(dice: float) -> Check:
    return Check(
        "overlap of the brain with the template's (Dice)", dice, f"at least {LEAST_OVERLAP:g}", dice >= LEAST_OVERLAP,
        "The brain was not found well. Give a mask (--brain-mask).",
    )  # fmt: skip


def _volume_check(cm3: float) -> Check:
    low, high = VOLUME_CM3
    return Check(
        "intracranial volume", cm3, f"{low:g} to {high:g} cm³", low <= cm3 <= high,
        "A child's head, a cropped or resected brain, wrong voxel sizes in the file, or a failed brain extraction; "
        "the networks know adults only.", "cm³",
    )  # fmt: skip


def _hole_check(placed: Any, tissue: Tissue, target: RegistrationTarget) -> Check:
    """The largest connected region that is dark where the template has tissue well inside the brain."""
    from scipy.ndimage import label

    expected = target.brain.array > 0.75 * float(np.median(target.brain.array[target.grey_matter.array]))
    dark = expected & (placed < 0.5 * (tissue.fluid + tissue.grey) * 0.9)
    pieces, count = label(dark)
    largest = int(np.bincount(pieces.ravel())[1:].max()) if count else 0
    cm3 = largest * target.brain.grid.voxel_volume_mm3 / 1000
    return Check(
        "largest region without tissue", cm3, f"at most {LARGEST_HOLE_CM3:g} cm³", cm3 <= LARGEST_HOLE_CM3,
        "Part of the brain is missing or dark: a resection, a large lesion, a signal void or a cropped scan.", "cm³",
    )  # fmt: skip


def _side_check(placed: Any, target: RegistrationTarget) -> Check:
    """Whether the scan mirrored at the midline fits the asymmetric template better than as it is."""
    grid = target.brain.grid
    flip = np.diag((-1.0, 1.0, 1.0, 1.0))
    mirrored_brain = resample_mirrored(target.brain.array, grid, flip)
    both = target.mask.array & (mirrored_brain > 0)
    as_it_is = correlation(placed, target.brain.array, both)
    mirrored = correlation(placed, mirrored_brain, both)
    gain = mirrored - as_it_is
    return Check(
        "gain in similarity when mirrored left to right", gain, f"at most {MIRROR_MARGIN:g}", gain <= MIRROR_MARGIN,
        "Left and right may be swapped in the file. Compare with the original DICOM files.",
    )  # fmt: skip


def resample_mirrored(array: Any, grid: Grid, flip: Any) -> Any:
    """An image of model space mirrored at the plane x = 0."""
    return resample(Volume(array, flip @ grid.affine), grid).array


def _size_check(scales: Sequence[float]) -> Check:
    low, high = SCALES
    worst = max(scales, key=lambda s: abs(np.log(s)))
    return Check(
        "scale of the head against the template", worst, f"{low:g} to {high:g}", low <= worst <= high,
        "The head is unusually small or large: a child, wrong voxel sizes, or a failed registration.",
    )  # fmt: skip
