"""The main job in one function: a scan, a network, methods and an atlas in; heatmaps and region tables out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

import ADAttributionLogic.attribution  # noqa: F401 (registers the methods)
from ADAttributionLogic import answer_spread, provenance
from ADAttributionLogic.answer_spread import AnswerSpread, mean_move_mm, small_moves, spread_of
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.attribution.registry import Companions, Method, get_method
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.attribution.target import Start, Target
from ADAttributionLogic.device import choose_device, describe_device
from ADAttributionLogic.ensembles.agreement import Agreement
from ADAttributionLogic.errors import GridMismatchError, UnknownNameError, UsageError
from ADAttributionLogic.geometry import Affine, Grid
from ADAttributionLogic.member_runs import Found, Question, moving_share, run
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.outcome import Outcome
from ADAttributionLogic.preprocessing.model_input import ModelInput, prepare
from ADAttributionLogic.preprocessing.moved_scans import move_registered
from ADAttributionLogic.preprocessing.pipeline import Preprocessed
from ADAttributionLogic.registered_look import registered_look, warning_of
from ADAttributionLogic.relevance.region_table import (
    RegionIndex,
    RegionTable,
    index_regions,
    region_table,
)
from ADAttributionLogic.volume import Volume, resample

#: Brings the scan into the network's space once for each rigid move (RAS mm of that space).
Mover = Callable[[Sequence[Affine]], Iterator[Volume]]


@dataclass(frozen=True)
class MethodRequest:
    """A method to run, with those of its options that are not the default."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One method's result.

    Attributes
    ----------
    name : str
        Unique in its explanation: the method, with ``-2`` … when it was asked for several times.
    method : Method
    attribution : Attribution
    volume : Volume
        float32, on the network's grid.
    table : RegionTable or None
        None without an atlas.
    agreement : Agreement or None
        Of an ensemble, with an atlas: how far the networks agree on the regions, on the network's grid.
    """

    name: str
    method: Method
    attribution: Attribution
    volume: Volume
    table: RegionTable | None
    agreement: Agreement | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """All that :func:`explain` found.

    Attributes
    ----------
    model : Model
    model_input : ModelInput
        The scan as the network saw it.
    outcome : Outcome
        What the network says: probabilities of classes or a score, and what each network of an ensemble says.
    target_class : str
        What all heatmaps explain: a class, or the name of the score.
    heatmaps : tuple of Heatmap
    atlas : Atlas or None
        On the network's grid.
    provenance : dict
        Everything needed to repeat it, as plain values.
    preprocessed : Preprocessed or None
        How the scan came onto the network's grid, when :func:`~.explain_native.explain_native` brought it there.
    """

    model: Model
    model_input: ModelInput
    outcome: Outcome
    target_class: str
    heatmaps: tuple[Heatmap, ...]
    atlas: Atlas | None
    provenance: dict[str, Any]
    preprocessed: Preprocessed | None = None

    @property
    def probabilities(self) -> dict[str, float]:
        """By class name; {} for a network that gives a score."""
        return {} if self.outcome.output.is_score else dict(self.outcome.values)

    @property
    def predicted_class(self) -> str:
        """The most probable class, or the level of the score."""
        return self.outcome.verdict

    @property
    def spread(self) -> dict[str, float]:
        """How far each class's probability, or the score, moves with the scan's placement: what stands after ±."""
        return spread_of(self.provenance)

    @property
    def scan(self) -> Volume:
        """The scan on the network's grid, with its own intensities."""
        return self.model_input.unnormalised


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
    member_sd: bool = False,
    is_prepared: bool = False,
    mover: Mover | None = None,
    with_spread: bool = True,
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
        A scan to compare with, such as a mean of controls, for occlusion with the fill ``reference``; it is prepared
        as the scan is.
    member_sd : bool
        Of an ensemble, also a map of the standard deviation over its networks, per method.
    is_prepared : bool
        Its place was checked already; otherwise the result says when a scan does not look registered.
    mover : callable, optional
        Makes the moved scans whose answers say how much the placement leaves open; without it the given scan is moved
        (:func:`~.preprocessing.moved_scans.move_registered`).
    with_spread : bool
        Compute those answers (:mod:`~.answer_spread`): four forward passes more.
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
    requests = [m if isinstance(m, MethodRequest) else MethodRequest(m) for m in methods]
    if not requests:
        raise UsageError("Choose at least one method.")
    if member_sd and not model.members:
        raise UsageError(f"{model.title} is a single network: there is no standard deviation over several.")
    chosen = [(get_method(r.name), get_method(r.name).complete(r.options)) for r in requests]
    if atlas is None and any(m.needs_regions for m, _ in chosen):
        raise UsageError(f"{next(m.title for m, _ in chosen if m.needs_regions)} needs an atlas.")
    monitor.report(0.0, "preparing the scan")
    model_input = prepare(scan, model.grid, model.normalisation, replace_non_finite=replace_non_finite)
    _require_shape(model, model_input)
    look = None if is_prepared else registered_look(model_input.unnormalised, model.grid)
    placed = None if atlas is None else atlas.on_grid(model_input.volume.grid)
    index = None if placed is None else index_regions(placed)
    companions = Companions(
        regions=None if placed is None else torch.from_numpy(placed.labels.array),
        mask=None if mask is None else _on_grid_of(model_input, mask),
        reference=None if reference is None else _prepared(model, model_input, reference, replace_non_finite),
    )

    moves = small_moves(model_input.volume.grid.to_ras((np.array(model.shape) - 1) / 2)) if with_spread else ()
    mover = mover or (lambda moves: move_registered(model_input.scan, model.grid, moves))
    question = Question(
        torch.from_numpy(model_input.array)[None, None],
        chosen,
        Target(
            _class_index(model, target), start, model.output.reference if start_reference is None else start_reference
        ),
        choose_device(device),
        companions,
        index,
        model_input.volume.grid.voxel_volume_mm3,
        member_sd,
    )
    share = moving_share(model, question, len(moves))
    with monitor.stage(0.0, share) as part:
        question = replace(question, moved=_moved_images(model, mover, moves, part))
    with monitor.stage(share, 1.0) as part:
        answered = run(model, question, part)
    spread = {}
    if answered.moved:
        answers = AnswerSpread(
            (answered.outcome.values, *answered.moved), mean_move_mm(model_input.unnormalised, moves)
        )
        spread = {answer_spread.KEY: answers.describe()}
    heatmaps: list[Heatmap] = []
    for (method, _), found in zip(chosen, answered.found, strict=False):
        name = _unique_name(method.name, [h.name for h in heatmaps])
        result = found.attribution
        quantity = answered.outcome.quantity(model.classes[result.class_index], result.start)
        heatmaps += _heatmaps(name, method, found, model_input, index, quantity)
    notes = tuple(answered.notes)
    is_cancelled = monitor.is_cancelled
    if is_cancelled:
        if not model.members:
            finished = sum(not h.attribution.is_partial for h in heatmaps)
            notes += (f"Cancelled after {finished} of {len(chosen)} methods were finished; what there was is kept.",)
        monitor = monitor.deaf()
    target_class = model.classes[heatmaps[0].attribution.class_index]
    record = {
        "notice": provenance.NOTICE,
        "date": date,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": provenance.peak_memory_mb(),
        "software": provenance.software(),
        "device": describe_device(answered.device),
        "threads": torch.get_num_threads(),
        "scan": provenance.describe_scan(model_input.scan),
        "mask": None if mask is None else provenance.describe_scan(mask),
        "reference": None if reference is None else provenance.describe_scan(reference),
        "preprocessing": list(model_input.steps),
        "looks_registered": look,
        "notes": [
            *filter(None, (warning_of(look),)),
            *model_input.notes,
            *(() if placed is None else placed.labels.notes),
            *notes,
        ],
        "model": provenance.describe_model(model),
        "atlas": None if placed is None else provenance.describe_atlas(placed),
        "outcome": answered.outcome.describe(),
        **spread,
        "probabilities": {} if model.output.is_score else dict(answered.outcome.values),
        "target_class": target_class,
        "start": heatmaps[0].attribution.start,
        "is_cancelled": is_cancelled,
        "methods": {h.name: {"title": h.method.title, **h.attribution.summary()} for h in heatmaps},
    }
    monitor.report(1.0, "done")
    return Explanation(model, model_input, answered.outcome, target_class, tuple(heatmaps), placed, record)


