"""What if: covering parts of a scan moves the answer as a full forward pass of the covered scan says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from small_networks import PublishedStyle, always_in_boxes, make_lively
from torch import Tensor, nn

from ADAttributionLogic.atlas.atlas import Atlas, Region
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.errors import GridMismatchError, ReferenceCohortError, UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.loading import load_model, model_from_module
from ADAttributionLogic.networks.packages import Member, Model
from ADAttributionLogic.registration.space_transform import SpaceTransform, warp_of_points
from ADAttributionLogic.volume import Volume
from ADAttributionLogic.whatif import warm
from ADAttributionLogic.whatif.covers import PUTS, Box, Cover, Drawn, Regions, read_cover
from ADAttributionLogic.whatif.filling import Subject
from ADAttributionLogic.whatif.mirroring import has_mirror_image, mirrored, symmetry_of
from ADAttributionLogic.whatif.opening import mean_scan_for, open_session, warm_session
from ADAttributionLogic.whatif.placing import Placing
from ADAttributionLogic.whatif.session import MEMORY_BYTES, Session
from ADAttributionLogic.whatif.warm import Composition

SHAPE = (21, 22, 20)
#: 2 mm, middle of the brain at the middle voxel.
AFFINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, -22], [0, 0, 2, -18], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)


class Network(nn.Module):
    """Conv-BN-ReLU-MaxPool twice and two dense layers, for a grid that is no cube."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = PublishedStyle(3)
        self.body.dense_1 = nn.Linear(5 * 3 * 4 * 3, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@cache
def network(seed: int = 0) -> nn.Module:
    return make_lively(Network(seed), seed)


@cache
def traced(seed: int = 0) -> Model:
    return model_from_module(network(seed), SHAPE, classes=("CN", "AD"))


@pytest.fixture
def image() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(1, 1, *SHAPE, dtype=torch.float64, generator=generator)


@pytest.fixture
def mean() -> Volume:
    return Volume(np.random.default_rng(4).random(SHAPE), AFFINE, "mean of controls")


def atlas(shape: tuple[int, int, int] = SHAPE) -> Atlas:
    """A pair of regions that are mirror images, and one across the middle."""
    labels = np.zeros(shape, np.int32)
    labels[2:7, 4:9, 5:9] = 1
    labels[14:19, 4:9, 5:9] = 2
    labels[8:13, 12:18, 10:15] = 3
    regions = (
        Region(1, "Cube_L", "left", "Cube"),
        Region(2, "Cube_R", "right", "Cube"),
        Region(3, "Middle", "midline", "Middle"),
    )
    return Atlas("three", Volume(labels, AFFINE), regions, "Three regions")


def model_of(*seeds: int, grid: Grid | None = GRID) -> Model:
    models = [traced(seed) for seed in seeds]
    members = tuple(
        Member(f"fold-{i}", "", lambda m=m: m.network)
        for i, m in enumerate(models)  # type: ignore[misc]
    )
    return replace(models[0], grid=grid, members=members if len(members) > 1 else ())


def opened(
    image: Tensor, model: Model | None = None, reference: Volume | None = None, transform: SpaceTransform | None = None
) -> Session:
    placing = Placing(GRID, transform, atlas())
    subject = Subject(model or model_of(0), image, placing, reference)
    return warm_session(subject, "cpu", MEMORY_BYTES, Monitor())


@pytest.fixture(params=["boxes", "full passes"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to the answer, whichever of them pays on so small a network."""
    monkeypatch.setattr(warm, "WORTH_FOLLOWING", np.inf if request.param == "boxes" else 0.0)
    with always_in_boxes() if request.param == "boxes" else nullcontext():
        yield request.param


def expected(image: Tensor, covered: Tensor, net: nn.Module | None = None) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax((net or network())(covered), 1)[0].numpy()


def values(outcome) -> np.ndarray:
    return np.array(list(outcome.values.values()))


def replaced(image: Tensor, mask: np.ndarray, put: str, mean: Volume) -> Tensor:
    """By definition, on the whole image."""
    whole = image[0, 0].numpy().copy()
    fills = {
        "zero": np.zeros(SHAPE),
        "blurred": gaussian_filter(whole, 4.0, mode="nearest"),
        "mirrored": whole[::-1],  # the grid's middle voxel lies at x = 0
        "reference": mean.array,
    }
    whole[mask] = fills[put][mask]
    return torch.from_numpy(whole)[None, None]


def box_mask(low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


#: Voxels 5–9, 8–12, 7–10: centres within 5, 5 and 4 mm of the box's centre.
BOX = Box((-6.0, -2.0, -1.0), (10.0, 10.0, 8.0))
BOX_MASK = box_mask((5, 8, 7), (10, 13, 11))


# ----------------------------------------------------------------------------------------------------- the right answer


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("what", ["box", "regions", "drawn"])
def test_the_answer_is_that_of_a_full_pass_over_the_covered_scan(image, mean, way, put, what) -> None:
    drawn = np.random.default_rng(1).random(SHAPE) < 0.02
    labels = atlas().labels.array
    covers = {
        "box": (Cover(BOX, put), BOX_MASK),
        "regions": (Cover(Regions(("cube",)), put), (labels == 1) | (labels == 2)),
        "drawn": (Cover(Drawn(Volume(drawn.astype(np.uint8), AFFINE), "mine"), put), drawn),
    }
    cover, mask = covers[what]
    trial = opened(image, reference=mean).ask([cover])
    np.testing.assert_allclose(
        values(trial.after), expected(image, replaced(image, mask, put, mean)), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(values(trial.before), expected(image, image), rtol=0, atol=1e-12)
    assert trial.voxels == mask.sum() and trial.volume_mm3 == pytest.approx(8 * mask.sum())
    assert trial.in_full == (way == "full passes") and trial.covers == (f"{cover.what.title}: {put}",)
    assert not np.allclose(values(trial.after), values(trial.before), atol=1e-6), "something has moved"


def test_several_covers_are_all_covered_the_later_over_the_earlier(image, mean, way) -> None:
    session = opened(image, reference=mean)
    first, second = Cover(BOX, "zero"), Cover(Regions(("Cube_L", 3)), "mirrored")
    labels = atlas().labels.array
    mask = (labels == 1) | (labels == 3)
    both = replaced(image, BOX_MASK, "zero", mean)
    both[0, 0][torch.from_numpy(mask)] = image[0, 0].flip(0)[torch.from_numpy(mask)]
    assert (mask & BOX_MASK).any(), "they overlap"
    trial = session.ask([first, second])
    np.testing.assert_allclose(values(trial.after), expected(image, both), rtol=0, atol=1e-9)
    assert trial.voxels == (mask | BOX_MASK).sum(), "each voxel once"
    other = session.ask([second, first])
    assert not np.allclose(values(other.after), values(trial.after), atol=1e-9), "the order counts where they overlap"


def test_taking_a_trial_back_gives_exactly_what_was_there(image, way) -> None:
    session = opened(image)
    a, b, c = Cover(Regions((1,)), "zero"), Cover(Regions((2,)), "blurred"), Cover(BOX, "mirrored")
    one = session.ask([a])
    for covers in ([a, b], [a, b, c], [a, c], [a, c], [a, c]):
        session.ask(covers)
    assert values(session.ask([a]).after).tobytes() == values(one.after).tobytes()
    nothing = session.ask([])
    assert values(nothing.after).tobytes() == values(session.before).tobytes() and nothing.voxels == 0


def test_a_box_that_moves_while_others_stay_is_followed_on_its_own(image, monkeypatch) -> None:
    """Far regions make a large box: the scan with them covered is recorded, and the moving one alone followed."""
    with always_in_boxes():
        session = opened(image)
        (_, net, _) = session._networks[0]
        monkeypatch.setattr(warm, "WORTH_FOLLOWING", 0.9)
        monkeypatch.setattr(net, "_work", lambda wanted, base: _share(wanted, base))
        standing = [Cover(Regions((1,)), "zero"), Cover(Regions((2,)), "zero")]
        found = [
            session.ask([*standing, Cover(Box((0.0, y, 8.0), (6.0, 6.0, 6.0)), "blurred")]) for y in (0.0, 4.0, 8.0)
        ]
        assert [trial.in_full for trial in found] == [1, 0, 0], "from the second time on"
        assert net._base.keys == tuple(session._put(cover).key for cover in standing)
        for trial, y in zip(found, (0.0, 4.0, 8.0), strict=True):
            fresh = opened(image).ask([*standing, Cover(Box((0.0, y, 8.0), (6.0, 6.0, 6.0)), "blurred")])
            np.testing.assert_allclose(values(trial.after), values(fresh.after), rtol=0, atol=1e-9)
        alone = session.ask([Cover(BOX, "zero")])  # what stood stands no more
        np.testing.assert_allclose(
            values(alone.after), values(opened(image).ask([Cover(BOX, "zero")]).after), atol=1e-9
        )


def _share(wanted, base) -> float:
    """Of a pass, by the box alone."""
    box = None if base is None else wanted.difference(base)
    return 1.0 if base is None else 0.0 if box is None else float(np.prod(box[1] - box[0]) / np.prod(SHAPE) * 10)


def test_every_network_of_an_ensemble_answers(image, way) -> None:
    nets = [network(seed) for seed in range(3)]
    session = opened(image, model_of(0, 1, 2))
    trial = session.ask([Cover(BOX, "zero")])
    covered = image.clone()
    covered[0, 0][torch.from_numpy(BOX_MASK)] = 0
    each = [expected(image, covered, net) for net in nets]
    assert [m.name for m in trial.after.members] == ["fold-0", "fold-1", "fold-2"]
    for member, right in zip(trial.after.members, each, strict=True):
        np.testing.assert_allclose(list(member.values.values()), right, rtol=0, atol=1e-9)
    np.testing.assert_allclose(values(trial.after), np.mean(each, axis=0), rtol=0, atol=1e-9)
    assert trial.in_full == (3 if way == "full passes" else 0)


def test_memory_has_a_bound_and_the_answer_does_not_depend_on_it(image, monkeypatch) -> None:
    monkeypatch.setattr(warm, "WORTH_FOLLOWING", np.inf)
    with always_in_boxes():
        model, cover = model_of(0, 1, 2), Cover(BOX, "zero")
        free = opened(image, model)
        right = free.ask([cover])
        need = free.held_bytes
        assert (free.warm, right.in_full) == (3, 0)
        subject = Subject(model, image, Placing(GRID, None, atlas()))
        tight = warm_session(subject, "cpu", int(need * 0.7), Monitor())
        first, trial = tight.ask([cover]), tight.ask([cover, Cover(BOX, "zero")])
        np.testing.assert_allclose(values(first.after), values(right.after), rtol=0, atol=1e-9)
        assert tight.held_bytes <= need * 0.7 and 0 < tight.warm < 3 and trial.in_full == 3 - tight.warm
        np.testing.assert_allclose(values(trial.after), values(right.after), rtol=0, atol=1e-9)
        (reason,) = {n.partition(" runs")[2] for n in tight.describe()["notes"]}
        assert "MiB that they may" in reason


def test_a_score_moves_in_its_unit(image) -> None:
    class Score(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)[:, :1]

    model = replace(model_from_module(Score(), SHAPE, output="score"), grid=GRID)
    trial = opened(image, model).ask([Cover(BOX, "zero")])
    covered = image.clone()
    covered[0, 0][torch.from_numpy(BOX_MASK)] = 0
    assert trial.after.score == pytest.approx(float(network()(covered)[0, 0].detach()), abs=1e-9)


@pytest.mark.slow
def test_at_full_size_a_box_is_followed_for_a_fraction_of_a_pass(template) -> None:
    session = open_session(template, load_model("simulated-atrophy"), atlas=load_atlas("aal"), device="cpu")
    ((_, net, _),) = session._networks
    box = Box((-24.0, -20.0, -16.0), (40.0, 40.0, 40.0))
    for put in ("zero", "blurred", "mirrored"):
        wanted = Composition(session._image, (session._put(Cover(box, put)),))
        found, right = net.answer(wanted), net.evaluation.logits_of(wanted.whole())
        assert not found.in_full and found.passes < 0.04
        assert float((found.logits - right).abs().max()) <= 1e-5 * float(right.abs().max())
    assert session.ask([Cover(box, "zero")]).voxels == 40**3
    assert session.held_bytes < 400 << 20


# ------------------------------------------------------------------------------------------------------------ the place


def turned() -> SpaceTransform:
    angle = np.radians(20)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = (30, -12, 7)
    return SpaceTransform("affine", matrix)


def warped() -> SpaceTransform:
    around = Grid((45, 45, 45), np.array([[2.0, 0, 0, -44], [0, 2, 0, -44], [0, 0, 2, -44], [0, 0, 0, 1]]))
    forward = warp_of_points(around, lambda p: p + 2 * np.sin(p[:, [1, 2, 0]] / 15))
    inverse = warp_of_points(around, lambda p: p - 2 * np.sin(p[:, [1, 2, 0]] / 15))
    return SpaceTransform("deformable", np.diag((1.0, 1.0, 1.0, 1.0)), forward, inverse)


@pytest.mark.parametrize("make", [turned, warped])
def test_a_box_on_the_scan_covers_the_voxels_that_lie_in_it(make) -> None:
    """Voxel by voxel through the transform, which the box's own way does not take."""
    transform = make()
    placing = Placing(GRID, transform)
    points = GRID.to_ras(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)).reshape(-1, 3)
    on_scan = transform.points_to_scan(points).reshape(*SHAPE, 3)
    box = Box(tuple(on_scan[9, 12, 8] + 0.37), (14.0, 11.0, 9.0))
    inside = (np.abs(on_scan - box.centre) < np.array(box.size) / 2).all(-1)
    area = placing.area(Cover(box, "zero"))
    found = np.zeros(SHAPE, bool)
    found[area.box] = area.mask
    assert inside.sum() > 100 and (found ^ inside).sum() == 0


def test_a_segment_on_the_scan_comes_through_the_transform() -> None:
    transform = turned()
    scan = Grid((40, 40, 30), np.array([[1.5, 0, 0, 0], [0, 1.5, 0, -45], [0, 0, 1.5, -15], [0, 0, 0, 1]]))
    mask = np.zeros(scan.shape, np.uint8)
    mask[15:26, 10:30, 8:20] = 5
    area = Placing(GRID, transform).area(Cover(Drawn(Volume(mask, scan.affine), "mine"), "zero"))
    found = np.zeros(SHAPE, bool)
    found[area.box] = area.mask
    points = GRID.to_ras(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)).reshape(-1, 3)
    voxels = np.rint(scan.to_voxel(transform.points_to_scan(points))).astype(int)
    there = ((voxels >= 0) & (voxels < scan.shape)).all(1)
    right = np.zeros(len(points), bool)
    right[there] = mask[tuple(voxels[there].T)] > 0
    assert right.any() and (found.ravel() ^ right).sum() == 0


def test_the_other_side_follows_the_affine_however_the_grid_is_stored() -> None:
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    for order in itertools.permutations(range(3)):
        affine = AFFINE[:, [*order, 3]] @ np.diag((1, -1, 1, 1))
        shape = tuple(SHAPE[a] for a in order)
        affine[:3, 3] -= affine[:3, 1] * (shape[1] - 1)
        stored = np.ascontiguousarray(values.transpose(order)[:, ::-1])
        grid = Grid(shape, affine)
        found = mirrored(stored, grid)[:, ::-1].transpose(np.argsort(order))
        np.testing.assert_array_equal(found, values[::-1])
    assert has_mirror_image(GRID).all()
    aside = Grid(SHAPE, AFFINE + np.array([[0, 0, 0, 6.0], *[[0.0] * 4] * 3]))
    there = has_mirror_image(aside)
    assert there.any() and not there.all()
    np.testing.assert_array_equal(there, aside.to_ras(np.stack(np.indices(SHAPE), -1))[..., 0] <= 14)


def test_the_symmetry_of_the_space_is_measured_and_said(image, template) -> None:
    exact = symmetry_of(atlas())
    assert exact is not None and (exact.pairs, exact.dice, exact.distance_mm) == (1, 1.0, 0.0) and exact.is_enough
    (note,) = opened(image).ask([Cover(BOX, "mirrored")]).notes
    assert "symmetric enough" in note and "1 pairs, worst Cube with 1.00" in note
    aal = load_atlas("aal").on_grid(template.grid)
    found = symmetry_of(aal)
    assert found is not None and found.pairs > 50 and found.is_enough and 0.5 < found.dice < 0.9
    shifted = np.array(aal.labels.affine)
    shifted[0, 3] += 12
    crooked = symmetry_of(replace(aal, labels=Volume(aal.labels.array, shifted)))
    assert crooked is not None and not crooked.is_enough and "not symmetric" in crooked.sentence("AAL")


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_what_cannot_be_covered_is_said(image, mean) -> None:
    session = opened(image)
    for cover, error, words in (
        (Cover(Regions(("Cub L",)), "zero"), UsageError, "Did you mean Cube_L"),
        (Cover(Box((900.0, 0.0, 0.0), (5.0, 5.0, 5.0)), "zero"), UsageError, "Move it onto the brain"),
        (Cover(Drawn(Volume(np.zeros(SHAPE, np.uint8), AFFINE), "empty"), "zero"), UsageError, "Nothing of empty"),
        (Cover(BOX, "reference"), UsageError, "no reference package"),
    ):
        with pytest.raises(error, match=words):
            session.ask([cover])
    nowhere = opened(image, model_of(0, grid=None))
    with pytest.raises(UsageError, match="where the middle of the brain is"):
        nowhere.ask([Cover(BOX, "mirrored")])
    with pytest.raises(GridMismatchError, match="mean scan of the reference lies on"):
        opened(image, reference=Volume(mean.array[1:], AFFINE)).ask([Cover(BOX, "reference")])


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"put": "zero"}, "names none"),
        ({"regions": ["a"], "box": {"centre": [0, 0, 0], "size": 4}}, "names regions, box"),
        ({"regions": ["a"], "put": "zeros"}, "zero"),
        ({"regions": []}, "Regions are names"),
        ({"region": ["a"]}, "regions"),
        ({"box": {"centre": [0, 0], "size": 4}}, "three numbers"),
        ({"box": {"centre": [0, 0, 0], "size": [4, 0, 4]}}, "above 0"),
        ({"box": {"centre": [0, 0, float("nan")], "size": 4}}, "above 0"),
        ({"box": 40}, "centre of three"),
        ("Hippocampus_L", "A cover is an object"),
    ],
)
def test_a_cover_that_makes_no_sense_is_refused(document, words) -> None:
    with pytest.raises(UsageError, match=words):
        read_cover(document, lambda entry: pytest.fail("no mask to read"))


