"""``ad-attribution cache``: what is kept of preprocessed scans, and how it is removed."""

from __future__ import annotations

import argparse
from typing import Any

from ADAttributionLogic.errors import OutputError


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "cache",
        help="list or remove preprocessed scans",
        description="Preprocessed scans are kept in the user's cache folder, so that another method costs no second "
        "registration. They hold patients' brains: 'cache clear' removes them.",
    )
    command.add_argument("what", nargs="?", choices=("list", "clear"), default="list", help="(default: %(default)s)")
    command.set_defaults(run=_cache)


def _cache(options: argparse.Namespace) -> int:
    from ADAttributionLogic.preprocessing.cache import cache_entries, cache_folder, clear_cache

    folder = cache_folder()
    if options.what == "clear":
        try:
            print(f"{clear_cache()} preprocessed scans were removed from {folder}")
        except OSError as cause:
            raise OutputError(f"The cache {folder} cannot be removed: {cause}") from cause
        return 0
    entries = cache_entries(folder)
    size = sum(file.stat().st_size for entry in entries for file in entry.rglob("*"))
    print(f"{len(entries)} preprocessed scans ({size / 1e6:.0f} MB) in {folder}")
    return 0
