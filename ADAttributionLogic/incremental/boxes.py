"""Boxes of a layer's output, one per window, and what is computed on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.operations import AveragePool, MaxPool, Operation, ZeroPad
from ADAttributionLogic.incremental.reach import Places

#: Elements of a box from which on boxes are compared one by one.
_COMPARE_EACH_FROM = 4000

#: What it costs to add a convolved change, in multiplications per place of the input and channel of the output.
ADDING = 40


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one layer's output, one per window.

    Attributes
    ----------
    starts : ndarray of int, shape (B, axes)
    known, values : Tensor, shape (B, C, …)
        Of the known image, and of the changed one.
    """

    starts: Places
    known: Tensor
    values: Tensor

    @property
    def size(self) -> Places:
        """Places along each axis."""
        return np.array(self.values.shape[2:])

    @cached_property
    def has_changed(self) -> Tensor:
        """For each window, whether anything is different (B,), bool."""
        if self.values.device.type == "cpu" and self.values[0].numel() > _COMPARE_EACH_FROM:
            # This comparison ends with the first difference.
            different = [not torch.equal(a, b) for a, b in zip(self.values, self.known, strict=True)]
            return torch.tensor(different)
        return (self.values != self.known).flatten(1).any(1)

    def part(self, rows: slice) -> Boxes:
        """The boxes of neighbouring windows."""
        return Boxes(self.starts[rows], self.known[rows], self.values[rows])

    def select(self, rows: Tensor) -> Boxes:
        """The boxes of some windows."""
        return Boxes(self.starts[rows.cpu().numpy()], self.known[rows], self.values[rows])


# ---------------------------------------------------------------------------------------------------------------- boxes


def paste(target: Tensor, boxes: Tensor, offsets: Places, *, add: bool) -> None:
    """Write boxes into (or add them to) larger ones, in place; what reaches beyond the target is left out.

    Parameters
    ----------
    target : Tensor, shape (B, C, …)
    boxes : Tensor, shape (B, C, …)
    offsets : ndarray of int, shape (B, axes)
        Where each box begins in its target; may be negative.
    add : bool
    """
    distinct, number = np.unique(offsets, axis=0, return_inverse=True)
    number = number.reshape(-1)
    limit, size = np.array(target.shape[2:]), np.array(boxes.shape[2:])
    for which, offset in enumerate(distinct):
        low, high = np.maximum(offset, 0), np.minimum(offset + size, limit)
        if (high <= low).any():
            continue
        into = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        out_of = (slice(None), *(slice(a, b) for a, b in zip(low - offset, high - offset, strict=True)))
        for rows in _runs(np.flatnonzero(number == which)):
            if add:
                target[rows][_into_all(into)] += boxes[rows][_into_all(out_of)]
            else:
                target[rows][_into_all(into)] = boxes[rows][_into_all(out_of)]


def _into_all(index: tuple[slice, ...]) -> tuple[slice, ...]:
    """The same places in every box of a batch."""
    return (slice(None), *index)


def _runs(numbers: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Increasing numbers as runs of neighbours."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for run in np.split(numbers, breaks):
        yield slice(int(run[0]), int(run[-1]) + 1)


def spread(boxes: Boxes, shape: tuple[int, ...]) -> Tensor:
    """Differences as whole maps, 0 outside the boxes."""
    whole = boxes.values.new_zeros(shape)
    paste(whole, boxes.values - boxes.known, boxes.starts, add=False)
    return whole


def slices_of(start: Places, size: Places) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))


# ----------------------------------------------------------------------------------------------------------- operations


def can_add(operation: Convolution) -> bool:
    """Whether a convolved change lies equally for all windows."""
    return operation.groups == 1 and set(operation.stride) == {1}


def adding_work(operation: Convolution) -> float:
    """Work of adding a convolved change, per place of the input."""
    return operation.weight.numel() + ADDING * operation.weight.shape[0]


def convolve_alone(operation: Convolution, weight: Tensor, x: Tensor) -> Tensor:
    """Convolve boxes that are surrounded by zeros, with stride 1; every output that is not 0 for certain.

    Parameters
    ----------
    operation : Convolution
    weight : Tensor, shape (outputs, inputs, …)
        Its weight for the channels of `x`.
    x : Tensor, shape (B, inputs, …)

    Returns
    -------
    Tensor, shape (B, outputs, …)
        Each axis longer by ``dilation·(kernel − 1)``, as much before as the padding allows.
    """
    reach = tuple(d * (k - 1) for d, k in zip(operation.dilation, operation.kernel, strict=True))
    return replace(operation, padding=tuple((r, r) for r in reach)).map((x,), weight)


def without_padding(operation: Operation, axes: int) -> Operation:
    """An operation on maps with this many spatial axes, for boxes that bring along what lies around them."""
    if isinstance(operation, Convolution):
        return replace(operation, padding=((0, 0),) * operation.dimensions)
    if isinstance(operation, MaxPool):
        return replace(operation, padding=((0, 0),) * len(operation.kernel), ceil_mode=False)
    if isinstance(operation, ZeroPad):
        channels = operation.padding[:-axes]
        return replace(operation, padding=(*channels, *((0, 0),) * min(axes, len(operation.padding))))
    if isinstance(operation, AveragePool):
        return replace(
            operation, padding=((0, 0),) * len(operation.kernel), ceil_mode=False, count_include_pad=True, divisor=None
        )
    return operation


def average_scales(operation: AveragePool, ones: Tensor) -> Tensor:
    """Per output, what the mean over a window without borders is multiplied by to give PyTorch's at this place."""
    padding = tuple(p for p, _ in operation.padding)
    kernel, stride = operation.kernel, operation.stride
    if len(kernel) == 1:  # only the pools in 2D and 3D take a divisor
        ones, kernel, stride, padding = ones[:, :, None], (1, *kernel), (1, *stride), (0, *padding)
    pool = torch.nn.functional.avg_pool2d if len(kernel) == 2 else torch.nn.functional.avg_pool3d
    counts = pool(ones, kernel, stride, padding, operation.ceil_mode, divisor_override=1)
    if len(operation.kernel) == 1:
        counts, ones = counts[:, :, 0], ones[:, :, 0]
    return operation.forward(ones) * math.prod(operation.kernel) / counts
