"""Does the relevance add up to what was to be explained, and if not, what kept it, and in which layer?"""

from __future__ import annotations

import numpy as np

from ADAttributionLogic.checks.findings import Check, Verdict
from ADAttributionLogic.checks.question import CheckedMap
from ADAttributionLogic.propagation.account import in_words, kept_by_cause
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
    kept = in_words(checked.conservation, wanted, 0.01) if checked.conservation else ""
    where = f" Kept by: {kept}." if kept else ""
    meaning = {
        "pass": "what it distributes is what the network said.",
        "unsure": f"{off:.0%} {'is missing' if share < 1 else 'too much'}.",
        "fail": f"{off:.0%} {'is missing' if share < 1 else 'too much'}: it does not explain this answer.",
    }[verdict]
    causes = kept_by_cause(checked.conservation) if checked.conservation else {}
    details = {"relevance_sum": total, "to_attribute": wanted, **({"kept": causes} if causes else {})}
    return Check(
        NAME,
        TITLE,
        share,
        1.0,
        verdict,
        f"{text}: {meaning}{where}",
        "share that reached the image",
        "all of it",
        0.0,
        None,
        details,
    )
