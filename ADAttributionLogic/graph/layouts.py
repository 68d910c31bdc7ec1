"""What the places along each axis of a layer's output stand for: positions in the image, or features.

Patches become tokens and windows by changes of shape: a grid of 6×7×6 patches is an axis of 252 tokens, in front of
which a class token is put, or it is cut into windows and rolled. Here each axis is a product of *factors*, the last of
which runs fastest, and a factor either walks along an axis of the image or counts features; a change of shape regroups
factors, and what sums over an axis leaves the centre of what it summed over. What cannot be followed has no layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ADAttributionLogic.graph.arithmetic import PlacewiseAffine, Product, SumOver
from ADAttributionLogic.graph.attention import DenseByGroup, MatrixProduct
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import Layer, LayerGraph
from ADAttributionLogic.graph.normalisations import Normalisation, Variance
from ADAttributionLogic.graph.operations import (
    Activation,
    AdaptiveAveragePool,
    Add,
    Affine,
    AveragePool,
    Concatenate,
    Dense,
    Input,
    MaxPool,
    Permute,
    Reshape,
    Softmax,
    ZeroPad,
)
from ADAttributionLogic.graph.rearranging import MaxOver, Take

#: Operations that compute each element from those at the same place (and, in normalisations, from their statistics).
_ELEMENTWISE = (Activation, Add, Affine, Normalisation, PlacewiseAffine, Product, Softmax)


@dataclass(frozen=True)
class Factor:
    """A run of places.

    Attributes
    ----------
    size : int
    axis : int or None
        The image's axis along which they lie; None for features.
    step : float
        Voxels from one to the next.
    rolled : tuple of (int, int)
        By how many of how many places the run was rolled that this is, or is a part of; (0, 0) where it was not.
    """

    size: int
    axis: int | None = None
    step: float = 0.0
    rolled: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Axis:
    """What an axis stands for.

    Attributes
    ----------
    factors : tuple of Factor
        The last one runs fastest.
    offsets : tuple of (int, float)
        Image axis and voxel of the first place, for each image axis among the factors.
    before, after : int
        Places in front of and behind the factors that are none of the image (class tokens).
    """

    factors: tuple[Factor, ...]
    offsets: tuple[tuple[int, float], ...] = ()
    before: int = 0
    after: int = 0

    @property
    def size(self) -> int:
        """Places altogether."""
        return self.before + math.prod(factor.size for factor in self.factors) + self.after

    @property
    def image_axes(self) -> tuple[int, ...]:
        """Along which axes of the image it walks."""
        return tuple(factor.axis for factor in self.factors if factor.axis is not None)

    @property
    def has_extras(self) -> bool:
        """Whether there are places that are none of the image."""
        return bool(self.before or self.after)

    def moved(self, by: dict[int, float]) -> Axis:
        """The same with places moved by so many voxels."""
        return replace(self, offsets=tuple((a, o + by.get(a, 0.0)) for a, o in self.offsets))


#: One for each axis of a layer's output, without the batch axis.
Layout = tuple[Axis, ...]


def features(size: int) -> Axis:
    """An axis of features."""
    return Axis((Factor(size),))


def layouts(graph: LayerGraph) -> dict[int, Layout]:
    """The layout of each layer's output, where it can be followed."""
    known: dict[int, Layout] = {}
    for index, layer in enumerate(graph.layers):
        if isinstance(layer.operation, Input):
            size = layer.shape[1:]
            runs = (Axis((Factor(n, a, 1.0),), ((a, 0.0),)) for a, n in enumerate(size))
            known[index] = (features(layer.shape[0]), *runs)
        elif known.keys() >= set(layer.inputs):
            made = _through(layer, [known[i] for i in layer.inputs])
            if made is not None and tuple(axis.size for axis in made) == layer.shape:
                known[index] = made
    return known


