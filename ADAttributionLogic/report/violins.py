"""How controls spread in the regions in which a scan is most unusual among them, and where the scan lies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ADAttributionLogic.comparison.violin import Violin, violins_of
from ADAttributionLogic.errors import OutputError, UsageError

#: Of controls, and of a scan within and beyond their limits.
GREY, BLUE, ORANGE = "#b8bcc4", "#2A7DE1", "#E17012"
_LONGEST_NAME = 42
_FARTHEST = 8.0


def most_unusual(rows: Sequence[Mapping[str, Any]], count: int) -> dict[int, str]:
    """Labels and names of the ranked regions with the largest |z|, adjusted where it is, largest first."""
    column = "z_adjusted" if rows and "z_adjusted" in rows[0] else "z"
    ranked = [row for row in rows if (row.get(f"{column}_rank") or 0) > 0]
    best = sorted(ranked, key=lambda row: -abs(row[column]))[:count]
    return {row["label"]: str(row["name"]).replace("_", " ") for row in best}


def write_violins(
    path: str | os.PathLike[str],
    comparison: Mapping[str, Any],
    name: str,
    rows: Sequence[Mapping[str, Any]],
    title: str,
    count: int = 16,
) -> Path:
    """Draw one horizontal violin per region, the most unusual on top, with this scan's dot.

    Parameters
    ----------
    path : path-like
        .png, .pdf or .svg.
    comparison : mapping
        As in the provenance.
    name : str
        Of the map.
    rows : sequence of mapping
        Of its region table.
    title : str
    count : int
        How many regions.

    Raises
    ------
    UsageError
        No region can be drawn.
    OutputError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise OutputError("Figures need matplotlib: pip install ad-attribution[report].") from cause
    entry = comparison["maps"][name]
    violins = violins_of(entry, most_unusual(rows, count))
    if not violins:
        raise UsageError(f"Controls vary in no ranked region of {name}: there is nothing to draw.")
    figure = Figure(figsize=(8.2, 1.5 + 0.36 * len(violins)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    limit = float(entry["limit"])
    edge = _draw(axes, violins, limit)
    axes.set_yticks(range(len(violins)), [_short(violin.name) for violin in violins])
    axes.set_xlim(-edge, edge)
    axes.invert_yaxis()
    what = {
        "share": "share of the relevance",
        "magnitude_share": "share of the magnitude",
        "absolute_sum": "sum of magnitudes",
    }.get(entry["quantity"], "relevance")
    axes.set_xlabel(f"z of the region's {what} (standard deviations from the controls' mean)", fontsize=9)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=11, wrap=True)
    beyond = f"dashed: |z| = {limit:.2f}, which 5 % of further controls exceed · orange: beyond it"
    if len(comparison["covariates"]):
        given = ", ".join(f"{key} {value}" for key, value in comparison["covariates"].items())
        beyond += f" · order by z adjusted for {given}; drawn: not adjusted"
    axes.set_title(f"{comparison['controls']} controls: {comparison['title']}\n{beyond}", fontsize=8, color="#555555")
    figure.savefig(path, dpi=110)
    return Path(path)


def _draw(axes: Any, violins: Sequence[Violin], limit: float) -> float:
    """The violins; returns how far the axis goes."""
    farthest = max(max(abs(v.own) for v in violins), max(float(abs(v.values).max()) for v in violins), limit)
    edge = min(farthest, _FARTHEST) * 1.12
    for place, violin in enumerate(violins):
        half = 0.4 * violin.widths
        axes.fill_between(violin.values, place - half, place + half, color=GREY, linewidth=0)
        axes.plot(violin.quartiles[::2], (place, place), color="#707680", linewidth=3, solid_capstyle="butt")
        axes.plot(violin.quartiles[1], place, "|", color="white", markersize=7)
        colour = ORANGE if abs(violin.own) > limit else BLUE
        if abs(violin.own) <= edge:
            axes.plot(violin.own, place, "o", color=colour, markersize=7, markeredgecolor="white")
            continue
        side = 1 if violin.own > 0 else -1  # an arrow with its number at the edge
        axes.plot(side * edge * 0.97, place, ">" if side > 0 else "<", color=colour, markersize=8)
        axes.text(
            side * edge * 0.94,
            place - 0.3,
            f"{violin.own:+.0f}",
            ha="right" if side > 0 else "left",
            va="center",
            fontsize=8,
            color=colour,
        )
    for value in (-limit, limit):
        axes.axvline(value, color="#404040", linewidth=0.8, linestyle="--")
    axes.axvline(0, color="#404040", linewidth=0.8)
    return edge


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
