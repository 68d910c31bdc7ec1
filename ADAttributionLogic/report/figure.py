"""A figure of a scan with a heatmap laid over it, as radiologists look at it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.checks.findings import MARKS, MapChecks, Verdict
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.relevance.region_table import SMALLEST_RANKED_MM3, RegionTable
from ADAttributionLogic.report.overlay_display import OverlayDisplay, two_sided_colours
from ADAttributionLogic.volume import Volume, resample

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: Height of the answer's scale, of a line of warnings, and of one of the footnote.
SCALE_INCHES, WARNING_INCHES, FOOTNOTE_LINE_INCHES = 0.85, 0.22, 0.17
#: Letters of the headline per inch at its largest size.
HEADLINE_PER_INCH = 7.8

#: Height of the strip of checks below a row.
CHECKS_INCHES = 0.3
#: Apart from the marks, whose shapes tell as well.
VERDICT_COLOURS: dict[Verdict, str] = {"pass": "#4dbd74", "unsure": "#ffb000", "fail": "#ff6b6b", "not run": "#77777f"}

BACKGROUND, TEXT, MUTED, WARNING = "#101014", "#f2f2f2", "#a8a8b0", "#ffb000"
_LISTED = f"regions (from {SMALLEST_RANKED_MM3:g} mm³ on) by"
LIST_HEADS = {"density": f"{_LISTED} relevance per mm³", "z": f"{_LISTED} z against the controls"}


@dataclass(frozen=True, eq=False)
class FigureRow:
    """One heatmap of a figure.

    Attributes
    ----------
    title, subtitle : str
    heatmap : Volume
    display : OverlayDisplay
    table : RegionTable or None
        Its top regions are listed beside the slices.
    quantity : str
        What the colours mean, e.g. ``"relevance for AD (probability)"``.
    by : {"density", "z"}
        What the regions are listed by.
    checks : MapChecks or None
        Whether the map can be believed: a strip below the slices.
    """

    title: str
    subtitle: str
    heatmap: Volume
    display: OverlayDisplay
    table: RegionTable | None
    quantity: str
    by: str = "density"
    checks: MapChecks | None = None


def write_figure(
    path: str | os.PathLike[str],
    scan: Volume,
    rows: Sequence[FigureRow],
    headline: str,
    footnote: str,
    top: int = 8,
    scale: Callable[[Axes], None] | None = None,
    warning: str = "",
) -> Path:
    """Draw one row of slices per heatmap: two coronal, two axial, one sagittal, colour bar and top regions.

    Slices go through the places with most relevance; all rows show the same slices, so that they can be compared.
    Left is where the patient's right is (radiological convention), as the letters say.

    Parameters
    ----------
    path : path-like
        Where to write; the suffix says the format (.png, .pdf, .svg).
    scan : Volume
    rows : sequence of FigureRow
    headline, footnote : str
    top : int
        How many regions to list.
    scale : callable, optional
        Draws the answer on its scale, below the headline.
    warning : str
        What makes the result doubtful; below the headline.

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
    grid = upright(scan.grid)
    brain = resample(scan, grid)
    maps = [resample(row.heatmap, grid) for row in rows]
    slices = choose_slices([np.abs(m.array) for m in maps], brain.array)
    # Widths: four slices seen along the second or third axis, one along the first, the colour bar, the regions.
    ratios = [*[grid.shape[0]] * 4, grid.shape[1], 0.3 * grid.shape[0]]
    if any(row.table is not None for row in rows):
        ratios.append(1.75 * grid.shape[0])
    width = 2.45 * sum(ratios) / grid.shape[0]
    warned = textwrap.wrap(f"⚠ {warning}", int(width * 10)) if warning else []
    warning_room, scale_room = WARNING_INCHES * len(warned), SCALE_INCHES if scale else 0.0
    lines = textwrap.wrap(footnote, int(width * 13))
    foot = max(0.5, FOOTNOTE_LINE_INCHES * len(lines) + 0.16)
    checks_room = CHECKS_INCHES if any(row.checks is not None for row in rows) else 0.0
    height = (3.1 + checks_room) * len(rows) + 0.75 + foot + warning_room + scale_room
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(rows),
        len(ratios),
        squeeze=False,
        gridspec_kw={
            "width_ratios": ratios,
            "left": 1.4 / width,
            "right": 1 - 0.19 / width,
            "top": 1 - (0.75 + warning_room + scale_room) / height,
            "bottom": (foot + checks_room) / height,
            "wspace": 0.04,
            "hspace": 0.12 + checks_room / 2.8,
        },
    )
    for row, heatmap, cells in zip(rows, maps, axes, strict=True):
        _draw_row(row, brain, heatmap, slices, grid, cells, top)
    # An ensemble's answer with long names of classes would run out of the figure.
    size = min(15.0, 15.0 * HEADLINE_PER_INCH * width / len(headline))
    figure.text(0.012, 1 - 0.32 / height, headline, color=TEXT, fontsize=size, va="center", weight="bold")
    warned_text = "\n".join(warned)
    figure.text(0.012, 1 - 0.5 / height, warned_text, color=WARNING, fontsize=11, va="top", weight="bold")
    if scale:
        bottom = 1 - (0.55 + warning_room + SCALE_INCHES) / height
        scale(figure.add_axes((0.02, bottom, 0.5, 0.9 * SCALE_INCHES / height)))
    figure.text(0.012, 0.06 / height, "\n".join(lines), color=MUTED, fontsize=9, va="bottom")
    figure.savefig(path, dpi=100, facecolor=BACKGROUND)
    return Path(path)


