"""What is asked of a preparation, its report, and maps carried between the scan and the network's grid."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from small_grid import SMALL_AFFINE, SMALL_SHAPE
from test_preprocessing import turned, warped

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preparation import (
    PREPARATION_SECONDS,
    PreparationReport,
    read_preparation,
    read_report,
    registration_advice,
    wanted_preparation,
)
from ADAttributionLogic.preprocessing.carried_maps import map_on_model, map_on_scan
from ADAttributionLogic.preprocessing.pipeline import Options
from ADAttributionLogic.preprocessing.quality import Check, QualityReport
from ADAttributionLogic.registration.space_transform import SpaceTransform, identity_transform
from ADAttributionLogic.volume import Volume

SMALL = Grid(SMALL_SHAPE, SMALL_AFFINE)


def test_what_is_asked() -> None:
    asked = read_preparation({"registration": "rigid", "registered": False, "space": "model", "mask_label": 3}, 0.0)
    assert asked.options == Options("rigid", registered=False, mask_label=3, replace_non_finite=0.0)
    assert (asked.space, asked.accept_quality) == ("model", False)
    assert read_preparation({}).options == Options() and read_preparation({}).space == "native"
    assert wanted_preparation(None) is None and wanted_preparation({"registration": "none"}) is None
    assert wanted_preparation({"registration": "affine"}) == read_preparation({"registration": "affine"})
    assert set(PREPARATION_SECONDS) == {"none", "rigid", "affine", "deformable"}


def test_a_registration_unlike_the_trainings_gets_advice() -> None:
    """Measured: warped onto the template, three of four simulated patients look healthy to the network."""
    assert "takes differences of shape away" in registration_advice({"registration": "affine"}, "deformable")
    assert "a preview only" in registration_advice({"registration": "deformable"}, "affine")
    for trained, registration in (("affine", "affine"), ("affine", "identity"), ("deformable", "deformable")):
        assert registration_advice({"registration": trained}, registration) == ""
    assert registration_advice({}, "deformable") == ""


def test_accepting_failed_checks_is_no_other_question() -> None:
    """A batch that is started again with them accepted goes on where it was."""
    strict, lenient = (read_preparation({"accept_quality": accept}) for accept in (False, True))
    assert strict.describe() == lenient.describe() != read_preparation({"space": "model"}).describe()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"registraton": "affine"}, "no key of a preparation named 'registraton'. Did you mean registration"),
        ({"registration": "affin"}, "registration of a preparation must be one of none, rigid, affine, deformable"),
        ({"registered": "no"}, "registered .* must be one of true or false, null, but is 'no'"),
        ({"bias_correction": 1}, "bias_correction"),
        ({"mask_label": True}, "mask_label .* a whole number"),
        ({"space": "scan"}, "space .* native, model"),
        ({"accept_quality": None}, "accept_quality"),
        ({"brain": None}, "brain"),
    ],
)
def test_nothing_is_silently_ignored(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_preparation(given)


def test_without_registration_nothing_else_may_be_asked() -> None:
    with pytest.raises(UsageError, match="so that space, accept_quality would do nothing"):
        wanted_preparation({"registration": "none", "space": "native", "accept_quality": True})


def test_a_report_survives_json() -> None:
    checks = (Check("a", 0.5, "at least 0.4", True, "advice"), Check("b", 3.0, "at most 2 cm³", False, "look", "cm³"))
    because = {"decided": "measured", "similarity": 0.7}
    report = PreparationReport(
        QualityReport(checks), "affine", True, because, {"kind": "identity"}, {"brain": 2.0}, ("note",), False
    )
    again = read_report(json.loads(json.dumps(report.with_figure(b"png").describe())), b"png")
    assert dataclasses.asdict(again) == dataclasses.asdict(report.with_figure(b"png"))
    assert report.with_figure(None, "no matplotlib").notes == ("note", "no matplotlib")


# -------------------------------------------------------------------------------------------------------- carried maps

TRANSFORMS = {
    "turned": SpaceTransform("affine", turned((20, 5, -9), (30, 1, -8), 1.1)),
    "warped": warped(3.0),
}


def bumps(grid: Grid) -> Volume:
    """Positive and negative relevance in the middle of a grid, smooth enough for any voxel size."""
    places = grid.to_ras(np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1))
    total = np.zeros(grid.shape)
    for centre, weight in (((10.0, -20, 5), 1.0), ((-25.0, 10, 20), -0.6), ((20.0, 30, -10), 0.8)):
        total += weight * np.exp(-((places - np.array(centre)) ** 2).sum(axis=-1) / (2 * 9.0**2))
    return Volume(total.astype(np.float32), grid.affine, "bumps")


def around(transform: SpaceTransform, spacing: tuple[float, float, float]) -> Grid:
    """A sagittal grid over the moved grid of the network."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in SMALL_SHAPE], indexing="ij"), float).reshape(3, -1).T
    moved = transform.points_to_scan(SMALL.to_ras(corners))
    low, high = moved.min(axis=0), moved.max(axis=0)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel_axis, axis in enumerate((1, 2, 0)):
        affine[axis, voxel_axis] = -spacing[voxel_axis]
    affine[:3, 3] = high
    shape = [int(np.ceil((high[axis] - low[axis]) / spacing[n])) + 1 for n, axis in enumerate((1, 2, 0))]
    return Grid((shape[0], shape[1], shape[2]), affine)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (3.0, 2.5, 5.0)])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_map_goes_to_the_scan_and_comes_back(name: str, spacing: tuple[float, float, float]) -> None:
    """Its sum stays what it was at each step, whatever the size of the voxels, and so do its places."""
    transform = TRANSFORMS[name]
    values = bumps(SMALL)
    there = map_on_scan(values, transform, around(transform, spacing), True)
    back = map_on_model(there, transform, SMALL, True)
    positive = float(values.array[values.array > 0].sum())
    for found in (there, back):
        assert float(found.array[found.array > 0].sum()) == pytest.approx(positive, rel=0.03)
        assert float(found.array.sum()) == pytest.approx(float(values.array.sum()), rel=0.03)
    assert np.corrcoef(back.array.ravel(), values.array.ravel())[0, 1] > 0.99
    peak = there.grid.to_ras(np.unravel_index(np.argmax(there.array), there.array.shape))
    expected = transform.points_to_scan(values.grid.to_ras(np.unravel_index(values.array.argmax(), SMALL_SHAPE)))
    assert np.linalg.norm(peak - expected) < max(spacing) + 2.5


def test_a_map_that_does_not_add_up_keeps_its_values() -> None:
    transform, ones = TRANSFORMS["turned"], Volume(np.ones(SMALL_SHAPE, np.float32), SMALL_AFFINE)
    grid = around(transform, (3.0, 2.5, 5.0))
    carried = map_on_scan(ones, transform, grid, False)
    assert carried.array.max() == pytest.approx(1.0) and (carried.array > 0.99).mean() > 0.4
    assert map_on_model(carried, transform, SMALL, False).array[30:50, 40:50, 30:50] == pytest.approx(1.0, abs=1e-5)


def test_without_a_transform_voxels_of_the_same_size_are_copied() -> None:
    values = Volume(np.random.default_rng(0).normal(size=SMALL_SHAPE).astype(np.float32), SMALL_AFFINE)
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = SMALL_SHAPE[0] - 1
    other = Grid(SMALL_SHAPE, SMALL_AFFINE @ turn)
    there = map_on_scan(values, identity_transform(), other, True)
    np.testing.assert_array_equal(there.array, values.array[::-1])
    np.testing.assert_array_equal(map_on_model(there, identity_transform(), SMALL, True).array, values.array)
