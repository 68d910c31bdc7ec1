"""Twenty wrong maps are told from the right ones of five patients, on the small trained network.

The study at full size, of twenty patients, is Testing/benchmarks/study_planted_maps.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_maps import WRONG, remembering, wrong_map
from trained_network import GRID, small_subject, small_trained_model

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.registry import Companions
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checked_explanation import CheckRequest, checked_map, question_about
from ADAttributionLogic.checks.findings import MapChecks
from ADAttributionLogic.checks.running import run_checks
from ADAttributionLogic.explain import explain
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.relevance.region_table import index_regions
from ADAttributionLogic.volume import Volume

#: On these nothing was tuned: thresholds were set on seeds below 7100 and at full size.
FIRST_PATIENT = 7200


@pytest.fixture(scope="module")
def found() -> list[tuple[str, MapChecks]]:
    """On each of five patients the right map and four wrong ones are checked, as if all came from files."""
    model, atlas = small_trained_model(), load_atlas("neuromorphometrics")

    def seen(label: int, seed: int) -> np.ndarray:
        return prepare(small_subject(label, seed), model.grid, model.normalisation).array

    mean = np.mean([seen(0, 9000 + n) for n in range(8)], axis=0, dtype=np.float64).astype(np.float32)
    request = CheckRequest(mean_scan=Volume(mean, GRID.affine))
    results = []
    others = [torch.from_numpy(seen(label, 7301))[None, None] for label in (1, 0)]
    for number in range(5):
        names = list(WRONG)[number::5]
        seed = FIRST_PATIENT + number
        explained = explain(small_subject(1, seed), model, ["lrp"], atlas=atlas, is_prepared=True, with_spread=False)
        index, device = index_regions(explained.atlas), torch.device("cpu")
        question = remembering(question_about(explained, request, index, Companions(), Target(1), device, Monitor()))
        right = replace(checked_map(explained.heatmaps[0]), was_computed_here=False)
        wrong = [wrong_map(name, question, right, *others, seed) for name in names]
        checks = run_checks(question, [right, *wrong], budget=1000.0).checks
        results += zip(("right", *names), checks.maps, strict=True)
    return results


def flagged(checks: MapChecks, without: str = "") -> bool:
    return any(check.name != without for check in checks.failed)


def test_wrong_maps_are_flagged(found: list[tuple[str, MapChecks]]) -> None:
    wrong = {name: checks for name, checks in found if name != "right"}
    assert len(wrong) == 20
    assert sum(flagged(checks) for checks in wrong.values()) >= 19, [n for n, c in wrong.items() if not flagged(c)]


def test_they_are_found_without_computing_the_map_again_as_well(found: list[tuple[str, MapChecks]]) -> None:
    """Recomputation finds every exchanged map by itself: the other checks must do without it."""
    wrong = {name: checks for name, checks in found if name != "right"}
    missed = [name for name, checks in wrong.items() if not flagged(checks, "recomputation")]
    assert len(missed) <= 1, missed


def test_right_maps_are_not_flagged(found: list[tuple[str, MapChecks]]) -> None:
    right = [checks for name, checks in found if name == "right"]
    assert len(right) == 5
    assert sum(map(flagged, right)) <= 1, [[c.name for c in checks.failed] for checks in right]


def test_deletion_by_random_voxels_keeps_the_answer(found: list[tuple[str, MapChecks]]) -> None:
    """At the map's top 5 % the answer moves further than at as many random voxels, on average."""
    curves = [next(c for c in checks.checks if c.name == "deletion").curve for name, checks in found if name == "right"]
    by_map, by_chance = np.mean([[line[1] for line in curve.lines.values()] for curve in curves], axis=0)
    assert by_map < by_chance - 0.1
