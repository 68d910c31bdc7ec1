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
from ADAttributionLogic.graph.arguments import Arguments, Conversion
from ADAttributionLogic.graph.aten import CONVERTERS
from ADAttributionLogic.graph.aten_shapes import SPLITS, split_part
from ADAttributionLogic.graph.heads import strip_head
from ADAttributionLogic.graph.layer_graph import Head, Layer, LayerGraph
from ADAttributionLogic.graph.operations import Input, MaxPool, Reshape


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
    with _quiet():
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


#: Numbers in one result that no network for images of the head needs; it would not fit the memory.
MAX_ELEMENTS = 2**32
MAX_CONSTANT = 2**29

#: Calls whose results depend on the shape of what they take, not on its values.
_OF_SHAPE = frozenset({"aten.zeros_like", "aten.ones_like", "aten.full_like"})


def _decompositions() -> Any:
    """What is taken apart into core operations: all that PyTorch can, but for what has a rule as a whole."""
    table = torch.export.default_decompositions()
    aten = torch.ops.aten
    for whole in (
        *(aten.silu, aten.hardswish, aten.hardsigmoid, aten.mish, aten.softplus, aten.prelu, aten.celu),
        *(aten.instance_norm, aten.pad, aten._pad_circular),
    ):
        table.pop(whole.default, None)
    return table


