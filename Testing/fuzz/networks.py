"""Hundreds of random networks, explained and compared with autograd and full passes; prints what became of them.

    python Testing/fuzz/networks.py [COUNT] [SEED]      (make fuzz: 500 networks, of another seed each day)

Fails unless every network is right or refused by an operation's name; refusals are counted by that name.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "Testing", ROOT / "Testing" / "unit"):
    sys.path.insert(0, str(folder))

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from random_networks import Drawn, faults, networks, refusal  # noqa: E402


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    start = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time()) // 86_400
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(networks())
    def look(drawn: Drawn) -> None:
        try:
            refused = refusal(drawn)
            found = [] if refused else faults(drawn)
        except Exception:  # each is a fault of ours, and the others are to be looked at as well
            refused, found = "", [traceback.format_exc(limit=-1).strip()]
        outcomes["refused: " + refused.split(" at ")[0] if refused else "wrong" if found else "right"] += 1
        if found:
            wrong.append(f"{', '.join(drawn.names)} on {tuple(drawn.image.shape)}: {'; '.join(found)}")

    look()
    print(f"{sum(outcomes.values())} networks, seed {start}")
    for outcome, number in outcomes.most_common():
        print(f"{number:6d}  {outcome}")
    for line in wrong[:20]:
        print("WRONG", line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
