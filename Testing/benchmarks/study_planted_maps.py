"""Do the checks tell wrong maps from right ones? Right maps of twenty patients, and a wrong one planted on each.

``python Testing/benchmarks/study_planted_maps.py CACHE [first] [last] [turn] > planted-maps.tsv``

Simulated patients on whom nothing was tuned (seeds 750000 on; the thresholds were set on 740000 on), the bundled
network at 193×229×193, LRP, AAL; tissue is replaced by the mean of 16 simulated controls. CACHE keeps the simulated
scans. On patient i the wrong map number i + 7 · turn is planted (:mod:`planted_maps`), with the right one's name,
options and sum. One line per map: the verdict and number of each check, and the answer after deleting the top 5 %.
"""

from __future__ import annotations

import sys
from dataclasses import replace
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
from ADAttributionLogic.explain import explain  # noqa: E402
from ADAttributionLogic.monitor import Monitor  # noqa: E402
from ADAttributionLogic.networks.loading import load_model  # noqa: E402
from ADAttributionLogic.networks.packages import Model  # noqa: E402
from ADAttributionLogic.preprocessing.model_input import prepare  # noqa: E402
from ADAttributionLogic.relevance.region_table import index_regions  # noqa: E402
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy  # noqa: E402
from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, draw_parameters, simulate_subject  # noqa: E402
from ADAttributionLogic.volume import Volume  # noqa: E402


def scan_of(label: int, seed: int, cache: Path) -> Volume:
    """A simulated scan, kept as float16."""
    path = cache / f"{'ad' if label == PATIENT else 'cn'}_{seed}.npy"
    if not path.exists():
        np.save(path, simulate_subject(icbm152_anatomy(), draw_parameters(label, seed)).scan.array.astype(np.float16))
    array = np.load(path, allow_pickle=False).astype(np.float32)
    return Volume(array, icbm152_anatomy().affine, f"simulated, class {label}, seed {seed}")


def seen(label: int, seed: int, model: Model, cache: Path) -> torch.Tensor:
    """As the network sees it."""
    scan = prepare(scan_of(label, seed, cache), model.grid, model.normalisation)
    return torch.from_numpy(scan.array)[None, None]


def mean_control(model: Model, cache: Path) -> Volume:
    """Mean of 16 controls as the network sees them."""
    total = np.zeros(model.shape)
    for seed in range(730000, 730016):
        total += prepare(scan_of(CONTROL, seed, cache), model.grid, model.normalisation).array
    return Volume((total / 16).astype(np.float32), model.grid.affine)


def line(seed: int, name: str, found: MapChecks) -> str:
    """Tab-separated: a verdict and number per check, and how P(AD) stood after the top 5 %."""
    by = {check.name: check for check in found.checks}
    cells = [str(seed), name, " ".join(c.name for c in found.failed) or "-"]
    for check in (by[n] for n in ORDER):
        cells += [check.verdict, "n/a" if check.number is None else f"{check.number:.3f}"]
    lines = by["deletion"].curve.lines
    return "\t".join([*cells, *(f"{values[1]:.3f}" for values in lines.values())])


def main() -> int:
    cache = Path(sys.argv[1])
    first, last, turn = (int(dict(enumerate(sys.argv)).get(n, d)) for n, d in ((2, 0), (3, 19), (4, 0)))
    cache.mkdir(parents=True, exist_ok=True)
    model = load_model("simulated-atrophy")
    request = CheckRequest(mean_scan=mean_control(model, cache), mean_scan_name="the mean of 16 controls")
    if first == 0 and turn == 0:
        heads = [part for name in ORDER for part in (name, f"{name}_number")]
        print("\t".join(["seed", "map", "failed", *heads, "p_after_top_5", "p_after_random_5"]), flush=True)
    for number in range(first, last + 1):
        seed = 750000 + number
        atlas = load_atlas("aal")
        found = explain(scan_of(PATIENT, seed, cache), model, ["lrp"], atlas=atlas, with_spread=False)
        index = index_regions(found.atlas)
        made = question_about(found, request, index, Companions(), Target(1), torch.device("cpu"), Monitor())
        question, right = remembering(made), replace(checked_map(found.heatmaps[0]), was_computed_here=False)
        name = list(WRONG)[(number + 7 * turn) % len(WRONG)]
        others = [(PATIENT, seed + 100), (CONTROL, seed - 20000)] if name in NEEDS else [(PATIENT, seed)] * 2
        patient, control = (seen(*other, model, cache) for other in others)
        wrong = wrong_map(name, question, right, patient, control, seed)
        maps = [("right", right), (name, wrong)] if turn == 0 else [(name, wrong)]
        checks = run_checks(question, [m for _, m in maps], budget=1000.0).checks
        for (called, _), result in zip(maps, checks.maps, strict=True):
            print(line(seed, called, result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
