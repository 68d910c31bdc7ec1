"""``ad-attribution report`` and ``animate``: a page and a film of a result that is there already."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ADAttributionLogic.command_options.identifiers import add_identifiers
from ADAttributionLogic.errors import UsageError


def add(commands: Any) -> None:
    """Add the command ``report``."""
    command = commands.add_parser(
        "report",
        help="one HTML file of a result that was written earlier",
        description="Write a result as one HTML file that opens offline in any browser: report.html in its folder, or "
        "--out. Of a batch, every scan's, and index.html.",
    )
    command.add_argument("folder", metavar="FOLDER", help="that 'ad-attribution explain' or 'batch' wrote")
    command.add_argument("--name", metavar="SCAN", help="only this scan of a batch")
    command.add_argument("--out", metavar="FILE", help="where to write it instead; a single result's only")
    command.add_argument("--scan", metavar="FILE", help="the scan, where it is not any more what the result names")
    command.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    add_identifiers(command)
    command.set_defaults(run=_report)


def add_animate(commands: Any) -> None:
    """Add the command ``animate``."""
    command = commands.add_parser(
        "animate",
        help="a film of the slices of a result",
        description="Write a film of a result: a plane runs through the brain with the map over it, above the "
        "relevance per slice.",
    )
    command.add_argument("folder", metavar="FOLDER", help="that 'ad-attribution explain' or 'batch' wrote")
    command.add_argument("--out", required=True, metavar="FILE", help=".mp4 or .gif; must not exist")
    command.add_argument("--name", metavar="SCAN", help="which scan of a batch")
    command.add_argument("--map", metavar="NAME", help="which map (default: the first)")
    command.add_argument(
        "--plane", choices=("coronal", "axial", "sagittal"), default="coronal", help="(default: %(default)s)"
    )
    command.add_argument("--scan", metavar="FILE", help="the scan, where it is not any more what the result names")
    command.set_defaults(run=_animate)


def _report(options: argparse.Namespace) -> int:
    from ADAttributionLogic.page.files import write_page_of_result, write_pages_of_batch
    from ADAttributionLogic.report.result_places import batch_rows, find_result
    from ADAttributionLogic.scan_files import read_scan

    choices = {"keep_identifiers": options.keep_identifiers, "overwrite": options.overwrite}
    folder = Path(options.folder)
    if batch_rows(folder) and options.name is None:
        if options.out or options.scan:
            raise UsageError("--out and --scan are of a single result; say --name to choose one of this batch.")
        index = write_pages_of_batch(folder if folder.is_dir() else folder.parent, **choices)
        print(f"Reports: {index}")
        return 0
    out = Path(options.out) if options.out else None
    scan = read_scan(options.scan) if options.scan else None
    written = write_page_of_result(find_result(folder, options.name), out, scan=scan, **choices)
    print(f"Report: {written}")
    return 0


def _animate(options: argparse.Namespace) -> int:
    from ADAttributionLogic.page.animation import check_animation, write_animation
    from ADAttributionLogic.report.result_places import find_result
    from ADAttributionLogic.report.result_reading import read_result
    from ADAttributionLogic.scan_files import read_scan

    check_animation(options.out)
    scan = read_scan(options.scan) if options.scan else None
    answer, _ = read_result(find_result(options.folder, options.name), scan)
    print(f"Animation: {write_animation(answer, options.out, map_name=options.map, plane=options.plane)}")
    return 0