def _through(layer: Layer, given: list[Layout]) -> Layout | None:
    operation = layer.operation
    first = given[0]
    if isinstance(operation, _ELEMENTWISE):
        return _same(layer, given)
    if isinstance(operation, Permute):
        return tuple(first[i - 1] for i in operation.order[1:])
    if isinstance(operation, Reshape):
        return _regrouped(first, operation.shape)
    if isinstance(operation, (Dense, DenseByGroup)):
        return _consumed(first, {len(first) - 1: layer.shape[-1]})
    if isinstance(operation, MatrixProduct):
        return _product(*given)
    if isinstance(operation, (MaxOver, SumOver, Variance)):
        return _consumed(first, {axis - 1: 1 for axis in operation.axes})
    if isinstance(operation, Take):
        return _taken(first, operation)
    if isinstance(operation, ZeroPad):
        return _padded(first, operation)
    if isinstance(operation, Concatenate):
        return _joined(given, operation.axis - 1)
    if isinstance(operation, AdaptiveAveragePool):
        return _pooled_to(first, operation.size)
    if isinstance(operation, (AveragePool, Convolution, MaxPool)):
        return _windows(first, operation, layer.shape)
    return None


def _same(layer: Layer, given: list[Layout]) -> Layout | None:
    """Each axis as in the inputs that have it; gates and summands without places of their own do not move any."""
    made: list[Axis] = []
    for number, size in enumerate(layer.shape):
        axes = {layout[number - len(layer.shape)] for layout in given if number >= len(layer.shape) - len(layout)}
        placed = {axis for axis in axes if axis.size == size and (axis.image_axes or axis.has_extras)}
        if len(placed) > 1:
            return None
        made.append(placed.pop() if placed else features(size))
    return tuple(made)


# ----------------------------------------------------------------------------------------------------- changes of shape


def _regrouped(given: Layout, shape: Sequence[int]) -> Layout | None:
    """The factors of all axes, in order, as the factors of other axes; an axis with class tokens stays whole."""
    waiting: list[Factor | Axis] = []
    offsets: dict[int, float] = {}
    for axis in given:
        waiting += [axis] if axis.has_extras else axis.factors
        if not axis.has_extras:
            offsets |= dict(axis.offsets)
    if any(offsets[a] != o for axis in given if not axis.has_extras for a, o in axis.offsets):
        return None
    made: list[Axis] = []
    for number, size in enumerate(shape):
        taken: list[Factor | Axis] = []
        is_last = number == len(shape) - 1
        while waiting and (_count(taken) < size or (size == 1 and not taken and _size(waiting[0]) == 1)):
            item, missing = waiting.pop(0), size // max(_count(taken), 1)
            if _size(item) > missing:
                if isinstance(item, Axis) or size % _count(taken) or item.size % missing:
                    return None
                rest = item.size // missing
                taken.append(replace(item, size=missing, step=item.step * rest))
                waiting.insert(0, replace(item, size=rest))
            else:
                taken.append(item)
        if is_last:
            taken += waiting
            waiting = []
        grouped = _group(taken, offsets)
        if grouped is None or grouped.size != size:
            return None
        made.append(grouped)
    return tuple(made)


def _size(item: Factor | Axis) -> int:
    return item.size


def _count(items: list[Factor | Axis]) -> int:
    return math.prod(_size(item) for item in items)


def _group(items: list[Factor | Axis], offsets: dict[int, float]) -> Axis | None:
    """One axis of factors, of which neighbours that continue each other become one."""
    whole = [item for item in items if isinstance(item, Axis)]
    if whole:
        return whole[0] if len(whole) == 1 and _count(items) == whole[0].size else None
    merged: list[Factor] = []
    for item in items:
        assert isinstance(item, Factor)
        last = merged[-1] if merged else None
        if last is not None and item.axis is None and last.axis is None:
            merged[-1] = Factor(last.size * item.size)
        elif (
            last is not None
            and item.axis is not None
            and (item.axis, item.rolled) == (last.axis, last.rolled)
            and last.step == item.step * item.size
        ):
            merged[-1] = replace(item, size=last.size * item.size)
        else:
            merged.append(item)
    kept = tuple(factor for factor in merged if factor.axis is not None or factor.size > 1) or (Factor(1),)
    axes = dict.fromkeys(factor.axis for factor in kept if factor.axis is not None)
    return Axis(kept, tuple((a, offsets[a]) for a in axes))


