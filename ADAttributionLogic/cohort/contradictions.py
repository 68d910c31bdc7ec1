"""Rows of a table that cannot be true together, and what is noteworthy of those that can."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.errors import CohortError

#: What does not change from one session of a person to the next.
CONSTANT = ("sex", "gender", "handedness")

#: Of the rows that are wrong, how many a message names.
_NAMED = 12


def refuse_contradictions(table: str, scans: Sequence[CohortScan]) -> None:
    """Name all rows that cannot be true together.

    Raises
    ------
    CohortError
    """
    problems = [*_doubled(scans), *_contradictions(scans)]
    if problems:
        rest = f" … and {len(problems) - _NAMED} more." if len(problems) > _NAMED else ""
        raise CohortError(f"{table} contradicts itself. {' '.join(problems[:_NAMED])}{rest}")


def _doubled(scans: Iterable[CohortScan]) -> list[str]:
    """A scan on two rows: whose, or of which session, it is would be a matter of choice."""
    rows: dict[str, list[CohortScan]] = {}
    for scan in scans:
        if scan.path is not None:
            rows.setdefault(os.path.realpath(scan.path), []).append(scan)
    return [f"{same[0].path} stands on {', '.join(s.place for s in same)}." for same in rows.values() if len(same) > 1]


def _contradictions(scans: Iterable[CohortScan]) -> list[str]:
    """Two rows that cannot both be true of one person."""
    problems = []
    of_subject: dict[str, dict[str, CohortScan]] = {}
    of_session: dict[tuple[str, str], list[CohortScan]] = {}
    for scan in scans:
        known = of_subject.setdefault(scan.subject, {})
        for name, value in scan.values.items():
            if name.lower() not in CONSTANT:
                continue
            earlier = known.setdefault(name, scan)
            if earlier.values[name].lower() != value.lower():
                problems.append(_differs(scan.subject, name, earlier, earlier.values[name], scan, value))
        if scan.session:
            of_session.setdefault((scan.subject, scan.session), []).append(scan)
    for (subject, session), same in of_session.items():
        for scan in same[1:]:
            said = {"diagnosis": (same[0].diagnosis, scan.diagnosis)}
            said |= {n: (same[0].values.get(n, ""), v) for n, v in scan.values.items() if n.lower() not in CONSTANT}
            for name, (one, other) in said.items():
                if one and other and one != other:
                    problems.append(_differs(f"{subject}, {session}", name, same[0], one, scan, other))
    return problems


def _differs(who: str, name: str, first: CohortScan, one: str, second: CohortScan, other: str) -> str:
    return f"{who}: {name} is {one} on {first.place}, but {other} on {second.place}."


def notes_on(scans: Sequence[CohortScan]) -> tuple[str, ...]:
    """What a user should know of the rows: who was scanned several times, whose scan or diagnosis is missing."""
    counts: dict[str, int] = {}
    for scan in scans:
        counts[scan.subject] = counts.get(scan.subject, 0) + 1
    notes = []
    several = [subject for subject, count in counts.items() if count > 1]
    if several:
        notes.append(
            f"{len(several)} of {len(counts)} persons were scanned several times ({_some(several)}): their scans are "
            "not independent of one another."
        )
    missing = [scan.shown for scan in scans if not scan.is_there]
    if missing:
        notes.append(f"{len(missing)} of {len(scans)} scans are not there: {_some(missing)}.")
    without = [scan.shown for scan in scans if not scan.diagnosis]
    if without and len(without) < len(scans):
        notes.append(f"{len(without)} of {len(scans)} rows have no diagnosis: {_some(without)}.")
    changed = {s.subject for s in scans} & {
        subject for subject in several if len({s.diagnosis for s in scans if s.subject == subject and s.diagnosis}) > 1
    }
    if changed:
        notes.append(f"The diagnosis of {len(changed)} persons differs between sessions: {_some(sorted(changed))}.")
    return tuple(notes)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
