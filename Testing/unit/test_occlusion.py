"""Occlusion by box, voxel and region: what is covered, by what, where the values stand, and what happens on a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import PublishedStyle, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import Cancelled, GridMismatchError, OutputError, UnknownNameError, UsageError
from ADAttributionLogic.incremental import forward
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import LogitsOf, Network, explainable
from ADAttributionLogic.occlusion.covering import FullForward, cover_boxes
from ADAttributionLogic.occlusion.voxels import Refinement, fill_gaps
from ADAttributionLogic.occlusion.windows import WindowGrid

CPU = torch.device("cpu")
#: So large that following what a window changes is less work than full passes; the brain is small.
SHAPE = (100, 100)


def evaluate(network: nn.Module, x: Tensor) -> Evaluation:
    return Evaluation(explainable(network, x.shape[1:]), x, CPU)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return make_lively(PublishedStyle(2, size=100))


@pytest.fixture
def scan() -> Tensor:
    """With an empty border, like a skull-stripped brain."""
    x = image(1, 2, SHAPE)
    return torch.where(torch.from_numpy(box((4, 3), (16, 17))), x, 0.0)


def probability(network: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float(torch.softmax(network(x), 1)[0, 1])


def drop(network: nn.Module, x: Tensor, mask: np.ndarray, fill: Tensor | float = 0.0) -> float:
    covered = torch.where(torch.from_numpy(mask), torch.as_tensor(fill, dtype=x.dtype), x)
    return probability(network, x) - probability(network, covered)


def box(low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


# ---------------------------------------------------------------------------------------------------------------- fills


@pytest.mark.parametrize("fill", ["zero", "mean", "blur", "reference", "0.7", -1])
def test_what_covers_the_voxels(network: nn.Module, scan: Tensor, fill: str | float) -> None:
    reference = image(1, 2, SHAPE, seed=5)
    result = attribute(
        evaluate(network, scan),
        "occlusion",
        Target(1),
        {"size": 6, "stride": 6, "fill": fill, "signed": True, "blur": 2},
        companions=Companions(reference=reference),
    )
    from scipy.ndimage import gaussian_filter

    value = {
        "zero": 0.0,
        "mean": float(scan[scan != 0].mean()),
        "blur": torch.from_numpy(gaussian_filter(scan.numpy(), (0, 0, 2, 2), mode="nearest")),
        "reference": reference,
    }.get(str(fill))
    expected = drop(network, scan, box((9, 3), (15, 9)), float(fill) if value is None else value)
    assert result.heatmap[10, 4] == pytest.approx(expected, abs=1e-12)


def test_fills_that_make_no_sense(network: nn.Module, scan: Tensor) -> None:
    evaluation = evaluate(network, scan)
    with pytest.raises(UnknownNameError, match="no fill named 'blurr'. Did you mean blur"):
        attribute(evaluation, "occlusion", options={"fill": "blurr"})
    with pytest.raises(UsageError, match="finite number, but is nan"):
        attribute(evaluation, "occlusion", options={"fill": "nan"})
    with pytest.raises(UsageError, match="needs a reference image"):
        attribute(evaluation, "occlusion", options={"fill": "reference"})
    with pytest.raises(GridMismatchError, match="1×1×3×3 .* 1×1×100×100"):
        small = Companions(reference=torch.zeros(1, 1, 3, 3))
        attribute(evaluation, "occlusion", options={"fill": "reference"}, companions=small)


# ---------------------------------------------------------------------------------------------------- masks and placing


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 5), (1, 1)])
def test_only_windows_that_touch_the_mask_are_covered(size: int, stride: int) -> None:
    grid = WindowGrid((13, 11), size, stride)
    mask = np.random.default_rng(0).random((13, 11)) > 0.93
    expected = np.array([mask[b].any() for b in grid.boxes()]).reshape(grid.counts)
    np.testing.assert_array_equal(grid.touching(mask), expected)
    lows, highs = grid.limits(expected)
    chosen = [b for b, touches in zip(grid.boxes(), expected.ravel(), strict=True) if touches]
    assert [
        tuple(slice(*p) for p in zip(a, b, strict=True)) for a, b in zip(lows.tolist(), highs.tolist(), strict=True)
    ] == chosen


@pytest.mark.parametrize("mask", ["brain", "atlas", "5", "given"])
def test_the_map_is_restricted_to_the_mask(network: nn.Module, scan: Tensor, mask: str) -> None:
    regions = torch.zeros(SHAPE, dtype=torch.int)
    regions[5:9, 5:9], regions[12:14, 6:12] = 3, 5
    given = torch.from_numpy(box((6, 6), (9, 12)))
    companions = Companions(regions=regions, mask=given)
    options = {"size": 4, "stride": 2, "signed": True}
    everywhere = attribute(evaluate(network, scan), "occlusion", Target(1), options).heatmap
    result = attribute(
        evaluate(network, scan), "occlusion", Target(1), {**options, "mask": mask}, companions=companions
    )
    inside = {"brain": scan[0, 0] != 0, "atlas": regions > 0, "5": regions == 5, "given": given}[mask].numpy()
    np.testing.assert_array_equal(result.heatmap, np.where(inside, everywhere, 0))


def test_a_mask_between_the_windows_and_an_atlas_without_regions(network: nn.Module, scan: Tensor) -> None:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[5, 5] = True
    options, evaluation = {"size": 2, "stride": 10, "mask": "given"}, evaluate(network, scan)
    with pytest.raises(
        UsageError, match="No box touches the mask 'given': boxes of 2 voxels, 10 apart.*smaller stride"
    ):
        attribute(evaluation, "occlusion", Target(1), options, companions=Companions(mask=mask))
    with pytest.raises(UsageError, match="No region of the atlas lies in the image"):
        attribute(evaluation, "area-occlusion", Target(1), regions=torch.zeros(SHAPE, dtype=torch.int32))


def test_masks_that_make_no_sense(network: nn.Module, scan: Tensor) -> None:
    def run(name: str, **companions: Tensor) -> None:
        attribute(evaluate(network, scan), "occlusion", options={"mask": name}, companions=Companions(**companions))

    with pytest.raises(UnknownNameError, match="no mask named 'brains'. Did you mean brain"):
        run("brains")
    with pytest.raises(UsageError, match="'3' needs an atlas"):
        run("3")
    with pytest.raises(UsageError, match="no voxel with the label 4"):
        run("4", regions=torch.ones(SHAPE, dtype=torch.int))
    with pytest.raises(UsageError, match="needs a mask; none was given"):
        run("given")
    with pytest.raises(UsageError, match="holds no voxel"):
        run("given", mask=torch.zeros(SHAPE, dtype=torch.bool))
    with pytest.raises(GridMismatchError, match="3×3 voxels, the image 100×100"):
        run("given", mask=torch.ones(3, 3, dtype=torch.bool))


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 5)])
def test_the_nearest_window_on_request(size: int, stride: int) -> None:
    grid = WindowGrid((13, 11), size, stride)
    values = torch.arange(1.0, 1 + int(np.prod(grid.counts))).reshape(grid.counts)
    placed = grid.place(values, overlaps="nearest")
    for voxel in np.ndindex(13, 11):
        centres = [np.arange(0, n, stride) for n in (13, 11)]
        nearest = [c.size - 1 - int(np.abs(c - v)[::-1].argmin()) for c, v in zip(centres, voxel, strict=True)]
        assert placed[voxel] == values[tuple(nearest)]


# -------------------------------------------------------------------------------------------------------------- targets


def test_the_margin_is_of_the_class_over_the_best_other() -> None:
    torch.manual_seed(1)
    network, x = make_lively(PublishedStyle(2, size=100, classes=3)), image(1, 2, SHAPE)
    covered = torch.where(torch.from_numpy(box((9, 9), (11, 11))), 0.0, x)

    def margin(logits: Tensor) -> float:
        return float(logits[0, 1] - max(logits[0, 0], logits[0, 2]))

    options = {"size": 2, "stride": 10, "signed": True}
    result = attribute(evaluate(network, x), "occlusion", Target(1, "margin"), options)
    assert result.score == pytest.approx(margin(network(x)))
    assert result.heatmap[9, 9] == pytest.approx(margin(network(x)) - margin(network(covered)), abs=1e-12)
    gradient = attribute(evaluate(network, x), "sensitivity", Target(1, "margin"), {"postprocess": "signed"}).values
    x.requires_grad_(True)
    logits = network(x)
    (expected,) = torch.autograd.grad(logits[0, 1] - torch.stack([logits[0, 0], logits[0, 2]]).max(), x)
    np.testing.assert_allclose(gradient, expected[0], atol=1e-12)


def test_only_what_speaks_for_the_class_is_shown_unless_signed(network: nn.Module, scan: Tensor) -> None:
    options = {"size": 4, "stride": 3}
    signed = attribute(
        evaluate(network, scan), "occlusion", Target(1), {**options, "overlaps": "nearest", "signed": True}
    )
    clipped = attribute(evaluate(network, scan), "occlusion", Target(1), {**options, "overlaps": "nearest"})
    assert (signed.heatmap < 0).any()
    np.testing.assert_array_equal(clipped.heatmap, np.maximum(signed.heatmap, 0))


# ------------------------------------------------------------------------------------------------------------ fallbacks


def test_full_passes_take_many_windows_at_a_time() -> None:
    """Windows of different sizes; one that changes nothing has the image's own logits, to the bit."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(7 * 8 * 9, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    x = image(1, 3, (7, 8, 9))
    x[..., 5:] = 0
    evaluation = Evaluation(explainable(network, x.shape[1:]), x, torch.device("cpu"))
    lows, highs = np.array([[0, 0, 0], [1, 2, 5], [3, 3, 3]]), np.array([[7, 8, 9], [4, 5, 7], [5, 4, 9]])
    full = FullForward(evaluation)
    assert full.batch_size == 256
    ((numbers, logits),) = full.run(lows, highs, cover_boxes(torch.zeros(1, 1, 1, 1, 1).double(), lows, highs))
    assert numbers.tolist() == [0, 1, 2] and torch.equal(logits[1], evaluation.logits[0])
    for low, high, row in zip(lows, highs, logits, strict=True):
        covered = x.clone()
        covered[(0, 0, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 0
        torch.testing.assert_close(row, network(covered)[0].detach(), rtol=0, atol=1e-12)


def test_why_full_passes_were_used(network: nn.Module, scan: Tensor) -> None:
    """The same map, with the reason: unknown layers, a first layer that couples everything, or boxes too large."""
    options = {"size": 6, "stride": 8, "signed": True}

    def run(explained: object, **more: object) -> Attribution:
        return attribute(Evaluation(explained, scan, CPU), "occlusion", Target(1), {**options, **more})

    followed = run(explainable(network, (1, *SHAPE)))
    assert followed.notes == ()
    unknown = run(_opaque(network))
    assert "Full forward passes were used for every window: the layers of" in unknown.notes[0]
    assert "it is a test" in unknown.notes[0]
    np.testing.assert_allclose(unknown.heatmap, followed.heatmap, atol=1e-12)
    large = run(explainable(network, (1, *SHAPE)), size=200, stride=125)
    assert "% of a full pass" in large.notes[0]
    dense = nn.Sequential(nn.Flatten(), nn.Linear(10000, 2)).double().eval()
    assert "its first layer" in run(explainable(dense, (1, *SHAPE))).notes[0]


def _opaque(network: nn.Module) -> object:
    return Network((1, *SHAPE), "softmax", 2, None, LogitsOf(network, False), "it is a test", "the network")


# --------------------------------------------------------------------------------------------------------------- voxels


def test_every_voxel_of_the_brain_is_covered_once(network: nn.Module, scan: Tensor) -> None:
    result = attribute(evaluate(network, scan), "voxel-occlusion", Target(1), {"signed": True})
    boxes = attribute(
        evaluate(network, scan), "occlusion", Target(1), {"size": 1, "stride": 1, "mask": "brain", "signed": True}
    )
    np.testing.assert_allclose(result.heatmap, boxes.heatmap, atol=1e-13)
    assert result.heatmap[10, 10] == pytest.approx(drop(network, scan, box((10, 10), (11, 11))), abs=1e-12)
    assert not result.is_partial and result.notes == ()


def test_passes_halve_the_distance() -> None:
    refinement = Refinement.of(np.ones((16, 16), dtype=bool), 8)
    passes = dict(refinement.passes())
    assert list(passes) == [8, 4, 2, 1] and [len(n) for n in passes.values()] == [4, 12, 48, 192]
    assert sorted(np.concatenate(list(passes.values())).tolist()) == list(range(256))


def test_gaps_show_the_nearest_voxel_that_was_covered() -> None:
    values = np.full((1, 7), np.nan)
    values[0, 1], values[0, 5] = 3, 4
    mask = np.array([[True] * 6 + [False]])
    np.testing.assert_array_equal(fill_gaps(values, mask)[0, [0, 1, 2, 4, 5, 6]], [3, 3, 3, 4, 4, 0])


def stopping_after(batches: int) -> Monitor:
    """A user who cancels once so many batches are done."""
    seen: list[str] = []
    return Monitor(lambda _, text: seen.append(text), lambda: sum("covered:" in t for t in seen) > batches)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(forward.MAX_BATCH, "cpu", 20)


@pytest.mark.usefixtures("small_batches")
def test_a_cancelled_run_returns_what_is_finished_and_says_how_far(network: nn.Module, scan: Tensor) -> None:
    complete = attribute(evaluate(network, scan), "voxel-occlusion", Target(1)).heatmap
    result = attribute(evaluate(network, scan), "voxel-occlusion", Target(1), monitor=stopping_after(3))
    assert result.is_partial and "Cancelled after" in result.notes[0] and "of 168 voxels" in result.notes[0]
    assert "100% of those at every 8" in result.notes[0]
    brain = scan[0, 0].numpy() != 0
    exact = (result.heatmap == complete) & brain
    assert 40 <= exact.sum() < 168
    assert set(result.heatmap[brain]) <= set(complete[brain]), "the others show a neighbour's value"
    with pytest.raises(Cancelled):
        attribute(evaluate(network, scan), "voxel-occlusion", Target(1), monitor=stopping_after(-1))


@pytest.mark.usefixtures("small_batches")
def test_a_run_stops_when_its_minutes_are_up(network: nn.Module, scan: Tensor) -> None:
    result = attribute(evaluate(network, scan), "voxel-occlusion", Target(1), {"minutes": 0})
    assert result.is_partial and "The 0 minutes were up after" in result.notes[0]


@pytest.mark.usefixtures("small_batches")
def test_a_run_is_resumed_from_its_checkpoint(network: nn.Module, scan: Tensor, tmp_path: Path) -> None:
    options = {"checkpoint": str(tmp_path / "run.npz")}
    complete = attribute(evaluate(network, scan), "voxel-occlusion", Target(1)).heatmap
    attribute(evaluate(network, scan), "voxel-occlusion", Target(1), options, monitor=stopping_after(3))
    texts: list[str] = []
    monitor = Monitor(lambda _, text: texts.append(text))
    resumed = attribute(evaluate(network, scan), "voxel-occlusion", Target(1), options, monitor=monitor)
    np.testing.assert_array_equal(resumed.heatmap, complete)
    assert "voxels came from the checkpoint run.npz" in resumed.notes[0] and not resumed.is_partial
    left = int(next(t for t in texts if "in all" in t).split(": ")[1].split(" ")[0])
    assert 0 < left < 168
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"], "written in one go"
    signed = attribute(evaluate(network, scan), "voxel-occlusion", Target(1), {**options, "signed": True})
    assert (signed.heatmap < 0).any(), "values are kept with their sign"


def test_a_foreign_checkpoint_is_refused_by_name(network: nn.Module, scan: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    options = {"checkpoint": str(path)}

    def run(x: Tensor = scan, target: Target | None = None, **more: object) -> Attribution:
        return attribute(evaluate(network, x), "voxel-occlusion", target or Target(1), {**options, **more})

    run()
    with pytest.raises(UsageError, match=r"run.npz belongs to another run: image differ"):
        run(scan * 1.5)
    with pytest.raises(UsageError, match="fill differ"):
        run(fill="0.5")
    with pytest.raises(UsageError, match="target differ"):
        run(target=Target(0))
    with pytest.raises(UsageError, match="mask"):
        run(mask="all")
    network.dense_2.bias.data += 1
    with pytest.raises(UsageError, match="network differ"):
        run()
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="not a checkpoint of this program"):
        run()
    assert path.read_bytes() == b"not a checkpoint", "and it is left alone"
    options["checkpoint"] = str(tmp_path / "nowhere" / "run.npz")
    with pytest.raises(OutputError, match="cannot be written"):
        run()


def test_nothing_in_a_checkpoint_is_executed(network: nn.Module, scan: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    np.savez(path, identity=np.array([print], dtype=object), values=np.zeros(3))
    with pytest.raises(UsageError, match="not a checkpoint"):
        attribute(evaluate(network, scan), "voxel-occlusion", Target(1), {"checkpoint": str(path)})


# -------------------------------------------------------------------------------------------------------------- regions


def test_regions_of_any_shape_even_overlapping(network: nn.Module, scan: Tensor) -> None:
    generator = np.random.default_rng(0)
    masks = {2: generator.random(SHAPE) > 0.7, 7: box((5, 5), (9, 12)), 9: box((8, 8), (15, 15))}
    areas = {label: torch.from_numpy(mask) for label, mask in masks.items()}
    result = attribute(
        evaluate(network, scan), "area-occlusion", Target(1), {"signed": True}, companions=Companions(areas=areas)
    )
    expected = {label: drop(network, scan, mask) for label, mask in masks.items()}
    assert result.region_drops == pytest.approx(expected, abs=1e-12)
    hits = sum(mask.astype(int) for mask in masks.values())
    total = sum(expected[label] * mask for label, mask in masks.items())
    np.testing.assert_allclose(result.heatmap, total / np.maximum(hits, 1), atol=1e-12)
    assert f"{(hits > 1).sum()} voxels lie in several regions" in result.notes[-1]


def test_pairs_of_regions_interact(network: nn.Module, scan: Tensor) -> None:
    masks = {1: box((5, 5), (9, 9)), 4: box((9, 9), (14, 14)), 6: box((4, 14), (6, 16))}
    areas = {label: torch.from_numpy(mask) for label, mask in masks.items()}
    result = attribute(
        evaluate(network, scan), "area-occlusion", Target(1), {"pairs": 2}, companions=Companions(areas=areas)
    )
    (pair,) = result.region_pairs
    drops = {label: drop(network, scan, mask) for label, mask in masks.items()}
    assert {pair.first, pair.second} == set(sorted(drops, key=lambda k: -abs(drops[k]))[:2])
    both = drop(network, scan, masks[pair.first] | masks[pair.second])
    assert pair.drop == pytest.approx(both, abs=1e-12)
    assert pair.interaction == pytest.approx(both - drops[pair.first] - drops[pair.second], abs=1e-12)
    assert result.summary()["region_pairs"][0]["interaction"] == pair.interaction


def test_areas_that_make_no_sense(network: nn.Module, scan: Tensor) -> None:
    def run(mask: Tensor) -> None:
        attribute(evaluate(network, scan), "area-occlusion", companions=Companions(areas={3: mask}))

    with pytest.raises(UsageError, match="Area 3 has no voxel"):
        run(torch.zeros(SHAPE, dtype=torch.bool))
    with pytest.raises(GridMismatchError, match="Area 3 has 4×4 voxels, the image 100×100"):
        run(torch.ones(4, 4, dtype=torch.bool))


# ------------------------------------------------------------------------------------------------------------- progress


@pytest.mark.usefixtures("small_batches")
def test_progress_rises_and_counts_the_windows(network: nn.Module, scan: Tensor) -> None:
    seen: list[tuple[float, str]] = []
    monitor = Monitor(lambda fraction, text: seen.append((fraction, text)))
    attribute(evaluate(network, scan), "occlusion", Target(1), {"size": 2, "stride": 10}, monitor=monitor)
    fractions = [f for f, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert [t for _, t in seen if "windows" in t][:2] == [
        "occlusion windows: 100 in all",
        "occlusion windows: 20 of 100",
    ]


@pytest.mark.usefixtures("small_batches")
def test_cancelling_takes_effect_within_one_batch(network: nn.Module, scan: Tensor) -> None:
    seen: list[str] = []
    monitor = Monitor(lambda _, text: seen.append(text), lambda: any("20 of 100" in text for text in seen))
    with pytest.raises(Cancelled):
        attribute(evaluate(network, scan), "occlusion", Target(1), {"size": 2, "stride": 10}, monitor=monitor)
    assert "40 of 100" not in " ".join(seen)


def test_the_time_left_is_what_the_measured_pace_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from ADAttributionLogic.occlusion import covering

    clock = iter([100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(covering.time, "perf_counter", lambda: next(clock))
    seen: list[tuple[float, str]] = []
    pace = covering.Pace(Monitor(lambda f, t: seen.append((f, t))), "windows", 100, 10.0)
    for _ in range(3):
        pace.advance(10, 1.0)
    pace.advance(10, 1.0, at_least=0.9, at_most_seconds=3.0)
    assert seen[-1][0] == 0.9, "a budget of time ends it sooner"
    assert [text for _, text in seen] == [
        "windows: 100 in all",
        "windows: 10 of 100",  # the first batch pays for what is computed once, and says nothing about the others
        "windows: 20 of 100, about 80 s left",
        "windows: 30 of 100, about 70 s left",
        "windows: 40 of 100, about 3 s left",
    ]
    assert covering.describe_duration(600) == "about 10 min" and covering.describe_duration(6000) == "about 1 h 40 min"
