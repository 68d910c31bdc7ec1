"""Job arrays: each job takes its share of a list, and needs to know of no other."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ADAttributionLogic.errors import UsageError

Item = TypeVar("Item")

#: What job arrays call the number of a job, the first number, the last, and how far apart they are; or how many.
_SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP")
_SLURM_COUNT = "SLURM_ARRAY_TASK_COUNT"


@dataclass(frozen=True)
class Shard:
    """A share of a list.

    Attributes
    ----------
    number : int
        From 1.
    count : int
        How many shares there are.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"There is no shard {self.number} of {self.count}: they go from 1 to {self.count}.")

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th item: always the same, whatever the other shards do."""
        return list(items[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def read_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Read ``3/8``, or ``slurm``: the job array that this process is a part of.

    Raises
    ------
    UsageError
        It is neither, or this process belongs to no job array.
    """
    if text.strip().lower() == "slurm":
        return _of_slurm(environment)
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if match is None:
        raise UsageError(f"{text!r} is no shard. Write 3/8 for the third of eight, or slurm in a job array of SLURM.")
    return Shard(int(match[1]), int(match[2]))


def _of_slurm(environment: Mapping[str, str]) -> Shard:
    try:
        number, first, last, step = (int(environment[name]) for name in _SLURM)
        count = (last - first) // step + 1
        said = int(environment.get(_SLURM_COUNT, count))
    except (KeyError, ValueError, ZeroDivisionError) as cause:
        raise UsageError(
            f"--shard slurm reads {_SLURM[0]} and its like, which a job array sets (sbatch --array=1-8), but "
            f"{cause} is not set here. Say which shard this is, e.g. --shard 3/8."
        ) from cause
    if said != count:
        raise UsageError(
            f"The job array has {said} jobs between the numbers {first} and {last}: which share is whose cannot be "
            f"told. Give it numbers without gaps, such as --array=1-{said}."
        )
    return Shard((number - first) // step + 1, count)
