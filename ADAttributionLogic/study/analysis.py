"""What a study says of one set of maps: every region in every case, tested, with and without covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.study.cases import THRESHOLD, area_under_curve, cases, performance
from ADAttributionLogic.study.covariates import Design, design, residualised
from ADAttributionLogic.study.distant_pair import LEAST_PROBABILITY, DistantPair, most_distant_pair
from ADAttributionLogic.study.group_regions import (
    Interval,
    bootstrap_gain,
    density,
    group_gain,
    individual_scores,
    mean_of,
    ranks,
    shares,
)
from ADAttributionLogic.study.material import MapSet, Material
from ADAttributionLogic.study.permutation import GroupTest, group_test
from ADAttributionLogic.study_figures.tables import Table

FloatArray = npt.NDArray[np.float64]

#: Which of the two to read.
SUMS_OR_SHARES = (
    "Where the relevance adds up to the answer, sums repeat the answer in every region: controls have almost none, so "
    "that z of a patient's sums is large everywhere, most of all for maps of a difference (DeepLIFT, integrated "
    "gradients), which are about 0 in controls. Shares say where a map differs."
)


@dataclass(frozen=True)
class StudyOptions:
    """How a study is computed.

    Attributes
    ----------
    covariates : tuple of str
        Columns of the table that are taken out, with coefficients from controls only.
    by : str
        A column: gains also for each of its values.
    threshold : float
        Of the probability or score, from which on the network says "positive".
    permutations, resamples : int
        Of the tests, and of the bootstrap.
    level : float
        Of the intervals.
    seed : int
    """

    covariates: tuple[str, ...] = ()
    by: str = ""
    threshold: float = THRESHOLD
    permutations: int = 5000
    resamples: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True, eq=False)
class SetAnalysis:
    """All that is computed from the region sums of one set of maps.

    Attributes
    ----------
    maps : MapSet
    members : dict of str to ndarray of bool, shape (n,)
        Cases; subjects without a result belong to none.
    gains : dict of str to Interval
        By case.
    tests : dict of str to GroupTest
        Patients against controls, of sums and of :func:`~.group_regions.shares`, by what their columns end in: ``""``,
        ``" of shares"`` and, with covariates taken out, ``" adjusted"``, ``" of shares adjusted"``.
    scores : dict of str to ndarray, shape (n, R)
        ``gain``, ``gain_floor``, ``z``, ``z_share`` and, with covariates, ``z_adjusted`` and ``z_share_adjusted`` of
        every subject; NaN without a result.
    pair : DistantPair or None
    """

    maps: MapSet
    members: dict[str, npt.NDArray[np.bool_]]
    gains: dict[str, Interval]
    tests: dict[str, GroupTest]
    scores: dict[str, FloatArray]
    pair: DistantPair | None


def members_of(maps: MapSet, material: Material, threshold: float) -> dict[str, npt.NDArray[np.bool_]]:
    """Cases of one set of maps; subjects without a result belong to none."""
    known = maps.has_result
    found = cases(material.is_positive, np.where(known, maps.probability, 0.0), material.groups, threshold)
    return {name: members & known for name, members in found.items()}


def covariate_design(material: Material, options: StudyOptions) -> Design | None:
    """The covariates as numbers; None without any."""
    if not options.covariates:
        return None
    return design({name: material.column(name) for name in options.covariates}, ~material.is_positive)


def analyse(maps: MapSet, material: Material, options: StudyOptions, monitor: Monitor) -> SetAnalysis:
    """Compute everything for one set of maps.

    Raises
    ------
    UsageError
        A group is too small, or a covariate cannot be used.
    """
    members = members_of(maps, material, options.threshold)
    known, positive = maps.has_result, material.is_positive
    controls = members[material.groups.negative]
    sums = np.where(known[:, None], maps.sums, 0.0)
    drawn = (options.resamples, options.level, options.seed)
    gains = {name: bootstrap_gain(sums, case, controls, *drawn) for name, case in members.items()}
    case = positive[known]
    compared = {"": maps.sums[known], " of shares": shares(maps.sums[known], maps.absolute[known])}
    made = _known_design(material, options, known, case)
    wanted: list[tuple[str, FloatArray, Design | None]] = [(of, values, None) for of, values in compared.items()]
    wanted += [(f"{of} adjusted", values, made) for of, values in compared.items() if made is not None]
    tests = {}
    for number, (name, values, covariates) in enumerate(wanted):
        with monitor.stage(number / len(wanted), (number + 1) / len(wanted)) as part:
            tests[name] = group_test(
                values, case, covariates=covariates, permutations=options.permutations, seed=options.seed, monitor=part
            )
    scores = individual_scores(compared[""], ~case)
    scores["z_share"] = individual_scores(compared[" of shares"], ~case)["z"]
    if made is not None:
        for name, values in (("z_adjusted", compared[""]), ("z_share_adjusted", compared[" of shares"])):
            scores[name] = individual_scores(residualised(values, made, ~case), ~case)["z"]
    scores = {name: _spread_out(found, known) for name, found in scores.items()}
    sure = members["TP"] & (np.where(known, maps.probability, 0.0) > LEAST_PROBABILITY)
    pair = most_distant_pair(sums, sure)
    return SetAnalysis(maps, members, gains, tests, scores, pair)


def _known_design(
    material: Material, options: StudyOptions, known: npt.NDArray[np.bool_], case: npt.NDArray[np.bool_]
) -> Design | None:
    """The covariates of those who have a result; None without any."""
    if not options.covariates:
        return None
    columns = {name: [v for v, k in zip(material.column(name), known, strict=True) if k] for name in options.covariates}
    return design(columns, ~case)


def _spread_out(values: FloatArray, known: npt.NDArray[np.bool_]) -> FloatArray:
    whole = np.full((known.size, values.shape[1]), np.nan)
    whole[known] = values
    return whole


# --------------------------------------------------------------------------------------------------------------- tables


def performance_table(sets: Sequence[MapSet], material: Material, threshold: float) -> Table:
    """How well each network tells the groups apart, one row per network."""
    rows = []
    for network, maps in _most_complete(sets).items():
        members = members_of(maps, material, threshold)
        known = maps.has_result
        found = performance(members, material.groups)
        area = area_under_curve(material.is_positive[known], maps.probability[known])
        rows.append({"network": network, **found, "auc": area})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Table("performance", "How well the network tells the groups apart", columns)


def subjects_table(sets: Sequence[MapSet], material: Material, threshold: float) -> Table:
    """Who counts as what, one row per subject."""
    columns: dict[str, Any] = {
        "subject": [s.subject for s in material.subjects],
        "diagnosis": [s.diagnosis for s in material.subjects],
    }
    for network, maps in _most_complete(sets).items():
        members = members_of(maps, material, threshold)
        names = ("TP", "TN", "FP", "FN")
        columns[f"answer ({network})"] = maps.probability
        columns[f"case ({network})"] = [
            next((name for name in names if members[name][n]), None) for n in range(len(material.subjects))
        ]
    return Table("subjects", "Who counts as what", columns)


def region_table(found: SetAnalysis, material: Material) -> Table:
    """One row per region: means, densities, gains with intervals, tests, ranks."""
    regions, groups = material.regions, material.groups
    columns: dict[str, Any] = {
        "label": regions.label,
        "region": regions.name,
        "side": regions.hemisphere,
        "volume_mm3": regions.volume_mm3,
    }
    for name, case in found.members.items():
        mean = mean_of(found.maps.sums, case)
        columns |= {f"sum {name}": mean, f"density {name}": density(mean, regions.volume_mm3)}
        columns[f"absolute sum {name}"] = mean_of(found.maps.absolute, case)
    for name, gain in found.gains.items():
        if name == groups.negative:
            continue
        columns |= {f"gain {name}": gain.estimate, f"gain {name} low": gain.low, f"gain {name} high": gain.high}
    for name in found.scores:
        if name != "gain":
            columns[f"mean {name} TP"] = mean_of(found.scores[name], found.members["TP"])
    for name, test in found.tests.items():
        columns |= {f"difference{name}": test.difference, f"t{name}": test.t, f"p{name}": test.p}
        columns |= {f"p family-wise{name}": test.p_familywise, f"q{name}": test.q}
    ranked = regions.is_ranked
    columns["rank sum TP"] = _or_none(ranks(columns["sum TP"], ranked))
    columns["rank density TP"] = _or_none(ranks(columns["density TP"], ranked))
    columns["rank gain TP"] = _or_none(ranks(columns["gain TP"], ranked))
    for name in ("z", "z_share"):
        columns[f"rank {name} TP"] = _or_none(ranks(columns[f"mean {name} TP"], ranked))
    about = (
        "Sums are signed, density is per mm³; gain is the case's mean sum divided by that of all controls, with its "
        "bootstrap interval over subjects; gain_floor and z compare each patient with the controls; t compares both "
        "groups, p by permutation, family-wise by the maximum statistic, q by Benjamini–Hochberg. Of shares: of what "
        f"part of each map's magnitude a region has. {SUMS_OR_SHARES} Regions below 100 mm³ have no rank."
    )
    return Table(f"regions-{found.maps.key}", f"Regions: {found.maps.title}", columns, about)


def score_table(found: SetAnalysis, material: Material, name: str) -> Table:
    """One score of every subject and region, subjects in rows; controls against the other controls."""
    chosen = found.maps.has_result
    columns: dict[str, Any] = {"subject": [s.subject for s, k in zip(material.subjects, chosen, strict=True) if k]}
    columns |= {region: found.scores[name][chosen, n] for n, region in enumerate(material.regions.name)}
    return Table(f"{name}-{found.maps.key}", f"{name} of every subject: {found.maps.title}", columns)


def top_table(found: SetAnalysis, material: Material, count: int = 10) -> Table:
    """The published form: the top regions of true positives by sum, density and gain, and by z of sums and shares."""
    ranked, regions = material.regions.is_ranked, material.regions
    mean = mean_of(found.maps.sums, found.members["TP"])
    quantities: Mapping[str, FloatArray] = {
        "sum": mean,
        "density": density(mean, regions.volume_mm3),
        "gain": found.gains["TP"].estimate,
        "z": mean_of(found.scores["z"], found.members["TP"]),
        "z of shares": mean_of(found.scores["z_share"], found.members["TP"]),
    }
    columns: dict[str, Any] = {"rank": list(range(1, count + 1))}
    for name, values in quantities.items():
        order = np.argsort(-np.where(ranked & np.isfinite(values), values, -np.inf), kind="stable")[:count]
        columns[f"by {name}"] = [regions.name[n] for n in order]
        columns[name] = values[order]
    return Table(f"top-{found.maps.key}", f"Top regions of true positives: {found.maps.title}", columns)


def gain_stability_table(found: SetAnalysis, material: Material, options: StudyOptions, studies: int = 200) -> Table:
    """How much plain gain, gain with floor, and gain with floor of shares would change with other controls.

    Coefficient of variation (sd / |mean|) of each over resampled groups of controls, of the mean true positive. Where
    relevance adds up to a probability, gains of sums are divided by the controls' mean probability as well, which is
    skewed: some dozens of controls know it to 15 %, and no floor changes that. Gains of shares do not depend on it.
    """
    from ADAttributionLogic.comparison.scores import gain, gain_with_floor

    generator = np.random.default_rng(options.seed)
    parts = shares(found.maps.sums, found.maps.absolute)
    own, own_parts = (mean_of(values, found.members["TP"]) for values in (found.maps.sums, parts))
    rows = np.flatnonzero(found.members[material.groups.negative])
    plain, floored, shared = np.empty((3, studies, len(own)))
    for n in range(studies):
        chosen = generator.choice(rows, rows.size)
        drawn, drawn_parts = found.maps.sums[chosen], parts[chosen]
        plain[n] = gain(own, drawn.mean(axis=0))
        floored[n] = gain_with_floor(own, drawn.mean(axis=0), drawn.std(axis=0, ddof=1))
        shared[n] = gain_with_floor(own_parts, drawn_parts.mean(axis=0), drawn_parts.std(axis=0, ddof=1))
    columns: dict[str, Any] = {"region": material.regions.name, "gain TP": found.gains["TP"].estimate}
    columns["largest gain of one TP"] = _largest(found.scores["gain"], found.members["TP"])
    for name, values in (("plain gain", plain), ("gain with floor", floored), ("gain with floor of shares", shared)):
        columns[f"cv of {name}"] = values.std(axis=0, ddof=1) / np.abs(values.mean(axis=0))
    return Table(f"gain-stability-{found.maps.key}", f"Gain with other controls: {found.maps.title}", columns)


def by_table(found: SetAnalysis, material: Material, options: StudyOptions) -> Table:
    """Gain of true positives within each value of a column (a site, a sex), against controls of the same value."""
    values = material.column(options.by)
    columns: dict[str, Any] = {"region": material.regions.name}
    for level in sorted(set(filter(None, values))):
        inside = np.array([v == level for v in values])
        case, controls = found.members["TP"] & inside, found.members[material.groups.negative] & inside
        columns[f"n TP {level}"] = [int(case.sum())] * len(material.regions.name)
        columns[f"gain TP {level}"] = group_gain(found.maps.sums, case, controls)
    return Table(f"by-{options.by}-{found.maps.key}", f"Gain by {options.by}: {found.maps.title}", columns)


def pair_table(found: SetAnalysis, material: Material) -> Table | None:
    """The region vectors of the most distant pair; None where there are no two such patients."""
    if found.pair is None:
        return None
    first, second = found.pair.first, found.pair.second
    names = [material.subjects[row].subject for row in (first, second)]
    columns: dict[str, Any] = {"region": material.regions.name}
    for name, row in zip(names, (first, second), strict=True):
        columns[f"sum {name}"] = found.maps.sums[row]
        columns[f"z {name}"] = found.scores["z"][row]
    title = f"Most distant pair, {found.maps.title}: {names[0]} and {names[1]}, cosine {found.pair.cosine:.3f}"
    return Table(f"distant-pair-{found.maps.key}", title, columns)


def _most_complete(sets: Sequence[MapSet]) -> dict[str, MapSet]:
    """Of each network, the set of maps that most subjects have: all of its sets have the same answers."""
    found: dict[str, MapSet] = {}
    for one in sets:
        if one.network not in found or one.has_result.sum() > found[one.network].has_result.sum():
            found[one.network] = one
    return found


def _largest(values: FloatArray, members: npt.NDArray[np.bool_]) -> FloatArray:
    inside = values[members]
    return (
        np.nanmax(np.where(np.isfinite(inside), inside, -np.inf), axis=0)
        if len(inside)
        else np.full(values.shape[1], np.nan)
    )


def _or_none(found: npt.NDArray[np.int64]) -> list[int | None]:
    return [int(rank) or None for rank in found]
