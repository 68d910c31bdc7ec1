"""Small pictures of a page as SVG, made of numbers and escaped names; they take their colours from the page's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ADAttributionLogic.answer_spread import value_text
from ADAttributionLogic.outcome import Outcome
from ADAttributionLogic.report.score_scale import level_spans, scale_range

_WIDTH = 640
_LEFT, _RIGHT = 16.0, 16.0


def answer_drawing(outcome: Outcome, target: str, spread: Mapping[str, float]) -> str:
    """The answer: a bar per class, or a score on its scale with its levels, ± and every network's value."""
    return (_score if outcome.output.is_score else _classes)(outcome, target, spread)


def _classes(outcome: Outcome, target: str, spread: Mapping[str, float]) -> str:
    left, row = 150.0, 30.0
    span = _WIDTH - left - 140
    parts, said = [], []
    for number, (name, value) in enumerate(outcome.values.items()):
        y = 8 + number * row
        text = value_text(value, spread.get(name), 3)
        said.append(f"P({name}) = {text}")
        explained = " explained" if name == target else ""
        parts.append(f'<text x="{left - 10:.0f}" y="{y + 14:.1f}" class="end name">{_short(name, 18)}</text>')
        parts.append(f'<rect x="{left:.1f}" y="{y:.1f}" width="{span:.1f}" height="18" rx="3" class="track"/>')
        width = max(span * min(max(value, 0.0), 1.0), 0.5)
        parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="18" rx="3" class="value{explained}"/>'
        )
        parts += _whisker(left + span * value, span * spread.get(name, 0.0), y + 9, left, left + span)
        for member in outcome.members:
            x = left + span * member.values[name]
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2:.1f}" y2="{y + 20:.1f}" class="member"/>')
        parts.append(f'<text x="{left + span + 10:.1f}" y="{y + 14:.1f}" class="number">{escape(text)}</text>')
    return _svg(parts, 8 + row * len(outcome.values), f"The answer: {'; '.join(said)}")


def _score(outcome: Outcome, target: str, spread: Mapping[str, float]) -> str:
    low, high = scale_range(outcome, target)
    span = _WIDTH - _LEFT - _RIGHT

    def place(value: float) -> float:
        return _LEFT + span * (value - low) / (high - low)

    parts: list[str] = []
    names = list(outcome.output.levels)
    for name, start, stop in level_spans(outcome, low, high):
        number = min(names.index(name), 2) if name else 0
        x, width = place(start), place(stop) - place(start)
        parts.append(f'<rect x="{x:.1f}" y="30" width="{width:.1f}" height="20" class="level{number}"/>')
        parts.append(f'<text x="{x + width / 2:.1f}" y="84" class="middle name">{_short(name, 24)}</text>')
    for tick in sorted({low, high, *outcome.output.thresholds}):
        x = min(max(place(tick), _LEFT), _WIDTH - _RIGHT)
        side = "start" if tick == low else "end" if tick == high else "middle"
        parts.append(f'<text x="{x:.1f}" y="66" class="{side} tick">{tick:.3g}</text>')
    for member in outcome.members:
        x = place(member.values[target])
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="27" y2="53" class="member"/>')
    value = outcome.values[target]
    x = place(value)
    parts += _whisker(x, span * spread.get(target, 0.0) / (high - low), 40, _LEFT, _LEFT + span)
    parts.append(f'<path d="M{x - 7:.1f} 12 h14 l-7 14 z" class="marker"/>')
    text = f"{value_text(value, spread.get(target), 2)} {outcome.output.unit}".strip()
    anchor = "end" if x > _WIDTH / 2 else "start"
    label = x - 12 if anchor == "end" else x + 12
    parts.append(f'<text x="{label:.1f}" y="21" class="{anchor} number">{escape(text)}</text>')
    said = f"{outcome.output.name} = {text}{f', {outcome.verdict}' if outcome.verdict else ''}"
    if outcome.members:
        each = ", ".join(f"{m.name} {m.values[target]:.2f}" for m in outcome.members)
        said += f"; each network: {each}"
    return _svg(parts, 90, f"The answer on its scale: {said}")


def _whisker(x: float, half: float, y: float, left: float, right: float) -> list[str]:
    """A horizontal line from x − half to x + half, within limits."""
    if half <= 0:
        return []
    a, b = max(x - half, left), min(x + half, right)
    return [f'<path d="M{a:.1f} {y - 4:.1f} v8 M{a:.1f} {y:.1f} H{b:.1f} M{b:.1f} {y - 4:.1f} v8" class="whisker"/>']


