"""The options of the checks, shared by ``explain``, ``batch`` and ``check``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.checks.findings import MARKS, MapChecks
from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.checked_explanation import CheckRequest


def add_check_options(command: Any, default: str) -> None:
    """Add ``--checks`` and ``--check-replacement``."""
    command.add_argument(
        "--checks",
        default=default,
        metavar="auto|none|BUDGET",
        help="should the maps be believed? Checks worth at most BUDGET forward passes per map (auto: 40; those that do "
        "not fit say what they cost) or none (default: %(default)s)",
    )
    command.add_argument(
        "--check-replacement",
        default="auto",
        choices=("auto", "reference", "blur", "zero"),
        help="what takes the place of tissue in the checks: the mean of the controls where one is given, else the "
        "blurred scan (auto), or one of them by name (default: %(default)s)",
    )


def check_request(options: argparse.Namespace) -> CheckRequest | None:
    """What the options ask for; None for no checks.

    Raises
    ------
    UsageError
    """
    from ADAttributionLogic.checked_explanation import CheckRequest

    if options.checks == "none":
        if options.check_replacement != "auto":
            raise UsageError("--check-replacement was given, but --checks is none.")
        return None
    if options.checks == "auto":
        return CheckRequest(replacement=options.check_replacement)
    try:
        budget = float(options.checks)
    except ValueError:
        budget = -1.0
    if not 0 <= budget < float("inf"):
        raise UsageError(f"--checks must be auto, none or a number of forward passes, but is {options.checks!r}.")
    return CheckRequest(budget, options.check_replacement)


def check_lines(found: MapChecks) -> list[str]:
    """A map's verdict and a line for each check, as they are printed."""
    lines = [f"checks: {found.summary}"]
    for check in found.checks:
        number = "" if check.number is None else f"{check.number:.2f}"
        null = "" if check.null is None else f"(null {check.null:.2f})"
        lines.append(f"  {MARKS[check.verdict]} {check.title:14} {number:>6} {null:12} {check.sentence}")
    return lines
