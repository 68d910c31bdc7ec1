"""An explanation as a folder of files. It appears under its name only when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ADAttributionLogic import provenance
from ADAttributionLogic.answer_spread import spread_note
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.explanation import Explanation
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.preprocessing.registration_target import RegistrationTarget
from ADAttributionLogic.registered_look import warning_of
from ADAttributionLogic.relevance.table_files import write_pair_table, write_region_table
from ADAttributionLogic.report.figure import FigureRow, write_figure
from ADAttributionLogic.report.overlay_display import OverlayDisplay
from ADAttributionLogic.report.placing import (
    Place,
    check_place,
    check_replacement,
    hashes_of,
    read_marked,
    tidy_up,
    writing,
)
from ADAttributionLogic.report.preprocessing_files import write_preprocessing
from ADAttributionLogic.report.result_places import (
    FIGURE_FILE,
    KIND,
    PREPROCESSING_FOLDER,
    PROVENANCE_FILE,
    SCENE_FILE,
)
from ADAttributionLogic.report.score_scale import draw_scale, has_scale
from ADAttributionLogic.scan_files import write_volume

SceneWriter = Callable[[Explanation, Path], None]


def check_output_folder(folder: str | os.PathLike[str], overwrite: bool) -> Place:
    """Refuse, before any work is done, a folder that cannot be written or holds what must not be lost.

    Raises
    ------
    OutputError
        It exists and `overwrite` is False, it is not a result of this program or holds other files than those that it
        wrote, or it cannot be written.
    """
    for workplace in (Path(folder), Path(folder).absolute().parent):
        tidy_up(workplace)
    earlier = earlier_result(Path(folder))
    if earlier is None and overwrite and Path(folder).is_dir() and any(Path(folder).iterdir()):
        raise OutputError(
            f"{folder} was not written by this program (it has no {PROVENANCE_FILE} of it); it is not overwritten."
        )
    if earlier is None:
        return check_place(folder, PROVENANCE_FILE)
    if not overwrite:
        raise OutputError(f"{folder} exists; nothing is overwritten. Choose another folder, or say --overwrite.")
    return check_replacement(folder, PROVENANCE_FILE, earlier.get("files") or _files_before_they_were_listed(folder))


def earlier_result(folder: Path) -> dict[str, Any] | None:
    """The provenance of a complete result of this program; None where there is none."""
    return read_marked(folder / PROVENANCE_FILE, KIND)


def _files_before_they_were_listed(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Of a result of version 0.1, by their names."""
    patterns = [FIGURE_FILE, SCENE_FILE, "heatmaps/*.nii.gz", "tables/*.csv", "tables/*.tsv", "tables/*.json"]
    patterns += [f"{PREPROCESSING_FOLDER}/{name}" for name in ("*.nii.gz", "*.json", "*.png", "transforms/*")]
    return {os.fspath(p.relative_to(folder)): "" for pattern in patterns for p in Path(folder).glob(pattern)}


def write_explanation(
    explanation: Explanation,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    place: Place | None = None,
    figure: bool = True,
    scene_writer: SceneWriter | None = None,
    monitor: Monitor | None = None,
) -> Path:
    """Write heatmaps (NIfTI), tables (CSV, TSV, JSON), a figure, provenance and optionally a Slicer scene.

    It appears only when it is complete (see :mod:`~.report.placing`), for its owner only.

    Parameters
    ----------
    explanation : Explanation
    folder : path-like
    overwrite : bool
        Replace an earlier result of this program.
    place : Place, optional
        From :func:`check_output_folder` before the computation: what has changed in the folder since is not replaced.
    figure : bool
    scene_writer : callable, optional
        Writes ``scene.mrb`` (in ADAttributionLib, which may import Slicer's libraries; this layer does not).
    monitor : Monitor, optional

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
    """
    place = check_output_folder(folder, overwrite) if place is None else place
    monitor = monitor or Monitor()
    with writing(place) as unfinished:
        _write_files(explanation, unfinished, figure, scene_writer, monitor)
    return Path(folder)


