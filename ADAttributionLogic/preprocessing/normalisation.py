"""Intensity normalisation, as a network was trained with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import NetworkError, ScanError

Kind = Literal["none", "min-max", "z-score", "mean", "voxelwise"]
Mask = Literal["all", "nonzero"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Normalisation:
    """What is done to a scan's intensities before the network sees it.

    Attributes
    ----------
    kind : {"none", "min-max", "z-score", "mean", "voxelwise"}
        * ``min-max``: the smallest value becomes 0, the largest 1 (Böhle et al. 2019, after the brain mask);
        * ``z-score``: mean 0 and standard deviation 1 over the mask, background stays 0;
        * ``mean``: divided by the mean, of the whole volume with its zeros where the mask is ``all`` (Qiu et al. 2022);
        * ``voxelwise``: minus the mean, divided by the standard deviation of the training scans, voxel by voxel (Rieke
          et al. 2018); 0 where they did not vary.
    mask : {"all", "nonzero"}
        Over which voxels the scan's own figures are taken. ``nonzero`` presumes a skull-stripped scan; for min-max it
        makes no difference to scans with background 0.
    mean, std : ndarray or None
        For ``voxelwise``, on the network's grid.
    clip : (float, float) or None
        What the values are limited to afterwards.
    """

    kind: Kind = "none"
    mask: Mask = "all"
    mean: FloatArray | None = field(default=None, repr=False)
    std: FloatArray | None = field(default=None, repr=False)
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.mask not in get_args(Mask):
            raise NetworkError(
                f"Normalisation {self.kind!r} over {self.mask!r} is unknown; kinds: {', '.join(get_args(Kind))}, "
                f"masks: {', '.join(get_args(Mask))}."
            )
        if self.kind == "voxelwise" and (self.mean is None or self.std is None):
            raise NetworkError("Voxelwise normalisation needs the mean and standard deviation of the training scans.")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise NetworkError(f"Normalised values cannot be limited to {self.clip[0]:g} to {self.clip[1]:g}.")

    def apply(self, scan: npt.NDArray[Any]) -> tuple[FloatArray, dict[str, float]]:
        """Normalise a scan on the network's grid.

        Returns
        -------
        normalised : ndarray, float32
        figures : dict
            The scan's own figures that were used, for provenance.

        Raises
        ------
        ScanError
            Nothing to normalise by: an empty mask or a constant scan.
        """
        normalised, figures = self._normalised(scan.astype(np.float32))
        if self.clip is None:
            return normalised, figures
        low, high = self.clip
        beyond = float(((normalised < low) | (normalised > high)).mean())
        return np.clip(normalised, np.float32(low), np.float32(high)), {**figures, "share_clipped": beyond}

    def _normalised(self, values: FloatArray) -> tuple[FloatArray, dict[str, float]]:
        if self.kind == "none":
            return values, {}
        if self.kind == "voxelwise":
            return self._voxelwise(values), {}
        inside = values != 0 if self.mask == "nonzero" else np.ones(values.shape, dtype=bool)
        if not inside.any():
            raise ScanError("On the network's grid the scan is empty (all voxels are 0); nothing overlaps it.")
        chosen = values[inside].astype(np.float64)
        if self.kind == "min-max":
            return self._min_max(values, inside, chosen)
        if self.kind == "mean":
            return _by_mean(values, float(chosen.mean()))
        mean, std = float(chosen.mean()), float(chosen.std())
        if std == 0:
            raise ScanError("On the network's grid the scan is constant; it cannot be normalised.")
        normalised = np.where(inside, (values - mean) / std, 0) if self.mask == "nonzero" else (values - mean) / std
        return normalised.astype(np.float32), {"mean": mean, "std": std}

    def _min_max(
        self, values: FloatArray, inside: npt.NDArray[np.bool_], chosen: npt.NDArray[np.float64]
    ) -> tuple[FloatArray, dict[str, float]]:
        # A skull-stripped scan's background is its minimum: the darkest brain voxel must not become background too.
        low = float(values.min()) if self.mask == "all" else min(0.0, float(chosen.min()))
        high = float(chosen.max())
        if high == low:
            raise ScanError("On the network's grid the scan is constant; it cannot be normalised.")
        scaled = (values - np.float32(low)) / np.float32(high - low)
        if self.mask == "nonzero":
            scaled = np.where(inside, scaled, 0)
        return scaled.astype(np.float32), {"minimum": low, "maximum": high}

    def _voxelwise(self, values: FloatArray) -> FloatArray:
        assert self.mean is not None and self.std is not None
        if self.mean.shape != values.shape:
            raise NetworkError(f"The normalisation is for {self.mean.shape} voxels, but the grid has {values.shape}.")
        varies = self.std > 1e-6 * max(float(self.std.max()), 1e-30)
        return np.where(varies, (values - self.mean) / np.where(varies, self.std, 1), 0).astype(np.float32)


def _by_mean(values: FloatArray, mean: float) -> tuple[FloatArray, dict[str, float]]:
    if mean <= 0:
        raise ScanError(
            f"On the network's grid the mean of the scan is {mean:g}; it can only be divided by a mean above 0."
        )
    return (values / np.float32(mean)).astype(np.float32), {"mean": mean}
