"""Figures of a training: its losses epoch by epoch, and how far its probabilities can be taken at their word."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from ADAttributionLogic.training.calibration import Calibration
from ADAttributionLogic.training.fit import Epoch

_INK, _MUTED = "#1f3b57", "#c8553d"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_curves(history: Sequence[Epoch], title: str) -> bytes:
    """Losses and validation accuracy over the epochs, PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    numbers = [epoch.number for epoch in history]
    axes.plot(numbers, [epoch.training_loss for epoch in history], color=_INK, marker=".", label="training loss")
    axes.plot(numbers, [epoch.validation_loss for epoch in history], color=_MUTED, marker=".", label="validation loss")
    trained = [epoch for epoch in history if epoch.number > 0]
    if trained:
        best = min(trained, key=lambda epoch: epoch.validation_loss)
        axes.axvline(best.number, color=_MUTED, linewidth=0.8, linestyle=":", label=f"best epoch ({best.number})")
    axes.set(xlabel="epoch", ylabel="cross-entropy", title=title)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = axes.twinx()
    right.plot(numbers, [epoch.validation_accuracy for epoch in history], color="grey", linewidth=0.9, label="accuracy")
    right.set_ylim(0, 1.02)
    right.set_ylabel("validation accuracy")
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper right", fontsize="small", framealpha=0.9)
    return _png(figure)


def draw_reliability(found: Mapping[str, Calibration], positive: str) -> bytes:
    """Observed frequency against probability said, PNG; below, how many scans each bin has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    for number, (name, one) in enumerate(found.items()):
        colour = (_MUTED, _INK)[number % 2]
        said = [b.mean_probability for b in one.bins]
        upper.plot(
            said,
            [b.observed for b in one.bins],
            color=colour,
            marker="o",
            label=f"{name} (ECE {one.expected_error:.3f})",
        )
        width = (one.bins[0].high - one.bins[0].low) * 0.4 if one.bins else 0.04
        middles = [(b.low + b.high) / 2 + (number - 0.5) * width for b in one.bins]
        lower.bar(middles, [b.count for b in one.bins], width=width, color=colour)
    upper.set(ylabel=f"part that is {positive}", ylim=(-0.03, 1.03), xlim=(0, 1))
    upper.legend(fontsize="small", loc="upper left")
    lower.set(xlabel=f"P({positive}) said", ylabel="scans")
    return _png(figure)


def _png(figure: object) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)  # type: ignore[attr-defined]
    return content.getvalue()
