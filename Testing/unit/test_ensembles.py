"""Scores and ensembles: what is explained, the mean of the members, and how far they agree."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_network_outputs import OneOutput
from torch import Tensor, nn

from ADAttributionLogic.answer_spread import small_moves
from ADAttributionLogic.atlas.atlas import Atlas, Region
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.checks.findings import read_checks
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.ensembles.agreement import agreement_of, intraclass_correlation
from ADAttributionLogic.errors import Cancelled, UsageError
from ADAttributionLogic.explain import CheckRequest, MethodRequest, explain
from ADAttributionLogic.graph.layer_graph import class_probabilities
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import Network, explainable
from ADAttributionLogic.networks.output import Output
from ADAttributionLogic.networks.packages import Member, Model
from ADAttributionLogic.outcome import outcome_of, read_outcome
from ADAttributionLogic.preprocessing.moved_scans import move_registered
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.relevance.region_table import region_table
from ADAttributionLogic.report.result_folder import write_explanation
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.volume import Volume

SHAPE = (20, 20, 20)
CPU = torch.device("cpu")
COG = Output("score", "COG", "a test", "points", (0.0, 2.0), ("low", "high"), (0.1,), reference=0.1)


def score_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return OneOutput().eval()


class TwoOutputs(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.dense = nn.Conv3d(1, 2, 3), nn.Linear(2 * 6**3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(nn.functional.max_pool3d(torch.relu(self.conv(x)), 3).flatten(1)) * 3


def ensemble(modules: list[nn.Module], output: Output, loaded: list[str] | None = None) -> Model:
    """A model of several networks, which notes what is loaded."""

    # Traced once: tracing is what takes time here.
    networks = [explainable(module, (1, *SHAPE), output=output.kind, name=f"m{i}") for i, module in enumerate(modules)]

    def load(number: int) -> Network:
        if loaded is not None:
            loaded.append(f"m{number}")
        return networks[number]

    members = tuple(
        Member(f"m{i}", f"{i}" * 64, partial(load, i), (0.1 + i,) if output.is_score else ())
        for i in range(len(networks))
    )
    first = networks[0]
    classes = (output.name,) if output.is_score else ("CN", "AD")
    positive = 0 if output.is_score else 1
    card = {"training": {"data": "none"}}
    return Model("e", "E", first, SHAPE, None, Normalisation(), classes, positive, "", card, output, members)


@pytest.fixture(scope="module")
def scan() -> Volume:
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    return Volume(values, np.diag([4.0, 4, 4, 1]), "random")


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """Twenty-five columns of 4×4×20 voxels."""
    i, j, _ = np.indices(SHAPE)
    labels = (i // 4) * 5 + j // 4 + 1
    regions = tuple(Region(n, f"region {n}") for n in range(1, 26))
    return Atlas("columns", Volume(labels.astype(np.int32), np.diag([4.0, 4, 4, 1])), regions)


@pytest.fixture(scope="module")
def scores() -> Model:
    return ensemble([score_network(s) for s in range(3)], COG)


def of_member(model: Model, number: int, scan: Volume, method: str, options: dict | None = None, **target: object):
    image = torch.from_numpy(scan.array)[None, None]
    network = model.members[number].load()
    return attribute(Evaluation(network, image, CPU), method, Target(**target), options)


# --------------------------------------------------------------------------------------------------------------- scores


def test_the_starts_of_a_score() -> None:
    """The score is the network's own number; the distance is less by the reference; unit starts with 1."""
    module = score_network(1).double()
    x = torch.rand(1, 1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    evaluation = Evaluation(explainable(module, (1, *SHAPE), output="score"), x, CPU)
    truth = float(module(x).detach())
    found = {
        start: attribute(evaluation, "lrp", Target(start=start, reference=0.25))
        for start in (None, "score", "distance", "unit")
    }
    assert [found[s].start for s in found] == ["score", "score", "distance", "unit"]
    assert [found[s].to_attribute for s in found] == pytest.approx([truth, truth, truth - 0.25, 1.0])
    assert found["score"].probabilities == ()
    # Relevance is handed on in proportion to the start.
    np.testing.assert_allclose(found["distance"].values * truth, found["score"].values * (truth - 0.25), atol=1e-6)


def test_gradients_of_a_score_are_those_of_autograd() -> None:
    module = score_network(2).double()
    x = torch.rand(1, 1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x).sum(), x)
    evaluation = Evaluation(explainable(module, (1, *SHAPE), output="score"), x.detach(), CPU)
    found = attribute(evaluation, "sensitivity", options={"postprocess": "signed"}).values
    np.testing.assert_allclose(found, gradient[0].numpy(), atol=1e-7)


