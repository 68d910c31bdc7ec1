"""Bars of regions: one per region, in its colour, of its length, none cut off."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.report.region_chart import region_chart


def bars(picture: np.ndarray) -> list[tuple[str, int]]:
    """Colour and length of each bar, from the top."""
    found: list[tuple[str, int]] = []
    orange = (picture[..., 0] > 0.8) & (picture[..., 2] < 0.2)
    blue = (picture[..., 2] > 0.8) & (picture[..., 0] < 0.3)
    rows = orange.sum(axis=1) - blue.sum(axis=1)
    for before, now in zip(np.append(0, rows), rows, strict=False):
        if now and not before:
            found.append(("orange" if now > 0 else "blue", abs(int(now))))
    return found


def test_one_horizontal_bar_per_region_the_first_on_top() -> None:
    names = ["Right TTG transverse temporal gyrus", "Left Hippocampus", "A name that is much longer than any is, " * 2]
    picture = imread(io.BytesIO(region_chart(names, [4e-6, 2e-6, -1e-6], "LRP", "relevance per mm³")))[..., :3]
    found = bars(picture)
    assert [colour for colour, _ in found] == ["orange", "orange", "blue"]
    lengths = np.array([length for _, length in found])
    np.testing.assert_allclose(lengths / lengths[0], [1, 0.5, 0.25], atol=0.03)
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (edge > 0.97).all(), "nothing is cut off at the picture's edge"


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="0 for 0 regions"):
        region_chart([], [], "t", "u")
    with pytest.raises(UsageError, match="1 for 2 regions"):
        region_chart(["a", "b"], [1.0], "t", "u")