# ------------------------------------------------------------------------------------------------------- sums and joins


def _consumed(given: Layout, sizes: dict[int, int]) -> Layout | None:
    """Axes whose places are summed become features; what else walks along the same image axis then sits in the middle.

    Parameters
    ----------
    given : Layout
    sizes : mapping of int to int
        Axis → features that come out of it.
    """
    by: dict[int, float] = {}
    summed = [factor for number in sizes for factor in given[number].factors if factor.axis is not None]
    left = [factor for number, axis in enumerate(given) if number not in sizes for factor in axis.factors]
    for factor in summed:
        assert factor.axis is not None
        by[factor.axis] = by.get(factor.axis, 0.0) + factor.step * (factor.size - 1) / 2
        for other in left:
            apart = (factor.step * factor.size, other.step * other.size)
            if other.axis == factor.axis and abs(other.step) < abs(apart[0]) and abs(factor.step) < abs(apart[1]):
                return None  # the same places twice (queries and keys), not a patch and what is in it
    return tuple(features(sizes[n]) if n in sizes else axis.moved(by) for n, axis in enumerate(given))


def _product(first: Layout, second: Layout) -> Layout | None:
    """Rows of the first matrices, columns of the second ones."""
    groups = []
    for one, other in zip(first[:-2], second[:-2], strict=True):
        if one != other and 1 not in (one.size, other.size):
            return None
        groups.append(one if one.size > 1 else other)
    return (*groups, first[-2], second[-1])


def _joined(given: list[Layout], axis: int) -> Layout | None:
    """Features one after the other; or one grid with other tokens around it."""
    if any(len(layout) != len(given[0]) for layout in given):
        return None
    parts = [layout[axis] for layout in given]
    others = [(*layout[:axis], *layout[axis + 1 :]) for layout in given]
    if not any(part.image_axes for part in parts):
        rest = _hull(others)
        joined = features(sum(part.size for part in parts))
    else:
        grids = [number for number, part in enumerate(parts) if part.image_axes]
        rest = others[0] if len(set(others)) == 1 else None
        if len(grids) > 1:
            return None
        before = sum(part.size for part in parts[: grids[0]])
        after = sum(part.size for part in parts[grids[0] + 1 :])
        grid = parts[grids[0]]
        joined = replace(grid, before=grid.before + before, after=grid.after + after)
    return None if rest is None else (*rest[:axis], joined, *rest[axis:])


def _hull(layouts: list[Layout]) -> Layout | None:
    """The same grid moved by less than a unit (every second place, from the first or second on): their middle."""
    if len(set(layouts)) == 1:
        return layouts[0]
    made: list[Axis] = []
    for axes in zip(*layouts, strict=True):
        if len({replace(axis, offsets=()) for axis in axes}) != 1:
            return None
        middle: list[tuple[int, float]] = []
        for image_axis, offset in axes[0].offsets:
            found = [dict(axis.offsets)[image_axis] for axis in axes]
            steps = [abs(f.step) for f in axes[0].factors if f.axis == image_axis]
            if max(found) - min(found) >= min(steps) and axes[0].size > 1:
                return None
            middle.append((image_axis, offset + (max(found) + min(found)) / 2 - found[0]))
        made.append(replace(axes[0], offsets=tuple(middle)))
    return tuple(made)


# ------------------------------------------------------------------------------------------------------------- choosing


def _taken(given: Layout, operation: Take) -> Layout | None:
    number, index = operation.axis - 1, [int(i) for i in operation.index]
    made = _chosen(given[number], index)
    return None if made is None else (*given[:number], made, *given[number + 1 :])


