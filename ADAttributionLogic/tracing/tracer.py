"""From a PyTorch module to a LayerGraph.

The module is traced once with :func:`torch.export.export` on shapes alone (no image is computed), in evaluation mode
and on a copy of its containers that shares its tensors, so that the user's module is only read. The export gives core
ATen operations, in which functional calls, in-place operations and reused modules are ordinary nodes.
"""

from __future__ import annotations

import copy
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from ADAttributionLogic.errors import ADAttributionError, GridMismatchError, NetworkError, UnsupportedOperationError
from ADAttributionLogic.graph.layer_graph import Head, Layer, LayerGraph
from ADAttributionLogic.graph.operations import Input, MaxPool, Reshape
from ADAttributionLogic.tracing import batch_axis
from ADAttributionLogic.tracing.arguments import Arguments, Conversion, Converter, Wired
from ADAttributionLogic.tracing.aten import CONVERTERS
from ADAttributionLogic.tracing.aten_shapes import SPLITS, split_part
from ADAttributionLogic.tracing.heads import strip_head
from ADAttributionLogic.tracing.nodes import (
    is_check,
    module_path,
    nodes_in,
    operation_name,
    place_of,
    refuse_huge,
    refuse_random,
    tensor_arguments,
    why_unknown,
)
from ADAttributionLogic.tracing.slices import over_slices


def trace(
    network: nn.Module, input_shape: Sequence[int], output: Head | None = None, gives_probabilities: bool = False
) -> LayerGraph:
    """Trace a network for images of one shape.

    Parameters
    ----------
    network : nn.Module
        Takes a batch of images (N, C, …) and returns class scores (N, K). Its training flag does not matter: what is
        traced is its behaviour in evaluation mode.
    input_shape : sequence of int
        Channels and spatial size, e.g. (1, 193, 229, 193).
    output : {"softmax", "sigmoid", "score"}, optional
        What its outputs are, where that cannot be seen.
    gives_probabilities : bool
        Whether they are probabilities, where that cannot be seen.

    Returns
    -------
    LayerGraph
        Shares the network's weights (float32 or float64, as they are).

    Raises
    ------
    UnsupportedOperationError
        An operation for which there is no rule; names it and where it sits.
    GridMismatchError
        The network fails on an image of this shape.
    NetworkError
        It cannot be traced at all (e.g. its path depends on voxel values).
    """
    shell = shell_copy(network).eval()
    tensors = [*shell.parameters(), *shell.buffers()]
    floating = [t for t in tensors if t.is_floating_point()]
    example = torch.empty(
        (1, *input_shape),
        dtype=floating[0].dtype if floating else torch.float32,
        device=floating[0].device if floating else "cpu",
    )
    with _quiet(), _unfused():
        try:
            program = torch.export.export(shell, (example,), strict=False)
        except ADAttributionError:
            raise
        except Exception as cause:  # torch.export passes on whatever the network raises
            raise _tracing_error(cause, input_shape) from cause
    return from_exported_program(program, output, gives_probabilities)


def shell_copy(network: nn.Module) -> nn.Module:
    """Copy a module's containers; parameters and buffers are shared, so that this costs no memory."""
    tensors = [*network.parameters(), *network.buffers()]
    for module in network.modules():  # computed weights (weight_norm) and tensors that were not registered
        tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def from_exported_program(program: Any, output: Head | None = None, gives_probabilities: bool = False) -> LayerGraph:
    """Convert an exported program (``torch.export``) into a LayerGraph.

    Raises
    ------
    UnsupportedOperationError, NetworkError
        As :func:`trace`.
    """
    with _quiet():
        try:
            program = program.run_decompositions(_decompositions())
        except Exception as cause:
            raise NetworkError(
                f"The exported network cannot be brought to core operations: {_first_line(cause)}"
            ) from cause
    return strip_head(_Conversion(program).layers(), output, gives_probabilities)


#: Numbers in a constant that no network for images of the head needs.
MAX_CONSTANT = 2**29

#: Calls whose results depend on the shape of what they take, not on its values.
_OF_SHAPE = frozenset({"aten.zeros_like", "aten.ones_like", "aten.full_like"})


def _decompositions() -> Any:
    """What is taken apart into core operations: all that PyTorch can, but for what has a rule as a whole."""
    table = torch.export.default_decompositions()
    aten = torch.ops.aten
    for whole in (
        *(aten.silu, aten.hardswish, aten.hardsigmoid, aten.mish, aten.softplus, aten.prelu, aten.celu),
        *(aten.instance_norm, aten.pad, aten._pad_circular, aten.linear, aten.matmul, aten.stack),
        *(aten.scaled_dot_product_attention, aten._safe_softmax),
        *(aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d),
    ):
        table.pop(whole.default, None)
    return table


