"""What the checks of maps found, as plain values: they travel in the provenance, to figures, tables and the panel.

Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ADAttributionLogic.errors import UsageError

Verdict = Literal["pass", "unsure", "fail", "not run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

#: Where the record of an explanation holds what was found.
KEY = "checks"

#: What stands before a check's line, so that colour alone does not tell.
MARKS: Mapping[Verdict, str] = {"pass": "✓", "unsure": "?", "fail": "✗", "not run": "–"}


@dataclass(frozen=True)
class Curve:
    """What a check measured at several places.

    Attributes
    ----------
    x : tuple of float
    lines : mapping of str to tuple of float
        By name, one value per place; the null's line stands beside the map's.
    x_title, y_title : str
    x_is_logarithmic : bool
    """

    x: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]
    x_title: str
    y_title: str
    x_is_logarithmic: bool = False

    def describe(self) -> dict[str, Any]:
        """Plain values; see :func:`read_checks`."""
        return {
            "x": list(self.x),
            "lines": {name: list(values) for name, values in self.lines.items()},
            "x_title": self.x_title,
            "y_title": self.y_title,
            "x_is_logarithmic": self.x_is_logarithmic,
        }


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes
    ----------
    name : str
        ``conservation``, ``recomputation``, ``randomisation``, ``stability``, ``causality``, ``deletion`` or
        ``insertion``.
    title : str
    number : float or None
        None where it was not, or could not be, measured.
    null : float or None
        The same number for something that explains nothing.
    verdict : {"pass", "unsure", "fail", "not run"}
    sentence : str
        What it means, in plain words.
    number_is, null_is : str
        What the two are, e.g. "share of the top ten regions that came back" and "by chance".
    cost : float
        Forward passes, as estimated beforehand.
    curve : Curve or None
    details : mapping
        Further figures, plain values.
    """

    name: str
    title: str
    number: float | None
    null: float | None
    verdict: Verdict
    sentence: str
    number_is: str = ""
    null_is: str = ""
    cost: float = 0.0
    curve: Curve | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite are None."""
        return {
            "name": self.name,
            "title": self.title,
            "number": _finite(self.number),
            "null": _finite(self.null),
            "verdict": self.verdict,
            "sentence": self.sentence,
            "number_is": self.number_is,
            "null_is": self.null_is,
            "cost": round(self.cost, 2),
            "curve": None if self.curve is None else self.curve.describe(),
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class MapChecks:
    """All checks of one map.

    Attributes
    ----------
    map : str
        Its name in the explanation.
    title : str
    checks : tuple of Check
    """

    map: str
    title: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """``fail`` if one check failed, else ``unsure`` if one is, else ``pass``; ``not run`` if none measured."""
        found = {check.verdict for check in self.checks}
        return next((v for v in ("fail", "unsure", "pass") if v in found), "not run")

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that speak against the map."""
        return tuple(check for check in self.checks if check.verdict == "fail")

    def count(self, verdict: Verdict) -> int:
        """How many checks came to a verdict."""
        return sum(check.verdict == verdict for check in self.checks)

    @property
    def summary(self) -> str:
        """The verdict in one line, e.g. ``✗ 1 of 6 checks failed: stability``."""
        run = len(self.checks) - self.count("not run")
        if run == 0:
            return f"{MARKS['not run']} no check was run"
        if self.failed:
            names = ", ".join(check.title.lower() for check in self.failed)
            return f"{MARKS['fail']} {len(self.failed)} of {run} checks failed: {names}"
        unsure = [check.title.lower() for check in self.checks if check.verdict == "unsure"]
        if unsure:
            return f"{MARKS['unsure']} {self.count('pass')} of {run} checks passed; undecided: {', '.join(unsure)}"
        return f"{MARKS['pass']} passed {_counted(run, 'check')}"

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "title": self.title,
            "overall": self.verdict,
            "summary": self.summary,
            "checks": [check.describe() for check in self.checks],
        }


