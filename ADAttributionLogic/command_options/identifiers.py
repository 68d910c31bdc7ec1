"""Whether what is written may name people, as an option of several commands."""

from __future__ import annotations

from typing import Any


def add_identifiers(command: Any) -> None:
    """The option that lets names into what is written."""
    command.add_argument(
        "--keep-identifiers",
        action="store_true",
        help="call the scan by its file in the report, and keep the UIDs of a DICOM series; otherwise hashes stand for "
        "them",
    )