def _heatmaps(
    name: str, method: Method, found: Found, model_input: ModelInput, index: RegionIndex | None, quantity: str
) -> list[Heatmap]:
    """What a method found as volumes: the map, and after it the standard deviation over the networks, if there is."""
    result = found.attribution
    made = [_heatmap(name, method, result, model_input, index, found.agreement, quantity)]
    if found.spread is not None:
        deviation = replace(method, title=f"{method.title}, sd over networks", is_signed=False, is_conserving=False)
        total = float(found.spread.sum(dtype=float))
        values = replace(
            result,
            values=found.spread,
            to_attribute=total,
            relevance_sum=total,
            unattributed=0.0,
            is_conserving=False,
            region_drops=None,
            region_pairs=(),
            agreement=None,
            notes=("The standard deviation (n − 1) of the networks' maps, voxel by voxel.",),
        )
        made.append(_heatmap(f"{name}-sd", deviation, values, model_input, index, None, quantity))
    return made


def _heatmap(
    name: str,
    method: Method,
    result: Attribution,
    model_input: ModelInput,
    index: RegionIndex | None,
    agreement: Agreement | None,
    quantity: str,
) -> Heatmap:
    volume = Volume(result.heatmap, model_input.volume.affine, f"{method.title} of {model_input.scan.source}")
    spread = None if agreement is None else agreement.by_label
    table = None if index is None else region_table(volume, index, name, result.region_drops, spread, quantity)
    return Heatmap(name, method, result, volume, table, agreement)


def _moved_images(model: Model, mover: Mover, moves: Sequence[Affine], monitor: Monitor) -> tuple[torch.Tensor, ...]:
    """The scan as the network sees it after each move."""
    images = []
    for number, scan in enumerate(mover(moves) if moves else ()):
        monitor.report(number / len(moves), "moving the scan by fractions of a millimetre")
        images.append(torch.from_numpy(prepare(scan, model.grid, model.normalisation).array)[None, None])
    return tuple(images)


def _on_grid_of(model_input: ModelInput, mask: Volume) -> torch.Tensor:
    """A mask on the network's grid."""
    return torch.from_numpy(resample(mask, model_input.volume.grid, "nearest").array != 0)


def _prepared(
    model: Model, model_input: ModelInput, reference: Volume, replace_non_finite: float | None
) -> torch.Tensor:
    """A reference scan as the network would see it."""
    prepared = prepare(reference, model_input.volume.grid, model.normalisation, replace_non_finite=replace_non_finite)
    return torch.from_numpy(prepared.array)[None, None]


def _require_shape(model: Model, model_input: ModelInput) -> None:
    grid: Grid = model_input.volume.grid
    if grid.shape != model.shape:
        given, needed = ("×".join(map(str, s)) for s in (grid.shape, model.shape))
        raise GridMismatchError(
            f"{model.title} takes images of {needed} voxels, but the scan has {given}, and the model says nothing "
            f"about the space it was trained in, so that the scan cannot be resampled. Resample it to {needed} voxels."
        )


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


def _unique_name(name: str, taken: Sequence[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    return candidate
