"""What was done to a scan, step by step, with parameters; each step can be taken back.

A step's ``apply`` carries the scan forward, its ``take_back`` carries a map (a heatmap, labels) the other way. Steps
that change intensities only leave maps as they are: relevance is not divided by a bias field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ADAttributionLogic.geometry import Grid, exact_reorientation, in_round_numbers, nearest_ras
from ADAttributionLogic.registration.space_transform import SpaceTransform, resample_to_model, resample_to_scan
from ADAttributionLogic.volume import Interpolation, Volume, resample


class Step(Protocol):
    """One step of a history."""

    @property
    def name(self) -> str:
        """What it does, in one or two words."""
        ...

    def apply(self, scan: Volume) -> Volume:
        """Carry a scan forward."""
        ...

    def take_back(self, values: Volume, interpolation: Interpolation) -> Volume:
        """Carry a map back to where the scan was before the step."""
        ...

    def describe(self) -> dict[str, Any]:
        """Parameters as plain values."""
        ...


@dataclass(frozen=True, eq=False)
class Reorientation:
    """Voxels stored along the anatomical axes; no value changes, in either direction.

    Attributes
    ----------
    before : Grid
    after : Grid
        :func:`~.geometry.nearest_ras` of it, perhaps :func:`~.geometry.in_round_numbers`.
    """

    before: Grid
    after: Grid
    name: str = "reorient"

    def apply(self, scan: Volume) -> Volume:
        copied = resample(scan, nearest_ras(self.before), "nearest")
        return replace(copied, affine=self.after.affine)

    def take_back(self, values: Volume, interpolation: Interpolation) -> Volume:
        return resample(replace(values, affine=nearest_ras(self.before).affine), self.before, interpolation)

    def describe(self) -> dict[str, Any]:
        return {"from": self.before.orientation(), "to": self.after.orientation(), "interpolation": "none"}


def turned_grid(scan: Grid, model: Grid) -> Grid:
    """Where a scan's voxels are while it is prepared: along the anatomical axes, and, unless it needs no registration
    to the model's grid, in round numbers."""
    turned = nearest_ras(scan)
    return turned if exact_reorientation(turned, model) is not None else in_round_numbers(turned)


@dataclass(frozen=True, eq=False)
class BiasCorrection:
    """Division by a smooth field.

    Attributes
    ----------
    log_field : Volume
        Logarithm of the field, on a coarse grid in the scan's space.
    parameters : dict
    """

    log_field: Volume
    parameters: dict[str, Any]
    name: str = "bias correction"

    def apply(self, scan: Volume) -> Volume:
        field = resample(self.log_field, scan.grid, "linear")
        return scan.with_array((scan.array / np.exp(field.array)).astype(np.float32))

    def take_back(self, values: Volume, interpolation: Interpolation) -> Volume:
        return values

    def describe(self) -> dict[str, Any]:
        values = np.exp(self.log_field.array)
        return {**self.parameters, "field_minimum": float(values.min()), "field_maximum": float(values.max())}


@dataclass(frozen=True, eq=False)
class BrainExtraction:
    """Everything outside the brain set to 0.

    Attributes
    ----------
    mask : Volume
        Bool, on the grid of the scan at this step.
    parameters : dict
        How it was found, and its volume in the scan: on the model's grid it is another one.
    """

    mask: Volume
    parameters: dict[str, Any]
    name: str = "brain extraction"

    def apply(self, scan: Volume) -> Volume:
        return scan.with_array(np.where(self.mask.array, scan.array, np.float32(0)))

    def take_back(self, values: Volume, interpolation: Interpolation) -> Volume:
        return values

    def describe(self) -> dict[str, Any]:
        return dict(self.parameters)


@dataclass(frozen=True, eq=False)
class Winsorising:
    """The brightest voxels set to a limit: noise, vessels and fat must not set the scale of a min-max normalisation.

    Attributes
    ----------
    limit : float
        In the scan's units.
    parameters : dict
    """

    limit: float
    parameters: dict[str, Any]
    name: str = "winsorising"

    def apply(self, scan: Volume) -> Volume:
        return scan.with_array(np.minimum(scan.array, np.float32(self.limit)))

    def take_back(self, values: Volume, interpolation: Interpolation) -> Volume:
        return values

    def describe(self) -> dict[str, Any]:
        return {**self.parameters, "limit": self.limit}


@dataclass(frozen=True, eq=False)
class Registration:
    """Resampling onto the model's grid through a transform, by cubic B-splines.

    Attributes
    ----------
    transform : SpaceTransform
    before, after : Grid
    parameters : dict
        The engine and what it reached.
    """

    transform: SpaceTransform
    before: Grid
    after: Grid
    parameters: dict[str, Any]
    name: str = "registration and resampling"

    def apply(self, scan: Volume) -> Volume:
        if self._copies:
            return resample(scan, self.after)
        return resample_to_model(scan, self.transform, self.after, "cubic")

    @property
    def _copies(self) -> bool:
        """Whether the grids differ by the order of their voxels only, so that nothing is interpolated."""
        return self.transform.kind == "identity" and exact_reorientation(self.before, self.after) is not None

    def carry(self, values: Volume) -> Volume:
        """Carry a mask's share or another smooth map forward, by linear interpolation."""
        if self.transform.kind == "identity":
            return resample(values, self.after)
        return resample_to_model(values, self.transform, self.after)

    def take_back(self, values: Volume, interpolation: Interpolation) -> Volume:
        if self.transform.kind == "identity":
            return resample(values, self.before, interpolation)
        return resample_to_scan(values, self.transform, self.before, interpolation)

    def describe(self) -> dict[str, Any]:
        grids = {"from": self.before.describe(), "to": self.after.describe()}
        grids["interpolation"] = "none" if self._copies else "cubic B-spline"
        return {**self.transform.describe(), **self.parameters, **grids}


def apply_all(steps: Sequence[Step], scan: Volume) -> Volume:
    """Carry a scan through all steps."""
    for step in steps:
        scan = step.apply(scan)
    return scan


def take_back_all(steps: Sequence[Step], values: Volume, interpolation: Interpolation = "linear") -> Volume:
    """Carry a map of model space back onto the grid of the scan as it was read."""
    for step in reversed(steps):
        values = step.take_back(values, interpolation)
    return values


def describe_all(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """All steps as plain values, in order."""
    return [{"step": step.name, **step.describe()} for step in steps]