def test_the_drop_of_occlusion_is_in_the_unit_of_the_score(scan: Volume) -> None:
    model = ensemble([score_network(0), score_network(1)], COG)
    found = of_member(model, 0, scan, "occlusion", {"size": 20, "stride": 20, "signed": True})
    image = torch.from_numpy(scan.array)[None, None].clone()
    before = float(model.network.layers.logits(image))
    image[..., :10, :10, :10] = 0
    assert found.heatmap[0, 0, 0] == pytest.approx(before - float(model.network.layers.logits(image)), abs=1e-6)


@pytest.mark.parametrize(
    ("head", "start", "reason"),
    [
        ("score", "probability", "gives a score: the start must be score, distance, unit, not probability"),
        ("softmax", "score", "gives probabilities of classes: the start must be probability"),
        ("score", "distance", "needs a value to measure from; say --start-reference"),
    ],
)
def test_starts_that_the_output_does_not_have_are_refused(head: str, start: str, reason: str) -> None:
    module = score_network(0) if head == "score" else TwoOutputs(0).eval()
    evaluation = Evaluation(explainable(module, (1, *SHAPE), output=head), torch.ones(1, 1, *SHAPE), CPU)
    with pytest.raises(UsageError, match=reason):
        attribute(evaluation, "sensitivity", Target(start=start))


def test_a_class_of_a_score_is_refused(scores: Model, scan: Volume) -> None:
    with pytest.raises(UsageError, match="gives a score, COG; there is no class AD"):
        explain(scan, scores, ["sensitivity"], target="AD")


# ------------------------------------------------------------------------------------------------------------ ensembles


def test_the_answer_is_the_mean_with_every_members_value(scores: Model, scan: Volume) -> None:
    found = explain(scan, scores, ["sensitivity"])
    image = torch.from_numpy(scan.array)[None, None]
    each = [float(m.load().layers.logits(image)) for m in scores.members]
    assert found.outcome.score == pytest.approx(np.mean(each))
    assert [m.values["COG"] for m in found.outcome.members] == pytest.approx(each)
    # Each member's level by its own thresholds (0.1, 1.1, 2.1), the mean's by those of the ensemble.
    assert [m.verdict for m in found.outcome.members] == ["high" if v >= 0.1 + i else "low" for i, v in enumerate(each)]
    assert found.outcome.spread == pytest.approx(np.std(each, ddof=1))
    assert found.probabilities == {} and found.target_class == "COG"
    assert read_outcome(json.loads(json.dumps(found.provenance["outcome"]))) == found.outcome
    assert f"{found.outcome.agreeing} of 3 networks" in found.outcome.headline()


def test_how_far_the_mean_score_moves_with_the_placement(scores: Model, scan: Volume) -> None:
    """±: the networks' mean for each moved scan, against the mean for the scan as it lies; in the score's unit."""
    found = explain(scan, scores, ["gradient-x-input"])
    told = found.provenance["answer_spread"]["answers"]["COG"]
    moves = small_moves(scan.grid.to_ras((np.array(SHAPE) - 1) / 2))
    images = [scan, *move_registered(scan, None, moves)]
    inputs = [torch.from_numpy(image.array)[None, None] for image in images]
    with torch.no_grad():
        means = [np.mean([float(score_network(seed)(image)) for seed in range(3)]) for image in inputs]
    assert told == pytest.approx(means, abs=1e-5)
    assert found.spread == {"COG": max(abs(value - told[0]) for value in told)} and found.spread["COG"] > 0
    assert found.outcome.headline(found.spread).startswith(f"COG = {told[0]:.2f} ± {found.spread['COG']:.2f} points")
    assert explain(scan, scores, ["gradient-x-input"], with_spread=False).spread == {}


