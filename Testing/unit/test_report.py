"""Figures: the right side, the right colours, the right slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.report.figure import FigureRow, choose_slices, write_figure
from ADAttributionLogic.report.overlay_display import COLOUR_COUNT, OverlayDisplay, two_sided_colours
from ADAttributionLogic.volume import Volume


def test_colours_are_transparent_below_the_threshold_on_both_sides() -> None:
    table = two_sided_colours(OverlayDisplay(maximum=2.0, threshold=0.5))
    values = np.linspace(-2, 2, COLOUR_COUNT)
    np.testing.assert_array_equal(table[:, 3] > 0, np.abs(values) >= 0.5)
    hot, cold = table[-1], table[0]
    assert hot[0] == 1 and hot[2] < 0.5 and cold[2] == 1 and cold[0] < 0.7
    assert (np.diff(table[values > 0.55][:, :3].sum(axis=1)) > 0).all(), "brighter with more relevance"


def test_the_display_range_ignores_the_empty_background() -> None:
    heatmap = np.zeros((50, 50, 50), np.float32)
    heatmap[:10] = np.random.default_rng(0).normal(size=(10, 50, 50))
    display = OverlayDisplay.for_heatmap(heatmap)
    assert display.threshold == pytest.approx(1.96, abs=0.1) and display.maximum == pytest.approx(3.3, abs=0.3)
    assert OverlayDisplay.for_heatmap(np.zeros((3, 3, 3))).maximum > 0
    flat = OverlayDisplay.for_heatmap(np.ones((3, 3, 3)))
    assert flat.threshold < flat.maximum == 1


def test_slices_go_through_the_relevance() -> None:
    heatmap = np.zeros((40, 50, 60), np.float32)
    heatmap[10:13, 20:23, 30:33] = 5
    heatmap[30:32, 40:42, 50:52] = 4
    slices = choose_slices([heatmap], np.ones_like(heatmap))
    assert (
        slices["sagittal"] == (11,)
        and slices["coronal"][0] in (20, 21, 22)
        and 50 in range(slices["axial"][1] - 2, slices["axial"][1] + 3)
    )


def test_left_and_right_in_the_figure(tmp_path: Path) -> None:
    """Relevance in the patient's left hemisphere is drawn on the right, whatever the scan's storage order."""
    brain = np.zeros((40, 48, 40), np.float32)
    brain[8:32, 8:40, 8:32] = 50
    heat = np.zeros_like(brain)
    heat[10:14, 20:26, 18:22] = 1  # R = −10…−6: left
    affine = np.array([[1.0, 0, 0, -20], [0, 1, 0, -24], [0, 0, 1, -20], [0, 0, 0, 1]])
    for axes, signs in (((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))):
        from test_volume import reoriented

        scan, heatmap = (reoriented(Volume(a, affine), axes, signs) for a in (brain, heat))
        path = tmp_path / f"{axes}.png"
        write_figure(path, scan, [FigureRow("t", "s", heatmap, OverlayDisplay(1, 0.5), None, "q")], "h", "f")
        picture = imread(path)[..., :3]
        is_hot = (picture[..., 0] > 0.8) & (picture[..., 1] > 0.8) & (picture[..., 2] < 0.6)
        row, first = np.argwhere(is_hot)[np.argmin(np.argwhere(is_hot)[:, 1])]
        in_brain = picture[row, :, 0] > 0.8
        start = first - np.argmin(in_brain[first::-1]) + 1
        stop = first + np.argmin(in_brain[first:])
        hot = np.flatnonzero(is_hot[row, start:stop])
        assert 50 < stop - start < 300 and hot.mean() > 0.7 * (stop - start), axes


def test_figures_of_oblique_scans_are_upright(tmp_path: Path) -> None:
    from test_volume import oblique_affine

    volume = Volume(np.random.default_rng(0).random((20, 24, 22)).astype(np.float32), oblique_affine(7))
    assert isinstance(volume.grid, Grid)
    path = write_figure(
        tmp_path / "a.png", volume, [FigureRow("t", "s", volume, OverlayDisplay(1, 0.9), None, "q")], "h", "f"
    )
    assert path.stat().st_size > 10_000
