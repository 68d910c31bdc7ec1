"""``ad-attribution preprocess``: bring a scan as acquired onto a network's grid."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.command_options.preparation import (
    add_preprocessing_options,
    cache_folder,
    preprocessing_options,
    read_mask,
)
from ADAttributionLogic.commands.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from ADAttributionLogic.monitor import Monitor
    from ADAttributionLogic.networks.packages import Model


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "preprocess",
        help="bring a scan as acquired onto a network's grid",
        description="Register a T1 scan to the network's template, extract the brain, and write the brain on the "
        "network's grid, the mask on the scan, the transforms both ways, the quality checks and their figure.",
    )
    command.add_argument("scan", metavar="SCAN", help="T1 scan: a file, or a folder with one DICOM series")
    command.add_argument("--model", default="simulated-atrophy", help="whose grid (default: %(default)s)")
    command.add_argument("--out", required=True, metavar="DIR", help="folder for the results; must not exist")
    command.add_argument("--series-uid", metavar="UID", help="which series of a DICOM folder")
    command.add_argument("--replace-non-finite", type=float, metavar="VALUE", help="value for NaN and infinite voxels")
    command.add_argument("--no-figure", action="store_true", help="write no figure")
    add_preprocessing_options(command, "affine")
    command.set_defaults(run=_preprocess)


def _preprocess(options: argparse.Namespace) -> int:
    from ADAttributionLogic.networks.loading import load_model

    with Progress() as monitor, cache_folder(options.no_cache) as cache:
        return _preprocess_and_write(options, load_model(options.model), monitor, cache)


def _preprocess_and_write(options: argparse.Namespace, model: Model, monitor: Monitor, cache: Path | None) -> int:
    from ADAttributionLogic.atlas.library import load_template
    from ADAttributionLogic.explain_native import preprocess_for
    from ADAttributionLogic.registration.target import RegistrationTarget
    from ADAttributionLogic.report.placing import check_place
    from ADAttributionLogic.report.preprocessing_files import RECORD, write_preprocessing_folder
    from ADAttributionLogic.scan_files import read_scan

    check_place(options.out, RECORD)
    chosen, mask = preprocessing_options(options), read_mask(options)
    monitor.report(0.0, "reading the scan")
    scan = read_scan(options.scan, options.series_uid)
    with monitor.stage(0.05, 0.9) as part:
        prepared, cached = preprocess_for(scan, model, chosen, mask=mask, cache=cache, monitor=part)
    accepted = prepared.quality.require(options.accept_qc)
    monitor.report(0.9, "writing")
    target = RegistrationTarget(load_template())
    folder = write_preprocessing_folder(prepared, options.out, target, not options.no_figure)
    for note in (*prepared.notes, *accepted):
        print(f"note: {note}", file=sys.stderr)
    for check in prepared.quality.checks:
        print(check)
    print("\nSeconds: " + ", ".join(f"{name} {s:.1f}" for name, s in prepared.provenance["seconds"].items()), end="")
    print(" (taken from the cache)" if cached else "")
    print(f"Results: {folder}")
    return 0
