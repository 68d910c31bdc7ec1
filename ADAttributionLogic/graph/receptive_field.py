"""Where in the image the units of a feature map, or the tokens of a transformer, sit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.layouts import Layout, layouts


@dataclass(frozen=True)
class UnitPlacement:
    """Unit ``i`` of a feature map is centred on voxel ``offset + step · i``, per spatial axis (voxel centres at whole
    numbers)."""

    offset: tuple[float, ...]
    step: tuple[float, ...]


@dataclass(frozen=True)
class UnitGrid:
    """A layer's output as maps of units, whatever the order of its axes.

    Attributes
    ----------
    layout : Layout
    placement : UnitPlacement
    size : tuple of int
        Units along each axis of the image.
    """

    layout: Layout
    placement: UnitPlacement
    size: tuple[int, ...]

    @property
    def has_extras(self) -> bool:
        """Whether there are tokens beside the grid (a class token)."""
        return any(axis.has_extras for axis in self.layout)

    def maps(self, values: Tensor) -> Tensor:
        """Feature maps (features, …) of a layer's output without its batch axis; class tokens are left out."""
        for number, axis in enumerate(self.layout):
            values = values.narrow(number, axis.before, axis.size - axis.before - axis.after)
        factors = [factor for axis in self.layout for factor in axis.factors]
        values = values.reshape([factor.size for factor in factors])
        axes = [factor.axis for factor in factors]
        order = [number for number, axis in enumerate(axes) if axis is None]
        order += [axes.index(axis) for axis in range(len(self.size))]
        return values.permute(order).reshape(-1, *self.size)


def unit_grid(layout: Layout, image_axes: int) -> UnitGrid | None:
    """The grid of units that a layer's output is, if each axis of the image is walked along once."""
    runs = {factor.axis: (factor, axis) for axis in layout for factor in axis.factors if factor.axis is not None}
    if set(runs) != set(range(image_axes)) or sum(len(axis.image_axes) for axis in layout) != image_axes:
        return None
    if any(factor.rolled != (0, 0) for factor, _ in runs.values()):
        return None
    offset = tuple(dict(runs[a][1].offsets)[a] for a in range(image_axes))
    step = tuple(runs[a][0].step for a in range(image_axes))
    return UnitGrid(layout, UnitPlacement(offset, step), tuple(runs[a][0].size for a in range(image_axes)))


def unit_grids(graph: LayerGraph) -> dict[int, UnitGrid]:
    """The grids of units, for each layer whose output is one."""
    image_axes = len(graph.input_shape) - 1
    found = {index: unit_grid(layout, image_axes) for index, layout in layouts(graph).items()}
    return {index: grid for index, grid in found.items() if grid is not None}


def unit_placement(graph: LayerGraph, layer: int) -> UnitPlacement:
    """Follow the windows of all operations from the input to a layer.

    Raises
    ------
    NetworkError
        An operation on the way has no fixed windows, or two paths put the units at different places.
    """
    known = unit_grids(graph)
    if layer not in known:
        raise NetworkError(f"The units of layer {graph.layers[layer]} have no fixed place in the image.")
    return known[layer].placement


def place_on_image(units: Tensor, placement: UnitPlacement, shape: tuple[int, ...]) -> Tensor:
    """Interpolate a map (…) of units linearly onto the image's voxels; beyond the outermost units it stays constant."""
    for axis, (offset, step, size) in enumerate(zip(placement.offset, placement.step, shape, strict=True)):
        count = units.shape[axis]
        positions = (torch.arange(size, dtype=units.dtype, device=units.device) - offset) / step
        positions = positions.clamp(0, count - 1)
        low = positions.floor().clamp(max=max(count - 2, 0)).long()
        weight = (positions - low).reshape([-1 if a == axis else 1 for a in range(units.ndim)])
        high = (low + 1).clamp(max=count - 1)
        units = units.index_select(axis, low) * (1 - weight) + units.index_select(axis, high) * weight
    return units