@pytest.mark.parametrize("method", ["lrp", "guided-backprop", "occlusion"])
def test_a_map_is_the_mean_of_the_members_maps_each_from_its_own_score(
    scores: Model, scan: Volume, atlas: Atlas, method: str
) -> None:
    options = {"size": 8, "stride": 8, "signed": True} if method == "occlusion" else {}
    found = explain(scan, scores, [MethodRequest(method, options)], atlas=atlas).heatmaps[0].attribution
    each = [of_member(scores, n, scan, method, options) for n in range(3)]
    np.testing.assert_allclose(found.values, np.mean([e.values for e in each], axis=0), atol=1e-7)
    assert found.to_attribute == pytest.approx(np.mean([e.score for e in each]))
    assert found.relevance_sum == pytest.approx(np.mean([e.relevance_sum for e in each]), abs=1e-6)
    assert found.unattributed == pytest.approx(np.mean([e.unattributed for e in each]), abs=1e-6)
    assert [found.members[f"m{n}"]["score"] for n in range(3)] == [e.score for e in each]


def test_one_member_is_loaded_at_a_time_and_the_first_is_there_already(scan: Volume) -> None:
    loaded: list[str] = []
    explain(scan, ensemble([score_network(s) for s in range(4)], COG, loaded), ["lrp", "sensitivity"])
    assert loaded == ["m1", "m2", "m3"]


def test_the_predicted_class_is_that_of_the_mean(scan: Volume) -> None:
    model = ensemble([TwoOutputs(s).eval() for s in range(3)], Output("softmax"))
    found = explain(scan, model, ["sensitivity"], target="predicted")
    image = torch.from_numpy(scan.array)[None, None]
    each = torch.stack([torch.softmax(m.load().layers.logits(image), 1)[0] for m in model.members])
    assert found.target_class == ("CN", "AD")[int(each.mean(0).argmax())] == found.predicted_class
    assert list(found.probabilities.values()) == pytest.approx(each.mean(0).tolist())
    assert len(found.outcome.members) == 3
    assert found.heatmaps[0].attribution.score == pytest.approx(max(each.mean(0).tolist()))


def test_the_voxelwise_standard_deviation_on_request(scores: Model, scan: Volume, atlas: Atlas) -> None:
    found = explain(scan, scores, ["lrp"], atlas=atlas, member_sd=True).heatmaps
    assert [h.name for h in found] == ["lrp", "lrp-sd"] and "sd over networks" in found[1].method.title
    each = [of_member(scores, n, scan, "lrp").values for n in range(3)]
    np.testing.assert_allclose(found[1].attribution.values, np.std(each, axis=0, ddof=1), atol=1e-8)
    with pytest.raises(UsageError, match="is a single network"):
        explain(scan, ensemble_of_one(), ["lrp"], member_sd=True)


def ensemble_of_one() -> Model:
    from dataclasses import replace

    return replace(ensemble([score_network(0), score_network(1)], COG), members=())


def test_cancelling_keeps_the_members_that_were_finished_and_the_whole_answer(scores: Model, scan: Volume) -> None:
    texts: list[str] = []
    monitor = Monitor(lambda _f, text: texts.append(text), lambda: any("network 3 of 3" in t for t in texts))
    found = explain(scan, scores, ["lrp", "sensitivity"], monitor=monitor)
    assert found.provenance["is_cancelled"] and all(h.attribution.is_partial for h in found.heatmaps)
    assert any(
        "Cancelled after 2 of 3 networks: the maps are the mean of m0, m1" in n for n in found.provenance["notes"]
    )
    assert [m.name for m in found.outcome.members] == ["m0", "m1", "m2"]
    two = [of_member(scores, n, scan, "lrp").values for n in (0, 1)]
    np.testing.assert_allclose(found.heatmaps[0].attribution.values, np.mean(two, axis=0), atol=1e-7)


def test_cancelling_before_a_member_is_finished_keeps_nothing(scores: Model, scan: Volume) -> None:
    texts: list[str] = []
    monitor = Monitor(lambda _f, text: texts.append(text), lambda: any("LRP" in t or "elevance" in t for t in texts))
    with pytest.raises(Cancelled):
        explain(scan, scores, ["lrp"], monitor=monitor)


