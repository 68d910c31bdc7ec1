"""Building a reference cohort in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.service.store import Store

_KEYS = (
    *("tables", "output", "work", "scans", "model", "methods", "atlases", "target", "start", "device", "controls"),
    *("covariates", "leave_out", "rounded", "title", "about_controls", "preparation"),
)


def reference_job(job: Mapping[str, Any], store: Store, monitor: Monitor) -> dict[str, Any]:
    """Build a reference of tables of subjects, or let one grow.

    Raises
    ------
    UsageError
        Something is missing, or not understood.
    ADAttributionError
        As :func:`~ADAttributionLogic.reference.building.build_reference`.
    """
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.cohort.table import read_cohorts
    from ADAttributionLogic.explanation import MethodRequest
    from ADAttributionLogic.preparation import wanted_preparation
    from ADAttributionLogic.reference.building import BuildOptions, build_reference
    from ADAttributionLogic.reference.writing import About

    for key in job:
        if key not in _KEYS:
            raise UnknownNameError("key of this request", key, _KEYS)
    for key in ("tables", "output", "model", "methods", "atlases"):
        if not job.get(key):
            raise UsageError(f"The request lacks {key!r}.")
    cohort = read_cohorts(job["tables"], job.get("scans"))
    asked = BatchOptions(
        [MethodRequest(entry["name"], entry.get("options", {})) for entry in job["methods"]],
        job.get("target", "positive"),
        job.get("start"),
        device=job.get("device", "auto"),
        preparation=wanted_preparation(job.get("preparation")),
    )
    options = BuildOptions(
        job.get("controls", ()),
        job.get("covariates", ()),
        bool(job.get("leave_out", False)),
        bool(job.get("rounded", False)),
        About(title=job.get("title", ""), controls=job.get("about_controls", "")),
    )
    atlases, model = [load_atlas(name) for name in job["atlases"]], store.model(job["model"])
    built = build_reference(
        cohort, model, asked, atlases, job["output"], options, work=job.get("work"), monitor=monitor
    )
    notes = [*cohort.notes, *built.notes]
    return {"folder": str(built.folder), "n": built.n, "taken": built.taken, "notes": notes}
