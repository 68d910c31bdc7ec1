"""Networks exported with ``torch.export.save`` (.pt2), read without executing anything that the file contains.

PyTorch's own loader unpickles parts of such an archive and evaluates expressions in it. Here the archive's JSON graph
and raw weights are read directly, and the network is run by calling, one by one, operations from a fixed list
(:mod:`~.allowed_operations`). What needs more (dynamic shapes, custom objects, pickled tensors) is refused.
"""

from __future__ import annotations

import json
import math
import operator
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ADAttributionLogic.errors import NetworkError, UnsafeFileError, UnsupportedOperationError
from ADAttributionLogic.networks.allowed_operations import is_allowed
from ADAttributionLogic.networks.archives import check_archive
from ADAttributionLogic.networks.call_shapes import check_shapes

#: Major version of the archive's graph format that is understood.
SCHEMA_MAJOR = 8

#: No graph or table of contents is larger.
MAX_JSON_BYTES = 200_000_000

_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}


@dataclass(frozen=True)
class _Reference:
    """The value of another node."""

    name: str


@dataclass(frozen=True)
class _BatchSize:
    """The number of images, in a network that was exported for any."""


@dataclass(frozen=True, eq=False)
class _Call:
    """One operation of the network."""

    function: Any
    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    results: tuple[str, ...]
    is_list: bool


