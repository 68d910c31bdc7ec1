"""An explanation against a reference: more columns in its region tables, and z maps among its heatmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ADAttributionLogic.comparison.adjusted import adjusted_scores
from ADAttributionLogic.comparison.result import LEVEL, Z_SUFFIX, Comparison, MapComparison
from ADAttributionLogic.comparison.scores import (
    gain,
    gain_with_floor,
    percentile,
    require_spread_of,
    score_limit,
    standard_score,
)
from ADAttributionLogic.comparison.z_map import (
    SMOOTHING_MM,
    ZMap,
    pattern_z_map,
    require_finite,
    scaled_to,
    z_map,
)
from ADAttributionLogic.errors import ReferenceCohortError, UnknownNameError, UsageError
from ADAttributionLogic.explanation import Explanation, Heatmap
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.provenance import text_sha256
from ADAttributionLogic.reference.package import Reference
from ADAttributionLogic.reference.statistics import MAGNITUDE_SHARE, RegionStatistics, quantity_of
from ADAttributionLogic.relevance.region_table import RegionTable, with_scores
from ADAttributionLogic.volume import Volume

#: With fewer controls the limits are wide and the percentiles coarse, which the result says.
FEW_CONTROLS = 20

#: What z and percentile may be of; gain is that of sums, as published.
QUANTITIES = ("auto", "sum", "share", MAGNITUDE_SHARE, "absolute_sum")

_EVERY = "sum"

#: An option of methods whose maps are of the difference from another image.
_BASELINE = "baseline"


@dataclass(frozen=True, eq=False)
class Against:
    """With whom a scan is to be compared.

    Attributes
    ----------
    reference : Reference
    covariates : mapping of str to str
        Of this scan, by the reference's names; {} for no adjusting.
    smoothing_mm : float
        Of the z maps, full width at half maximum.
    quantity : {"auto", "sum", "share", "magnitude_share", "absolute_sum"}
        What z and percentile are of. ``auto`` takes the share of the magnitude (Σ R of the region / Σ |R| of all) where
        a map starts from the probability: its sums repeat P, which is skewed among controls and saturated in patients,
        so that every region of a patient would be beyond all limits (and 7 instead of 5 % of a control's). Maps of the
        difference from a baseline are about 0 in controls, with either sign: most of all theirs. Of other starts it
        takes the sum. References of an earlier version know no shares of magnitude: then it takes shares, and sums of
        maps of a difference.
    """

    reference: Reference
    covariates: Mapping[str, str] = field(default_factory=dict)
    smoothing_mm: float = SMOOTHING_MM
    quantity: str = "auto"

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise UnknownNameError("quantity to compare", self.quantity, QUANTITIES)

    def quantity_of(self, heatmap: Heatmap) -> str:
        """What z of a map is of."""
        if self.quantity != "auto":
            return self.quantity
        if heatmap.attribution.start != "probability":
            return _EVERY
        if self.reference.has_patterns:
            return MAGNITUDE_SHARE
        is_difference = any(option.name == _BASELINE for option in heatmap.method.options)
        return "share" if heatmap.method.is_conserving and not is_difference else _EVERY

    def describe(self) -> dict[str, Any]:
        """What a batch asks of every scan: covariates differ from scan to scan."""
        return {
            "reference": self.reference.name,
            "card_sha256": text_sha256(dict(self.reference.card)),
            "smoothing_mm": self.smoothing_mm,
            "quantity": self.quantity,
        }

    def require(self, record: Mapping[str, Any], grid: Grid, atlas: Mapping[str, Any] | None) -> None:
        """Refuse, before anything is computed, what cannot be compared.

        Parameters
        ----------
        record : mapping
            As much of the provenance as is known: model, target class, start, methods with their options.
        grid : Grid
            The network's.
        atlas : mapping, optional
            Its description.

        Raises
        ------
        ReferenceCohortError
            The question, or the atlas, is another one; a covariate is missing or cannot be taken.
        UnknownNameError
            A covariate that the reference does not have.
        UsageError
            Covariates for a reference that was not adjusted, or a reference of a single control.
        """
        require_spread_of(self.reference.n)
        self._require_covariates()
        compared_methods(self.reference, record, list(record["methods"]), grid, atlas)

    def _require_covariates(self) -> None:
        model = self.reference.covariates
        if not self.covariates:
            return
        if model is None:
            raise UsageError(
                f"The reference {self.reference.name} was built without covariates, so that nothing can be adjusted "
                f"for {', '.join(self.covariates)}. Leave them out, or build it with them."
            )
        for name in self.covariates:
            if name.lower() not in [known.lower() for known in model.names]:
                raise UnknownNameError("covariate in this reference", name, model.names)
        model.row(self.covariates)


def compared_methods(
    reference: Reference, record: Mapping[str, Any], names: Sequence[str], grid: Grid, atlas: Mapping[str, Any] | None
) -> dict[str, str]:
    """By the name of a map, the reference's map that it is compared with; methods that it does not have are left out.

    Raises
    ------
    ReferenceCohortError
        None of them can be compared, or one was asked otherwise than the reference's maps.
    """
    if atlas is not None:
        reference.require_same_atlas(atlas)
    known = {entry["method"] for entry in reference.card["methods"].values()}
    have = [name for name in names if record["methods"][name]["method"] in known]
    if not have:
        raise ReferenceCohortError(
            f"The reference {reference.name} has maps by {', '.join(sorted(known))}, and none of "
            f"{', '.join(names)} can be compared with it. Choose one of its methods as well."
        )
    return {name: reference.require_same_question(record, name, grid) for name in have}


def compare(explanation: Explanation, against: Against, is_prepared: bool = False) -> Explanation:
    """Compare an explanation on the network's grid with a reference.

    Parameters
    ----------
    explanation : Explanation
        As :func:`ADAttributionLogic.explain.explain` gives it.
    against : Against
    is_prepared : bool
        The scan was registered before, which the provenance does not say yet: then nothing is said of that here
        (:func:`with_notices` says it).

    Returns
    -------
    Explanation
        With a z map after each map that was compared, the scores in the tables of both, and ``comparison``.

    Raises
    ------
    ReferenceCohortError, UnknownNameError, UsageError
        As :meth:`Against.require`.
    ScanError
        A map has NaN or infinite voxels.
    """
    record, reference = explanation.provenance, against.reference
    grid = explanation.model_input.volume.grid
    against.require(record, grid, record["atlas"])
    maps = [heatmap for heatmap in explanation.heatmaps if not _is_derived(heatmap)]
    whole = [heatmap.name for heatmap in maps if not heatmap.attribution.is_partial]
    methods = compared_methods(reference, record, whole, grid, record["atlas"])
    heatmaps: list[Heatmap] = []
    found: list[MapComparison] = []
    for heatmap in explanation.heatmaps:
        method = methods.get(heatmap.name)
        if method is None:
            heatmaps.append(heatmap)
            continue
        one = _compared_map(heatmap, method, against)
        table = None if heatmap.table is None else with_scores(heatmap.table, one.scores)
        heatmaps += [replace(heatmap, table=table), _z_heatmap(heatmap, method, against, table)]
        found.append(one)
    notices = _notices(against, [h.method.title for h in maps if h.name not in methods])
    comparison = Comparison(
        reference.name,
        reference.title,
        text_sha256(dict(reference.card)),
        reference.n,
        dict(against.covariates),
        against.smoothing_mm,
        tuple(found),
        (),
    )
    described = {
        h.name: {"title": h.method.title, **h.attribution.summary(), **({"z_of": h.z_of} if h.z_of else {})}
        for h in heatmaps
    }
    known = {**record["methods"], **{n: d for n, d in described.items() if n not in record["methods"]}}
    record = {
        **record,
        "methods": {h.name: known[h.name] for h in heatmaps},
    }
    compared = replace(explanation, heatmaps=tuple(heatmaps), provenance=record, comparison=comparison)
    return with_notices(compared, notices if is_prepared else [*notices, *registration_notices(against, record)])


def with_notices(explanation: Explanation, notices: Sequence[str]) -> Explanation:
    """The same with more notices of the comparison, which stand among the notes of the explanation as well."""
    assert explanation.comparison is not None
    comparison = replace(explanation.comparison, notices=(*explanation.comparison.notices, *notices))
    record = {
        **explanation.provenance,
        "notes": [*explanation.provenance["notes"], *notices],
        "comparison": comparison.describe(),
    }
    return replace(explanation, comparison=comparison, provenance=record)


def registration_notices(against: Against, record: Mapping[str, Any]) -> list[str]:
    """What to say where the scan was registered otherwise than the controls."""
    note = against.reference.registration_note(record)
    return [note] if note else []


def _is_derived(heatmap: Heatmap) -> bool:
    """Whether it is a standard deviation over an ensemble's networks, or a z map."""
    return bool(heatmap.z_of) or (heatmap.agreement is None and heatmap.name.endswith("-sd"))


def _compared_map(heatmap: Heatmap, method: str, against: Against) -> MapComparison:
    reference = against.reference
    require_finite(heatmap.volume)
    name, limit = f"{heatmap.name}{Z_SUFFIX}", score_limit(reference.n, LEVEL)
    quantity = against.quantity_of(heatmap)
    if heatmap.table is None:
        return MapComparison(heatmap.name, name, quantity, limit, None, {}, {}, np.empty(0), {}, {}, {})
    controls = reference.regions(method, heatmap.table.atlas)
    if quantity not in controls.quantities:
        raise ReferenceCohortError(
            f"The reference {reference.name} was built by an earlier version and knows no {quantity}; compare by "
            f"{', '.join(controls.quantities)}, or build it anew."
        )
    own, sums = (_own(heatmap.table, controls, wanted) for wanted in (quantity, _EVERY))
    scores, adjusted_limit = region_scores(own, sums, quantity, controls, against)
    labels, known = controls.labels.tolist(), controls[quantity]
    return MapComparison(
        heatmap.name,
        name,
        quantity,
        limit,
        adjusted_limit,
        {column: dict(zip(labels, values.tolist(), strict=True)) for column, values in scores.items()},
        dict(zip(labels, own.tolist(), strict=True)),
        controls.probabilities,
        dict(zip(labels, known.quantiles.T, strict=True)),
        dict(zip(labels, known.mean.tolist(), strict=True)),
        dict(zip(labels, known.sd.tolist(), strict=True)),
    )


def region_scores(
    own: np.ndarray[Any, Any],
    sums: np.ndarray[Any, Any],
    quantity: str,
    controls: RegionStatistics,
    against: Against,
) -> tuple[dict[str, np.ndarray[Any, Any]], float | None]:
    """The columns of :data:`~.relevance.columns.COMPARED` and, with covariates, of ``ADJUSTED`` without their ranks.

    Parameters
    ----------
    own, sums : ndarray, shape (R,)
        The scan's values of the quantity, and its sums, in the order of the controls' labels.
    quantity : str
    controls : RegionStatistics
    against : Against

    Returns
    -------
    columns : dict of str to ndarray, shape (R,)
    limit : float or None
        Of the adjusted z.
    """
    known, summed = controls[quantity], controls[_EVERY]
    scores = {
        "z": standard_score(own, known.mean, known.sd),
        "percentile": percentile(own, controls.probabilities, known.quantiles.T, controls.n),
        "gain": gain(sums, summed.mean),
        "gain_floor": gain_with_floor(sums, summed.mean, summed.sd),
    }
    model = against.reference.covariates
    if model is None or not against.covariates:
        return scores, None
    row = model.row(against.covariates)
    leverage = float(row @ model.inverse @ row)
    found = adjusted_scores(own, row @ known.coefficients, known.residual_sd, leverage, model.dof, LEVEL)
    scores |= {
        "z_adjusted": found.z,
        "z_adjusted_low": found.low,
        "z_adjusted_high": found.high,
        "expected": found.expected,
        "expected_low": found.expected_low,
        "expected_high": found.expected_high,
    }
    return scores, found.limit


def _own(table: RegionTable, controls: RegionStatistics, quantity: str) -> np.ndarray[Any, Any]:
    """The scan's values in the order of the controls' regions."""
    sums = dict(zip(table.columns["label"][:-1].tolist(), quantity_of(table, quantity).tolist(), strict=True))
    missing = [name for label, name in zip(controls.labels.tolist(), controls.names, strict=True) if label not in sums]
    if missing:
        raise ReferenceCohortError(
            f"The atlas {table.atlas} lacks regions of the reference: {', '.join(missing[:5])}. Take the same atlas."
        )
    return np.array([sums[label] for label in controls.labels.tolist()])


def _z_heatmap(heatmap: Heatmap, method: str, against: Against, table: RegionTable | None) -> Heatmap:
    reference = against.reference
    made, scaled = _z_of_voxels(heatmap, method, against)
    width = f"smoothed by {made.smoothing_mm:g} mm" if made.smoothing_mm else "not smoothed"
    note = (
        f"z of every voxel{scaled} against {reference.n} controls ({reference.name}), {width}; 0 where they have no "
        "spread. It shows where the map is unusual, not where disease is."
    )
    kind = replace(heatmap.method, title=f"{heatmap.method.title}, z", is_signed=True, is_conserving=False)
    values = replace(
        heatmap.attribution,
        values=made.volume.array[None],
        to_attribute=0.0,
        relevance_sum=0.0,
        unattributed=0.0,
        is_conserving=False,
        relevance_by_layer=None,
        conservation=None,
        region_drops=None,
        region_pairs=(),
        agreement=None,
        members=None,
        notes=(note,),
    )
    volume = Volume(made.volume.array, heatmap.volume.affine, f"{kind.title} of {heatmap.volume.source}")
    return Heatmap(f"{heatmap.name}{Z_SUFFIX}", kind, values, volume, table, z_of=heatmap.name)


def _z_of_voxels(heatmap: Heatmap, method: str, against: Against) -> tuple[ZMap, str]:
    """The z map, and how the map was scaled for it.

    Of the pattern where regions are compared by shares: then map and regions say the same. Any other width, and
    references of an earlier version, have the spread of single voxels only, which is too large for a smoothed map.
    """
    reference, quantity = against.reference, against.quantity_of(heatmap)
    sd = reference.voxel_sd(method)
    if quantity in ("share", MAGNITUDE_SHARE) and against.smoothing_mm == SMOOTHING_MM:
        pattern = reference.pattern(method)
        if pattern is not None:
            return pattern_z_map(heatmap.volume, *pattern, sd.array > 0), ", as part of the map's magnitude,"
    mean, own, scaled = reference.voxel_mean(method), heatmap.volume, ""
    if quantity in ("share", MAGNITUDE_SHARE):
        own, scaled = scaled_to(own, mean), ", scaled to the sum of their mean map"
    return z_map(own, mean, sd, against.smoothing_mm), scaled


def _notices(against: Against, left_out: Sequence[str]) -> list[str]:
    reference, model = against.reference, against.reference.covariates
    found = []
    if reference.n < FEW_CONTROLS:
        found.append(
            f"The reference {reference.name} has only {reference.n} controls: a further one exceeds |z| = "
            f"{score_limit(reference.n):.2f} in 5 % of the regions, and percentiles are coarse."
        )
    if left_out:
        found.append(f"Not compared, because the reference {reference.name} has no such map: {', '.join(left_out)}.")
    if model is not None and not against.covariates:
        found.append(f"z is not adjusted: the reference {reference.name} can adjust for {', '.join(model.names)}.")
    if model is not None and against.covariates:
        found += [
            f"{sentence} The adjusted z is drawn on unseen ground." for sentence in model.beyond(against.covariates)
        ]
    return found
