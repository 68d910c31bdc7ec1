"""The study of robustness: do several trainings of one network explain alike? (``robustness``)"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.atlas.atlas import Atlas, Region
from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import CohortError, UsageError
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import save_package
from ADAttributionLogic.robustness import measuring
from ADAttributionLogic.robustness.gathering import trainings_of
from ADAttributionLogic.robustness.running import run_robustness
from ADAttributionLogic.robustness.stability import (
    Relevance,
    coherence,
    consensus_coherence,
    halves,
    is_marked,
    is_unstable,
    marking,
    marking_of_unseen,
    ranks,
    relevance_of,
)
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.study.coherence import TOP
from ADAttributionLogic.volume import Volume

REGIONS = 40


def relevance(values: np.ndarray, controls: np.ndarray | None = None) -> Relevance:
    """Regions of 1 mm³, so that sums are densities."""
    count = values.shape[1]
    given = np.ones_like(values) if controls is None else controls
    return Relevance(values, given, np.ones(count), np.ones(count, dtype=bool))


def noisy(trainings: int, noise: float, seed: int = 0) -> Relevance:
    """A common ranking, and noise of each training's own."""
    generator = np.random.default_rng(seed)
    common = np.linspace(2.0, 1.0, REGIONS)
    return relevance(common + noise * generator.standard_normal((trainings, REGIONS)))


# --------------------------------------------------------------------------------------------------------- statistics


def test_trainings_that_agree_share_all_ten_and_their_consensus_as_well() -> None:
    same = noisy(6, 0.0)
    assert coherence(same, "sum") == coherence(same, "density") == coherence(same, "gain") == 1
    assert consensus_coherence(same, "density") == 1
    found = marking(same, "density")
    assert found.flips == 0 and np.isnan(found.found) and found.marked_of_stable == 0


def test_the_overlap_is_that_of_different_trainings_only() -> None:
    values = np.tile(np.linspace(2.0, 1.0, REGIONS), (2, 1))
    values[1, :5] = 0.1  # five of the first ten are others there
    assert coherence(relevance(values), "sum") == pytest.approx(0.5), "with the diagonal it would be 0.75"


def test_noise_that_is_each_trainings_own_averages_out_of_the_consensus() -> None:
    found = noisy(10, 0.25)
    assert 0.3 < coherence(found, "density") < consensus_coherence(found, "density") < 1


def test_unrelated_trainings_share_what_chance_shares() -> None:
    generator = np.random.default_rng(1)
    unrelated = relevance(generator.random((60, REGIONS)))
    assert coherence(unrelated, "sum") == pytest.approx(TOP / REGIONS, abs=0.02)


def test_halves_do_not_share_a_training_and_none_comes_twice() -> None:
    found = list(halves(10))
    assert len(found) == len({frozenset(pair) for pair in found}) == 126
    assert all(len(one) == len(other) == 5 and not set(one) & set(other) for one, other in found)
    assert list(halves(3)) == [] and len(list(halves(5))) == 3, "of five, one is left out"
    assert len(list(halves(16))) <= 126, "many trainings have too many halves to look at all"


def test_flips_are_marked_by_disagreement_and_firm_regions_are_not() -> None:
    found = noisy(10, 0.06)
    everybody = range(10)
    flips, marked = is_unstable(found, "density", everybody), is_marked(found, "density", everybody)
    assert flips.any() and (marked[flips]).mean() >= 0.9
    assert not marked[:3].any() and not marked[-10:].any()
    own, held = marking(found, "density"), marking_of_unseen(found, "density")
    assert own.flips == flips.sum() and own.found == marked[flips].mean()
    assert own.marked_of_stable == marked[~flips].mean() < 0.1
    assert held.found > 0.9 and held.marked_of_stable < 0.3 and held.flips > 1


