"""The figure of an answer: the scan with every map over it, and the regions that rank highest."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from ADAttributionLogic.answer_spread import spread_note, spread_of
from ADAttributionLogic.checks.findings import KEY, read_checks
from ADAttributionLogic.outcome import outcome_in
from ADAttributionLogic.owned_folders import temporary_folder
from ADAttributionLogic.provenance import NOTICE
from ADAttributionLogic.registered_look import warning_of
from ADAttributionLogic.report.figure import FigureRow, write_figure
from ADAttributionLogic.report.overlay_display import OverlayDisplay
from ADAttributionLogic.report.result_places import FIGURE_FILE
from ADAttributionLogic.report.score_scale import draw_scale, has_scale
from ADAttributionLogic.service.answer import Answer


def overview_png(answer: Answer) -> bytes:
    """The figure as PNG.

    Raises
    ------
    OutputError
        matplotlib is not installed.
    """
    with temporary_folder("figure") as folder:
        return draw_overview(answer, folder / FIGURE_FILE).read_bytes()


def draw_overview(answer: Answer, path: str | os.PathLike[str]) -> Path:
    """Draw the scan with every heatmap over it.

    Raises
    ------
    OutputError
        matplotlib is not installed.
    """
    record = answer.provenance
    outcome, checks = outcome_in(record), read_checks(record.get(KEY))
    rows = []
    for found in answer.maps:
        summary = found.summary
        subtitle = f"Σ {summary.get('relevance_sum', float('nan')):.3g}"
        if summary.get("is_conserving"):
            subtitle += f", unattributed {summary['unattributed']:.2g}"
        shared = (summary.get("agreement") or {}).get("top_ten_overlap_density")
        if shared is not None:
            subtitle += f"\ntop ten shared {shared:.0%}"
        start = str(summary.get("start", ""))
        quantity = outcome.quantity(answer.target_class, start) if outcome.output.is_score else start
        quantity = "share" if start == "unit" else quantity
        display = OverlayDisplay.for_heatmap(found.volume.array)
        of_map = None if checks is None else checks.of(found.name)
        rows.append(FigureRow(found.title, subtitle, found.volume, display, found.table, quantity, of_map))
    model = record.get("model", {})
    headline = f"{model.get('title', 'Network')}:   {outcome.headline(spread_of(record))}"
    if not outcome.output.is_score:
        headline += f"   ·   explained class: {answer.target_class}"
    note = spread_note(record)
    trained = model.get("training", {}).get("data", "unknown data")
    footnote = f"{NOTICE} {f'{note}. ' if note else ''}Trained on: {trained}"
    for heading, key in (("Not for", "not_for"), ("Cite", "citation")):
        if model.get(key):
            footnote = f"{footnote.rstrip('.')}. {heading}: {model[key]}"
    warning = warning_of(record.get("looks_registered"))
    scale = partial(draw_scale, outcome=outcome, target=answer.target_class) if has_scale(outcome) else None
    return write_figure(path, answer.scan, rows, headline, footnote, scale=scale, warning=warning)
