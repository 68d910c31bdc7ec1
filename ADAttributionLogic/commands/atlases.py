"""``ad-attribution atlases``: list the atlases and groupings."""

from __future__ import annotations

import argparse
from typing import Any

from ADAttributionLogic.commands.listing import add_list_command, print_entry, print_json


def add(commands: Any) -> None:
    """Add the command."""
    add_list_command(commands, "atlases", _list, "list the atlases and groupings")


def _list(options: argparse.Namespace) -> int:
    from ADAttributionLogic.atlas.library import available_atlases, available_groupings

    entries = [
        {"name": e.name, "title": e.title, "groupings": list(e.groupings), "licence": e.licence}
        for e in available_atlases()
    ]
    if options.json:
        return print_json({"atlases": entries, "groupings": list(available_groupings())})
    for entry in entries:
        groupings = f"groupings: {', '.join(entry['groupings'])}"
        print_entry(str(entry["name"]), entry["title"], f"licence: {entry['licence']}", groupings)
    print(f"All groupings: {', '.join(available_groupings())}")
    print("A label file (NIfTI, MGH, NRRD, MetaImage) with --atlas-names works as well.")
    return 0
