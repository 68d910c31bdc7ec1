"""Qiu et al. 2022: the published weights as packages, on a real brain."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from heads import BRAIN, HEAD, needs_head
from ncomms2022 import SOURCE, needs_weights
from scipy.spatial.transform import Rotation
from torch import Tensor

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, Job, attribute, get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import NetworkError, UnknownNameError
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.incremental.forward import Change, IncrementalForward
from ADAttributionLogic.incremental.reach import Places
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.networks.qiu2022_package import convert, source_files
from ADAttributionLogic.occlusion.covering import Engine, FullForward, choose_engine, cover_areas, cover_boxes
from ADAttributionLogic.occlusion.regions import _areas
from ADAttributionLogic.occlusion.windows import WindowGrid
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.volume import Volume

NAMES = ("qiu2022-impairment", "qiu2022-alzheimers")
CPU = torch.device("cpu")
EPOCHS = (58, 39, 62, 51, 75)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("qiu2022")
    return {name: load_model(convert(name, SOURCE, folder / name)) for name in NAMES}


def published(head: str, fold: int, x: Tensor) -> Tensor:
    """Straight from the authors' files with PyTorch's functions, without any class of ours."""
    folder = SOURCE / "checkpoint_dir" / f"CNN_baseline_new_cross{fold}"
    body, mlp = (
        {k.removeprefix("module."): v for k, v in torch.load(path, weights_only=True, map_location="cpu").items()}
        for path in (folder / f"backbone_{EPOCHS[fold]}.pth", folder / f"{head}_{EPOCHS[fold]}.pth")
    )
    for block, (stride, pool) in enumerate(((2, (3, 2)), (1, (2, 2)), (1, (2, 2)), (1, (2, 2))), start=1):
        x = F.max_pool3d(F.conv3d(x, body[f"block{block}.conv.weight"], stride=stride), *pool)
        part = [body[f"block{block}.BN.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.leaky_relu(F.batch_norm(x, *part), 0.01)
    x = F.leaky_relu(F.linear(x.flatten(1), mlp["dense1.1.weight"], mlp["dense1.1.bias"]), 0.01)
    return F.linear(x, mlp["dense2.2.weight"], mlp["dense2.2.bias"])


@needs_weights
def test_cards_of_the_packages(models: dict[str, Model]) -> None:
    impairment, alzheimers = (models[name] for name in NAMES)
    assert impairment.grid.orientation() == "LAS"
    assert impairment.grid.to_ras((0, 0, 0)).tolist() == [90, -126, -72]
    assert impairment.members[0].thresholds == (0.628, 1.049) and len(impairment.members) == 5
    assert impairment.output.thresholds == pytest.approx((0.6372, 1.067), abs=1e-6)
    assert (alzheimers.classes, alzheimers.output.kind) == (("other dementia", "Alzheimer's dementia"), "softmax")
    for model in models.values():
        assert {"licence", "citation", "not_for", "preparation", "performance"} <= set(model.card)


@needs_weights
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    for file in source_files(NAMES[0]):
        (tmp_path / "clone" / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE / file.path, tmp_path / "clone" / file.path)
    changed = tmp_path / "clone" / source_files(NAMES[0])[3].path
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(NetworkError, match="is not the published file"):
        convert(NAMES[0], tmp_path / "clone", tmp_path / "package")
    changed.unlink()
    with pytest.raises(NetworkError, match="is missing.*at commit e68d9b651e42"):
        convert(NAMES[0], tmp_path / "clone", tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_only_the_two_heads_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="qiu2022-impairment"):
        convert("qiu2022", tmp_path, tmp_path / "package")


# ------------------------------------------------------------------------------------- explained, on the real networks

#: Class 1 of ADD, or the score of COG, of networks 0 to 4 on Colin27's brain: two decimals that anyone can repeat.
ORACLE = {"COG": (0.37, 0.45, 0.46, 0.42, 0.35), "ADD": (0.42, 0.99, 1.00, 0.28, 0.98)}
HEADS = dict(zip(NAMES, ORACLE, strict=True))


@pytest.fixture(scope="module")
def brain(models: dict[str, Model]) -> Tensor:
    """The brain of Colin27 as the networks see it."""
    model = models[NAMES[0]]
    return torch.from_numpy(prepare(read_scan(BRAIN), model.grid, model.normalisation).array)[None, None]


@pytest.fixture(scope="module", params=[(n, f) for n in NAMES for f in range(5)], ids=lambda p: f"{p[0]}-{p[1]}")
def one(request: pytest.FixtureRequest, models: dict[str, Model], brain: Tensor) -> tuple[str, int, Evaluation]:
    """Each of the ten networks with the brain, shared by the tests of it."""
    name, fold = request.param
    return name, fold, Evaluation(models[name].members[fold].load(), brain, CPU)


@needs_weights
@needs_head
@pytest.mark.slow
def test_the_input_is_that_of_nibabel_and_numpy_alone(models: dict[str, Model], brain: Tensor) -> None:
    import nibabel
    from nibabel.processing import resample_from_to

    model = models[NAMES[0]]
    placed = resample_from_to(nibabel.load(BRAIN), (model.shape, model.grid.affine), order=1).get_fdata()
    placed = np.maximum(placed, 0)
    np.testing.assert_allclose(brain[0, 0].numpy(), np.clip(placed / placed.mean(), 0, 8), atol=1e-5)


@needs_weights
@needs_head
@pytest.mark.slow
def test_a_state_dict_gives_what_plain_pytorch_gives(one: tuple[str, int, Evaluation]) -> None:
    """The layers by PyTorch's functions, and the published oracle."""
    name, fold, evaluation = one
    head, found = HEADS[name], evaluation.logits
    torch.testing.assert_close(found, published(head, fold, evaluation.image), rtol=1e-5, atol=1e-5)
    answer = float(found) if head == "COG" else float(torch.softmax(found, 1)[0, 1])
    assert round(answer, 2) == ORACLE[head][fold]


