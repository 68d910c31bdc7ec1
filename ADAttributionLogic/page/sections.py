"""What a page says, as plain values for its template: texts are as they were given, and the template escapes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ADAttributionLogic.checks.findings import MARKS
from ADAttributionLogic.networks.card_text import card_parts
from ADAttributionLogic.page.drawings import bar_drawing, curve_drawing, deviation_drawing
from ADAttributionLogic.preparation import read_quality
from ADAttributionLogic.private_results import hide_paths
from ADAttributionLogic.relevance.region_table import ALL_COLUMNS, RANKS, SMALLEST_RANKED_MM3, RegionTable
from ADAttributionLogic.service.answer import Answer

#: Columns of the table, in this order; those that a table lacks are left out. Others that it has follow.
_FIRST = ("density_rank", "name", "density", "share", "sum")
_LAST = ("asymmetry", "peak", "volume_mm3", "hemisphere")
_HIDDEN = ("label", "rank", "absolute_sum", "positive_sum", "voxels", "peak_r", "peak_a", "peak_s")
#: Of the chart against a reference: the regions that are farthest from its controls.
MOST_DEVIATING = 15


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its text, what it is sorted by, and a picture beside it."""

    text: str
    value: str
    is_text: bool
    drawing: Markup


# ------------------------------------------------------------------------------------------------------------- regions


def table_heads(tables: Sequence[RegionTable]) -> list[dict[str, Any]]:
    """Name, title, description and kind of the columns that any of the tables shows."""
    known = {column.name: column for column in ALL_COLUMNS}
    present = [name for name in known if any(name in table.columns for table in tables)]
    middle = [name for name in present if name not in (*_FIRST, *_LAST, *_HIDDEN)]
    heads = []
    for name in [*_FIRST, *middle, *_LAST]:
        if name not in present:
            continue
        column = known[name]
        heads.append(
            {
                "name": name,
                "title": column.title,
                "about": f"{column.description}{f' [{column.unit}]' if column.unit else ''}",
                "is_text": column.kind is str,
                # Ranks and names from the first on; of all others the largest first.
                "first": "ascending" if column.kind is str or name in RANKS else "descending",
            }
        )
    return heads


def table_rows(table: RegionTable, heads: Sequence[Mapping[str, Any]], places: Mapping[int, int]) -> list[Any]:
    """Rows by rank: cells, label, name, where the peak is, and whether the region is ranked.

    Parameters
    ----------
    table : RegionTable
    heads : sequence of mapping
        Of :func:`table_heads`.
    places : mapping of int to int
        By label, the number of a region in the page's list, from 1 on.
    """
    rows = list(table.rows())
    densities = [0.0, *(row["density"] for row in rows if row["density_rank"])]
    limits = min(densities), max(densities)
    found = []
    for row in sorted(rows, key=lambda r: (r["density_rank"] or len(rows) + 1, -abs(r["density"]))):
        peak = [row["peak_r"], row["peak_a"], row["peak_s"]]
        cells = [_cell(head, row, limits) for head in heads]
        place = " ".join(f"{v:.1f}" for v in peak) if all(map(math.isfinite, peak)) else ""
        index = places.get(int(row["label"]), 0)
        found.append(
            {
                "cells": cells,
                "index": index,
                "name": _named(row["name"]),
                "place": place,
                "ranked": bool(row["density_rank"]),
            }
        )
    return found


def _cell(head: Mapping[str, Any], row: Mapping[str, Any], limits: tuple[float, float]) -> Cell:
    name = head["name"]
    if name not in row:
        return Cell("", "", False, Markup())
    value = row[name]
    if head["is_text"]:
        return Cell(_named(value), _named(value), True, Markup())
    if name in RANKS:
        return Cell(str(value) if value else "–", str(value) if value else "", False, Markup())
    if not math.isfinite(value):
        return Cell("", "", False, Markup())
    text = f"{100 * value:.1f} %" if name == "share" else _number(name, value)
    drawing = Markup(bar_drawing(value, *limits)) if name == "density" else Markup("")  # noqa: S704 (numbers alone)
    return Cell(text, repr(float(value)), False, drawing)


