"""The benchmark with known truth: every metric against an independent computation, and the bench itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from sklearn.metrics import average_precision_score, precision_recall_curve
from small_grid import SMALL_AFFINE, SMALL_SHAPE

from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import GridMismatchError, ScanError, UnknownNameError, UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.simulation.anatomy import Anatomy, atrophy_field
from ADAttributionLogic.truth import metrics
from ADAttributionLogic.truth.contestants import CONTESTANTS, Contestant, choose_contestants
from ADAttributionLogic.truth.patients import CONTROLS, BenchmarkData
from ADAttributionLogic.truth.scoring import Bench, map_of, prepare_bench, read_result, run_maps, run_shared, see
from ADAttributionLogic.truth.shared_work import in_processes
from ADAttributionLogic.truth.summary import METRICS, summarise, table_text, write_figure
from ADAttributionLogic.volume import Volume, resample


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    relevance = generator.normal(size=5000).round(2)  # with many equal values
    return relevance, (relevance + generator.normal(size=5000) * 2 > 3)


# ------------------------------------------------------------------------------------------------------------ metrics


def test_average_precision_is_sklearns(case: tuple[np.ndarray, np.ndarray]) -> None:
    relevance, truth = case
    found = metrics.average_precision(relevance, metrics.order_of(relevance), truth)
    assert found == pytest.approx(average_precision_score(truth, relevance), abs=1e-12)
    flat = np.zeros(5000)
    assert metrics.average_precision(flat, metrics.order_of(flat), truth) == pytest.approx(truth.mean())


def test_precision_is_that_of_the_curve() -> None:
    relevance = np.random.default_rng(1).permutation(400).astype(float)
    truth = np.random.default_rng(2).random(400) < 0.2
    order = metrics.order_of(relevance)
    precision, _, thresholds = precision_recall_curve(truth, relevance)
    for count in (1, 7, 80):
        at = np.searchsorted(thresholds, np.sort(relevance)[-count])
        assert metrics.precision_at(order, truth, count) == pytest.approx(precision[at])
    with pytest.raises(ValueError, match="precision at 0 of 400"):
        metrics.precision_at(order, truth, 0)


def test_mass_accuracy_counts_what_speaks_for_the_class() -> None:
    relevance, truth = np.array([3.0, 1.0, -5.0, 0.0]), np.array([True, False, True, True])
    assert metrics.mass_accuracy(relevance, truth) == 0.75
    assert metrics.mass_accuracy(-np.ones(4), truth) == 0


def test_equal_values_are_taken_in_their_order() -> None:
    assert metrics.order_of(np.array([1.0, 2.0, 2.0, 1.0])).tolist() == [1, 2, 0, 3]


def test_small_regions_are_not_ranked() -> None:
    densities, is_ranked = np.array([9.0, 5.0, 4.0, 3.0]), np.array([False, True, True, True])
    is_affected = np.array([False, True, False, True])
    assert metrics.top_regions(densities, is_ranked, is_affected, 1) == 1
    assert metrics.top_regions(densities, is_ranked, is_affected, 2) == 0.5


def test_the_earth_movers_distance_on_a_line_is_scipys() -> None:
    generator = np.random.default_rng(3)
    places, first, second = generator.normal(size=12), generator.random(12), generator.random(12)
    first[[2, 5]] = 0
    expected = wasserstein_distance(places, places, first, second)
    assert metrics.earth_movers_distance(first, second, places[:, None]) == pytest.approx(expected, abs=1e-9)


def test_the_earth_movers_distance_in_space_by_hand() -> None:
    places = np.array([[0.0, 0, 0], [3, 4, 0], [0, 0, 12]])
    assert metrics.earth_movers_distance(np.array([2.0, 0, 0]), np.array([0, 1.0, 0]), places) == pytest.approx(5)
    assert metrics.earth_movers_distance(np.array([1.0, 1, 0]), np.array([0, 1.0, 1]), places) == pytest.approx(6)
    assert metrics.earth_movers_distance(np.ones(3), np.ones(3), places) == pytest.approx(0, abs=1e-12)
    assert np.isnan(metrics.earth_movers_distance(np.zeros(3), np.ones(3), places))
    with pytest.raises(ValueError, match="negative"):
        metrics.earth_movers_distance(np.array([-1.0, 1, 1]), np.ones(3), places)


def test_the_earth_movers_distance_of_amounts_of_very_different_size() -> None:
    """As of regions' sums, the smallest of which are a millionth of a millionth; by moving all from the first place."""
    generator = np.random.default_rng(0)
    places = generator.normal(size=(136, 3)) * 40
    for _ in range(20):
        amounts = generator.random(136) ** 8
        alone = np.zeros(136)
        alone[generator.integers(136)] = 1e-6
        expected = (np.linalg.norm(places - places[alone > 0], axis=1) * amounts).sum() / amounts.sum()
        assert metrics.earth_movers_distance(amounts, alone, places) == pytest.approx(expected, rel=1e-5)
        assert metrics.earth_movers_distance(amounts, generator.random(136) ** 8, places) > 0


