"""Whether a scan that is taken as registered looks like one: without it, an answer means nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.errors import AtlasError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preprocessing.pipeline import REGISTERED_SIMILARITY
from ADAttributionLogic.preprocessing.quality import correlation
from ADAttributionLogic.registration.target import isotropic_grid
from ADAttributionLogic.volume import Volume, resample

#: At this resolution (mm) a brain is told from what is none.
_COARSE_MM = 4.0


def registered_look(scan: Volume, grid: Grid | None) -> dict[str, Any] | None:
    """How similar a scan is to the template at its place.

    Parameters
    ----------
    scan : Volume
        On the network's grid, with its own intensities.
    grid : Grid or None
        The network's grid; None when it knows no space.

    Returns
    -------
    dict or None
        ``similarity`` (Pearson's correlation in the template's brain), ``least`` and ``looks_registered``; None for a
        network in no known space, or where the template is not installed.
    """
    if grid is None:
        return None
    try:
        template = _coarse_template()
    except AtlasError:
        return None
    brain = template.array
    similarity = correlation(resample(scan, template.grid).array, brain, brain > 0)
    looks = bool(similarity >= REGISTERED_SIMILARITY)
    return {"similarity": round(similarity, 4), "least": REGISTERED_SIMILARITY, "looks_registered": looks}


@cache
def _coarse_template() -> Volume:
    """Kept: reading the whole one takes longer than many explanations."""
    template = load_template()
    return resample(template, isotropic_grid(template.grid, _COARSE_MM))


def warning_of(look: dict[str, Any] | None) -> str:
    """What to tell the user of a scan that does not look registered; "" of one that does."""
    if look is None or look["looks_registered"]:
        return ""
    return (
        f"The scan does not look registered to the network's space and skull-stripped: its similarity to the template "
        f"is {look['similarity']:.2f}, at least {look['least']:.2f} is usual. The result means nothing unless it is; "
        "say --registration affine to have it registered."
    )
