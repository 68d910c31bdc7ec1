"""How far a run is, kept in its folder: for ``status`` in another terminal, and for the other shards of a job array."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import OutputError, UsageError
from ADAttributionLogic.runs.lock import Held, look
from ADAttributionLogic.runs.spans import Spans
from ADAttributionLogic.whole_files import write_whole

KIND = "ad-attribution/run/1"
#: Names of no scan begin with an underscore, so that none is taken for another's result.
_RECORD, _LOCK = "_run{}.json", "_run{}.lock"
RECORDS, LOCKS = _RECORD.format("*"), _LOCK.format("*")
SUMMARY_LOCK = "_summary.lock"

#: Seconds between two records, at least.
_EVERY_SECONDS = 2.0
#: Of the time that a run takes, how much writing its record may take.
_SHARE = 0.01
#: Outcomes by which the speed is told.
_RECENT = 50


def record_path(folder: Path, shard: str = "") -> Path:
    """The record of a run, or of a shard ("3/8")."""
    return folder / _RECORD.format(_suffix(shard))


def lock_path(folder: Path, shard: str = "") -> Path:
    """The lock of a run, or of a shard."""
    return folder / _LOCK.format(_suffix(shard))


def _suffix(shard: str) -> str:
    return f"-{shard.replace('/', '-of-')}" if shard else ""


@dataclass
class Progress:
    """What has become of the tasks of a run so far.

    Attributes
    ----------
    total : int
    shard : str
        "3/8", or "".
    engine : mapping
        What computes.
    done, kept : int
        Computed by this run, and complete from before.
    failed : dict of str to mapping
        Rows of those that failed, by name.
    began : float
        Seconds, as :func:`time.time`.
    ended : float or None
    ending : str
        "complete", or a sentence that says why it stopped.
    finishes : list of float
        When the last ones were computed.
    peak_mb : float or None
        Largest memory of a worker.
    devices : dict of str to mapping
        Of devices on which workers take turns: in which share of the time somebody was on it (``busy``, 0–1, from the
        first turn's begin to the last one's end), seconds in use (``seconds``), and how long workers waited for their
        turns, per scan (``waited_seconds``).
    """

    total: int
    shard: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    done: int = 0
    kept: int = 0
    failed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    ended: float | None = None
    ending: str = ""
    finishes: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    devices: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._spans: dict[str, Spans] = {}
        self._waits: dict[str, list[float]] = {}

    def on_device(self, place: str, turns: Sequence[tuple[float, float, float]]) -> None:
        """Take up when a scan waited for a device, was begun there and left it."""
        spans, waits = self._spans.setdefault(place, Spans()), self._waits.setdefault(place, [])
        for asked, begun, ended in turns:
            spans.add(begun, ended)
            waits.append(begun - asked)
        if spans.share is not None:
            waited = sum(waits) / len(waits)
            found = {"busy": spans.share, "seconds": spans.seconds, "waited_seconds": waited}
            self.devices[place] = {name: round(value, 4) for name, value in found.items()}

    def count(self, row: Mapping[str, Any], peak_mb: float | None = None) -> None:
        """Take up a scan's row."""
        if row["status"] == "failed":
            self.failed[row["name"]] = dict(row)
        elif row["status"] == "done":
            self.done += 1
        else:
            self.kept += 1
        if row["status"] != "done before":
            self.finishes = [*self.finishes[-_RECENT:], time.time()]
        if peak_mb is not None:
            self.peak_mb = max(peak_mb, self.peak_mb or 0.0)

    @property
    def left(self) -> int:
        """Tasks without an outcome."""
        return self.total - self.done - self.kept - len(self.failed)

    @property
    def per_hour(self) -> float | None:
        """Scans computed per hour, by the last ones; None as long as nobody knows."""
        if not self.finishes:
            return None
        start = self.finishes[0] if len(self.finishes) > _RECENT else self.began
        count = len(self.finishes) - (len(self.finishes) > _RECENT)
        seconds = (self.ended or time.time()) - start
        return 3600 * count / seconds if seconds > 0 and count else None

    @property
    def remaining_seconds(self) -> float | None:
        """Until the end, at this speed."""
        speed = self.per_hour
        return None if speed is None else 3600 * self.left / speed

    def reasons(self) -> list[tuple[str, list[str]]]:
        """Why tasks failed, the most frequent reason first, each with the names of those it happened to."""
        return grouped(self.failed.values())


