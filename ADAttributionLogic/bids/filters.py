"""Filter files, as fMRIPrep reads them: ``{"t1w": {"session": "02", "acquisition": null, "run": [1, 2]}}``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic.bids.images import BidsImage, entity_names, short_name
from ADAttributionLogic.errors import UnknownNameError, UsageError

#: The section that concerns this program; the others are for others.
SECTION = "t1w"

#: Words for any value and for none, with the names of pybids for them.
_ANY, _NONE = ("*", "Query.ANY", "Query.REQUIRED"), ("Query.NONE",)
_OPTIONAL = "Query.OPTIONAL"

#: Keys that say what the images are, and which values are ours.
_FIXED = {"datatype": ("anat",), "suffix": ("T1w",), "extension": (".nii", ".nii.gz", "nii", "nii.gz")}


@dataclass(frozen=True)
class Filter:
    """What an entity must be.

    Attributes
    ----------
    entity : str
        Its short name.
    shown : str
        As the file has it.
    fits : callable
        Of the entity's value, None where an image lacks it.
    """

    entity: str
    shown: str
    fits: Callable[[str | None], bool]

    def takes(self, image: BidsImage) -> bool:
        """Whether an image passes."""
        return self.fits(image.entities.get(self.entity))


def read_filters(path: str | os.PathLike[str]) -> tuple[Filter, ...]:
    """Read the section ``t1w`` of a filter file.

    Raises
    ------
    UsageError
        It is no JSON object, has no such section, or what stands there is no entity or no value of one.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as cause:
        raise UsageError(f"The filter file {path} cannot be read: {cause}") from cause
    if not isinstance(document, dict) or not isinstance(document.get(SECTION), dict):
        has = f"it has {', '.join(map(str, document))}" if isinstance(document, dict) else "it is no object"
        raise UsageError(
            f'The filter file {path} has no section "{SECTION}" (a JSON object in it, e.g. {{"{SECTION}": {{"session": '
            f'"01"}}}}); {has}.'
        )
    return filters_of(document[SECTION], f"the section {SECTION} of {path}")


def filters_of(section: Mapping[str, Any], source: str) -> tuple[Filter, ...]:
    """Filters of plain values.

    Raises
    ------
    UsageError
    """
    found = []
    for key, value in section.items():
        if key in _FIXED:
            given = value if isinstance(value, list) else [value]
            if not all(each in _FIXED[key] for each in given):
                raise UsageError(f"In {source}, {key} is {value!r}; only {' or '.join(_FIXED[key])} is explained.")
            continue
        entity = short_name(key)
        if not entity:
            raise UnknownNameError(f"entity for {source}", key, [*entity_names(), *_FIXED])
        found.append(Filter(entity, f"{key}: {json.dumps(value)}", _condition(key, value, source)))
    return tuple(found)


def _condition(key: str, value: Any, source: str) -> Callable[[str | None], bool]:
    if value is None or value in _NONE:
        return lambda has: has is None
    if value == _OPTIONAL:
        return lambda has: True
    if isinstance(value, str) and value in _ANY:
        return lambda has: has is not None
    if isinstance(value, list) and value:
        conditions = [_condition(key, each, source) for each in value]
        return lambda has: any(condition(has) for condition in conditions)
    if isinstance(value, str | int) and not isinstance(value, bool):
        wanted = _plain(key, str(value))
        return lambda has: has is not None and _plain(key, has) == wanted
    raise UsageError(
        f"In {source}, {key} is {json.dumps(value)}; a text, a number, a list of them, null (without) or "
        '"*" (any) is needed.'
    )


def _plain(key: str, value: str) -> str:
    """A value without its key (``ses-02``), numbers without zeros in front where the standard takes them as numbers."""
    value = value.removeprefix(f"{short_name(key)}-")
    return str(int(value)) if short_name(key) in ("run", "echo", "flip", "inv") and value.isdigit() else value
