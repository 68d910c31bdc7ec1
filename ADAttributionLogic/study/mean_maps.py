"""Mean maps of all cases, a few scans in memory at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.study.material import Material
from ADAttributionLogic.volume import Volume

#: Maps that are read at a time: unpacking takes longer than adding, and as many are in memory.
READERS = min(8, os.cpu_count() or 1)

#: Everybody belongs to exactly one of these.
CELLS = ("TP", "TN", "FP", "FN")


class CaseSums:
    """Running sums of maps by cell (TP, TN, FP, FN), of which all other cases are made.

    Memory is that of the cells in float64 and the maps that are read ahead, whatever the number of scans.
    """

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self.counts: dict[str, int] = dict.fromkeys(CELLS, 0)
        self._sums: dict[str, npt.NDArray[np.float64]] = {}

    def add(self, heatmap: Volume, cell: str) -> None:
        """Count one scan's map.

        Raises
        ------
        ScanError
            It lies on another grid than those before, or has NaN or infinite voxels.
        """
        if self.grid is None:
            self.grid = heatmap.grid
        elif not heatmap.grid.is_same(self.grid):
            raise ScanError(
                f"{heatmap.source} is on {heatmap.grid.describe()}, those before it on {self.grid.describe()}, or it "
                "lies elsewhere: maps on the network's grid are needed (--space model)."
            )
        bad = heatmap.array.size - int(np.isfinite(heatmap.array).sum())
        if bad:
            raise ScanError(f"{heatmap.source} has {bad} NaN or infinite voxels; it cannot be part of a mean.")
        if cell not in self._sums:
            self._sums[cell] = np.zeros(heatmap.array.shape)
        self._sums[cell] += heatmap.array
        self.counts[cell] += 1

    def mean(self, cells: Iterable[str], source: str) -> Volume | None:
        """Mean over all scans of some cells, float32; None where there are none."""
        wanted = [cell for cell in cells if self.counts[cell]]
        if not wanted or self.grid is None:
            return None
        total = self._sums[wanted[0]].copy()
        for cell in wanted[1:]:
            total += self._sums[cell]
        total /= sum(self.counts[cell] for cell in wanted)
        return Volume(total.astype(np.float32), self.grid.affine, source)


def sum_cases(paths: Mapping[int, Path], cells: Mapping[int, str], monitor: Monitor | None = None) -> CaseSums:
    """Add up the maps of subjects, by row number, in their order; a few are read ahead.

    Raises
    ------
    ScanError
        A map cannot be read, or does not fit the others.
    Cancelled
    """
    monitor, sums = monitor or Monitor(), CaseSums()
    for number, (row, heatmap) in enumerate(zip(paths, _read_ahead(paths.values()), strict=True)):
        monitor.report(number / len(paths), f"mean maps, scan {number + 1} of {len(paths)}")
        sums.add(heatmap, cells[row])
    return sums


def _read_ahead(paths: Iterable[Path]) -> Iterator[Volume]:
    """The maps in their order, :data:`READERS` of them in memory."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[Volume]] = deque()
        try:
            for path in paths:
                waiting.append(pool.submit(read_scan, path))
                if len(waiting) == READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def parts_of(material: Material) -> dict[str, tuple[str, ...]]:
    """Of which cells each case consists."""
    groups = material.groups
    return {groups.positive: ("TP", "FN"), groups.negative: ("TN", "FP"), **{cell: (cell,) for cell in CELLS}}
