"""A network's card as text, part by part, for whoever shows it: command line, panel, figure. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Parts that are one text each, in the order in which they are read.
_PARTS = (
    ("Made by", "authors"),
    ("For", "intended_use"),
    ("Not for", "not_for"),
    ("Preparation", "preparation"),
    ("Limits", "limitations"),
    ("Licence", "licence"),
    ("Cite", "citation"),
    ("Problems", "problems"),
)
NOT_STATED = "not stated"


def card_parts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Heading and text of each part of a card; what a card does not say is said to be not stated.

    Parameters
    ----------
    card : mapping
        Contents of model.json, or what a result keeps of them.
    """
    texts = {heading: str(card.get(key) or NOT_STATED) for heading, key in _PARTS}
    trained = str(card.get("training", {}).get("data") or NOT_STATED)
    registration = card.get("training", {}).get("registration")
    if registration:
        trained += f" Registration: {registration}."
    output, performance = _output_text(card), _performance_text(card)
    first = [("Made by", texts["Made by"]), ("Answers", output), ("For", texts["For"]), ("Not for", texts["Not for"])]
    second = [("Trained on", trained), ("Preparation", texts["Preparation"]), ("Grid", _grid_text(card))]
    last = [(heading, texts[heading]) for heading in ("Limits", "Licence", "Cite", "Problems")]
    recommended = [("Recommended method", _recommended_text(card["recommended"]))] if "recommended" in card else []
    return [*first, *second, ("Performance", performance), *recommended, *last]


def _recommended_text(entry: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in entry.get("options", {}).items())
    text = f"{entry['method']}{f' ({options})' if options else ''}. {entry['why']}"
    for figure in entry.get("figures", ()):
        instead = ", ".join(f"{name} {value:g}" for name, value in figure.get("instead", {}).items())
        text += f" {figure['measure']}: {figure['value']:g}{f' ({instead})' if instead else ''}, n = {figure['n']}."
    return text


def _output_text(card: Mapping[str, Any]) -> str:
    output, members = card.get("output", {}), card.get("members", ())
    if output.get("kind") == "score":
        text = f"{output['name']}, a score: {output['meaning']}"
        if output.get("scale"):
            text += (
                f" Scale {output['scale'][0]:g} to {output['scale'][1]:g}{' ' + output.get('unit', '')}".rstrip() + "."
            )
        levels, thresholds = output.get("levels", ()), output.get("thresholds", ())
        if levels:
            parts = [f"{name} below {limit:g}" for name, limit in zip(levels, thresholds, strict=False)]
            text += f" Levels: {', '.join(parts)}, then {levels[-1]}."
    else:
        text = f"probabilities of {', '.join(card.get('classes', ())) or NOT_STATED}"
        if output.get("meaning"):
            text += f": {output['meaning']}"
    return f"{text} Mean of {len(members)} networks." if members else text


def _grid_text(card: Mapping[str, Any]) -> str:
    grid = card.get("grid")
    if not grid:
        return NOT_STATED
    if isinstance(grid, str):  # as a result describes it
        return grid
    return f"{'×'.join(map(str, grid['shape']))} voxels, {grid.get('space', 'unknown space')}"


def _performance_text(card: Mapping[str, Any]) -> str:
    entries = card.get("performance", ())
    sources = list(dict.fromkeys(entry["source"] for entry in entries))
    parts = [
        f"{'; '.join(_figure_text(entry) for entry in entries if entry['source'] == source)}. Source: {source}."
        for source in sources
    ]
    return " ".join(parts) or NOT_STATED


def _figure_text(entry: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{count} {group}" for group, count in entry.get("n", {}).items())
    data = f"{entry['data']}: {sizes}" if sizes else entry["data"]
    return f"{entry['task']}, {entry['measure']} {entry['value']:g} ({data})"
