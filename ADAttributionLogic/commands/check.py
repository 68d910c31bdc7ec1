"""``ad-attribution check``: should the maps of a finished result be believed?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.command_options.check import add_check_options, check_lines, check_request
from ADAttributionLogic.commands.progress import Progress
from ADAttributionLogic.errors import OutputError, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.checks.findings import Checks

CHECKS_DOCUMENT = "checks.json"


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "check",
        help="should the maps of a finished result be believed?",
        description="Run the checks on a result that explain or batch wrote. The network, the scan and the atlas are "
        "brought back from where the result says they were, and must be the same; the result is not changed.",
    )
    command.add_argument("result", metavar="RESULT", help="folder of a result, or of a batch (with --name)")
    command.add_argument("--name", help="which scan of a batch")
    command.add_argument("--model", help="where the network is now, if its name does not find it")
    command.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)")
    add_check_options(command, "auto")
    command.add_argument("--out", metavar="DIR", help="new folder for the tables and checks.json")
    command.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from ADAttributionLogic.checked_result import check_result
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.report.placing import read_marked
    from ADAttributionLogic.report.result_places import KIND, PROVENANCE_FILE, find_result

    request = check_request(options)
    if request is None:
        raise UsageError("With --checks none there is nothing to do.")
    if options.out and Path(options.out).exists():
        raise OutputError(f"{options.out} exists; nothing is overwritten. Choose another folder.")
    folder = find_result(options.result, options.name)
    record = read_marked(folder / PROVENANCE_FILE, KIND) or {}
    name = options.model or record.get("model", {}).get("name")
    if not name:
        raise UsageError(f"{folder} does not say which network it explains; name it with --model.")
    with Progress() as monitor:
        with monitor.stage(0.0, 0.1) as part:
            part.report(0.0, "loading the model")
            model = load_model(name)
        with monitor.stage(0.1, 1.0) as part:
            found = check_result(folder, model, request, device=options.device, monitor=part)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for each in found.maps:
        print(each.title)
        for line in check_lines(each):
            print(f"  {line}")
    if options.out:
        _write(found, Path(options.out))
        print(f"\nChecks: {options.out}")
    return 0


def _write(found: Checks, folder: Path) -> None:
    from ADAttributionLogic.checks.table_files import write_check_tables

    try:
        folder.mkdir(parents=True, mode=0o700)
        write_check_tables(found, folder)
        text = json.dumps(found.describe(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / CHECKS_DOCUMENT).write_text(f"{text}\n", encoding="utf-8")
    except OSError as cause:
        raise OutputError(f"{folder} cannot be written: {cause}") from cause
