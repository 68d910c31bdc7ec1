"""What ``make train`` writes beside the weights of the demonstration network (``demonstration.card``)."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ADAttributionLogic.architectures.catalogue import build_network
from ADAttributionLogic.demonstration.card import (
    COMPARED_WITH,
    RECOMMENDABLE,
    control_mean_file,
    demonstration_card,
    recommended_entry,
)
from ADAttributionLogic.demonstration.network import network_of
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model, save_package
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
from ADAttributionLogic.simulation.cohort import CohortPlan
from ADAttributionLogic.training.fit import Fit
from ADAttributionLogic.training.metrics import Performance
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.truth.summary import METRICS, Row

TRUTH = Path(__file__).resolve().parents[1] / "benchmarks" / "truth"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("simulated-atrophy")


def test_a_network_made_anew_has_a_card_like_this_ones(model: Model) -> None:
    """``make train`` writes what the card says by itself; only what was measured may differ."""
    plan = CohortPlan()
    tested = Performance(60, 1.0, 1.0, 1.0, 1.0)
    recipe = Recipe()
    written = demonstration_card(
        icbm152_anatomy(), plan, recipe, Fit({}, (), 1), tested, {}, 30, torch.device("cpu"), {"training": 1}
    )
    beside = {"weights", "control_mean", "recommended"}
    assert set(written) | beside == set(model.card)
    for name in set(written) - {"training"}:
        assert written[name] == model.card[name], name
    assert set(written["training"]) | {"before"} == set(model.card["training"])


def test_the_control_mean_that_ships_is_written_by_the_simulation(model: Model, tmp_path: Path) -> None:
    assert model.control_mean is not None
    small = np.zeros((4, 5, 6), dtype=np.float32)
    small[1:3, 1:4, 1:5] = 0.37
    data = SimpleNamespace(control_mean=lambda normalise: normalise(small * 2))
    entry, content = control_mean_file(icbm152_anatomy(), data)  # type: ignore[arg-type]
    (tmp_path / entry["file"]).write_bytes(content)
    found = read_scan(tmp_path / entry["file"])
    np.testing.assert_allclose(found.array, (small > 0).astype(np.float32), atol=1 / 510)
    assert entry["bytes"] == len(content) and entry["of"] == model.card["control_mean"]["of"]


def test_the_method_that_puts_the_truth_first_is_recommended(model: Model) -> None:
    """With the figures of the published table, in the published words."""
    with open(TRUTH / "table.tsv", encoding="utf-8") as file:
        rows = [
            Row(r["contestant"], int(r["true_positives"]), {m: (float(r[m]), 0.0, 0.0) for m in METRICS})
            for r in csv.DictReader(file, delimiter="\t") if r["contestant"] in (*RECOMMENDABLE, *COMPARED_WITH)
        ]  # fmt: skip
    entry = recommended_entry(rows)
    shipped = model.card["recommended"]
    assert {k: v for k, v in entry.items() if k != "figures"} == {k: v for k, v in shipped.items() if k != "figures"}
    if entry["figures"][0]["n"] == shipped["figures"][0]["n"]:
        assert entry == shipped
    worse = [Row(r.contestant, r.patients, r.figures | {"top_five_regions": (0.1, 0, 0), "all_top_five": (0.0, 0, 0)})
             if r.contestant == "deeplift-gamma" else r for r in rows]  # fmt: skip
    assert recommended_entry(worse)["method"] == "lrp" and "most often" in recommended_entry(worse)["why"]


def test_a_network_is_trained_on_from_its_own_weights_and_no_other_kind_is(model: Model, tmp_path: Path) -> None:
    network, card = network_of("simulated-atrophy")
    assert card == model.card
    parameters = dict(network.named_parameters())
    shipped = load_file(resources_folder() / "Models" / "simulated-atrophy" / model.card["weights"]["file"])
    assert all(torch.equal(value, shipped[name]) for name, value in parameters.items())
    small = build_network("rieke2018", (80, 80, 80))
    card = {key: model.card[key] for key in ("schema_version", "name", "title", "normalisation", "classes", "licence")}
    card |= {"positive_class": 1, "training": {"data": "none"}, "intended_use": "tests"}
    grid = {"shape": [80, 80, 80], "affine": np.eye(4).tolist(), "space": "none"}
    save_package(tmp_path / "other", card | {"network": {"architecture": "rieke2018"}, "grid": grid}, small)
    with pytest.raises(NetworkError, match="is not the network of Böhle"):
        network_of(str(tmp_path / "other"))
