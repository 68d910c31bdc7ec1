"""Files that are written in one step: whole at any moment, also when the process is killed in the middle."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ADAttributionLogic.whole_files import WRITING, remove_unfinished, write_whole

#: Writes, and stops before the file has its name.
BEGINS = """
import os, signal, sys, time
from pathlib import Path
from ADAttributionLogic import whole_files
whole_files.os.replace = lambda *_: (print("begun", flush=True), time.sleep(600))
whole_files.write_whole(Path(sys.argv[1]), b"new")
"""


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_file_is_replaced_for_its_owner_only_and_nothing_else_is_left(tmp_path: Path, on_disk: bool) -> None:
    path = tmp_path / "table.json"
    path.write_text("a longer text that was here before")
    write_whole(path, "über\n\udcff", on_disk)
    assert path.read_bytes() == "über\n\\udcff".encode()
    write_whole(path, b"\x00\xff", on_disk)
    assert path.read_bytes() == b"\x00\xff"
    assert sys.platform == "win32" or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_who_is_killed_leaves_the_earlier_file_and_what_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "state-1.safetensors"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", BEGINS, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        assert remove_unfinished(tmp_path) == 0, "who lives goes on"
        child.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    (left,) = (p for p in tmp_path.iterdir() if WRITING in p.name)
    assert (left / "file").read_bytes() == b"new"
    assert remove_unfinished(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [path]
