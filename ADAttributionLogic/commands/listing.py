"""How the commands that list something print it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def add_list_command(commands: Any, name: str, run: Callable[..., int], help_text: str) -> Any:
    """Add a command that prints a list, as text or as JSON, and return its parser."""
    command = commands.add_parser(name, help=help_text)
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=run)
    return command


def print_entry(name: str, *lines: object) -> None:
    """Print an entry with its lines indented."""
    print(f"{name:20} " + f"\n{'':20} ".join(map(str, lines)) + "\n")


def print_json(document: Any) -> int:
    """Print a document as JSON, and return the exit code."""
    print(json.dumps(document, indent=2, ensure_ascii=False))
    return 0
