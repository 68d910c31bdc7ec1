"""Rigid and affine registration of a scan to a template brain by SimpleITK: many starts, two resolutions.

The measure that is optimised is Mattes' mutual information inside the template's metric mask; which of the starts is
taken is decided by what they reached. Each optimisation runs on one thread, the starts side by side, so that the same
scan has the same transform to the last bit (see :mod:`~.threads`).
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ADAttributionLogic.errors import Cancelled, ScanError
from ADAttributionLogic.geometry import Affine
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.registration.initial_search import Start, find_starts
from ADAttributionLogic.registration.space_transform import itk_affine, itk_image, ras_matrix
from ADAttributionLogic.registration.target import RegistrationTarget, upright
from ADAttributionLogic.registration.threads import one_itk_thread, side_by_side
from ADAttributionLogic.volume import Volume

#: How many places of the coarse search are refined.
STARTS = 3
COARSE_MM, FINE_MM = 4.0, 2.0
#: Voxels of the template that the similarity is measured at; more make it slower, and no better.
SAMPLES = 40_000
_BINS = 32


@dataclass(frozen=True, eq=False)
class LinearFit:
    """What a linear registration found.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the scan.
    mutual_information : float
        Mattes' mutual information reached at the finest resolution (nats; higher is better).
    starts : tuple of float
        What each start reached at the coarse resolution, in the order of the coarse search.
    """

    matrix: Affine
    mutual_information: float
    starts: tuple[float, ...]


def register_linear(
    scan: Volume, target: RegistrationTarget, kind: Literal["rigid", "affine"], monitor: Monitor
) -> LinearFit:
    """Find where the template's brain is in a scan.

    Parameters
    ----------
    scan : Volume
        Head or brain in any orientation, spacing and place.
    target : RegistrationTarget
    kind : {"rigid", "affine"}
    monitor : Monitor

    Raises
    ------
    ScanError
        No start led to an overlap of scan and template.
    Cancelled
    """
    with monitor.stage(0.0, 0.4) as part:
        starts = find_starts(scan, target.at(COARSE_MM), STARTS, part)
    coarse, fixed = _Images.of(scan, target, COARSE_MM)
    first: Literal["rigid", "similarity"] = "rigid" if kind == "rigid" else "similarity"

    def fit(start: Start, part: Monitor) -> tuple[Affine, float]:
        matrix = _without_size(start.matrix, fixed) if kind == "rigid" else start.matrix
        return _optimise(coarse, fixed, matrix, first, 40, 4.0, part)

    with monitor.stage(0.4, 0.7) as part:
        fits = side_by_side(fit, starts, part, "registering")
    matrix, information = max(fits, key=lambda fit: fit[1], default=(np.eye(4), -np.inf))
    if not np.isfinite(information):
        raise ScanError(
            f"{scan.source or 'The scan'} could not be registered: none of {len(starts)} starts overlaps the template. "
            "Does it show a whole head?"
        )
    if kind == "affine":
        with monitor.stage(0.7, 0.8) as part:
            matrix, _ = _optimise(coarse, fixed, matrix, "affine", 60, 1.0, part)
    with monitor.stage(0.8, 1.0) as part:
        matrix, information = refine(scan, target, matrix, kind, part)
    return LinearFit(matrix, information, tuple(round(float(i), 5) for _, i in fits))


def refine(
    scan: Volume, target: RegistrationTarget, matrix: Affine, kind: Literal["rigid", "affine"], monitor: Monitor
) -> tuple[Affine, float]:
    """Improve a placement at :data:`FINE_MM`; returns the matrix and the mutual information reached."""
    fine, fixed = _Images.of(scan, target, FINE_MM)
    return _optimise(fine, fixed, matrix, kind, 40, 0.5, monitor)


def distance_from_identity(scan: Volume, target: RegistrationTarget, monitor: Monitor) -> float:
    """How far (mm, mean over the brain) an affine registration that starts from no transform moves the template."""
    coarse, fixed = _Images.of(scan, target, COARSE_MM)
    matrix, information = _optimise(coarse, fixed, np.eye(4), "affine", 40, 1.0, monitor)
    if not np.isfinite(information):
        return float("inf")
    points = target.brain.grid.to_ras(np.argwhere(target.mask.array)[::997])
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    return float(np.linalg.norm(moved - points, axis=1).mean())


_COPYING = threading.Lock()


@dataclass(frozen=True, eq=False)
class _Images:
    """ITK images at one resolution."""

    image: Any
    mask: Any

    def own(self) -> _Images:
        """The same for one optimisation alone.

        SimpleITK copies an image that somebody else holds as soon as its voxels are asked for, and exchanges what is
        behind the Python object meanwhile: threads that share one crash within seconds to hours.
        """
        with _COPYING:
            return _Images(copy.deepcopy(self.image), copy.deepcopy(self.mask))

    @staticmethod
    def of(scan: Volume, target: RegistrationTarget, millimetres: float) -> tuple[_Images, _Images]:
        moving = upright(scan, millimetres)
        # The brightest voxels are fat and vessels; clipped, the histogram's bins are spent on the brain.
        high = float(np.percentile(moving.array, 99.5))
        moving = moving.with_array(np.clip(moving.array, None, high))
        fixed = target.at(millimetres)
        return _Images(itk_image(moving), None), _Images(itk_image(fixed.brain), itk_image(fixed.metric_mask))


def _without_size(matrix: Affine, fixed: _Images) -> Affine:
    """The rotation of a start, with the template's centre at the same place."""
    centre = np.array(_centre(fixed)) * (-1, -1, 1)
    rigid = np.eye(4)
    rigid[:3, :3] = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
    rigid[:3, 3] = matrix[:3, :3] @ centre + matrix[:3, 3] - rigid[:3, :3] @ centre
    return rigid


