"""Volumes know where they are: geometry, re-orientation, resampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.geometry import Grid, exact_reorientation
from ADAttributionLogic.volume import Volume, check_usable_scan, resample, resampling_is_exact

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def reoriented(volume: Volume, axes: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same image stored with permuted and flipped axes."""
    array = volume.array.transpose(axes)[tuple(slice(None, None, s) for s in signs)]
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (source, sign) in enumerate(zip(axes, signs, strict=True)):
        step[source, axis] = sign
        step[source, 3] += volume.array.shape[source] - 1 if sign < 0 else 0
    return Volume(array, volume.affine @ step)


def oblique_affine(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", generator.uniform(-30, 30, 3), degrees=True).as_matrix()
    affine[:3, :3] = rotation * generator.uniform(0.5, 3, 3)
    affine[:3, 3] = generator.uniform(-50, 50, 3)
    return affine


@pytest.fixture
def volume() -> Volume:
    generator = np.random.default_rng(0)
    return Volume(generator.random((5, 6, 7)).astype(np.float32), oblique_affine(1))


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_all_48_orientations_are_copied_exactly(volume: Volume, axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    turned = reoriented(volume, axes, signs)
    assert resampling_is_exact(turned, volume.grid)
    back = resample(turned, volume.grid)
    np.testing.assert_array_equal(back.array, volume.array)


def test_every_voxel_keeps_its_place_when_reoriented(volume: Volume) -> None:
    turned = reoriented(volume, (2, 0, 1), (1, -1, -1))
    place = turned.grid.to_ras((3, 2, 1))
    i, j, k = np.rint(volume.grid.to_voxel(place)).astype(int)
    assert turned.array[3, 2, 1] == volume.array[i, j, k]


def test_whole_voxel_shifts_crop_and_fill_without_interpolation(volume: Volume) -> None:
    shifted = np.array(volume.affine)
    shifted[:3, 3] = volume.grid.to_ras((2, -1, 0))
    result = resample(volume, Grid((4, 6, 7), shifted), fill=-1)
    np.testing.assert_array_equal(result.array[:3, 1:], volume.array[2:, :5])
    assert (result.array[3:] == -1).all() and (result.array[:, :1] == -1).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), target=st.integers(0, 10_000))