class _Conversion:
    """One pass over the nodes of an exported program."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.constants: dict[Any, Any] = {}  # nodes that do not depend on the image → their values
        self.layer_of: dict[Any, int] = {}  # nodes that do → index of the layer that computes them
        self.batched: set[Any] = set()  # nodes of which the first axis is the batch axis
        self.converted: list[Layer] = []
        self.names: dict[str, int] = {}

    def layers(self) -> tuple[Layer, ...]:
        changed = list(self.program.graph_signature.buffers_to_mutate.values())
        if changed:
            raise NetworkError(
                f"The network changes its own buffers while it runs ({', '.join(changed)}), although it is in "
                "evaluation mode: its answer may depend on the images before. Let forward change nothing."
            )
        image = self._bind_placeholders()
        output = None
        calls = {n: None for n in self.program.graph.nodes if n.op == "call_function" and not is_check(n)}
        for node in calls:
            refuse_random(node)
            refuse_huge(node)
        for node in self.program.graph.nodes:
            if node in calls:
                self._convert(node)
            elif node.op == "output":
                output = self._single_output(node)
        if output is None or output not in self.layer_of:
            raise NetworkError(f"The network's output does not depend on its input {image.name!r}.")
        self._require_batch_axis(output)
        return _needed_for(_restore_1d_pools(self.converted), self.layer_of[output])

    def _bind_placeholders(self) -> Any:
        """Parameters, buffers and constants become values, the image becomes the first layer."""
        signature = self.program.graph_signature
        state = {**self.program.state_dict, **self.program.constants}
        targets = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        images = []
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in targets:
                self.constants[node] = state[targets[node.name]].detach()
            elif node.name in signature.user_inputs:
                images.append(node)
        if len(images) != 1:
            raise NetworkError(f"The network must take one image, but takes {len(images)} inputs.")
        self.layer_of[images[0]] = 0
        self.batched.add(images[0])
        self.converted.append(Layer("input", Input(), (), tuple(images[0].meta["val"].shape[1:]), "the input"))
        return images[0]

    def _single_output(self, node: Any) -> Any:
        specs = self.program.graph_signature.output_specs  # with what is written into the image in place
        outputs = [o for o, spec in zip(node.args[0], specs, strict=True) if spec.kind.name == "USER_OUTPUT"]
        if len(outputs) != 1:
            shapes = [tuple(o.meta["val"].shape) if isinstance(o, torch.fx.Node) else type(o).__name__ for o in outputs]
            raise NetworkError(
                f"The network must return one tensor of class scores, but returns {len(outputs)}, of the shapes "
                f"{', '.join(map(str, shapes))}. Wrap it in a module whose forward returns the scores alone."
            )
        return outputs[0]

    def _convert(self, node: Any) -> None:
        sources = [n for n in node.all_input_nodes if n in self.layer_of]
        if operation_name(node) in _OF_SHAPE:
            self.constants[node] = torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)
            if operation_name(node) != "aten.zeros_like":
                self.constants[node].fill_(1 if operation_name(node) == "aten.ones_like" else node.args[1])
            return
        if not sources:
            self.constants[node] = self._evaluate(node)
            return
        name, location = operation_name(node), place_of(node)
        if name == "getitem":
            self._take_item(node, sources[0])
            return
        if name in SPLITS:  # its parts are layers
            self.layer_of[node] = self.layer_of[sources[0]]
            if sources[0] in self.batched:
                self.batched.add(node)
            return
        converter = CONVERTERS.get(name, _changes_nothing if name in batch_axis.RESHAPES else None)
        if converter is None:
            raise UnsupportedOperationError(name, location, why_unknown(name))
        value = node.meta["val"]
        shape = tuple((value[0] if isinstance(value, (tuple, list)) else value).shape)
        self._call(node, self._arguments(node, name, location, shape), tensor_arguments(node), converter)

    def _call(self, node: Any, arguments: Arguments, sources: Sequence[Any], converter: Converter) -> None:
        """Add what a call is converted to, with the batch axis where the layers have it."""
        sources = [n for n in sources if n in self.layer_of]
        inputs = tuple(self.layer_of[n] for n in sources)
        name, shape = arguments.operation, arguments.output_shape
        batched = all(n in self.batched for n in sources)
        if self._is_result_without_batch(node, name, shape):
            arguments = replace(arguments, output_shape=(1, *shape))
        elif batched:
            batch_axis.refuse_mixing(arguments)
        if batch_axis.begins_with_batch(arguments, batched):
            self.batched.add(node)
        if name in batch_axis.RESHAPES:
            size = batch_axis.of_one_image(arguments.output_shape)
            made: Conversion = None if size == self.converted[inputs[0]].shape else Reshape(size)
            self._append(node, arguments, made, inputs, size)
        elif batch_axis.is_for_one_image(arguments, batched):
            lifted = batch_axis.written_for_one_image(arguments)
            shapes = batch_axis.dynamic_shapes(lifted)
            inputs = tuple(self._shaped(node, lifted, i, s[1:]) for i, s in zip(inputs, shapes, strict=True))
            self._append(node, lifted, converter(lifted), inputs, lifted.output_shape[1:])
            size = batch_axis.of_one_image(shape)
            self.layer_of[node] = self._shaped(node, lifted, self.layer_of[node], size)
        elif name in batch_axis.OF_MAPS and shape[:1] != (1,):
            self._append(node, arguments, over_slices(arguments, converter), inputs, shape)
        else:
            self._append(node, arguments, converter(arguments), inputs, arguments.output_shape[1:])

    def _shaped(self, node: Any, arguments: Arguments, layer: int, shape: tuple[int, ...]) -> int:
        """A layer in another shape of the same elements."""
        if self.converted[layer].shape == shape:
            return layer
        name = self._unique(node, arguments.operation)
        self.converted.append(Layer(name, Reshape(shape), (layer,), shape, arguments.location))
        return len(self.converted) - 1

    def _append(
        self, node: Any, arguments: Arguments, made: Conversion, inputs: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        """Add what a call became to the layers."""
        steps = () if made is None else made if isinstance(made, tuple) else ((made, shape),)
        layers = list(inputs)
        for step in steps:
            if isinstance(step, Wired):
                operation, size, taken = step.operation, step.shape, tuple(layers[i] for i in step.inputs)
            else:
                (operation, size), taken = step, inputs
            name = self._unique(node, arguments.operation)
            self.converted.append(Layer(name, operation, taken, size, arguments.location))
            inputs = (len(self.converted) - 1,)
            layers.append(inputs[0])
        self.layer_of[node] = inputs[0]

    def _is_result_without_batch(self, node: Any, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the network ends with a squeeze() that, for a single image, takes the batch axis away as well."""
        is_last = all(user.op == "output" for user in node.users)
        return is_last and name.startswith("aten.squeeze") and len(shape) < 2 and shape != (1,)

    def _require_batch_axis(self, output: Any) -> None:
        shape, name = tuple(output.meta["val"].shape), operation_name(output)
        if shape[:1] != (1,) and not self._is_result_without_batch(output, name, shape):
            batch_axis.refuse_output(name, place_of(output), shape)

    def _take_item(self, node: Any, source: Any) -> None:
        name, location = operation_name(source), place_of(source)
        if name in SPLITS:
            shape = tuple(node.meta["val"].shape)
            number = int(node.args[1])
            arguments = self._arguments(source, name, location, shape)
            self._call(node, arguments, [source], lambda a: split_part(a, number))
            return
        if node.args[1] != 0:
            raise UnsupportedOperationError(
                f"{name} (result {node.args[1]})", location, "Only its first result is supported."
            )
        self.layer_of[node] = self.layer_of[source]
        if source in self.batched:
            self.batched.add(node)

    def _evaluate(self, node: Any) -> Any:
        """Compute what does not depend on the image (e.g. a transposed weight) once and for all."""

        def value(argument: Any) -> Any:
            return self.constants.get(argument, argument)

        if isinstance(node.meta.get("val"), Tensor) and node.meta["val"].numel() > MAX_CONSTANT:
            raise NetworkError(
                f"The network makes a constant of {node.meta['val'].numel()} numbers, more than {MAX_CONSTANT}: "
                f"{operation_name(node)} at {place_of(node)}. It is refused."
            )
        args = torch.fx.node.map_arg(node.args, value)
        kwargs = torch.fx.node.map_arg(node.kwargs, value)
        with torch.no_grad():
            return node.target(*args, **kwargs)

    def _arguments(self, node: Any, name: str, location: str, shape: tuple[int, ...]) -> Arguments:
        """The node's arguments by name, constants replaced by their values, image-dependent ones by their shapes."""

        def value(argument: Any) -> Any:
            return self.constants[argument] if argument in self.constants else tuple(argument.meta["val"].shape)

        values: dict[str, Any] = {}
        dynamic: set[str] = set()
        schema = node.target._schema.arguments
        given = {**{a.name: v for a, v in zip(schema, node.args)}, **node.kwargs}  # noqa: B905 (args may be fewer)
        for argument in schema:
            raw = given.get(argument.name, argument.default_value)
            values[argument.name] = torch.fx.node.map_arg(raw, value)
            if any(n in self.layer_of for n in nodes_in(raw)):
                dynamic.add(argument.name)
        return Arguments(name, location, values, frozenset(dynamic), shape)

    def _unique(self, node: Any, operation: str) -> str:
        name = module_path(node) or operation.split(".")[1].removesuffix("_with_indices").strip("_")
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"