def choose_slices(maps: Sequence[npt.NDArray[Any]], brain: npt.NDArray[Any]) -> dict[str, tuple[int, ...]]:
    """Slices with the most relevance: two coronal and two axial at least an eighth of the brain apart, one sagittal.

    Each map counts equally. Relevance is squared, so that a few strong voxels outweigh many faint ones.
    """
    profiles = [np.zeros(n) for n in brain.shape]
    for magnitude in maps:
        squared = np.square(magnitude, dtype=np.float64)
        for axis in range(3):
            profile = squared.sum(axis=tuple(a for a in range(3) if a != axis))
            profiles[axis] += profile / (profile.sum() or 1.0)
    counts = {"sagittal": (0, 1), "coronal": (1, 2), "axial": (2, 2)}
    chosen: dict[str, tuple[int, ...]] = {}
    for name, (axis, count) in counts.items():
        profile = np.convolve(profiles[axis], np.ones(3) / 3, mode="same")
        # Where there is no (more) relevance, the widest slices of the brain.
        profile += 1e-9 * (brain > 0).mean(axis=tuple(a for a in range(3) if a != axis))
        picks: list[int] = []
        for _ in range(count):
            pick = int(np.argmax(profile))
            picks.append(pick)
            apart = brain.shape[axis] // 8
            profile[max(pick - apart, 0) : pick + apart + 1] = -1
        chosen[name] = tuple(sorted(picks))
    return chosen


def upright(grid: Grid) -> Grid:
    """The same field of view in RAS orientation with isotropic voxels, whatever the scan's."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij")).reshape(3, -1).T
    points = grid.to_ras(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    step = min(grid.spacing)
    i, j, k = np.maximum(np.rint((high - low) / step), 1).astype(int)
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = low + step / 2
    return Grid((int(i), int(j), int(k)), affine)


def _draw_row(
    row: FigureRow, brain: Volume, heatmap: Volume, slices: dict[str, tuple[int, ...]], grid: Grid, cells: Any, top: int
) -> None:
    inside = brain.array[brain.array > 0]
    bright = float(np.percentile(inside, 99.5)) if inside.size else 1.0
    planes = [("coronal", 1, s) for s in slices["coronal"]] + [("axial", 2, s) for s in slices["axial"]]
    planes.append(("sagittal", 0, slices["sagittal"][0]))
    for cell, (name, axis, index) in zip(cells[:5], planes, strict=True):
        _draw_slice(cell, brain.array, heatmap.array, axis, index, bright, row.display)
        millimetres = grid.to_ras([index if a == axis else 0 for a in range(3)])[axis]
        cell.set_title(f"{name} {'RAS'[axis]} {millimetres:+.0f} mm", color=MUTED, fontsize=9, pad=3)
        _letters(cell, name)
    cells[0].text(
        -0.06,
        0.5,
        f"{row.title}\n\n",
        transform=cells[0].transAxes,
        rotation=90,
        ha="right",
        va="center",
        color=TEXT,
        fontsize=11,
        weight="bold",
    )
    cells[0].text(
        -0.06,
        0.5,
        row.subtitle,
        transform=cells[0].transAxes,
        rotation=90,
        ha="right",
        va="center",
        color=MUTED,
        fontsize=8,
    )
    _draw_colour_bar(cells[5], row)
    if row.checks is not None:
        _draw_checks(cells[0], row.checks)
    if row.table is not None:
        _list_regions(cells[6], row.table, top, row)
    else:
        for cell in cells[6:]:
            cell.axis("off")


def _draw_checks(cell: Axes, checks: MapChecks) -> None:
    """A line of marks with the checks' names and numbers; those that were not run stand last, in grey."""
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    parts: list[Artist] = []
    for check in sorted(checks.checks, key=lambda check: check.verdict == "not run"):
        number = "" if check.number is None else f" {check.number:.2f}"
        colour = VERDICT_COLOURS[check.verdict]
        mark = TextArea(MARKS[check.verdict], textprops={"color": colour, "fontsize": 10, "weight": "bold"})
        grey = MUTED if check.verdict == "not run" else TEXT
        name = TextArea(f"{check.title}{number}", textprops={"color": grey, "fontsize": 9})
        parts.append(HPacker(children=[mark, name], pad=0, sep=3, align="center"))
    strip = HPacker(children=parts, pad=0, sep=14, align="center")
    # Below the whole row: the slices of other planes are taller than the first one.
    figure, room = cell.get_figure(), cell.get_subplotspec()
    assert isinstance(figure, Figure) and room is not None
    corner = room.get_position(figure)
    place = AnnotationBbox(
        strip,
        (corner.x0, corner.y0),
        (0, -4),
        "figure fraction",
        "offset points",
        box_alignment=(0, 1),
        frameon=False,
        pad=0,
    )
    figure.add_artist(place)


