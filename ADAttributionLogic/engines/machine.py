"""What this machine has to give: processors and free memory, as far as this process may have them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import UsageError

#: Of the free memory, what workers may take: files that are read want to be kept in memory as well.
SHARE = 0.85
#: Where the environment says how many threads libraries begin with.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Plan:
    """How a machine is filled.

    Attributes
    ----------
    workers : int
    threads : int
        Of each worker.
    memory_mb : float
        That each worker is expected to need at most.
    reason : str
        Where the numbers come from, for the log.
    """

    workers: int
    threads: int
    memory_mb: float
    reason: str

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {"workers": self.workers, "threads": self.threads, "memory_mb": round(self.memory_mb)}


def plan_for(
    tasks: int,
    memory_mb: float,
    *,
    workers: int | None = None,
    threads: int | None = None,
    total_mb: float | None = None,
    cores: int | None = None,
    free_mb: float | None = None,
) -> Plan:
    """So many workers that the machine is full and does not swap, and so many threads that no core is left over.

    Parameters
    ----------
    tasks : int
        More workers than these would have nothing to do.
    memory_mb : float
        Expected of each worker.
    workers, threads : int, optional
        As the user wants them; then memory is not asked for.
    total_mb : float, optional
        Memory that the user gives to all workers together; by default a share of what is free.
    cores, free_mb : optional
        By default those of this machine.

    Raises
    ------
    UsageError
        A number that makes no sense, or memory that does not suffice for a single worker.
    """
    for name, given in (("workers", workers), ("threads", threads)):
        if given is not None and given < 1:
            raise UsageError(f"The number of {name} must be 1 or more, but is {given}.")
    cores = cores or available_cores()
    free = free_mb if free_mb is not None else available_memory_mb()
    budget = total_mb if total_mb is not None else (None if free is None else SHARE * free)
    if total_mb is not None and total_mb < memory_mb:
        raise UsageError(
            f"{total_mb / 1024:.1f} GB of memory were given, but a worker needs about {memory_mb / 1024:.1f} GB. Give "
            "more, or choose a smaller network or fewer methods."
        )
    by_cores = max(cores // (threads or 1), 1)
    by_memory = by_cores if budget is None else max(int(budget // memory_mb), 1)
    chosen = workers or max(min(by_cores, by_memory, tasks), 1)
    each = threads or max(cores // chosen, 1)
    shown = "unknown" if free is None else f"{free / 1024:.1f} GB"
    limit = "as asked" if workers else _limit(chosen, by_cores, by_memory, tasks)
    reason = (
        f"{chosen} {'worker' if chosen == 1 else 'workers'} of {each} {'thread' if each == 1 else 'threads'} and about "
        f"{memory_mb / 1024:.1f} GB each ({limit}; {cores} cores, {shown} of memory free)"
    )
    return Plan(chosen, each, memory_mb, reason)


def _limit(chosen: int, by_cores: int, by_memory: int, tasks: int) -> str:
    if chosen == tasks:
        return "more would be of no use"
    if by_memory < by_cores:
        return "limited by memory"
    return "limited by cores"


def available_cores() -> int:
    """Processors that this process may use: those it is bound to, and no more than its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(int(int(quota) / int(period)), 1))
    except (OSError, ValueError):
        pass
    return max(cores, 1)


def available_memory_mb() -> float | None:
    """Memory that can be had without swapping, also within a container's limit; None where the system does not say."""
    found = [value for value in (_free_in_system(), _free_in_container()) if value is not None]
    return min(found) / 2**20 if found else None


def _free_in_system() -> float | None:
    try:
        import psutil
    except ImportError:
        return _free_without_psutil()
    return float(psutil.virtual_memory().available)


def _free_without_psutil() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None


def _free_in_container() -> float | None:
    """By version 2 of control groups; pages of files that the limit counts can be given back."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        words = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return float(int(limit) - used + int(words.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def keep_freed_memory(whatever_size: bool = False) -> None:
    """Have this process keep the memory that it frees, instead of giving it back and asking for it again.

    Each scan's arrays are as large as those of the last one; glibc would hand each back to the system, which then has
    to find and clear every page anew: a tenth of a scan's processor time, a third of a training's. Elsewhere than in
    glibc nothing is changed.

    Parameters
    ----------
    whatever_size : bool
        Also blocks of more than 1 GiB, as the activations of a training's batch are.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _MALLOC_VARIABLES):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # glibc before 2.35 refuses a threshold above 32 MiB.
        if whatever_size or not mallopt(_M_MMAP_THRESHOLD, 2**30):
            mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


#: Who has set these knows better.
_MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
#: Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def worker_environment(threads: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment in which a worker begins: so many threads, and large pages for what glibc's malloc has."""
    tunables = [_LARGE_PAGES, *filter(None, [environment.get("GLIBC_TUNABLES")])]
    return {**thread_environment(threads), "GLIBC_TUNABLES": ":".join(tunables)}


_LARGE_PAGES = "glibc.malloc.hugetlb=1"


def thread_environment(threads: int) -> dict[str, str]:
    """Environment in which libraries begin with so many threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))