def _chosen(axis: Axis, index: list[int]) -> Axis | None:
    """Places of an axis: some features, the class tokens, the grid without them, or of a single run every few."""
    if not axis.image_axes:
        return features(len(index))
    grid = range(axis.before, axis.size - axis.after)
    if not any(place in grid for place in index):
        return features(len(index))
    if axis.has_extras or len(axis.factors) > 1:
        inside = [number for number, place in enumerate(index) if place in grid]
        if [index[number] for number in inside] != list(grid) or inside != list(range(inside[0], inside[-1] + 1)):
            return None
        return replace(axis, before=inside[0], after=len(index) - 1 - inside[-1])
    (run,) = axis.factors
    n = run.size
    if len(index) == n and n > 1 and index[0] and all((b - a) % n == 1 for a, b in pairwise(index)):
        by = (run.rolled[0] + index[0]) % n
        return replace(axis, factors=(replace(run, rolled=(by, n) if by else (0, 0)),))
    strides = {b - a for a, b in pairwise(index)} or {1}
    if len(strides) > 1 or run.rolled != (0, 0) or 0 in strides:
        return None
    chosen = replace(run, size=len(index), step=run.step * strides.pop())
    return replace(axis.moved({run.axis or 0: run.step * index[0]}), factors=(chosen,))


def _padded(given: Layout, operation: ZeroPad) -> Layout | None:
    """Zeros beside features, beside maps (units outside the image), or where a class token is then put."""
    padding = ((0, 0),) * (len(given) - len(operation.padding)) + operation.padding
    made: list[Axis] = []
    for axis, (before, after) in zip(given, padding, strict=True):
        if (before, after) == (0, 0):
            made.append(axis)
            continue
        if not axis.image_axes:
            made.append(features(axis.size + before + after))
            continue
        inner = range(axis.before, axis.size - axis.after)
        if len(axis.factors) == 1 and not axis.has_extras and (len(given) > 2 or before < 0 or after < 0):
            (run,) = axis.factors
            if run.rolled != (0, 0):
                return None
            wider = replace(run, size=run.size + before + after)
            made.append(replace(axis.moved({run.axis or 0: -run.step * before}), factors=(wider,)))
        elif axis.before + before >= 0 and axis.after + after >= 0:
            made.append(replace(axis, before=axis.before + before, after=axis.after + after))
        elif -before >= inner.stop or -after >= axis.size - inner.start:  # nothing of the grid is left
            made.append(features(axis.size + before + after))
        else:
            return None
    return tuple(made)


def _windows(given: Layout, operation: AveragePool | Convolution | MaxPool, shape: tuple[int, ...]) -> Layout | None:
    """Windows on maps; those of one element only choose among all kinds of axes."""
    kernel, padding, stride = operation.kernel, operation.padding, operation.stride
    dilation = (1,) * len(kernel) if isinstance(operation, AveragePool) else operation.dilation
    runs = given[1:]
    if len(runs) != len(kernel):
        return None
    first = given[0]
    if isinstance(operation, Convolution):
        if first.image_axes:
            return None
        first = features(shape[0])
    made = [first]
    for axis, k, (before, after), s, d, size in zip(runs, kernel, padding, stride, dilation, shape[1:], strict=True):
        if (k, before, after, s) == (1, 0, 0, 1):
            made.append(axis)
            continue
        if axis.has_extras or len(axis.factors) > 1 or axis.factors[0].rolled != (0, 0):
            return None
        (run,) = axis.factors
        if run.axis is None:  # (features, 1, …): a pool over features that stand on an axis of their own
            made.append(features(size))
            continue
        moved = axis.moved({run.axis: run.step * ((k - 1) * d / 2 - before)})
        made.append(replace(moved, factors=(replace(run, size=size, step=run.step * s),)))
    return tuple(made)


def _pooled_to(given: Layout, sizes: tuple[int, ...]) -> Layout | None:
    """Means over windows of equal size; over all places, nothing is left of them."""
    whole = {number: 1 for number, size in enumerate(sizes, 1) if size == 1}
    made = list(_consumed(given, whole) or given)
    for number, size in enumerate(sizes, 1):
        axis = given[number]
        if number in whole or axis.size == size:
            continue
        if axis.size % size or axis.has_extras or len(axis.factors) > 1:
            return None
        (run,) = axis.factors
        k = axis.size // size
        moved = axis if run.axis is None else axis.moved({run.axis: run.step * (k - 1) / 2})
        made[number] = replace(moved, factors=(replace(run, size=size, step=run.step * k),))
    return tuple(made)
