"""What a study shows: its tables, its figures, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.errors import ADAttributionError
from ADAttributionLogic.study import analysis as tables_of
from ADAttributionLogic.study.agreement import coherence_table, families, intersection_table, repeat_distances
from ADAttributionLogic.study.analysis import SetAnalysis
from ADAttributionLogic.study.charts import (
    correlation_figure,
    density_sum_scatter,
    gain_intervals,
    gain_violins,
    group_violins,
)
from ADAttributionLogic.study.covariates import residualised
from ADAttributionLogic.study.group_regions import density, mean_of
from ADAttributionLogic.study.study import Study, cases_of, mean_maps
from ADAttributionLogic.study.volume_correlation import volume_correlation
from ADAttributionLogic.study_figures.map_figure import mean_map_figure
from ADAttributionLogic.study_figures.matrices import distance_figure, matrix_figure
from ADAttributionLogic.study_figures.page import Section, build_page
from ADAttributionLogic.study_figures.style import StudyFigure, write_figure_files
from ADAttributionLogic.study_figures.tables import Table, write_tsv
from ADAttributionLogic.volume import Volume

FloatArray = npt.NDArray[np.float64]

#: Fewest true positives of whom relevance and volume are correlated.
FEWEST_PAIRS = 8

#: Published distances are given in this unit (Rieke et al. 2018, table 2).
RIEKE_UNIT = 1e-4


@dataclass(frozen=True, eq=False)
class Presentation:
    """Sections of the page, with their tables and figures."""

    title: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]

    def write(self, folder: Path) -> None:
        """Write ``tables/``, ``figures/`` and ``index.html`` into a folder."""
        (folder / "tables").mkdir()
        (folder / "figures").mkdir()
        for section in self.sections:
            for table in section.tables:
                write_tsv(table, folder / "tables" / f"{table.name}.tsv")
            for figure in section.figures:
                write_figure_files(figure, folder / "figures")
        page = build_page(self.title, self.notes, self.sections, folder / "figures")
        (folder / "index.html").write_text(page, encoding="utf-8")


def present(study: Study, kept: Path | None) -> Presentation:
    """Make all tables and figures of a study.

    Parameters
    ----------
    study : Study
    kept : Path or None
        Where the mean maps are; None without.
    """
    material = study.material
    sections = [_who(study)]
    atlas, why = _atlas_of(study) if kept is not None else (None, ())
    for found in study.analyses:
        sections.append(_of_set(study, found, kept, atlas))
    sections += filter(None, (_volumes(study), _coherence(study), _distances(study)))
    groups = material.groups
    title = f"{groups.positive} and {groups.negative}: {len(material.subjects)} subjects"
    return Presentation(title, (*material.notes, *why), tuple(sections))


def _who(study: Study) -> Section:
    sets, material, threshold = study.material.sets, study.material, study.options.threshold
    tables = (
        tables_of.performance_table(sets, material, threshold),
        tables_of.subjects_table(sets, material, threshold),
    )
    about = (
        f"A subject counts as {material.groups.positive} for the network from {threshold:g} on. Of each person one "
        "scan counts: scans of one person are not independent."
    )
    return Section("Who counts as what", about, tables, ())


def _of_set(study: Study, found: SetAnalysis, kept: Path | None, atlas: Atlas | None) -> Section:
    material, options = study.material, study.options
    tables: list[Table] = [
        tables_of.top_table(found, material),
        tables_of.region_table(found, material),
        *(tables_of.score_table(found, material, name) for name in found.scores if name != "gain_floor"),
        tables_of.gain_stability_table(found, material, options),
    ]
    if options.by:
        tables.append(tables_of.by_table(found, material, options))
    pair = tables_of.pair_table(found, material)
    if pair is not None:
        tables.append(pair)
    figures: list[StudyFigure] = []
    if kept is not None:
        figures += _map_figures(study, found, kept, atlas)
    figures += [
        density_sum_scatter(found, material),
        group_violins(found, material),
        gain_violins(found, material),
        gain_intervals(found, material, options.level),
    ]
    return Section(found.maps.title, _sentence(study, found), tuple(tables), tuple(figures))


def _sentence(study: Study, found: SetAnalysis) -> str:
    """What the tests found, in words."""
    parts = []
    names = study.material.regions.name
    for name, test in found.tests.items():
        what = "share of the map" if "of shares" in name else "sum"
        how = " with covariates taken out" if name.endswith("adjusted") else ""
        count = int((test.p_familywise <= 0.05).sum())
        discovered = int((test.q <= 0.05).sum())
        parts.append(
            f"{count} of {len(names)} regions differ in their {what}{how} (family-wise p ≤ .05, {test.permutations} "
            f"permutations; {discovered} with q ≤ .05)."
        )
    parts.append(tables_of.SUMS_OR_SHARES)
    if found.pair is not None:
        who = [study.material.subjects[row].subject for row in (found.pair.first, found.pair.second)]
        parts.append(f"Most distant true positives: {who[0]} and {who[1]}, cosine {found.pair.cosine:.2f}.")
    if study.options.covariates:
        parts.append(f"Covariates, by the controls' coefficients: {', '.join(study.options.covariates)}.")
    return " ".join(parts)


def _map_figures(study: Study, found: SetAnalysis, kept: Path, atlas: Atlas | None) -> Iterable[StudyFigure]:

    material, maps = study.material, found.maps
    means = mean_maps(kept, maps, material)
    counts = cases_of(study, maps)
    titles = {case: f"{case} (n {counts[case]})" for case in means}
    regions = material.regions
    per_mm3 = density(mean_of(maps.sums, found.members[material.groups.positive]), regions.volume_mm3)
    order = np.argsort(-np.where(regions.is_ranked, per_mm3, -np.inf))[:3]
    outlined = [regions.label[n] for n in order] if atlas is not None else []
    background = _background(next(iter(means.values())))
    first = material.groups.positive
    shown = {titles[case]: means[case] for case in (first, material.groups.negative) if case in means}
    yield mean_map_figure(f"maps-{maps.key}", maps.title, shown, titles[first], background, atlas, outlined)
    rest = {titles[case]: means[case] for case in ("TP", "TN", "FP", "FN") if case in means}
    if rest:
        ranged = {titles[first]: means[first], **rest}
        yield mean_map_figure(f"maps-cases-{maps.key}", maps.title, ranged, titles[first], background, atlas, outlined)


def _background(like: Volume) -> Volume | None:
    """The template brain, where the maps lie in its space."""
    try:
        template = load_template()
    except ADAttributionError:
        return None
    centre = like.grid.to_ras((np.array(like.grid.shape) - 1) / 2)
    middle = template.grid.to_ras((np.array(template.grid.shape) - 1) / 2)
    return template if np.abs(centre - middle).max() < 40 else None


def _atlas_of(study: Study) -> tuple[Atlas | None, tuple[str, ...]]:
    """The atlas of the first result, if it can be brought back."""
    from ADAttributionLogic.report.result_reading import read_result

    path = next(iter(study.material.sets[0].paths.values()))
    try:
        answer, _ = read_result(path.parent.parent)
    except ADAttributionError as cause:
        return None, (f"Regions are not outlined: {cause}",)
    return answer.atlas, () if answer.atlas is not None else ("Regions are not outlined: the atlas is not here.",)


# ------------------------------------------------------------------------------------------ what sets say of each other


def _volumes(study: Study) -> Section | None:
    """Relevance against volume, with and without covariates."""
    if study.volumes is None:
        return None
    material, tables, figures = study.material, [], []
    design = tables_of.covariate_design(material, study.options)
    notes = []
    for found in study.analyses:
        members = found.members["TP"] & np.isfinite(study.volumes).any(axis=1)
        usable = material.regions.is_ranked & np.isfinite(study.volumes[members]).all(axis=0)
        if members.sum() < FEWEST_PAIRS or not usable.any():
            notes.append(f"{found.maps.title}: too few true positives with volumes.")
            continue
        names = [name for name, u in zip(material.regions.name, usable, strict=True) if u]
        columns: dict[str, Any] = {"region": names}
        subjects = [s.subject for s, m in zip(material.subjects, members, strict=True) if m]
        for how, relevance, volumes in _with_and_without(study, found, design, usable):
            chosen = relevance[members], volumes[members]
            tested = volume_correlation(*chosen, permutations=1000, seed=study.options.seed)
            columns |= {f"r{how}": tested.r, f"p{how}": tested.p, f"q{how}": tested.q}
            if not how:
                figures.append(
                    correlation_figure(found.maps.title, found.maps.key, names, *chosen, tested.r, tested.q, subjects)
                )
        columns["n"] = [len(subjects)] * len(names)
        tables.append(Table(f"volumes-{found.maps.key}", f"Relevance and volume: {found.maps.title}", columns))
    about = (
        "Pearson's r of a region's sum of relevance with its volume over true positives, p from 1000 permutations of "
        "the volumes, q over regions (Benjamini–Hochberg). Adjusted: relevance and volume without what the covariates "
        f"explain in controls. {' '.join(notes)}"
    )
    return Section("Relevance and volume", about.strip(), tuple(tables), tuple(figures))


def _with_and_without(
    study: Study, found: SetAnalysis, design: Any, usable: npt.NDArray[np.bool_]
) -> Iterable[tuple[str, FloatArray, FloatArray]]:
    """Relevance and volumes of the usable regions as they are, and without what the covariates explain in controls."""
    assert study.volumes is not None
    sums, volumes = found.maps.sums[:, usable], study.volumes[:, usable]
    yield "", sums, volumes
    controls = found.members[study.material.groups.negative] & np.isfinite(volumes).all(axis=1)
    if design is not None and controls.sum() > design.columns.shape[1] + 2:
        adjusted = (residualised(v, design, controls) for v in (sums, volumes))
        yield " adjusted", next(adjusted), next(adjusted)


def _coherence(study: Study) -> Section | None:
    if not study.coherences:
        return None
    table = coherence_table(study.coherences, study.material)
    matrices = [intersection_table(found) for found in study.coherences]
    caption = "Top regions that two sets share, in percent; the diagonal compares each with itself and is not counted."
    shown = [
        matrix_figure(made, caption)
        for made, found in zip(matrices, study.coherences, strict=True)
        if not found.quantity.startswith("absolute")
    ]
    return Section("Do methods, settings and networks agree", table.about, (table, *matrices), tuple(shown))


def _distances(study: Study) -> Section | None:
    if study.by_sum is None or study.by_maximum is None or len(study.compared) < 2:
        return None
    titles = {s.key: s.title for s in study.material.sets}
    labels = [f"{titles[key]}, {case}" for key, case in study.compared]
    groups = (study.material.groups.positive, study.material.groups.negative)
    half = [n for n, (_, case) in enumerate(study.compared) if case in groups]
    figures = []
    if len(half) > 1:
        matrix = study.by_sum[np.ix_(half, half)]
        figures.append(
            distance_figure(
                "distances-rieke", "Distance of mean maps, 10⁻⁴", [labels[n] for n in half], matrix,
                "‖a/Σa − b/Σb‖₂ of mean maps in units of 10⁻⁴ (Rieke et al. 2018, table 2), within and between methods "
                "and classes; empty where a map's sum is not above 0.", RIEKE_UNIT,
            )
        )  # fmt: skip
    rest = [n for n in range(len(labels)) if n not in half]
    if len(rest) > 1:
        matrix = study.by_maximum[np.ix_(rest, rest)]
        figures.append(
            distance_figure(
                "distances-eitel", "L2 distance of mean maps", [labels[n] for n in rest], matrix,
                "‖a/max a − b/max b‖₂ of mean maps of true positives and true negatives (Eitel & Ritter 2019).",
            )
        )  # fmt: skip
    tables = list(filter(None, (_class_distances(study, titles), _repeats(study))))
    return Section("Distances of mean maps", "", tuple(tables), tuple(figures))


def _class_distances(study: Study, titles: dict[str, str]) -> Table | None:
    """Patients against controls, per set (the second half of Rieke's table 2)."""
    assert study.by_sum is not None
    groups, place = study.material.groups, {pair: n for n, pair in enumerate(study.compared)}
    rows = [
        (titles[key], float(study.by_sum[place[key, groups.positive], place[key, groups.negative]]) / RIEKE_UNIT)
        for key, case in study.compared
        if case == groups.positive and (key, groups.negative) in place
    ]
    columns = {"maps": [r[0] for r in rows], "distance, 1e-4": [r[1] for r in rows]}
    title = f"Distance between {groups.positive} and {groups.negative}"
    return Table("class-distances", title, columns) if rows else None


def _repeats(study: Study) -> Table | None:
    """L2 distances within families of sets, as published for repeated trainings."""
    assert study.by_maximum is not None
    rows: list[dict[str, Any]] = []
    sets = study.material.sets
    for family in families(sets):
        for case in ("TP", "TN"):
            place = {key: n for n, (key, c) in enumerate(study.compared) if c == case}
            if all(s.key in place for s in family.sets):
                order = [place[s.key] for s in sets if s.key in place]
                present_sets = [s for s in sets if s.key in place]
                rows.append(repeat_distances(study.by_maximum[np.ix_(order, order)], present_sets, case, family))
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    return Table("l2-distances", "L2 distances within families", columns) if rows else None