def test_the_area_under_a_curve_is_its_mean_height() -> None:
    assert metrics.area_under([0, 0.05, 0.2], [1, 1, 1]) == 1
    assert metrics.area_under([0, 0.1, 0.2], [1, 0.5, 0]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="rise"):
        metrics.area_under([0, 0], [1, 1])


def test_the_bootstrap_repeats_and_covers_as_it_says() -> None:
    generator = np.random.default_rng(4)
    assert metrics.bootstrap_interval(np.arange(9.0)) == metrics.bootstrap_interval(np.arange(9.0))
    covered = 0
    for _ in range(200):
        low, high = metrics.bootstrap_interval(generator.normal(5, 1, size=30), resamples=500)
        covered += low <= 5 <= high
    assert 0.88 <= covered / 200 <= 0.99


# ------------------------------------------------------------------------------------------------- table and results


def results(folder: Path, name: str, values: list[float], probability: float = 0.9) -> None:
    (folder / name).mkdir(parents=True)
    for number, value in enumerate(values, start=1):
        document = {"key": "k", "patient": "p", "probability": probability, "metrics": dict.fromkeys(METRICS, value)}
        (folder / name / f"patient-{number:02d}.json").write_text(json.dumps(document), encoding="utf-8")


def test_the_table_holds_the_true_positives_and_repeats(tmp_path: Path) -> None:
    results(tmp_path, "noise", [0.25, 0.75])
    results(tmp_path, "deeplift", [1.0])
    results(tmp_path, "another tool", [0.5])
    results(tmp_path, "missed", [0.5], probability=0.4)
    rows = summarise(tmp_path, range(1, 31))
    assert [(row.contestant, row.patients) for row in rows] == [("deeplift", 1), ("noise", 2), ("another tool", 1)]
    assert rows[1].figures["deletion_5"] == (0.5, 0.25, 0.75)
    assert table_text(rows) == table_text(summarise(tmp_path, range(1, 31)))
    assert table_text(rows).splitlines()[2].startswith("noise\t2\t0.500\t0.250\t0.750\t")
    for name in ("first.png", "second.png"):
        write_figure(rows, tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_a_result_of_another_question_is_not_taken(tmp_path: Path) -> None:
    results(tmp_path, "noise", [0.25])
    path = tmp_path / "noise" / "patient-01.json"
    assert read_result(path, "k") is not None and read_result(path, "other") is None
    path.write_text("{", encoding="utf-8")
    assert read_result(path) is None


def test_contestants_are_chosen_by_name_and_differ() -> None:
    assert choose_contestants("all") == CONTESTANTS
    assert [c.name for c in choose_contestants("noise, lrp")] == ["noise", "lrp"]
    with pytest.raises(UnknownNameError, match="edge-filter"):
        choose_contestants("edge-filtr")
    assert len({c.name for c in CONTESTANTS}) == len({c.fingerprint for c in CONTESTANTS}) == len(CONTESTANTS)


# -------------------------------------------------------------------------------------------------- bit for bit again


def small_bench(package: str, data: str) -> Bench:
    """The bench on a grid of 2.5 mm, with an untrained network."""
    grid = Grid(SMALL_SHAPE, SMALL_AFFINE)
    atlas = load_atlas("neuromorphometrics").on_grid(grid)
    anatomy = Anatomy(resample(load_template(), grid), atlas, atrophy_field(atlas))
    return prepare_bench(BenchmarkData(anatomy, data), load_model(package))


def test_maps_and_scores_repeat_bit_for_bit_whatever_the_number_of_processes(
    small_package: Path, tmp_path: Path
) -> None:
    """Also those with random numbers in them, and on patients who were simulated again."""
    chosen = choose_contestants("lrp,deeplift-gamma,guided-backprop,smoothgrad,grad-cam,occlusion-20,edge-filter,noise")
    files = {}
    for jobs in (1, 2):
        bench = (small_bench, (str(small_package), str(tmp_path / f"data-{jobs}")))
        done = list(run_shared(*bench, [1, 2], chosen, tmp_path / f"results-{jobs}", jobs))
        assert sorted(done) == sorted((f"patient-0{n}", c.name, False) for n in (1, 2) for c in chosen)
        paths = sorted((tmp_path / f"results-{jobs}").rglob("*.json"))
        files[jobs] = {path.relative_to(tmp_path / f"results-{jobs}"): path.read_bytes() for path in paths}
    assert len(files[1]) == 2 * len(chosen) and files[1] == files[2]
    here = small_bench(str(small_package), str(tmp_path / "data-2"))
    for contestant in chosen:
        first, second = (map_of(here, see(here, 1), contestant, 1) for _ in range(2))
        assert first.any() and np.array_equal(first, second), contestant.name


def test_the_contrast_is_what_the_margin_between_the_classes_has(small_package: Path, tmp_path: Path) -> None:
    """Of gradient × input, whose margin is another derivation: the gradient of the difference, in one pass."""
    bench = small_bench(str(small_package), str(tmp_path))
    seen = see(bench, 1)
    found = map_of(bench, seen, Contestant("x", "model", "gradient-x-input", variant="contrast"), 1)
    expected = attribute(seen.evaluation, "gradient-x-input", Target(1, "margin")).heatmap
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_rank_by_z_puts_regions_in_the_order_of_their_distance_from_the_controls(
    small_package: Path, tmp_path: Path
) -> None:
    """Of gradient × input, by hand: z of each region's sum against the twenty controls, in float64."""
    bench = small_bench(str(small_package), str(tmp_path))
    seen, labels = see(bench, 1), bench.index.atlas.labels.array
    found = map_of(bench, seen, Contestant("x", "model", "gradient-x-input", variant="z"), 1)
    scans = (bench.model.normalisation.apply(bench.data.control(n))[0] for n in range(CONTROLS))
    controls = [Evaluation(bench.model.network, torch.from_numpy(x)[None, None], bench.device) for x in scans]
    maps = [attribute(one, "gradient-x-input", Target(1)).heatmap for one in (seen.evaluation, *controls)]
    z, means, voxels = [], [], []
    for region in bench.index.regions:
        inside = labels == region.label
        own, *others = (float(each[inside].sum(dtype=np.float64)) for each in maps)
        deviation = np.std(others, ddof=1)
        z.append((own - np.mean(others)) / deviation if deviation else 0.0)
        means.append(found[inside].mean())
        voxels.append(np.array_equal(np.argsort(found[inside]), np.argsort(maps[0][inside], kind="stable")))
    assert len(z) > 50 and np.array_equal(np.argsort(z, kind="stable"), np.argsort(means)) and all(voxels)
    assert not found[bench.index.outside.reshape(found.shape)].any()


def test_work_is_shared_among_one_process_or_more() -> None:
    assert sorted(in_processes(abs, [-3, 2], 2)) == [(-3, 3), (2, 2)]
    assert list(in_processes(abs, [], 2)) == []
    with pytest.raises(UsageError, match="not among 0"):
        list(in_processes(abs, [1], 0))
    with pytest.raises(TypeError):
        list(in_processes(abs, ["what fails is heard of"], 1))


# -------------------------------------------------------------------------------------------------- another tool's maps


def test_maps_of_another_tool_must_lie_on_the_scans_grid(tmp_path: Path) -> None:
    template = Volume(np.ones((6, 7, 8), dtype=np.float32), np.diag([1.0, 1, 1, 1]))
    bench = SimpleNamespace(data=SimpleNamespace(anatomy=SimpleNamespace(template=template)), key="k")
    maps, kept = tmp_path / "my-tool", tmp_path / "results"
    maps.mkdir()

    def run_them() -> None:
        list(run_maps(bench, range(1, 2), maps, kept))  # type: ignore[arg-type]

    with pytest.raises(ScanError, match="no map patient-01.nii.gz.*--export"):
        run_them()
    shifted = np.diag([1.0, 1, 1, 1])
    shifted[0, 3] = 2
    nib.save(nib.Nifti1Image(np.ones((6, 7, 8), dtype=np.float32), shifted), maps / "patient-01.nii.gz")
    with pytest.raises(GridMismatchError, match="Resample the map"):
        run_them()
    holes = np.ones((6, 7, 8), dtype=np.float32)
    holes[2, 2, 2] = np.nan
    nib.save(nib.Nifti1Image(holes, template.affine), maps / "patient-01.nii.gz")
    with pytest.raises(ScanError, match="not numbers"):
        run_them()
    assert not kept.exists()
