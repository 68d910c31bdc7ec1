"""Some hundred damaged files through every reader; ``make fuzz`` tries thousands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "fuzz" / "run.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the fuzzer forks, which this system cannot")
def test_every_damaged_file_is_refused_with_a_sentence_or_read_as_it_was() -> None:
    """No traceback, no hang, no crash, nothing damaged taken as whole, no memory beyond the image's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(RUN), "300", "11"], capture_output=True, text=True, env=environment, timeout=900
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    total = [int(n) for n in re.search(r"^all +(.*)$", done.stdout, re.MULTILINE)[1].split()]
    assert total[0] > 30 and total[1] > 100 and total[2:] == [0, 0, 0, 0, 0]