def _write_files(
    explanation: Explanation, folder: Path, figure: bool, scene_writer: SceneWriter | None, monitor: Monitor
) -> None:
    (folder / "heatmaps").mkdir()
    for number, heatmap in enumerate(explanation.heatmaps):
        monitor.report(0.4 * number / len(explanation.heatmaps), f"writing {heatmap.name}")
        write_volume(heatmap.volume, folder / "heatmaps" / f"{heatmap.name}.nii.gz")
        if heatmap.table is not None:
            (folder / "tables").mkdir(exist_ok=True)
            for suffix in (".csv", ".tsv", ".json"):
                write_region_table(heatmap.table, folder / "tables" / f"{heatmap.name}{suffix}")
            if heatmap.attribution.region_pairs and explanation.atlas is not None:
                names = {region.label: region.name for region in explanation.atlas.regions}
                pairs = heatmap.attribution.region_pairs
                write_pair_table(pairs, names, folder / "tables" / f"{heatmap.name}-pairs.csv")
    if explanation.preprocessed is not None:
        monitor.report(0.35, "writing the transforms")
        (folder / PREPROCESSING_FOLDER).mkdir()
        target = RegistrationTarget(load_template()) if figure else None
        write_preprocessing(explanation.preprocessed, folder / PREPROCESSING_FOLDER, target)
    if figure:
        monitor.report(0.4, "drawing the figure")
        draw_overview(explanation, folder / FIGURE_FILE)
    if scene_writer is not None:
        monitor.report(0.6, "writing the Slicer scene")
        scene_writer(explanation, folder / SCENE_FILE)
    document: dict[str, Any] = {"kind": KIND, **explanation.provenance, "files": hashes_of(folder)}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / PROVENANCE_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
    monitor.report(1.0, "written")


def draw_overview(explanation: Explanation, path: str | os.PathLike[str]) -> Path:
    """Draw the scan with every heatmap over it."""
    rows = []
    for heatmap in explanation.heatmaps:
        result = heatmap.attribution
        subtitle = f"Σ {result.relevance_sum:.3g}"
        if result.is_conserving:
            subtitle += f", unattributed {result.unattributed:.2g}"
        if result.agreement and result.agreement.get("top_ten_overlap_density") is not None:
            subtitle += f"\ntop ten shared {result.agreement['top_ten_overlap_density']:.0%}"
        quantity = result.start
        if explanation.outcome.output.is_score:
            quantity = explanation.outcome.quantity(explanation.target_class, result.start)
        quantity = "share" if result.start == "unit" else quantity
        display = OverlayDisplay.for_heatmap(heatmap.volume.array)
        rows.append(FigureRow(heatmap.method.title, subtitle, heatmap.volume, display, heatmap.table, quantity))
    headline = f"{explanation.model.title}:   {explanation.outcome.headline(explanation.spread)}"
    if not explanation.outcome.output.is_score:
        headline += f"   ·   explained class: {explanation.target_class}"
    trained = explanation.provenance["model"].get("training", {}).get("data", "unknown data")
    note = spread_note(explanation.provenance)
    footnote = f"{provenance.NOTICE} {f'{note}. ' if note else ''}Trained on: {trained}"
    for heading, key in (("Not for", "not_for"), ("Cite", "citation")):
        if explanation.model.card.get(key):
            footnote = f"{footnote.rstrip('.')}. {heading}: {explanation.model.card[key]}"
    warning = warning_of(explanation.provenance.get("looks_registered"))
    scale = partial(draw_scale, outcome=explanation.outcome, target=explanation.target_class)
    with_scale = scale if has_scale(explanation.outcome) else None
    return write_figure(path, explanation.scan, rows, headline, footnote, scale=with_scale, warning=warning)
