"""Transforms between a scan and the model's space, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.registration.space_transform import SpaceTransform, read_transform, warp_of_points


def test_a_written_transform_is_read_back(tmp_path: Path) -> None:
    """With the file that Slicer reads, and what the provenance says of it."""
    grid = Grid((12, 14, 10), np.diag([4.0, 4, 4, 1]))
    moved = np.array([[0.98, 0.1, 0, 10], [-0.1, 1.02, 0.05, -5], [0, -0.05, 0.99, 3], [0, 0, 0, 1.0]])
    warps = [warp_of_points(grid, lambda p, s=sign: p + s * 0.3 * np.sin(p / 9)) for sign in (1, -1)]
    for kind, parts in (("affine", []), ("deformable", warps)):
        written, folder = SpaceTransform(kind, moved, *parts), tmp_path / kind
        folder.mkdir()
        written.write(folder)
        found = read_transform(written.describe(), folder)
        points = np.random.default_rng(0).uniform(2, 34, (50, 3))
        assert found.kind == kind
        np.testing.assert_allclose(found.points_to_scan(points), written.points_to_scan(points), atol=1e-9)
        np.testing.assert_allclose(found.points_to_model(points), written.points_to_model(points), atol=1e-9)
    assert read_transform(None, tmp_path).kind == "identity"
    (tmp_path / "deformable" / "model-to-scan.h5").write_bytes(b"no transform")
    with pytest.raises(UsageError, match=r"model-to-scan\.h5 cannot be read"):
        read_transform(written.describe(), tmp_path / "deformable")
