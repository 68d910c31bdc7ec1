"""The image that a method compares the scan with: a mean of controls, the scan blurred, or one value everywhere."""

from __future__ import annotations

from torch import Tensor

from ADAttributionLogic.attribution.fill import fill_of
from ADAttributionLogic.attribution.registry import Job
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.method_options import Option


def baseline_option(default: str) -> Option:
    """The option ``baseline`` of methods that compare."""
    return Option(
        "baseline",
        default,
        "what the scan is compared with: reference (an image, such as the mean of controls), blur (the scan, blurred), "
        "mean (of its nonzero voxels), zero, or a number in the network's units",
        str,
    )


def reference_image(job: Job, method: str) -> Tensor:
    """The image that the option ``baseline`` of a job means.

    Returns
    -------
    Tensor, shape (1, C, …) or (1, C, 1, …)

    Raises
    ------
    UnknownNameError, UsageError, GridMismatchError
    """
    if job.options["baseline"] == "reference" and job.companions.reference is None:
        raise UsageError(
            f"{method} compares the scan with a reference image, such as the mean of controls, but there is none: the "
            "network's card names no reference and none was given. Give one (--reference FILE, a scan prepared as "
            f"yours), or compare with something else (--{method}-baseline blur, zero, mean or a number)."
        )
    return fill_of(job, "baseline")
