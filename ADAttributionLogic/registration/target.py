"""What scans are registered to: a template brain, where it counts, and how bright its tissues are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.volume import Volume, resample

#: How far (mm) beyond the brain the similarity is measured: the cortex's outer edge is what fixes the scale.
METRIC_MARGIN_MM = 4.0


@dataclass(frozen=True, eq=False)
class RegistrationTarget:
    """A skull-stripped template brain.

    Attributes
    ----------
    brain : Volume
        0 outside the brain, isotropic voxels, e.g. ICBM152 2009c at 1 mm.
    """

    brain: Volume

    def __post_init__(self) -> None:
        spacing = self.brain.grid.spacing
        if max(spacing) - min(spacing) > 1e-3:
            raise ScanError(f"The template must have isotropic voxels, but has {self.brain.grid.describe()}.")
        share = float((self.brain.array > 0).mean())
        if not 0.02 < share < 0.6:
            raise ScanError(
                f"The template must be skull-stripped (0 outside the brain); {share:.0%} of its voxels are brain, "
                "2 % to 60 % are expected."
            )

    @cached_property
    def mask(self) -> Volume:
        """Bool: the brain."""
        return self.brain.with_array(self.brain.array > 0, "template brain mask")

    @cached_property
    def distance_outside(self) -> npt.NDArray[np.float32]:
        """Distance (mm) of each voxel to the brain's surface, negative inside."""
        return distance_outside(self.mask)

    @cached_property
    def metric_mask(self) -> Volume:
        """Bool: the brain and :data:`METRIC_MARGIN_MM` around it."""
        return self.mask.with_array(self.distance_outside <= METRIC_MARGIN_MM, "template metric mask")

    @cached_property
    def scalp_shell(self) -> Volume:
        """Bool: 6 to 20 mm outside the brain, above the skull base: where a head has scalp, and a brain nothing."""
        distance = self.distance_outside
        inside = np.flatnonzero(self.mask.array.any(axis=(0, 1)))
        height = self.brain.grid.to_ras(np.array([[0, 0, k] for k in range(self.brain.array.shape[2])]))[:, 2]
        upper = height >= np.median(height[inside])
        return self.mask.with_array((distance >= 6) & (distance <= 20) & upper[None, None, :], "scalp shell")

    @cached_property
    def white_matter(self) -> Volume:
        """Bool: the brightest third of the brain, which in a T1 is white matter."""
        return self.mask.with_array(self.brain.array >= self._quantile(0.72), "bright third of the template")

    @cached_property
    def grey_matter(self) -> Volume:
        """Bool: the middle of the brain's intensities, which in a T1 is grey matter."""
        low, high = self._quantile(0.25), self._quantile(0.5)
        return self.mask.with_array((self.brain.array >= low) & (self.brain.array <= high), "middle of the template")

    @cached_property
    def fluid(self) -> Volume:
        """Bool: the darkest deep voxels of the brain: the ventricles."""
        deep = distance_outside(self.mask.with_array(~self.mask.array)) > 25
        dark = self.brain.array < 0.45 * self._quantile(0.5)
        return self.mask.with_array(deep & dark, "ventricles of the template")

    def at(self, millimetres: float) -> RegistrationTarget:
        """The same at a coarser resolution, smoothed accordingly (kept)."""
        if millimetres not in self._coarser:
            self._coarser[millimetres] = self._resampled(millimetres)
        return self._coarser[millimetres]

    def _resampled(self, millimetres: float) -> RegistrationTarget:
        grid = isotropic_grid(self.brain.grid, millimetres)
        coarse = resample(smoothed(self.brain, millimetres), grid)
        mask = resample(self.mask, grid, "nearest").array
        return RegistrationTarget(coarse.with_array(np.where(mask, np.maximum(coarse.array, 1e-3), 0)))

    @cached_property
    def _coarser(self) -> dict[float, RegistrationTarget]:
        """Those already made by :meth:`at`."""
        return {}

    def _quantile(self, q: float) -> float:
        return float(np.quantile(self.brain.array[self.mask.array], q))


def distance_outside(mask: Volume) -> npt.NDArray[np.float32]:
    """Distance (mm) of each voxel to the mask's surface, positive outside, negative inside (shear is ignored)."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(mask.array.astype(np.uint8).T)
    image.SetSpacing(mask.grid.spacing)
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    found: npt.NDArray[np.float32] = sitk.GetArrayFromImage(distance).T
    return found


def isotropic_grid(grid: Grid, millimetres: float) -> Grid:
    """An RAS grid of isotropic voxels over the field of view of another grid, whatever its orientation or shear."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij")).reshape(3, -1).T
    points = grid.to_ras(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    i, j, k = (int(n) for n in np.maximum(np.ceil((high - low) / millimetres - 1e-6), 1))
    affine = np.diag((millimetres, millimetres, millimetres, 1.0))
    # Centred, so that what does not divide evenly is shared by both ends.
    affine[:3, 3] = (low + high) / 2 - millimetres * (np.array((i, j, k)) - 1) / 2
    return Grid((i, j, k), affine)


def smoothed(volume: Volume, millimetres: float) -> Volume:
    """Low-pass filter before sampling at a coarser spacing; axes that are already as coarse are left alone."""
    from scipy.ndimage import gaussian_filter

    # A Gaussian of 0.42 of the ratio has the width of the coarser voxel.
    sigma = [0.42 * millimetres / s if s < 0.99 * millimetres else 0.0 for s in volume.grid.spacing]
    if not any(sigma):
        return volume.with_array(volume.array.astype(np.float32, copy=False))
    return volume.with_array(gaussian_filter(volume.array.astype(np.float32, copy=False), sigma, truncate=3.0))


def upright(volume: Volume, millimetres: float) -> Volume:
    """The whole field of view in RAS orientation at isotropic spacing, smoothed accordingly; float32.

    Kept as long as the volume is: registration and correction look at the same scan.
    """
    made = _UPRIGHT.setdefault(volume, {})
    if millimetres not in made:
        made[millimetres] = resample(smoothed(volume, millimetres), isotropic_grid(volume.grid, millimetres))
    return made[millimetres]


_UPRIGHT: WeakKeyDictionary[Volume, dict[float, Volume]] = WeakKeyDictionary()
