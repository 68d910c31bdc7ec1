"""Which outputs of a windowed operation read which inputs: the arithmetic of boxes on their way through a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.graph.arithmetic import Product, SumOver
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.operations import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concatenate,
    MaxPool,
    Operation,
    Softmax,
    ZeroPad,
)
from ADAttributionLogic.graph.rearranging import MaxOver, Take

#: Positions or sizes, one row per box and one column per spatial axis.
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reach:
    """Output `o` reads the inputs ``o·stride − padding + dilation·(0 … kernel − 1)``, along each spatial axis.

    Attributes
    ----------
    kernel, stride, padding, dilation : tuple of int
        One entry per spatial axis; the padding is the one before the first input.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> Places:
        """Inputs from the first to the last that one output reads (axes,)."""
        return np.asarray(np.array(self.dilation) * (np.array(self.kernel) - 1) + 1)

    @property
    def is_point(self) -> bool:
        """Whether every output reads the input at its own place only."""
        ones = (1,) * len(self.kernel)
        return self.kernel == ones and self.stride == ones and not any(self.padding)

    def affected(self, first: Places, last: Places, sizes: tuple[int, ...]) -> tuple[Places, Places]:
        """First and last output that any of the inputs `first` to `last` can reach, within an output of `sizes`.

        The range is never empty: where no output reads the inputs (a stride larger than the kernel), it holds an
        output that does not change.
        """
        stride, limit = np.array(self.stride), np.array(sizes) - 1
        low = -((-(first + self.padding - self.extent + 1)) // stride)
        high = (last + self.padding) // stride
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
        return low, np.maximum(low, high)

    def most_affected(self, inputs: Places, sizes: tuple[int, ...]) -> Places:
        """How many outputs a box of `inputs` can reach at most, wherever it lies."""
        return np.asarray(np.minimum((inputs + self.extent - 2) // np.array(self.stride) + 1, sizes))

    def needed(self, outputs: Places) -> Places:
        """How many inputs, from first to last, `outputs` neighbouring outputs read."""
        return np.asarray((outputs - 1) * np.array(self.stride) + self.extent)

    def needed_from(self, starts: Places) -> Places:
        """The first input that is read by outputs from `starts` on; negative in the padding."""
        return np.asarray(starts * np.array(self.stride) - np.array(self.padding))


def point(axes: int) -> Reach:
    """The reach of an operation that works on each place alone."""
    return Reach((1,) * axes, (1,) * axes, (0,) * axes, (1,) * axes)


def reach_of(operation: Operation, axes: int) -> Reach | None:
    """The reach of an operation on maps with this many spatial axes; None if it couples all positions."""
    if isinstance(operation, (Activation, Affine, Add, Product)):
        return point(axes)
    if isinstance(operation, Take):
        return point(axes) if operation.axis == 1 else None
    if isinstance(operation, (SumOver, MaxOver)):
        return point(axes) if operation.axes == (1,) else None
    if isinstance(operation, (Softmax, Concatenate)):
        return point(axes) if operation.axis == 1 else None
    if isinstance(operation, ZeroPad):
        spatial = operation.padding[-axes:]  # what is left pads channels
        before = [0] * (axes - len(spatial)) + [pair[0] for pair in spatial]
        return Reach((1,) * axes, (1,) * axes, tuple(before), (1,) * axes)
    if isinstance(operation, (Convolution, MaxPool, AveragePool)) and len(operation.kernel) == axes:
        dilation = (1,) * axes if isinstance(operation, AveragePool) else operation.dilation
        return Reach(operation.kernel, operation.stride, tuple(p[0] for p in operation.padding), dilation)
    return None