@dataclass(frozen=True)
class MethodAgreement:
    """How far the maps of one run agree.

    Attributes
    ----------
    maps : tuple of str
    matrix : tuple of tuple of float or None
        Rank correlation (Spearman) of the regions' densities, or of the voxels where there is no atlas.
    over : {"regions", "voxels"}
    consensus_top : tuple of str
        The regions with the largest mean rank, best first.
    """

    maps: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    over: Literal["regions", "voxels"]
    consensus_top: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "maps": list(self.maps),
            "matrix": [list(row) for row in self.matrix],
            "over": self.over,
            "consensus_top": list(self.consensus_top),
        }


@dataclass(frozen=True)
class Checks:
    """All checks of an explanation.

    Attributes
    ----------
    maps : tuple of MapChecks
    replacement : str
        What took the place of tissue in deletion, insertion and the causal check, in words; "" where none was run.
    budget : float
        Forward passes per map, of each network of an ensemble.
    spent : float
        Forward passes, as estimated, that all checks took together.
    agreement : MethodAgreement or None
        With two maps or more.
    notes : tuple of str
    """

    maps: tuple[MapChecks, ...]
    replacement: str = ""
    budget: float = 0.0
    spent: float = 0.0
    agreement: MethodAgreement | None = None
    notes: tuple[str, ...] = ()

    def of(self, map_name: str) -> MapChecks | None:
        """The checks of a map, by its name in the explanation."""
        return next((found for found in self.maps if found.map == map_name), None)

    def describe(self) -> dict[str, Any]:
        """Plain values for provenance, under :data:`KEY`; see :func:`read_checks`.

        ``maps`` is a mapping of a map's name to its ``title``, ``overall`` verdict, ``summary`` (one line) and
        ``checks``, a list of mappings with the attributes of :class:`Check`; ``curve`` is None or has ``x``,
        ``lines`` (by name), ``x_title``, ``y_title`` and ``x_is_logarithmic``.
        """
        return {
            "maps": {found.map: found.describe() for found in self.maps},
            "replacement": self.replacement,
            "budget": self.budget,
            "spent": round(self.spent, 2),
            "agreement": None if self.agreement is None else self.agreement.describe(),
            "notes": list(self.notes),
        }


def read_checks(document: Mapping[str, Any] | None) -> Checks | None:
    """The inverse of :meth:`Checks.describe`; None for results without checks.

    Raises
    ------
    UsageError
        The document is damaged.
    """
    if not document:
        return None
    try:
        maps = tuple(
            MapChecks(name, str(entry["title"]), tuple(_read_check(check) for check in entry["checks"]))
            for name, entry in document["maps"].items()
        )
        agreement = document.get("agreement")
        return Checks(
            maps,
            str(document["replacement"]),
            float(document["budget"]),
            float(document["spent"]),
            None if agreement is None else _read_agreement(agreement),
            tuple(map(str, document.get("notes", ()))),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise UsageError(f"The checks of this result are damaged or of another version: {cause!r}.") from cause


def _read_check(entry: Mapping[str, Any]) -> Check:
    if entry["verdict"] not in VERDICTS:
        raise ValueError(f"verdict {entry['verdict']!r}")
    curve = entry["curve"]
    return Check(
        str(entry["name"]),
        str(entry["title"]),
        _number(entry["number"]),
        _number(entry["null"]),
        entry["verdict"],
        str(entry["sentence"]),
        str(entry["number_is"]),
        str(entry["null_is"]),
        float(entry["cost"]),
        None if curve is None else _read_curve(curve),
        dict(entry["details"]),
    )


def _read_curve(entry: Mapping[str, Any]) -> Curve:
    x = tuple(map(float, entry["x"]))
    lines = {str(name): tuple(map(float, values)) for name, values in entry["lines"].items()}
    if any(len(values) != len(x) for values in lines.values()):
        raise ValueError("a curve's lines are of several lengths")
    return Curve(x, lines, str(entry["x_title"]), str(entry["y_title"]), bool(entry["x_is_logarithmic"]))


def _read_agreement(entry: Mapping[str, Any]) -> MethodAgreement:
    matrix = tuple(tuple(_number(value) for value in row) for row in entry["matrix"])
    return MethodAgreement(tuple(entry["maps"]), matrix, entry["over"], tuple(entry["consensus_top"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def not_run(name: str, title: str, cost: float, why: str, null_is: str = "") -> Check:
    """A check that was left out: its cost, and why."""
    return Check(name, title, None, None, "not run", f"Not run: {why}", null_is=null_is, cost=cost)
