"""How large an image may be: for any scan, for this file, and for the memory that is free."""

from __future__ import annotations

import os
from pathlib import Path

from ADAttributionLogic.errors import ScanError

#: 0.25 mm voxels of a whole head, which is four times finer than any network of the field takes.
MAX_VOXELS = 1 << 29

#: Deflate cannot make more than 1032 bytes of one; bzip2 reaches some 46,000 with runs of equal bytes.
_EXPANSION = {"gzip": 1032, "zlib": 1032, "bzip2": 50_000, "": 1}
_CGROUP = Path("/sys/fs/cgroup")


def require_voxels(name: str, shape: tuple[int, ...]) -> int:
    """Number of voxels of an image, after comparing it with :data:`MAX_VOXELS`.

    Raises
    ------
    ScanError
    """
    count = 1
    for size in shape:
        if size < 1:
            raise ScanError(f"{name} cannot be read: its header says {_size(shape)} voxels. It is damaged.")
        count *= size
    if count > MAX_VOXELS:
        raise ScanError(
            f"{name} cannot be read: its header says {_size(shape)} voxels, more than any scan has ({MAX_VOXELS}). It "
            "is damaged, or must be cropped or resampled first."
        )
    return count


def require_in_file(name: str, needed: int, there: int, compression: str = "") -> None:
    """Refuse an image whose voxels cannot be in the file.

    Parameters
    ----------
    name : str
        For messages.
    needed, there : int
        Bytes of the voxels, and of the file behind its header.
    compression : {"", "gzip", "zlib", "bzip2"}

    Raises
    ------
    ScanError
    """
    most = there * _EXPANSION[compression]
    if needed > most:
        packed = f", which hold at most {most} when they are unpacked" if compression else ""
        raise ScanError(
            f"{name} cannot be read: its header says {needed} bytes of voxels, but the file has {there}{packed}. It is "
            "damaged or truncated; copy it again."
        )


def require_memory(name: str, needed: int) -> None:
    """Refuse what does not fit into the memory that is free now.

    Raises
    ------
    ScanError
    """
    free = free_memory()
    if free is not None and needed > free:
        raise ScanError(
            f"{name} cannot be read: it needs {needed / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free. Close "
            "other programs, or resample the scan to larger voxels."
        )


def free_memory() -> int | None:
    """Bytes that this process can still get, by the machine, its container and its own limit; None if unknown."""
    found = [bytes_ for bytes_ in (_machine(), _container(), _own_limit()) if bytes_ is not None]
    return max(0, min(found)) if found else None


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _container() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="utf-8").strip()
        if limit == "max":
            return None
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        # Cached files count as used, but are given up when memory is needed.
        used = int((_CGROUP / "memory.current").read_text(encoding="utf-8")) - int(statistics.get("inactive_file", 0))
        return int(limit) - used
    except (OSError, ValueError):
        return None


def _own_limit() -> int | None:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        return limit - used
    except (ImportError, OSError, ValueError):
        return None


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in shape)
