"""Explaining a scan as it left the scanner: preprocess it, explain it, and carry the result back onto it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ADAttributionLogic import provenance
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.comparison.comparing import registration_notices, with_notices
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.explain import Explanation, Heatmap, MethodRequest, explain, require_comparable
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preparation import Space, registration_advice
from ADAttributionLogic.preprocessing.cache import preprocess_cached
from ADAttributionLogic.preprocessing.carried_maps import map_on_scan
from ADAttributionLogic.preprocessing.moved_scans import move_prepared
from ADAttributionLogic.preprocessing.pipeline import Options, Preprocessed
from ADAttributionLogic.registration.space_transform import resample_to_model
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.relevance.region_table import RegionIndex, index_regions, region_table, with_scores
from ADAttributionLogic.volume import Volume, resample


def preprocess_for(
    scan: Volume,
    model: Model,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    mask: Volume | None = None,
    cache: Path | None = None,
    monitor: Monitor | None = None,
) -> tuple[Preprocessed, bool]:
    """Bring a scan onto a model's grid; the second value says whether it came from the cache.

    Raises
    ------
    UsageError
        The model knows no space.
    ScanError, Cancelled
        As :func:`~.preprocessing.pipeline.preprocess`.
    """
    if model.grid is None:
        raise UsageError(
            f"{model.title} says nothing about the space that it was trained in, so that no scan can be registered to "
            "it. Give a scan on its own grid (--registration none)."
        )
    return preprocess_cached(scan, model.grid, _template(), options, mask=mask, monitor=monitor, folder=cache)


@cache
def _template() -> RegistrationTarget:
    """Kept, with the masks, distances and coarser templates that are made of it: the next scan needs them as well."""
    return RegistrationTarget(load_template())


def explain_native(
    scan: Volume,
    model: Model,
    methods: Sequence[str | MethodRequest],
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    space: Space = "native",
    accept_quality: bool = False,
    mask: Volume | None = None,
    atlas: Atlas | None = None,
    atlas_space: Space = "model",
    cache: Path | None = None,
    monitor: Monitor | None = None,
    **explain_options: Any,
) -> Explanation:
    """Explain a network's decision on a scan as acquired.

    Parameters
    ----------
    scan : Volume
        T1 of a head or brain, in any orientation, spacing and place.
    model : Model
    methods : sequence of str or MethodRequest
    options : Options
        Of the preprocessing.
    space : {"native", "model"}
        Where scan, heatmaps, atlas and tables of the result are.
    accept_quality : bool
        Go on although a quality check did not pass.
    mask : Volume, optional
        The brain, in the scan's space.
    atlas : Atlas, optional
    atlas_space : {"model", "native"}
        Where the atlas lies; regions that a user drew lie on the scan.
    cache : Path, optional
        Folder of preprocessed scans; the user's cache folder by default.
    monitor : Monitor, optional
    **explain_options
        As those of :func:`~.explain.explain`: target, start, device, against.

    Returns
    -------
    Explanation
        Its ``preprocessed`` holds the transforms, the checks, and the way back.

    Raises
    ------
    QualityError
        A check did not pass.
    ADAttributionError
        As :func:`~.explain.explain`.
    """
    monitor = monitor or Monitor()
    _require_comparable(model, methods, atlas if atlas_space == "model" else None, explain_options)
    with monitor.stage(0.0, 0.5) as part:
        prepared, cached = preprocess_for(scan, model, options, mask=mask, cache=cache, monitor=part)
    accepted = prepared.quality.require(accept_quality)
    drawn = atlas if atlas_space == "native" else None
    placed = _atlas_on_model(drawn, prepared) if drawn else atlas
    with monitor.stage(0.5, 0.95) as part:
        found = explain(
            prepared.brain,
            model,
            methods,
            atlas=placed,
            is_prepared=True,
            mover=lambda moves: move_prepared(prepared, moves),
            monitor=part,
            **explain_options,
        )
    record = {
        **found.provenance,
        "scan": provenance.describe_scan(prepared.scan),
        "space": space,
        "preprocessing": [*prepared.provenance["steps"], *found.provenance["preprocessing"]],
        "preprocessing_decisions": {k: v for k, v in prepared.provenance.items() if k != "steps"},
        "preprocessing_from_cache": cached,
        "brain_mask_sha256": None if mask is None else provenance.array_sha256(mask.array),
        "quality": prepared.quality.describe(),
        "notes": [*prepared.notes, *_advice(model, prepared), *accepted, *found.provenance["notes"]],
    }
    explanation = replace(found, provenance=record, preprocessed=prepared)
    if explanation.comparison is not None:
        explanation = with_notices(explanation, registration_notices(explain_options["against"], record))
    if space == "model":
        return explanation
    monitor.report(0.95, "carrying the heatmaps back onto the scan")
    return in_native_space(explanation, prepared, drawn)


def _require_comparable(
    model: Model, methods: Sequence[str | MethodRequest], atlas: Atlas | None, explain_options: Mapping[str, Any]
) -> None:
    """Controls that were asked otherwise are refused before a registration is paid for."""
    against = explain_options.get("against")
    if against is None or model.grid is None:
        return
    asked = {name: explain_options[name] for name in ("target", "start", "start_reference") if name in explain_options}
    require_comparable(model, methods, against, model.grid, atlas=atlas, **asked)


def _advice(model: Model, prepared: Preprocessed) -> list[str]:
    advice = registration_advice(model.card.get("training", {}), prepared.transform.kind)
    return [advice] if advice else []


def in_native_space(explanation: Explanation, prepared: Preprocessed, drawn: Atlas | None = None) -> Explanation:
    """The same explanation on the scan's own grid: scan, heatmaps, atlas and tables.

    Regions that were `drawn` on the scan are taken as they were drawn, instead of back from the model's grid.
    """
    atlas = None if explanation.atlas is None else atlas_on_scan(explanation.atlas, prepared)
    if drawn is not None:
        atlas = drawn.on_grid(prepared.scan.grid)
    index = None if atlas is None else index_regions(atlas)
    comparison = explanation.comparison
    scores = {} if comparison is None else {found.name: found.scores for found in comparison.maps}
    carried = [_heatmap_on_scan(heatmap, prepared, index, scores) for heatmap in explanation.heatmaps]
    tables = {heatmap.name: heatmap.table for heatmap in carried}
    heatmaps = tuple(replace(h, table=tables[h.z_of]) if h.z_of else h for h in carried)
    seen = replace(explanation.model_input, unnormalised=prepared.scan, scan=prepared.scan)
    # Ranks do not add up: they are carried as values.
    ranks = explanation.consensus and tuple(relevance_on_scan(v, prepared, False) for v in explanation.consensus)
    return replace(
        explanation, model_input=seen, heatmaps=heatmaps, atlas=atlas, consensus=(ranks[0], ranks[1]) if ranks else None
    )


def atlas_on_scan(atlas: Atlas, prepared: Preprocessed) -> Atlas:
    """An atlas of model space on the scan's own grid."""
    return replace(atlas, labels=prepared.to_scan(atlas.labels, "nearest"))


