"""No leakage: subjects stay on one side, constants come from the scans learned from, permuted labels teach nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_training import Scan
from test_training_interrupted import Small

from ADAttributionLogic.architectures.catalogue import initialise
from ADAttributionLogic.cohort.table import read_cohort
from ADAttributionLogic.errors import CohortError, UnknownNameError, UsageError
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.training.calibration import calibration, fit_temperature
from ADAttributionLogic.training.evaluation import Answers, evaluate, weighted_measures
from ADAttributionLogic.training.fit import fit, predict
from ADAttributionLogic.training.metrics import performance
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training_data.prepared_scans import PreparedScan, VoxelwiseScan, voxelwise_normalisation
from ADAttributionLogic.training_data.split import Part, Split, SplitPlan, split_subjects
from ADAttributionLogic.training_data.table import LabelledScan, Material, select

# -------------------------------------------------------------------------------------------------------------- splits


def strata(count: int = 60, sites: int = 3) -> dict[str, tuple[str, str]]:
    return {f"sub-{n:03}": (("CN", "AD")[n % 2], f"site {n // 2 % sites}") for n in range(count)}


def test_every_subject_is_in_one_part_only_and_once_in_validation() -> None:
    known = strata()
    split = split_subjects(known, SplitPlan(test=0.2, folds=4, repeats=3, seed=7))
    assert len(split.parts) == 12 and len(split.test) == 12
    for part in split.parts:
        assert not part.training & part.validation and not (part.training | part.validation) & split.test
        assert part.training | part.validation | split.test == set(known)
    for repeat in (1, 2, 3):
        seen = Counter(s for part in split.parts if part.repeat == repeat for s in part.validation)
        assert set(seen.values()) == {1} and set(seen) == set(known) - split.test
    assert split.parts[0].validation != split.parts[4].validation, "each repeat divides anew"


def test_diagnoses_and_sites_are_spread_evenly_and_by_the_seed() -> None:
    known, plan = strata(), SplitPlan(test=0.2, folds=4, seed=1)
    split = split_subjects(known, plan)
    for part in (split.test, *(part.validation for part in split.parts)):
        assert abs(sum(known[s][0] == "AD" for s in part) - len(part) / 2) <= 1.5
        assert max(Counter(known[s][1] for s in part).values()) - len(part) / 3 <= 2
    assert split_subjects(known, plan) == split
    assert split_subjects(known, replace(plan, seed=2)).test != split.test


def test_a_site_with_one_patient_goes_with_the_largest_and_too_few_patients_are_named() -> None:
    known = strata() | {"alone": ("AD", "site 9")}
    assert "alone" in {
        s for part in split_subjects(known, SplitPlan(folds=4)).parts for s in part.validation | part.training
    } | set(split_subjects(known, SplitPlan(folds=4)).test)
    few = {s: d for s, d in known.items() if d[0] == "CN" or s in ("sub-001", "sub-003", "sub-005")}
    with pytest.raises(CohortError, match=r"There are 3 subjects with the diagnosis AD, but 5 are needed"):
        split_subjects(few, SplitPlan(test=0, folds=5))
    with pytest.raises(UsageError, match="at least, but 0 and 1 are asked"):
        SplitPlan(folds=0)


def test_more_sites_than_places_are_spread_by_diagnosis_alone() -> None:
    known = {f"sub-{n}": (("CN", "AD")[n % 2], f"site {n // 4}") for n in range(40)}
    split = split_subjects(known, SplitPlan(test=0.1, folds=1, validation=0.1))
    assert Counter(known[s][0] for s in split.test) == {"CN": 2, "AD": 2}


def test_held_out_subjects_can_be_given() -> None:
    split = split_subjects(strata(), SplitPlan(folds=1), held_out={"sub-000", "sub-001"})
    assert split.test == {"sub-000", "sub-001"} and len(split.parts) == 1
    assert split.parts[0].validation and not split.parts[0].validation & split.test
    with pytest.raises(CohortError, match=r"one diagnosis only in the test \(CN\)"):
        split_subjects(strata(), SplitPlan(), held_out={"sub-000", "sub-002"})


def test_a_split_that_mixes_a_subject_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="on two sides of a split: sub-2"):
        Split(SplitPlan(), frozenset({"sub-2"}), (Part(1, 1, frozenset({"sub-1", "sub-2"}), frozenset({"sub-3"})),))


# -------------------------------------------------------------------------------------------------------------- tables


def table(folder: Path, rows: str, name: str = "cohort.csv") -> Path:
    (folder / name).write_text(f"scan,subject,session,diagnosis,site\n{rows}", encoding="utf-8")
    return folder / name


def material(folder: Path, subjects: int = 24, visits: int = 3) -> Material:
    """Each subject was scanned several times."""
    lines = []
    for n in range(subjects):
        for visit in range(visits):
            (folder / f"{n}-{visit}.nii").write_bytes(f"{n} {visit}".encode())
            lines.append(f"{n}-{visit}.nii,sub-{n},ses-{visit},{('CN', 'AD')[n % 2]},{'ab'[n // 2 % 2]}\n")
    return select(read_cohort(table(folder, "".join(lines))), site="site")


def test_all_scans_of_a_subject_stay_together(tmp_path: Path) -> None:
    found = material(tmp_path)
    by_subject = {s.subject: (found.classes[s.label], s.site) for s in found.scans}
    split = split_subjects(by_subject, SplitPlan(test=0.25, folds=3, repeats=2))
    assert len(found.scans) == 72 and found.classes == ("CN", "AD")
    for part in split.parts:
        sides = [part.training, part.validation, split.test]
        where = [{s.subject for s in found.scans if s.subject in side} for side in sides]
        assert sum(map(len, where)) == 24 and not where[0] & where[1] and not where[0] & where[2]
        assert all(sum(s.subject in side for s in found.scans) == 3 * len(side) for side in sides)


def test_what_is_wrong_with_a_table_is_named(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.nii").write_bytes(name.encode())
    (tmp_path / "same.nii").write_bytes(b"a")
    good = "a.nii,sub-a,,CN,1\nb.nii,sub-b,,AD,1\n"
    with pytest.raises(CohortError, match=r"who is a patient: there are AD, MCI.*--positive"):
        select(read_cohort(table(tmp_path, good + "c.nii,sub-c,,MCI,1\n")))
    assert [
        s.label for s in select(read_cohort(table(tmp_path, good + "c.nii,sub-c,,MCI,1\n")), ["AD", "MCI"]).scans
    ] == [0, 1, 1]
    with pytest.raises(CohortError, match="there is none but the controls'"):
        select(read_cohort(table(tmp_path, "a.nii,sub-a,,CN,1\n")))
    with pytest.raises(UnknownNameError, match="'PSP'"):
        select(read_cohort(table(tmp_path, good)), ["PSP"])
    with pytest.raises(CohortError, match="ad cannot be the diagnosis of patients and of controls"):
        select(read_cohort(table(tmp_path, good)), ["AD"], ["CN", "AD"])
    with pytest.raises(CohortError, match=r"sub-a \(line 2\) and sub-c \(line 4\) have the same scan, byte for byte"):
        select(read_cohort(table(tmp_path, good + "same.nii,sub-c,,AD,1\n")))
    gone = good + "gone.nii,sub-d,,AD,1\n"
    with pytest.raises(CohortError, match=r"1 of 3 scans are not there: sub-d \(line 4\).*--leave-out"):
        select(read_cohort(table(tmp_path, gone)))
    left = select(read_cohort(table(tmp_path, gone)), leave_out=True)
    assert len(left.scans) == 2 and any("sub-d" in note for note in left.notes)
    with pytest.raises(CohortError, match="no column 'scanner'; it has site"):
        select(read_cohort(table(tmp_path, good)), site="scanner")


# ----------------------------------------------------------------------------------------------------------- constants


def test_voxelwise_constants_are_those_of_the_scans_learned_from(tmp_path: Path) -> None:
    """Changing a validation or test scan changes nothing; changing one that is learned from does."""
    found = material(tmp_path, 4, 1)
    generator = np.random.default_rng(0)

    def prepared(number: int, scan: LabelledScan, shift: float = 0.0) -> PreparedScan:
        file = tmp_path / f"{number}-{shift}.npy"
        np.save(file, (generator.random((4, 5, 6)) + shift).astype(np.float16))
        return PreparedScan(scan, file, 100.0)

    scans = [prepared(n, scan) for n, scan in enumerate(found.scans)]
    constants = voxelwise_normalisation(scans[:3])
    arrays = np.stack([scan.load() for scan in scans[:3]])
    assert constants.mean is not None and constants.std is not None
    np.testing.assert_allclose(constants.mean, arrays.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(constants.std, arrays.std(axis=0), rtol=1e-5)
    seen = np.stack([VoxelwiseScan(scan, constants).load() for scan in scans[:3]])
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    assert abs(VoxelwiseScan(scans[3], constants).load()).max() > 1.5, "another's own mean is not 0"
    moved = voxelwise_normalisation([*scans[:2], prepared(2, found.scans[2], 1.0)])
    assert not np.allclose(moved.mean, constants.mean)
    assert isinstance(constants, Normalisation)


# ------------------------------------------------------------------------------------------------------ permuted labels


def image_of(number: int, label: int) -> np.ndarray:
    image = np.random.default_rng(number).random((8, 8, 8), np.float32)
    image[2:6, 2:6, 2:6] += 0.25 * label
    return image


def test_permuted_labels_teach_nothing_and_true_ones_do() -> None:
    """At chance (.5 ± .1) on held-out subjects of three trainings; with the true labels it is told apart."""
    known = {f"sub-{n}": (("CN", "AD")[n % 2], "") for n in range(160)}
    images = {f"sub-{n}": image_of(n, n % 2) for n in range(160)}
    accuracies = {}
    for permuted in (True, False):
        found = []
        for seed in range(3 if permuted else 1):
            order = np.random.default_rng(seed).permutation(160) if permuted else np.arange(160)
            labels = {f"sub-{n}": int(order[n] % 2) for n in range(160)}
            split = split_subjects(known, SplitPlan(test=0.5, folds=1, seed=seed))
            sides = [
                [Scan(s, labels[s], images[s]) for s in sorted(side)]
                for side in (split.parts[0].training, split.parts[0].validation, split.test)
            ]
            network = Small()
            initialise(network, seed)
            fit(network, sides[0], sides[1], Recipe(epochs=6, learning_rate=1e-2, batch_size=8, translation_voxels=0))
            truth = [scan.label for scan in sides[2]]
            found.append(performance(truth, predict(network, sides[2])).balanced_accuracy)
        accuracies[permuted] = float(np.mean(found))
    assert abs(accuracies[True] - 0.5) <= 0.1 and accuracies[False] >= 0.9, accuracies


# --------------------------------------------------------------------------------------------------------- calibration


def test_the_temperature_undoes_a_known_overconfidence() -> None:
    """Logits of a calibrated source times three: the temperature is three, and the error goes."""
    generator = np.random.default_rng(0)
    margin = generator.normal(0, 1.5, 20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-margin))).astype(int)
    logits = np.stack([np.zeros_like(margin), 3 * margin], axis=1)
    found = fit_temperature(labels, logits)
    assert found.value == pytest.approx(3, rel=0.03)
    said = [1 / (1 + np.exp(-3 * margin / t)) for t in (1.0, found.value)]
    errors = [calibration(labels, p).expected_error for p in said]
    assert errors[0] > 0.1 and errors[1] < 0.015
    apart = fit_temperature([0, 1], np.array([[1.0, 0], [0, 1]]))
    assert apart.value == 1 and "told apart" in apart.why


def test_calibration_by_hand() -> None:
    found = calibration([0, 1, 1, 1], [0.05, 0.15, 0.95, 1.0])
    assert [b.count for b in found.bins] == [1, 1, 2]
    assert found.expected_error == pytest.approx((0.05 + 0.85 + 2 * 0.025) / 4)
    assert found.brier == pytest.approx((0.05**2 + 0.85**2 + 0.05**2) / 4)


def test_figures_come_with_intervals_over_subjects_and_by_site() -> None:
    """Ten scans of one subject are one subject: the interval is as wide as that of its one scan."""
    generator = np.random.default_rng(1)
    labels = np.arange(40) % 2
    said = np.clip(labels * 0.4 + 0.3 + generator.normal(0, 0.25, 40), 0, 1)
    names = tuple(f"s{n}" for n in range(40))
    one = evaluate(Answers(names, ("a",) * 20 + ("b",) * 20, labels, said))
    low, high = one.intervals["auc"]
    assert low < one.performance.auc < high and low > 0.5
    assert one.confusion[0][0] + one.confusion[0][1] == 20 and sum(map(sum, one.confusion)) == 40
    assert one.sites["a"]["negative"] == 10 and 0 <= one.sites["b"]["auc"] <= 1
    weights = np.random.default_rng(2).integers(0, 3, (5, 40)).astype(float)
    for row, measured in zip(weights.astype(int), weighted_measures(labels, said, weights), strict=True):
        whole = performance(np.repeat(labels, row), np.repeat(said, row))
        assert measured == pytest.approx([whole.balanced_accuracy, whole.sensitivity, whole.specificity, whole.auc])
    ten = evaluate(Answers(names * 10, ("",) * 400, np.tile(labels, 10), np.tile(said, 10)))
    assert ten.subjects == 40 and ten.sites == {}
    width = [np.diff(e.intervals["balanced_accuracy"])[0] for e in (one, ten)]
    assert width[1] == pytest.approx(width[0], rel=0.15)
