"""Model packages to choose from, and what their cards say. Needs neither Qt nor torch."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.networks.attention_in_file import may_have_attention
from ADAttributionLogic.networks.card_text import NOT_STATED, card_parts
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.store.places import installed_packages
from ADAttributionLogic.store.registry import read_registry

CARD_FILE = "model.json"
#: In front of the name of a network that is not installed yet, where a package's folder would stand.
TO_INSTALL = "install:"
_MOST_BYTES = 1_000_000
_MOST_RECENT = 8


def bundledPackages():
    """Folders of the packages that ship."""
    return sorted(path.parent for path in (resources_folder() / "Models").glob(f"*/{CARD_FILE}"))


def installedPackages():
    """Folders of the networks that the user has installed."""
    try:
        return list(installed_packages())
    except ImportError:  # platformdirs: the section Setup offers to install it
        return []


def networksToInstall():
    """Networks that can be installed and are not: RegisteredNetwork, whose question() says what the user must know."""
    here = {folder.name for folder in installedPackages()}
    try:
        return [network for network in read_registry() if network.name not in here]
    except ImportError:  # jsonschema, as above
        return []


def describeNetwork(network):
    """A network that is not installed, as rich text for the panel."""
    lines = [
        "<b>Not installed yet.</b> Nothing is downloaded before you agree.",
        f"<b>Purpose:</b> {html.escape(network.intended_use)}",
        f"<b>Licence:</b> {html.escape(network.licence)}",
        f"<b>Download:</b> {network.bytes / 1e6:.0f} MB from {html.escape(network.source)}",
        f"<b>Cite:</b> {html.escape(network.citation)}",
    ]
    return "<br>".join(lines)


def cardOf(folder):
    """The card of a package; the worker checks it in full before it loads anything.

    Raises
    ------
    NetworkError
        The folder is no package.
    """
    path = Path(folder) / CARD_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise NetworkError(f"{path} is too large for a model card ({path.stat().st_size} bytes).")
        card = json.loads(path.read_text(encoding="utf-8"))
        if not _isScore(card) and not isinstance(card["classes"], list):
            raise KeyError("classes")
        if not isinstance(card["title"], str):
            raise KeyError("title")
    except OSError as cause:
        raise NetworkError(f"{folder} is no model package: {CARD_FILE} cannot be read ({cause.strerror}).") from cause
    except (ValueError, KeyError, TypeError) as cause:
        raise NetworkError(f"{path} is not a model card: {cause}.") from cause
    return card


def mayHaveAttention(folder):
    """Whether a package's network may be a transformer: the architectures that ship have no attention; of an exported
    network, its graph tells.
    """
    kind = cardOf(folder).get("network", {})
    if not isinstance(kind, dict) or "architecture" in kind:
        return False
    file = cardOf(folder).get("weights", {}).get("file", "")
    return may_have_attention(Path(folder) / str(file))


def choices(recent=()):
    """Packages to offer: pairs of title and folder; those that ship, those installed, and those used before."""
    found = []
    for folder in [*bundledPackages(), *installedPackages(), *map(Path, recent)]:
        try:
            entry = (cardOf(folder)["title"], os.fspath(folder))
        except NetworkError:
            continue  # moved or removed in the meantime
        if entry[1] not in [known for _, known in found]:
            found.append(entry)
    return found


def rememberPackage(recent, folder):
    """The list of recently used packages with this one in front; bundled ones need not be remembered."""
    text = os.fspath(folder)
    if Path(text) in bundledPackages():
        return list(recent)
    return [text, *[known for known in recent if known != text]][:_MOST_RECENT]


def describeCard(card):
    """What the card says, part by part, and the warning, as rich text for the panel."""
    # What a card does not say is left out here; 'ad-attribution models show' lists that as well.
    parts = [(heading, text) for heading, text in card_parts(card) if text != NOT_STATED]
    lines = [f"<b>{heading}:</b> {html.escape(text)}" for heading, text in parts]
    lines.append(
        "<b>Warning:</b> research software, not a medical device. A map shows what the network used, not disease."
    )
    return "<br>".join(lines)


def targetClasses(card):
    """Classes to choose from: pairs of text and what explain() takes, the positive class first; or the score alone."""
    if _isScore(card):
        return [(f"{card['output']['name']} (a score)", card["output"]["name"])]
    positive = card["classes"][card.get("positive_class", 1)]
    rest = [(name, name) for name in card["classes"] if name != positive]
    return [(f"{positive} (the positive class)", positive), *rest, ("the most probable class", "predicted")]


def _isScore(card):
    return card.get("output", {}).get("kind") == "score"
