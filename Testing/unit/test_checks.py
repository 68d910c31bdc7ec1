"""Should I believe this map? The checks, on a small trained network with a grid of 3 mm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from trained_network import GRID, small_subject, small_trained_model

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checked_explanation import CheckRequest, checked_map, question_about
from ADAttributionLogic.checks import deletion as deleting
from ADAttributionLogic.checks.agreement import compare_methods, consensus
from ADAttributionLogic.checks.budget import ENDS, ORDER, costs_of, plan_checks, region_passes
from ADAttributionLogic.checks.causality import region_drops, weighted_rank_correlation
from ADAttributionLogic.checks.conservation import conservation
from ADAttributionLogic.checks.findings import Check, Checks, MapChecks, read_checks
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.checks.randomisation import entropy, randomisation, shuffled
from ADAttributionLogic.checks.recomputation import recomputation
from ADAttributionLogic.checks.replacement import choose_replacement
from ADAttributionLogic.checks.running import run_checks
from ADAttributionLogic.checks.stability import noise_level, stability
from ADAttributionLogic.errors import GridMismatchError, UnknownNameError, UsageError
from ADAttributionLogic.explain import Explanation, explain
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.propagation.account import LayerAccount
from ADAttributionLogic.relevance.region_table import index_regions
from ADAttributionLogic.volume import Volume


@pytest.fixture(scope="module")
def model() -> Model:
    return small_trained_model()


@pytest.fixture(scope="module")
def mean_control(model: Model) -> Volume:
    scans = [prepare(small_subject(0, 9000 + n), model.grid, model.normalisation).array for n in range(8)]
    return Volume(np.mean(scans, axis=0, dtype=np.float64).astype(np.float32), GRID.affine)


@pytest.fixture(scope="module")
def explained(model: Model, mean_control: Volume) -> Explanation:
    """A patient, two methods, all checks."""
    request = CheckRequest(100.0, mean_scan=mean_control, mean_scan_name="the mean of 8 controls")
    atlas = load_atlas("neuromorphometrics")
    methods = ["lrp", "gradient-x-input"]
    return explain(small_subject(1, 7001), model, methods, atlas=atlas, with_spread=False, checks=request)


@pytest.fixture(scope="module")
def question(explained: Explanation, mean_control: Volume) -> Question:
    index = index_regions(explained.atlas)
    request = CheckRequest(mean_scan=mean_control, mean_scan_name="the mean of 8 controls")
    target = Target(1, "probability")
    return question_about(explained, request, index, Companions(), target, torch.device("cpu"), Monitor())


@pytest.fixture(scope="module")
def right(explained: Explanation) -> CheckedMap:
    return checked_map(explained.heatmaps[0])


def changed(right: CheckedMap, values: np.ndarray) -> CheckedMap:
    return replace(right, values=np.ascontiguousarray(values, dtype=np.float32), was_computed_here=False)


# ----------------------------------------------------------------------------------------------------- what is replaced


def test_tissue_is_replaced_by_the_mean_control_else_by_the_blurred_scan_never_silently(question: Question) -> None:
    image, brain, spacing = question.image, question.brain, question.spacing
    control = question.replacement.image
    assert choose_replacement(image, brain, spacing, "auto", control, "the mean of 8 controls").image.equal(control)
    blurred = choose_replacement(image, brain, spacing)
    assert blurred.kind == "blur" and "blurred by 8 mm" in blurred.name
    assert choose_replacement(image, brain, spacing, "zero").image.abs().max() == 0
    with pytest.raises(UsageError, match="none was given"):
        choose_replacement(image, brain, spacing, "reference")
    with pytest.raises(UnknownNameError, match="no replacement of tissue named 'mean'"):
        choose_replacement(image, brain, spacing, "mean")  # type: ignore[arg-type]
    with pytest.raises(GridMismatchError, match="1×1×3×3×3"):
        choose_replacement(image, brain, spacing, "auto", torch.zeros(1, 1, 3, 3, 3))


def test_the_blur_neither_darkens_the_brains_border_nor_leaves_the_brain(question: Question) -> None:
    inside = torch.where(torch.from_numpy(question.brain), 0.5, 0.0)[None, None]
    found = choose_replacement(inside, question.brain, question.spacing).image.numpy()[0, 0]
    assert np.abs(found[question.brain] - 0.5).max() < 1e-5
    assert np.abs(found[~question.brain]).max() == 0


# -------------------------------------------------------------------------------------------------- deletion, insertion


def test_deletion_is_what_replacing_voxels_by_hand_gives(question: Question, right: CheckedMap, model: Model) -> None:
    ends = deleting.ends_of(question)
    random = deleting.random_curve("deletion", question)
    found = deleting.deletion("deletion", question, right, ends, random, 4.0)
    brain = np.flatnonzero(question.brain)
    order = brain[np.argsort(-right.values.ravel()[brain], kind="stable")]
    image, control = question.image.numpy().ravel(), question.replacement.image.numpy().ravel()
    for part, answer in zip(deleting.PARTS, found.curve.lines[right.title], strict=True):
        replaced = image.copy()
        replaced[order[: round(part * brain.size)]] = control[order[: round(part * brain.size)]]
        assert answer == pytest.approx(chance_of(model, replaced.reshape(question.image.shape)), abs=1e-6)
    assert ends.scan == pytest.approx(chance_of(model, question.image.numpy()), abs=1e-6)
    everything = np.where(question.brain, question.replacement.image.numpy(), question.image.numpy())
    assert ends.reference == pytest.approx(chance_of(model, everything), abs=1e-6)


def chance_of(model: Model, image: np.ndarray) -> float:
    evaluation = Evaluation(model.network, torch.from_numpy(np.ascontiguousarray(image)), torch.device("cpu"))
    return float(torch.softmax(evaluation.logits.double(), 1)[0, 1])


def test_insertion_ends_where_deletion_of_the_rest_does(question: Question, right: CheckedMap) -> None:
    """Bringing half of the brain back is deleting the other half: the same image."""
    ends, order = deleting.Ends(1.0, 0.0), np.arange(question.brain.sum(), dtype=np.float32)
    found = {}
    for name, sign in (("insertion", 1), ("deletion", -1)):
        values = np.zeros(question.brain.shape, np.float32)
        values[question.brain] = sign * order
        curve = deleting.deletion(name, question, changed(right, values), ends, (0.0,) * 4, 4.0).curve
        found[name] = curve.lines[right.title][-1]
    assert found["insertion"] == pytest.approx(found["deletion"], abs=5e-3)


def test_the_area_is_none_for_no_step_and_one_for_the_whole_way_at_once() -> None:
    ends = deleting.Ends(0.9, 0.1)
    assert deleting.area((0.9,) * 4, ends, "deletion") == 0
    assert deleting.area((0.1,) * 4, ends, "deletion") == pytest.approx(1)
    assert deleting.area((0.9,) * 4, ends, "insertion") == pytest.approx(1)
    assert deleting.area((0.5,) * 4, ends, "insertion") == pytest.approx(0.5)


def test_where_the_reference_changes_nothing_deletion_says_so(question: Question, right: CheckedMap) -> None:
    found = deleting.deletion("deletion", question, right, deleting.Ends(0.03, 0.01), (0.0,) * 4, 4.0)
    assert found.verdict == "unsure" and found.number is None and "nothing to take away" in found.sentence


# --------------------------------------------------------------------------------------------------------- other checks


def test_conservation_names_the_share_and_the_layer(right: CheckedMap) -> None:
    found = conservation(right)
    assert found.number == pytest.approx(right.values.sum(dtype=np.float64) / right.to_attribute)
    account = (
        LayerAccount("dense", "Dense 8→2", 1.0, 0.4, {"bias alone": 0.6}),
        LayerAccount("conv", "Convolution", 0.4, 0.3, {"stabiliser": 0.11, "rounding": -0.01}),
    )
    scaled = right.values * (0.3 / right.values.sum(dtype=np.float64))
    lost = conservation(replace(right, values=scaled, to_attribute=1.0, conservation=account))
    assert lost.verdict == "fail" and "70% is missing" in lost.sentence
    assert "neurons that are active by their bias alone +60.0% (most at dense)" in lost.sentence
    assert "ε, where contributions nearly cancel +11.0% (most at conv)" in lost.sentence
    assert lost.details["kept"] == {"bias alone": 0.6, "stabiliser": 0.11, "rounding": -0.01}
    whole = replace(right, to_attribute=float(right.values.sum(dtype=np.float64)))
    assert conservation(whole).verdict == "pass"
    nothing = conservation(replace(right, to_attribute=0.0))
    assert nothing.verdict == "unsure" and nothing.number is None


def test_covering_by_hand_gives_the_drops_of_the_causal_check(question: Question, model: Model) -> None:
    drops = region_drops(question)
    labels = question.regions.atlas.labels.array
    evaluation = Evaluation(model.network, question.image, torch.device("cpu"))
    margin = lambda logits: float(logits[0, 1] - logits[0, 0])  # noqa: E731
    for number in (0, 40, 100):
        mask = torch.from_numpy(labels == question.regions.regions[number].label)
        covered = torch.where(mask, question.replacement.image, question.image)
        expected = margin(evaluation.logits) - margin(evaluation.logits_of(covered))
        assert drops[number] == pytest.approx(expected, abs=1e-3)


def test_the_weighted_rank_correlation_is_one_zero_and_minus_one_where_it_should_be() -> None:
    drops = np.zeros(100)
    drops[:2] = 3.0, 1.0
    order = -np.arange(100.0)
    assert weighted_rank_correlation(order, drops, False) == pytest.approx(0.985)
    assert weighted_rank_correlation(-order, drops, False) == pytest.approx(-0.985)
    assert weighted_rank_correlation(np.zeros(100), drops, False) == pytest.approx(0, abs=1e-12)
    against = np.zeros(100)
    against[0], against[99] = 1.0, -1.0
    assert weighted_rank_correlation(order, against, True) == pytest.approx(0.99)
    assert weighted_rank_correlation(order, against, False) == pytest.approx(0, abs=1e-12)


def test_shuffling_leaves_the_users_network_alone_and_keeps_the_weights_values(model: Model) -> None:
    before = [
        layer.operation.weight.clone() for layer in model.network.layers.layers if hasattr(layer.operation, "weight")
    ]
    other = shuffled(model.network, 1)
    after = [layer.operation.weight for layer in model.network.layers.layers if hasattr(layer.operation, "weight")]
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))
    pairs = zip(model.network.layers.layers, other.layers.layers, strict=True)
    weights = [
        (a.operation.weight, b.operation.weight) for a, b in pairs if getattr(a.operation, "weight", None) is not None
    ]
    several = [(a, b) for a, b in weights if a.ndim >= 2]
    assert len(several) == 5
    assert all(not a.equal(b) and a.flatten().sort()[0].equal(b.flatten().sort()[0]) for a, b in several)
    again = shuffled(model.network, 1)
    assert all(
        a.operation.weight.equal(b.operation.weight)
        for a, b in zip(other.layers.layers, again.layers.layers, strict=True)
        if getattr(a.operation, "weight", None) is not None
    )


def test_entropy_is_that_of_the_histogram() -> None:
    assert entropy(np.zeros(10)) == 0
    assert entropy(np.linspace(0, 1, 1000), 100) == pytest.approx(math.log(100), abs=1e-3)
    assert entropy(np.array([0.0] * 3 + [1.0])) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_a_map_that_does_not_depend_on_the_weights_fails_randomisation(question: Question, right: CheckedMap) -> None:
    noise = np.random.default_rng(0).standard_normal(right.values.shape) * question.brain
    assert randomisation(question, changed(right, noise), 2.5).verdict == "fail"
    assert randomisation(question, changed(right, question.brain), 2.5).verdict == "fail"
    found = randomisation(question, right, 2.5)
    assert found.verdict == "pass" and found.number > 0.1


def test_the_noise_of_an_image_is_found(question: Question) -> None:
    brain = question.brain
    ramp = np.linspace(0, 1, brain.shape[0])[:, None, None] * np.ones(brain.shape)
    noise = np.random.default_rng(1).standard_normal(brain.shape) * 0.03
    image = torch.from_numpy(ramp + noise)[None, None].float()
    assert noise_level(replace(question, image=image)) == pytest.approx(0.03, rel=0.03)


def test_stability_knows_the_map_of_another_scan_and_a_moved_one(
    question: Question, right: CheckedMap, model: Model
) -> None:
    assert stability(question, right, 10.0).verdict == "pass"
    image = prepare(small_subject(1, 7003), model.grid, model.normalisation).array
    other = question.map_of(right, torch.from_numpy(image)[None, None])
    for wrong in (other, np.roll(right.values, 3, 1), right.values[::-1]):
        found = stability(question, changed(right, wrong), 10.0)
        assert found.verdict == "fail" and "no map of this scan" in found.sentence


def test_recomputation_finds_any_change(question: Question, right: CheckedMap) -> None:
    again = recomputation(question, changed(right, right.values), 2.5)
    assert again.verdict == "pass" and again.number < 1e-6
    edited = right.values.copy()
    edited[30:36, 30:36, 20:26] *= 2
    assert recomputation(question, changed(right, edited), 2.5).verdict in ("unsure", "fail")
    unrelated = recomputation(question, changed(right, right.values[:, ::-1]), 2.5)
    assert unrelated.verdict == "fail" and unrelated.number > 1


# ------------------------------------------------------------------------------------------------- agreement of methods


def test_methods_are_compared_by_rank_correlation(question: Question, right: CheckedMap) -> None:
    from scipy.stats import spearmanr

    noise = np.random.default_rng(0).standard_normal(right.values.shape) * question.brain
    maps = [right, replace(right, name="double", values=right.values * 2), replace(changed(right, noise), name="noise")]
    found = compare_methods(question, maps)
    assert found.over == "regions" and found.maps == ("lrp", "double", "noise")
    assert found.matrix[0][1] == 1 and found.matrix[1][2] == found.matrix[2][1]
    bare = compare_methods(replace(question, regions=None), maps)
    expected = spearmanr(right.values[question.brain], maps[2].values[question.brain])[0]
    assert bare.over == "voxels" and bare.matrix[0][2] == pytest.approx(expected, abs=1e-4)
    assert compare_methods(question, maps[:1]) is None


def test_the_consensus_is_the_mean_rank_and_its_deviation(question: Question, right: CheckedMap) -> None:
    brain = np.zeros((2, 2, 2), dtype=bool)
    brain[0] = True
    a, b = (np.array([*row, 9, 9, 9, 9], dtype=np.float32).reshape(2, 2, 2) for row in ([4, 3, 2, 1], [10, 30, 20, 0]))
    maps = [replace(right, values=a), replace(right, values=b)]
    found = consensus(maps, brain)
    assert np.allclose(found.mean[0].ravel(), [2 / 3, 5 / 6, 1 / 2, 0]) and not found.mean[1].any()
    assert np.allclose(
        found.disagreement[0].ravel(), np.std([[1, 1 / 3], [2 / 3, 1], [1 / 3, 2 / 3], [0, 0]], axis=1, ddof=1)
    )


# ------------------------------------------------------------------------------------------------------ budget, running


def test_a_budget_chooses_in_order_and_says_what_the_others_cost(
    question: Question, right: CheckedMap, model: Model
) -> None:
    costs = {
        "conservation": 0.0,
        "stability": 10.0,
        "randomisation": 2.5,
        "deletion": 10.0,
        "causality": 6,
        "insertion": 8,
    }
    wanted = [name for name in ORDER if name in costs]
    assert plan_checks(costs, wanted, 40.0).chosen == tuple(wanted)
    assert plan_checks(costs, wanted, 13.0).chosen == ("conservation", "stability", "randomisation")
    assert plan_checks(costs, wanted, 9.0).chosen == ("conservation", "randomisation", "causality")
    assert plan_checks(costs, wanted, 0.0).chosen == ("conservation",)
    # The ends of both curves are paid for once, by the first of them that runs.
    both = plan_checks(costs, wanted, 40.0, ends=2.0)
    assert (both.costs["deletion"], both.costs["insertion"], both.total) == (12.0, 8.0, 38.5)
    insertion_alone = plan_checks(costs, ("deletion", "insertion"), 11.0, ends=2.0)
    assert insertion_alone.chosen == ("insertion",) and insertion_alone.costs["insertion"] == 10.0
    found = run_checks(question, [right], 16.0).checks
    left = {c.name: c for c in found.maps[0].checks if c.verdict == "not run"}
    assert set(left) == {"deletion", "causality", "insertion"}
    assert all(c.sentence.startswith(f"Not run: it costs {c.cost:.0f} forward passes") for c in left.values())
    assert found.replacement == "" and found.spent <= 16


def test_all_checks_of_one_map_fit_the_default_budget(question: Question, right: CheckedMap, model: Model) -> None:
    costs = costs_of(question, right, model.network, region_passes(question, model.network))
    assert ENDS + sum(costs.of(name, False) for name in ORDER if name != "recomputation") <= 40


class _Counting:
    """Counts the images that the network is asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        original = Evaluation.logits_of

        def logits_of(evaluation: Evaluation, images: torch.Tensor) -> torch.Tensor:
            self.images += len(images)
            return original(evaluation, images)

        monkeypatch.setattr(Evaluation, "logits_of", logits_of)


