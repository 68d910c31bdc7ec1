"""``ad-attribution models``: list the models that ship, with what they were trained on."""

from __future__ import annotations

import argparse
from typing import Any

from ADAttributionLogic.commands.listing import add_list_command, print_entry, print_json


def add(commands: Any) -> None:
    """Add the command."""
    add_list_command(commands, "models", _list, "list the models that ship, with what they were trained on")


def _list(options: argparse.Namespace) -> int:
    from ADAttributionLogic.networks.packages import available_models, read_card

    cards = [(folder, read_card(folder)) for folder in available_models()]
    if options.json:
        return print_json([{**card, "folder": str(folder)} for folder, card in cards])
    for _, card in cards:
        use = f"use: {card['intended_use']}"
        print_entry(card["name"], card["title"], f"trained on: {card['training']['data']}", use)
    return 0
