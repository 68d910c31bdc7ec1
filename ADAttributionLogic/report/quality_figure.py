"""A figure by which a person sees whether a scan was registered and its brain extracted rightly."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.preprocessing.pipeline import Preprocessed
from ADAttributionLogic.registration.space_transform import resample_to_model
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.report.figure import BACKGROUND, MUTED, TEXT

EDGE, BRAIN = "#ffb000", "#3cd2ff"
#: Where slices are shown: fractions of the template brain's extent.
_PLACES = {
    "axial": (2, (0.3, 0.45, 0.6, 0.75)),
    "coronal": (1, (0.3, 0.42, 0.55, 0.7)),
    "sagittal": (0, (0.3, 0.42, 0.5, 0.66)),
}


def write_quality_figure(path: str | os.PathLike[str], prepared: Preprocessed, target: RegistrationTarget) -> Path:
    """Draw the registered scan with the template's edges (orange) and the extracted brain's outline (blue).

    Left is where the patient's right is. The checks are listed below, those that did not pass first.

    Raises
    ------
    OutputError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise OutputError("Figures need matplotlib: pip install ad-attribution[report].") from cause
    grid = target.brain.grid
    scan = resample_to_model(prepared.scan, prepared.transform, grid).array
    brain = resample_to_model(prepared.brain_mask, prepared.transform, grid, "nearest").array
    inside = np.argwhere(target.mask.array)
    low, high = inside.min(axis=0), inside.max(axis=0)
    bright = float(np.percentile(scan[target.mask.array], 99.5)) or 1.0
    figure = Figure(figsize=(13, 10.5), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    cells = figure.subplots(
        3, 4, gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.94, "bottom": 0.26, "wspace": 0.02}
    )
    for row, (name, (axis, fractions)) in zip(cells, _PLACES.items(), strict=True):
        for cell, fraction in zip(row, fractions, strict=True):
            cell.axis("off")
            index = int(low[axis] + fraction * (high[axis] - low[axis]))
            _draw_slice(cell, (scan, target, brain), axis, index, bright)
            place = grid.to_ras([index if a == axis else 0 for a in range(3)])[axis]
            cell.set_title(f"{name} {'RAS'[axis]} {place:+.0f} mm", color=MUTED, fontsize=9, pad=2)
    _list_checks(figure, prepared)
    figure.savefig(path, dpi=90, facecolor=BACKGROUND)
    return Path(path)


def _draw_slice(cell: Any, images: tuple[Any, RegistrationTarget, Any], axis: int, index: int, bright: float) -> None:
    scan, target, brain = images
    template = target.brain.array
    anatomy, edges, outline = (np.take(a, index, axis=axis).T for a in (scan, template, brain))
    if axis != 0:  # radiological convention
        anatomy, edges, outline = anatomy[:, ::-1], edges[:, ::-1], outline[:, ::-1]
    cell.imshow(anatomy, cmap="gray", vmin=0, vmax=bright, origin="lower")
    levels = [1e-3, float(np.quantile(template[target.mask.array], 0.68))]
    if edges.max() > levels[1]:
        cell.contour(edges, levels=levels, colors=EDGE, linewidths=(0.9, 0.45))
    if outline.any() and not outline.all():
        cell.contour(outline.astype(float), levels=[0.5], colors=BRAIN, linewidths=0.7)


def _list_checks(figure: Any, prepared: Preprocessed) -> None:
    headline = "Quality: all checks passed" if prepared.quality.passed else "Quality: LOOK AT THIS SCAN"
    figure.text(0.012, 0.97, f"{headline}   ·   {prepared.transform.kind} registration", color=TEXT, fontsize=15,
                va="center", weight="bold")  # fmt: skip
    legend = "orange: edges of the template   blue: extracted brain   left in the picture = the patient's right"
    figure.text(0.99, 0.97, legend, color=MUTED, fontsize=9, va="center", ha="right")
    checks = sorted(prepared.quality.checks, key=lambda check: check.passed)
    y = 0.225
    for check in checks:
        colour = MUTED if check.passed else "#ff6a5a"
        for line in wrap(f"{'ok' if check.passed else 'NO'}   {check}", 175, subsequent_indent=" " * 7):
            figure.text(0.012, y, line, color=colour, fontsize=9, va="center")
            y -= 0.0185