class _Conversion:
    """One pass over the nodes of an exported program."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.constants: dict[Any, Any] = {}  # nodes that do not depend on the image → their values
        self.layer_of: dict[Any, int] = {}  # nodes that do → index of the layer that computes them
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
        calls = {n: None for n in self.program.graph.nodes if n.op == "call_function" and not _is_check(n)}
        for node in calls:
            _refuse_random(node)
            _refuse_huge(node)
        for node in self.program.graph.nodes:
            if node in calls:
                self._convert(node)
            elif node.op == "output":
                output = self._single_output(node)
        if output is None or output not in self.layer_of:
            raise NetworkError(f"The network's output does not depend on its input {image.name!r}.")
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
        if _operation_name(node) in _OF_SHAPE:
            self.constants[node] = torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)
            if _operation_name(node) != "aten.zeros_like":
                self.constants[node].fill_(1 if _operation_name(node) == "aten.ones_like" else node.args[1])
            return
        if not sources:
            self.constants[node] = self._evaluate(node)
            return
        name, location = _operation_name(node), _location(node)
        if name == "getitem":
            self._take_item(node, sources[0])
            return
        if name in SPLITS:  # its parts are layers
            self.layer_of[node] = self.layer_of[sources[0]]
            return
        converter = CONVERTERS.get(name)
        if converter is None:
            raise UnsupportedOperationError(name, location, _why_unknown(name))
        value = node.meta["val"]
        shape = tuple((value[0] if isinstance(value, (tuple, list)) else value).shape)
        if self._is_result_without_batch(node, name, shape):
            shape = (1, *shape)
        if not shape or shape[0] != 1:
            raise UnsupportedOperationError(
                name,
                location,
                f"It mixes or drops the batch axis: its result has shape {shape} for one image. Name the axes that it "
                "is for, and leave the first one out: squeeze(1), flatten(1), mean((1, 2, 3, 4)).",
            )
        inputs = tuple(self.layer_of[n] for n in _tensor_arguments(node) if n in self.layer_of)
        self._append(node, name, location, converter(self._arguments(node, name, location, shape)), inputs, shape[1:])

    def _append(
        self, node: Any, name: str, location: str, made: Conversion, inputs: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        """Add what a call became to the layers."""
        steps = () if made is None else made if isinstance(made, tuple) else ((made, shape),)
        for operation, size in steps:
            self.converted.append(Layer(self._unique(node, name), operation, inputs, size, location))
            inputs = (len(self.converted) - 1,)
        self.layer_of[node] = inputs[0]

    def _is_result_without_batch(self, node: Any, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the network ends with a squeeze() that, for a single image, takes the batch axis away as well."""
        is_last = all(user.op == "output" for user in node.users)
        return is_last and name.startswith("aten.squeeze") and len(shape) < 2 and shape != (1,)

    def _take_item(self, node: Any, source: Any) -> None:
        name, location = _operation_name(source), _location(source)
        if name in SPLITS:
            shape = tuple(node.meta["val"].shape)
            made = split_part(self._arguments(source, name, location, shape), int(node.args[1]))
            self._append(node, name, location, made, (self.layer_of[source],), shape[1:])
            return
        if node.args[1] != 0:
            raise UnsupportedOperationError(
                f"{name} (result {node.args[1]})", location, "Only its first result is supported."
            )
        self.layer_of[node] = self.layer_of[source]

    def _evaluate(self, node: Any) -> Any:
        """Compute what does not depend on the image (e.g. a transposed weight) once and for all."""

        def value(argument: Any) -> Any:
            return self.constants.get(argument, argument)

        if isinstance(node.meta.get("val"), Tensor) and node.meta["val"].numel() > MAX_CONSTANT:
            raise NetworkError(
                f"The network makes a constant of {node.meta['val'].numel()} numbers, more than {MAX_CONSTANT}: "
                f"{_operation_name(node)} at {_location(node)}. It is refused."
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
            if any(n in self.layer_of for n in _nodes_in(raw)):
                dynamic.add(argument.name)
        return Arguments(name, location, values, frozenset(dynamic), shape)

    def _unique(self, node: Any, operation: str) -> str:
        name = _module_path(node) or operation.split(".")[1].removesuffix("_with_indices").strip("_")
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


def _is_check(node: Any) -> bool:
    """Whether a call only checks its arguments (export adds these, e.g. for x.to(…))."""
    return _operation_name(node).startswith(("aten._assert", "aten.sym_constrain"))


def _refuse_random(node: Any) -> None:
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return
    if _operation_name(node) == "aten.dropout" and not node.args[2]:
        return
    raise NetworkError(
        f"The network draws random numbers although it is in evaluation mode: {_operation_name(node)} at "
        f"{_location(node)}. No map explains an answer that changes from run to run; make it deterministic "
        "(dropout: F.dropout(x, p, self.training))."
    )


def _refuse_huge(node: Any) -> None:
    values = node.meta.get("val")
    for value in values if isinstance(values, (list, tuple)) else [values]:
        if isinstance(value, Tensor) and value.numel() > MAX_ELEMENTS:
            raise NetworkError(
                f"The network computes {value.numel()} numbers for one image, more than {MAX_ELEMENTS}: "
                f"{_operation_name(node)} at {_location(node)}. It is refused."
            )


def _why_unknown(name: str) -> str:
    if "_native_batch_norm" in name:
        return (
            "It normalises by the statistics of the image itself (batch normalisation in training mode or without "
            "running statistics)."
        )
    return "No rule says how relevance passes through it."


def _nodes_in(argument: Any) -> Iterator[Any]:
    if isinstance(argument, torch.fx.Node):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _nodes_in(item)


def _tensor_arguments(node: Any) -> list[Any]:
    """Nodes among the arguments, with repetitions (x + x has two inputs)."""
    return [n for argument in (*node.args, *node.kwargs.values()) for n in _nodes_in(argument)]


def _operation_name(node: Any) -> str:
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        return "getitem"
    return str(target).removesuffix(".default")


def _module_path(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    # A module called again is written with a counter ("relu@1"), which is not part of its path.
    return re.sub(r"@\d+", "", paths[-1]) if paths else ""


def _location(node: Any) -> str:
    """Module path and the user's source line."""
    path = _module_path(node)
    place = f"module {path!r}" if path else "the top level"
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]+)', node.meta.get("stack_trace") or "")
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")]
    if own:
        file, line, code = own[-1]
        place += f" ({PurePath(file).name}:{line}: {code.strip()})"
    return place


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
