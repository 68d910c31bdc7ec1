"""Thousands of damaged files through every reader, each in a child with limits; prints what became of them.

    python Testing/fuzz/run.py [COUNT] [SEED]      (make fuzz: 5200 inputs)

One process has everything imported and forks for each input, which takes some milliseconds; the child has 20 seconds
and two gigabytes. Fails unless tracebacks, hangs, signals, damaged files taken as whole and readers that take more than
three times the image and 200 MB are all 0. With the same numbers, the same inputs.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "Testing", ROOT / "Testing" / "unit", ROOT / "Testing" / "fuzz"):
    sys.path.insert(0, str(folder))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from damage import damage  # noqa: E402
from seeds import Seed, make_seeds, pack, unpack  # noqa: E402

from ADAttributionLogic.errors import ADAttributionError  # noqa: E402

SECONDS = 20
#: Readers that take a second and more get one input where the others get so many.
SLOW_EVERY = 4
EXTRA_BYTES = 2_000_000_000
ALLOWED_BYTES = 200_000_000
OUTCOMES = ("accepted", "refused", "traceback", "hang", "signal", "damaged", "memory")
BAD = OUTCOMES[2:]


@dataclass
class Report:
    """How often which outcome was seen, by reader, and the first inputs of the bad ones."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def add(self, seed: Seed, outcome: str, what: str) -> None:
        """Count an outcome."""
        self.counts.setdefault(seed.name, Counter())[outcome] += 1
        if outcome in BAD:
            self.examples.append(f"{outcome}: {seed.name}, {what}")

    @property
    def bad(self) -> int:
        """How many inputs were not dealt with as they should be."""
        return sum(counter[outcome] for counter in self.counts.values() for outcome in BAD)

    def table(self) -> str:
        """All counts."""
        width = max(map(len, [*self.counts, "all"]))
        lines = [" " * width + "".join(f"{outcome:>11}" for outcome in OUTCOMES)]
        total: Counter[str] = sum(self.counts.values(), Counter())
        for name, counter in [*self.counts.items(), ("all", total)]:
            lines.append(f"{name:{width}}" + "".join(f"{counter[outcome]:11}" for outcome in OUTCOMES))
        return "\n".join(lines)


def fuzz(count: int, seed: int, folder: Path, keep: Path | None = None) -> Report:
    """Try `count` damaged files.

    Parameters
    ----------
    count, seed : int
    folder : Path
        For the whole and the damaged files.
    keep : Path, optional
        Where inputs are copied that were not dealt with as they should be.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds = make_seeds(folder / "seeds")
    expected = {}
    for whole in seeds:
        try:
            expected[whole.name] = whole.read(whole.file.parent / whole.given)[0]
        except ADAttributionError:
            expected[whole.name] = "refused"  # parts of a network: only that nothing worse happens
    report = Report()
    order = [*[s for s in seeds if not s.is_slow] * SLOW_EVERY, *[s for s in seeds if s.is_slow]]
    for number in range(count):
        whole = order[number % len(order)]
        random = np.random.default_rng([seed, number])
        trial = folder / "trial"
        shutil.copytree(whole.file.parent, trial)
        must_differ, what = _damage(whole, trial / whole.file.name, random)
        outcome, found = _in_child(whole, trial / whole.given)
        if outcome == "accepted" and must_differ and found != expected[whole.name]:
            outcome = "damaged"
        report.add(whole, outcome, f"input {number} ({what}) {found if outcome != 'damaged' else ''}")
        if outcome in BAD and keep is not None:
            shutil.copytree(trial, keep / f"{outcome}-{number}", dirs_exist_ok=True)
        shutil.rmtree(trial)
    return report


def _damage(whole: Seed, target: Path, random: np.random.Generator) -> tuple[bool, str]:
    """Damage the file; says whether it must then be refused unless it reads the same."""
    data = whole.file.read_bytes()
    if whole.packing and random.random() < 0.5:
        parts = unpack(whole, data)
        chosen = int(random.integers(len(parts)))
        name, inner = parts[chosen]
        changed, kind, _ = damage(inner, random, inner.lstrip().startswith(b"{"))
        parts[chosen] = (name, changed)
        pack(whole, parts, target)
        return False, f"{kind} in {name or 'the stream'}"
    text = whole.is_text or whole.name.startswith(("scan .nrrd", "scan .mha", "scan .bz2"))
    changed, kind, place = damage(data, random, text)
    target.write_bytes(changed)
    is_covered = whole.covered_from is not None and place >= whole.covered_from
    return is_covered or (kind == "cut" and not whole.is_text), f"{kind} at {place}"


def _in_child(whole: Seed, path: Path) -> tuple[str, str]:
    """Read in a forked child: outcome, and the digest or the reason."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _read_here(whole, path, sending)
    os.close(sending)
    answer, end = b"", time.monotonic() + SECONDS
    try:
        while (left := end - time.monotonic()) > 0:
            if select.select([receiving], [], [], left)[0]:
                piece = os.read(receiving, 1 << 16)
                if not piece:
                    break
                answer += piece
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang", f"more than {SECONDS} s"
    finally:
        os.close(receiving)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "signal", signal.Signals(os.WTERMSIG(status)).name
    if not answer:
        return "signal", f"left without an answer (status {status})"
    found = json.loads(answer)
    return str(found[0]), str(found[1])


def _read_here(whole: Seed, path: Path, sending: int) -> None:
    """In the child: never returns."""
    faulthandler.disable()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, used + EXTRA_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found, size = whole.read(path)
        answer = ["accepted", found]
    except ADAttributionError as cause:
        size, answer = 0, ["refused", str(cause)[:200]]
        if len(str(cause)) < 20:
            answer = ["traceback", f"no sentence: {cause!r}"]
    except BaseException:
        size, answer = 0, ["traceback", traceback.format_exc()[-600:]]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if answer[0] in ("accepted", "refused") and grown > 3 * size + ALLOWED_BYTES:
        answer = ["memory", f"{grown / 1e6:.0f} MB for an image of {size / 1e6:.0f} MB"]
    os.write(sending, json.dumps(answer).encode())
    os._exit(0)


def main() -> int:
    """Run, print the table, and say with the exit code whether all went well."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    keep = Path(os.environ["FUZZ_KEEP"]) if os.environ.get("FUZZ_KEEP") else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        report = fuzz(count, seed, Path(folder), keep)
    print(report.table())
    print(
        f"\n{count} damaged files (seed {seed}) in {time.monotonic() - began:.0f} s; {report.bad} not dealt with well"
    )
    for example in report.examples[:40]:
        print(f"\n{example}")
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
