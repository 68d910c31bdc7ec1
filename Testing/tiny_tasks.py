"""Tasks that take no time and need no torch, for engines to be tried with; workers import them from here."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic.engines.tasks import Session
from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.report.placing import check_place, writing


@dataclass(frozen=True)
class Squares:
    """Squares numbers; some fail, some kill their worker the first times.

    A payload is (number, seconds), or one of "bad", "fatal" and ("once", path): killed unless the file is there.
    """

    offset: int = 0

    def __call__(self) -> Session:
        return self.compute

    def compute(self, payload: Any, monitor: Monitor) -> Any:
        if payload == "bad":
            raise ScanError("This scan is bad.")
        if payload == "fatal":
            print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if payload[0] == "once":
            mark = Path(payload[1])
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "survived"
        number, seconds = payload
        monitor.report(0.5, "squaring")
        time.sleep(seconds)
        return number**2 + self.offset


@dataclass(frozen=True)
class Pages:
    """Has so many MB, twice, and says how many pages the system had to find for the second time."""

    def __call__(self) -> Session:
        return self.compute

    def compute(self, megabytes: int, _monitor: Monitor) -> int:
        import resource

        import numpy as np

        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            parts = [np.ones(megabytes * 2**20 // 8, np.uint8) for _ in range(8)]
            found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            del parts
        return found


class Unopenable:
    """Cannot be opened."""

    def __call__(self) -> Session:
        raise ScanError("There is no network here.")


class Dying:
    """Kills whoever opens it."""

    def __call__(self) -> Session:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class Folders:
    """Writes a folder per task as results are written, and a line per computation into a log: who did what, how often.

    A payload is (name, seconds).
    """

    out: str

    def __call__(self) -> Session:
        return self.compute

    def compute(self, payload: Any, monitor: Monitor) -> str:
        name, seconds = payload
        target = Path(self.out) / name
        if (target / "done").is_file():
            return "kept"
        place = check_place(target, "done")
        with writing(place) as unfinished:
            for number in range(4):
                time.sleep(seconds / 4)
                (unfinished / f"part-{number}").write_text(name * 1000)
            (unfinished / "done").touch()
        with open(Path(self.out) / "computed.log", "a", encoding="utf-8") as log:
            log.write(f"{name}\n")
        return "done"
