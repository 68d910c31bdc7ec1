"""Do the checks tell wrong maps from right ones? Right maps of twenty patients, and a wrong one planted on each.

``python Testing/benchmarks/study_planted_maps.py CACHE --jobs 2 --device cpu > planted-maps.tsv``

Simulated patients on whom nothing was tuned (seeds 750000 on; the thresholds were set on 740000 on), the bundled
network at 193×229×193, LRP, AAL; tissue is replaced by the mean of 16 simulated controls. CACHE keeps the simulated
scans. On patient i the wrong map number i + 7 · turn is planted (:mod:`planted_maps`), with the right one's name,
options and sum. One line per map: the verdict and number of each check, and the answer after deleting the top 5 %.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from planted_maps import NEEDS, WRONG, remembering, wrong_map  # noqa: E402

from ADAttributionLogic.atlas.library import load_atlas  # noqa: E402
from ADAttributionLogic.attribution.registry import Companions  # noqa: E402
from ADAttributionLogic.attribution.target import Target  # noqa: E402
from ADAttributionLogic.checked_explanation import CheckRequest, checked_map, question_about  # noqa: E402
from ADAttributionLogic.checks.budget import ORDER  # noqa: E402
from ADAttributionLogic.checks.findings import MapChecks  # noqa: E402
from ADAttributionLogic.checks.running import run_checks  # noqa: E402
from ADAttributionLogic.device import choose_device  # noqa: E402
from ADAttributionLogic.explain import explain  # noqa: E402
from ADAttributionLogic.monitor import Monitor  # noqa: E402
from ADAttributionLogic.networks.loading import load_model  # noqa: E402
from ADAttributionLogic.networks.packages import Model  # noqa: E402
from ADAttributionLogic.preprocessing.model_input import prepare  # noqa: E402
from ADAttributionLogic.relevance.region_table import index_regions  # noqa: E402
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy  # noqa: E402
from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, draw_parameters, simulate_subject  # noqa: E402
from ADAttributionLogic.truth.shared_work import in_processes  # noqa: E402
from ADAttributionLogic.volume import Volume  # noqa: E402

#: On these nothing was tuned.
FIRST_SEED = 750000
#: Controls whose mean takes the place of tissue.
CONTROL_SEEDS = range(730000, 730016)


def scan_of(label: int, seed: int, cache: Path) -> Volume:
    """A simulated scan, kept as float16."""
    path = cache / f"{'ad' if label == PATIENT else 'cn'}_{seed}.npy"
    if not path.exists():
        array = simulate_subject(icbm152_anatomy(), draw_parameters(label, seed)).scan.array.astype(np.float16)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with open(unfinished, "wb") as file:
            np.save(file, array)
        os.replace(unfinished, path)
    array = np.load(path, allow_pickle=False).astype(np.float32)
    return Volume(array, icbm152_anatomy().affine, f"simulated, class {label}, seed {seed}")


def seen(label: int, seed: int, model: Model, cache: Path) -> torch.Tensor:
    """As the network sees it."""
    scan = prepare(scan_of(label, seed, cache), model.grid, model.normalisation)
    return torch.from_numpy(scan.array)[None, None]


def mean_control(model: Model, cache: Path) -> Volume:
    """Mean of 16 controls as the network sees them."""
    total = np.zeros(model.shape)
    for seed in CONTROL_SEEDS:
        total += prepare(scan_of(CONTROL, seed, cache), model.grid, model.normalisation).array
    return Volume((total / len(CONTROL_SEEDS)).astype(np.float32), model.grid.affine)


def line(seed: int, name: str, found: MapChecks) -> str:
    """Tab-separated: a verdict and number per check, and how P(AD) stood after the top 5 %."""
    by = {check.name: check for check in found.checks}
    cells = [str(seed), name, " ".join(c.name for c in found.failed) or "-"]
    for check in (by[n] for n in ORDER):
        cells += [check.verdict, "n/a" if check.number is None else f"{check.number:.3f}"]
    lines = by["deletion"].curve.lines
    return "\t".join([*cells, *(f"{values[1]:.3f}" for values in lines.values())])


def planted_on(number: int, turn: int) -> str:
    """Name of the wrong map that is planted on a patient."""
    return list(WRONG)[(number + 7 * turn) % len(WRONG)]


def scans_for(number: int, turn: int) -> list[tuple[int, int]]:
    """Class and seed of a patient, and of the patient and the control from whom a wrong map is taken."""
    seed = FIRST_SEED + number
    others = [(PATIENT, seed + 100), (CONTROL, seed - 20000)] if planted_on(number, turn) in NEEDS else []
    return [(PATIENT, seed), *others]


@cache
def model_and_request(cache: Path) -> tuple[Model, CheckRequest]:
    """What is the same for all patients, once in each process."""
    model = load_model("simulated-atrophy")
    mean = mean_control(model, cache)
    return model, CheckRequest(mean_scan=mean, mean_scan_name=f"the mean of {len(CONTROL_SEEDS)} controls")


def lines(cache: Path, turn: int, device_name: str, number: int) -> list[str]:
    """The lines of one patient: of the right map (in turn 0), and of the wrong one."""
    (model, request), device, atlas = model_and_request(cache), choose_device(device_name), load_atlas("aal")
    (label, seed), *others = scans_for(number, turn)
    scan = scan_of(label, seed, cache)
    found = explain(scan, model, ["lrp"], atlas=atlas, device=device_name, with_spread=False)
    index = index_regions(found.atlas)
    made = question_about(found, request, index, Companions(), Target(1), device, Monitor())
    question, right = remembering(made), replace(checked_map(found.heatmaps[0]), was_computed_here=False)
    patient, control = (seen(*other, model, cache) for other in others or [(label, seed)] * 2)
    name = planted_on(number, turn)
    wrong = wrong_map(name, question, right, patient, control, seed)
    maps = [("right", right), (name, wrong)] if turn == 0 else [(name, wrong)]
    checks = run_checks(question, [m for _, m in maps], budget=1000.0).checks
    return [line(seed, called, result) for (called, _), result in zip(maps, checks.maps, strict=True)]


def make_scan(cache: Path, which: tuple[int, int]) -> None:
    """Simulate one scan."""
    scan_of(*which, cache)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    for name, value in (("first", 0), ("last", 19), ("turn", 0), ("jobs", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    numbers = range(asked.first, asked.last + 1)
    wanted = {scan for number in numbers for scan in scans_for(number, asked.turn)}
    wanted |= {(CONTROL, seed) for seed in CONTROL_SEEDS}
    for (label, seed), _ in in_processes(partial(make_scan, asked.cache), sorted(wanted), asked.jobs):
        print(f"class {label}, seed {seed} simulated", file=sys.stderr, flush=True)
    if asked.first == 0 and asked.turn == 0:
        heads = [part for name in ORDER for part in (name, f"{name}_number")]
        print("\t".join(["seed", "map", "failed", *heads, "p_after_top_5", "p_after_random_5"]), flush=True)
    work = partial(lines, asked.cache, asked.turn, asked.device)
    done: dict[int, list[str]] = {}
    shown = asked.first
    for number, made in in_processes(work, numbers, asked.jobs):
        done[number] = made
        print(f"patient {number} checked", file=sys.stderr, flush=True)
        while shown in done:  # in their order, and as soon as may be
            print("\n".join(done[shown]), flush=True)
            shown += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
