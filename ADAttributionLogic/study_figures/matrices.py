"""Matrices as figures: overlaps of top regions, distances of maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.study_figures.style import StudyFigure, axes_of, new_figure
from ADAttributionLogic.study_figures.tables import Table, matrix_table

FloatArray = npt.NDArray[np.float64]

#: Distances that span more than this are coloured by their logarithm.
_WIDE = 30.0


def matrix_figure(table: Table, caption: str, decimals: int = 0, dark_is_low: bool = False) -> StudyFigure:
    """Draw a square table; the diagonal, where everything is compared with itself, stays grey.

    Parameters
    ----------
    table : Table
        From :func:`~.tables.matrix_table`.
    caption : str
    decimals : int
    dark_is_low : bool
        For distances.
    """
    labels = [str(name) for name in table.columns[""]]
    values = np.column_stack([np.asarray(table.columns[name], dtype=np.float64) for name in labels])
    return _drawn(labels, values, table.name, table.title, caption, decimals, dark_is_low)


def distance_figure(
    name: str, title: str, labels: list[str], matrix: FloatArray, caption: str, scale: float = 1.0
) -> StudyFigure:
    """A matrix of distances, in units of `scale`."""
    return matrix_figure(matrix_table(name, title, labels, matrix / scale), caption, 2, dark_is_low=True)


def _drawn(
    labels: list[str], values: FloatArray, name: str, title: str, caption: str, decimals: int, dark_is_low: bool
) -> StudyFigure:
    from matplotlib.colors import LogNorm, Normalize

    side = 0.62 * len(labels) + 2.6
    figure = new_figure(side + 0.4, side - 0.6)
    axes: Any = axes_of(figure)
    shown = np.where(np.eye(len(labels), dtype=bool), np.nan, values)
    known = shown[np.isfinite(shown)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if not dark_is_low:
        low, high = 0.0, 100.0
    axes.set_facecolor("#DDDDDD")
    wide = dark_is_low and low > 0 and high > _WIDE * low
    norm = LogNorm(low, high) if wide else Normalize(low, high if high > low else low + 1)
    image = axes.imshow(shown, cmap="Blues_r" if dark_is_low else "Blues", norm=norm)
    for i in range(len(labels)):
        for j in range(len(labels)):
            if np.isfinite(values[i, j]) and i != j:
                part = float(norm(values[i, j]))
                is_dark = part < 0.45 if dark_is_low else part > 0.55
                text = f"{values[i, j]:.{decimals if values[i, j] < 1000 else 0}f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if is_dark else "#202020")
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, shrink=0.7).outline.set_visible(False)
    return StudyFigure(name, caption, figure, matrix_table(name, title, labels, values))
