"""Checking a result that was written earlier: network, scan and atlas are brought back, and must be the same.

The checks run on the network's grid. The maps of a result in the scan's own space are made anew there, carried onto the
scan and compared with those that were written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ADAttributionLogic import provenance
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checked_explanation import CheckRequest, ask, reference_name
from ADAttributionLogic.checks.findings import Checks, MapChecks
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.checks.recomputation import judged
from ADAttributionLogic.checks.running import run_checks
from ADAttributionLogic.device import choose_device
from ADAttributionLogic.errors import AtlasError, NetworkError, ScanError, UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.outcome import read_outcome
from ADAttributionLogic.preprocessing.carried_maps import map_on_scan
from ADAttributionLogic.propagation.account import read_account
from ADAttributionLogic.report.placing import damaged
from ADAttributionLogic.report.result_reading import read_result, recorded_atlas
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.seen_scan import SeenScan, see
from ADAttributionLogic.service.answer import Answer, AnswerMap
from ADAttributionLogic.volume import Volume


def check_result(
    folder: str | os.PathLike[str],
    model: Model,
    request: CheckRequest,
    *,
    device: str = "auto",
    monitor: Monitor | None = None,
) -> Checks:
    """Check the maps of a result folder.

    Parameters
    ----------
    folder : path-like
        From :func:`~.report.result_places.find_result`.
    model : Model
        The network that was explained.
    request : CheckRequest
    device : str
    monitor : Monitor, optional

    Raises
    ------
    UsageError
        The folder is no result, or a file of it was changed since it was written.
    ScanError
        The scan is gone, or is another one.
    NetworkError
        The network is another one.
    """
    monitor = monitor or Monitor()
    place = Path(folder)
    monitor.report(0.0, "reading the result")
    answer, _ = read_result(place)
    record = answer.provenance
    broken = damaged(place, record.get("files", {}))
    if broken:
        raise UsageError(
            f"The result {place} was changed after it was written ({', '.join(broken)}); what is checked must be what "
            "was computed. Explain the scan again."
        )
    _require_same_model(model, record)
    seen = _seen(answer, model)
    question = _question(answer, record, model, seen, request, choose_device(device), monitor)
    maps = [_claimed(found) for found in answer.maps if not found.name.endswith("-sd")]
    if answer.preparation is None or answer.preparation.space == "model":
        return run_checks(question, maps, request.budget).checks
    return _in_native_space(answer, question, maps, request)


def _require_same_model(model: Model, record: Mapping[str, Any]) -> None:
    found, used = provenance.describe_model(model), record["model"]
    for key, what in (
        ("weights_sha256", "weights"),
        ("grid", "grid"),
        ("normalisation", "normalisation"),
        ("output", "output"),
        ("classes", "classes"),
    ):
        if found[key] != used.get(key):
            raise NetworkError(
                f"{model.title} is not the network that was explained ({used.get('title')}): its {what} are "
                f"{_short(found[key])}, not {_short(used.get(key))}. Name the right one with --model."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _seen(answer: Answer, model: Model) -> SeenScan:
    """The scan as the network saw it, with the atlas and what else lay on its grid."""
    record = answer.provenance
    scan = answer.scan if answer.preparation is None else answer.preparation.brain
    compared = record.get("reference") or {}
    is_cards = "control_mean_of" in compared
    if is_cards and compared.get("sha256") != model.card.get("control_mean", {}).get("sha256"):
        raise NetworkError(
            f"The control mean of {model.title} is not the one that the scan was compared with any more."
        )
    used = record.get("atlas")
    atlas = None if used is None else recorded_atlas(used)
    seen = see(
        scan,
        model,
        atlas=atlas,
        mask=_companion(record.get("mask"), "mask"),
        reference=None if is_cards else _companion(record.get("reference"), "reference"),
        compares=True,  # the control mean, where there is one, takes the place of tissue
        is_prepared=True,
    )
    labels = None if seen.atlas is None else provenance.array_sha256(seen.atlas.labels.array)
    if used is not None and labels != used["labels_sha256"]:
        raise AtlasError(
            f"The atlas {used['name']} has other labels now than those that were used: the checks by region would be "
            "of other regions. Install the versions that the provenance names."
        )
    return seen


def _companion(record: Mapping[str, Any] | None, what: str) -> Volume | None:
    """The mask or the scan to compare with that methods were given; it must be the same."""
    if record is None or "control_mean_of" in record:  # the latter comes with the network
        return None
    path = Path(record["source"])
    if not record["source"] or not path.exists():
        raise ScanError(f"The {what} that was given, {record['source'] or 'without a file'}, is not there any more.")
    found = read_scan(path)
    if provenance.array_sha256(found.array) != record["voxels_sha256"]:
        raise ScanError(f"The {what} {path} is not the one that was given any more: its voxels have changed.")
    return found


def _question(
    answer: Answer,
    record: Mapping[str, Any],
    model: Model,
    seen: SeenScan,
    request: CheckRequest,
    device: torch.device,
    monitor: Monitor,
) -> Question:
    summary = answer.maps[0].summary
    outcome = read_outcome(record["outcome"])
    is_score = outcome.output.is_score
    reference = outcome.score - summary["score"] if is_score and summary["start"] == "distance" else None
    target = Target(0 if is_score else int(summary["class_index"]), summary["start"], reference)
    name = outcome.quantity(answer.target_class, "score" if is_score else "probability")
    called = reference_name(record.get("reference") or {"control_mean_of": model.name})
    return ask(model, seen.model_input, name, request, seen.index, seen.companions, target, device, monitor, called)


def _claimed(found: AnswerMap) -> CheckedMap:
    summary = found.summary
    method = get_method(found.method)
    return CheckedMap(
        found.name,
        found.title,
        found.volume.array.astype(np.float32),
        method,
        method.complete(summary["options"]),
        float(summary["to_attribute"]),
        read_account(summary.get("conservation")),
        was_computed_here=False,
        shared_by_members=(summary.get("agreement") or {}).get("top_ten_overlap_density"),
    )


def _in_native_space(answer: Answer, question: Question, maps: list[CheckedMap], request: CheckRequest) -> Checks:
    """Make the maps anew, hold those that were written against them on the scan, and check the new ones."""
    assert answer.preparation is not None
    compared, made = [], []
    for written in maps:
        again = question.map_of(written, question.image).astype(np.float32)
        on_model = Volume(again, answer.preparation.brain.affine)
        carried = map_on_scan(on_model, answer.preparation.transform, answer.scan.grid, written.method.is_conserving)
        compared.append(judged(written.values, carried.array, 0.0))
        made.append(replace(written, values=again, was_computed_here=True))
    found = run_checks(question, made, request.budget).checks
    joined = tuple(
        MapChecks(each.map, each.title, (check, *each.checks)) for check, each in zip(compared, found.maps, strict=True)
    )
    note = "The maps were made anew on the network's grid and carried onto the scan to be compared."
    return replace(found, maps=joined, notes=(*found.notes, note))
