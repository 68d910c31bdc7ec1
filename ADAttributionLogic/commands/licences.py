"""``ad-attribution licences``: what this program stands on, and under which terms."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

#: Under this name it is installed.
DISTRIBUTION = "ad-attribution"


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "licences",
        help="list the packages that this program uses, with version and licence",
        description="List the installed packages that this program uses, with version and licence as each declares "
        "them. Networks and atlases: see 'ad-attribution models' and 'ad-attribution atlases'.",
    )
    command.set_defaults(run=_licences)


def _licences(_options: argparse.Namespace) -> int:
    for name, version, licence in sorted(used_packages(), key=lambda entry: entry[0].lower()):
        print(f"{name:28} {version:16} {licence}")
    return 0


def used_packages() -> Iterator[tuple[str, str, str]]:
    """Name, version and licence of this program and of all that it depends on, as far as it is installed."""
    waiting, seen = [DISTRIBUTION], set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield str(found.metadata["Name"]), found.version, licence_of(found.metadata)
        for requirement in found.requires or ():
            # Of others only what they always need; of this program what its extras name as well.
            if name == DISTRIBUTION or "extra ==" not in requirement:
                waiting.append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])


def licence_of(about: Any) -> str:
    """A package's licence in a line, from the place where it says so."""
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    named = [
        c.rsplit(" :: ", 1)[-1]
        for c in about.get_all("Classifier", ())
        if c.startswith("License :: ") and not c.endswith("OSI Approved")
    ]
    first = str(about.get("License") or "").strip().split("\n", 1)[0]
    return ", ".join(named) or first or "not declared; see its project page"
