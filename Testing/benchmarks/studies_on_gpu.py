"""The three studies of simulated people on a machine with many cores and a GPU, each within one call.

    studies_on_gpu.py truth OUT WORK     30 patients × all contestants; two of them twice
    studies_on_gpu.py planted OUT WORK   20 patients, a right and a wrong map each
    studies_on_gpu.py cohort OUT WORK    60 patients and 60 controls, maps and study

OUT receives tables and figures, zipped where they are many; WORK keeps scans, maps and results, so that a call that was
stopped goes on. After --seconds no more is computed: what is there by then is summarised. What is in OUT is copied into
Testing/benchmarks by hand, after reading it. A contestant that cannot run on the device is named, with its error, and
left out. --jobs, --device and --people make it smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from ADAttributionLogic.commands.benchmark_truth import make_bench  # noqa: E402
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy  # noqa: E402
from ADAttributionLogic.truth.contestants import CONTESTANTS  # noqa: E402
from ADAttributionLogic.truth.patients import BenchmarkData  # noqa: E402
from ADAttributionLogic.truth.scoring import map_of, see  # noqa: E402
from ADAttributionLogic.truth.summary import summarise, write_figure, write_table  # noqa: E402

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Print with the time since the beginning."""
    print(f"{time.monotonic() - _BEGAN:6.0f} s  {text}", flush=True)


def call(*words: str, stdout: Path | None = None, seconds: float | None = None) -> None:
    """Run a program of this repository, and stop it with all its processes after some seconds."""
    say(" ".join(words))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    with open(stdout or os.devnull, "w", encoding="utf-8") as file:
        program = subprocess.Popen(
            [sys.executable, *words],
            stdout=file if stdout else None,
            env=environment,
            cwd=HERE.parents[1],
            start_new_session=True,
        )
        try:
            code = program.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            say("stopped: the time is over")
        else:
            if code:
                raise SystemExit(f"{words[0]} ended with {code}.")


def left(asked: argparse.Namespace) -> float:
    """Seconds until no more is to be computed."""
    return max(1.0, asked.seconds - (time.monotonic() - _BEGAN))


# -------------------------------------------------------------------------------------------------------------- truth


def truth(asked: argparse.Namespace) -> None:
    """Every contestant on every patient, and on two of them again: equal to the bit, or by how much not."""
    work, data = asked.work / "truth", asked.work / "truth-data"
    patients = asked.people or 30
    for name in BenchmarkData(icbm152_anatomy(), data).make_all(range(1, patients + 1), asked.jobs):
        say(f"{name} simulated")
    problems = those_that_run(str(data), asked.device)
    running = ",".join(name for name, problem in problems.items() if not problem)
    asked.out.joinpath("truth-problems.json").write_text(json.dumps(problems, indent=1) + "\n", encoding="utf-8")
    bench = ("-m", "ADAttributionLogic.cli", "benchmark-truth", "--data", str(data), "--device", asked.device)
    common = (*bench, "--contestants", running, "--jobs", str(asked.jobs))
    call(*common, "--out", str(work / "first"), "--subjects", str(patients), seconds=left(asked))
    rows = summarise(work / "first" / "results", range(1, patients + 1))
    write_table(rows, asked.out / "truth-table.tsv")
    write_figure(rows, asked.out / "truth-figure.png")
    pack(work / "first" / "results", asked.out / "truth-results")
    if asked.repeat:
        call(*common, "--out", str(work / "second"), "--subjects", str(min(2, patients)), seconds=left(asked))
        found = json.dumps(repeated(work), indent=1) + "\n"
        asked.out.joinpath("truth-repeated.json").write_text(found, encoding="utf-8")


def those_that_run(data: str, device: str) -> dict[str, str]:
    """By contestant "" or what went wrong with the first patient on this device."""
    bench = make_bench(data, "simulated-atrophy", device)
    seen, found = see(bench, 1), {}
    for contestant in CONTESTANTS:
        start = time.monotonic()
        try:
            map_of(bench, seen, contestant, 1)
            found[contestant.name] = ""
        except Exception as error:  # a study of the others is worth more than none
            found[contestant.name] = repr(error)
            traceback.print_exc()
        say(f"{contestant.name}: {time.monotonic() - start:.1f} s {found[contestant.name]}")
    return found


def repeated(work: Path) -> dict[str, float | str]:
    """Largest difference of any metric of each contestant, when all is computed again."""
    differences: dict[str, float | str] = {}
    for again in sorted((work / "second" / "results").glob("*/*.json")):
        first = work / "first" / "results" / again.parent.name / again.name
        one, two = (json.loads(path.read_text())["metrics"] for path in (first, again))
        away = max((abs(one[m] - two[m]) for m in one if one[m] is not None and two[m] is not None), default=0.0)
        same = first.read_bytes() == again.read_bytes()
        before = differences.get(again.parent.name, "same bits")
        if not same:
            differences[again.parent.name] = max(away, before) if isinstance(before, float) else away
        else:
            differences[again.parent.name] = before
    return differences


# ---------------------------------------------------------------------------------------------------------- the others


def planted(asked: argparse.Namespace) -> None:
    """The twenty wrong maps at full size."""
    last = str((asked.people or 20) - 1)
    script, cache = str(HERE / "study_planted_maps.py"), str(asked.work / "planted")
    options = ("--last", last, "--jobs", str(asked.jobs), "--device", asked.device)
    call(script, cache, *options, stdout=asked.out / "planted-maps.tsv", seconds=left(asked))


def cohort(asked: argparse.Namespace) -> None:
    """The simulated cohort through the whole group study."""
    script, folder = str(HERE / "study_cohort.py"), asked.work / "cohort"
    options = ("--people", str(asked.people or 120), "--jobs", str(asked.jobs), "--device", asked.device)
    call(script, "maps", str(folder), *options, seconds=left(asked))
    call(script, "study", str(folder), *options)
    shutil.copy(folder / "truth.tsv", asked.out / "cohort-truth.tsv")
    call(script, "keep", str(folder), "--to", str(asked.work / "kept"))
    pack(asked.work / "kept", asked.out / "cohort-kept")


def pack(folder: Path, archive: Path) -> None:
    """As one ZIP file."""
    shutil.make_archive(str(archive), "zip", folder)
    say(f"{archive}.zip: {archive.with_suffix('.zip').stat().st_size / 2**20:.1f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = {"truth": truth, "planted": planted, "cohort": cohort}
    parser.add_argument("study", choices=studies)
    parser.add_argument("out", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--people", type=int, default=0, help="fewer than all, for a trial")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--no-repeat", dest="repeat", action="store_false", help="nothing a second time")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.work.mkdir(parents=True, exist_ok=True)
    studies[asked.study](asked)
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
