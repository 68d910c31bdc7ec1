"""Does the relevance add up to what was to be explained, and if not, in which layer was it lost?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from ADAttributionLogic.checks.findings import Check, Verdict
from ADAttributionLogic.checks.question import CheckedMap
from ADAttributionLogic.propagation.conservation import TOLERATED

NAME, TITLE = "conservation", "Conservation"

#: Missing, or too much, of what was to be attributed: beyond this the map tells another story than the score.
TOO_MUCH = 0.5


def conservation(checked: CheckedMap) -> Check:
    """Compare a map's sum with what its method set out to distribute; no forward pass."""
    wanted = checked.to_attribute
    total = float(checked.values.sum(dtype=np.float64))
    if wanted == 0:
        text = "Nothing was to be attributed: the explained quantity is 0."
        return Check(NAME, TITLE, None, 1.0, "unsure", text, null_is="all of it")
    share = total / wanted
    off = abs(share - 1)
    verdict: Verdict = "pass" if off <= TOLERATED else "unsure" if off <= TOO_MUCH else "fail"
    text = f"The map adds up to {total:.3g} of {wanted:.3g}"
    where = "" if verdict == "pass" else _where_lost(checked.relevance_by_layer)
    meaning = {
        "pass": "what it distributes is what the network said.",
        "unsure": f"{off:.0%} {'is missing' if share < 1 else 'too much'}{where}.",
        "fail": f"{off:.0%} {'is missing' if share < 1 else 'too much'}{where}: it does not explain this answer.",
    }[verdict]
    details = {"relevance_sum": total, "to_attribute": wanted}
    return Check(
        NAME,
        TITLE,
        share,
        1.0,
        verdict,
        f"{text}: {meaning}",
        "share that reached the image",
        "all of it",
        0.0,
        None,
        details,
    )


def _where_lost(by_layer: Mapping[str, float] | None) -> str:
    """The layer whose inputs got less, or more, than its output had; the layers go from the answer to the image."""
    if not by_layer or len(by_layer) < 2:
        return ""
    changes = [(abs(after - before), name) for (name, before), (_, after) in itertools.pairwise(by_layer.items())]
    largest, name = max(changes)
    return f", most of it at the layer {name}" if largest > 0 else ""
