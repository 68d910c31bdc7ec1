"""Puts a page together: one HTML file that holds all it needs.

What may run in it is named by its hash in a content security policy, and nothing may be fetched: a name that carried
HTML, and slipped through the escaping, would still be only text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic import __version__
from ADAttributionLogic.answer_spread import spread_note, spread_of
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.outcome import Outcome, outcome_in
from ADAttributionLogic.page import sections
from ADAttributionLogic.page.drawings import answer_drawing
from ADAttributionLogic.page.niivue_licence import NIIVUE_LICENCE
from ADAttributionLogic.page.volumes import (
    FINENESS,
    StoredVolume,
    coarser,
    cropped,
    shown_box,
    stored_labels,
    stored_map,
    stored_scan,
)
from ADAttributionLogic.provenance import NOTICE
from ADAttributionLogic.report.overlay_display import NEGATIVE, POSITIVE, OverlayDisplay
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.service.answer import Answer
from ADAttributionLogic.volume import resample

if TYPE_CHECKING:
    from markupsafe import Markup

#: A page can be mailed: this is what most mail servers take, base64 of the mail itself included.
MOST_BYTES = 15_000_000

#: nilearn is only needed for the file that it carries, so that 3D Slicer's Python takes it without what it requires.
_ADVICE = (
    "pip install 'ad-attribution[report]'; in 3D Slicer's Python console slicer.util.pip_install('--no-deps nilearn "
    "jinja2 markupsafe')"
)


@dataclass(frozen=True, eq=False)
class _Shown:
    """All volumes of a page, and what was done to them."""

    volumes: dict[str, StoredVolume]
    displays: tuple[OverlayDisplay, ...]
    factor: int
    greys: int

    @property
    def size(self) -> int:
        """Bytes that they take in the page, as base64."""
        return sum(-(-len(v.nifti) // 3) * 4 for v in self.volumes.values())


def can_make_pages() -> str:
    """Why no page can be made here, with what to do; "" where it can."""
    missing = [name for name in ("jinja2", "markupsafe", "nilearn") if find_spec(name) is None]
    if missing:
        return f"A report needs {', '.join(missing)}, not installed here: {_ADVICE}."
    if not _viewer_file().is_file():
        return f"A report needs nilearn 0.14 or newer, which carries the viewer niivue: {_ADVICE}."
    return ""


def build_page(answer: Answer, figure: bytes | None = None, *, keep_identifiers: bool = False) -> str:
    """An answer as one HTML page.

    Parameters
    ----------
    answer : Answer
        Of a computation (:func:`~.service.answer.answer_of`) or a folder (:func:`~.report.result_reading.read_result`).
    figure : bytes, optional
        The overview as PNG: shown where a browser has no WebGL2.
    keep_identifiers : bool
        Call the scan by its file and name paths; otherwise by the hash of its voxels.

    Returns
    -------
    str
        At most 15 MB as UTF-8, unless the maps cannot be made so small; then the coarsest.

    Raises
    ------
    OutputError
        jinja2 or nilearn's copy of niivue is not there.
    """
    why = can_make_pages()
    if why:
        raise OutputError(why)
    viewer = _viewer_file().read_text(encoding="utf-8")
    rest = len(viewer.encode()) + len(_base64(figure)) + len(_base64(_preparation_figure(answer)))
    shown = _shown(answer, MOST_BYTES - rest - 400_000 - 120_000 * len(answer.maps))
    return _render(answer, shown, figure, viewer, not keep_identifiers)


# ------------------------------------------------------------------------------------------------------------- volumes


def _shown(answer: Answer, room: int) -> _Shown:
    """The volumes as fine as fits into so many bytes."""
    maps = [found.volume for found in answer.maps]
    if not maps:
        return _Shown({}, (), 1, FINENESS[0][1])
    displays = tuple(OverlayDisplay.for_heatmap(volume.array) for volume in maps)
    scan = resample(answer.scan, maps[0].grid)
    labels = None if answer.atlas is None else answer.atlas.labels
    found = None
    for factor in (1, 2, 3):
        if factor > 1:
            maps = [coarser(one.volume, factor) for one in answer.maps]
            scan = resample(answer.scan, maps[0].grid)
            labels = None if answer.atlas is None else coarser(answer.atlas.labels, factor, "nearest")
        box = shown_box(scan, labels, maps)
        regions = {}
        if labels is not None:
            regions["volume-labels"] = stored_labels(cropped(labels, box), _region_order(answer))
        for steps, greys in FINENESS:
            stored = {"volume-scan": stored_scan(cropped(scan, box), greys), **regions}
            for number, (volume, display) in enumerate(zip(maps, displays, strict=True)):
                stored[f"volume-map-{number}"] = stored_map(volume, box, display, steps)
            found = _Shown(stored, displays, factor, greys)
            if found.size <= room:
                return found
    assert found is not None
    return found


def _region_order(answer: Answer) -> list[int]:
    """Labels in the order of the page's list of regions."""
    return [] if answer.atlas is None else [region.label for region in answer.atlas.regions]


# ---------------------------------------------------------------------------------------------------------------- page