def _number(name: str, value: float) -> str:
    if name in ("volume_mm3", "member_top_ten"):
        return f"{value:.0f}"
    return f"{value:.2f}" if name == "asymmetry" else f"{value:.3g}"


def _named(text: Any) -> str:
    return str(text).replace("_", " ")


# --------------------------------------------------------------------------------------------- what else a result holds


def warnings_of(answer: Answer, hide: bool) -> list[str]:
    """All notes of an answer and of its maps, without paths if asked."""
    source = answer.provenance.get("scan", {}).get("source", "")
    notes = [str(note) for note in answer.provenance.get("notes", ())]
    for found in answer.maps:
        notes += [f"{found.title}: {note}" for note in found.summary.get("notes", ())]
    shown = [hide_paths(note, source, "the scan") for note in notes] if hide else notes
    return list(dict.fromkeys(shown))


def checks_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The checks of the maps with their verdicts; [] where none were run.

    Whatever stands under ``checks`` is looked through for entries with a ``verdict``: they may be grouped by map.
    """
    return list(_checks_in(record.get("checks"), ""))


def _checks_in(entry: Any, group: str) -> Any:
    if isinstance(entry, Mapping) and "verdict" in entry:
        verdict = str(entry["verdict"])
        yield {
            "group": group,
            "name": str(entry.get("title") or entry.get("name") or "check"),
            "verdict": verdict,
            "kind": verdict if verdict in ("pass", "fail", "unsure") else "muted",
            "sentence": str(entry.get("sentence") or entry.get("message") or ""),
            "mark": MARKS.get(verdict, ""),  # type: ignore[call-overload]
            "number": " ".join(filter(None, (str(entry.get("number_is") or ""), _plain(entry.get("number"))))),
            "null": " ".join(filter(None, (str(entry.get("null_is") or "by chance"), _plain(entry.get("null"))))),
            "curve": Markup(_curve(entry.get("curve"))),  # noqa: S704 (escaped where it is drawn)
        }
    elif isinstance(entry, Mapping):
        group = str(entry.get("title") or group) if "checks" in entry else group
        for key, value in entry.items():
            name = "" if key in ("checks", "maps", "methods") else str(key)
            yield from _checks_in(value, " · ".join(filter(None, (group, name))))
    elif isinstance(entry, list | tuple):
        for value in entry:
            yield from _checks_in(value, group)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else ""


def _curve(entry: Any) -> str:
    """A curve as ``{"x": […], "lines": {name: […]}}`` or ``{"x": […], name: […]}``; "" for anything else."""
    if not isinstance(entry, Mapping):
        return ""
    x = next((entry[key] for key in ("x", "fraction", "fractions", "share") if _numbers(entry.get(key))), None)
    if x is None:
        return ""
    given = entry.get("lines") if isinstance(entry.get("lines"), Mapping) else entry
    assert isinstance(given, Mapping)
    lines = {str(k): v for k, v in given.items() if _numbers(v) and len(v) == len(x) and v is not x}
    is_logarithmic = bool(entry.get("x_is_logarithmic")) and min(x) > 0
    places = [math.log10(value) for value in x] if is_logarithmic else x
    points = {name: list(zip(places, line, strict=True)) for name, line in lines.items()}
    title = str(entry.get("x_title", "x"))
    title = f"log₁₀ of {title}" if is_logarithmic else title
    return curve_drawing(points, title, str(entry.get("y_title", "value")))


def _numbers(value: Any) -> bool:
    numeric = isinstance(value, list | tuple) and len(value) > 1
    return numeric and all(isinstance(v, int | float) and math.isfinite(v) for v in value)


def comparison_of(answer: Answer) -> dict[str, Any] | None:
    """The comparison with a reference: what it is, and a chart per map; None where there is none."""
    record = answer.provenance.get("comparison")
    if not isinstance(record, Mapping):
        return None
    name = str(record.get("title") or record.get("reference") or "the reference")
    maps = record.get("maps") or {}
    charts = []
    for found in answer.maps:
        columns = {} if found.table is None else found.table.columns
        column = next((c for c in ("z_adjusted", "z") if c in columns), None)
        if found.table is None or column is None:
            continue
        rows = [r for r in found.table.rows() if math.isfinite(r[column]) and r["density_rank"]]
        rows = sorted(rows, key=lambda r: -abs(r[column]))[:MOST_DEVIATING]
        drawing = deviation_drawing([_named(r["name"]) for r in rows], [float(r[column]) for r in rows], name)
        entry = maps.get(found.name) or {}
        charts.append(
            {
                "title": found.title,
                "column": "z, adjusted for covariates" if column == "z_adjusted" else "z",
                "beyond": _beyond(entry),
                "drawing": Markup(drawing),  # noqa: S704 (escaped where it is drawn)
            }
        )
    covariates = record.get("covariates") or {}
    facts = [(_named(key), _value(value)) for key, value in record.items() if isinstance(value, str | int | float)]
    facts += [(_named(key), _value(value)) for key, value in covariates.items()]
    return {"name": name, "charts": charts, "facts": facts, "notes": [str(n) for n in record.get("notices", ())]}


def _beyond(entry: Mapping[str, Any]) -> str:
    beyond, limit = entry.get("beyond"), entry.get("limit")
    if not isinstance(beyond, Mapping) or not isinstance(limit, int | float):
        return ""
    regions, expected = f"{beyond['regions']} of {beyond['of']} regions", f"by chance {beyond['expected']:.1f} would"
    return f"{regions} lie beyond ±{limit:.2g}; {expected}."


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def preparation_of(answer: Answer) -> dict[str, Any] | None:
    """The checks of a scan's preparation, those that did not pass first; None for a scan taken as registered."""
    record = answer.provenance
    if "quality" not in record:
        return None
    quality = read_quality(record["quality"])
    checks = sorted(quality.checks, key=lambda check: check.passed)
    options = record.get("preprocessing_decisions", {}).get("options", {})
    return {
        "registration": str(options.get("registration", "")).capitalize(),
        "passed": quality.passed,
        "checks": [{"passed": check.passed, "text": str(check)} for check in checks],
    }


