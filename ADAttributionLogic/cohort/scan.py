"""A row of a cohort's table: one scan, and what the table says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ADAttributionLogic.errors import CohortError


@dataclass(frozen=True)
class CohortScan:
    """A row: one scan.

    Attributes
    ----------
    name : str
        Of its result in a batch of this table.
    path : Path or None
        None where the table names no scan, or the subject's folder has none.
    subject : str
    session : str
        "" where the table has none.
    diagnosis : str
        "" where it is not known.
    values : mapping of str to str
        All other columns that are filled in, as they were written.
    line : int
        In the table, from 1.
    table : str
        Name of the table's file, where several were read.
    """

    name: str
    path: Path | None
    subject: str
    session: str
    diagnosis: str
    values: Mapping[str, str] = field(hash=False)
    line: int
    table: str = ""

    @property
    def place(self) -> str:
        """Where it stands, e.g. ``line 3``."""
        return f"line {self.line}{f' of {self.table}' if self.table else ''}"

    @property
    def shown(self) -> str:
        """For messages, e.g. ``sub-01, ses-2 (line 3)``."""
        return f"{self.subject}{f', {self.session}' if self.session else ''} ({self.place})"

    @property
    def is_there(self) -> bool:
        """Whether its file or folder exists."""
        return self.path is not None and self.path.exists()

    def number(self, variable: str) -> float:
        """A column as a number; NaN where it is not filled in.

        Raises
        ------
        CohortError
            It is filled in with something else.
        """
        text = self.values.get(variable)
        if text is None:
            return math.nan
        try:
            value = float(text)
        except ValueError as cause:
            raise CohortError(f"{self.shown}: {variable} is {text!r}, which is no number.") from cause
        if not math.isfinite(value):
            raise CohortError(f"{self.shown}: {variable} is {text!r}; only finite numbers can be used.")
        return value
