"""What a map answers: only maps that answer the same can be compared.

Taken from the provenance of an explanation, whether it was just computed or read from a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ADAttributionLogic.errors import ADAttributionError, ReferenceCohortError
from ADAttributionLogic.geometry import Grid

#: Of a model's description: what its answer depends on. Texts of its card do not belong to it.
_OF_MODEL = ("weights_sha256", "normalisation", "output", "classes", "positive_class")

#: Options that do not change a map.
_WITHOUT_EFFECT = ("memory", "checkpoint")

#: What the maps of a standard deviation over the networks of an ensemble are called after.
_SPREAD_SUFFIX = "-sd"


def question_of_record(record: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    """What all maps of an explanation answer.

    Parameters
    ----------
    record : mapping
        Provenance of an explanation.
    grid : Grid
        Of its maps.

    Raises
    ------
    ReferenceCohortError
        Nothing tells its network from others.
    """
    model = record["model"]
    if not model["weights_sha256"]:
        raise ReferenceCohortError(
            f"{model['title']} was not read from a file, so that nothing tells its weights from others'. Save it as a "
            "package or weights file first (ad-attribution models create)."
        )
    decisions = record.get("preprocessing_decisions")
    return {
        "model": {"name": model["name"], "title": model["title"], **{key: model[key] for key in _OF_MODEL}},
        "target_class": record["target_class"],
        "start": record["start"],
        "start_reference": record.get("start_reference"),
        "registration": "none" if decisions is None else decisions["options"]["registration"],
        "grid": {"shape": list(grid.shape), "affine": grid.affine.tolist()},
    }


def method_of_record(record: Mapping[str, Any], heatmap: str) -> dict[str, Any]:
    """How one map of an explanation was made.

    Raises
    ------
    ReferenceCohortError
        It is unfinished, or a standard deviation over networks.
    """
    summary = record["methods"][heatmap]
    if summary.get("is_partial"):
        raise ReferenceCohortError(f"The map {heatmap} was stopped before it was complete; compute it to the end.")
    if heatmap.endswith(_SPREAD_SUFFIX):
        raise ReferenceCohortError(
            f"The map {heatmap} is a standard deviation over networks; references are of the networks' mean."
        )
    options = {name: value for name, value in summary["options"].items() if name not in _WITHOUT_EFFECT}
    return {"title": summary.get("title", heatmap), "method": summary["method"], "options": options}


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """In what two questions differ, with what was found and what is needed; how scans were registered is no part."""
    different = [
        f"its network's {_spaced(key)} is {_short(found['model'][key])}, not {_short(wanted['model'][key])}"
        for key in _OF_MODEL
        if found["model"][key] != wanted["model"][key]
    ]
    if different and found["model"]["name"] != wanted["model"]["name"]:
        different = [f"its network is {found['model']['name']}, not {wanted['model']['name']}"]
    for key, said in (
        ("target_class", "it explains"),
        ("start", "it starts from"),
        ("start_reference", "measured from"),
    ):
        if found[key] != wanted[key]:
            different.append(f"{said} {_short(found[key])}, not {_short(wanted[key])}")
    grid, needed = (_grid(q["grid"]) for q in (found, wanted))
    if not grid.is_same(needed):
        elsewhere = " elsewhere" if grid.describe() == needed.describe() else ""
        different.append(f"it lies on {grid.describe()}{elsewhere}, not {needed.describe()}")
    return different


def method_differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """In which options two maps by the same method differ, as far as they take effect."""
    needed, given = _settled(wanted), _settled(found)
    names = [*needed, *(name for name in given if name not in needed)]
    return [
        f"{_spaced(name)} is {_short(given.get(name))}, not {_short(needed.get(name))}"
        for name in names
        if given.get(name) != needed.get(name)
    ]


def _settled(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Options that take effect. A reference of an earlier version had the default of what has become an option since;
    what this version does not know is compared as it stands."""
    from ADAttributionLogic.attribution.registry import get_method

    options = {name: value for name, value in entry["options"].items() if name not in _WITHOUT_EFFECT}
    try:
        method = get_method(entry["method"])
        settled = method.settle(method.complete(options))
    except ADAttributionError:
        return options
    return {name: value for name, value in settled.items() if name not in _WITHOUT_EFFECT}


def grid_of(question: Mapping[str, Any]) -> Grid:
    """Where the maps lie."""
    return _grid(question["grid"])


def _grid(entry: Mapping[str, Any]) -> Grid:
    i, j, k = entry["shape"]
    return Grid((i, j, k), entry["affine"])


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
