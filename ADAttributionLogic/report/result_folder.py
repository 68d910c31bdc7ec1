"""An explanation as a folder of files. It appears under its name only when it is complete."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ADAttributionLogic import provenance
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.explain import Explanation
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.preprocessing.registration_target import RegistrationTarget
from ADAttributionLogic.relevance.table_files import write_pair_table, write_region_table
from ADAttributionLogic.report.figure import FigureRow, write_figure
from ADAttributionLogic.report.overlay_display import OverlayDisplay
from ADAttributionLogic.report.preprocessing_files import write_preprocessing
from ADAttributionLogic.report.result_places import (
    FIGURE_FILE,
    KIND,
    PREPROCESSING_FOLDER,
    PROVENANCE_FILE,
    SCENE_FILE,
)
from ADAttributionLogic.scan_files import write_volume

SceneWriter = Callable[[Explanation, Path], None]


def check_output_folder(folder: str | os.PathLike[str], overwrite: bool) -> Path:
    """Refuse, before any work is done, a folder that would be overwritten.

    Raises
    ------
    OutputError
        It exists and `overwrite` is False, or it is not a result of this program.
    """
    target = Path(folder)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} is not a folder; choose another output.")
    if not target.exists() or not any(target.iterdir()):
        return target
    if not overwrite:
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another folder, or say --overwrite.")
    if not _is_own_result(target):
        raise OutputError(
            f"{target} was not written by this program (it has no {PROVENANCE_FILE} of it); it is not overwritten."
        )
    return target


def _is_own_result(folder: Path) -> bool:
    try:
        document = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("kind") == KIND


def write_explanation(
    explanation: Explanation,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    figure: bool = True,
    scene_writer: SceneWriter | None = None,
    monitor: Monitor | None = None,
) -> Path:
    """Write heatmaps (NIfTI), tables (CSV, TSV, JSON), a figure, provenance and optionally a Slicer scene.

    Everything is written into a temporary folder beside the target, which is renamed at the end.

    Parameters
    ----------
    explanation : Explanation
    folder : path-like
    overwrite : bool
        Replace an earlier result of this program.
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
    target = check_output_folder(folder, overwrite)
    monitor = monitor or Monitor()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-writing-") as temporary:
            unfinished = Path(temporary) / "result"
            unfinished.mkdir()
            _write_files(explanation, unfinished, figure, scene_writer, monitor)
            _move_into_place(unfinished, target, Path(temporary))
    except OSError as cause:
        raise OutputError(f"{target} cannot be written: {cause}") from cause
    return target


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
    document: dict[str, Any] = {"kind": KIND, **explanation.provenance}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / PROVENANCE_FILE).write_text(text, encoding="utf-8")
    monitor.report(1.0, "written")


def _move_into_place(unfinished: Path, target: Path, temporary: Path) -> None:
    """Rename the finished folder; an earlier one is moved aside first, and put back if that fails."""
    if not target.exists():
        os.replace(unfinished, target)
        return
    aside = temporary / "earlier"
    shutil.move(target, aside)
    try:
        os.replace(unfinished, target)
    except OSError:
        shutil.move(aside, target)
        raise


def draw_overview(explanation: Explanation, path: str | os.PathLike[str]) -> Path:
    """Draw the scan with every heatmap over it."""
    rows = []
    for heatmap in explanation.heatmaps:
        result = heatmap.attribution
        subtitle = f"Σ {result.relevance_sum:.3g}"
        if result.is_conserving:
            subtitle += f", unattributed {result.unattributed:.2g}"
        quantity = "share" if result.start == "unit" else result.start
        display = OverlayDisplay.for_heatmap(heatmap.volume.array)
        rows.append(FigureRow(heatmap.method.title, subtitle, heatmap.volume, display, heatmap.table, quantity))
    chances = "   ".join(f"P({name}) = {p:.3f}" for name, p in explanation.probabilities.items())
    headline = f"{explanation.model.title}:   {chances}   ·   explained class: {explanation.target_class}"
    trained = explanation.provenance["model"].get("training", {}).get("data", "unknown data")
    return write_figure(path, explanation.scan, rows, headline, f"{provenance.NOTICE} Trained on: {trained}")
