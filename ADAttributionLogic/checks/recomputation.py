"""Is it the map that this method makes of this scan, this network and this class?

Only asked of maps that come from elsewhere (a file, another tool that names one of our methods): it finds whatever was
exchanged, moved, mirrored or edited afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.checks.findings import Check, Verdict
from ADAttributionLogic.checks.question import CheckedMap, Question

NAME, TITLE = "recomputation", "Recomputation"

#: Of the recomputed map's size: rounding on other processors, and what other versions of a library may change.
ROUNDING, SMALL = 1e-3, 0.05


def recomputation(question: Question, checked: CheckedMap, cost: float) -> Check:
    """Make the map anew and compare it, voxel by voxel."""
    question.monitor.report(0.0, f"computing {checked.title} again")
    again = question.map_of(checked, question.image)
    return judged(checked.values, again, cost)


def judged(values: npt.NDArray[Any], again: npt.NDArray[Any], cost: float) -> Check:
    """Compare a map with the one that was made anew, on the same grid."""
    size = float(np.linalg.norm(again))
    distance = float(np.linalg.norm(values - again)) / size if size else float(np.any(values))
    verdict: Verdict = "pass" if distance <= ROUNDING else "unsure" if distance <= SMALL else "fail"
    means = {
        "pass": "it is the map of this scan, network and class.",
        "unsure": "it nearly is the map of this scan, network and class; other devices and versions round otherwise.",
        "fail": "it is not the map of this scan, network and class, or it was changed afterwards.",
    }[verdict]
    return Check(
        NAME,
        TITLE,
        distance,
        2**0.5,
        verdict,
        f"Computed again, the map differs by {distance:.2%} of its size: {means}",
        number_is="distance to the recomputed map, relative to its size",
        null_is="an unrelated map of the same size",
        cost=cost,
    )