class ExportedNetwork(nn.Module):
    """A network that runs the graph of an exported file, operation by operation.

    Parameters
    ----------
    calls : sequence
    state : mapping of str to Tensor
        Graph input name → weight, buffer or constant.
    image, output : str
        Graph names of the image and of the result.
    input_shape : tuple of int
        Channels and spatial size that it was exported for.
    batch_size : int or None
        That it was exported for; None for any.
    """

    def __init__(
        self,
        calls: Sequence[_Call],
        state: Mapping[str, Tensor],
        image: str,
        output: str,
        input_shape: tuple[int, ...],
        batch_size: int | None,
    ) -> None:
        super().__init__()
        self.calls = tuple(calls)
        self.image, self.output = image, output
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.buffer_of = {}
        for number, (name, tensor) in enumerate(state.items()):
            self.register_buffer(f"value_{number}", tensor)
            self.buffer_of[name] = f"value_{number}"

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of a batch; images are taken one by one where the export fixed the batch size to one."""
        if self.batch_size is not None and x.shape[0] != self.batch_size:
            if self.batch_size != 1:
                raise NetworkError(
                    f"This network was exported for batches of {self.batch_size}; export it for one image."
                )
            return torch.cat([self.run(image[None]) for image in x])
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """Run the graph on a batch of the exported size."""
        values: dict[str, Any] = {name: getattr(self, buffer) for name, buffer in self.buffer_of.items()}
        values[self.image] = x

        def resolve(argument: Any) -> Any:
            if isinstance(argument, _Reference):
                return values[argument.name]
            if isinstance(argument, _BatchSize):
                return x.shape[0]
            return [resolve(item) for item in argument] if isinstance(argument, list) else argument

        for call in self.calls:
            arguments = [resolve(a) for a in call.arguments]
            keywords = {key: resolve(value) for key, value in call.keywords.items()}
            check_shapes(call.name, arguments, keywords)
            result = call.function(*arguments, **keywords)
            if call.is_list or len(call.results) > 1:
                values.update(zip(call.results, result, strict=False))
            else:
                values[call.results[0]] = result
        output: Tensor = values[self.output]
        return output


def read_exported_network(path: str | os.PathLike[str]) -> ExportedNetwork:
    """Read a ``.pt2`` file.

    Raises
    ------
    NetworkError
        A damaged archive, or a format of another version.
    UnsafeFileError
        Pickled tensors, custom objects or compiled code.
    UnsupportedOperationError
        An operation that is not on the list, or dynamic shapes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, os.path.basename(path)).network()
    except NetworkError:
        raise
    except Exception as cause:  # a damaged archive, or JSON of other types than PyTorch writes, in any place
        raise NetworkError(
            f"{path} is not a network saved with torch.export.save, or is damaged: {cause!r:.300}. "
            "Copy it again, or export it again."
        ) from cause


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.archive = archive
        self.name = name
        check_archive(archive, name, contents=False)
        files = [f for f in archive.namelist() if not f.endswith("/")]
        self.root = files[0].split("/")[0] if files else ""
        self.files = {f.removeprefix(f"{self.root}/") for f in files}
        self._refuse_code()

    def _refuse_code(self) -> None:
        if any(f.startswith("data/aotinductor/") for f in self.files):
            raise UnsafeFileError(
                f"{self.name} contains compiled code; export the network with torch.export.save instead."
            )
        legacy = {"serialized_exported_program.json", "serialized_state_dict.pt", "data/weights/model.pt"} & self.files
        if legacy or "models/model.json" not in self.files:
            raise NetworkError(
                f"{self.name} has the format of another version of PyTorch. Export it again with PyTorch 2.9 or newer: "
                "torch.export.save(torch.export.export(network.eval(), (image,)), 'network.pt2')."
            )

    def _json(self, name: str) -> Any:
        info = self.archive.getinfo(f"{self.root}/{name}")
        if info.file_size > MAX_JSON_BYTES:
            raise NetworkError(
                f"{name} in {self.name} has {info.file_size} bytes, more than any network's description."
            )
        return json.loads(self.archive.read(info))

    def network(self) -> ExportedNetwork:
        program = self._json("models/model.json")
        version = program.get("schema_version", {}).get("major")
        if version != SCHEMA_MAJOR:
            raise NetworkError(
                f"{self.name} has graph format {version}, but only {SCHEMA_MAJOR} is understood; export it again."
            )
        module = program["graph_module"]
        graph, signature = module["graph"], module["signature"]
        self._require_fixed_size(program, graph, signature)
        tensors = {
            **self._tensors("data/weights", "data/weights/model_weights_config.json"),
            **self._tensors("data/constants", "data/constants/model_constants_config.json"),
        }
        state, image = self._inputs(signature, tensors)
        calls = [self._call(node) for node in graph["nodes"] if not self._is_about_sizes(node)]
        first, *others = graph["tensor_values"][image]["sizes"]
        batch_size = None if "as_expr" in first else _whole(first)
        shape = tuple(_whole(size) for size in others)
        return ExportedNetwork(calls, state, image, self._output(signature), shape, batch_size)

    def _require_fixed_size(
        self, program: Mapping[str, Any], graph: Mapping[str, Any], signature: Mapping[str, Any]
    ) -> None:
        """Only the number of images may be left open, and only as it is: no expression of it is evaluated."""
        self.batch_names: set[str] = set()
        if not program.get("range_constraints") and not graph.get("sym_int_values"):
            return
        images = [e["user_input"]["arg"]["as_tensor"]["name"] for e in signature["input_specs"] if "user_input" in e]
        first, *others = graph["tensor_values"][images[0]]["sizes"]
        batch = first.get("as_expr", {}).get("expr_str")
        named = graph.get("sym_int_values") or {}
        if batch is None or len(program.get("range_constraints") or ()) > 1 or any("as_int" not in n for n in others):
            raise _dynamic(self.name)
        if any(value.get("as_expr", {}).get("expr_str") != batch for value in named.values()):
            raise _dynamic(self.name)
        self.batch_names = set(named)

    def _is_about_sizes(self, node: Mapping[str, Any]) -> bool:
        """Whether a call asks for the number of images, or only checks it."""
        kinds = {kind for output in node["outputs"] for kind in output}
        if self.batch_names and kinds and kinds <= {"as_sym_int", "as_sym_bool"}:
            names = {o["as_sym_int"].get("as_name") for o in node["outputs"] if "as_sym_int" in o}
            return names <= self.batch_names
        checks = ("torch.ops.aten._assert_scalar.", "torch.ops.aten._assert_tensor_metadata.")
        return str(node["target"]).startswith(checks)

    def _tensors(self, folder: str, table: str) -> dict[str, Tensor]:
        """Raw little-endian payloads, by fully qualified name."""
        if table not in self.files:
            return {}
        if "byteorder" in self.files and self.archive.read(f"{self.root}/byteorder").strip() != b"little":
            raise NetworkError(f"{self.name} was written on a big-endian computer, which is not supported.")
        tensors: dict[str, Tensor] = {}
        for fqn, entry in self._json(table)["config"].items():
            if entry["use_pickle"] or entry["tensor_meta"] is None:
                raise UnsafeFileError(
                    f"{fqn} in {self.name} is a pickled object; loading it would execute code, which is refused."
                )
            tensors[fqn] = self._tensor(folder, entry)
        return tensors

    def _tensor(self, folder: str, entry: Mapping[str, Any]) -> Tensor:
        meta = entry["tensor_meta"]
        dtype = _DTYPES.get(meta["dtype"])
        if dtype is None:
            raise NetworkError(f"{self.name} holds tensors of a type that is not supported (code {meta['dtype']}).")
        data = bytearray(self.archive.read(f"{self.root}/{folder}/{entry['path_name']}"))
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        sizes, strides = [_whole(s) for s in meta["sizes"]], [_whole(s) for s in meta["strides"]]
        offset = _whole(meta["storage_offset"])
        reach = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1
        is_short = reach > flat.numel() or math.prod(sizes) > flat.numel()  # a stride of 0 makes many of few
        if min([offset, *sizes, *strides]) < 0 or (min(sizes, default=1) > 0 and is_short):
            raise NetworkError(f"{self.name} is damaged: a weight of shape {sizes} has only {flat.numel()} numbers.")
        return torch.as_strided(flat, sizes, strides, offset).clone()

    def _inputs(self, signature: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        state: dict[str, Tensor] = {}
        images: list[str] = []
        for entry in signature["input_specs"]:
            ((kind, spec),) = entry.items()
            if kind == "user_input":
                argument = spec["arg"]
                if "as_tensor" not in argument:
                    raise UnsupportedOperationError(
                        "an input that is no image", self.name, "The network must take one image."
                    )
                images.append(argument["as_tensor"]["name"])
                continue
            key = {
                "parameter": "parameter_name",
                "buffer": "buffer_name",
                "tensor_constant": "tensor_constant_name",
            }.get(kind)
            if key is None:
                raise UnsafeFileError(f"{self.name} has an input of kind {kind}, which could hold code; it is refused.")
            state[spec["arg"]["name"]] = tensors[spec[key]]
        if len(images) != 1:
            raise NetworkError(f"The network in {self.name} takes {len(images)} images; it must take one.")
        return state, images[0]

    def _output(self, signature: Mapping[str, Any]) -> str:
        outputs = [
            spec["arg"]["as_tensor"]["name"]
            for entry in signature["output_specs"]
            for kind, spec in entry.items()
            if kind == "user_output"
        ]
        if len(outputs) != 1:
            raise NetworkError(f"The network in {self.name} returns {len(outputs)} tensors; it must return one.")
        return str(outputs[0])

    def _call(self, node: Mapping[str, Any]) -> _Call:
        target = str(node["target"])
        function = self._function(target, node)
        positional, keywords = [], {}
        for argument in node["inputs"]:
            value = self._value(argument["arg"], target)
            if argument.get("kind") == 2:
                keywords[argument["name"]] = value
            else:
                positional.append(value)
        results: list[str] = []
        is_list = False
        for output in node["outputs"]:
            ((kind, value),) = output.items()
            if kind == "as_tensor":
                results.append(value["name"])
            elif kind == "as_tensors":
                results += [item["name"] for item in value]
                is_list = True
            elif kind != "as_none":
                raise UnsupportedOperationError(target, self.name, f"It returns {kind}.")
        return _Call(function, target, tuple(positional), keywords, tuple(results), is_list)

    def _function(self, target: str, node: Mapping[str, Any]) -> Any:
        if target == "_operator.getitem":
            return operator.getitem
        parts = target.split(".")
        location = str((node.get("metadata") or {}).get("nn_module_stack", "")).split(";")[-1].split(",")[1:2]
        if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5 or not is_allowed(parts[3]):
            raise UnsupportedOperationError(
                target,
                f"{self.name}, module {location[0] if location else ''!r}",
                "It is not on the list of operations that may be run from a file.",
            )
        overloads = getattr(torch.ops.aten, parts[3])
        if parts[4] not in overloads.overloads():
            raise UnsupportedOperationError(target, self.name, "This PyTorch does not have it.")
        return getattr(overloads, parts[4])

    def _size(self, value: Mapping[str, Any]) -> int | _BatchSize:
        if "as_int" in value:
            return int(_plain(value["as_int"], "as_int"))
        if value.get("as_name") in self.batch_names:
            return _BatchSize()
        raise _dynamic(self.name)

    def _value(self, argument: Mapping[str, Any], target: str) -> Any:
        ((kind, value),) = argument.items()
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return _Reference(value["name"])
        if kind == "as_tensors":
            return [_Reference(item["name"]) for item in value]
        if kind == "as_optional_tensors":
            return [_Reference(i["as_tensor"]["name"]) if "as_tensor" in i else None for i in value]
        if kind in _PLAIN:
            return _plain(value, kind)
        if kind == "as_sym_int":
            return self._size(value)
        if kind == "as_sym_ints":
            return [self._size(item) for item in value]
        if kind == "as_scalar_type" and value in _DTYPES:
            return _DTYPES[value]
        if kind == "as_memory_format" and value in _MEMORY_FORMATS:
            return _MEMORY_FORMATS[value]
        if kind == "as_device":
            return None  # wherever the weights are
        if kind == "as_layout":
            return torch.strided
        raise UnsupportedOperationError(target, self.name, f"An argument of kind {kind} is not supported.")


def _dynamic(name: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        "dynamic shapes",
        name,
        "Only the number of images may be left open; export the network for one fixed image size.",
    )


def _whole(size: Mapping[str, Any]) -> int:
    if "as_int" not in size:
        raise _dynamic("the exported file")
    return int(_plain(size["as_int"], "as_int"))


#: Kinds of plain arguments, and the type that JSON has for one of them.
_PLAIN: Mapping[str, type] = {
    "as_int": int,
    "as_ints": int,
    "as_bool": bool,
    "as_bools": bool,
    "as_string": str,
    "as_float": float,
    "as_floats": float,
}
_NOT_IN_JSON = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def _plain(value: Any, kind: str) -> Any:
    """A number, text or list of them of the type that its kind says; PyTorch takes some others, and misreads them."""
    if kind.endswith("s"):
        if not isinstance(value, list):
            raise TypeError(f"{value!r:.60} where a list was expected ({kind})")
        return [_plain(item, kind.removesuffix("s")) for item in value]
    wanted = _PLAIN[kind]
    if wanted is float:
        value = _NOT_IN_JSON.get(value, value) if isinstance(value, str) else value
        value = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if type(value) is not wanted or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        raise TypeError(f"{value!r:.60} where {wanted.__name__} was expected ({kind})")
    return value
