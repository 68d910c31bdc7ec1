"""The main job in one function: a scan, a network, methods and an atlas in; heatmaps and region tables out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ADAttributionLogic import answer_spread, provenance
from ADAttributionLogic.answer_spread import AnswerSpread, mean_move_mm, small_moves
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.attribution.registry import Companions, get_method
from ADAttributionLogic.attribution.target import Start, Target
from ADAttributionLogic.checked_explanation import CheckRequest, check_explanation
from ADAttributionLogic.comparison.comparing import Against, compare
from ADAttributionLogic.device import choose_device, describe_device
from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.explanation import Explanation, Heatmap, MethodRequest
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.heatmaps import heatmaps_of
from ADAttributionLogic.member_runs import Answered, Chosen, Question, moving_share, run
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.moved_scans import move_registered
from ADAttributionLogic.seen_scan import Mover, SeenScan, moved_images, see
from ADAttributionLogic.volume import Volume

__all__ = ["CheckRequest", "Explanation", "Heatmap", "MethodRequest", "Mover", "explain", "require_comparable"]


def explain(
    scan: Volume,
    model: Model,
    methods: Sequence[str | MethodRequest],
    *,
    atlas: Atlas | None = None,
    target: str | int = "positive",
    start: Start | None = None,
    start_reference: float | None = None,
    device: str = "auto",
    replace_non_finite: float | None = None,
    mask: Volume | None = None,
    reference: Volume | None = None,
    against: Against | None = None,
    member_sd: bool = False,
    is_prepared: bool = False,
    mover: Mover | None = None,
    with_spread: bool = True,
    checks: CheckRequest | None = None,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    monitor: Monitor | None = None,
) -> Explanation:
    """Explain a network's decision on a scan.

    Parameters
    ----------
    scan : Volume
        Registered to the network's space and skull-stripped, in any orientation.
    model : Model
    methods : sequence of str or MethodRequest
    atlas : Atlas, optional
        In the network's space, on any grid.
    target : str or int
        The class that all methods explain: ``"positive"`` (the model's positive class, e.g. AD, whatever was
        predicted, so that patients and controls can be compared), ``"predicted"``, a class name or its number. A score
        is a target of its own.
    start : {"probability", "logit", "margin", "score", "distance", "unit"}, optional
        Which quantity of it, by default the probability or the score; see :class:`~.attribution.target.Target`.
    start_reference : float, optional
        What the start ``distance`` measures from; by default the reference in the model's card.
    device : str
        ``"auto"`` (CUDA, else MPS, else CPU), or one of them. When a GPU's memory does not suffice, the CPU is used,
        which the result's notes say.
    replace_non_finite : float, optional
        Value for NaN and infinite voxels, which are refused otherwise.
    mask : Volume, optional
        Voxels of interest (not 0), for occlusion with the mask ``given``; in the network's space, on any grid.
    reference : Volume, optional
        A scan to compare with, such as a mean of controls, for DeepLIFT, integrated gradients with the baseline and
        occlusion with the fill ``reference``; it is prepared as the scan is. By default the control mean of the
        model's card, if it has one, else the mean scan of `against`.
    against : Against, optional
        Controls with whom the maps are compared (:mod:`.comparison`): more columns in the tables, and a z map for each.
    member_sd : bool
        Of an ensemble, also a map of the standard deviation over its networks, per method.
    is_prepared : bool
        Its place was checked already; otherwise the result says when a scan does not look registered.
    mover : callable, optional
        Makes the moved scans whose answers say how much the placement leaves open; without it the given scan is moved
        (:func:`~.preprocessing.moved_scans.move_registered`).
    with_spread : bool
        Compute those answers (:mod:`~.answer_spread`): four forward passes more.
    checks : CheckRequest, optional
        Whether the maps can be believed (:mod:`~.checks`); not asked without it.
    turn : callable, optional
        Gives a context in which the device is used; many processes that share a GPU take turns.
    monitor : Monitor, optional
        Progress and cancellation. What was finished when the user cancelled is kept (also an unfinished map that is
        usable), with a note that says so; if there is nothing, it is an error.

    Returns
    -------
    Explanation

    Raises
    ------
    ADAttributionError
        Its kinds say what is wrong: usage, scan, network, atlas, cancelled.
    """
    started, date = time.perf_counter(), provenance.now()
    monitor = monitor or Monitor()
    chosen = _chosen(methods, model, atlas, member_sd)
    # The checks put the control mean in the place of tissue.
    compares = checks is not None or any("reference" in options.values() for _, options in chosen)
    monitor.report(0.0, "preparing the scan")
    seen = see(
        scan,
        model,
        atlas=atlas,
        mask=mask,
        reference=reference,
        compares=compares,
        replace_non_finite=replace_non_finite,
        is_prepared=is_prepared,
    )
    distance_from = model.output.reference if start_reference is None else start_reference
    wanted = Target(_class_index(model, target), start, distance_from)
    companions = seen.companions
    if against is not None:
        companions = _compared_companions(against, _asked(model, chosen, wanted, against), seen)
    question = Question(
        seen.image,
        chosen,
        wanted,
        choose_device(device),
        companions,
        seen.index,
        seen.model_input.volume.grid.voxel_volume_mm3,
        member_sd,
    )
    with monitor.stage(0.0, 0.5 if checks else 1.0) as part:
        answered, spread = _answered(model, question, seen, mover, with_spread, turn, part)
    heatmaps = heatmaps_of(answered, chosen, model, seen.model_input, seen.index)
    notes = [*seen.notes, *answered.notes]
    if monitor.is_cancelled and not model.members:
        finished = sum(not h.attribution.is_partial for h in heatmaps)
        notes.append(f"Cancelled after {finished} of {len(chosen)} methods were finished; what there was is kept.")
    record = {
        "notice": provenance.NOTICE,
        "date": date,
        "seconds": round(time.perf_counter() - started, 3),
        "mask": None if mask is None else provenance.describe_scan(mask),
        "reference": _reference_record(model, reference, compares),
        "notes": notes,
        **_found(model, seen, answered, heatmaps),
        **spread,
        **({"start_reference": distance_from} if heatmaps[0].attribution.start == "distance" else {}),
        "is_cancelled": monitor.is_cancelled,
    }
    found = Explanation(model, seen.model_input, answered.outcome, record["target_class"], heatmaps, seen.atlas, record)
    if checks is not None:
        with monitor.stage(0.5, 1.0) as part, turn():
            found = check_explanation(
                found,
                checks,
                index=seen.index,
                companions=companions,
                target=question.target,
                device=answered.device,
                monitor=part,
            )
    (monitor.deaf() if monitor.is_cancelled else monitor).report(1.0, "done")
    return found if against is None else compare(found, against, is_prepared)


def require_comparable(
    model: Model,
    methods: Sequence[str | MethodRequest],
    against: Against,
    grid: Grid,
    *,
    atlas: Atlas | None = None,
    target: str | int = "positive",
    start: Start | None = None,
    start_reference: float | None = None,
) -> None:
    """Refuse what :func:`explain` would refuse to compare, as long as there is no scan on the network's grid yet.

    Parameters
    ----------
    grid : Grid
        The network's.
    atlas : Atlas, optional
        On any grid in the network's space; left out where it is drawn on a scan that is not registered yet.

    Other parameters, and errors, are those of :func:`explain`.
    """
    chosen = [(get_method(r.name), get_method(r.name).complete(r.options)) for r in map(_request, methods)]
    distance_from = model.output.reference if start_reference is None else start_reference
    asked = _asked(model, chosen, Target(_class_index(model, target), start, distance_from), against)
    against.require(asked, grid, None if atlas is None else provenance.describe_atlas(atlas.on_grid(grid)))


def _compared_companions(against: Against, asked: Mapping[str, Any], seen: SeenScan) -> Companions:
    """What occlusion and checks take from beside the scan, once it is known that the maps can be compared."""
    placed = None if seen.atlas is None else provenance.describe_atlas(seen.atlas)
    against.require(asked, seen.model_input.volume.grid, placed)
    if seen.companions.reference is not None:
        return seen.companions
    mean = torch.from_numpy(against.reference.mean_scan().array)[None, None]
    return replace(seen.companions, reference=mean)


def _asked(model: Model, chosen: Chosen, target: Target, against: Against) -> dict[str, Any]:
    """As much of the provenance as is known before anything is computed: what a reference is to be held against."""
    default = "score" if model.output.is_score else "probability"
    start = target.start or default
    # Which class is predicted is known afterwards only; then it is compared as well.
    explained = (
        against.reference.question["target_class"] if target.class_index is None else model.classes[target.class_index]
    )
    return {
        "model": provenance.describe_model(model),
        "target_class": explained,
        "start": start,
        **({"start_reference": target.reference} if start == "distance" else {}),
        "methods": {
            f"{method.name}-{number}": {"title": method.title, "method": method.name, "options": options}
            for number, (method, options) in enumerate(chosen, start=1)
        },
    }


def _reference_record(model: Model, reference: Volume | None, compares: bool) -> dict[str, Any] | None:
    """What the scan was compared with."""
    if reference is not None:
        return provenance.describe_scan(reference)
    if not compares or model.control_mean is None:
        return None
    return {"control_mean_of": model.name, **model.card["control_mean"]}


def _chosen(methods: Sequence[str | MethodRequest], model: Model, atlas: Atlas | None, member_sd: bool) -> Chosen:
    """The methods with all their options; what cannot be asked of this network is refused before any computing."""
    requests = [_request(method) for method in methods]
    if not requests:
        raise UsageError("Choose at least one method.")
    if member_sd and not model.members:
        raise UsageError(f"{model.title} is a single network: there is no standard deviation over several.")
    chosen = [(get_method(r.name), get_method(r.name).complete(r.options)) for r in requests]
    if atlas is None and any(m.needs_regions for m, _ in chosen):
        raise UsageError(f"{next(m.title for m, _ in chosen if m.needs_regions)} needs an atlas.")
    return chosen


def _request(method: str | MethodRequest) -> MethodRequest:
    return method if isinstance(method, MethodRequest) else MethodRequest(method)


def _answered(
    model: Model,
    question: Question,
    seen: SeenScan,
    mover: Mover | None,
    with_spread: bool,
    turn: Callable[[], AbstractContextManager[object]],
    monitor: Monitor,
) -> tuple[Answered, dict[str, Any]]:
    """What the networks say of the scan and of the scan moved a little; the latter as a part of the provenance."""
    centre = seen.model_input.volume.grid.to_ras((np.array(model.shape) - 1) / 2)
    moves = small_moves(centre) if with_spread else ()
    mover = mover or (lambda moves: move_registered(seen.model_input.scan, model.grid, moves))
    share = moving_share(model, question, len(moves))
    with monitor.stage(0.0, share) as part:
        question = replace(question, moved=moved_images(model, mover, moves, part))
    with monitor.stage(share, 1.0) as part, turn():
        answered = run(model, question, part)
    if not answered.moved:
        return answered, {}
    distance = mean_move_mm(seen.model_input.unnormalised, moves)
    answers = AnswerSpread((answered.outcome.values, *answered.moved), distance)
    return answered, {answer_spread.KEY: answers.describe()}


def _found(model: Model, seen: SeenScan, answered: Answered, heatmaps: Sequence[Heatmap]) -> dict[str, Any]:
    """What was asked, of what, with what, and what came out: the larger part of the provenance."""
    first = heatmaps[0].attribution
    return {
        "peak_memory_mb": provenance.peak_memory_mb(),
        "software": provenance.software(),
        "device": describe_device(answered.device),
        "threads": torch.get_num_threads(),
        "scan": provenance.describe_scan(seen.model_input.scan),
        "preprocessing": list(seen.model_input.steps),
        "looks_registered": seen.look,
        "model": provenance.describe_model(model),
        "atlas": None if seen.atlas is None else provenance.describe_atlas(seen.atlas),
        "outcome": answered.outcome.describe(),
        "probabilities": {} if model.output.is_score else dict(answered.outcome.values),
        "target_class": model.classes[first.class_index],
        "start": first.start,
        "methods": {h.name: {"title": h.method.title, **h.attribution.summary()} for h in heatmaps},
    }


def _class_index(model: Model, target: str | int) -> int | None:
    if model.output.is_score:
        if target not in ("positive", "predicted", model.output.name, 0, "0"):
            raise UsageError(
                f"{model.title} gives a score, {model.output.name}; there is no class {target} to explain."
            )
        return 0
    if target == "positive":
        return model.positive_class
    if target == "predicted":
        return None
    if isinstance(target, int) or target.isdigit():
        index = int(target)
        if not 0 <= index < len(model.classes):
            count = len(model.classes)
            raise UsageError(f"{model.title} has {count} classes (0 to {count - 1}); there is no class {index}.")
        return index
    names = [name.lower() for name in model.classes]
    if target.lower() not in names:
        raise UnknownNameError("class", target, [*model.classes, "positive", "predicted"])
    return names.index(target.lower())
