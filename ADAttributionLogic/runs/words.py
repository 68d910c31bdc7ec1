"""A run in words: how far it is, how fast, what failed and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ADAttributionLogic.runs.lock import shown_age
from ADAttributionLogic.runs.record import Progress, RunState, counts, grouped, numbers_of

#: Of scans that failed for one reason, how many are named.
_NAMED = 5


def counted(numbers: Mapping[str, int]) -> str:
    """3 of 10 computed, 2 complete from before, 1 failed, 4 left."""
    parts = [f"{numbers['done']} of {numbers['total']} computed"]
    parts += [f"{numbers['kept']} complete from before"] if numbers["kept"] else []
    parts += [f"{numbers['failed']} failed"] if numbers["failed"] else []
    return ", ".join([*parts, f"{numbers['left']} left"])


def speed(progress: Progress, is_running: bool = True) -> str:
    """104 scans an hour, about 6 h 12 min left."""
    per_hour, remaining = progress.per_hour, progress.remaining_seconds
    if per_hour is None:
        return ""
    text = f"{per_hour:.0f} scans an hour" if per_hour >= 10 else f"{per_hour:.1f} scans an hour"
    return f"{text}, about {shown_age(remaining)} left" if is_running and remaining else text


def memory(progress: Progress) -> str:
    """1.9 GB the largest worker."""
    return "" if progress.peak_mb is None else f"{progress.peak_mb / 1024:.1f} GB the largest worker"


def devices(progress: Progress) -> str:
    """cuda of head 91 % busy."""
    return ", ".join(f"{place} {found['busy']:.0%} busy" for place, found in progress.devices.items())


def failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per reason, the most frequent one first, with the scans it happened to."""
    lines = []
    for message, names in grouped(rows):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{len(names)} × {message} ({', '.join(names[:_NAMED])}{more})")
    return lines


def described(folder: Path, runs: Sequence[RunState]) -> str:
    """What ``status`` says."""
    numbers = counts(runs)
    lines = [f"{folder}: {counted(numbers)}"]
    for run in runs:
        name = f"shard {run.progress.shard}" if run.progress.shard else "run"
        parts = [run.state]
        if run.is_running and run.held is not None:
            parts.append(f"{run.held.owner}, last seen {shown_age(run.held.age_seconds)} ago")
        if run.progress.shard:
            parts.append(counted(numbers_of(run.progress)))
        progress = run.progress
        parts += [speed(progress, run.is_running), memory(progress), devices(progress), _engine(progress)]
        lines.append(f"  {name}: {'; '.join(filter(None, parts))}")
    rows = [row for run in runs for row in run.progress.failed.values()]
    lines += [f"  failed: {line}" for line in failures(rows)]
    return "\n".join(lines)


def _engine(progress: Progress) -> str:
    found = progress.engine
    if found.get("kind") == "processes":
        workers, threads = found["workers"], found["threads"]
        return f"{workers} {_number(workers, 'worker')} of {threads} {_number(threads, 'thread')}"
    return str(found.get("scheduler") or found.get("cluster") or found.get("kind", ""))


def _number(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
