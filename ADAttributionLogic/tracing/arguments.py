"""The arguments of one call in an exported network, as the converters to operations read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ADAttributionLogic.errors import UnsupportedOperationError
from ADAttributionLogic.graph.operations import Operation

#: Operations one after the other, each with the shape of its output (without the batch axis).
Steps = tuple[tuple[Operation, tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class Wired:
    """One of several operations that a call becomes, where they are not simply one after the other.

    Attributes
    ----------
    operation : Operation
    inputs : tuple of int
        Numbers of what it takes: the call's inputs come first (0, 1, …), then the operations before this one.
    shape : tuple of int
        Of its output, without the batch axis.
    """

    operation: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


#: What a call becomes: an operation, several in a row, a small graph of them (the last one gives the result), or None
#: where the call changes nothing.
Conversion = Operation | Steps | tuple[Wired, ...] | None


@dataclass(frozen=True)
class Arguments:
    """A call's arguments.

    Attributes
    ----------
    operation, location : str
        For messages.
    values : mapping
        By name in the operation's schema; tensors that depend on the image are given as their shape.
    dynamic : frozenset of str
        Which arguments depend on the image.
    output_shape : tuple of int
        Shape of the result for one image, with the batch axis.
    """

    operation: str
    location: str
    values: Mapping[str, Any]
    dynamic: frozenset[str]
    output_shape: tuple[int, ...]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def unsupported(self, why: str) -> UnsupportedOperationError:
        """An error that names the operation, its place and what about it is not supported."""
        return UnsupportedOperationError(self.operation, self.location, why)

    def constant(self, name: str) -> Tensor:
        """A weight: a tensor that does not depend on the image."""
        value = self.values[name]
        if name in self.dynamic or not isinstance(value, Tensor):
            raise self.unsupported(f"Its {name} depends on the image.")
        return value

    def axis(self, value: int, what: str = "It works") -> int:
        """An axis of ``self``, counted from the front; the batch axis is refused."""
        axis = int(value) % len(self["self"])
        if axis == 0:
            raise self.unsupported(f"{what} along the batch axis.")
        return axis


Converter = Callable[[Arguments], Conversion]


def coefficient(*values: float) -> Tensor:
    """A coefficient, in double precision until the graph gets its dtype."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)
