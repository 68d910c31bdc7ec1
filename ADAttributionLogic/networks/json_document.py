"""A JSON file from elsewhere, read with a limit and refused with a sentence. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import NetworkError


def read_document(path: Path, kind: str, most_bytes: int) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Parameters
    ----------
    path : Path
    kind : str
        What it should be, for messages, e.g. ``"a model card"``.
    most_bytes : int
        A larger file is refused without being read.

    Raises
    ------
    NetworkError
        Missing, too large, no JSON, or no object.
    """
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise NetworkError(f"{path} has {size} bytes; {kind} has at most {most_bytes}.")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise NetworkError(f"{path} cannot be read: {cause.strerror}.") from cause
    except (ValueError, RecursionError) as cause:
        raise NetworkError(f"{path} is not valid JSON: {cause}") from cause
    if not isinstance(document, dict):
        raise NetworkError(f"{path} is not {kind}: it holds a {type(document).__name__}, not an object.")
    return document
