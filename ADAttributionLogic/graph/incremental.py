"""What a network says of an image that differs from a known one in a box only, without recomputing the rest.

The known image's activations are recorded once. A window then changes a box of every layer's output, which grows by
the kernels and shrinks by the strides; only that box is recomputed, from the recorded activations around it, for many
windows at a time. Behind the first layer that couples all positions (a flattening, a global pooling), whole layers are
computed, but on differences, and of a dense layer only the weights of the changed features are used. The logits are
those of a full forward pass up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.graph.incremental_steps import (
    Plan,
    Range,
    Step,
    make_plan,
    multiplications,
    union,
)
from ADAttributionLogic.graph.known_activations import KnownActivations
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import (
    AveragePool,
    Concatenate,
    Convolution,
    Dense,
    MaxPool,
    Operation,
    Permute,
    Reshape,
    WeightedOperation,
    ZeroPad,
)
from ADAttributionLogic.graph.reach import Places
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.graph.recording import Recording

#: (numbers of the windows, the known boxes (B, C, …), where they start (B, axes)) → the boxes with the windows covered.
Change = Callable[[npt.NDArray[np.int64], Tensor, Places], Tensor]

MAX_MEMORY = 1 << 30
MAX_BATCH = {"cpu": 256, "cuda": 4096, "mps": 1024}

#: Bytes of the largest tensor of a batch. On a CPU the C library returns larger blocks to the system each time, and the
#: page faults on the next use cost more than the arithmetic.
LARGEST_TENSOR = {"cpu": 16_000_000, "cuda": 256_000_000, "mps": 128_000_000}

#: Products of a change with weights that are held at a time.
PRODUCTS = 1_000_000

#: What it costs to add a convolved change, in multiplications per element that is added.
ADDING = 10


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

    def has_changed(self) -> Tensor:
        """For each window, whether anything is different (B,), bool."""
        return (self.values != self.known).flatten(1).any(1)

    def select(self, rows: Tensor) -> Boxes:
        """The boxes of some windows."""
        return Boxes(self.starts[rows.cpu().numpy()], self.known[rows], self.values[rows])


class IncrementalForward:
    """Logits of images that differ from a recorded one inside windows.

    Parameters
    ----------
    recording : Recording
        Of one image, in the dtype and on the device to compute with.
    max_memory : int
        Bytes that activations, including the recorded ones, may take; the number of windows that are computed at a
        time follows from it. A single window is computed in any case.
    """

    def __init__(self, recording: Recording, max_memory: int = MAX_MEMORY) -> None:
        self.graph: LayerGraph = recording.graph
        self.max_memory = max_memory
        self._recorded_bytes = sum(_bytes(x) for x in recording.outputs.values()) + sum(
            _bytes(x) for winners in recording.winners.values() for x in winners
        )
        self._known = KnownActivations(recording)
        self._logits = recording.logits
        self._itemsize = recording.logits.element_size()
        self._device = recording.logits.device
        self._plans: dict[tuple[int, ...], Plan] = {}
        self._operations: dict[int, Operation] = {}
        self._scales: dict[int, Tensor] = {}
        self._taps: dict[int, Tensor] = {}
        self._weights_of: dict[tuple[int, ...], Tensor] = {}

    # ---------------------------------------------------------------------------------------------------------- plans

    def plan(self, window: tuple[int, ...]) -> Plan:
        """How windows of at most this size are followed."""
        if window not in self._plans:
            self._plans[window] = make_plan(self.graph, window, self.max_memory // 8, self._itemsize)
        return self._plans[window]

    def batch_size(self, plan: Plan) -> int:
        """How many windows are computed at a time."""
        total, largest = self._elements(plan)
        room = self.max_memory - self._recorded_bytes - self._kept_bytes(plan)
        # Each box exists several times: known, changed, and inside the operations.
        by_memory = room / (3 * self._itemsize * total)
        by_tensor = LARGEST_TENSOR[self._device.type] / (self._itemsize * largest)
        return int(min(max(min(by_memory, by_tensor), 1), MAX_BATCH[self._device.type]))

    def _elements(self, plan: Plan) -> tuple[int, int]:
        """Elements of one window's boxes: all, and those of the largest tensor."""
        sizes = [math.prod(plan.largest[0]) * self.graph.input_shape[0]]
        for step in plan.steps:
            start, outputs = np.zeros((1, len(step.output_shape)), np.int64), np.array(plan.largest[step.output])
            _, needed = step.needed(start, outputs)
            channels = sum(self.graph.layers[source].shape[0] for source in step.sources)
            sizes.append(int(np.prod(needed)) * channels)
            inner = step.reaches[-1].needed(outputs) if len(step.reaches) > 1 else outputs
            sizes.append(int(np.prod(inner)) * self.graph.layers[step.layers[0]].shape[0])
        sizes += [math.prod(self.graph.layers[i].shape) for i in (*plan.frontier, *plan.tail)]
        return sum(sizes), max(sizes)

    def _kept_bytes(self, plan: Plan) -> int:
        kept = {i for step in plan.steps for i in _needed_maps(step)}
        inner = kept - {i for step in plan.steps for i in step.layers if i in self._known.recorded}
        return sum(math.prod(self.graph.layers[i].shape) * self._itemsize for i in inner)

    # ----------------------------------------------------------------------------------------------------------- work

    def work(self, lows: Places, highs: Places) -> npt.NDArray[np.float64]:
        """Arithmetic per window, as a fraction of a full forward pass.

        Parameters
        ----------
        lows, highs : ndarray of int, shape (N, axes)
            First and last-plus-one voxel of each window.
        """
        if len(lows) == 0:
            return np.zeros(0)
        plan = self.plan(tuple((highs - lows).max(0).tolist()))
        ranges = plan.ranges(lows, highs - 1)
        total = np.zeros(len(lows))
        for step in plan.steps:
            first, last = union(ranges[source] for source in step.sources)
            entering = np.prod(last - first + 1, axis=1)
            first, last = ranges[step.output]
            outputs = last - first + 1
            inner = np.prod(step.reaches[-1].needed(outputs) if len(step.reaches) > 1 else outputs, axis=1)
            total += self._work_of(step, entering, inner, np.prod(outputs, axis=1))
        for index in plan.tail:
            layer = self.graph.layers[index]
            total += 0 if index in plan.flattened else multiplications(layer.operation, math.prod(layer.shape))
        full = sum(multiplications(layer.operation, math.prod(layer.shape)) for layer in self.graph.layers[1:])
        return total / full

    def _work_of(self, step: Step, entering: Any, inner: Any, outputs: Any) -> Any:
        """Work of a step for numbers of places of its input, of its first layer and of its output."""
        first = self.graph.layers[step.layers[0]]
        work = multiplications(first.operation, 1) * first.shape[0] * inner
        if step.keeps_sums and isinstance(first.operation, Convolution) and _can_add(first.operation):
            work = np.minimum(work, _adding_work(first.operation) * entering)
        for index in step.layers[1:]:
            layer = self.graph.layers[index]
            work = work + multiplications(layer.operation, 1) * layer.shape[0] * outputs
        return work

    # ---------------------------------------------------------------------------------------------------------- running

    @torch.no_grad()
    def run(self, lows: Places, highs: Places, change: Change) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Logits with each window changed.

        Parameters
        ----------
        lows, highs : ndarray of int, shape (N, axes)
            First and last-plus-one voxel of each window, inside the image.
        change : callable
            See :data:`Change`. Where it returns what it was given, the logits are exactly those of the known image.

        Yields
        ------
        numbers : ndarray of int, shape (B,)
            Which windows; batch by batch, in an order that makes batches of equal boxes.
        logits : Tensor, shape (B, K)
        """
        if len(lows) == 0:
            return
        plan = self.plan(tuple((highs - lows).max(0).tolist()))
        self._known.keep_only(frozenset(i for step in plan.steps for i in _needed_maps(step)))
        order = _alike_together(plan, lows, highs)
        size = self.batch_size(plan)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            with torch.no_grad():  # a generator does not keep its caller's mode
                logits = self._run_batch(plan, chosen, lows[chosen], highs[chosen], change)
            yield chosen, logits

    def _run_batch(
        self, plan: Plan, numbers: npt.NDArray[np.int64], lows: Places, highs: Places, change: Change
    ) -> Tensor:
        size = (highs - lows).max(0)
        starts = np.minimum(lows, np.array(self.graph.input_shape[1:]) - size)
        known = self._known.boxes(0, starts, size, "image")
        live = {0: Boxes(starts, known, change(numbers, known, starts))}
        ranges = plan.ranges(lows, highs - 1)
        logits = self._logits.expand(len(numbers), -1).clone()
        rows = torch.arange(len(numbers), device=self._device)
        last_use = {source: number for number, step in enumerate(plan.steps) for source in step.sources}
        for number, step in enumerate(plan.steps):
            live, ranges, rows = _drop_unchanged(live, ranges, rows)
            if len(rows) == 0:
                return logits
            live[step.output] = self._recompute(step, live, ranges[step.output])
            live = {i: boxes for i, boxes in live.items() if last_use.get(i, -1) > number or i in plan.frontier}
        live, _, rows = _drop_unchanged(live, ranges, rows)
        if len(rows):
            logits[rows] += self._logit_changes(plan, live)
        return logits

    # ---------------------------------------------------------------------------------------------------------- a step

    def _recompute(self, step: Step, live: dict[int, Boxes], affected: Range) -> Boxes:
        first, last = affected
        size = (last - first + 1).max(0)
        starts = np.minimum(first, np.array(step.output_shape) - size)
        if step.keeps_sums and self._is_cheaper_to_add(step, live[step.sources[0]], size):
            values = self._add_change(step, live[step.sources[0]], starts, size)
        else:
            values = self._compute(step, live, starts, size)
        return Boxes(starts, self._known.boxes(step.output, starts, size, f"known {step.output}"), values)

    def _compute(self, step: Step, live: dict[int, Boxes], starts: Places, size: Places) -> Tensor:
        """Compute boxes of the step's output from all that they read."""
        begin, needed = step.needed(starts, size)
        fill = -math.inf if isinstance(self.graph.layers[step.layers[0]].operation, MaxPool) else 0.0
        inputs = []
        for position, source in enumerate(step.sources):
            patches = self._known.boxes(source, begin, needed, f"{step.output} reads {position}", fill)
            if source in live:
                paste(patches, live[source].values, live[source].starts - begin, add=False)
            inputs.append(patches)
        values = self._unpadded(step.layers[0]).forward(*inputs)
        if isinstance(self.graph.layers[step.layers[0]].operation, AveragePool):
            values = values * self._average_scale(step, starts, size)
        for layer in step.layers[1:]:
            values = self._unpadded(layer).forward(values)
        return values

    def _add_change(self, step: Step, source: Boxes, starts: Places, size: Places) -> Tensor:
        """Add the convolution of what has changed to the known output of the convolution."""
        operation = self._convolution(step)
        values = self._known.boxes(step.layers[0], starts, size, f"sums {step.layers[0]}")
        spread = convolve_alone(operation, self._tap_weights(step), source.values - source.known)
        begin = source.starts + np.array([p for p, _ in operation.padding]) - (step.reaches[0].extent - 1)
        paste(values, spread, begin - starts, add=True)
        for layer in step.layers[1:]:
            values = self.graph.layers[layer].operation.forward(values)
        return values

    def _is_cheaper_to_add(self, step: Step, source: Boxes, size: Places) -> bool:
        operation = self._convolution(step)
        if not _can_add(operation):
            return False
        return bool(_adding_work(operation) * np.prod(source.size) < operation.weight.numel() * np.prod(size))

    def _convolution(self, step: Step) -> Convolution:
        operation = self.graph.layers[step.layers[0]].operation
        assert isinstance(operation, Convolution)
        return operation

    def _tap_weights(self, step: Step) -> Tensor:
        """The convolution's weights (inputs, taps, outputs)."""
        if step.layers[0] not in self._taps:
            weight = self._convolution(step).weight
            self._taps[step.layers[0]] = weight.flatten(2).permute(1, 2, 0).contiguous()
        return self._taps[step.layers[0]]

    def _unpadded(self, layer: int) -> Operation:
        """A layer's operation for boxes that bring along what lies around them."""
        if layer not in self._operations:
            self._operations[layer] = _without_padding(
                self.graph.layers[layer].operation, len(self.graph.input_shape) - 1
            )
        return self._operations[layer]

    def _average_scale(self, step: Step, starts: Places, size: Places) -> Tensor:
        """What window sums are multiplied by; at the borders it depends on the position."""
        layer = step.layers[0]
        operation = self.graph.layers[layer].operation
        assert isinstance(operation, AveragePool)
        if layer not in self._scales:
            shape = self.graph.layers[step.sources[0]].shape[1:]
            self._scales[layer] = _scales(operation, self._logits.new_ones(1, 1, *shape))
        scales = self._scales[layer]
        index: list[Tensor] = []
        axes = len(size)
        for axis in range(axes):
            places = starts[:, axis, None] + np.arange(size[axis])
            view = (len(starts),) + (1,) * axis + (-1,) + (1,) * (axes - axis - 1)
            index.append(torch.from_numpy(places.reshape(view)).to(self._device))
        return scales[0, 0][tuple(index)][:, None]

    # -------------------------------------------------------------------------------------------------------- the tail

    def _logit_changes(self, plan: Plan, live: dict[int, Boxes]) -> Tensor:
        """How much the logits differ from the known ones (B, K)."""
        changes: dict[int, Tensor] = {}

        def change_of(layer: int) -> Tensor:
            if layer not in changes:
                boxes = live.get(layer)
                count = len(next(iter(live.values())).starts)
                if boxes is None:  # a local layer that no window has reached, or the flattening of one
                    source = self.graph.layers[layer].inputs[0]
                    changes[layer] = self._operation_on_change(layer, [change_of(source)])
                else:
                    changes[layer] = _spread(boxes, (count, *self.graph.layers[layer].shape))
            return changes[layer]

        for index in plan.tail:
            if index in plan.flattened:
                continue
            layer = self.graph.layers[index]
            source = layer.inputs[0]
            if source in plan.flattened and isinstance(layer.operation, Dense):
                local = self.graph.layers[source].inputs[0]
                features = self._dense_of_boxes(index, layer.operation, live[local], self.graph.layers[local].shape)
                changes[index] = change_of(source) @ layer.operation.weight.T if features is None else features
            else:
                changes[index] = self._operation_on_change(index, [change_of(s) for s in layer.inputs])
        return changes[self.graph.output]

    def _operation_on_change(self, index: int, changes: list[Tensor]) -> Tensor:
        """How much a layer's output changes when its inputs change."""
        layer = self.graph.layers[index]
        operation = layer.operation
        if isinstance(operation, WeightedOperation):
            return operation.map(tuple(changes), operation.weight)
        if isinstance(operation, (Reshape, Permute, ZeroPad, Concatenate, Take)):
            return operation.forward(*changes)
        inputs = [self._known.output(source) + x for source, x in zip(layer.inputs, changes, strict=True)]
        return operation.forward(*inputs) - self._known.output(index)

    def _dense_of_boxes(self, index: int, operation: Dense, boxes: Boxes, shape: tuple[int, ...]) -> Tensor | None:
        """A dense layer on changed features alone; None where windows share too few places for that to pay."""
        places, number = np.unique(boxes.starts, axis=0, return_inverse=True)
        if len(places) > 1 and 4 * len(places) > len(boxes.starts):
            return None
        number = number.reshape(-1)
        difference = (boxes.values - boxes.known).flatten(1)
        result = difference.new_empty(len(number), operation.weight.shape[0])
        for place, start in enumerate(places):
            rows = torch.from_numpy(np.flatnonzero(number == place)).to(self._device)
            weight = self._weights_in_box(index, operation.weight, shape, start, boxes.size)
            result[rows] = difference[rows] @ weight.T
        return result

    def _weights_in_box(
        self, index: int, weight: Tensor, shape: tuple[int, ...], start: Places, size: Places
    ) -> Tensor:
        """Columns of a dense layer's weight (outputs, features of the box); those used last are kept."""
        key = (index, *start.tolist(), *size.tolist())
        if key not in self._weights_of:
            if len(self._weights_of) >= 64:
                self._weights_of.clear()
            part = weight.view(-1, *shape)[(slice(None), slice(None), *_slices(start, size))]
            self._weights_of[key] = part.flatten(1).contiguous()
        return self._weights_of[key]