def test_linear_resampling_is_exact_for_linear_images(seed: int, target: int) -> None:
    """An image that is a linear function of place keeps its values on any other oblique, anisotropic grid."""
    grid = Grid((12, 11, 13), oblique_affine(seed))
    slope = np.random.default_rng(seed).normal(size=3)
    places = grid.to_ras(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    image = Volume((places @ slope).astype(np.float32), grid.affine)
    wanted = np.array(oblique_affine(target + 20_000))
    wanted[:3, :3] *= 0.3
    wanted[:3, 3] = grid.to_ras((5.5, 5, 6)) - wanted[:3, :3] @ (2, 2, 2)
    other = Grid((5, 5, 5), wanted)
    sampled = resample(image, other, fill=np.nan)
    points = other.to_ras(np.stack(np.meshgrid(*map(np.arange, other.shape), indexing="ij"), axis=-1))
    inside = ((grid.to_voxel(points) > 0) & (grid.to_voxel(points) < np.array(grid.shape) - 1)).all(axis=-1)
    np.testing.assert_allclose(sampled.array[inside], (points @ slope)[inside], rtol=1e-4, atol=1e-3)


def test_sheared_affines_are_resampled(volume: Volume) -> None:
    """ITK images cannot hold shear; the resampling must not need them to."""
    sheared = np.array(volume.affine)
    sheared[:3, 1] += 0.4 * sheared[:3, 0]
    grid = Grid((3, 3, 3), sheared)
    result = resample(volume, grid)
    i, j, k = volume.grid.to_voxel(grid.to_ras((1, 0, 1)))
    low = int(np.floor(i))
    expected = volume.array[low, int(j), round(k)] * (1 - (i - low)) + volume.array[low + 1, int(j), round(k)] * (
        i - low
    )
    assert result.array[1, 0, 1] == pytest.approx(expected, rel=1e-5)


def test_labels_are_never_mixed() -> None:
    labels = Volume(np.random.default_rng(0).choice([0, 7, 300, 70_000], (9, 9, 9)).astype(np.int32), oblique_affine(3))
    fine = np.array(labels.affine)
    fine[:3, :3] *= 0.37
    result = resample(labels, Grid((20, 20, 20), fine), "nearest")
    assert result.array.dtype == np.int32
    assert set(np.unique(result.array)) <= {0, 7, 300, 70_000}


@given(st.integers(0, 10_000), st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_coordinates_round_trip(seed: int, point: list[float]) -> None:
    grid = Grid((4, 5, 6), oblique_affine(seed))
    np.testing.assert_allclose(grid.to_voxel(grid.to_ras(point)), point, atol=1e-9)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[::7])
def test_orientation_codes_agree_with_nibabel(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    import nibabel as nib

    grid = reoriented(Volume(np.zeros((3, 4, 5), np.float32), oblique_affine(2)), axes, signs).grid
    assert grid.orientation() == "".join(nib.aff2axcodes(grid.affine))


def test_grids_are_compared_by_place_not_by_bits() -> None:
    affine = np.diag([1.0, 1, 1, 1])
    nearly = affine + 1e-9
    nearly[3] = (0, 0, 0, 1)
    assert Grid((5, 5, 5), affine).is_same(Grid((5, 5, 5), nearly))
    nearly[0, 3] += 0.01
    assert not Grid((5, 5, 5), affine).is_same(Grid((5, 5, 5), nearly))
    # A hundredth of a degree adds up over a large image.
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 0.05, degrees=True).as_matrix()
    assert exact_reorientation(Grid((200, 200, 200), affine), Grid((200, 200, 200), turned)) is None


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.zeros((4, 4)), "last row"),
        (np.diag([1.0, 1, 0, 1]), "singular"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.eye(3), "4×4"),
    ],
)
def test_unusable_affines_are_refused(affine: np.ndarray, reason: str) -> None:
    with pytest.raises(GeometryError, match=reason):
        Volume(np.zeros((2, 2, 2), np.float32), affine)


def test_micrometre_voxels_are_not_singular() -> None:
    assert Volume(
        np.zeros((2, 2, 2), np.float32), np.diag([1e-4, 1e-4, 1e-4, 1])
    ).grid.voxel_volume_mm3 == pytest.approx(1e-12)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 2), (4,)])
def test_only_3d_arrays_are_volumes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ScanError, match="3 axes"):
        Volume(np.zeros(shape, np.float32), np.eye(4))


def test_complex_and_text_voxels_are_refused() -> None:
    with pytest.raises(ScanError, match="real numbers"):
        Volume(np.zeros((2, 2, 2), np.complex64), np.eye(4))


def test_nan_and_infinite_voxels_are_counted_and_refused_or_replaced() -> None:
    array = np.random.default_rng(0).random((4, 4, 4)).astype(np.float32)
    array[0, 0, :3] = np.nan
    array[1, 1, 1] = np.inf
    with pytest.raises(ScanError, match="3 NaN and 1 infinite voxels of 64"):
        check_usable_scan(Volume(array, np.eye(4)))
    repaired = check_usable_scan(Volume(array, np.eye(4)), replace_non_finite=0.5)
    assert repaired.array[1, 1, 1] == 0.5 and "3 NaN and 1 infinite" in repaired.notes[0]
    assert np.isnan(array[0, 0, 0]), "the caller's array must stay as it was"


def test_constant_images_are_refused() -> None:
    with pytest.raises(ScanError, match="constant"):
        check_usable_scan(Volume(np.full((3, 3, 3), 7, np.float32), np.eye(4)))


def test_coverage() -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    half = np.eye(4)
    half[0, 3] = 5
    assert grid.covered_by(grid) == 1
    assert grid.covered_by(Grid((10, 10, 10), half)) == pytest.approx(0.5, abs=0.1)
    half[0, 3] = 100
    assert grid.covered_by(Grid((10, 10, 10), half)) == 0
