"""A group study in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.monitor import Monitor

_KEYS = (
    *("table", "results", "output", "positive", "negative", "covariates", "by", "volumes", "threshold"),
    *("permutations", "resamples", "seed", "with_maps", "overwrite"),
)
_OPTIONS = ("by", "threshold", "permutations", "resamples", "seed")


def study_job(job: Mapping[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Compare two groups of a table, from the results of batches on it.

    Raises
    ------
    UsageError
        Something is missing, or not understood.
    ADAttributionError
        As :func:`~ADAttributionLogic.study.running.run_study`.
    """
    from ADAttributionLogic.cohort.table import read_cohort
    from ADAttributionLogic.study.analysis import StudyOptions
    from ADAttributionLogic.study.material import gather
    from ADAttributionLogic.study.running import check_output, run_study
    from ADAttributionLogic.study.volumes import asked_volumes

    for key in job:
        if key not in _KEYS:
            raise UnknownNameError("key of this request", key, _KEYS)
    for key in ("table", "results", "output"):
        if not job.get(key):
            raise UsageError(f"The request lacks {key!r}.")
    overwrite = bool(job.get("overwrite", False))
    check_output(job["output"], overwrite)
    results = [(str(name), folder) for name, folder in job["results"]]
    groups = {side: job.get(side, ()) for side in ("positive", "negative")}
    material = gather(read_cohort(job["table"]), results, **groups)
    options = StudyOptions(tuple(job.get("covariates", ())), **{key: job[key] for key in _OPTIONS if key in job})
    volumes = asked_volumes(job.get("volumes"), job["table"], material, monitor)
    page = run_study(
        material,
        job["output"],
        options,
        volumes=volumes,
        with_maps=bool(job.get("with_maps", True)),
        overwrite=overwrite,
        monitor=monitor,
    )
    return {
        "folder": str(page.parent),
        "page": str(page),
        "subjects": len(material.subjects),
        "notes": list(material.notes),
    }