@needs_weights
@needs_head
@pytest.mark.slow
def test_lrp_adds_up_to_the_networks_own_score(one: tuple[str, int, Evaluation]) -> None:
    """All of it reaches the first convolution. Where the background is, that makes something of nothing, by its bias;
    the relevance of this is nobody's, which is said, to the last digit."""
    found = attribute(one[2], "lrp")
    assert found.to_attribute == pytest.approx(found.score)
    assert found.relevance_sum + found.unattributed == pytest.approx(found.to_attribute, abs=1e-6)
    assert "backbone.block1.BN" not in found.relevance_by_layer, "folded through the pooling before it"
    reached = found.relevance_by_layer["backbone.block1.pooling"]
    assert reached == pytest.approx(found.to_attribute, rel=1e-3)
    assert abs(found.unattributed) <= 0.1 * abs(found.to_attribute)


@needs_weights
@needs_head
@pytest.mark.slow
def test_windows_are_followed_as_exactly_as_full_passes_and_faster(one: tuple[str, int, Evaluation]) -> None:
    """Windows of 20 at stride 10, of which two are also computed in full."""
    evaluation = one[2]
    grid = WindowGrid(tuple(evaluation.image.shape[2:]), 20, 10)
    lows, highs = grid.limits(grid.touching((evaluation.image[0, 0] > 0).numpy()))
    engine = choose_engine(job_of(evaluation, "occlusion"), lows, highs)
    assert isinstance(engine.forward, IncrementalForward)
    assert engine.work(lows, highs).mean() < 1 / 30
    some = np.array([len(lows) // 3, len(lows) // 2])
    change = cover_boxes(torch.zeros(1, 1, 1, 1, 1), lows[some], highs[some])
    compare(engine, FullForward(evaluation), lows[some], highs[some], change)


@needs_weights
@needs_head
@pytest.mark.slow
def test_regions_are_followed_where_that_is_cheaper(models: dict[str, Model], brain: Tensor) -> None:
    """All AAL regions cost less than full passes; some are compared; what spans the image gets a full pass untold."""
    model = models[NAMES[0]]
    labels = load_atlas("aal").on_grid(Grid(model.shape, model.grid.affine)).labels.array
    job = job_of(Evaluation(model.network, brain, CPU), "area-occlusion", torch.from_numpy(labels))
    areas = _areas(job)
    lows, highs = np.stack([a.low for a in areas]), np.stack([a.high for a in areas])
    engine = choose_engine(job, lows, highs)
    assert np.minimum(engine.work(lows, highs), 1).sum() < len(areas) / 2
    some = np.linspace(0, len(areas) - 1, 5).astype(int)
    change = cover_areas(torch.zeros(1, 1, 1, 1, 1), [areas[n].mask for n in some], lows[some])
    compare(engine, FullForward(job.evaluation), lows[some], highs[some], change)
    whole = np.zeros((1, 3), np.int64), np.array([model.shape])
    spanning = choose_engine(job, *whole)
    assert isinstance(spanning.forward, FullForward) and "would take" in spanning.notes[0]


def job_of(evaluation: Evaluation, method: str, regions: Tensor | None = None) -> Job:
    decision = evaluation.decision(Target(None if evaluation.network.head == "score" else 1))
    return Job(evaluation, decision, get_method(method).complete({}), Monitor(), Companions(regions=regions))


def compare(engine: Engine, full: FullForward, lows: Places, highs: Places, change: Change) -> None:
    """Logits to 1e-5 of the largest."""
    found, expected = ({}, {})
    for forward, logits in ((engine.forward, found), (full, expected)):
        for numbers, values in forward.run(lows, highs, change):
            logits.update(zip(numbers.tolist(), values, strict=True))
    for number, value in expected.items():
        torch.testing.assert_close(found[number], value, rtol=1e-5, atol=1e-5 * max(1.0, float(value.abs().max())))


@needs_weights
@needs_head
@pytest.mark.slow
def test_a_healthy_head_as_acquired_is_called_normal(models: dict[str, Model], tmp_path: Path) -> None:
    """Colin27, lying turned in the scanner, through our own preparation, interpolated once; how many agree is said."""
    head = read_scan(HEAD)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", (9, -6, 5), degrees=True).as_matrix()
    turned[:3, 3] = 12, -25, 18
    lying = Volume(head.array, turned @ head.affine, head.source)
    found = explain_native(lying, models[NAMES[0]], ["sensitivity"], atlas=load_atlas("aal"), cache=tmp_path)
    assert found.outcome.verdict == "normal" and found.outcome.agreeing >= 4
    assert f"{found.outcome.agreeing} of 5 networks say normal" in found.outcome.headline()
    # The table is that of the head as it lay, and the networks' top tens are in it.
    columns = found.heatmaps[0].table.columns
    assert np.nansum(columns["member_top_ten"]) == 5 * 10 and columns["voxels"].sum() == head.array.size
    interpolated = [s for s in found.provenance["preprocessing"] if s.get("interpolation", "none") != "none"]
    assert [s["step"] for s in interpolated] == ["registration and resampling"]