def card_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of the network's card, as far as a result keeps it."""
    model = dict(record.get("model", {}))
    return card_parts(model)


def methods_of(answer: Answer) -> list[dict[str, Any]]:
    """What each map is of, and whether it adds up."""
    found = []
    for one in answer.maps:
        summary = one.summary
        options = ", ".join(f"{k} {v}" for k, v in summary.get("options", {}).items() if v is not None)
        found.append(
            {
                "title": one.title,
                "options": options,
                "sum": _figure(summary.get("relevance_sum")),
                "unattributed": _figure(summary.get("unattributed")) if summary.get("is_conserving") else "",
                "seconds": _figure(summary.get("seconds")),
                "device": str(summary.get("device", "")),
            }
        )
    return found


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def provenance_text(record: Mapping[str, Any], hide: bool) -> str:
    """The record as text; without paths if asked, and without the list of files, which names this page's folder."""
    shown = {key: value for key, value in record.items() if key not in ("files", "kind")}
    if hide:
        shown = _hidden(shown, str(record.get("scan", {}).get("source", "")))
    return json.dumps(shown, indent=2, ensure_ascii=False, default=str)


def _hidden(value: Any, source: str) -> Any:
    if isinstance(value, str):
        return hide_paths(value, source, "(scan)")
    if isinstance(value, Mapping):
        return {key: _hidden(entry, source) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(entry, source) for entry in value]
    return value


def scan_name(record: Mapping[str, Any]) -> str:
    """What a page calls a scan: by the hash of its voxels."""
    return f"scan-{str(record.get('scan', {}).get('voxels_sha256', ''))[:12]}"


def small_regions_note() -> str:
    """Why some rows have no rank."""
    return f"Regions below {SMALLEST_RANKED_MM3:g} mm³ and what lies outside the atlas are listed, but not ranked."