def bar_drawing(value: float, lowest: float, highest: float) -> str:
    """A bar for a cell of a table, from 0 to the right, or for a negative value to the left.

    Parameters
    ----------
    value : float
    lowest, highest : float
        Of all bars, 0 included.
    """
    span = highest - lowest
    if span <= 0 or value != value:
        return ""
    zero = -60 * lowest / span
    x = zero + 60 * max(min(value, highest), lowest) / span
    side = "positive" if value >= 0 else "negative"
    return (
        '<svg class="bar" width="62" height="10" viewBox="-1 0 62 10" aria-hidden="true" focusable="false">'
        f'<rect x="{min(x, zero):.1f}" y="1" width="{abs(x - zero):.1f}" height="8" class="{side}"/>'
        f'<path d="M{zero:.1f} 0v10" class="axis"/></svg>'
    )


def deviation_drawing(names: Sequence[str], z: Sequence[float], cohort: str) -> str:
    """One dot per region at its z among a reference's controls, over bands of one and two standard deviations.

    Parameters
    ----------
    names : sequence of str
    z : sequence of float
    cohort : str
        Who they are.
    """
    left, row = 250.0, 20.0
    span = _WIDTH - left - 50
    limit = max(3.5, *(abs(value) * 1.08 for value in z)) if len(z) else 3.5
    height = row * len(names) + 34

    def place(value: float) -> float:
        return left + span * (value + limit) / (2 * limit)

    parts = []
    for band, name in ((2.0, "band2"), (1.0, "band1")):
        x, width = place(-band), place(band) - place(-band)
        parts.append(f'<rect x="{x:.1f}" y="4" width="{width:.1f}" height="{height - 30:.0f}" class="{name}"/>')
    parts.append(f'<path d="M{place(0):.1f} 4V{height - 26:.0f}" class="axis"/>')
    for number, (name, value) in enumerate(zip(names, z, strict=True)):
        y = 14 + number * row
        side = "positive" if value >= 0 else "negative"
        parts.append(f'<text x="{left - 10:.0f}" y="{y + 4:.1f}" class="end name">{_short(name, 38)}</text>')
        parts.append(f'<path d="M{place(0):.1f} {y:.1f}H{place(value):.1f}" class="stem {side}"/>')
        parts.append(f'<circle cx="{place(value):.1f}" cy="{y:.1f}" r="4.5" class="{side}"/>')
        parts.append(f'<text x="{_WIDTH - 4}" y="{y + 4:.1f}" class="end number">{value:+.1f}</text>')
    for tick in (-2, 0, 2):
        parts.append(f'<text x="{place(tick):.1f}" y="{height - 10:.0f}" class="middle tick">{tick:+d}</text>')
    said = "; ".join(f"{name} {value:+.1f}" for name, value in zip(names, z, strict=True))
    return _svg(parts, height, f"Standard deviations from the mean of {cohort}, by region: {said}")


def curve_drawing(curves: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> str:
    """Up to three lines over a common horizontal axis.

    Parameters
    ----------
    curves : mapping of str to sequence of (float, float)
        Points of each line by its name, the most important first.
    x_title, y_title : str
    """
    points = [point for line in curves.values() for point in line]
    if not points:
        return ""
    left, top, right, bottom = 60.0, 12.0, 480.0, 170.0
    (x0, x1), (y0, y1) = ((min(p[a] for p in points), max(p[a] for p in points)) for a in (0, 1))
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return left + (right - left) * (x - x0) / (x1 - x0), bottom - (bottom - top) * (y - y0) / (y1 - y0)

    parts = [f'<path d="M{left} {top}V{bottom}H{right}" class="axis none"/>']
    for number, (name, line) in enumerate(curves.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line))
        parts.append(f'<polyline points="{path}" class="curve{min(number, 2)}"/>')
        y = top + 10 + 18 * number
        parts.append(f'<path d="M{right + 12} {y - 4}h18" class="curve{min(number, 2)}"/>')
        parts.append(f'<text x="{right + 36}" y="{y}" class="name">{_short(name, 18)}</text>')
    for value, y in ((y0, bottom), (y1, top + 8)):
        parts.append(f'<text x="{left - 6}" y="{y}" class="end tick">{value:.3g}</text>')
    for value, x, side in ((x0, left, "start"), (x1, right, "end")):
        parts.append(f'<text x="{x}" y="{bottom + 14}" class="{side} tick">{value:.3g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 30}" class="middle tick">{_short(x_title, 60)}</text>')
    said = "; ".join(f"{name} from {line[0][1]:.3g} to {line[-1][1]:.3g}" for name, line in curves.items() if line)
    return _svg(parts, bottom + 38, f"{y_title} by {x_title}: {said}")


def _short(text: Any, most: int) -> str:
    whole = str(text).replace("_", " ")
    return escape(whole if len(whole) <= most else f"{whole[: most - 1]}…")


def _svg(parts: Sequence[str], height: float, said: str) -> str:
    return (
        f'<svg class="drawing" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg>"
    )
