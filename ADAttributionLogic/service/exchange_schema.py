"""What answers look like that travel between the worker and 3D Slicer, as a JSON schema; checked before use.

The other process is ours, but what it left in the folder may be damaged, from another version, or of somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ADAttributionLogic.errors import UsageError

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_TEXTS = {"type": "array", "items": _TEXT}
_LABEL = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_FILE = {"type": "string", "minLength": 1}
_AFFINE = {
    "type": "array",
    "minItems": 4,
    "maxItems": 4,
    "items": {"type": "array", "minItems": 4, "maxItems": 4, "items": _NUMBER},
}
_FREE = {"type": "object"}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An object; what a newer version adds to it is passed over."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _or_none(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, schema]}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_VOLUME = _object({"file": _FILE, "affine": _AFFINE}, {"source": _TEXT, "notes": _TEXTS})
_REGION = _object(
    {
        "label": _LABEL,
        "name": _TEXT,
        "hemisphere": {"enum": ["left", "right", "midline", "both", "unknown"]},
        "group": _TEXT,
        "members": _list(_LABEL),
        "colour": {**_list({"type": "integer", "minimum": 0, "maximum": 255}), "minItems": 3, "maxItems": 3},
    }
)
_ATLAS = _object(
    {"labels": _VOLUME, "name": _TEXT, "title": _TEXT, "licence": _TEXT, "source": _TEXT, "regions": _list(_REGION)}
)
_TABLE = _object(
    {
        "atlas": _TEXT,
        "method": _TEXT,
        "columns": {"type": "object", "additionalProperties": _list({"type": ["string", "number", "null"]})},
    }
)
_MAP = _object(
    {
        "name": _TEXT,
        "method": _TEXT,
        "title": _TEXT,
        "volume": _VOLUME,
        "table": _or_none(_TABLE),
        "summary": _FREE,
    }
)
_CHECK = _object(
    {"name": _TEXT, "value": _NUMBER, "needed": _TEXT, "passed": {"type": "boolean"}, "advice": _TEXT}, {"unit": _TEXT}
)
_REPORT = _object(
    {
        "quality": _object({"checks": _list(_CHECK)}),
        "registration": _TEXT,
        "already_registered": {"type": ["boolean", "null"]},
        "already_registered_because": _FREE,
        "transform": _FREE,
        "seconds": _FREE,
        "notes": _TEXTS,
        "from_cache": {"type": "boolean"},
        "figure": _or_none(_FILE),
    }
)
_WARP = _or_none(_FILE)
_TRANSFORM = _object({"kind": _TEXT, "matrix": _AFFINE, "warp": _WARP, "inverse_warp": _WARP})
_PREPARATION = _object(
    {"space": {"enum": ["native", "model"]}, "brain": _VOLUME, "transform": _TRANSFORM, "report": _REPORT}
)
_ANSWER = _object(
    {
        "probabilities": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1.001}},
        "target_class": _TEXT,
        "scan": _VOLUME,
        "maps": _list(_MAP),
        "atlas": _or_none(_ATLAS),
        "provenance": _FREE,
        "preparation": _or_none(_PREPARATION),
        "consensus": {"anyOf": [{"maxItems": 0}, {"minItems": 2, "maxItems": 2}], **_list(_VOLUME)},
    }
)

_SCHEMAS = {"volume": _VOLUME, "atlas": _ATLAS, "answer": _ANSWER, "report": _REPORT, "transform": _TRANSFORM}


def require_valid(document: Any, kind: str) -> None:
    """Refuse a document of other types than this version writes.

    Parameters
    ----------
    document : plain values
    kind : {"volume", "atlas", "answer", "report", "transform"}

    Raises
    ------
    UsageError
        Says where.
    """
    error = next(iter(_validator(kind).iter_errors(document)), None)
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top level"
        raise UsageError(
            f"This {kind} is not as this version of ADAttribution writes it, at {where}: {error.message[:200]}. "
            "Compute it again."
        )


@cache
def _validator(kind: str) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(_SCHEMAS[kind])