# -------------------------------------------------------------------------------------------------------------- batches


def _alike_together(plan: Plan, lows: Places, highs: Places) -> npt.NDArray[np.int64]:
    """An order of windows in which those whose boxes are equally large, and lie equally in their steps, are neighbours.

    Both follow from the position along each axis alone, of which there are few.
    """
    sizes, offsets, places = [], [], []
    for axis in range(lows.shape[1]):
        span = int(highs.max()) + 1
        pairs, number = np.unique(lows[:, axis] * span + highs[:, axis], return_inverse=True)
        low = np.repeat((pairs // span)[:, None], lows.shape[1], axis=1)
        high = np.repeat((pairs % span)[:, None], lows.shape[1], axis=1)
        ranges = plan.ranges(low, high - 1)
        size, offset = [], []
        for step in plan.steps:
            first, last = ranges[step.output]
            start, _ = step.needed(first, last - first + 1)
            size.append((last - first)[:, axis])
            offset.append((start - ranges[step.sources[0]][0])[:, axis])
        sizes.append(_ranks(size, len(pairs))[number])
        offsets.append(_ranks(offset, len(pairs))[number])
        end = plan.steps[-1].output if plan.steps else 0
        places.append(ranges[end][0][number, axis])
    return np.lexsort((*places, *offsets, *sizes))


def _ranks(rows: list[npt.NDArray[np.int64]], count: int) -> npt.NDArray[np.int64]:
    """Equal numbers for equal columns, in lexicographic order."""
    if not rows:
        return np.zeros(count, dtype=np.int64)
    return np.unique(np.stack(rows, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _drop_unchanged(
    live: dict[int, Boxes], ranges: dict[int, Range], rows: Tensor
) -> tuple[dict[int, Boxes], dict[int, Range], Tensor]:
    """Leave out the windows in which nothing is different any more."""
    changed = torch.stack([boxes.has_changed() for boxes in live.values()]).any(0)
    if bool(changed.all()):
        return live, ranges, rows
    kept = changed.cpu().numpy()
    return (
        {layer: boxes.select(changed) for layer, boxes in live.items()},
        {layer: (first[kept], last[kept]) for layer, (first, last) in ranges.items()},
        rows[changed],
    )


def _needed_maps(step: Step) -> tuple[int, ...]:
    """Layers whose whole known output a step reads."""
    return (*step.sources, step.output, *(step.layers[:1] if step.keeps_sums else ()))


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


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
                target[rows][into_all(into)] += boxes[rows][into_all(out_of)]
            else:
                target[rows][into_all(into)] = boxes[rows][into_all(out_of)]


def into_all(index: tuple[slice, ...]) -> tuple[slice, ...]:
    """The same places in every box of a batch."""
    return (slice(None), *index)


def _runs(numbers: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Increasing numbers as runs of neighbours."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for run in np.split(numbers, breaks):
        yield slice(int(run[0]), int(run[-1]) + 1)


def _spread(boxes: Boxes, shape: tuple[int, ...]) -> Tensor:
    """Differences as whole maps, 0 outside the boxes."""
    whole = boxes.values.new_zeros(shape)
    paste(whole, boxes.values - boxes.known, boxes.starts, add=False)
    return whole


def _slices(start: Places, size: Places) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))


# ----------------------------------------------------------------------------------------------------------- operations


def _can_add(operation: Convolution) -> bool:
    """Whether a convolved change lies equally for all windows."""
    return operation.groups == 1 and set(operation.stride) == {1}


def _adding_work(operation: Convolution) -> float:
    """Work of adding a convolved change, per place of the input."""
    return operation.weight.numel() + ADDING * math.prod(operation.kernel) * operation.weight.shape[0]


def convolve_alone(operation: Convolution, taps: Tensor, x: Tensor) -> Tensor:
    """Convolve boxes that are surrounded by zeros, with stride 1; every output that is not 0 for certain.

    The arithmetic is that of the inputs (each meets each weight once), which for small boxes is far less than that of
    the outputs: a 2×2×2 box reaches 4×4×4 outputs of a 3×3×3 convolution.

    Parameters
    ----------
    operation : Convolution
    taps : Tensor, shape (inputs, taps, outputs)
        Its weights.
    x : Tensor, shape (B, C, …)

    Returns
    -------
    Tensor, shape (B, outputs, …)
        Each axis longer by ``dilation·(kernel − 1)``, as much before as the padding allows.
    """
    axes, size = operation.dimensions, x.shape[2:]
    reach = [d * (k - 1) for d, k in zip(operation.dilation, operation.kernel, strict=True)]
    places = x.movedim(1, -1).reshape(-1, x.shape[1])
    result = x.new_zeros(x.shape[0], *(n + r for n, r in zip(size, reach, strict=True)), taps.shape[2])
    # Several taps at a time: few products of useful size, which still stay in the cache.
    at_once = max(PRODUCTS // (places.shape[0] * taps.shape[2]), 1)
    positions = list(np.ndindex(*operation.kernel))
    for start in range(0, len(positions), at_once):
        weights = taps[:, start : start + at_once]
        products = torch.mm(places, weights.reshape(taps.shape[0], -1)).view(x.shape[0], *size, -1, taps.shape[2])
        for number, tap in enumerate(positions[start : start + at_once]):
            begin = [r - d * t for r, d, t in zip(reach, operation.dilation, tap, strict=True)]
            here = (slice(None), *(slice(a, a + n) for a, n in zip(begin, size, strict=True)))
            result[here] += products[..., number, :]
    return result.movedim(axes + 1, 1)


def _without_padding(operation: Operation, axes: int) -> Operation:
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


def _scales(operation: AveragePool, ones: Tensor) -> Tensor:
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
