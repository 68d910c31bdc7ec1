"""What a network says of an image that differs from a known one in a box only, without recomputing the rest.

The known image's activations are recorded once. A window then changes a box of every layer's output, which grows by
the kernels and shrinks by the strides; only that box is recomputed, from the recorded activations around it, for many
windows at a time. Behind the first layer that couples all positions (a flattening, a gate, a global pooling), whole
layers are computed, but for what follows from a few numbers (:mod:`~.coupling`); behind the last maps on differences,
and of a dense layer only the weights of the changed features are used. The logits are those of a full forward pass up
to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.graph.arithmetic import SumOver
from ADAttributionLogic.graph.convolution import Convolution
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import (
    AdaptiveAveragePool,
    AveragePool,
    Concatenate,
    Dense,
    MaxPool,
    Operation,
    Permute,
    Reshape,
    WeightedOperation,
    ZeroPad,
)
from ADAttributionLogic.graph.rearranging import Take
from ADAttributionLogic.graph.recording import Recording
from ADAttributionLogic.incremental.boxes import (
    Boxes,
    adding_work,
    average_scales,
    can_add,
    convolve_alone,
    paste,
    slices_of,
    spread,
    without_padding,
)
from ADAttributionLogic.incremental.coupling import Coupling, Moments, Scaled, change_of_sum
from ADAttributionLogic.incremental.known_activations import KnownActivations
from ADAttributionLogic.incremental.planning import Plan, Range, Step, fractions_of_a_pass, plan_within
from ADAttributionLogic.incremental.reach import Places

#: (numbers of the windows, the known boxes (B, C, …), where they start (B, axes)) → the boxes with the windows covered.
Change = Callable[[npt.NDArray[np.int64], Tensor, Places], Tensor]

MAX_MEMORY = 1 << 30
MAX_BATCH = {"cpu": 256, "cuda": 4096, "mps": 1024}

#: Bytes of the largest tensor of a batch. On a CPU the C library returns larger blocks to the system each time, and the
#: page faults on the next use cost more than the arithmetic.
LARGEST_TENSOR = {"cpu": 16_000_000, "cuda": 256_000_000, "mps": 128_000_000}


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
        self.itemsize = recording.logits.element_size()
        self._device = recording.logits.device
        self._plans: dict[tuple[int, ...], Plan] = {}
        self._operations: dict[int, Operation] = {}
        self._scales: dict[int, Tensor] = {}
        self._moments: dict[int, Moments] = {}
        self._weights_of: dict[tuple[int, ...], Tensor] = {}

    @property
    def known_logits(self) -> Tensor:
        """Of the recorded image (1, K)."""
        return self._logits

    @property
    def held_bytes(self) -> int:
        """Memory that is held now: recorded activations, and what was computed from them and is kept."""
        winners = self._recorded_bytes - self._known.recorded_bytes
        return winners + self._known.held_bytes + sum(_bytes(x) for x in self._weights_of.values())

    # ---------------------------------------------------------------------------------------------------------- plans

    def plan(self, window: tuple[int, ...]) -> Plan:
        """How windows of at most this size are followed."""
        if window not in self._plans:
            self._plans[window] = plan_within(self.graph, window, self.max_memory, self.itemsize)
        return self._plans[window]

    def batch_size(self, plan: Plan) -> int:
        """How many windows are computed at a time."""
        total, largest = self._elements(plan)
        room = self.max_memory - self._recorded_bytes - self._kept_bytes(plan)
        # Each box exists several times: known, changed, and inside the operations.
        by_memory = room / (3 * self.itemsize * total)
        by_tensor = LARGEST_TENSOR[self._device.type] / (self.itemsize * largest)
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
        taken = {source for index in plan.tail for source in self.graph.layers[index].inputs}
        sizes += [math.prod(self.graph.layers[i].shape) for i in taken.union(plan.tail)]
        return sum(sizes), max(sizes)

    def _kept_bytes(self, plan: Plan) -> int:
        kept = {i for step in plan.steps for i in _needed_maps(step)}
        inner = kept - {i for step in plan.steps for i in step.layers if i in self._known.recorded}
        return sum(math.prod(self.graph.layers[i].shape) * self.itemsize for i in inner)

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
        return fractions_of_a_pass(self.graph, self.plan(tuple((highs - lows).max(0).tolist())), lows, highs)

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
        if step.keeps_sums and self._is_cheaper_to_add(step, live, size):
            values = self._add_change(step, live, starts, size)
        else:
            values = self._compute(step, live, starts, size)
        return Boxes(starts, self._known.boxes(step.output, starts, size, f"known {step.output}"), values)

    def _compute(self, step: Step, live: dict[int, Boxes], starts: Places, size: Places) -> Tensor:
        """Compute boxes of the step's output from all that they read."""
        begin, needed = step.needed(starts, size)
        fill = -math.inf if isinstance(self.graph.layers[step.layers[0]].operation, MaxPool) else 0.0
        inputs = []
        for position, part in enumerate(step.parts):
            patches = self._known.joined(part, begin, needed, f"{step.output} reads {position}", fill)
            channel = 0
            for source in part:
                count = self.graph.layers[source].shape[0]
                if source in live:
                    into = patches[:, channel : channel + count]
                    paste(into, live[source].values, live[source].starts - begin, add=False)
                channel += count
            inputs.append(patches)
        values = self._unpadded(step.layers[0]).forward(*inputs)
        if isinstance(self.graph.layers[step.layers[0]].operation, AveragePool):
            values = values * self._average_scale(step, starts, size)
        for layer in step.layers[1:]:
            values = self._unpadded(layer).forward(values)
        return values

    def _add_change(self, step: Step, live: dict[int, Boxes], starts: Places, size: Places) -> Tensor:
        """Add the convolution of what has changed to the known output of the convolution."""
        operation = self._convolution(step)
        values = self._known.boxes(step.layers[0], starts, size, f"sums {step.layers[0]}")
        channel = 0
        for source in step.parts[0]:
            count = self.graph.layers[source].shape[0]
            if source in live:
                boxes = live[source]
                weight = operation.weight[:, channel : channel + count]
                reached = convolve_alone(operation, weight, boxes.values - boxes.known)
                begin = boxes.starts + np.array([p for p, _ in operation.padding]) - (step.reaches[0].extent - 1)
                paste(values, reached, begin - starts, add=True)
            channel += count
        for layer in step.layers[1:]:
            values = self.graph.layers[layer].operation.forward(values)
        return values

    def _is_cheaper_to_add(self, step: Step, live: dict[int, Boxes], size: Places) -> bool:
        operation = self._convolution(step)
        if not can_add(operation):
            return False
        entering = sum(
            float(np.prod(live[source].size)) * self.graph.layers[source].shape[0]
            for source in step.parts[0]
            if source in live
        )
        channels = operation.weight.shape[1]
        return bool(adding_work(operation) * entering / channels < operation.weight.numel() * np.prod(size))

    def _convolution(self, step: Step) -> Convolution:
        operation = self.graph.layers[step.layers[0]].operation
        assert isinstance(operation, Convolution)
        return operation

    def _unpadded(self, layer: int) -> Operation:
        """A layer's operation for boxes that bring along what lies around them."""
        if layer not in self._operations:
            axes = len(self.graph.input_shape) - 1
            self._operations[layer] = without_padding(self.graph.layers[layer].operation, axes)
        return self._operations[layer]

    def _average_scale(self, step: Step, starts: Places, size: Places) -> Tensor:
        """What window sums are multiplied by; at the borders it depends on the position."""
        layer = step.layers[0]
        operation = self.graph.layers[layer].operation
        assert isinstance(operation, AveragePool)
        if layer not in self._scales:
            shape = self.graph.layers[step.sources[0]].shape[1:]
            self._scales[layer] = average_scales(operation, self._logits.new_ones(1, 1, *shape))
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
        count = len(next(iter(live.values())).starts)
        changes = self._deep_changes(plan, live, count)

        def change_of(layer: int) -> Tensor:
            if layer not in changes:
                boxes = live.get(layer)
                if boxes is None:  # a local layer that no window has reached, or the flattening of one
                    source = self.graph.layers[layer].inputs[0]
                    changes[layer] = self._operation_on_change(layer, [change_of(source)])
                else:
                    changes[layer] = spread(boxes, (count, *self.graph.layers[layer].shape))
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
                continue
            summed = self._change_of_sum(plan, index, live)
            if summed is None:
                summed = self._operation_on_change(index, [change_of(s) for s in layer.inputs])
            changes[index] = summed
        return changes[self.graph.output]

    def _deep_changes(self, plan: Plan, live: dict[int, Boxes], count: int) -> dict[int, Tensor]:
        """How much the outputs of deep layers that the tail takes differ from the known ones."""
        taken = {source for index in plan.tail for source in self.graph.layers[index].inputs} | {self.graph.output}
        if not plan.deep:
            return {}
        found: dict[int, list[Tensor]] = {index: [] for index in plan.deep if index in taken}
        at_once = self._deep_batch(plan)
        for start in range(0, count, at_once):
            rows = slice(start, min(start + at_once, count))
            values = self._deep_values(plan, {i: boxes.part(rows) for i, boxes in live.items()}, frozenset(found))
            for index, parts in found.items():
                parts.append(values[index] - self._known.output(index))
        return {index: torch.cat(parts) for index, parts in found.items()}

    def _deep_values(self, plan: Plan, live: dict[int, Boxes], wanted: frozenset[int]) -> dict[int, Tensor]:
        """Whole outputs of the wanted deep layers, for a few windows."""
        last_use = {source: index for index in plan.deep for source in self.graph.layers[index].inputs}
        count = len(next(iter(live.values())).starts)
        coupling = Coupling(self.graph, self._known, self._moments, live, count)
        values: dict[int, Tensor | Scaled] = {source: Scaled(source) for source in plan.frontier}
        wholes: dict[int, Tensor] = {}

        def whole(layer: int) -> Tensor:
            value = values[layer]
            if isinstance(value, Tensor):
                return value
            if layer not in wholes:
                wholes[layer] = coupling.whole(value)
            return wholes[layer]

        for index in plan.deep:
            layer = self.graph.layers[index]
            inputs = [values[source] for source in layer.inputs]
            if plan.ways[index] == "scaled":
                values[index] = coupling.scaled(index, inputs)
            elif plan.ways[index] == "summed":
                (maps,) = inputs
                assert isinstance(maps, Scaled)
                values[index] = coupling.summed(index, maps)
            else:
                values[index] = layer.operation.forward(*(whole(source) for source in layer.inputs))
            for source in set(layer.inputs):
                if last_use[source] == index and source not in wanted:
                    wholes.pop(source, None)
                    del values[source]
        return {index: whole(index) for index in wanted}

    def _deep_batch(self, plan: Plan) -> int:
        """For how many windows deep layers are computed at a time."""
        layers = {*plan.deep, *plan.frontier}
        largest = max(math.prod(self.graph.layers[index].shape) for index in layers) * self.itemsize
        room = self.max_memory - self._recorded_bytes - self._kept_bytes(plan)
        return int(max(min(LARGEST_TENSOR[self._device.type], room / 6) / largest, 1))

    def _change_of_sum(self, plan: Plan, index: int, live: dict[int, Boxes]) -> Tensor | None:
        """How much a sum over all positions changes, from the boxes alone; None where it cannot be told from them."""
        layer = self.graph.layers[index]
        if plan.ways[index] != "summed" or not isinstance(layer.operation, (AdaptiveAveragePool, SumOver)):
            return None
        boxes = live.get(layer.inputs[0])
        return (
            None if boxes is None else change_of_sum(layer.operation, boxes, self.graph.layers[layer.inputs[0]].shape)
        )

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
            part = weight.view(-1, *shape)[(slice(None), slice(None), *slices_of(start, size))]
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
    changed = torch.stack([boxes.has_changed for boxes in live.values()]).any(0)
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
