"""Simulated subjects: real anatomy, known atrophy, nothing else that tells the classes apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.simulation.anatomy import (
    SHRINKING,
    STRENGTH,
    WIDENING,
    Anatomy,
    affected_labels,
    icbm152_anatomy,
)
from ADAttributionLogic.simulation.cohort import CohortPlan, SimulatedScans, draw_cohort, write_subject_list
from ADAttributionLogic.simulation.deformation import (
    exponential,
    identity,
    jacobian_determinant,
    random_displacement,
    sample,
    smooth_noise,
)
from ADAttributionLogic.simulation.population import OLDEST, YOUNGEST, Person, draw_population, simulate_person
from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, SubjectParameters, draw_parameters, simulate_subject
from ADAttributionLogic.simulation.subject_files import write_subject

PURE = SubjectParameters(PATIENT, (3.0, 0.0), anatomy_mm=1e-6, bias=0.0, gamma=1.0, noise=0.0, seed=1)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return icbm152_anatomy()


def test_the_affected_structures_are_those_of_the_atlas(anatomy: Anatomy) -> None:
    names = {r.label: r for r in anatomy.atlas.regions}
    for name, (left, right) in {**SHRINKING, **WIDENING}.items():
        assert names[left].hemisphere == "left" and names[right].hemisphere == "right"
        words = name.lower().replace("inferior lateral ventricle", "inf_lat_vent").split()
        assert words[0] in names[left].name.lower() and names[left].group == names[right].group
    assert len(affected_labels()) == 10 and len(affected_labels("left")) == 5


def test_atrophy_on_one_side_shrinks_that_side_only(anatomy: Anatomy) -> None:
    subject = simulate_subject(anatomy, PURE)
    for name, change in subject.volume_change.items():
        if name.startswith("right"):
            assert change == 0, name
        elif "ventricle" in name:
            assert change > 0.2, name
        else:
            assert change < -0.3 * STRENGTH[name.removeprefix("left ")], name
    moved = subject.atrophy.array > 0.05
    right = anatomy.template.grid.to_ras(np.argwhere(moved))[:, 0] > 12
    assert moved.any() and not right.any()


def test_the_scan_is_the_template_read_through_the_displacement(anatomy: Anatomy) -> None:
    """Ground truth and image agree: scan(x) = template(x + displacement(x)) where nothing else was changed."""
    subject = simulate_subject(anatomy, PURE)
    template = torch.from_numpy(anatomy.template.array)
    expected = sample(template[None], identity(anatomy.template.grid.shape) + subject.displacement)[0].numpy()
    brain = expected > 0.05 * float(template.max())
    np.testing.assert_allclose(subject.scan.array[brain], expected[brain], atol=1e-2)
    assert (subject.scan.array[~brain] == 0).mean() > 0.999
    far = subject.atrophy.array == 0
    np.testing.assert_allclose(subject.scan.array[far & brain], anatomy.template.array[far & brain], atol=1e-2)


def test_deformations_do_not_fold(anatomy: Anatomy) -> None:
    strongest = dataclasses.replace(draw_parameters(PATIENT, 5), atrophy_mm=(2.6, 2.6), anatomy_mm=2.4)
    determinant = jacobian_determinant(simulate_subject(anatomy, strongest).displacement)
    assert float(determinant.min()) > 0


def test_subjects_depend_on_their_parameters_only(anatomy: Anatomy) -> None:
    one, again = (simulate_subject(anatomy, draw_parameters(PATIENT, 8)) for _ in range(2))
    np.testing.assert_array_equal(one.scan.array, again.scan.array)
    assert one.volume_change == again.volume_change
    other = simulate_subject(anatomy, draw_parameters(PATIENT, 9))
    assert np.abs(one.scan.array - other.scan.array).max() > 5


def test_controls_hardly_differ_and_patients_clearly() -> None:
    """Strengths per hemisphere: a patient may have one nearly healthy side; the classes do not overlap in the mean."""
    controls = [draw_parameters(CONTROL, seed).atrophy_mm for seed in range(200)]
    patients = [draw_parameters(PATIENT, seed).atrophy_mm for seed in range(200)]
    assert max(max(c) for c in controls) <= 0.35
    assert min(np.mean(p) for p in patients) >= 1.3 and min(min(p) for p in patients) < 0.9
    assert abs(np.corrcoef(np.array(patients).T)[0, 1]) < 0.6, "the sides are drawn apart"


def test_nothing_but_the_atrophy_tells_the_classes_apart() -> None:
    """Contrast, bias field and anatomy are drawn alike for both classes."""
    for name in ("anatomy_mm", "bias", "gamma"):
        means = [np.mean([getattr(draw_parameters(label, seed), name) for seed in range(500)]) for label in (0, 1)]
        spread = np.std([getattr(draw_parameters(0, seed), name) for seed in range(500)])
        assert abs(means[0] - means[1]) < 0.2 * spread, name


# ---------------------------------------------------------------------------------------------------------- deformation


def test_sampling_at_whole_voxels_is_exact() -> None:
    image = torch.rand(2, 5, 6, 7)
    torch.testing.assert_close(sample(image, identity((5, 6, 7))), image, atol=1e-6, rtol=0)
    shifted = sample(image, identity((5, 6, 7)) + torch.tensor([1.0, 0, 0])[:, None, None, None])
    torch.testing.assert_close(shifted[:, :4], image[:, 1:], atol=1e-6, rtol=0)


def test_the_exponential_undoes_itself() -> None:
    """exp(v) ∘ exp(−v) is the identity: the deformation is invertible."""
    generator = np.random.default_rng(0)
    velocity = random_displacement((30, 32, 28), 5.0, 2.5, generator)
    window = torch.ones(30, 32, 28)
    window[[0, 1, -2, -1]] = window[:, [0, 1, -2, -1]] = window[:, :, [0, 1, -2, -1]] = 0
    there, back = exponential(velocity * window), exponential(-velocity * window)
    places = identity((30, 32, 28))
    error = there + sample(back, places + there)
    assert float(error[:, 6:-6, 6:-6, 6:-6].abs().max()) < 0.1


def test_noise_is_as_smooth_and_as_strong_as_asked() -> None:
    field = smooth_noise((60, 64, 56), 6.0, 1, np.random.default_rng(0))[0]
    gradient = torch.stack(torch.gradient(field)).pow(2).mean().sqrt() / field.pow(2).mean().sqrt()
    assert 0.5 / 6 < float(gradient) * 1.0 / np.sqrt(1) < 1.5 / 6
    displacement = random_displacement((60, 64, 56), 6.0, 2.0, np.random.default_rng(0))
    assert float(displacement.norm(dim=0).max()) == pytest.approx(2.0)


# --------------------------------------------------------------------------------------------------------------- cohort


def test_a_cohort_is_balanced_and_no_subject_is_in_two_splits() -> None:
    subjects = draw_cohort(CohortPlan(train=10, validation=4, test=6, seed=1))
    assert [sum(s.split == split for s in subjects) for split in ("train", "validation", "test")] == [10, 4, 6]
    for split in ("train", "validation", "test"):
        assert np.mean([s.label for s in subjects if s.split == split]) == 0.5
    assert len({s.name for s in subjects}) == len({s.parameters.seed for s in subjects}) == 20
    with pytest.raises(ValueError, match="even number"):
        CohortPlan(train=5)


def test_scans_are_kept_and_made_once(anatomy: Anatomy, tmp_path: Path) -> None:
    (subject, *_) = draw_cohort(CohortPlan(train=2, validation=0, test=0))
    scans = SimulatedScans(anatomy, tmp_path)
    first = np.array(scans.load(subject))
    before = scans.path(subject).stat().st_mtime_ns
    np.testing.assert_array_equal(SimulatedScans(anatomy, tmp_path).load(subject), first)
    assert scans.path(subject).stat().st_mtime_ns == before
    np.testing.assert_allclose(first, simulate_subject(anatomy, subject.parameters).scan.array, rtol=1e-3, atol=0.05)


def test_the_list_of_subjects(tmp_path: Path) -> None:
    write_subject_list(draw_cohort(CohortPlan(2, 2, 2)), tmp_path / "s.tsv")
    lines = (tmp_path / "s.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 7 and lines[0].startswith("subject\tsplit\tclass\tatrophy_left_mm")
    with pytest.raises(FileExistsError):
        write_subject_list([], tmp_path / "s.tsv")


def test_files_of_a_subject(anatomy: Anatomy, tmp_path: Path) -> None:
    folder = write_subject(simulate_subject(anatomy, PURE), tmp_path / "s", displacement=True)
    assert sorted(p.name for p in folder.iterdir()) == [
        "atrophy_mm.nii.gz",
        "displacement_mm.nii.gz",
        "ground_truth.json",
        "scan.nii.gz",
    ]
    field = nib.load(folder / "displacement_mm.nii.gz")
    assert field.shape == (193, 229, 193, 1, 3) and int(field.header["intent_code"]) == 1007
    np.testing.assert_allclose(nib.load(folder / "scan.nii.gz").affine, anatomy.affine)
    with pytest.raises(OutputError, match="exists"):
        write_subject(simulate_subject(anatomy, PURE), tmp_path / "s")


def test_people_differ_by_age_sex_site_and_head_and_both_groups_come_in_turn() -> None:
    people = draw_population(60, 60)
    assert [p.diagnosis for p in people[:4]] == ["AD", "HC", "AD", "HC"] and len({p.name for p in people}) == 120
    assert draw_population(60, 60) == people and draw_population(3, 5)[-1].diagnosis == "HC"
    age = np.array([p.age for p in people])
    wide = np.array([p.ventricle_mm for p in people])
    assert age.min() >= YOUNGEST and age.max() <= OLDEST and np.corrcoef(age, wide)[0, 1] > 0.7
    controls = [p for p in people if p.diagnosis == "HC"]
    shrunken = [sum(p.parameters.atrophy_mm) for p in controls]
    assert np.corrcoef([p.age for p in controls], shrunken)[0, 1] > 0.3, "age shrinks what the disease shrinks"
    men, women = ([p.head_scale for p in people if p.sex == sex] for sex in "MF")
    assert np.mean(men) > np.mean(women) + 0.005
    assert {p.parameters.noise for p in people if p.site == "B"} == {0.018}
    assert min(min(p.parameters.atrophy_mm) for p in people if p.diagnosis == "AD") < 0.9, "there are mild patients"


def test_age_widens_ventricles_and_head_size_scales_everything(anatomy: Anatomy) -> None:
    plain = dataclasses.replace(PURE, atrophy_mm=(0.0, 0.0))
    still = Person("a", 55.0, "F", "A", 1.0, 0.0, plain)
    _, volumes = simulate_person(anatomy, still)
    template = np.bincount(anatomy.atlas.labels.array.ravel())
    expected = {r.name: float(template[r.label]) for r in anatomy.atlas.regions}
    assert volumes == pytest.approx(expected, rel=1e-3)
    subject, aged = simulate_person(anatomy, dataclasses.replace(still, ventricle_mm=1.5, head_scale=1.03))
    assert aged["Left_Lateral_Ventricle"] > 1.2 * volumes["Left_Lateral_Ventricle"]
    for name in ("Right_Cerebellum_Exterior", "Brain_Stem"):
        assert aged[name] == pytest.approx(volumes[name] * 1.03**3, rel=0.03), name
    assert float(jacobian_determinant(subject.displacement).min()) > 0
