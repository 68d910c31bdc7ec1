"""Networks saved as TorchScript, vetted before they are loaded.

TorchScript is a program in a restricted language. Before PyTorch loads a file, its source is read as text: every
function that it calls must be on the fixed list (:mod:`~.allowed_operations`), and code that would already run while
loading (``__setstate__``) is refused.
"""

from __future__ import annotations

import ast
import os
import warnings
import zipfile
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import nn

from ADAttributionLogic.errors import NetworkError, UnsafeFileError, UnsupportedOperationError
from ADAttributionLogic.networks.allowed_operations import is_allowed

#: No network's source is larger.
MAX_SOURCE_BYTES = 50_000_000

#: Functions of the language itself: conversions and assertions about types and sizes.
_LANGUAGE = frozenset(
    """
    annotate bool dict eq dim float format ge gt int is_floating_point le len list lt ne numel range size str
    tuple unchecked_cast uninitialized __contains__ __getitem__ __is__ __isnot__ __not__ _unwrap_optional append
    NumToTensor ImplicitTensorToNum Int Float Bool floordiv remainder unwrap_optional warn raise_exception
    RaiseException device dtype
    """.split()
)


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_torchscript_network(path: str | os.PathLike[str]) -> nn.Module:
    """Vet and load a TorchScript file, on the CPU, in evaluation mode.

    Raises
    ------
    NetworkError, UnsafeFileError, UnsupportedOperationError
    """
    name = os.path.basename(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _vet(archive, name)
    except zipfile.BadZipFile as cause:
        raise NetworkError(f"{name} is not a TorchScript file, or is damaged: {cause}") from cause
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            module: nn.Module = torch.jit.load(str(path), map_location="cpu")
        except RuntimeError as cause:
            raise NetworkError(
                f"{name} cannot be loaded as TorchScript: {str(cause).strip().splitlines()[-1]}"
            ) from cause
    return module.eval()


def _vet(archive: zipfile.ZipFile, name: str) -> None:
    sources = [
        info
        for info in archive.infolist()
        if "code" in PurePosixPath(info.filename).parts[:-1] and info.filename.endswith(".py")
    ]
    if not sources:
        raise NetworkError(f"{name} holds no TorchScript code.")
    if sum(info.file_size for info in sources) > MAX_SOURCE_BYTES:
        raise NetworkError(f"{name} holds more than {MAX_SOURCE_BYTES} bytes of code, which no network needs.")
    for info in sources:
        try:
            tree = ast.parse(archive.read(info).decode("utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, MemoryError) as cause:
            raise NetworkError(f"{info.filename} in {name} is not TorchScript: {cause}") from cause
        _Vetting(name, info.filename).visit(tree)


class _Vetting(ast.NodeVisitor):
    """Looks at every function definition and call of a source file."""

    def __init__(self, name: str, file: str) -> None:
        self.name = name
        self.file = file

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("__setstate__", "__getstate__"):
            raise UnsafeFileError(f"{self.name} defines {node.name}, code that would run while loading; it is refused.")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        path = _dotted(node.func)
        if path and path[0] in ("torch", "ops") and not self._is_known(path):
            raise UnsupportedOperationError(
                ".".join(path),
                f"{self.name} ({self.file}:{node.lineno})",
                "It is not on the list of operations that may be run from a file.",
            )
        self.generic_visit(node)

    @staticmethod
    def _is_known(path: tuple[str, ...]) -> bool:
        return len(path) <= 3 and (is_allowed(path[-1]) or path[-1] in _LANGUAGE)


def _dotted(expression: Any) -> tuple[str, ...]:
    """``torch.nn.relu`` as ("torch", "nn", "relu"); () for anything that is no plain dotted name."""
    names: list[str] = []
    while isinstance(expression, ast.Attribute):
        names.append(expression.attr)
        expression = expression.value
    return (expression.id, *reversed(names)) if isinstance(expression, ast.Name) else ()
