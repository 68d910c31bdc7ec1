"""The command line's part for scans as acquired: ``ad-attribution preprocess``, and options of ``explain``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ADAttributionLogic.monitor import Monitor
    from ADAttributionLogic.networks.packages import Model
    from ADAttributionLogic.preprocessing.pipeline import Options
    from ADAttributionLogic.volume import Volume

REGISTRATIONS = ("none", "rigid", "affine", "deformable")


def add_preprocessing_options(command: Any, default_registration: str, many_scans: bool = False) -> None:
    """Options that ``explain``, ``preprocess`` and (without those of a single scan) ``batch`` share."""
    group = command.add_argument_group("from the scan as acquired to the network's grid")
    group.add_argument(
        "--registration",
        choices=REGISTRATIONS,
        default=default_registration,
        help="none: the scan is registered and skull-stripped already; affine: seconds; deformable: a minute or two, "
        "needs ANTs (default: %(default)s)",
    )
    group.add_argument(
        "--registered",
        choices=("measure", "yes", "no"),
        default="measure",
        help="whether the scan already is in the template's space: measured, or your word (default: %(default)s)",
    )
    if many_scans:
        command.set_defaults(brain_mask=None, brain_label=None)
    else:
        mask_help = "the brain, as a mask or label file in the scan's space"
        group.add_argument("--brain-mask", metavar="FILE", help=mask_help)
        group.add_argument("--brain-label", type=int, metavar="N", help="which label of --brain-mask is the brain")
    group.add_argument("--hd-bet", action="store_true", help="find the brain with HD-BET, where you have it installed")
    group.add_argument("--no-bias-correction", action="store_true", help="leave out N4")
    group.add_argument("--no-winsorising", action="store_true", help="do not limit the brightest 0.5 %% of the brain")
    group.add_argument("--accept-qc", action="store_true", help="go on although a quality check did not pass")
    if not many_scans:
        group.add_argument("--no-cache", action="store_true", help="do not use or keep preprocessed scans")


def preprocessing_options(options: argparse.Namespace) -> Options:
    """The options as typed, as the pipeline wants them.

    Raises
    ------
    UsageError
        A combination that makes no sense.
    """
    from ADAttributionLogic.preprocessing.brain_extraction import hd_bet_available
    from ADAttributionLogic.preprocessing.pipeline import Options

    if options.brain_label is not None and options.brain_mask is None:
        raise UsageError("Option --brain-label was given, but not --brain-mask.")
    if options.hd_bet and not hd_bet_available():
        raise UsageError("HD-BET is not installed (no command hd-bet): pip install hd-bet, or leave out --hd-bet.")
    return Options(
        registration=options.registration,
        registered={"measure": None, "yes": True, "no": False}[options.registered],
        bias_correction=not options.no_bias_correction,
        winsorising=not options.no_winsorising,
        brain="hd-bet" if options.hd_bet else "registration",
        mask_label=options.brain_label,
        replace_non_finite=options.replace_non_finite,
    )


def wants_preprocessing(options: argparse.Namespace) -> bool:
    """Whether ``explain`` has to bring the scan into the network's space first.

    Raises
    ------
    UsageError
        Options that only make sense when it does.
    """
    if options.registration != "none" or options.space == "native":
        return True
    given = {
        "--brain-mask": options.brain_mask is not None,
        "--hd-bet": options.hd_bet,
        "--registered": options.registered != "measure",
        "--no-bias-correction": options.no_bias_correction,
        "--no-winsorising": options.no_winsorising,
        "--accept-qc": options.accept_qc,
    }
    for flag, is_given in given.items():
        if is_given:
            raise UsageError(f"Option {flag} needs a registration: add --registration affine (or deformable).")
    return False


def read_mask(options: argparse.Namespace) -> Volume | None:
    """The brain mask that the user gave."""
    from ADAttributionLogic.scan_files import read_labels

    return read_labels(options.brain_mask) if options.brain_mask else None


def add_preprocess(commands: Any) -> Any:
    """Add the command ``preprocess``, and return its parser."""
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
    return command


def run_preprocess(options: argparse.Namespace, model: Model, monitor: Monitor, cache: Path | None) -> int:
    """Preprocess a scan and write the results."""
    from ADAttributionLogic.atlas.library import load_template
    from ADAttributionLogic.explain_native import preprocess_for
    from ADAttributionLogic.preprocessing.registration_target import RegistrationTarget
    from ADAttributionLogic.report.preprocessing_files import check_new_folder, write_preprocessing_folder
    from ADAttributionLogic.scan_files import read_scan

    check_new_folder(options.out)
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
