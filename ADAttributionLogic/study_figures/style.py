"""One look for all figures of a study, and how each becomes files: SVG, PNG, and its numbers as TSV beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.study_figures.tables import Table, write_tsv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Patients and controls, and what is neither.
PATIENTS, CONTROLS, MUTED, LINE = "#E17012", "#2A7DE1", "#8A8F98", "#404040"

#: Longer names of regions are cut.
LONGEST_NAME = 30

_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ad-attribution",
}


@dataclass(frozen=True, eq=False)
class StudyFigure:
    """A figure that is not yet a file.

    Attributes
    ----------
    name : str
        Of its files.
    caption : str
        What it shows, for the page.
    figure : matplotlib Figure
    numbers : Table
        All that is drawn.
    """

    name: str
    caption: str
    figure: Figure
    numbers: Table


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) in the study's style.

    Raises
    ------
    OutputError
        matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise OutputError("Figures need matplotlib: pip install ad-attribution[report].") from cause
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
    return figure


def axes_of(figure: Figure, rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Axes in the study's style; as matplotlib's ``subplots``."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        return figure.subplots(rows, columns, **options)


def short(name: str) -> str:
    """A region's name as figures show it."""
    text = name.replace("_", " ")
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def write_figure_files(made: StudyFigure, folder: Path) -> Path:
    """Write ``NAME.svg``, ``NAME.png`` and ``NAME.tsv``; the PNG's path.

    Raises
    ------
    OSError
    """
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        made.figure.savefig(folder / f"{made.name}.svg", metadata={"Date": None})
        made.figure.savefig(folder / f"{made.name}.png", dpi=110)
    write_tsv(made.numbers, folder / f"{made.name}.tsv")
    return folder / f"{made.name}.png"
