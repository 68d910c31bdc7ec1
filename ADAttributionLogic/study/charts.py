"""The papers' figures of regions: scatter of density against sum, violins, gains with a line at 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.study.analysis import SetAnalysis
from ADAttributionLogic.study.group_regions import density, mean_of
from ADAttributionLogic.study.material import Material
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
from ADAttributionLogic.study_figures.tables import Table

FloatArray = npt.NDArray[np.float64]

#: Regions that a figure shows.
SHOWN = 12
#: Gains that span more than this are drawn on a logarithmic axis.
_WIDE = 20.0


def density_sum_scatter(found: SetAnalysis, material: Material) -> StudyFigure:
    """Mean true positive: density against sum, the area of a dot is the region's volume (Böhle et al. 2019)."""
    regions = material.regions
    ranked = np.flatnonzero(regions.is_ranked)
    sums = mean_of(found.maps.sums, found.members["TP"])
    per_mm3 = density(sums, regions.volume_mm3)
    figure = new_figure(7.2, 4.8)
    axes = axes_of(figure)
    size = 900 * regions.volume_mm3[ranked] / regions.volume_mm3[ranked].max() + 6
    axes.scatter(sums[ranked], per_mm3[ranked], s=size, color=PATIENTS, alpha=0.55, edgecolors="white", linewidths=0.6)
    named = sorted({*_largest(sums, ranked, 5), *_largest(per_mm3, ranked, 7)}, key=lambda n: -per_mm3[n])
    axes.margins(0.12)
    _label(figure, axes, [(short(regions.name[n]), sums[n], per_mm3[n]) for n in named])
    axes.set_xlabel("sum of relevance")
    axes.set_ylabel("density: sum per mm³")
    axes.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
    axes.set_title(f"{found.maps.title}: mean of {int(found.members['TP'].sum())} true positives")
    columns = {
        "region": [regions.name[n] for n in ranked],
        "sum": sums[ranked],
        "density": per_mm3[ranked],
        "volume_mm3": regions.volume_mm3[ranked],
    }
    caption = "Density against sum of the mean true positive; the area of a dot is proportional to the region's volume."
    return _made(f"scatter-{found.maps.key}", caption, figure, columns)


def group_violins(found: SetAnalysis, material: Material) -> StudyFigure:
    """Patients against controls per region, with the most distant pair's values as two lines (Böhle et al. 2019)."""
    regions, groups = material.regions, material.groups
    per_mm3 = density(found.maps.sums, regions.volume_mm3)
    chosen = _largest(mean_of(per_mm3, found.members["TP"]), np.flatnonzero(regions.is_ranked), SHOWN)
    figure = new_figure(8.2, 4.6)
    axes = axes_of(figure)
    columns: dict[str, list[Any]] = {"region": [], "group": [], "subject": [], "density": []}
    for side, name, colour in ((-1, groups.positive, PATIENTS), (1, groups.negative, CONTROLS)):
        rows = np.flatnonzero(found.members[name])
        for place, n in enumerate(chosen):
            values = per_mm3[rows, n]
            _half_violin(axes, values, place, side, colour)
            columns["region"] += [regions.name[n]] * rows.size
            columns["group"] += [name] * rows.size
            columns["subject"] += [material.subjects[r].subject for r in rows]
            columns["density"] += values.tolist()
        axes.plot([], [], color=colour, linewidth=6, alpha=0.6, label=f"{name} (n {rows.size})")
    if found.pair is not None:
        for row, style in ((found.pair.first, "-"), (found.pair.second, "--")):
            line = {"color": LINE, "marker": "o", "markersize": 3.5, "linewidth": 1}
            axes.plot(range(len(chosen)), per_mm3[row, chosen], style, label=material.subjects[row].subject, **line)
    _names(axes, [regions.name[n] for n in chosen])
    axes.set_ylabel("density: relevance per mm³")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"{found.maps.title}: {groups.positive} and {groups.negative}")
    caption = f"The {len(chosen)} regions with the highest density in true positives; bars: quartiles."
    if found.pair is not None:
        caption += " Lines: the most distant pair of patients."
    return _made(f"violins-{found.maps.key}", caption, figure, columns)


