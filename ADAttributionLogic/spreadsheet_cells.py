"""Cells of tables that people open in a spreadsheet: text stays text."""

from __future__ import annotations

from typing import Any

#: With these a spreadsheet takes a text for a formula, which may start programs (OWASP, CSV injection).
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n")


def plain_cell(value: Any) -> Any:
    """A text that begins like a formula, with the apostrophe that makes it a text; all else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_SIGNS) else value
