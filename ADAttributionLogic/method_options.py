"""Options of attribution methods: what they are called, what they may be, and how they travel between processes.

Needs no torch, so that a panel can show and check them while the methods live in the worker only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ADAttributionLogic.errors import UnknownNameError, UsageError

OptionValue = float | int | bool | str | None

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (float, int, bool, str)}


@dataclass(frozen=True)
class Option:
    """A setting of a method.

    Attributes
    ----------
    name : str
    default : float, int, bool, str or None
    help : str
    kind : type
        float, int, bool or str.
    choices : tuple of str
        Allowed values of a str.
    minimum, maximum : float
        Allowed range of a number.
    """

    name: str
    default: OptionValue
    help: str
    kind: type
    choices: tuple[str, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf

    def check(self, method: str, value: Any) -> OptionValue:
        """Return the value in the option's type.

        Raises
        ------
        UsageError
            Wrong type, outside the range, or not among the choices.
        """
        what = f"Option {self.name} of {method}"
        if value is None and self.default is None:
            return None
        if self.choices:
            if value not in self.choices:
                raise UnknownNameError(f"value for option {self.name} of {method}", str(value), self.choices)
            return str(value)
        if self.kind is bool or isinstance(value, bool):
            if self.kind is not bool or not isinstance(value, bool):
                raise UsageError(f"{what} must be of type {self.kind.__name__}, but is {value!r}.")
            return value
        if self.kind in (int, float):
            if (
                not isinstance(value, (int, float))
                or not math.isfinite(value)
                or (self.kind is int and value != int(value))
            ):
                raise UsageError(f"{what} must be a {'whole ' if self.kind is int else ''}number, but is {value!r}.")
            if not self.minimum <= value <= self.maximum:
                raise UsageError(f"{what} must be {self.range_text()}, but is {value:g}.")
            return int(value) if self.kind is int else float(value)
        return str(value)

    def range_text(self) -> str:
        """The allowed range in words; "" for what has none."""
        if math.isinf(self.minimum) and math.isinf(self.maximum):
            return ""
        if math.isinf(self.maximum):
            return f"at least {self.minimum:g}"
        if math.isinf(self.minimum):
            return f"at most {self.maximum:g}"
        return f"between {self.minimum:g} and {self.maximum:g}"

    def parse(self, method: str, text: str) -> OptionValue:
        """The value of a text that a user typed; nothing stands for the default.

        Raises
        ------
        UsageError
        """
        text = text.strip()
        if not text:
            return self.default
        if self.kind in (int, float):
            try:
                return self.check(method, float(text))
            except ValueError:
                return self.check(method, text)  # raises, saying what it must be
        return self.check(method, text)

    def document(self) -> dict[str, Any]:
        """All of it as JSON has it, which knows no infinity."""
        limits = {"minimum": self.minimum, "maximum": self.maximum}
        return {
            "name": self.name,
            "default": self.default,
            "help": self.help,
            "kind": self.kind.__name__,
            "choices": list(self.choices),
            **{name: None if math.isinf(limit) else limit for name, limit in limits.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Option:
        """The inverse of :meth:`document`."""
        return cls(
            document["name"],
            document["default"],
            document["help"],
            _KINDS[document["kind"]],
            tuple(document["choices"]),
            -math.inf if document["minimum"] is None else document["minimum"],
            math.inf if document["maximum"] is None else document["maximum"],
        )
