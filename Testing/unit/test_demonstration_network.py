"""The demonstration network that ships, on the full 193×229×193 grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.explain import Explanation, explain
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.recommendation import recommended
from ADAttributionLogic.simulation.anatomy import affected_labels, icbm152_anatomy
from ADAttributionLogic.simulation.cohort import CohortPlan, draw_cohort
from ADAttributionLogic.simulation.subject import PATIENT, draw_parameters, simulate_subject
from ADAttributionLogic.volume import Volume

pytestmark = pytest.mark.slow

#: The areas of Böhle et al. that the simulated disease changes.
AREAS = ("Hippocampus", "Amygdala", "Entorhinal area", "Parahippocampal gyr.", "Inf. Lat. Ventricles")


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("simulated-atrophy")


@pytest.fixture(scope="module")
def explanations(model: Model) -> list[tuple[int, Explanation]]:
    """Three subjects of each class that were in none of its splits."""
    atlas = load_atlas("neuromorphometrics", grouping="neuromorphometrics-boehle2019")
    found = []
    for seed in (31, 32, 33):
        for label in (0, 1):
            scan = simulate_subject(icbm152_anatomy(), draw_parameters(label, seed)).scan
            found.append((label, explain(scan, model, ["lrp"], atlas=atlas)))
    return found


def test_its_card_says_what_it_is(model: Model) -> None:
    training = model.card["training"]
    assert "simulated" in training["data"] and "Not for clinical use" in model.card["intended_use"]
    assert training["test_performance"]["subjects"] == 60
    ranks = training["lrp_density_ranks_of_affected_regions"]
    for structure in ("Hippocampus", "Amygdala"):
        assert min(rank for name, rank in ranks.items() if structure in name) <= 10, ranks
    assert training["recipe"]["batch_size"] == 4
    before = training["before"]
    assert (before["seconds"]["simulation"] or 0) + before["seconds"]["training"] < 3600
    assert before["recipe"].get("augmentation") is None and training["recipe"]["augmentation"]["slice_voxels"] >= 3
    assert training["test_performance"]["balanced_accuracy"] >= 0.97


def test_its_test_subjects_are_not_those_of_the_tests(model: Model) -> None:
    plan = model.card["training"]["subjects"]
    used = {
        s.parameters.seed
        for s in draw_cohort(CohortPlan(plan["train"], plan["validation"], plan["test"], plan["seed"]))
    }
    assert not used & {31, 32, 33, 20261121}


def test_it_tells_unseen_simulated_subjects_apart(explanations: list[tuple[int, Explanation]]) -> None:
    right = [(found.probabilities["AD"] >= 0.5) == (label == PATIENT) for label, found in explanations]
    assert sum(right) >= 5, [(label, found.probabilities) for label, found in explanations]


def test_the_template_brain_is_no_patient(model: Model, template: Volume) -> None:
    assert explain(template, model, ["sensitivity"]).predicted_class == "CN"


def test_its_relevance_lies_where_the_simulation_changed_the_brain(explanations: list[tuple[int, Explanation]]) -> None:
    """Mean density over the true positives: hippocampus and amygdala among the ten highest of 68 areas."""
    patients = [found for label, found in explanations if label == PATIENT and found.predicted_class == "AD"]
    tables = [found.heatmaps[0].table for found in patients]
    density = np.mean([t.columns["density"][:-1] for t in tables], axis=0)
    names = tables[0].columns["name"][:-1][np.argsort(-density)]
    assert {"Hippocampus", "Amygdala"} <= set(names[:10]), list(names[:20])


def test_patients_get_more_relevance_in_the_affected_regions_than_controls(
    explanations: list[tuple[int, Explanation]],
) -> None:
    def mean_in_affected(label: int) -> float:
        tables = [found.heatmaps[0].table for this, found in explanations if this == label]
        rows = [np.isin(t.columns["name"], AREAS) for t in tables]
        return float(np.mean([t.columns["sum"][r].sum() for t, r in zip(tables, rows, strict=True)]))

    assert mean_in_affected(1) > 3 * mean_in_affected(0)


def test_every_map_adds_up(explanations: list[tuple[int, Explanation]]) -> None:
    for _, found in explanations:
        result = found.heatmaps[0].attribution
        assert result.to_attribute == pytest.approx(found.probabilities["AD"], abs=1e-6)
        assert result.relevance_sum + result.unattributed == pytest.approx(result.to_attribute)
        assert 0 <= result.relevance_sum <= result.to_attribute * (1 + 1e-5)
        assert found.heatmaps[0].table.columns["sum"].sum() == pytest.approx(result.relevance_sum, rel=1e-5, abs=1e-9)


def test_what_its_card_recommends_puts_the_truth_first(model: Model) -> None:
    """On patients of none of its splits: the five first regions are affected ones, and without the top 5 % of the
    voxels (the control mean in their place) it is no patient any more, while any others may go."""
    recommendation = recommended(model)
    assert recommendation.name == model.card["recommended"]["method"] and model.control_mean is not None
    mean, atlas = model.control_mean().array, icbm152_anatomy().atlas
    for seed in (31, 32, 33):
        scan = simulate_subject(icbm152_anatomy(), draw_parameters(PATIENT, seed)).scan
        found = explain(scan, model, [recommendation], atlas=atlas, with_spread=False)
        assert found.provenance["reference"]["control_mean_of"] == "simulated-atrophy"
        (heatmap,) = found.heatmaps
        result = heatmap.attribution
        assert result.relevance_sum == pytest.approx(result.to_attribute, rel=1e-3)
        assert heatmap.table is not None
        first = [row["label"] for row in heatmap.table.ranked("density_rank")[:5]]
        assert set(first) <= set(affected_labels()), heatmap.table.ranked("density_rank")[:5]
        seen = found.model_input.array
        brain = np.flatnonzero(seen)
        count = brain.size // 20
        top = brain[np.argsort(-result.heatmap.ravel()[brain], kind="stable")[:count]]
        other = np.random.default_rng(seed).choice(brain, count, replace=False)
        left = []
        for chosen in (top, other):
            image = seen.copy()
            image.ravel()[chosen] = mean.ravel()[chosen]
            left.append(float(torch.softmax(model.network.layers.logits(torch.from_numpy(image)[None, None]), 1)[0, 1]))
        assert left[0] < 0.2 and left[1] > 0.8, left
