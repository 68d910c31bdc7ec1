"""References of controls to choose from, and what their cards say. Needs neither Qt nor torch."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path

from ADAttributionLogic.errors import ReferenceCohortError, UsageError
from ADAttributionLogic.resources import resources_folder

CARD_FILE = "reference.json"
_MOST_BYTES = 2_000_000
_MOST_RECENT = 8


def shippedReferences():
    """Folders of the references that ship."""
    return sorted(path.parent for path in (resources_folder() / "References").glob(f"*/{CARD_FILE}"))


def choices(recent=()):
    """Titles and folders: those that ship, then those of the user's that are still there."""
    own = [Path(folder) for folder in recent if (Path(folder) / CARD_FILE).is_file()]
    found = []
    for folder in [*shippedReferences(), *own]:
        try:
            found.append((f"{cardOf(folder)['title']} ({cardOf(folder)['n']} controls)", os.fspath(folder)))
        except ReferenceCohortError:
            continue
    return found


def remember(recent, folder):
    """The folders that were used last, this one first."""
    text = os.fspath(folder)
    return [text, *(other for other in recent if other != text)][:_MOST_RECENT]


def cardOf(folder):
    """The card of a reference; the worker checks it in full before it reads anything.

    Raises
    ------
    ReferenceCohortError
        The folder is no reference.
    """
    path = Path(folder) / CARD_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ReferenceCohortError(f"{path} has more than {_MOST_BYTES} bytes; it is no reference's card.")
        card = json.loads(path.read_text(encoding="utf-8"))
        int(card["n"]), str(card["title"]), card["question"]["model"]["weights_sha256"], card["methods"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise ReferenceCohortError(
            f"{folder} is no reference of controls: its {CARD_FILE} is missing or damaged. Choose a folder that "
            "'ad-attribution reference build' wrote."
        ) from cause
    return card


def covariatesOf(card):
    """Names of the covariates, with the controls' range or levels as text."""
    found = {}
    for term in (card.get("covariates") or {}).get("terms", ()):
        isNumber = term["kind"] == "number"
        found[term["name"]] = "{:g}–{:g}".format(*term["range"]) if isNumber else "/".join(term["levels"])
    return found


def describe(card):
    """What the panel says of a reference, as rich text."""
    methods = ", ".join(sorted({entry["method"] for entry in card["methods"].values()}))
    atlases = ", ".join(atlas["name"] for atlas in card.get("atlases", ()))
    lines = [
        f"{card['n']} controls: {html.escape(str(card.get('controls', '')))}",
        f"Compared: {html.escape(methods)}; regions of {html.escape(atlases)}; others stay as they are.",
    ]
    known = covariatesOf(card)
    if known:
        lines.append(
            "Can be adjusted for " + ", ".join(f"{html.escape(n)} ({html.escape(t)})" for n, t in known.items())
        )
    return "<br>".join(lines)


def comparisonJob(reference, covariates=None, smoothing=None):
    """What the worker is told of a comparison with controls; nothing of one that is not asked for.

    Raises
    ------
    UsageError
        Covariates without a reference.
    """
    if reference is None:
        if covariates:
            raise UsageError("Covariates were given, but no reference of controls that could be adjusted for them.")
        return {}
    place = Path(reference)
    name = os.fspath(place.absolute() if place.exists() else reference)
    job = {"reference": name, "covariates": {key: str(value) for key, value in (covariates or {}).items()}}
    return job if smoothing is None else {**job, "smoothing": smoothing}
