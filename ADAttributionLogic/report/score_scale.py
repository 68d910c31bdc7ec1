"""An answer on its scale: the levels of a score or the probability of a class, the mean, and every network's value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ADAttributionLogic.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: From the lowest level to the highest; muted, so that the markers stand out.
LEVEL_COLOURS = ("#2f6f5e", "#8a7a2e", "#8a4030")
_MEAN, _MEMBER, _TEXT, _MUTED = "#ffffff", "#ffb454", "#f2f2f2", "#a8a8b0"


def has_scale(outcome: Outcome) -> bool:
    """Whether there is more to show than the numbers: a score with a scale, or several networks."""
    return bool(outcome.members) or (outcome.output.is_score and outcome.output.scale is not None)


def scale_range(outcome: Outcome, target: str) -> tuple[float, float]:
    """From where to where to draw: the scale of the score or 0 to 1, and further where a value lies beyond."""
    values = [outcome.values[target], *(member.values[target] for member in outcome.members)]
    low, high = (outcome.output.scale or (min(values), max(values))) if outcome.output.is_score else (0.0, 1.0)
    low, high = min(low, *values, low), max(high, *values, high)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def level_spans(outcome: Outcome, low: float, high: float) -> list[tuple[str, float, float]]:
    """Name and limits of each level that lies in the range; one without a name where there are none."""
    if not outcome.output.levels:
        return [("", low, high)]
    edges = [low, *outcome.output.thresholds, high]
    spans = zip(outcome.output.levels, edges[:-1], edges[1:], strict=True)
    return [(name, max(a, low), min(b, high)) for name, a, b in spans if max(a, low) < min(b, high)]


def draw_scale(axes: Axes, outcome: Outcome, target: str) -> None:
    """Draw the scale of a score, or of the probability of a class.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    outcome : Outcome
    target : str
        The class, or the name of the score.
    """
    low, high = scale_range(outcome, target)
    names = list(outcome.output.levels)
    axes.set_xlim(low, high)
    axes.set_ylim(-1.6, 2.2)
    axes.axis("off")
    for name, start, stop in level_spans(outcome, low, high):
        colour = LEVEL_COLOURS[min(names.index(name), len(LEVEL_COLOURS) - 1)] if name else "#3a3a44"
        axes.barh(0, stop - start, left=start, height=0.9, color=colour)
        # Below the bar: on it the networks' lines would cross out the names.
        axes.text((start + stop) / 2, -0.62, name, color=_TEXT, fontsize=9, ha="center", va="top")
    for tick in sorted({low, high, *outcome.output.thresholds}):
        axes.text(tick, -0.62, f"{tick:.3g}", color=_MUTED, fontsize=8, ha="center", va="top")
    for member in outcome.members:
        axes.plot([member.values[target]] * 2, [-0.45, 0.45], color=_MEMBER, linewidth=1.6)
    axes.plot(outcome.values[target], 0.72, marker="v", color=_MEAN, markersize=9)
    several = ", lines: each network" if outcome.members else ""
    unit = f" ({outcome.output.unit})" if outcome.output.unit else ""
    what = f"{target}{unit}" if outcome.output.is_score else f"P({target})"
    axes.text(
        low,
        2.1,
        f"{what}: triangle the {'mean' if several else 'answer'}{several}",
        color=_MUTED,
        fontsize=8,
        va="top",
    )
