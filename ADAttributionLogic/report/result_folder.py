"""An explanation as a folder of files. It appears under its name only when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.checks.findings import Checks
from ADAttributionLogic.checks.table_files import write_check_tables
from ADAttributionLogic.comparison.violin import violins_of
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.explanation import Explanation
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.page.assembly import build_page, can_make_pages
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.relevance.table_files import write_pair_table, write_region_table
from ADAttributionLogic.report.overview import draw_overview
from ADAttributionLogic.report.placing import (
    Place,
    check_place,
    check_replacement,
    hashes_of,
    read_marked,
    tidy_up,
    writing,
)
from ADAttributionLogic.report.preprocessing_files import QUALITY_FIGURE, write_preprocessing
from ADAttributionLogic.report.result_places import (
    CHECKS_FOLDER,
    CONSENSUS_FILES,
    CONTROLS_FIGURE,
    FIGURE_FILE,
    KIND,
    PREPROCESSING_FOLDER,
    PROVENANCE_FILE,
    REPORT_FILE,
    SCENE_FILE,
)
from ADAttributionLogic.report.violins import most_unusual, write_violins
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.service.answer import answer_of
from ADAttributionLogic.volume import Volume

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
    page: bool = True,
    keep_identifiers: bool = False,
    scene_writer: SceneWriter | None = None,
    monitor: Monitor | None = None,
) -> Path:
    """Write heatmaps (NIfTI), tables (CSV, TSV, JSON), a figure, a report, provenance and optionally a Slicer scene.

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
    page : bool
        Also ``report.html`` (:mod:`ADAttributionLogic.page`), where what it needs is installed.
    keep_identifiers : bool
        The report names the scan and its path.
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
        _write_files(explanation, unfinished, figure, monitor)
        if page and not can_make_pages():
            monitor.report(0.5, "writing the report")
            _write_report(explanation, unfinished, keep_identifiers)
        if scene_writer is not None:
            monitor.report(0.6, "writing the Slicer scene")
            scene_writer(explanation, unfinished / SCENE_FILE)
        document: dict[str, Any] = {"kind": KIND, **explanation.provenance, "files": hashes_of(unfinished)}
        (unfinished / PROVENANCE_FILE).write_text(document_text(document), encoding="utf-8", errors="backslashreplace")
        monitor.report(1.0, "written")
    return Path(folder)


def document_text(document: dict[str, Any]) -> str:
    """Provenance as it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_report(explanation: Explanation, folder: Path, keep_identifiers: bool) -> None:
    figures = [folder / FIGURE_FILE, folder / PREPROCESSING_FOLDER / QUALITY_FIGURE]
    overview, quality = (path.read_bytes() if path.is_file() else None for path in figures)
    text = build_page(answer_of(explanation, quality), overview, keep_identifiers=keep_identifiers)
    (folder / REPORT_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")


def _write_files(explanation: Explanation, folder: Path, figure: bool, monitor: Monitor) -> None:
    (folder / "heatmaps").mkdir()
    for number, heatmap in enumerate(explanation.heatmaps):
        monitor.report(0.4 * number / len(explanation.heatmaps), f"writing {heatmap.name}")
        write_volume(heatmap.volume, folder / "heatmaps" / f"{heatmap.name}.nii.gz")
        if heatmap.table is not None and not heatmap.z_of:  # the table of a z map is that of its map
            (folder / "tables").mkdir(exist_ok=True)
            for suffix in (".csv", ".tsv", ".json"):
                write_region_table(heatmap.table, folder / "tables" / f"{heatmap.name}{suffix}")
            if heatmap.attribution.region_pairs and explanation.atlas is not None:
                names = {region.label: region.name for region in explanation.atlas.regions}
                pairs = heatmap.attribution.region_pairs
                write_pair_table(pairs, names, folder / "tables" / f"{heatmap.name}-pairs.csv")
    if explanation.checks is not None:
        write_checks(explanation.checks, explanation.consensus, folder / CHECKS_FOLDER)
    if explanation.preprocessed is not None:
        monitor.report(0.35, "writing the transforms")
        (folder / PREPROCESSING_FOLDER).mkdir()
        target = RegistrationTarget(load_template()) if figure else None
        write_preprocessing(explanation.preprocessed, folder / PREPROCESSING_FOLDER, target)
    if figure:
        monitor.report(0.4, "drawing the figure")
        draw_overview(answer_of(explanation), folder / FIGURE_FILE)
        _draw_comparison(explanation, folder)


def _draw_comparison(explanation: Explanation, folder: Path) -> None:
    """Of each map that was compared with controls, the most unusual regions."""
    for heatmap in explanation.heatmaps:
        compared = explanation.provenance.get("comparison", {}).get("maps", {}).get(heatmap.name)
        if compared is None or heatmap.table is None:
            continue
        rows = heatmap.table.rows()
        if violins_of(compared, most_unusual(rows, 1)):
            path = folder / f"{CONTROLS_FIGURE}-{heatmap.name}.png"
            title = f"{heatmap.method.title}: regions most unusual among controls"
            write_violins(path, explanation.provenance["comparison"], heatmap.name, rows, title)


def write_checks(checks: Checks, consensus: tuple[Volume, Volume] | None, folder: Path) -> None:
    """Write the tables of the checks and, of several maps, what these say together, into a new folder."""
    folder.mkdir()
    write_check_tables(checks, folder)
    for volume, name in zip(consensus or (), CONSENSUS_FILES, strict=False):
        write_volume(volume, folder / name)
