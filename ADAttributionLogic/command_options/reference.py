"""Options of a scan's comparison with controls, the same for single scans and batches."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.attribution.target import Start
    from ADAttributionLogic.comparison.comparing import Against
    from ADAttributionLogic.explanation import MethodRequest
    from ADAttributionLogic.reference.package import Reference


def add_reference_options(command: Any, many_scans: bool = False) -> None:
    """Add ``--reference``, ``--covariate`` and ``--smoothing``."""
    other = (
        ""
        if many_scans
        else (
            "; or a scan to compare with: for deeplift, integrated-gradients with the baseline and occlusion with "
            "the fill 'reference' (default: the control mean of the network's card, if it has one)"
        )
    )
    command.add_argument(
        "--reference",
        metavar="REF",
        help=f"reference of controls to compare with: its folder, or the name of one that ships{other}",
    )
    if many_scans:
        command.add_argument(
            "--adjusted",
            action="store_true",
            help="adjust z for the reference's covariates, which are columns of the list of scans",
        )
    else:
        command.add_argument(
            "--covariate",
            action="append",
            dest="covariates",
            metavar="NAME=VALUE",
            help="of this scan, to adjust z for, e.g. age=71; may be repeated",
        )
    command.add_argument(
        "--compare-by",
        choices=("auto", "sum", "share", "magnitude_share", "absolute_sum"),
        default="auto",
        help="what z and percentile are of (default: the share of the map's magnitude where it starts from the "
        "probability, which its sums repeat in every region; else the sum)",
    )
    command.add_argument(
        "--smoothing",
        type=float,
        metavar="MM",
        help="full width at half maximum of the Gaussian that smooths the z map (default: 6, for which the reference "
        "knows the spread; with another the spread of single voxels is taken, and z is smaller)",
    )


def is_reference(path: str) -> bool:
    """Whether it is a reference of controls, and not a scan: its folder, its card, or the name of one that ships."""
    from ADAttributionLogic.reference.package import CARD_FILE, available_references

    place = Path(path)
    if place.name == CARD_FILE or (place / CARD_FILE).is_file():
        return True
    return not place.exists() and path in {found.name for found in available_references()}


def asked_comparison(options: argparse.Namespace) -> Against | None:
    """The comparison that is asked for; None without a reference of controls.

    Raises
    ------
    UsageError
        Options of a comparison without one.
    ReferenceCohortError
    """
    from ADAttributionLogic.comparison.comparing import Against
    from ADAttributionLogic.comparison.covariate_text import parse_covariates
    from ADAttributionLogic.comparison.z_map import SMOOTHING_MM
    from ADAttributionLogic.reference.package import read_reference

    covariates = getattr(options, "covariates", None) or []
    is_batch = hasattr(options, "adjusted")
    if options.reference is None or not (is_batch or is_reference(options.reference)):
        if covariates or options.smoothing is not None or getattr(options, "adjusted", False):
            what = "there is none" if options.reference is None else f"{options.reference} is none"
            raise UsageError(
                "--covariate, --adjusted and --smoothing belong to a comparison with controls (--reference with a "
                f"folder of 'ad-attribution reference build'), but {what}."
            )
        return None
    smoothing = SMOOTHING_MM if options.smoothing is None else options.smoothing
    return Against(read_reference(options.reference), parse_covariates(covariates), smoothing, options.compare_by)


def asked_by_reference(
    reference: Reference, start: Start | None, start_reference: float | None
) -> tuple[list[MethodRequest], Start | None, float | None]:
    """Where no method was chosen: those of the reference with their options, and its start unless one is given.

    The user is told.
    """
    from ADAttributionLogic.explanation import MethodRequest

    requests = [MethodRequest(entry["method"], dict(entry["options"])) for entry in reference.card["methods"].values()]
    if start is None:
        start = reference.question["start"]
        start_reference = reference.question["start_reference"] if start_reference is None else start_reference
    told = ", ".join(f"{entry['title']} ({name})" for name, entry in reference.card["methods"].items())
    print(
        f"note: No method was chosen: {told}, as the maps of the reference {reference.name}, from the {start}.",
        file=sys.stderr,
    )
    return requests, start, start_reference