def test_deletion_and_insertion_take_at_most_twenty_passes(
    question: Question, right: CheckedMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = _Counting(monkeypatch)
    ends = deleting.ends_of(question)
    for name in ("deletion", "insertion"):
        deleting.deletion(name, question, right, ends, deleting.random_curve(name, question), 0.0)
    assert counted.images == 18 <= 20


def test_what_maps_share_is_computed_once(explained: Explanation) -> None:
    first, second = explained.checks.maps
    cost = {m.map: {c.name: c.cost for c in m.checks} for m in (first, second)}
    assert cost["lrp"]["causality"] > 0 and cost["gradient-x-input"]["causality"] == 0
    assert cost["lrp"]["deletion"] == 10 and cost["gradient-x-input"]["deletion"] == 4


def test_cancelling_keeps_the_checks_that_were_finished(question: Question, right: CheckedMap) -> None:
    seen: list[str] = []
    monitor = Monitor(lambda fraction, text: seen.append(text), lambda: any("shuffled" in text for text in seen))
    found = run_checks(question.watched_by(monitor), [right], 100.0).checks
    verdicts = {c.name: c.verdict for c in found.maps[0].checks}
    assert verdicts["stability"] == "pass" and verdicts["randomisation"] == verdicts["insertion"] == "not run"
    assert any("cancelled" in note for note in found.notes)


def test_progress_rises(question: Question, right: CheckedMap) -> None:
    seen: list[float] = []
    run_checks(question.watched_by(Monitor(lambda fraction, text: seen.append(fraction))), [right], 20.0)
    assert seen == sorted(seen) and 0.5 < seen[-1] <= 1


# ----------------------------------------------------------------------------------------------------------- the values


def test_the_verdicts_of_a_right_map_in_the_provenance(explained: Explanation) -> None:
    found = explained.checks.of("lrp")
    assert {c.name: c.verdict for c in found.checks} == {
        "conservation": "unsure",
        "stability": "pass",
        "randomisation": "pass",
        "deletion": "pass",
        "causality": "pass",
        "insertion": "pass",
    }
    assert explained.checks.replacement == "the mean of 8 controls"
    record = json.loads(json.dumps(explained.provenance, allow_nan=False))["checks"]
    assert record == explained.checks.describe() == read_checks(record).describe()
    assert {"name", "number", "null", "verdict", "sentence", "curve"} <= set(record["maps"]["lrp"]["checks"][0])
    assert explained.consensus[0].grid.is_same(GRID)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("maps"),
        lambda d: d["maps"]["lrp"]["checks"][0].update(verdict="fine"),
        lambda d: d["maps"]["lrp"]["checks"][3]["curve"]["x"].pop(),
        lambda d: d.update(budget="much"),
    ],
)
def test_damaged_checks_are_refused(explained: Explanation, damage: Callable[[dict], object]) -> None:
    document = json.loads(json.dumps(explained.provenance["checks"]))
    damage(document)
    with pytest.raises(UsageError, match="damaged or of another version"):
        read_checks(document)


def test_the_summary_of_a_map_says_which_checks_failed() -> None:
    def of(*verdicts: str) -> MapChecks:
        return MapChecks("lrp", "LRP", tuple(Check(v, v.title(), 1, 0, v, "") for v in verdicts))  # type: ignore[arg-type]

    assert of("pass", "pass", "not run").summary == "✓ passed 2 checks"
    assert of("pass", "fail", "not run").summary == "✗ 1 of 2 checks failed: fail"
    assert of("pass", "unsure").summary == "? 1 of 2 checks passed; undecided: unsure"
    assert of("not run").summary == "– no check was run" and of("not run").verdict == "not run"
    assert of("pass", "unsure", "fail").verdict == "fail"
    assert read_checks(None) is None and read_checks(Checks(()).describe()).maps == ()