def test_progress_never_goes_back(scores: Model, scan: Volume) -> None:
    seen: list[float] = []
    explain(scan, scores, ["lrp", "occlusion"], monitor=Monitor(lambda fraction, _t: seen.append(fraction)))
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_each_member_has_a_checkpoint_of_its_own(scores: Model, scan: Volume, tmp_path: Path) -> None:
    request = MethodRequest(
        "voxel-occlusion", {"mask": "all", "coarsest": 8, "minutes": 0.0005, "checkpoint": str(tmp_path / "v.npz")}
    )
    found = explain(scan, scores, [request])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v-m0.npz", "v-m1.npz", "v-m2.npz"]
    assert found.heatmaps[0].attribution.options["checkpoint"] == str(tmp_path / "v.npz")


# ------------------------------------------------------------------------------------------------------------ agreement


def test_agreement_of_regions_against_its_definition(scores: Model, scan: Volume, atlas: Atlas) -> None:
    heatmap = explain(scan, scores, ["lrp"], atlas=atlas).heatmaps[0]
    tables = [region_table(Volume(of_member(scores, n, scan, "lrp").heatmap, scan.affine), atlas) for n in range(3)]
    sums = np.array([t.columns["sum"][:-1] for t in tables])
    tops = [{r["label"] for r in t.ranked("density_rank")[:10]} for t in tables]
    columns = heatmap.table.columns
    np.testing.assert_allclose(columns["sum"][:-1], sums.mean(0), atol=1e-6)
    np.testing.assert_allclose(columns["member_sd"][:-1], sums.std(0, ddof=1), rtol=1e-6)
    assert columns["member_top_ten"][:-1].tolist() == [sum(n in top for top in tops) for n in range(1, 26)]
    assert np.isnan(columns["member_sd"][-1]) and np.isnan(columns["member_top_ten"][-1])
    pairs = [len(tops[a] & tops[b]) / 10 for a, b in ((0, 1), (0, 2), (1, 2))]
    assert heatmap.agreement.overlap_density == pytest.approx(np.mean(pairs))
    assert heatmap.attribution.summary()["agreement"]["top_ten_overlap_density"] == pytest.approx(
        np.mean(pairs), abs=1e-4
    )


def test_intraclass_correlation_of_shrout_and_fleiss() -> None:
    """Their table 2: six targets, four judges; ICC(2,1) = .29."""
    judges = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert intraclass_correlation(judges) == pytest.approx(0.2898, abs=1e-4)


def test_intraclass_correlation_against_a_linear_model() -> None:
    """Mean squares by projection onto the two factors, instead of by sums."""
    values = np.random.default_rng(3).normal(size=(30, 5)) + np.random.default_rng(4).normal(size=(30, 1)) * 2
    n, k = values.shape
    rows, columns = np.kron(np.eye(n), np.ones((k, 1))), np.kron(np.ones((n, 1)), np.eye(k))

    def residual(*design: np.ndarray) -> float:
        matrix = np.hstack([np.ones((n * k, 1)), *design])
        fitted = matrix @ np.linalg.lstsq(matrix, values.ravel(), rcond=None)[0]
        return float(((values.ravel() - fitted) ** 2).sum())

    error = residual(rows, columns)
    msr = (residual(columns) - error) / (n - 1)
    msc = (residual(rows) - error) / (k - 1)
    mse = error / ((n - 1) * (k - 1))
    assert intraclass_correlation(values) == pytest.approx((msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n))


def test_full_agreement_and_none_to_measure() -> None:
    same = np.tile(np.arange(12.0), (4, 1))
    found = agreement_of(["a", "b", "c", "d"], list(range(1, 13)), same, np.ones(12), np.ones(12, bool))
    assert (found.overlap_sum, found.overlap_density, found.icc_sum) == (1, 1, pytest.approx(1))
    assert [found.by_label[n].top_ten for n in (1, 2, 3, 12)] == [0, 0, 4, 4]
    alone = agreement_of(["a", "b"], [1], np.ones((2, 1)), np.ones(1), np.ones(1, bool))
    assert alone.describe()["intraclass_correlation_sum"] is None and alone.sentence() == ""


# ---------------------------------------------------------------------------------------------------- files and batches