def _restore_1d_pools(layers: Sequence[Layer]) -> list[Layer]:
    """Undo PyTorch's way of pooling in 1D: an axis of length 1 is put in, pooled over in 2D, and taken out again."""
    restored = list(layers)
    consumers: dict[int, list[int]] = {}
    for index, layer in enumerate(layers):
        for source in layer.inputs:
            consumers.setdefault(source, []).append(index)
    for index, layer in enumerate(layers):
        pool = layer.operation
        before = layers[layer.inputs[0]] if layer.inputs else layer
        if not isinstance(pool, MaxPool) or len(layer.shape) != 3 or layer.shape[1] != 1 or pool.kernel[0] != 1:
            continue
        taken_out = {
            layers[i].shape if isinstance(layers[i].operation, Reshape) else () for i in consumers.get(index, [])
        }
        if (
            isinstance(before.operation, Reshape)
            and before.shape == (before.shape[0], 1, before.shape[-1])
            and layers[before.inputs[0]].shape == (before.shape[0], before.shape[-1])
            and taken_out == {(layer.shape[0], layer.shape[2])}
        ):
            flat = replace(
                pool,
                kernel=pool.kernel[1:],
                stride=pool.stride[1:],
                padding=pool.padding[1:],
                dilation=pool.dilation[1:],
            )
            shape = (layer.shape[0], layer.shape[2])
            restored[index] = replace(layer, name=before.name, operation=flat, inputs=before.inputs, shape=shape)
    # The reshapes that follow have become ones to the same shape.
    idle = {
        index: layer.inputs[0]
        for index, layer in enumerate(restored)
        if isinstance(layer.operation, Reshape) and layer.shape == restored[layer.inputs[0]].shape
    }
    return [replace(layer, inputs=tuple(idle.get(source, source) for source in layer.inputs)) for layer in restored]