def test_a_marked_region_is_one_whose_next_training_may_lie_across_the_border() -> None:
    """Where logarithms of ranks are normal, another training lies within in 95 %, of however few it was made."""
    generator = np.random.default_rng(4)
    others = -np.arange(400.0)  # of which the tested region takes a place among
    inside = {}
    for count in (3, 5, 10):
        hits = 0
        for _ in range(1000):
            *drawn, following = generator.normal(0.0, 0.6, count + 1)
            place = (TOP + 0.5) * np.exp(np.array(drawn) - following)  # the next one lies on the border, in any case
            values = np.column_stack([1.5 - place, np.tile(others, (count, 1))])
            hits += bool(is_marked(relevance(values), "sum", range(count))[0])
        inside[count] = hits / 1000
    assert all(part == pytest.approx(0.95, abs=0.02) for part in inside.values()), inside


def test_relevance_is_of_true_positives_and_of_all_controls_divided_by_the_patients_total() -> None:
    is_patient = np.array([True, True, False, False])
    sums = np.array([[2.0, 6.0], [100.0, 100.0], [1.0, 1.0], [3.0, 1.0]])
    answers = np.array([0.9, 0.2, 0.1, 0.8])  # the second patient is missed; the second control is a false positive
    found = relevance_of([sums], [answers], is_patient, np.array([1.0, 2.0]), np.ones(2, dtype=bool), 0.5)
    np.testing.assert_allclose(found.patients, [[0.25, 0.75]])
    np.testing.assert_allclose(found.controls, [[0.25, 0.125]])
    np.testing.assert_allclose(found.values("density"), [[0.25, 0.375]])
    np.testing.assert_allclose(found.values("gain"), [[1.0, 6.0]])


def test_small_regions_have_no_rank() -> None:
    values = np.array([[5.0, 1.0, 3.0]])
    found = Relevance(values, values, np.ones(3), np.array([False, True, True]))
    np.testing.assert_array_equal(ranks(found, "sum"), [[np.nan, 2, 1]])


# ------------------------------------------------------------------------------------------------------ the whole study