@pytest.mark.parametrize("kind", ["score", "distance", "softmax", "sigmoid"])
def test_the_checks_of_an_ensemble_ask_all_networks_and_take_their_mean(kind: str, scan: Volume, atlas: Atlas) -> None:
    outputs = {"softmax": Output("softmax"), "sigmoid": Output("sigmoid")}
    modules = [TwoOutputs(n) if kind == "softmax" else score_network(n) for n in range(3)]
    model = ensemble(modules, outputs.get(kind, COG))
    start = kind if kind in ("score", "distance") else "probability"
    request = CheckRequest(1000.0, "zero")
    found = explain(
        scan, model, ["lrp", "gradient-x-input"], atlas=atlas, start=start, with_spread=False, checks=request
    )
    checks = {c.name: c for c in found.checks.of("lrp").checks}
    assert all(c.verdict != "not run" for c in checks.values()) and "recomputation" not in checks
    answer = found.outcome.values[found.target_class]
    assert checks["deletion"].details["scan"] == pytest.approx(answer, abs=1e-6)
    networks = [member.load() for member in model.members]
    empty = [Evaluation(n, torch.zeros(1, 1, *SHAPE), CPU) for n in networks]
    each = [
        e.logits if n.head == "score" else class_probabilities(e.logits, n.head)
        for e, n in zip(empty, networks, strict=True)
    ]
    index = 0 if kind in ("score", "distance") else 1
    nothing = float(np.mean([float(values[0, index]) for values in each]))
    assert checks["deletion"].details["reference"] == pytest.approx(nothing, abs=1e-5)
    assert read_checks(found.provenance["checks"]).describe() == found.checks.describe()


def test_an_ensembles_result_as_files(scores: Model, scan: Volume, atlas: Atlas, tmp_path: Path) -> None:
    found = explain(scan, scores, ["lrp"], atlas=atlas, member_sd=True)
    folder = write_explanation(found, tmp_path / "result")
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert record["outcome"]["values"] == {"COG": found.outcome.score} and len(record["outcome"]["members"]) == 3
    assert record["model"]["members"][1] == {"name": "m1", "weights_sha256": "1" * 64}
    assert (folder / "overview.png").exists() and (folder / "heatmaps" / "lrp-sd.nii.gz").exists()
    header = (folder / "tables" / "lrp.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith("member_sd,member_top_ten")
    assert json.loads((folder / "tables" / "lrp.units.json").read_text(encoding="utf-8"))["quantity"] == "COG (points)"


def test_what_a_table_is_of() -> None:
    score = outcome_of(COG, ("COG",), [("", (0.2,), ())])
    assert score.quantity("COG", "score") == "COG (points)"
    assert score.quantity("COG", "distance") == "COG − reference (points)"
    classes = outcome_of(Output("softmax"), ("CN", "AD"), [("", (0.25, 0.75), ())])
    assert (classes.quantity("AD", "probability"), classes.quantity("AD", "logit")) == ("P(AD)", "logit of AD")


def test_a_batch_names_the_score_its_unit_and_every_network(scores: Model, scan: Volume, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_volume(scan, tmp_path / "in" / "one.nii.gz")
    options = BatchOptions([MethodRequest("sensitivity")], figure=False)
    row = explain_batch(find_scans(tmp_path / "in"), scores, options, tmp_path / "out").rows[0]
    assert row["status"] == "done", row["message"]
    assert {"COG [points]", "COG [points] m0", "COG [points] m2", "networks agreeing"} <= set(row)
    assert row["predicted_class"] in ("low", "high") and row["networks"] == 3
    again = explain_batch(find_scans(tmp_path / "in"), scores, options, tmp_path / "out").rows[0]
    assert again["COG [points]"] == row["COG [points]"] and again["status"] == "done before"


def test_a_mean_that_a_single_network_shares() -> None:
    each = [("a", (0.9, 0.1), ()), ("b", (0.45, 0.55), ()), ("c", (0.45, 0.55), ())]
    found = outcome_of(Output("softmax"), ("CN", "AD"), each)
    assert (found.verdict, found.agreeing) == ("CN", 1) and found.agreement_text() == "1 of 3 networks says CN"


def test_an_outcome_of_classes_reads_as_before() -> None:
    found = outcome_of(Output("softmax"), ("CN", "AD"), [("", (0.25, 0.75), ())])
    assert (found.verdict, found.members, found.spread) == ("AD", (), None)
    assert found.headline() == "P(CN) = 0.250   P(AD) = 0.750"
