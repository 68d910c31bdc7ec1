"""Run the benchmarks: ``python Testing/benchmarks/run.py [PART OF A NAME]``.

One line per figure, tab-separated: name, value, bar, ``ok`` or ``short`` (``-`` for figures without a bar). Every ratio
is measured within one run against its alternative, because the speed of shared machines drifts.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1]), str(HERE.parents[1] / "ADAttribution")]
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    print("name\tvalue\tbar\tresult", flush=True)
    short = 0
    for path in sorted(HERE.glob("bench_*.py")):
        module = importlib.import_module(path.stem)
        # Benchmarks that take an hour are run only when their whole name is given.
        long = [b for b in getattr(module, "LONG_BENCHMARKS", ()) if b.__name__ == wanted]
        for benchmark in [b for b in module.BENCHMARKS if wanted in b.__name__] + long:
            for figure in benchmark():
                print(figure, flush=True)
                short += figure.is_short
    print(f"# {short} figures fall short", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