def _needed_for(layers: Sequence[Layer], output: int) -> tuple[Layer, ...]:
    """Drop layers that the output does not depend on, and make the output the last one."""
    needed = {output, 0}
    for index in range(output, -1, -1):
        if index in needed:
            needed.update(layers[index].inputs)
    kept = sorted(needed)
    position = {index: new for new, index in enumerate(kept)}
    return tuple(
        Layer(x.name, x.operation, tuple(position[i] for i in x.inputs), x.shape, x.location)
        for x in (layers[i] for i in kept)
    )


def _changes_nothing(arguments: Arguments) -> Conversion:
    return None


def _first_line(cause: BaseException) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def _tracing_error(cause: Exception, input_shape: Sequence[int]) -> NetworkError:
    shape = "×".join(map(str, input_shape))
    text, place = str(cause), _own_line(cause)
    if "data-dependent" in text or "DataDependent" in type(cause).__name__:
        return NetworkError(
            f"The network's path depends on voxel values{place}: an if, float(), int() or item() on a value that is "
            "computed from the image. What such a network does for another image is not known from its layers."
        )
    if "numpy" in text:
        return NetworkError(f"The network leaves PyTorch{place} (numpy), so that its layers cannot be traced.")
    if isinstance(cause, (RuntimeError, ValueError)) and re.search(
        r"shape|size|mat1|channels|reduction dim|dimension", text, re.IGNORECASE
    ):
        why = _first_line(cause)
        return GridMismatchError(f"The network cannot take an image of {shape} (channels×voxels): {why}{place}")
    what = f"{type(cause).__name__}: {_first_line(cause)}"
    return NetworkError(f"The network fails on an image of {shape}{place}: {what}")


def _own_line(cause: BaseException) -> str:
    """The user's line at which an error arose."""
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if "/torch/" not in f.filename.replace("\\", "/")]
    frames = [f for f in frames if f.filename not in (__file__, "<string>")]
    return f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""


@contextmanager
def _unfused() -> Iterator[None]:
    """Let PyTorch's transformer layers be made of the operations that they document, not of one fused call."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_LOUD = ("torch.export", "torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export's own warnings about its internals away from the user."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def tensors_of(graph: LayerGraph) -> Iterator[Tensor]:
    """All weights of a graph."""
    for layer in graph.layers:
        for value in vars(layer.operation).values():
            if isinstance(value, Tensor):
                yield value
