"""What stands beside the files of derivatives: what a map shows, what the columns of a table mean, in which units."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ADAttributionLogic import provenance
from ADAttributionLogic.answer_spread import spread_of
from ADAttributionLogic.bids.images import BidsImage
from ADAttributionLogic.bids.naming import ORIGINAL, is_standard, label_of

#: The dataset that derivatives are made from, in their BIDS URIs.
RAW = "raw"


def source_uri(image: BidsImage) -> str:
    """The scan, wherever the dataset lies."""
    return f"bids:{RAW}:{image.relative}"


def map_sidecar(name: str, record: Mapping[str, Any], image: BidsImage, space: str) -> dict[str, Any]:
    """Of a map: what it shows of what, how it was made, and what it adds up to."""
    about = record["methods"].get(name)
    found: dict[str, Any] = {
        "Description": f"{(about or {}).get('title', name)}: what the network used, not where disease is",
        "Sources": [source_uri(image)],
        **_reference(space, record),
        "Model": {key: record["model"][key] for key in ("name", "title", "weights_sha256")},
        "Explained": record["target_class"],
        "Start": record["start"],
    }
    if about is not None:
        found["Method"] = {key: value for key, value in about.items() if key != "notes"}
    return {**found, "Notice": provenance.NOTICE}


def brain_sidecar(record: Mapping[str, Any], image: BidsImage, space: str) -> dict[str, Any]:
    """Of the brain on the network's grid."""
    return {
        "Description": "The scan on the network's grid: registered, corrected for bias, without skull",
        "Sources": [source_uri(image)],
        **_reference(space, record),
        "SkullStripped": True,
    }


def mask_sidecar(image: BidsImage) -> dict[str, Any]:
    """Of the brain's mask on the scan."""
    return {"Type": "Brain", "Sources": [source_uri(image)], "SpatialReference": source_uri(image)}


def table_sidecar(units: Mapping[str, Any]) -> dict[str, Any]:
    """Of a region table, from the units beside it in the result."""
    return {name: _column(about["title"], about["description"], about["unit"]) for name, about in units.items()}


def scores_table(record: Mapping[str, Any], image: BidsImage) -> tuple[str, dict[str, Any]]:
    """The answer as a table of one row, and what its columns are."""
    outcome, spread = record["outcome"], spread_of(record)
    output = outcome["output"]
    is_score = output["kind"] == "score"
    kind, unit = ("score", output.get("unit", "")) if is_score else ("probability", "1")
    cells: dict[str, Any] = {
        "participant_id": image.subject,
        "session_id": image.session or "n/a",
        "source": source_uri(image),
        "explained": record["target_class"],
        "verdict": outcome["verdict"],
        "placed": _placed(record),
    }
    columns = {
        "participant_id": _column("Participant", "As in the dataset"),
        "session_id": _column("Session", "As in the dataset; n/a where there are none"),
        "source": _column("Scan", "BIDS URI of what was explained"),
        "explained": _column("Explained", "The class, or the score, that all maps explain"),
        "verdict": _column("Verdict", "The most probable class, or the level of the score"),
        "placed": _column(
            "Place",
            "Whether the scan lies where the network needs it; its answer means nothing otherwise",
        ),
    }
    for name, value in outcome["values"].items():
        key = label_of(name)
        cells[f"{kind}_{key}"] = value
        columns[f"{kind}_{key}"] = _column(f"{kind} of {name}", "What the network says", unit)
        if name in spread:
            cells[f"spread_{key}"] = spread[name]
            columns[f"spread_{key}"] = _column(f"± of {name}", "How far it moves with the scan's placement", unit)
    for member in outcome.get("members", ()):
        for name, value in member["values"].items():
            column = f"{kind}_{label_of(name)}_{label_of(member['name'])}"
            cells[column] = value
            columns[column] = _column(f"{kind} of {name}, {member['name']}", "What this network says", unit)
    text = "\n".join("\t".join(row) for row in (cells, [_text(value) for value in cells.values()]))
    return f"{text}\n", columns


def _placed(record: Mapping[str, Any]) -> str:
    if "quality" in record:
        return "prepared" if record["quality"]["passed"] else "prepared, checks failed"
    look = record.get("looks_registered")
    return "unknown" if look is None else "yes" if look["looks_registered"] else "no"


def document(value: Any) -> str:
    """JSON as it is written."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _column(title: str, description: str, unit: str = "") -> dict[str, str]:
    about = {"LongName": title, "Description": description}
    return about | ({"Units": unit} if unit else {})


def _reference(space: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Which space that is, where its label does not say it."""
    if space == ORIGINAL:
        return {"SpatialReference": ORIGINAL}
    grid = record["model"]["grid"]
    return {"SpatialReference": space if is_standard(space) else f"the space of the network {record['model']['name']}",
            "Resolution": f"the network's grid: {grid}"}  # fmt: skip


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else " ".join(str(value).split()) or "n/a"
