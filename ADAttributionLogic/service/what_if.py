"""Trials in the worker: a scan stays warm before a network from one request to the next.

A request either opens a session (``{"open": {…}}``), tries (``{"session": 1, "covers": […]}``) or lets go
(``{"session": 1, "release": true}``). There is one session at a time: another question, or another scan, ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import NoSessionError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.monitor import Monitor
    from ADAttributionLogic.networks.packages import Model
    from ADAttributionLogic.service.store import Store

_OF_OPENING = (
    *("scan", "model", "weights_sha256", "transform", "atlas", "atlas_is_drawn", "reference", "device"),
    *("replace_non_finite", "memory_bytes"),
)
_OF_TRIAL = ("session", "covers", "release")


def what_if_job(job: Mapping[str, Any], folder: Path, store: Store, monitor: Monitor) -> dict[str, Any]:
    """Open a session, try in it, or let it go.

    Raises
    ------
    NoSessionError
        It has ended in the meantime; open another one.
    UsageError
    """
    if "open" in job:
        _refuse_strangers(job, ("open",))
        return _open(job["open"], folder, store, monitor)
    _refuse_strangers(job, _OF_TRIAL)
    session = store.session(job.get("session"))
    if session is None:
        raise NoSessionError("These trials have ended, because something else was computed; they begin anew.")
    if job.get("release"):
        store.release_session()
        return {}
    return _try(session, job.get("covers"), folder, monitor)


def _open(asked: Any, folder: Path, store: Store, monitor: Monitor) -> dict[str, Any]:
    from ADAttributionLogic.registration.space_transform import restore_transform
    from ADAttributionLogic.service.answer import load_volume
    from ADAttributionLogic.service.exchange_schema import require_valid
    from ADAttributionLogic.service.jobs import load_asked_atlas
    from ADAttributionLogic.whatif.opening import mean_scan_for, open_session
    from ADAttributionLogic.whatif.session import MEMORY_BYTES

    if not isinstance(asked, Mapping) or not {"scan", "model"} <= set(asked):
        raise UsageError("Trials need a scan and a model to begin with.")
    _refuse_strangers(asked, _OF_OPENING)
    store.release_session()  # before the next one takes memory
    transform = None
    if asked.get("transform") is not None:
        require_valid(asked["transform"], "transform")
        transform = restore_transform(asked["transform"], folder)
    monitor.report(0.0, "loading the network")
    model = store.model(asked["model"])
    _require_weights(model, asked.get("weights_sha256"))
    with monitor.stage(0.1, 1.0) as part:
        session = open_session(
            load_volume(asked["scan"], folder),
            model,
            transform=transform,
            atlas=load_asked_atlas(asked.get("atlas"), folder),
            atlas_is_drawn=bool(asked.get("atlas_is_drawn", False)),
            reference=None if asked.get("reference") is None else mean_scan_for(asked["reference"], model),
            device=asked.get("device", "auto"),
            replace_non_finite=asked.get("replace_non_finite"),
            memory_bytes=int(asked.get("memory_bytes") or MEMORY_BYTES),
            monitor=part,
        )
    return {"session": store.keep_session(session), **session.describe()}


def _try(session: Any, covers: Any, folder: Path, monitor: Monitor) -> dict[str, Any]:
    from ADAttributionLogic.service.answer import load_volume
    from ADAttributionLogic.whatif.covers import read_cover

    if not isinstance(covers, list):
        raise UsageError(f"What is covered is a list, not {covers!r}.")
    read = [read_cover(cover, lambda entry: load_volume(entry, folder)) for cover in covers]
    found: dict[str, Any] = session.ask(read, monitor).describe()
    return {**found, "held_bytes": session.held_bytes}


def _require_weights(model: Model, wanted: str | None) -> None:
    if wanted and model.weights_sha256 != wanted:
        raise UsageError(
            f"{model.title} has other weights ({model.weights_sha256[:12] or 'none'}) than the network that explained "
            f"this scan ({wanted[:12]}). Explain it again, or choose the network that it was explained with."
        )


def _refuse_strangers(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise UnknownNameError("key of this request", str(key), known)
