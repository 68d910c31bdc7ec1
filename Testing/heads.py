"""Real heads for tests: Colin27 from the Debian package mricron-data."""

from __future__ import annotations

from pathlib import Path

import pytest

from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.volume import Volume

FOLDER = Path("/usr/share/mricron/templates")
HEAD, BRAIN = FOLDER / "ch2.nii.gz", FOLDER / "ch2bet.nii.gz"
REASON = f"needs a real head: {HEAD} of the Debian package mricron-data (apt-get install mricron-data)"

needs_head = pytest.mark.skipif(not (HEAD.exists() and BRAIN.exists()), reason=REASON)


def colin27() -> tuple[Volume, Volume]:
    """The head, and its brain as BET found it (bool)."""
    brain = read_scan(BRAIN)
    return read_scan(HEAD), brain.with_array(brain.array > 0)
