"""Which quantity is explained, as options of several commands."""

from __future__ import annotations

from typing import Any


def add_start_options(command: Any, help_text: str) -> None:
    """Add the options of the start, and of what an ensemble gives beside its mean."""
    command.add_argument(
        "--start", choices=("probability", "logit", "margin", "score", "distance", "unit"), help=help_text
    )
    command.add_argument(
        "--start-reference",
        type=float,
        metavar="VALUE",
        help="what the start 'distance' measures from (default: the reference in the network's card)",
    )
    command.add_argument(
        "--member-sd",
        action="store_true",
        help="of an ensemble, also a map of the standard deviation over its networks, per method",
    )
