"""Tables and figures of the study of robustness, as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.robustness.stability import (
    EXPECTED_WITHIN,
    QUANTITIES,
    Relevance,
    coherence,
    consensus_coherence,
    is_marked,
    marking,
    marking_of_unseen,
    ranks,
)
from ADAttributionLogic.study.coherence import TOP, chance_limit, chance_overlap, intersections
from ADAttributionLogic.study_figures.matrices import distance_figure, matrix_figure
from ADAttributionLogic.study_figures.style import (
    CONTROLS,
    LINE,
    MUTED,
    PATIENTS,
    StudyFigure,
    axes_of,
    new_figure,
    short,
)
from ADAttributionLogic.study_figures.tables import Table, matrix_table

FloatArray = npt.NDArray[np.float64]

#: Eitel & Ritter 2019, table 2, off the diagonal: the table averages the comparison of each ranking with itself as
#: well, which with 10 trainings lifts c to (1 + 9 c) / 10. 10 trainings, 68 regions, patients and controls of ADNI.
PUBLISHED: dict[str, tuple[float, float, float]] = {
    "lrp": (0.964, 0.871, 0.756),
    "guided-backprop": (0.962, 0.784, 0.651),
    "gradient-x-input": (0.696, 0.656, 0.404),
    "occlusion": (0.829, 0.713, 0.642),
}

#: Regions of the figure of ranks.
_SHOWN = 16


def coherence_table(relevances: dict[str, Relevance]) -> Table:
    """One row per method and quantity: how much of the first ten regions two trainings share."""
    rows: list[dict[str, Any]] = []
    for title, relevance in relevances.items():
        regions = int(relevance.is_ranked.sum())
        for number, quantity in enumerate(QUANTITIES):
            published = PUBLISHED.get(title, (np.nan,) * 3)[number]
            rows.append(
                {
                    "method": title,
                    "quantity": quantity,
                    "two_trainings": coherence(relevance, quantity),
                    "two_consensus_maps": consensus_coherence(relevance, quantity),
                    "published": published,
                    "chance": chance_overlap(regions),
                    "chance_95": chance_limit(regions),
                    "trainings": relevance.trainings,
                    "regions": regions,
                }
            )
    about = (
        f"Part of the first {TOP} regions that two trainings share (off the diagonal), and that the mean maps of two "
        "halves of the trainings share; published: Eitel & Ritter 2019, table 2, off the diagonal, other data and "
        "other methods' options."
    )
    return _table("coherence", "Coherence of trainings", rows, about)


def marking_table(relevances: dict[str, Relevance]) -> Table:
    """Does disagreement tell which regions change their place, in the same trainings and in others?"""
    rows = []
    for title, relevance in relevances.items():
        for quantity in QUANTITIES:
            found, unseen = marking(relevance, quantity), marking_of_unseen(relevance, quantity)
            rows.append(
                {
                    "method": title,
                    "quantity": quantity,
                    "flips": found.flips,
                    "marked_of_flips": found.found,
                    "marked_of_others": found.marked_of_stable,
                    "unseen_flips": unseen.flips,
                    "marked_of_unseen_flips": unseen.found,
                    "marked_of_unseen_others": unseen.marked_of_stable,
                }
            )
    about = (
        f"Regions that are among the first {TOP} of some trainings and not of others, and the part of them that is "
        f"marked: rank {TOP + 0.5} lies within the interval in which another training's rank is expected "
        f"({EXPECTED_WITHIN:.0%}). Of the other regions, fewer should be marked. Unseen: flips in one half of the "
        "trainings, marked by the disagreement of the other half."
    )
    return _table("marking", "Disagreement and flips of rank", rows, about)


def stability_table(title: str, key: str, relevance: Relevance, names: Sequence[str]) -> Table:
    """Every region's rank over the trainings, by density."""
    found, everybody = ranks(relevance, "density"), range(relevance.trainings)
    marked = is_marked(relevance, "density", everybody)
    density = relevance.values("density")
    order = [n for n in np.argsort(np.nanmedian(found, axis=0), kind="stable") if relevance.is_ranked[n]]
    return Table(
        f"stability-{key}",
        f"{title}: regions over {relevance.trainings} trainings",
        {
            "region": [names[n] for n in order],
            "median_rank": np.median(found[:, order], axis=0),
            "lowest_rank": found[:, order].min(axis=0),
            "highest_rank": found[:, order].max(axis=0),
            f"first_{TOP}": (found[:, order] <= TOP).sum(axis=0),
            "mean_density": density[:, order].mean(axis=0),
            "sd_density": density[:, order].std(axis=0, ddof=1),
            "marked": marked[order],
        },
        "By density; sums of magnitudes, each training's divided by its total. Marked: the disagreement says that the "
        "region may change between the first ten and the others.",
    )


