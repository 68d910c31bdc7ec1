"""Grids of the field by name: voxels, affine (RAS, mm) and space. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import UsageError

Row = tuple[float, float, float, float]


def _grid(
    shape: tuple[int, int, int], signs: tuple[int, int, int], origin: tuple[float, float, float], space: str
) -> Any:
    rows = [[float(signs[r]) if c == r else 0.0 for c in range(3)] + [float(origin[r])] for r in range(3)]
    return {"shape": list(shape), "affine": [*rows, [0.0, 0.0, 0.0, 1.0]], "space": space}


#: Clinica's crop is voxels 12–180, 13–220 and 0–178 of the template's (the constant MNI_CROP_BBOX of its code).
GRIDS: dict[str, dict[str, Any]] = {
    "icbm152-2009c": _grid((193, 229, 193), (1, 1, 1), (-96, -132, -78), "ICBM152 2009c nonlinear asymmetric, 1 mm"),
    "fsl-mni152": _grid(
        (182, 218, 182), (-1, 1, 1), (90, -126, -72), "FSL's MNI152 (6th generation), 1 mm, stored from right to left"
    ),
    "clinica-cropped": _grid(
        (169, 208, 179), (1, 1, 1), (-84, -119, -78), "MNI152NLin2009cSym, 1 mm, cropped as by Clinica's t1-linear"
    ),
    "clinica": _grid((193, 229, 193), (1, 1, 1), (-96, -132, -78), "MNI152NLin2009cSym, 1 mm"),
}


def grid_entry(name: str, shape: str | None = None) -> dict[str, Any]:
    """The grid of a card.

    Parameters
    ----------
    name : str
        One of :data:`GRIDS`, ``"none"``, or the path of an image on the grid.
    shape : str, optional
        For ``"none"``: three numbers separated by commas.

    Raises
    ------
    UsageError
    """
    if name in GRIDS:
        return GRIDS[name]
    if name == "none":
        return {"shape": _shape(shape or ""), "affine": None, "space": "unknown"}
    if not Path(name).is_file():
        raise UsageError(f"There is no grid {name!r}, and no such file. Known: {', '.join(GRIDS)}, none.")
    from ADAttributionLogic.scan_files import read_scan

    image = read_scan(name)
    affine = [[float(value) for value in row] for row in image.affine]
    return {"shape": list(image.array.shape), "affine": affine, "space": f"that of {Path(name).name}"}


def _shape(text: str) -> list[int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--shape must be three whole numbers such as 96,96,96, but is {text!r}.")
    return [int(part) for part in parts]
