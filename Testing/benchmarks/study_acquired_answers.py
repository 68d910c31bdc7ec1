"""How far P(AD) of simulated people moves by acquisition as in a scanner and native preparation, by network.

    python Testing/benchmarks/study_acquired_answers.py CACHE [MODEL …]      (default: simulated-atrophy)

The 24 patients and 24 controls of ``study_native_recovery.py`` (split "final"), and as many other people with other
acquisitions (split "validation"). CACHE keeps the prepared scans: 96 of 20 seconds of one core each, once. One
tab-separated line per person, then one per network, split and class with how many move by less than 0.1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from study_acquisition_robustness import (  # noqa: E402
    LARGEST_CHANGE,
    SPLITS,
    native_path,
    prepare_native,
    probabilities,
)

from ADAttributionLogic.demonstration.network import network_of  # noqa: E402
from ADAttributionLogic.simulation.native_scan import draw_acquisition  # noqa: E402
from ADAttributionLogic.simulation.subject import CONTROL, PATIENT  # noqa: E402

PEOPLE = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, metavar="CACHE", help="keeps the prepared scans (7 GB)")
    parser.add_argument("models", nargs="*", default=["simulated-atrophy"], metavar="MODEL")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    networks = {name: network_of(name)[0] for name in asked.models}
    totals: list[str] = []
    print("model\tsplit\tclass\tseed\tspacing\tP(AD)\tP(AD) acquired")
    for name, network in networks.items():
        for split, (_, acquisitions) in SPLITS.items():
            for label, called in ((PATIENT, "AD"), (CONTROL, "CN")):
                moves = []
                for seed in range(PEOPLE):
                    prepare_native(split, label, seed, asked.cache)
                    both = torch.from_numpy(np.load(native_path(asked.cache, split, label, seed)))
                    direct, through = probabilities(network, both)
                    moves.append(abs(through - direct))
                    spacing = "×".join(f"{s:g}" for s in draw_acquisition(acquisitions + seed).spacing_mm)
                    print(f"{name}\t{split}\t{called}\t{seed}\t{spacing}\t{direct:.3f}\t{through:.3f}", flush=True)
                small = f"{sum(move < LARGEST_CHANGE for move in moves)} of {PEOPLE} below {LARGEST_CHANGE}"
                totals.append(f"# {name}, {split}, {called}: {small}; largest {max(moves):.3f}")
    print("\n".join(totals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
