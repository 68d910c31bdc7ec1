"""Correction of the slow change of brightness across a scan (N4).

References
----------
Tustison et al. 2010, N4ITK: improved N3 bias correction, IEEE Trans. Med. Imaging 29(6).
"""

from __future__ import annotations

import numpy as np

from ADAttributionLogic.errors import Cancelled
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.preprocessing.history import BiasCorrection
from ADAttributionLogic.registration.space_transform import itk_image
from ADAttributionLogic.registration.target import isotropic_grid, upright
from ADAttributionLogic.registration.threads import one_itk_thread
from ADAttributionLogic.volume import Volume, resample

#: Spacing (mm) at which the field is fitted; it varies over centimetres.
FIT_MM = 4.0
ITERATIONS = (40, 30, 20)


def fit_bias_field(scan: Volume, brain: Volume, monitor: Monitor) -> BiasCorrection:
    """Fit the field inside the brain, and extend it smoothly over the field of view.

    Parameters
    ----------
    scan : Volume
    brain : Volume
        Bool, on any grid in the scan's space.
    monitor : Monitor
    """
    import SimpleITK as sitk

    coarse = upright(scan, FIT_MM)
    mask = resample(brain, isotropic_grid(scan.grid, FIT_MM), "nearest")
    # N4 takes logarithms: voxels that are not positive say nothing about the field.
    mask = mask.with_array(mask.array & (coarse.array > 0))
    image = itk_image(coarse.with_array(np.maximum(coarse.array, 1e-3).astype(np.float32)))
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(list(ITERATIONS))
    cancelled: list[Cancelled] = []

    def report() -> None:
        try:
            monitor.report((n4.GetCurrentLevel() + n4.GetElapsedIterations() / 40) / 3, "correcting the brightness")
        except Cancelled as cause:
            cancelled.append(cause)
            n4.Abort()

    n4.AddCommand(sitk.sitkIterationEvent, report)
    try:
        with one_itk_thread():
            n4.Execute(image, itk_image(mask))
    except RuntimeError:
        if cancelled:
            raise cancelled[0] from None
        raise
    if cancelled:
        raise cancelled[0]
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T.astype(np.float32)
    # The brain's mean brightness stays; far outside, a spline would run away.
    field -= field[mask.array].mean()
    low, high = np.percentile(field[mask.array], (0.5, 99.5))
    return BiasCorrection(
        coarse.with_array(np.clip(field, low, high), "log bias field"),
        {"algorithm": "N4 (SimpleITK)", "fit_spacing_mm": FIT_MM, "iterations": list(ITERATIONS)},
    )
