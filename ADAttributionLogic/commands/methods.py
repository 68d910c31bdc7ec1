"""``ad-attribution methods``: list the attribution methods and their options."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from ADAttributionLogic.commands.listing import add_list_command, print_json


def add(commands: Any) -> None:
    """Add the command."""
    command = add_list_command(commands, "methods", _list, "list the attribution methods and their options")
    command.add_argument(
        "--rules", action="store_true", help="instead, which rule LRP uses in which operation, by preset, and why"
    )


def _list(options: argparse.Namespace) -> int:
    from ADAttributionLogic.attribution.registry import available_methods

    if options.rules:
        return _list_rules(options)
    if options.json:
        return print_json([_method_entry(method) for method in available_methods()])
    for method in available_methods():
        print(f"{method.name:22} {method.title}\n{'':22} {method.summary}\n{'':22} {method.source}")
        if method.needs_layers:
            print(f"{'':22} needs the network's layers (all of them known)")
        if method.needs_attention:
            print(f"{'':22} needs a network with attention (a transformer)")
        for option in method.options:
            default = "" if option.default is None else f" (default {option.default})"
            print(f"{'':24} --{method.name}-{option.name.replace('_', '-')}: {option.help}{default}")
        print()
    return 0


def _list_rules(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from ADAttributionLogic.attribution.lrp_rule_table import rule_rows

    rows = rule_rows()
    if options.json:
        return print_json([asdict(row) for row in rows])
    table = Table(title="LRP: what each kind of operation does with relevance, by preset")
    for head in ("kind", *rows[0].rules):
        table.add_column(head)
    for row in rows:
        table.add_row(row.kind, *row.rules.values())
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for row in rows:
        print(f"{row.kind}: {row.why}\n    {', '.join(row.operations)}")
    return 0


def _method_entry(method: Any) -> dict[str, Any]:
    options = [
        {"name": o.name, "default": o.default, "help": o.help, "type": o.kind.__name__, "choices": list(o.choices)}
        for o in method.options
    ]
    needs = ("needs_layers", "needs_regions", "needs_attention")
    plain = {key: getattr(method, key) for key in ("name", "title", "summary", "source", "is_conserving", *needs)}
    return {**plain, "options": options}