SHAPE = (80, 80, 80)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks with random weights (an ensemble) that find every patient, an atlas of 27 cubes, six people."""
    folder = tmp_path_factory.mktemp("robustness")
    members = {}
    for seed in range(3):
        members[f"seed-{seed}"] = network = build_network("boehle2019", SHAPE)
        initialise(network, seed)
        with torch.no_grad():
            list(network.parameters())[-1].copy_(torch.tensor([-3.0, 3.0]))
    card = {
        "schema_version": 1, "name": "three", "title": "Three", "network": {"architecture": "boehle2019"},
        "grid": {"shape": list(SHAPE), "affine": np.diag([2.0, 2, 2, 1]).tolist(), "space": "none"},
        "normalisation": {"kind": "min-max", "mask": "nonzero"}, "classes": ["CN", "AD"], "positive_class": 1,
        "training": {"data": "none"}, "licence": "none", "intended_use": "tests",
    }  # fmt: skip
    save_package(folder / "three", card, members)
    generator = np.random.default_rng(0)
    with open(folder / "people.tsv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["scan", "subject", "diagnosis"])
        for number in range(6):
            scan = generator.random(SHAPE).astype(np.float32)
            write_volume(Volume(scan, np.diag([2.0, 2, 2, 1])), folder / f"p{number}.nii.gz")
            table.writerow([f"p{number}.nii.gz", f"p{number}", "AD" if number % 2 else "CN"])
    labels = np.zeros(SHAPE, dtype=np.int16)
    for number, (i, j, k) in enumerate(np.ndindex(3, 3, 3), start=1):
        labels[26 * i : 26 * i + 26, 26 * j : 26 * j + 26, 26 * k : 26 * k + 26] = number
    write_volume(Volume(labels, np.diag([2.0, 2, 2, 1])), folder / "cubes.nii.gz")
    return folder


def test_the_study_writes_what_was_published(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "study"
    arguments = ["study", "robustness", str(place / "people.tsv"), "--model", str(place / "three"), "--out", str(out),
                 "--atlas", str(place / "cubes.nii.gz"), "--method", "gradient-x-input", "--method", "lrp:beta=0.5",
                 "--device", "cpu"]  # fmt: skip
    assert main(arguments) == 0, capsys.readouterr().err
    assert "Robustness of 3 trainings on 6 people" in capsys.readouterr().out
    with open(out / "tables" / "coherence.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(r["method"], r["quantity"]) for r in rows[:4]] == [
        ("gradient-x-input", "sum"), ("gradient-x-input", "density"), ("gradient-x-input", "gain"),
        ("lrp (beta 0.5)", "sum"),
    ]  # fmt: skip
    assert rows[0]["published"] == "0.696" and float(rows[0]["chance"]) == pytest.approx(10 / 27)
    assert rows[-1]["method"] == "consensus of methods" and rows[0]["two_consensus_maps"] == "n/a", "three: no halves"
    for name in ("coherence", "ranks-lrp-beta-0.5", "overlap-gradient-x-input", "distances-lrp-beta-0.5"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
    document = json.loads((out / "robustness.json").read_text(encoding="utf-8"))
    assert [t["name"] for t in document["trainings"]] == ["seed-0", "seed-1", "seed-2"]
    assert not list(place.glob(".study-*"))
    assert main(arguments) == 6 and "nothing is overwritten" in capsys.readouterr().err


def test_an_interrupted_study_goes_on_at_the_training_where_it_stopped(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ADAttributionLogic.cohort.table import read_cohort
    from ADAttributionLogic.robustness.gathering import gather

    model = load_model(str(place / "three"))
    trainings = trainings_of([model])
    atlas = cubes(place)
    test, _ = gather(read_cohort(place / "people.tsv"), model, [measuring.Asked("gradient-x-input")], atlas)
    asked: list[str] = []
    original = measuring.attribute

    def attribute(evaluation: object, *args: object, **more: object) -> object:
        asked.append("one")
        if len(asked) == 9:
            raise KeyboardInterrupt
        return original(evaluation, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "attribute", attribute)
    with pytest.raises(KeyboardInterrupt):
        run_robustness(trainings, test, tmp_path / "study", torch.device("cpu"))
    assert not (tmp_path / "study").exists()
    run_robustness(trainings, test, tmp_path / "study", torch.device("cpu"))
    assert len(asked) == 9 + 12, "the first training's six maps were kept, the other two networks' were made"
    assert (tmp_path / "study" / "robustness.json").is_file()


def test_what_cannot_be_told_is_refused(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    people, three = str(place / "people.tsv"), str(place / "three")
    base = ["study", "robustness", people, "--atlas", str(place / "cubes.nii.gz"), "--out", str(tmp_path / "x")]
    assert main([*base, "--model", three, "--model", three]) == 2
    assert "given twice" in capsys.readouterr().err
    assert main([*base, "--model", "simulated-atrophy"]) != 0
    assert main([*base, "--model", three, "--method", "lrp:beta=-3"]) == 2
    assert "beta" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_network_that_finds_no_patient_is_named(place: Path, tmp_path: Path) -> None:
    from ADAttributionLogic.cohort.table import read_cohort
    from ADAttributionLogic.robustness.gathering import gather

    model = load_model(str(place / "three"))
    test, _ = gather(read_cohort(place / "people.tsv"), model, [measuring.Asked("gradient-x-input")], cubes(place))
    blind = build_network("boehle2019", SHAPE)
    initialise(blind, 7)
    with torch.no_grad():
        list(blind.parameters())[-1].copy_(torch.tensor([9.0, -9.0]))
    from ADAttributionLogic.networks.network import explainable

    network = explainable(blind.eval(), (1, *SHAPE))
    trainings = [*trainings_of([model]), measuring.Training("blind", "0" * 64, lambda: network)]
    with pytest.raises(CohortError, match="blind finds none of the 3 patients"):
        run_robustness(trainings, test, tmp_path / "study", torch.device("cpu"))
    with pytest.raises(UsageError, match="at least 3 are needed"):
        run_robustness(trainings[:2], test, tmp_path / "study", torch.device("cpu"))


def test_a_table_called_robustness_is_not_mistaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robustness").write_text("scan,subject,diagnosis\n", encoding="utf-8")
    assert main(["study", "robustness", "--results", "x", "--out", "y"]) == 2
    assert "study ./robustness" in capsys.readouterr().err


def cubes(place: Path) -> Atlas:
    from ADAttributionLogic.atlas.library import load_atlas

    atlas = load_atlas(str(place / "cubes.nii.gz"))
    assert isinstance(atlas.regions[0], Region)
    return atlas