def gain_violins(found: SetAnalysis, material: Material) -> StudyFigure:
    """Every true positive's gain, with a line at 1 (Böhle et al. 2019)."""
    regions = material.regions
    chosen = _largest(found.gains["TP"].estimate, np.flatnonzero(regions.is_ranked), SHOWN)
    rows = np.flatnonzero(found.members["TP"])
    gains = found.scores["gain"]
    figure = new_figure(8.2, 4.4)
    axes = axes_of(figure)
    columns: dict[str, list[Any]] = {"region": [], "subject": [], "gain": []}
    shown = gains[rows][:, chosen]
    wide = bool((shown > 0).all()) and float(np.nanmax(shown, initial=0.0)) > _WIDE
    for place, n in enumerate(chosen):
        values = gains[rows, n]
        _half_violin(axes, values, place, 0, PATIENTS, in_logarithms=wide)
        axes.plot([place], [found.gains["TP"].estimate[n]], marker="_", markersize=14, color=LINE)
        columns["region"] += [regions.name[n]] * rows.size
        columns["subject"] += [material.subjects[r].subject for r in rows]
        columns["gain"] += values.tolist()
    axes.axhline(1.0, color=LINE, linewidth=0.9, linestyle=":")
    if wide:
        axes.set_yscale("log")
    _names(axes, [regions.name[n] for n in chosen])
    axes.set_ylabel(f"gain: own sum / mean sum of {material.groups.negative}")
    axes.set_title(f"{found.maps.title}: gain of {rows.size} true positives")
    caption = "Gain of every true positive; the dash is the gain of their mean, 1 is the mean control."
    return _made(f"gains-{found.maps.key}", caption, figure, columns)


def gain_intervals(found: SetAnalysis, material: Material, level: float) -> StudyFigure:
    """Gain of true positives and true negatives with bootstrap intervals, the largest first."""
    regions = material.regions
    chosen = _largest(found.gains["TP"].estimate, np.flatnonzero(regions.is_ranked), 15)
    figure = new_figure(7.2, 4.8)
    axes = axes_of(figure)
    places = np.arange(len(chosen))
    columns: dict[str, Any] = {"region": [regions.name[n] for n in chosen]}
    for shift, name, colour in ((-0.14, "TP", PATIENTS), (0.14, "TN", CONTROLS)):
        gain = found.gains[name]
        low, high = gain.low[chosen], gain.high[chosen]
        axes.hlines(places + shift, low, high, color=colour, linewidth=2, alpha=0.7)
        axes.plot(
            gain.estimate[chosen],
            places + shift,
            "o",
            color=colour,
            markersize=4,
            label=f"{name} / {material.groups.negative}",
        )
        columns |= {f"gain {name}": gain.estimate[chosen], f"gain {name} low": low, f"gain {name} high": high}
    axes.axvline(1.0, color=LINE, linewidth=0.9, linestyle=":")
    for place, n in enumerate(chosen):
        if found.tests[""].p_familywise[n] <= 0.05:
            axes.annotate(
                "*", (1.0, place), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
            )
    axes.set_yticks(places, [short(regions.name[n]) for n in chosen])
    axes.invert_yaxis()
    axes.set_xlabel(f"gain, with the {level:.0%} interval over subjects")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title(f"{found.maps.title}: gain")
    columns["p family-wise"] = found.tests[""].p_familywise[chosen]
    count = len(regions.label)
    caption = f"Gain with bootstrap intervals; * groups differ, family-wise p at most .05 over all {count} regions."
    return _made(f"gain-intervals-{found.maps.key}", caption, figure, columns)


def _made(name: str, caption: str, figure: Any, columns: dict[str, Any]) -> StudyFigure:
    return StudyFigure(name, caption, figure, Table(name, caption, columns))


def _largest(values: FloatArray, candidates: npt.NDArray[np.int64], count: int) -> list[int]:
    known = [int(n) for n in candidates if np.isfinite(values[n])]
    return sorted(known, key=lambda n: -values[n])[:count]