def test_a_cover_is_read_from_plain_values() -> None:
    cover = read_cover({"box": {"centre": [1, 2, 3], "size": 40}, "put": "mirrored"}, lambda _: pytest.fail(""))
    assert cover.what == Box((1.0, 2.0, 3.0), (40.0, 40.0, 40.0)) and cover.put == "mirrored"
    assert cover.title == "box 40×40×40 mm at 1, 2, 3: mirrored"
    assert read_cover({"regions": "Cube_L"}, lambda _: pytest.fail("")).title == "Cube_L: blurred"


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_line_covers_and_asks(small_scan_file, small_package, capsys) -> None:
    from ADAttributionLogic.cli import main

    common = ["what-if", str(small_scan_file), "--model", str(small_package), "--atlas", "aal"]
    assert main([*common, "--region", "Hippocampus", "--box", "-24", "-20", "-16", "30", "--with", "mirrored"]) == 0
    out, notes = capsys.readouterr()
    assert "Hippocampus: mirrored; box 30×30×30 mm at -24, -20, -16: mirrored" in out and "P(AD): 0." in out
    assert " → " in out and "symmetric enough" in notes
    assert main([*common, "--region", "Hippocampus_L", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["after"]["values"]) == {"CN", "AD"} and found["covers"] == ["Hippocampus_L: blurred"]
    assert main(common) == 2 and "Nothing to cover" in capsys.readouterr().err
    assert main([*common, "--box", "1", "2", "3", "0"]) == 2 and "above 0" in capsys.readouterr().err
    assert main([*common, "--region", "3", "--with", "reference"]) == 2
    assert "needs --reference NAME" in capsys.readouterr().err
    assert main([*common, "--region", "Hypocampus_L"]) == 2
    assert "Did you mean Hippocampus_L" in capsys.readouterr().err


def test_the_mean_of_controls_is_that_of_this_network(small_model) -> None:
    from ADAttributionLogic.reference.package import available_references

    model = load_model("simulated-atrophy")
    (name,) = (folder.name for folder in available_references())
    mean = mean_scan_for(name, model)
    assert model.grid is not None and mean.grid.is_same(model.grid)
    with pytest.raises(ReferenceCohortError, match="whose weights are not those of Untrained network"):
        mean_scan_for(name, small_model)