def grouped(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of failed scans by their reasons; two that differ in names and numbers only are one."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(_alike(row), []).append(row)
    groups = sorted(found.values(), key=lambda group: -len(group))
    return [(str(group[0]["message"]), [str(row["name"]) for row in group]) for group in groups]


def _alike(row: Mapping[str, Any]) -> str:
    text = str(row["message"])
    for part in (str(row.get("scan", "")), str(row["name"])):
        text = text.replace(part, "…") if part else text
    return "".join("0" if c.isdigit() else c for c in text).replace("00", "0")


class Record:
    """A run's progress on disk, not written more often than it is worth.

    Parameters
    ----------
    folder : Path
    progress : Progress
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.progress, self._path = progress, record_path(folder, progress.shard)
        self._next = 0.0

    def write(self, whether_due: bool = False) -> None:
        """Write it; with `whether_due` only when some time has passed.

        Raises
        ------
        OSError
        """
        started = time.monotonic()
        if whether_due and started < self._next:
            return
        document = {"kind": KIND, "written": time.time(), **asdict(self.progress)}
        text = json.dumps(document, indent=1, default=str) + "\n"
        write_whole(self._path, text)
        now = time.monotonic()
        self._next = now + max(_EVERY_SECONDS, (now - started) / _SHARE)


@dataclass(frozen=True)
class RunState:
    """A run, or a shard of one, as its folder shows it.

    Attributes
    ----------
    progress : Progress
    written : float
        When the record was written, as :func:`time.time`.
    held : Held or None
        Who has the lock.
    """

    progress: Progress
    written: float
    held: Held | None

    @property
    def is_running(self) -> bool:
        """Whether its owner lives."""
        return self.held is not None and not self.held.is_stale

    def describe(self) -> dict[str, Any]:
        """Plain values, for machines."""
        progress = self.progress
        return {
            "shard": progress.shard,
            "state": self.state,
            "owner": None if self.held is None or self.held.is_stale else str(self.held.owner),
            **numbers_of(progress),
            "scans_per_hour": progress.per_hour,
            "remaining_seconds": progress.remaining_seconds if self.is_running else None,
            "peak_mb": progress.peak_mb,
            "devices": dict(progress.devices),
            "engine": dict(progress.engine),
            "began": _time(progress.began),
            "written": _time(self.written),
            "failures": [{"message": message, "scans": names} for message, names in progress.reasons()],
        }

    @property
    def state(self) -> str:
        """Running, complete, or why it stopped."""
        if self.is_running:
            return "running"
        return self.progress.ending or "stopped without a word: killed, or its computer has gone"


def read_runs(folder: Path) -> tuple[RunState, ...]:
    """The runs whose records are in a folder, shards in the order of their numbers.

    Raises
    ------
    UsageError
        There is none.
    OutputError
        One cannot be read.
    """
    found = []
    for path in sorted(folder.glob(RECORDS), key=_number_in):
        found.append(_read(path))
    if not found:
        raise UsageError(f"{folder} holds no run of this program: there is no {record_path(folder).name}.")
    return tuple(found)


def _number_in(path: Path) -> tuple[int, ...]:
    return tuple(int(word) for word in path.stem.split("-") if word.isdigit())


def _read(path: Path) -> RunState:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("kind") != KIND:
            raise ValueError("it is of another version of this program")
        written = float(document.pop("written"))
        progress = Progress(**document)
        return RunState(progress, written, look(lock_path(path.parent, progress.shard)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise OutputError(f"{path} cannot be read: {cause}") from cause


def known_failures(folder: Path, without: Sequence[Path] = ()) -> dict[str, Mapping[str, Any]]:
    """Rows of scans that failed, by name, from all records in a folder; what cannot be read says nothing."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(set(folder.glob(RECORDS)) - set(without)):
        try:
            found |= _read(path).progress.failed
        except OutputError:
            continue
    return found


def counts(runs: Sequence[RunState]) -> Counter[str]:
    """Sums over all shards."""
    found: Counter[str] = Counter(dict.fromkeys(("total", "done", "kept", "failed", "left"), 0))
    for run in runs:
        found.update(numbers_of(run.progress))
    return found


def numbers_of(progress: Progress) -> dict[str, int]:
    """How many there are, were done, kept, failed, and are left."""
    return {
        "total": progress.total,
        "done": progress.done,
        "kept": progress.kept,
        "failed": len(progress.failed),
        "left": progress.left,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0).isoformat()
