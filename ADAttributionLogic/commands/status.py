"""``ad-attribution status``: how far a batch is, from another terminal, while it runs or afterwards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ADAttributionLogic.commands.listing import print_json
from ADAttributionLogic.errors import UsageError


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "status",
        help="how far a batch is: done, failed and why, remaining time",
        description="Show how far the batch in a folder is, who computes it, and which scans failed for which reasons. "
        "It only reads, also while the batch runs; of a job array it shows all shards.",
    )
    command.add_argument("folder", metavar="FOLDER", help="the --out of a batch, or the --work of a reference")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> int:
    from ADAttributionLogic.runs.record import counts, read_runs
    from ADAttributionLogic.runs.words import described

    folder = Path(options.folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.")
    found = [(place, read_runs(place)) for place in _places(folder)]
    if options.json:
        every = [run for _, runs in found for run in runs]
        return print_json({**counts(every), "runs": [run.describe() for run in every]})
    for place, runs in found:
        print(described(place, runs))
    return 0


def _places(folder: Path) -> list[Path]:
    """The folder, or those right in it that hold runs: a reference's maps, the working folder of a BIDS dataset."""
    from ADAttributionLogic.runs.record import RECORDS

    if any(folder.glob(RECORDS)):
        return [folder]
    inner = {path.parent for pattern in (f"*/{RECORDS}", f"*/*/{RECORDS}") for path in folder.glob(pattern)}
    return sorted(inner) or [folder]
