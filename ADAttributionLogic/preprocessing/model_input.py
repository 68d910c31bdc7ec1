"""From a scan to what the network sees: on its grid, with its intensities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.volume import Volume, check_usable_scan, resample, resampling_is_exact

#: Voxels that many times the range of the others beyond it are named, or refused.
OUTLIER_NOTED = 3.0
OUTLIER_REFUSED = 30.0

#: Below this fraction of the network's grid inside the scan's field of view, the scan is refused.
LEAST_COVERAGE = 0.25
#: Below this one, the user is warned.
USUAL_COVERAGE = 0.90


@dataclass(frozen=True, eq=False)
class ModelInput:
    """A scan as the network sees it.

    Attributes
    ----------
    volume : Volume
        float32, on the network's grid, normalised.
    unnormalised : Volume
        The same before normalisation, to show heatmaps on.
    scan : Volume
        The scan as read.
    steps : tuple of dict
        What was done, in order, with parameters.
    notes : tuple of str
        What the user should know.
    """

    volume: Volume
    unnormalised: Volume
    scan: Volume
    steps: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def array(self) -> npt.NDArray[np.float32]:
        """The normalised voxels."""
        array: npt.NDArray[np.float32] = self.volume.array
        return array


def prepare(
    scan: Volume, grid: Grid | None, normalisation: Normalisation, *, replace_non_finite: float | None = None
) -> ModelInput:
    """Bring a scan that is already registered to the network's space onto its grid, and normalise it.

    Parameters
    ----------
    scan : Volume
        Skull-stripped and registered, as the network was trained with, in any orientation and voxel size.
    grid : Grid or None
        The network's grid; None when it knows no space, only a shape: then the scan's own grid is used.
    normalisation : Normalisation
    replace_non_finite : float, optional
        Value for NaN and infinite voxels, which are refused otherwise.

    Raises
    ------
    ScanError
        Voxels that cannot be used.
    GeometryError
        The scan does not overlap the grid.
    """
    usable = check_usable_scan(scan, replace_non_finite)
    notes = list(usable.notes)
    steps: list[dict[str, Any]] = []
    placed = usable
    if grid is not None and not usable.grid.is_same(grid):
        notes += _check_coverage(usable, grid)
        exact = resampling_is_exact(usable, grid)
        placed = resample(usable, grid, "linear")
        steps.append(
            {
                "step": "reorient" if exact else "resample",
                "from": usable.grid.describe(),
                "to": grid.describe(),
                "interpolation": "none" if exact else "linear",
            }
        )
    if normalisation.kind in ("min-max", "z-score"):
        notes += _check_outliers(placed)
    values, figures = normalisation.apply(placed.array)
    steps.append({"step": "normalise", "kind": normalisation.kind, "mask": normalisation.mask, **figures})
    return ModelInput(placed.with_array(values), placed, usable, tuple(steps), tuple(notes))


def _check_outliers(scan: Volume) -> list[str]:
    """Single voxels far beyond all others decide the scale of min-max and z-score, and flatten the brain."""
    voxels = scan.array[scan.array != 0]
    if voxels.size < 1000:
        return []
    low, high = (float(p) for p in np.percentile(voxels[:: max(1, voxels.size // 200_000)], (0.5, 99.5)))
    spread = max(high, 0.0) - min(low, 0.0)
    largest = max(float(voxels.max()) - high, low - float(voxels.min()))
    if spread <= 0 or largest <= OUTLIER_NOTED * spread:
        return []
    count = int(((voxels > high + OUTLIER_NOTED * spread) | (voxels < low - OUTLIER_NOTED * spread)).sum())
    what = (
        f"{count} voxels (up to {float(voxels[np.abs(voxels).argmax()]):.3g}) lie far beyond the others ({low:.3g} to "
        f"{high:.3g}), and the normalisation takes its scale from them"
    )
    if largest > OUTLIER_REFUSED * spread:
        raise ScanError(
            f"{what}: the rest of the brain would be flattened. Limit them first (registration and preparation do, see "
            "winsorising), or repair the scan."
        )
    return [f"{what}: the brain is darker than in other scans. Limit them (winsorising) and compare."]


def _check_coverage(scan: Volume, grid: Grid) -> list[str]:
    covered = grid.covered_by(scan.grid)
    if covered < LEAST_COVERAGE:
        raise GeometryError(
            f"The scan covers {covered:.0%} of the network's grid; at least {LEAST_COVERAGE:.0%} is needed. The scan "
            f"has {scan.grid.describe()} from {_corner(scan.grid)}, the network needs {grid.describe()} from "
            f"{_corner(grid)} (RAS mm). Register the scan to the network's space first."
        )
    if covered < USUAL_COVERAGE:
        return [f"The scan covers only {covered:.0%} of the network's grid; the rest was filled with 0."]
    return []


def _corner(grid: Grid) -> str:
    low = grid.to_ras((0, 0, 0))
    high = grid.to_ras(np.array(grid.shape) - 1)
    return f"{np.round(low).astype(int).tolist()} to {np.round(high).astype(int).tolist()}"
