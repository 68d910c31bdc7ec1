"""The reference that ships: whole, of the network that ships, of controls that it was not trained or tested on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.demonstration.reference import COUNT, FIRST_SEED
from ADAttributionLogic.explain import explain
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.provenance import describe_atlas
from ADAttributionLogic.reference.package import QUANTITIES, Reference, read_reference
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
from ADAttributionLogic.simulation.cohort import CohortPlan, draw_cohort
from ADAttributionLogic.simulation.subject import CONTROL, draw_parameters, simulate_subject


@pytest.fixture(scope="module")
def reference() -> Reference:
    return read_reference("simulated-atrophy-controls")


def test_it_is_of_the_network_that_ships(reference: Reference) -> None:
    card = json.loads((resources_folder() / "Models" / "simulated-atrophy" / "model.json").read_text(encoding="utf-8"))
    assert reference.question["model"]["weights_sha256"] == card["weights"]["sha256"]
    assert reference.question["target_class"] == "AD" and "lrp" in reference.methods
    assert reference.card["licence"] and "no real scan" in reference.card["controls"]


def test_its_controls_are_at_least_sixty_that_the_network_has_not_seen(reference: Reference) -> None:
    assert reference.n == COUNT >= 60
    known = {subject.parameters.seed for subject in draw_cohort(CohortPlan())}
    assert not known & set(range(FIRST_SEED, FIRST_SEED + COUNT))


def test_every_file_of_it_can_be_read_and_it_is_small(reference: Reference) -> None:
    brain = reference.mean_scan().array != 0
    assert 1.5e6 < brain.sum() < 2.5e6, "mm³"
    for method in reference.methods:
        sd = reference.voxel_sd(method).array
        assert (sd[brain] > 0).mean() > 0.95 and not sd[~brain].any()
        assert np.abs(reference.voxel_mean(method).array).max() > 0
        pattern = reference.pattern(method)
        assert pattern is not None and (pattern[1].array[brain[::2, ::2, ::2]] > 0).mean() > 0.95
        for atlas in reference.atlases:
            statistics = reference.regions(method, atlas)
            for name in QUANTITIES:
                assert (statistics[name].sd > 0).mean() > 0.95 and (
                    np.diff(statistics[name].quantiles, axis=0) >= 0
                ).all()
    for name in reference.atlases:
        assert reference.require_same_atlas(describe_atlas(load_atlas(name).on_grid(reference.grid))) == name
    assert sum(p.stat().st_size for p in reference.folder.iterdir()) < 14e6, "of two methods"


@pytest.mark.slow
def test_another_control_lies_among_them(reference: Reference) -> None:
    """Of a held-out control, few regions lie beyond the 95 % of the others."""
    model, seed = load_model("simulated-atrophy"), FIRST_SEED - 7
    scan = simulate_subject(icbm152_anatomy(), draw_parameters(CONTROL, seed)).scan
    start = reference.question["start"]
    found = explain(scan, model, ["lrp"], atlas=load_atlas("aal"), start=start, with_spread=False)
    record = found.provenance
    name = reference.require_same_question(record, "lrp", found.heatmaps[0].volume.grid, record["atlas"])
    statistics = reference.regions(name, "aal")["share"]
    own = found.heatmaps[0].table.columns["share"][:-1]
    assert np.mean(np.abs((own - statistics.mean) / statistics.sd) > 2) < 0.2
