"""What a node of an exported program says of itself: its operation, its place, and why it may be refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from ADAttributionLogic.errors import NetworkError

#: Numbers in one result that no network for images of the head needs; it would not fit the memory.
MAX_ELEMENTS = 2**32


def is_check(node: Any) -> bool:
    """Whether a call only checks its arguments (export adds these, e.g. for x.to(…))."""
    return operation_name(node).startswith(("aten._assert", "aten.sym_constrain"))


def refuse_random(node: Any) -> None:
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return
    if operation_name(node) == "aten.dropout" and not node.args[2]:
        return
    if "scaled_dot_product" in operation_name(node):
        return  # it says itself whether it drops anything
    raise NetworkError(
        f"The network draws random numbers although it is in evaluation mode: {operation_name(node)} at "
        f"{place_of(node)}. No map explains an answer that changes from run to run; make it deterministic "
        "(dropout: F.dropout(x, p, self.training))."
    )


def refuse_huge(node: Any) -> None:
    values = node.meta.get("val")
    for value in values if isinstance(values, (list, tuple)) else [values]:
        if isinstance(value, Tensor) and value.numel() > MAX_ELEMENTS:
            raise NetworkError(
                f"The network computes {value.numel()} numbers for one image, more than {MAX_ELEMENTS}: "
                f"{operation_name(node)} at {place_of(node)}. It is refused."
            )


def why_unknown(name: str) -> str:
    if "_native_batch_norm" in name:
        return (
            "It normalises by the statistics of the image itself (batch normalisation in training mode or without "
            "running statistics)."
        )
    return "No rule says how relevance passes through it."


def nodes_in(argument: Any) -> Iterator[Any]:
    if isinstance(argument, torch.fx.Node):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from nodes_in(item)


def tensor_arguments(node: Any) -> list[Any]:
    """Nodes among the arguments, with repetitions (x + x has two inputs)."""
    return [n for argument in (*node.args, *node.kwargs.values()) for n in nodes_in(argument)]


def operation_name(node: Any) -> str:
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        return "getitem"
    return str(target).removesuffix(".default")


def module_path(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    # A module called again is written with a counter ("relu@1"), which is not part of its path.
    return re.sub(r"@\d+", "", paths[-1]) if paths else ""


def place_of(node: Any) -> str:
    """Module path and the user's source line."""
    path = module_path(node)
    place = f"module {path!r}" if path else "the top level"
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]+)', node.meta.get("stack_trace") or "")
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")]
    if own:
        file, line, code = own[-1]
        place += f" ({PurePath(file).name}:{line}: {code.strip()})"
    return place
