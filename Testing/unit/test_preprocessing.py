"""From a native scan to the model grid and back: transforms, history, registration, checks, cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation
from test_scan_files import write_dicom
from test_volume import ORIENTATIONS, reoriented

from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import Cancelled, OutputError, ScanError, UsageError
from ADAttributionLogic.explain_native import relevance_on_scan
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.preprocessing import cache as cache_module
from ADAttributionLogic.preprocessing.bias_field import fit_bias_field
from ADAttributionLogic.preprocessing.brain_extraction import extract_with_hd_bet, given_brain, measure_tissue, overlap
from ADAttributionLogic.preprocessing.cache import preprocess_cached
from ADAttributionLogic.preprocessing.history import Registration, Reorientation, Winsorising, apply_all, take_back_all
from ADAttributionLogic.preprocessing.pipeline import Options, Preprocessed, measure_registered, preprocess, replay
from ADAttributionLogic.preprocessing.quality import (
    Check,
    QualityError,
    QualityReport,
    check_after,
    check_before,
)
from ADAttributionLogic.registration.deformable import ants_available, register_deformable
from ADAttributionLogic.registration.space_transform import (
    SpaceTransform,
    identity_transform,
    resample_to_model,
    resample_to_scan,
)
from ADAttributionLogic.registration.target import RegistrationTarget, upright
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.simulation.native_scan import Acquisition, NativeScan, acquire
from ADAttributionLogic.volume import Volume, resample

SMALL = Grid((78, 92, 78), np.array([[2.5, 0, 0, -96], [0, 2.5, 0, -132], [0, 0, 2.5, -78], [0, 0, 0, 1.0]]))


@pytest.fixture(scope="module")
def target(template: Volume) -> RegistrationTarget:
    """The template at 2 mm: the same code on an eighth of the voxels."""
    return RegistrationTarget(template).at(2.0)


@pytest.fixture(scope="module")
def native(template: Volume) -> NativeScan:
    """The template brain as a sagittal int16 scan of 2.5×2.5×3 mm, turned by 15° and shifted by 25 mm."""
    acquisition = Acquisition((15, -8, 10), (25, -15, 20), (2.5, 2.5, 3.0), "sagittal", "int16", 0.15, 0.01, 3)
    return acquire(template, acquisition)


@pytest.fixture(scope="module")
def prepared(native: NativeScan, target: RegistrationTarget) -> Preprocessed:
    return preprocess(native.scan, SMALL, target)


def turned(degrees: tuple[float, float, float], shift: tuple[float, float, float], size: float = 1.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * size
    matrix[:3, 3] = shift
    return matrix


def warped(millimetres: float) -> SpaceTransform:
    """A small smooth warp with a numerical inverse, and an affine."""
    size, spacing = (40, 40, 40), 5.0
    reference = sitk.Image(size, sitk.sitkVectorFloat64, 3)
    reference.SetSpacing([spacing] * 3)
    reference.SetOrigin([-100.0] * 3)
    places = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), axis=-1)
    wave = np.sin(places * (2 * np.pi / 40)) * np.hanning(40)[:, None, None, None]
    field = sitk.GetImageFromArray(np.ascontiguousarray((millimetres * wave).transpose(2, 1, 0, 3)), isVector=True)
    field.CopyInformation(reference)
    inverse = sitk.IterativeInverseDisplacementField(field, numberOfIterations=30)
    return SpaceTransform(
        "deformable",
        turned((5, 0, -4), (4, -3, 2)),
        sitk.DisplacementFieldTransform(field),
        sitk.DisplacementFieldTransform(sitk.Cast(inverse, sitk.sitkVectorFloat64)),
    )


# --------------------------------------------------------------------------------------------------------- transforms


@pytest.mark.parametrize("transform", [SpaceTransform("affine", turned((20, 5, -9), (30, 1, -8), 1.1)), warped(3.0)])
def test_both_directions_of_a_transform_are_inverse(transform: SpaceTransform) -> None:
    points = np.random.default_rng(0).uniform(-60, 60, (200, 3))
    there = transform.points_to_scan(points)
    assert np.linalg.norm(there - points, axis=1).min() > 0.5
    assert np.linalg.norm(transform.points_to_model(there) - points, axis=1).max() < 0.15


@pytest.mark.parametrize("transform", [SpaceTransform("affine", turned((20, 5, -9), (30, 1, -8), 1.1)), warped(3.0)])
def test_transform_files_are_itks_and_say_the_same(transform: SpaceTransform, tmp_path: Path) -> None:
    """Read by ITK alone, in LPS; Slicer reads these files as transform nodes."""
    to_model, to_scan = transform.write(tmp_path)
    assert to_model.name.startswith("scan-to-model") and to_scan.name.startswith("model-to-scan")
    assert to_model.suffix == (".mat" if transform.warp is None else ".h5")
    point = np.array((12.0, -30.0, 7.0))
    flip = np.array((-1, -1, 1))
    # A file that carries the scan into model space when resampling maps points of model space to the scan.
    read = sitk.ReadTransform(str(to_model))
    np.testing.assert_allclose(
        np.array(read.TransformPoint((point * flip).tolist())) * flip, transform.points_to_scan(point), atol=1e-6
    )
    with pytest.raises(OutputError, match="exists"):
        transform.write(tmp_path)


def test_a_voxel_lands_where_the_transform_says() -> None:
    transform = SpaceTransform("affine", turned((0, 0, 90), (10, 0, 0)))
    scan = Volume(np.zeros((21, 21, 21), np.float32), np.array(turned((0, 0, 0), (0, -10, -10))))
    scan.array[10, 15, 10] = 1  # RAS (10, 5, 0)
    placed = resample_to_model(scan, transform, Grid((21, 21, 21), turned((0, 0, 0), (-10, -10, -10))))
    (index,) = np.argwhere(placed.array > 0.5)
    np.testing.assert_allclose(placed.grid.to_ras(index), (5, 0, 0), atol=1e-6)


def test_cubic_sampling_is_that_of_b_splines_and_keeps_to_the_range() -> None:
    """Against scipy's own B-splines, inside; ITK and scipy differ in how they go on beyond the border."""
    from scipy.ndimage import map_coordinates

    generator = np.random.default_rng(3)
    affine = turned((0, 0, 0), (-12, -11, -20)) @ np.diag((1, 1, 2, 1))
    scan = Volume(generator.random((24, 22, 20)).astype(np.float32), affine)
    transform = SpaceTransform("affine", turned((10, 5, 3), (1, 2, 0)))
    grid = Grid((9, 9, 13), turned((0, 0, 0), (-4, -4, -6)))
    placed = resample_to_model(scan, transform, grid, "cubic")
    indices = np.moveaxis(np.indices(grid.shape), 0, -1)
    points = transform.points_to_scan(grid.to_ras(indices))
    voxels = (points - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T
    wanted = map_coordinates(scan.array.astype(np.float64), np.moveaxis(voxels, -1, 0), order=3, mode="mirror")
    assert wanted.min() < 0 and wanted.max() > scan.array.max()  # splines overshoot …
    np.testing.assert_allclose(placed.array, np.clip(wanted, 0, scan.array.max()), atol=1e-5)


def test_winsorising_limits_the_brightest_and_leaves_maps_alone() -> None:
    scan = Volume(np.arange(1000, dtype=np.float32).reshape(10, 10, 10), np.eye(4))
    step = Winsorising(990.0, {})
    np.testing.assert_array_equal(step.apply(scan).array.ravel(), np.minimum(np.arange(1000), 990))
    assert step.take_back(scan, "linear") is scan


def test_volume_change_is_the_determinant() -> None:
    grid = Grid((40, 40, 40), turned((0, 0, 0), (-60, -60, -60), 3.0))
    np.testing.assert_allclose(SpaceTransform("affine", turned((3, 4, 5), (0, 0, 0), 1.1)).volume_change(grid), 1.331)
    transform = warped(3.0)
    change = transform.volume_change(grid)
    point, step = grid.to_ras((20, 17, 22)), 0.5
    edges = [transform.points_to_scan(point + step * e) - transform.points_to_scan(point - step * e) for e in np.eye(3)]
    assert change[20, 17, 22] == pytest.approx(np.linalg.det(edges), abs=0.03)
    assert change.std() > 0.01


# ------------------------------------------------------------------------------------------------ left stays left


@pytest.fixture(scope="module")
def phantom() -> Volume:
    """No axis is symmetric: a large block on the left, a small one in front, a point above."""
    array = np.zeros((20, 24, 22), np.float32)
    array[2:8, 6:18, 5:15] = 10
    array[9:14, 19:22, 6:9] = 20
    array[11, 12, 19] = 30
    return Volume(array, turned((0, 0, 0), (-10, -12, -11)))


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_left_and_right_never_swap_on_the_way(phantom: Volume, axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """All 48 orientations give the same brain on the model's grid, and labels come back voxel by voxel."""
    scan = reoriented(phantom, axes, signs)
    from ADAttributionLogic.geometry import nearest_ras

    after = nearest_ras(scan.grid)
    assert after.orientation() == "RAS"
    transform = SpaceTransform("affine", turned((0, 0, 0), (0, 0, 0)))
    steps = (Reorientation(scan.grid, after), Registration(transform, after, phantom.grid, {}))
    there = apply_all(steps, scan)
    np.testing.assert_allclose(there.array, phantom.array, atol=1e-4)
    left = there.grid.to_ras(np.argwhere(there.array == 10).mean(axis=0))
    assert left[0] < -4
    back = take_back_all(steps, phantom.with_array(phantom.array.astype(np.int32)), "nearest")
    np.testing.assert_array_equal(back.array, scan.array.astype(np.int32))
    assert back.grid.is_same(scan.grid)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mgz", "dicom"])
@pytest.mark.parametrize(
    ("axes", "signs"), [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, -1, 1)), ((1, 2, 0), (-1, -1, -1))]
)
def test_left_and_right_never_swap_in_files(
    phantom: Volume, tmp_path: Path, name: str, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    scan = reoriented(phantom, axes, signs)
    path = tmp_path / name
    if name == "dicom":
        path.mkdir()
        if np.linalg.det(scan.affine[:3, :3]) < 0:
            scan = reoriented(scan, (0, 1, 2), (1, 1, -1))
        write_dicom_slices(path, scan)
    elif name == "a.mgz":
        nib.save(nib.MGHImage(scan.array, scan.affine), path)
    elif name == "a.mha":
        sitk.WriteImage(sitk.ReadImage(str(write_volume(scan, tmp_path / "b.nrrd"))), str(path))
    else:
        write_volume(scan, path)
    np.testing.assert_allclose(resample(read_scan(path), phantom.grid).array, phantom.array, atol=1e-3)


def write_dicom_slices(folder: Path, scan: Volume) -> None:
    """write_dicom numbers its files modulo 10; one call per ten slices keeps them apart."""
    for first in range(0, scan.array.shape[2], 10):
        part = folder / str(first)
        part.mkdir()
        skip = tuple(k for k in range(scan.array.shape[2]) if not first <= k < first + 10)
        write_dicom(part, scan, "T1", "1.2.840.7", skip)
        for file in part.iterdir():
            file.rename(folder / f"{first}-{file.name}")
        part.rmdir()


# ---------------------------------------------------------------------------------------------------- the whole way


def test_the_true_motion_is_recovered(native: NativeScan, prepared: Preprocessed, target: RegistrationTarget) -> None:
    points = target.brain.grid.to_ras(np.argwhere(target.mask.array)[::97])
    truth = points @ native.matrix[:3, :3].T + native.matrix[:3, 3]
    error = np.linalg.norm(prepared.transform.points_to_scan(points) - truth, axis=1)
    assert error.mean() < 1.0 and error.max() < 2.5
    assert prepared.quality.passed, prepared.quality.failures


def test_the_brain_is_found_and_lies_on_the_model_grid(
    native: NativeScan, prepared: Preprocessed, template: Volume
) -> None:
    moved = Volume(template.array > 0, native.matrix @ template.affine)
    truth = resample(moved, native.scan.grid, "nearest")
    assert overlap(prepared.brain_mask.array, truth.array) > 0.93
    assert prepared.brain.grid.is_same(SMALL)
    wanted = resample(template, SMALL).array
    inside = wanted > 0
    assert np.corrcoef(prepared.brain.array[inside], wanted[inside])[0, 1] > 0.93
    assert (prepared.brain.array >= 0).all() and prepared.brain.array[0, 0, 0] == 0


def test_the_history_says_everything_and_repeats_it(native: NativeScan, prepared: Preprocessed) -> None:
    names = [step["step"] for step in prepared.provenance["steps"]]
    assert names == ["reorient", "bias correction", "registration and resampling", "brain extraction", "winsorising"]
    registration = prepared.provenance["steps"][2]
    assert registration["interpolation"] == "cubic B-spline"
    volume = next(check.value for check in prepared.quality.checks if check.name == "intracranial volume")
    assert prepared.provenance["steps"][3]["brain_cm3"] == pytest.approx(volume, abs=0.06), "in the scan"
    brain = prepared.brain.array
    assert brain.max() == pytest.approx(prepared.provenance["steps"][4]["limit"])
    assert 0.003 < (brain[brain > 0] == brain.max()).mean() < 0.007
    assert registration["kind"] == "affine" and registration["rotation_degrees"] == pytest.approx(19.4, abs=2.5)
    assert registration["engine"].startswith("SimpleITK")
    because = prepared.provenance["already_registered_because"]
    assert because["decided"] == "measured" and not prepared.provenance["already_registered"]
    np.testing.assert_allclose(replay(prepared.steps, prepared.scan).array, prepared.brain.array, atol=1e-3)


def test_labels_survive_the_round_trip(prepared: Preprocessed) -> None:
    """native → model → native: Dice of boxes of more than 8 cm³ (the voxels have 19 mm³)."""
    labels = np.zeros(prepared.scan.grid.shape, np.int32)
    middle = np.argwhere(prepared.brain_mask.array).mean(axis=0).astype(int)
    i, j, k = middle
    labels[i - 5 : i + 5, j - 5 : j + 5, k - 4 : k + 4] = 3
    fine = Grid((193, 229, 193), np.array([[1.0, 0, 0, -96], [0, 1, 0, -132], [0, 0, 1, -78], [0, 0, 0, 1]]))
    there = resample_to_model(Volume(labels, prepared.scan.affine), prepared.transform, fine, "nearest")
    back = resample_to_scan(there, prepared.transform, prepared.scan.grid, "nearest")
    assert overlap(back.array, labels) > 0.90


def test_relevance_that_adds_up_still_does_on_the_scan(prepared: Preprocessed) -> None:
    """Voxels of 18.75 mm³ get the relevance of the space that they cover; other maps keep their values."""
    brain = prepared.brain.array > 0
    map_ = prepared.brain.with_array(np.where(brain, prepared.brain.array / prepared.brain.array.max(), 0))
    carried = relevance_on_scan(map_, prepared, is_additive=True)
    assert carried.grid.is_same(prepared.scan.grid)
    assert carried.array.sum() == pytest.approx(map_.array.sum(), rel=0.01)
    constant = relevance_on_scan(map_.with_array(np.ones_like(map_.array)), prepared, is_additive=False)
    np.testing.assert_allclose(constant.array[prepared.brain_mask.array], 1, atol=1e-5)


def test_progress_rises_and_cancelling_stops_every_part(native: NativeScan, target: RegistrationTarget) -> None:
    seen: list[tuple[float, str]] = []
    monitor = Monitor(lambda fraction, text: seen.append((fraction, text)))
    preprocess(native.scan, SMALL, target, Options("rigid", registered=False), monitor=monitor)
    fractions = [f for f, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    texts = [t for _, t in seen]
    assert {"searching for the brain", "registering", "correcting the brightness", "brain", "checks"} <= set(texts)
    for text in ("searching for the brain", "registering", "correcting the brightness"):
        stop_at(text, native, target)


def stop_at(text: str, native: NativeScan, target: RegistrationTarget) -> None:
    reached: list[str] = []
    monitor = Monitor(lambda _, t: reached.append(t), lambda: text in reached)
    with pytest.raises(Cancelled):
        preprocess(native.scan, SMALL, target, Options("rigid", registered=False), monitor=monitor)
    assert reached[-1] == text


# ------------------------------------------------------------------------------------------------- already registered


def test_registered_scans_are_recognised_by_measuring(template: Volume, target: RegistrationTarget) -> None:
    here = measure_registered(upright(template, 2.5), target, Monitor())
    assert here.is_registered and here.similarity > 0.95 and here.distance_mm < 1
    for matrix in (turned((0, 0, 0), (9, 0, 0)), turned((0, 12, 0), (0, 0, 0)), turned((0, 0, 0), (0, 200, 0))):
        away = measure_registered(Volume(template.array, matrix @ template.affine), target, Monitor())
        assert not away.is_registered, (matrix, away)


def test_a_registered_brain_is_not_touched(template: Volume, target: RegistrationTarget) -> None:
    """On the model's grid already: copied, not interpolated, and the user may say otherwise."""
    scan = resample(template, SMALL)
    found = preprocess(scan, SMALL, target)
    assert found.provenance["already_registered"] and found.transform.kind == "identity"
    inside = found.brain_mask.array
    np.testing.assert_array_equal(found.brain.array[inside], scan.array[inside])
    assert overlap(inside, scan.array > 0) > 0.99
    assert any("already is in the model's space" in note for note in found.notes)
    registration = next(s for s in found.provenance["steps"] if s["step"] == "registration and resampling")
    assert registration["interpolation"] == "none"


def test_thick_slices_get_a_note(template: Volume, target: RegistrationTarget, prepared: Preprocessed) -> None:
    assert not any("longer than the network's" in note for note in prepared.notes)  # 3 mm on 2.5 mm
    thick = Grid((78, 92, 49), SMALL.affine @ np.diag((1, 1, 1.6, 1)))
    found = preprocess(resample(template, thick), SMALL, target, Options("none"))
    (note,) = found.notes
    assert "Voxels of 4 mm are longer than the network's of 2.5 mm" in note


# ------------------------------------------------------------------------------------------------------ brain and bias


def test_a_given_mask_or_segment_is_taken(prepared: Preprocessed) -> None:
    labels = prepared.brain_mask.with_array(prepared.brain_mask.array.astype(np.int32) * 7)
    labels.array[0, 0, 0] = 3
    step = given_brain(prepared.scan, labels, 7)
    np.testing.assert_array_equal(step.mask.array, prepared.brain_mask.array)
    with pytest.raises(ScanError, match=r"label 3 .* covers 0 cm³ of the scan; a brain has at least 100"):
        given_brain(prepared.scan, labels, 3)


def test_the_bias_field_is_found(template: Volume) -> None:
    scan = upright(template, 2.5)
    x = scan.grid.to_ras(np.stack(np.meshgrid(*map(np.arange, scan.grid.shape), indexing="ij"), axis=-1))[..., 0]
    field = np.exp(0.3 * x / 70).astype(np.float32)
    brain = scan.with_array(scan.array > 0.05 * scan.array.max())
    step = fit_bias_field(scan.with_array(scan.array * field), brain, Monitor())
    corrected = step.apply(scan.with_array(scan.array * field))
    inside = brain.array

    def slope(array: np.ndarray) -> float:
        """Of the logarithm of the ratio to the true scan, along x, per 70 mm."""
        ratio = np.log(array[inside] / scan.array[inside])
        return float(np.polyfit(x[inside] / 70, ratio, 1)[0])

    assert slope(scan.array * field) == pytest.approx(0.3, abs=1e-3)
    assert abs(slope(corrected.array)) < 0.08


# --------------------------------------------------------------------------------------------------- quality checks


def checked(scan: Volume, target: RegistrationTarget, transform: SpaceTransform | None = None) -> dict[str, Check]:
    transform = transform or identity_transform()
    brain = scan.with_array(scan.array > 0)
    tissue = measure_tissue(scan, transform, target)
    return {check.name: check for check in check_after(scan, brain, transform, tissue, target)}


def failed(scan: Volume, target: RegistrationTarget) -> dict[str, Check]:
    return {name: check for name, check in checked(scan, target).items() if not check.passed}


def test_the_template_passes_every_check(target: RegistrationTarget) -> None:
    assert failed(target.brain, target) == {}


def test_each_wrong_input_gets_its_message(target: RegistrationTarget) -> None:
    brain = target.brain
    inside = brain.array > 0
    t2 = brain.with_array(np.where(inside, brain.array.max() * 1.1 - brain.array, 0).astype(np.float32))
    found = failed(t2, target)
    assert "T2, FLAIR" in str(found["white to grey matter"]) and "similarity to the template" in found
    height = brain.array.shape[2] * 5 // 8
    cropped = failed(Volume(brain.array[:, :, :height], brain.affine), target)
    assert "cropped" in str(cropped["share of the brain inside the field of view"])
    mirrored = brain.with_array(np.ascontiguousarray(brain.array[::-1]))
    assert list(failed(mirrored, target)) == ["gain in similarity when mirrored left to right"]
    hole = brain.array.copy()
    hole[55:75, 50:75, 50:70] = 0
    assert "resection" in str(failed(brain.with_array(hole), target)["largest region without tissue"])
    places = np.stack(np.meshgrid(*map(np.arange, brain.array.shape), indexing="ij"), axis=-1)
    ball = np.linalg.norm(places - np.array(brain.array.shape) / 2, axis=-1) < 35
    noise = np.random.default_rng(0).normal(100, 3, brain.array.shape)
    found = failed(brain.with_array(np.where(ball, noise, 0).astype(np.float32)), target)
    assert "phantom" in str(found["similarity to the template"])


def test_a_childs_head_is_noticed(target: RegistrationTarget) -> None:
    """The template at 65 % of its size, with the transform that says so."""
    scale = np.diag((0.65, 0.65, 0.65, 1.0))
    child = Volume(target.brain.array, scale @ target.brain.affine)
    transform = SpaceTransform("affine", scale)
    brain = child.with_array(child.array > 0)
    checks = check_after(
        child, brain, transform, measure_tissue(child, transform, target), target, scale.diagonal()[:3]
    )
    messages = "\n".join(str(check) for check in checks if not check.passed)
    assert "intracranial volume" in messages and "scale of the head" in messages and "child" in messages


def test_localisers_and_thick_slices() -> None:
    noise = np.random.default_rng(0).random((256, 256, 3)).astype(np.float32)
    with pytest.raises(ScanError, match=r"256×256×3 voxels.*at least 16 slices.*localiser"):
        check_before(Volume(noise, np.diag((1.0, 1, 10, 1))))
    thick = Volume(np.zeros((200, 200, 24), np.float32), np.diag((1.0, 1, 6.5, 1)))
    assert [check.passed for check in check_before(thick)] == [False, False]


def test_an_empty_scan_is_refused(target: RegistrationTarget) -> None:
    with pytest.raises(ScanError, match="constant"):
        preprocess(Volume(np.zeros((64, 64, 64), np.float32), np.diag((3.0, 3, 3, 1))), SMALL, target)


def test_a_failed_check_stops_the_run_unless_accepted() -> None:
    bad = Check("similarity", 0.1234, "at least 0.35", False, "Look at it.")
    report = QualityReport((Check("volume", 1500, "1000 to 2200 cm³", True, "", "cm³"), bad))
    message = r"(?s)1 of 2 checks.*similarity: 0\.123 \(needed: at least 0\.35\).*--accept-qc"
    with pytest.raises(QualityError, match=message) as raised:
        report.require(accept=False)
    assert raised.value.exit_code == 3
    assert "accepted by the user" in report.require(accept=True)[0]
    assert not report.passed and report.describe()["checks"][1]["value"] == 0.1234


# -------------------------------------------------------------------------------------------------------------- cache


def test_the_second_run_costs_nothing(
    native: NativeScan, prepared: Preprocessed, target: RegistrationTarget, tmp_path: Path
) -> None:
    options = Options()
    key = cache_module.cache_key(prepared.scan, SMALL, target, options, None)
    cache_module._write(prepared, tmp_path / key)
    texts: list[str] = []
    again, cached = preprocess_cached(
        native.scan, SMALL, target, options, folder=tmp_path, monitor=Monitor(lambda _, t: texts.append(t))
    )
    assert cached and texts == ["preprocessed before; taken from the cache"]
    np.testing.assert_array_equal(again.brain.array, prepared.brain.array)
    np.testing.assert_array_equal(again.brain_mask.array, prepared.brain_mask.array)
    np.testing.assert_allclose(again.transform.matrix, prepared.transform.matrix)
    assert again.quality == prepared.quality and again.provenance == prepared.provenance
    np.testing.assert_allclose(replay(again.steps, again.scan).array, prepared.brain.array, atol=1e-3)


def test_whatever_determines_the_result_is_in_the_key(prepared: Preprocessed, target: RegistrationTarget) -> None:
    scan, options = prepared.scan, Options()
    shifted = np.array(scan.affine)
    shifted[0, 3] += 0.1
    brighter = scan.array.copy()
    brighter[3, 3, 3] += 1
    keys = {
        cache_module.cache_key(s, g, target, o, m)
        for s, g, o, m in (
            (scan, SMALL, options, None),
            (Volume(scan.array, shifted), SMALL, options, None),
            (scan.with_array(brighter), SMALL, options, None),
            (scan, Grid((77, 92, 78), SMALL.affine), options, None),
            (scan, SMALL, replace(options, bias_correction=False), None),
            (scan, SMALL, options, prepared.brain_mask),
        )
    }
    assert len(keys) == 6
    renamed = replace(scan, source="registered-to-MNI.nii.gz")
    assert cache_module.cache_key(renamed, SMALL, target, options, None) in keys, "the name plays no part"


def test_damaged_entries_go_and_the_oldest_are_forgotten(
    prepared: Preprocessed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = tmp_path / "entry"
    cache_module._write(prepared, entry)
    assert cache_module._read(entry, prepared.scan, SMALL) is not None
    assert {p.stat().st_mode & 0o777 for p in entry.iterdir()} == {0o600}
    whole = {p.name: p.read_bytes() for p in entry.iterdir()}
    for name, data in whole.items():
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        for damage in (data[: len(data) // 3], b"", b"[" * 100_000, bytes(flipped)):
            entry.mkdir(exist_ok=True)
            for other, content in {**whole, name: damage}.items():
                (entry / other).write_bytes(content)
            assert cache_module._read(entry, prepared.scan, SMALL) is None and not entry.exists(), (name, damage[:9])
    monkeypatch.setattr(cache_module, "MOST_ENTRIES", 2)
    import os

    for age in range(4):
        (tmp_path / str(age)).mkdir()
        (tmp_path / str(age) / "entry.json").write_text("{}", encoding="utf-8")
        os.utime(tmp_path / str(age), (1e9 - age, 1e9 - age))
    cache_module._forget_oldest(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1"]
    (tmp_path / "my own").mkdir()
    monkeypatch.setenv("AD_ATTRIBUTION_CACHE", str(tmp_path))
    assert main(["cache"]) == 0 and "2 preprocessed scans" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0 and "2 preprocessed scans were removed" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["my own"]


# -------------------------------------------------------------------------------------------------------------- usage


def test_unknown_and_missing_engines_are_named(make_unavailable: Callable[[], None]) -> None:
    with pytest.raises(UsageError, match="no registration 'elastic'"):
        Options("elastic")  # type: ignore[arg-type]
    make_unavailable()
    with pytest.raises(UsageError, match=r"needs ANTs: pip install ad-attribution\[registration\]"):
        Options("deformable")


@pytest.fixture
def make_unavailable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As on a computer without antspyx: the import system finds no package ``ants``."""
    import sys

    return lambda: monkeypatch.setitem(sys.modules, "ants", None)


#: Takes the options of HD-BET 2's own command line, and no others; the brain is what is bright.
HD_BET = """#!{python}
import argparse, pathlib, sys
import nibabel, numpy
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("-i"), parser.add_argument("-o"), parser.add_argument("-device")
for flag in ("--disable_tta", "--save_bet_mask", "--no_bet_image"):
    parser.add_argument(flag, action="store_true")
given = parser.parse_args()
image = nibabel.load(given.i)
if image.get_fdata().max() < 5:
    sys.exit("RuntimeError: nothing to segment")
mask = (image.get_fdata() > 20).astype("uint8")
nibabel.save(nibabel.Nifti1Image(mask, image.affine), given.o[:-7] + "_bet.nii.gz")
"""


@pytest.fixture
def hd_bet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in HD-BET's place: the real one needs weights from the internet."""
    import os
    import sys

    program = tmp_path / "hd-bet"
    program.write_text(HD_BET.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("hd_bet")
def test_hd_bet_is_called_as_its_version_2_wants_it() -> None:
    array = np.zeros((20, 22, 24), np.float32)
    array[5:15, 6:16, 7:17] = 100
    scan = Volume(array, turned((0, 0, 0), (-10, -11, -12)))
    found = extract_with_hd_bet(scan, Monitor())
    np.testing.assert_array_equal(found.mask.array, array > 0)
    assert found.parameters == {"method": "HD-BET"}
    with pytest.raises(ScanError, match=r"HD-BET failed \(exit code 1; version 2 is needed\): RuntimeError: nothing"):
        extract_with_hd_bet(scan.with_array(array / 100), Monitor())
    stopping = Monitor(is_cancelled=lambda: True)
    with pytest.raises(Cancelled):
        extract_with_hd_bet(scan, stopping)


@pytest.mark.skipif(not ants_available(), reason="needs ANTs (antspyx, extra registration)")
def test_a_known_deformation_is_found_in_both_directions(template: Volume) -> None:
    """A smooth deformation of up to 6 mm, at 4 mm: fits better than the affine, and the inverse takes it back."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    coarse = RegistrationTarget(template).at(4.0)
    brain, inside = coarse.brain, coarse.mask.array
    generator = np.random.default_rng(0)
    field = np.stack([gaussian_filter(generator.standard_normal(brain.array.shape), 4) for _ in range(3)])
    field *= 1.5 / np.abs(field).max()
    voxels = np.stack(np.meshgrid(*map(np.arange, brain.array.shape), indexing="ij")).astype(float)
    moved = turned((0, 0, 0), (10, -5, 3))
    scan = Volume(map_coordinates(brain.array, voxels + field, order=1).astype(np.float32), moved @ brain.affine)
    found = register_deformable(scan, coarse, moved, Monitor())
    points = np.argwhere(inside)[::37]
    here = scan.grid.to_ras(points)
    truth = brain.grid.to_ras(points + field[(slice(None), *points.T)].T)
    before = np.linalg.norm(here - (10, -5, 3) - truth, axis=1).mean()
    assert np.linalg.norm(found.points_to_model(here) - truth, axis=1).mean() < 0.8 * before
    assert np.linalg.norm(found.points_to_scan(truth) - here, axis=1).mean() < 0.8 * before
    assert np.linalg.norm(found.points_to_scan(found.points_to_model(here)) - here, axis=1).mean() < 0.2
    fits = [
        np.corrcoef(resample_to_model(scan, t, brain.grid).array[inside], brain.array[inside])[0, 1]
        for t in (SpaceTransform("affine", moved), found)
    ]
    assert fits[1] > fits[0] + 0.015
