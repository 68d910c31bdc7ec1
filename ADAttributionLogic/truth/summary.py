"""Means over the patients with bootstrap intervals: the table (TSV) and the figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.truth.contestants import CONTESTANTS
from ADAttributionLogic.truth.metrics import bootstrap_interval
from ADAttributionLogic.truth.scoring import read_result, result_path
from ADAttributionLogic.whole_files import write_whole

#: Metric → what it is, and whether more is better.
METRICS: dict[str, tuple[str, bool]] = {
    "top_five_regions": ("affected among the five first regions", True),
    "all_top_five": ("patients whose five first regions are all affected", True),
    "first_region": ("patients whose first region is affected", True),
    "precision_at_1000": ("precision of the 1000 highest voxels", True),
    "rank_accuracy": ("rank accuracy", True),
    "mass_accuracy": ("mass accuracy", True),
    "average_precision": ("area under precision-recall", True),
    "region_distance_mm": ("distance of the regions (EMD), mm", False),
    "deletion_5": ("P(AD) after deleting the top 5 %", False),
    "deletion_area": ("mean P(AD), deleting the top 20 %", False),
}

#: Shown in the figure.
_PLOTTED = (
    "top_five_regions",
    "precision_at_1000",
    "average_precision",
    "region_distance_mm",
    "deletion_5",
    "deletion_area",
)


@dataclass(frozen=True)
class Row:
    """One contestant's means.

    Attributes
    ----------
    contestant : str
    patients : int
        True positives of which there is a result.
    figures : dict of str to (float, float, float)
        By metric: mean, and the ends of its 95 % interval.
    """

    contestant: str
    patients: int
    figures: dict[str, tuple[float, float, float]]


def summarise(folder: Path, numbers: range) -> list[Row]:
    """One row per contestant of which there are results, the methods in their order, maps of other tools after them."""
    order = {contestant.name: number for number, contestant in enumerate(CONTESTANTS)}
    names = sorted((p.name for p in folder.iterdir() if p.is_dir()), key=lambda n: (order.get(n, len(order)), n))
    rows = []
    for name in names:
        found = [read_result(result_path(folder, name, number)) for number in numbers]
        hits = [r["metrics"] for r in found if r is not None and r["probability"] >= 0.5]
        if hits:
            rows.append(Row(name, len(hits), {metric: _interval(hits, metric) for metric in METRICS}))
    return rows


def _interval(results: Sequence[dict[str, Any]], metric: str) -> tuple[float, float, float]:
    values = np.array([np.nan if r[metric] is None else r[metric] for r in results], dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan"), float("nan"), float("nan")
    return float(values.mean()), *bootstrap_interval(values)


def table_text(rows: Sequence[Row]) -> str:
    """The table as TSV: per metric the mean and the ends of its interval, three decimals."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    names = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    table.writerow(["contestant", "true_positives", *names])
    for row in rows:
        values = [value for metric in METRICS for value in row.figures[metric]]
        table.writerow([row.contestant, row.patients, *("" if np.isnan(v) else f"{v:.3f}" for v in values)])
    return text.getvalue()


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the table, replacing an earlier one.

    Raises
    ------
    OutputError
    """
    try:
        write_whole(path, table_text(rows))
    except OSError as cause:
        raise OutputError(f"{path} cannot be written: {cause.strerror}.") from cause


def write_figure(rows: Sequence[Row], path: Path) -> None:
    """Draw means and intervals, one panel per metric."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 1.4 + 0.26 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(_PLOTTED), sharey=True)
    places = np.arange(len(rows))[::-1]
    for panel, metric in zip(panels, _PLOTTED, strict=True):
        figures = np.array([row.figures[metric] for row in rows])
        spread = np.abs(figures[:, 1:] - figures[:, :1]).T
        panel.errorbar(figures[:, 0], places, xerr=spread, fmt="o", markersize=4, color="#1f5fa8", elinewidth=1.2)
        title, is_better_high = METRICS[metric]
        panel.set_title(f"{title}\n({'more' if is_better_high else 'less'} is better)", fontsize=8)
        panel.margins(x=0.06)
        panel.grid(axis="x", alpha=0.3)
        panel.axvline(0, color="black", linewidth=0.6)
        panel.tick_params(labelsize=8)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].set_yticks(places, [f"{row.contestant}  (n = {row.patients})" for row in rows])
    # No date in the file: the same results give the same bits.
    figure.savefig(path, dpi=110, metadata={"Software": None})
