"""The regions that rank highest as horizontal bars with their names."""

from __future__ import annotations

import io
from collections.abc import Sequence

from ADAttributionLogic.errors import OutputError, UsageError

#: Of positive and negative relevance.
ORANGE, BLUE = "#E17012", "#2A7DE1"
_LONGEST_NAME = 42


def region_chart(names: Sequence[str], values: Sequence[float], title: str, unit: str) -> bytes:
    """Draw one bar per region, the first on top.

    Parameters
    ----------
    names : sequence of str
    values : sequence of float
        In `unit`, with sign.
    title, unit : str

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    UsageError
        No regions, or not one value for each.
    OutputError
        matplotlib is not installed.
    """
    if not names or len(names) != len(values):
        raise UsageError(f"A chart needs a value for each region, but got {len(values)} for {len(names)} regions.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise OutputError("Charts need matplotlib: pip install ad-attribution[report].") from cause
    figure = Figure(figsize=(7.2, 1.1 + 0.3 * len(names)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(names))
    axes.barh(places, values, color=[ORANGE if value >= 0 else BLUE for value in values], height=0.72)
    axes.set_yticks(places, [n if len(n) <= _LONGEST_NAME else n[: _LONGEST_NAME - 1] + "…" for n in names])
    axes.invert_yaxis()
    axes.axvline(0, color="#404040", linewidth=0.8)
    axes.set_xlabel(unit)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=11, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
