"""The activations of an image that is already known, and boxes cut out of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ADAttributionLogic.graph.recording import Recording
from ADAttributionLogic.incremental.reach import Places

#: From this many elements per box on, copying box by box is faster on a CPU than gathering element by element.
_COPY_FROM = 1500


class KnownActivations:
    """What a recorded forward pass left behind, cut into boxes on demand.

    Buffers are reused: the boxes cut for a purpose are overwritten when boxes are cut for the same purpose again.

    Parameters
    ----------
    recording : Recording
        Of one image.
    """

    def __init__(self, recording: Recording) -> None:
        self._graph = recording.graph
        self._outputs = {layer: x.contiguous() for layer, x in recording.outputs.items()}
        self.recorded = frozenset(recording.outputs)
        self._buffers: dict[str, Tensor] = {}

    @property
    def recorded_bytes(self) -> int:
        """Memory of the outputs that were recorded."""
        return sum(_bytes(x) for layer, x in self._outputs.items() if layer in self.recorded)

    @property
    def held_bytes(self) -> int:
        """Memory of all outputs and buffers."""
        return sum(_bytes(x) for x in (*self._outputs.values(), *self._buffers.values()))

    def output(self, layer: int) -> Tensor:
        """A layer's whole output (1, C, …); computed once if it lies inside a recorded chain."""
        if layer not in self._outputs:
            sources = [self.output(source) for source in self._graph.layers[layer].inputs]
            self._outputs[layer] = self._graph.layers[layer].operation.forward(*sources).contiguous()
        return self._outputs[layer]

    def keep_only(self, layers: frozenset[int]) -> None:
        """Forget what was computed on demand for other layers than these."""
        self._outputs = {i: x for i, x in self._outputs.items() if i in layers or i in self.recorded}

    def buffer(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised tensor of this shape, in memory that is used again for the same purpose."""
        like = self._outputs[0]
        size = int(np.prod(shape))
        held = self._buffers.get(purpose)
        if held is None or held.numel() < size:
            held = self._buffers[purpose] = like.new_empty(size)
        return held[:size].view(shape)

    def boxes(self, layer: int, starts: Places, size: Places, purpose: str, fill: float = 0.0) -> Tensor:
        """Boxes of a layer's output.

        Parameters
        ----------
        layer : int
        starts : ndarray of int, shape (B, axes)
            First place of each box; may lie outside the map.
        size : ndarray of int, shape (axes,)
        purpose : str
            Names the buffer.
        fill : float
            Value of places outside the map.

        Returns
        -------
        Tensor, shape (B, C, *size)
        """
        known = self.output(layer)
        into = self.buffer(purpose, (len(starts), known.shape[1], *size.tolist()))
        return cut_boxes(known, starts, size, into, fill)

    def joined(self, layers: tuple[int, ...], starts: Places, size: Places, purpose: str, fill: float = 0.0) -> Tensor:
        """Boxes of several layers' outputs one after the other along the channels; otherwise as :meth:`boxes`."""
        if len(layers) == 1:
            return self.boxes(layers[0], starts, size, purpose, fill)
        channels = [self._graph.layers[layer].shape[0] for layer in layers]
        into = self.buffer(purpose, (len(starts), sum(channels), *size.tolist()))
        for layer, part in zip(layers, into.split(channels, dim=1), strict=True):
            cut_boxes(self.output(layer), starts, size, part, fill)
        return into


def cut_boxes(known: Tensor, starts: Places, size: Places, into: Tensor, fill: float = 0.0) -> Tensor:
    """Copy boxes of a contiguous map.

    Parameters
    ----------
    known : Tensor, shape (1, C, …)
    starts : ndarray of int, shape (B, axes)
    size : ndarray of int, shape (axes,)
    into : Tensor, shape (B, C, *size)
        Overwritten and returned.
    fill : float
        Value of places outside the map.
    """
    shape = np.array(known.shape[2:])
    outside = bool((starts < 0).any() or (starts + size > shape).any())
    if known.device.type == "cpu" and into[0].numel() >= _COPY_FROM:
        if outside:
            into.fill_(fill)
        _copy_boxes(known[0], starts, size, shape, into)
        return into
    _gather_boxes(known, starts, size, shape, into)
    if outside:
        first = np.zeros_like(starts)
        into.masked_fill_(~inside_boxes(starts, first, first + shape, size, known.device), fill)
    return into


def _copy_boxes(known: Tensor, starts: Places, size: Places, shape: Places, result: Tensor) -> None:
    low, high = np.clip(starts, 0, shape), np.clip(starts + size, 0, shape)
    for row, a, b, start in zip(result, low.tolist(), high.tolist(), starts.tolist(), strict=True):
        here = tuple(slice(i - s, j - s) for i, j, s in zip(a, b, start, strict=True))
        row[(slice(None), *here)] = known[(slice(None), *(slice(i, j) for i, j in zip(a, b, strict=True)))]


def _gather_boxes(known: Tensor, starts: Places, size: Places, shape: Places, result: Tensor) -> None:
    axes, count, channels = len(shape), len(starts), known.shape[1]
    index = np.zeros((count,) + (1,) * axes, dtype=np.int64)
    for axis in range(axes):
        places = np.clip(starts[:, axis, None] + np.arange(size[axis]), 0, shape[axis] - 1)
        index = index * shape[axis] + places.reshape((count,) + (1,) * axis + (-1,) + (1,) * (axes - axis - 1))
    flat = torch.from_numpy(index.reshape(count, 1, -1)).to(known.device)
    source = known.reshape(1, channels, -1).expand(count, -1, -1)
    index_of_all = flat.expand(-1, channels, -1)
    if result.is_contiguous():
        torch.gather(source, 2, index_of_all, out=result.view(count, channels, -1))
    else:
        result.copy_(torch.gather(source, 2, index_of_all).view(result.shape))


def inside_boxes(starts: Places, lows: Places, highs: Places, size: Places, device: torch.device) -> Tensor:
    """Which places of boxes lie in the windows `lows` to `highs` (exclusive).

    Returns
    -------
    Tensor, shape (B, 1, *size), bool
        Size 1 stands for all along an axis where every place of every box is inside.
    """
    count, axes = starts.shape
    inside = torch.ones((count, 1) + (1,) * axes, dtype=torch.bool, device=device)
    for axis in range(axes):
        places = starts[:, axis, None] + np.arange(size[axis])
        mask = (places >= lows[:, axis, None]) & (places < highs[:, axis, None])
        if not mask.all():
            shape = (count, 1) + (1,) * axis + (-1,) + (1,) * (axes - axis - 1)
            inside = inside & torch.from_numpy(mask.reshape(shape)).to(device)
    return inside


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
