"""An answer on its scale as rich text: levels, mean, every network's value. Needs neither Qt nor torch."""

from __future__ import annotations

import html

from ADAttributionLogic.report.score_scale import LEVEL_COLOURS, has_scale, level_spans, scale_range

_CELLS = 48


def scaleText(outcome, target):
    """The scale of a score, or of the probability of a class, in rich text; "" where there is nothing to show."""
    if not has_scale(outcome):
        return ""
    low, high = scale_range(outcome, target)

    def cell(value):
        return min(int((value - low) / (high - low) * _CELLS), _CELLS - 1)

    rows = [
        _marks({cell(outcome.values[target]): "▼"}),
        _levels(outcome, low, high, cell),
        _marks(_counts(cell(member.values[target]) for member in outcome.members)),
    ]
    legend = "▼ the mean; below, how many networks lie there" if outcome.members else "▼ the score"
    ends = f"{low:.3g}".ljust(_CELLS - len(f"{high:.3g}")) + f"{high:.3g}"
    lines = "<br>".join(row for row in (*rows, ends.replace(" ", "&nbsp;")) if row.replace("&nbsp;", ""))
    return f"<tt>{lines}</tt><br><span style='color:#808080'>{legend}{_thresholdsText(outcome)}</span>"


def memberLines(outcome, target):
    """Every network's value and verdict, in rich text."""
    rows = [
        f"<tr><td>{html.escape(m.name)}&nbsp;</td><td>{m.values[target]:.2f}&nbsp;</td><td>{html.escape(m.verdict)}</td></tr>"
        for m in outcome.members
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def outcomeText(outcome, target, spread=None):
    """A score or the answer of an ensemble, how far it moves, scale and every network's value, in rich text."""
    headline = f"<b>{html.escape(outcome.headline(spread))}</b>"
    meaning = outcome.output.meaning
    parts = [
        headline,
        scaleText(outcome, target),
        html.escape(meaning[:1].upper() + meaning[1:]),
        memberLines(outcome, target),
    ]
    return "<br>".join(part for part in parts if part)


def _marks(marks):
    """A line of cells with signs at some of them."""
    return "".join(marks.get(number, "&nbsp;") for number in range(_CELLS)) if marks else ""


def _counts(cells):
    found = {}
    for number in cells:
        found[number] = found.get(number, 0) + 1
    return {number: str(count) for number, count in found.items()}


def _levels(outcome, low, high, cell):
    names, parts, begun = list(outcome.output.levels), [], 0
    for name, _, stop in level_spans(outcome, low, high):
        until = _CELLS if stop >= high else cell(stop)
        colour = LEVEL_COLOURS[min(names.index(name), len(LEVEL_COLOURS) - 1)] if name else "#808080"
        text = name[: max(until - begun, 0)].center(until - begun)
        parts.append(
            f"<span style='background-color:{colour};color:#ffffff'>{html.escape(text).replace(' ', '&nbsp;')}</span>"
        )
        begun = until
    return "".join(parts)


def _thresholdsText(outcome):
    output = outcome.output
    if not output.levels:
        return ""
    parts = [f"{name} from {limit:.3g}" for name, limit in zip(output.levels[1:], output.thresholds, strict=True)]
    return f"; {', '.join(html.escape(part) for part in parts)}"
