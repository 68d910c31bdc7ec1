"""Options for scans as acquired, shared by ``explain``, ``preprocess`` and ``batch``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.owned_folders import temporary_folder

if TYPE_CHECKING:
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


@contextmanager
def cache_folder(unused: bool) -> Iterator[Path | None]:
    """The folder of preprocessed scans: None for the user's own, or one that is gone afterwards."""
    if not unused:
        yield None
        return
    with temporary_folder("no-cache") as folder:
        yield folder
