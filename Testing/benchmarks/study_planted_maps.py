"""Do the checks tell wrong maps from right ones? Right maps of twenty patients, and a wrong one planted on each.

``python Testing/benchmarks/study_planted_maps.py CACHE [first] [last] [turn] > planted-maps.tsv``

Simulated patients on whom nothing was tuned (seeds 750000 on; the thresholds were set on 740000 on), the bundled
network at 193×229×193, LRP, AAL; tissue is replaced by the mean of 16 simulated controls. CACHE keeps the simulated
scans. On patient i the wrong map number i + 7 · turn is planted (:mod:`planted_maps`), with the right one's name,
options and sum. One line per map: the verdict and number of each check, and the answer after deleting the top 5 %.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from planted_maps import WRONG, Ingredients, planted  # noqa: E402

from ADAttributionLogic.atlas.atlas import Atlas  # noqa: E402
from ADAttributionLogic.atlas.library import load_atlas  # noqa: E402
from ADAttributionLogic.attribution.registry import Companions, get_method  # noqa: E402
from ADAttributionLogic.attribution.target import Target  # noqa: E402
from ADAttributionLogic.checked_explanation import CheckRequest, checked_map, question_about  # noqa: E402
from ADAttributionLogic.checks.budget import ORDER  # noqa: E402
from ADAttributionLogic.checks.findings import MapChecks  # noqa: E402
from ADAttributionLogic.checks.question import CheckedMap, Question  # noqa: E402
from ADAttributionLogic.checks.randomisation import shuffled  # noqa: E402
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

#: Which part of the ingredients a wrong map needs.
NEEDS = {
    "another patient's scan": "other_patient",
    "a control's scan": "other_control",
    "the other class": "other_class",
    "an untrained network": "untrained",
    "another method": "other_method",
}


@dataclass(frozen=True, eq=False)
class Remembering(Question):
    """The maps of the changed scans do not depend on the map that is checked: made once per patient."""

    known: dict[tuple[float, ...], npt.NDArray[np.float64]] = field(default_factory=dict)

    def map_of(self, checked: CheckedMap, image: torch.Tensor, *changed: object) -> npt.NDArray[np.float64]:
        key = (float(image.double().sum()), float(image[0, 0, 90].double().square().sum()), float(len(changed)))
        if key not in self.known:
            self.known[key] = super().map_of(checked, image, *changed)
        return self.known[key]


def scan_of(label: int, seed: int, cache: Path) -> Volume:
    """A simulated scan, kept as float16."""
    path = cache / f"{'ad' if label == PATIENT else 'cn'}_{seed}.npy"
    if not path.exists():
        np.save(path, simulate_subject(icbm152_anatomy(), draw_parameters(label, seed)).scan.array.astype(np.float16))
    array = np.load(path, allow_pickle=False).astype(np.float32)
    return Volume(array, icbm152_anatomy().affine, f"simulated, class {label}, seed {seed}")


def mean_control(model: Model, cache: Path) -> Volume:
    """Mean of 16 controls as the network sees them."""
    total = np.zeros(model.shape)
    for seed in range(730000, 730016):
        total += prepare(scan_of(CONTROL, seed, cache), model.grid, model.normalisation).array
    return Volume((total / 16).astype(np.float32), model.grid.affine)


def wrong_map(name: str, question: Question, right: CheckedMap, model: Model, atlas: Atlas, seed: int, cache: Path):
    """A planted map, with only those ingredients computed that it needs."""

    def seen(label: int, other: int) -> torch.Tensor:
        scan = scan_of(label, other, cache)
        return torch.from_numpy(prepare(scan, model.grid, model.normalisation).array)[None, None]

    makers = {
        "other_patient": lambda: question.map_of(right, seen(PATIENT, seed + 100)),
        "other_control": lambda: question.map_of(right, seen(CONTROL, seed - 20000)),
        "other_class": lambda: Question.map_of(replace(question, target=Target(0)), right, question.image),
        "untrained": lambda: Question.map_of(question, right, question.image, lambda network: shuffled(network, 99)),
        "other_method": lambda: Question.map_of(
            question,
            replace(right, method=get_method("guided-backprop"), options=get_method("guided-backprop").complete({})),
            question.image,
        ),
    }
    unused = dict.fromkeys(makers, right.values)
    needed = {NEEDS[name]: makers[NEEDS[name]]().astype(np.float32)} if name in NEEDS else {}
    image = question.image[0, 0].numpy()
    parts = Ingredients(right.values, image, question.brain, atlas.labels.array, 1.0, **{**unused, **needed}, seed=seed)
    return planted(name, parts)


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
        question = Remembering(**{f: getattr(made, f) for f in made.__dataclass_fields__})
        right = replace(checked_map(found.heatmaps[0]), was_computed_here=False)
        name = list(WRONG)[(number + 7 * turn) % len(WRONG)]
        wrong = replace(right, values=wrong_map(name, question, right, model, found.atlas, seed, cache))
        maps = [("right", right), (name, wrong)] if turn == 0 else [(name, wrong)]
        checks = run_checks(question, [m for _, m in maps], budget=1000.0).checks
        for (called, _), result in zip(maps, checks.maps, strict=True):
            print(line(seed, called, result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
