"""The published weights of Qiu et al. 2022 for tests: beside the repository, never in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SOURCE = Path(
    os.environ.get("QIU2022") or Path(__file__).resolve().parents[2] / "shared" / "third-party" / "ncomms2022"
)
REASON = f"needs the published weights of Qiu et al. 2022 in {SOURCE} (or say QIU2022=folder)"

needs_weights = pytest.mark.skipif(not (SOURCE / "checkpoint_dir").is_dir(), reason=REASON)