def _atlas_on_model(atlas: Atlas, prepared: Preprocessed) -> Atlas:
    """An atlas that was drawn on the scan, on the model's grid."""
    if prepared.transform.kind == "identity":
        labels = resample(atlas.labels, prepared.brain.grid, "nearest")
    else:
        labels = resample_to_model(atlas.labels, prepared.transform, prepared.brain.grid, "nearest")
    return replace(atlas, labels=labels)


def _heatmap_on_scan(
    heatmap: Heatmap,
    prepared: Preprocessed,
    index: RegionIndex | None,
    scores: Mapping[str, Mapping[str, Mapping[int, float]]],
) -> Heatmap:
    volume = relevance_on_scan(heatmap.volume, prepared, heatmap.method.is_conserving)
    spread = None if heatmap.agreement is None else heatmap.agreement.by_label
    quantity = heatmap.table.quantity if heatmap.table else ""
    table = (
        None
        if index is None
        else region_table(volume, index, heatmap.name, heatmap.attribution.region_drops, spread, quantity)
    )
    if table is not None and scores.get(heatmap.name):
        # Controls are known on the network's grid; there the scan was compared with them.
        table = with_scores(table, scores[heatmap.name])
    return replace(heatmap, volume=volume, table=table)


def relevance_on_scan(values: Volume, prepared: Preprocessed, is_additive: bool) -> Volume:
    """Carry a heatmap from the model's grid onto the scan's own; see :func:`~.carried_maps.map_on_scan`."""
    carried = map_on_scan(values, prepared.transform, prepared.scan.grid, is_additive)
    return Volume(carried.array, prepared.scan.affine, values.source)