def _label(figure: Any, axes: Any, labels: list[tuple[str, float, float]]) -> None:
    """Names beside their dots, from the highest down; where two would overlap, the lower one moves further down."""
    figure.draw_without_rendering()
    taken: list[tuple[float, float, float]] = []  # left, right, height of the line, in pixels
    line, letter = 0.118 * figure.dpi, 0.055 * figure.dpi
    for text, x, y in labels:
        dot = axes.transData.transform((x, y))
        left, height = float(dot[0]) + 6, float(dot[1]) + 4
        right = left + letter * len(text)
        while any(left < end and right > start and abs(height - h) < line for start, end, h in taken):
            height -= line / 4
        taken.append((left, right, height))
        at = axes.transData.inverted().transform((left, height))
        arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(text, (x, y), at, textcoords="data", fontsize=7, va="center", arrowprops=arrow)


def _half_violin(
    axes: Any, values: FloatArray, place: float, side: int, colour: str, in_logarithms: bool = False
) -> None:
    """A violin to one side (−1, 1) or both (0), its quartiles, and every subject as a dot."""
    from scipy.stats import gaussian_kde

    values = values[np.isfinite(values)]
    if values.size == 0:
        return
    shown = np.log(values) if in_logarithms else values
    if values.size > 2 and float(np.std(shown)) > 1e-12 * float(np.abs(shown).max()):
        grid = np.linspace(shown.min(), shown.max(), 120)
        width = gaussian_kde(shown)(grid)
        width *= 0.38 / width.max()
        left = place - width if side <= 0 else np.full_like(grid, place)
        right = place + width if side >= 0 else np.full_like(grid, place)
        axes.fill_betweenx(np.exp(grid) if in_logarithms else grid, left, right, color=colour, alpha=0.35, linewidth=0)
    low, middle, high = np.percentile(values, [25, 50, 75])
    where = place + 0.06 * side
    axes.vlines(where, low, high, color=colour, linewidth=2.2)
    axes.plot([where], [middle], "o", color="white", markeredgecolor=colour, markersize=3.5, zorder=3)
    spread = np.random.default_rng(0).uniform(0.1, 0.2, values.size) * (side or 1)
    axes.plot(place + spread, values, ".", color=colour, markersize=2.2, alpha=0.5, markeredgewidth=0)


def _names(axes: Any, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), [short(n) for n in names], rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, max(len(names) - 0.4, 0.6))


def correlation_figure(
    title: str, key: str, names: list[str], relevance: FloatArray, volumes: FloatArray, r: FloatArray, q: FloatArray,
    subjects: list[str],
) -> StudyFigure:  # fmt: skip
    """Relevance against volume: the region with the strongest correlation as a scatter, beside r of the others.

    Parameters
    ----------
    title, key : str
    names : list of str
        Of the ranked regions with a correlation, R of them.
    relevance, volumes : ndarray, shape (n, R)
    r, q : ndarray, shape (R,)
    subjects : list of str
    """
    figure = new_figure(9.0, 4.2)
    left, right = axes_of(figure, 1, 2, width_ratios=[1.25, 1])
    best = next((n for n, name in enumerate(names) if "hippocampus" in name.lower()), int(np.nanargmin(r)))
    left.scatter(
        volumes[:, best], relevance[:, best], s=18, color=PATIENTS, alpha=0.75, edgecolors="white", linewidths=0.5
    )
    slope, start = np.polyfit(volumes[:, best], relevance[:, best], 1)
    ends = np.array([volumes[:, best].min(), volumes[:, best].max()])
    left.plot(ends, start + slope * ends, color=LINE, linewidth=1)
    left.set_xlabel(f"volume of {short(names[best])}, mm³")
    left.set_ylabel("its sum of relevance")
    left.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    left.set_title(f"{title}: r = {r[best]:.2f}, n = {len(subjects)}")
    order = np.argsort(-np.abs(r))[:15]
    right.barh(range(order.size), r[order], color=[PATIENTS if q[n] <= 0.05 else MUTED for n in order], height=0.7)
    right.set_yticks(range(order.size), [short(names[n]) for n in order])
    right.invert_yaxis()
    right.axvline(0, color=LINE, linewidth=0.8)
    right.set_xlabel("r of relevance and volume (coloured: q ≤ .05)")
    columns: dict[str, Any] = {"subject": subjects, f"volume_mm3 {names[best]}": volumes[:, best]}
    columns[f"sum {names[best]}"] = relevance[:, best]
    caption = "Relevance against volume over true positives, and the regions with the strongest correlations."
    return _made(f"volume-{key}", caption, figure, columns)