def distance_table(title: str, key: str, names: Sequence[str], matrix: FloatArray) -> Table:
    """‖a/max a − b/max b‖₂ of the trainings' mean maps."""
    return matrix_table(f"distances-{key}", f"{title}: L2 of mean maps", list(names), matrix)


def coherence_figure(table: Table) -> StudyFigure:
    """Trainings, consensus, the published figures and chance, per quantity."""
    columns = {name: np.asarray(values) for name, values in table.columns.items()}
    methods = list(dict.fromkeys(columns["method"].tolist()))
    figure = new_figure(9.6, 0.42 * len(methods) + 1.6)
    axes = axes_of(figure, 1, len(QUANTITIES), sharey=True)
    for axis, quantity in zip(axes, QUANTITIES, strict=True):
        here = columns["quantity"] == quantity
        places = np.arange(len(methods))[::-1]
        for name, shift, colour, label in (
            ("two_trainings", 0.19, CONTROLS, "two trainings"),
            ("two_consensus_maps", -0.19, PATIENTS, "consensus of half of them"),
        ):
            axis.barh(places + shift, columns[name][here].astype(float), 0.36, color=colour, label=label)
        published = columns["published"][here].astype(float)
        axis.plot(published, places, "D", color=LINE, markersize=4, label="published (other data)")
        axis.axvline(float(columns["chance"][0]), color=MUTED, linestyle="--", linewidth=1, label="chance")
        axis.set_xlim(0, 1)
        axis.set_title(quantity)
        axis.set_yticks(places, methods)
        axis.set_xlabel(f"shared of the first {TOP} regions")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return StudyFigure("coherence", table.about, figure, Table("coherence", table.title, table.columns))


def rank_figure(title: str, key: str, relevance: Relevance, names: Sequence[str]) -> StudyFigure:
    """The first regions' ranks in every training."""
    found = ranks(relevance, "density")
    known = np.flatnonzero(relevance.is_ranked)
    chosen = known[np.argsort(np.median(found[:, known], axis=0), kind="stable")][:_SHOWN]
    marked = is_marked(relevance, "density", range(relevance.trainings))
    figure = new_figure(7.2, 0.27 * len(chosen) + 1.2)
    axes = axes_of(figure)
    for place, n in enumerate(chosen):
        colour = PATIENTS if marked[n] else CONTROLS
        axes.plot([found[:, n].min(), found[:, n].max()], [place, place], color=colour, linewidth=1, alpha=0.6)
        axes.scatter(found[:, n], [place] * len(found), color=colour, s=16, alpha=0.55, linewidths=0)
    axes.scatter([], [], color=PATIENTS, s=16, label="marked: trainings disagree whether it is among the first")
    axes.scatter([], [], color=CONTROLS, s=16, label="not marked")
    axes.axvline(TOP + 0.5, color=MUTED, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(chosen)), [short(names[n]) for n in chosen])
    axes.set_xscale("log")
    shown = [rank for rank in (1, 2, 5, 10, 20, 50, 100) if rank <= found[:, chosen].max() * 1.3]
    axes.set_xticks(shown, [str(rank) for rank in shown])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.set_xlabel(f"rank by density in each of {relevance.trainings} trainings")
    axes.set_title(title)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2)
    columns: dict[str, Any] = {"region": [names[n] for n in chosen]}
    columns |= {f"training_{t + 1}": found[t, chosen] for t in range(len(found))}
    caption = "Ranks of regions over trainings; the dashed line is the border of the first ten."
    return StudyFigure(f"ranks-{key}", caption, figure, Table(f"ranks-{key}", title, columns))


def overlap_figure(title: str, key: str, relevance: Relevance, names: Sequence[str]) -> StudyFigure:
    """Overlap of the first ten regions by density, training against training."""
    matrix = 100 * intersections(relevance.tops("density"))
    table = matrix_table(f"overlap-{key}", f"{title}: overlap of the first {TOP}, density, %", list(names), matrix)
    return matrix_figure(table, f"How many of the first {TOP} regions two trainings share, per cent.")


def distances_figure(title: str, key: str, names: Sequence[str], matrix: FloatArray) -> StudyFigure:
    """L2 of the mean maps, training against training."""
    caption = "‖a/max a − b/max b‖₂ of the mean maps of true positives (Eitel & Ritter 2019, table 1)."
    return distance_figure(f"distances-{key}", f"{title}: L2 of mean maps", list(names), matrix, caption)


def _table(name: str, title: str, rows: Sequence[dict[str, Any]], about: str) -> Table:
    return Table(name, title, {column: [row[column] for row in rows] for column in rows[0]}, about)