def _centre(fixed: _Images) -> tuple[float, float, float]:
    """Middle of the fixed image, LPS mm."""
    x, y, z = fixed.image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.image.GetSize()])
    return x, y, z


def _optimise(
    moving: _Images,
    fixed: _Images,
    matrix: Affine,
    kind: Literal["rigid", "similarity", "affine"],
    iterations: int,
    step_mm: float,
    monitor: Monitor,
) -> tuple[Affine, float]:
    """Run one optimisation; returns the matrix and the mutual information, −inf when the images do not overlap."""
    import SimpleITK as sitk

    moving, fixed = moving.own(), fixed.own()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricFixedMask(fixed.mask)
    method.SetInterpolator(sitk.sitkLinear)
    # ITK draws from all voxels of the image and then applies the mask: the share is that of the mask's voxels.
    share = SAMPLES / np.count_nonzero(sitk.GetArrayViewFromImage(fixed.mask))
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, 20261121)
    # Without the limit in millimetres ITK takes a voxel as the first step, and an affine is thrown off its place.
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, iterations, 0.6, 1e-6, method.Once, step_mm)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = _start_transform(fixed, matrix, kind)
    method.SetInitialTransform(transform, inPlace=True)
    cancelled: list[Cancelled] = []

    def report() -> None:
        try:
            monitor.report(method.GetOptimizerIteration() / iterations, "registering")
        except Cancelled as cause:
            # An exception must not cross ITK's C++ frames.
            cancelled.append(cause)
            method.StopRegistration()

    method.AddCommand(sitk.sitkIterationEvent, report)
    try:
        with one_itk_thread():
            method.Execute(fixed.image, moving.image)
    except RuntimeError as cause:
        if "map outside" not in str(cause) and "valid points" not in str(cause):
            raise
        return matrix, float("-inf")
    if cancelled:
        raise cancelled[0]
    return ras_matrix(transform), -float(method.GetMetricValue())


def _start_transform(fixed: _Images, matrix: Affine, kind: str) -> Any:
    """An optimisable ITK transform with its centre in the middle of the template, equal to the matrix."""
    import SimpleITK as sitk

    kinds: dict[str, Any] = {"rigid": sitk.Euler3DTransform, "similarity": sitk.Similarity3DTransform}
    transform: Any = kinds[kind]() if kind in kinds else sitk.AffineTransform(3)
    centre, linear = _centre(fixed), itk_affine(matrix)
    transform.SetCenter(centre)
    # The tolerance is for rotations that a file holds with few digits; a general affine needs none.
    transform.SetMatrix(linear.GetMatrix(), *((1e-4,) if kind in kinds else ()))
    transform.SetTranslation((np.array(linear.TransformPoint(centre)) - np.array(centre)).tolist())
    return transform
