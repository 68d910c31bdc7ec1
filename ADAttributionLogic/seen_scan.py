"""A scan as the network sees it, with all that lies on the same grid: regions, a mask, a scan to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.attribution.registry import Companions
from ADAttributionLogic.errors import GridMismatchError
from ADAttributionLogic.geometry import Affine, Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.model_input import ModelInput, prepare
from ADAttributionLogic.registered_look import registered_look, warning_of
from ADAttributionLogic.relevance.region_table import RegionIndex, index_regions
from ADAttributionLogic.volume import Volume, resample

#: Brings the scan into the network's space once for each rigid move (RAS mm of that space).
Mover = Callable[[Sequence[Affine]], Iterator[Volume]]


@dataclass(frozen=True, eq=False)
class SeenScan:
    """A scan on a network's grid.

    Attributes
    ----------
    model_input : ModelInput
    look : dict or None
        Whether it looks registered; None where that was checked before or cannot be told.
    atlas : Atlas or None
        On the network's grid.
    index : RegionIndex or None
        Of its regions.
    companions : Companions
        What methods take beside the image: regions, mask, reference.
    """

    model_input: ModelInput
    look: dict[str, Any] | None
    atlas: Atlas | None
    index: RegionIndex | None
    companions: Companions

    @property
    def image(self) -> torch.Tensor:
        """What the network is given, shape (1, 1, I, J, K)."""
        return torch.from_numpy(self.model_input.array)[None, None]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the scan and of the atlas."""
        labels = () if self.atlas is None else self.atlas.labels.notes
        return (*filter(None, (warning_of(self.look),)), *self.model_input.notes, *labels)


def see(
    scan: Volume,
    model: Model,
    *,
    atlas: Atlas | None = None,
    mask: Volume | None = None,
    reference: Volume | None = None,
    compares: bool = False,
    replace_non_finite: float | None = None,
    is_prepared: bool = False,
) -> SeenScan:
    """Bring a scan and its companions onto a model's grid; parameters and errors are those of `explain`.

    With `compares`, a method compares with a reference: without one, it is the control mean of the model's card, if
    that has one (normalised already, and on the network's grid).
    """
    model_input = prepare(scan, model.grid, model.normalisation, replace_non_finite=replace_non_finite)
    _require_shape(model, model_input)
    look = None if is_prepared else registered_look(model_input.unnormalised, model.grid)
    placed = None if atlas is None else atlas.on_grid(model_input.volume.grid)
    companions = Companions(
        regions=None if placed is None else torch.from_numpy(placed.labels.array),
        mask=None if mask is None else _on_grid_of(model_input, mask),
        reference=_reference(model, model_input, reference, compares, replace_non_finite),
    )
    return SeenScan(model_input, look, placed, None if placed is None else index_regions(placed), companions)


def moved_images(model: Model, mover: Mover, moves: Sequence[Affine], monitor: Monitor) -> tuple[torch.Tensor, ...]:
    """The scan as the network sees it after each move."""
    images = []
    for number, scan in enumerate(mover(moves) if moves else ()):
        monitor.report(number / len(moves), "moving the scan by fractions of a millimetre")
        images.append(torch.from_numpy(prepare(scan, model.grid, model.normalisation).array)[None, None])
    return tuple(images)


def _on_grid_of(model_input: ModelInput, mask: Volume) -> torch.Tensor:
    """A mask on the network's grid."""
    return torch.from_numpy(resample(mask, model_input.volume.grid, "nearest").array != 0)


def _reference(
    model: Model, model_input: ModelInput, reference: Volume | None, compares: bool, replace_non_finite: float | None
) -> torch.Tensor | None:
    """The given reference as the network would see it, else that of its card where a method compares."""
    if reference is not None:
        return _prepared(model, model_input, reference, replace_non_finite)
    if not compares or model.control_mean is None:
        return None
    return torch.from_numpy(np.ascontiguousarray(model.control_mean().array))[None, None]


def _prepared(
    model: Model, model_input: ModelInput, reference: Volume, replace_non_finite: float | None
) -> torch.Tensor:
    """A reference scan as the network would see it."""
    prepared = prepare(reference, model_input.volume.grid, model.normalisation, replace_non_finite=replace_non_finite)
    return torch.from_numpy(prepared.array)[None, None]


def _require_shape(model: Model, model_input: ModelInput) -> None:
    grid: Grid = model_input.volume.grid
    if grid.shape != model.shape:
        given, needed = ("×".join(map(str, s)) for s in (grid.shape, model.shape))
        raise GridMismatchError(
            f"{model.title} takes images of {needed} voxels, but the scan has {given}, and the model says nothing "
            f"about the space it was trained in, so that the scan cannot be resampled. Resample it to {needed} voxels."
        )