def _render(answer: Answer, shown: _Shown, figure: bytes | None, viewer: str, hide: bool) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    record = answer.provenance
    outcome = outcome_in(record)
    spread = spread_of(record)
    places = {label: number for number, label in enumerate(_region_order(answer), start=1)}
    heads = sections.table_heads([m.table for m in answer.maps if m.table is not None])
    maps = [
        {"title": found.title, "rows": [] if found.table is None else sections.table_rows(found.table, heads, places)}
        for found in answer.maps
    ]
    folder = resources_folder() / "Report"
    style, script = (Markup((folder / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))  # noqa: S704
    title = str(record.get("model", {}).get("title", "Network"))
    name = str(record.get("scan", {}).get("source", "")) if not hide else ""
    name = name or sections.scan_name(record)
    preparation = sections.preparation_of(answer)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (folder / "report.html").read_text(encoding="utf-8")
    )
    return template.render(
        policy=Markup(content_policy(str(style), [viewer, str(script)])),  # noqa: S704 (of hashes)
        title=f"Explanation of {name}",
        style=style,
        script=script,
        viewer=Markup(viewer),  # noqa: S704 (of the wheel, not of the user)
        viewer_licence=NIIVUE_LICENCE,
        model_title=title,
        scan_name=name,
        date=str(record.get("date", ""))[:16].replace("T", " ") + " UTC",
        notice=NOTICE,
        headline=outcome.headline(spread),
        answer_drawing=Markup(answer_drawing(outcome, answer.target_class, spread)),  # noqa: S704 (escaped there)
        explained="" if outcome.output.is_score else f"the class {answer.target_class}",
        spread_note=spread_note(record),
        members=", ".join(f"{m.name} {m.values[answer.target_class]:.2f}" for m in outcome.members),
        warnings=sections.warnings_of(answer, hide),
        maps=maps,
        heads=heads,
        table_note=sections.small_regions_note(),
        figure=_base64(figure),
        stored=_stored_sentence(shown),
        stored_facts=_stored_facts(answer, shown),
        comparison=sections.comparison_of(answer),
        checks=sections.checks_of(record),
        preparation=preparation,
        preparation_figure=_base64(_preparation_figure(answer)),
        card=sections.card_of(record),
        methods=sections.methods_of(answer),
        facts=_facts(record),
        provenance=sections.provenance_text(record, hide),
        version=__version__,
        data=_json(_data(answer, shown, outcome)),
        volumes=[{"id": key, "text": _base64(volume.nifti)} for key, volume in shown.volumes.items()],
    )


def _data(answer: Answer, shown: _Shown, outcome: Outcome) -> dict[str, Any]:
    """What the page's script needs."""
    maps = []
    for number, (found, display) in enumerate(zip(answer.maps, shown.displays, strict=True)):
        stored = shown.volumes[f"volume-map-{number}"]
        start = str(found.summary.get("start", ""))
        maps.append(
            {
                "title": found.title,
                "quantity": outcome.quantity(answer.target_class, start) if start else "relevance",
                "maximum": display.maximum,
                "threshold": display.threshold,
                "step": stored.step,
                "signed": bool((found.volume.array < 0).any()),
            }
        )
    names = [] if answer.atlas is None else [{"name": r.name.replace("_", " ")} for r in answer.atlas.regions]
    colours = {"positive": POSITIVE, "negative": NEGATIVE}
    return {"maps": maps, "regions": names, "hasLabels": "volume-labels" in shown.volumes, "colours": colours}


def _stored_sentence(shown: _Shown) -> str:
    errors = [v.error for key, v in shown.volumes.items() if key.startswith("volume-map")]
    if not errors:
        return ""
    text = f"The maps are rounded for display: by at most {_percent(max(errors))} of their maximum."
    if shown.factor > 1:
        text += f" All volumes are shown with {shown.factor} times the voxel size, so that this file can be mailed."
    return text


def _stored_facts(answer: Answer, shown: _Shown) -> list[str]:
    """What the cropping and rounding did, in numbers."""
    facts = []
    for number, found in enumerate(answer.maps):
        stored = shown.volumes[f"volume-map-{number}"]
        text = f"{found.title}: in steps of {stored.step:.2g}; off by at most {_percent(stored.error)} of the maximum"
        if stored.outside > 0:
            text += f"; {_percent(stored.outside)} of its magnitude lies outside what is shown"
        facts.append(f"{text}.")
    if facts:
        facts.append(
            f"Scan: {shown.greys} grey values. Volumes are cropped to the brain; the tables are of the whole maps."
        )
    return facts


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    scan, atlas, software = (record.get(key) or {} for key in ("scan", "atlas", "software"))
    versions = {key: software[key] for key in ("ad-attribution", "commit", "torch", "python") if key in software}
    found = [
        ("Scan", f"{scan.get('geometry', '')}; sha256 of its voxels {str(scan.get('voxels_sha256', ''))[:16]}…"),
        ("Atlas", f"{atlas.get('title', 'none')}{'; licence: ' + atlas['licence'] if atlas.get('licence') else ''}"),
        ("Computed on", f"{record.get('device', '')}, {record.get('seconds', 0):.0f} s"),
        ("Versions", ", ".join(f"{name} {value}" for name, value in versions.items())),
    ]
    return [(name, text) for name, text in found if text]


# --------------------------------------------------------------------------------------------------------------- pieces


def _viewer_file() -> Path:
    """niivue, which nilearn carries in its wheel from version 0.14 on."""
    spec = find_spec("nilearn")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    return folder / "_assets" / "js" / "niivue.umd.js"


def content_policy(style: str, scripts: Sequence[str]) -> str:
    """Only these scripts and this style, pictures only from within, and no connection to anywhere."""

    def named(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = " ".join(named(text) for text in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {named(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _json(value: Any) -> Markup:
    """Plain values inside a script element: nothing in them can end it, and old engines know U+2028 as a line's end."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=True, allow_nan=False)  # ASCII: U+2028 is an escape
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


def _base64(data: bytes | None) -> str:
    return base64.b64encode(data).decode() if data else ""


def _preparation_figure(answer: Answer) -> bytes | None:
    return None if answer.preparation is None else answer.preparation.report.figure