def _draw_slice(
    cell: Axes, brain: Any, heatmap: Any, axis: int, index: int, bright: float, display: OverlayDisplay
) -> None:
    anatomy, relevance = (np.take(a, index, axis=axis).T for a in (brain, heatmap))
    if axis != 0:  # radiological convention: the patient's right on the left
        anatomy, relevance = anatomy[:, ::-1], relevance[:, ::-1]
    cell.imshow(anatomy, cmap="gray", vmin=0, vmax=bright, origin="lower", interpolation="bilinear")
    table = two_sided_colours(display)
    position = np.clip((relevance / display.maximum + 1) / 2 * (len(table) - 1), 0, len(table) - 1)
    cell.imshow(table[np.rint(position).astype(int)] * (1, 1, 1, 0.85), origin="lower", interpolation="nearest")
    cell.axis("off")


def _letters(cell: Axes, plane: str) -> None:
    """Above the picture's corners: on it they would lie on a head that fills its slice."""
    left, right = ("P", "A") if plane == "sagittal" else ("R", "L")
    for x, letter, side in ((0.0, left, "left"), (1.0, right, "right")):
        cell.annotate(
            letter,
            (x, 1.0),
            (0, 3),
            xycoords="axes fraction",
            textcoords="offset points",
            color=TEXT,
            fontsize=9,
            ha=side,
            va="bottom",
        )


#: Of a colour bar's half height: a threshold nearer to 0 than this has one label for both signs.
_LABELS_APART = 0.1


def _draw_colour_bar(beside: Axes, row: FigureRow) -> None:
    beside.axis("off")
    cell = beside.inset_axes((0.12, 0.04, 0.2, 0.82))
    beside.text(0.0, 1.0, row.quantity, transform=beside.transAxes, color=MUTED, fontsize=8, va="top")
    signed = bool((row.heatmap.array < 0).any())
    table = two_sided_colours(row.display)
    colours = table if signed else table[len(table) // 2 :]
    low = -row.display.maximum if signed else 0.0
    cell.imshow(colours[:, None], aspect="auto", origin="lower", extent=(0, 1, low, row.display.maximum))
    threshold, maximum = row.display.threshold, row.display.maximum
    ticks = {threshold: f"{threshold:.2g}", maximum: f"{maximum:.2g}"}
    if signed and threshold < _LABELS_APART * maximum:  # the labels of both thresholds would touch
        ticks = {0.0: f"±{threshold:.2g}", maximum: f"{maximum:.2g}", -maximum: f"{-maximum:.2g}"}
    elif signed:
        ticks |= {-threshold: f"{-threshold:.2g}", -maximum: f"{-maximum:.2g}"}
    cell.set_yticks(list(ticks), list(ticks.values()), color=MUTED, fontsize=7)
    cell.set_xticks([])
    cell.set_facecolor("#2a2a30")
    cell.yaxis.tick_right()
    cell.tick_params(colors=MUTED, length=0, pad=4)


def _list_regions(cell: Axes, table: RegionTable, top: int, row: FigureRow) -> None:
    cell.axis("off")
    ranked = table.ranked(f"{row.by}_rank")[:top]
    names = [str(r["name"]).replace("_", " ") for r in ranked]
    values = np.array([r[row.by] for r in ranked], dtype=float)
    bars = cell.inset_axes((0.66, 0.02, 0.32, 0.92))
    bars.set_facecolor(BACKGROUND)
    bars.barh(np.arange(len(names)), values, color=["#ff8c1a" if v >= 0 else "#3399ff" for v in values], height=0.7)
    if row.by == "z":  # a number says more than a bar's length
        for place, value in enumerate(values):
            bars.annotate(f" {value:.1f}", (max(value, 0), place), color=TEXT, fontsize=7, va="center")
        bars.margins(x=0.12)  # the number of the longest bar has room
    bars.set_yticks(np.arange(len(names)))
    bars.set_yticklabels([n if len(n) < 40 else n[:38] + "…" for n in names], color=TEXT, fontsize=8)
    bars.invert_yaxis()
    bars.set_xticks([])
    for spine in bars.spines.values():
        spine.set_visible(False)
    bars.tick_params(length=0)
    cell.text(1.0, 1.0, LIST_HEADS[row.by], color=MUTED, fontsize=8, ha="right", transform=cell.transAxes)
