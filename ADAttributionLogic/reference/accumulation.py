"""Controls' maps taken up one by one: what is kept in memory does not grow with their number.

Voxelwise there are only means and squares. Of each control the sums of its regions stay (some kilobytes), in the
working folder and not in the reference: quantiles and least squares need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.errors import ReferenceCohortError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.reference.covariates import Design, design_of
from ADAttributionLogic.reference.moments import VoxelMoments
from ADAttributionLogic.reference.pattern import pattern_grid, pattern_of
from ADAttributionLogic.reference.question import (
    differences,
    grid_of,
    method_differences,
    method_of_record,
    question_of_record,
)
from ADAttributionLogic.reference.statistics import QUANTITIES, RegionStatistics, Values, statistics_of, values_of
from ADAttributionLogic.relevance.region_table import RegionIndex, RegionTable, index_regions, region_table
from ADAttributionLogic.volume import Volume


@dataclass(frozen=True)
class Control:
    """Whose map was taken up.

    Attributes
    ----------
    subject, session : str
    scan_sha256 : str
        Of the scan's file.
    covariates : mapping of str to str
    """

    subject: str
    session: str
    scan_sha256: str
    covariates: Mapping[str, str] = field(default_factory=dict)


class Accumulation:
    """The maps of some controls, as far as a reference needs them.

    Parameters
    ----------
    question : mapping
        What all maps answer (:func:`~.question.question_of_record`).
    methods : mapping of str to mapping
        Name of each map with how it was made (:func:`~.question.method_of_record`).
    atlases : sequence of Atlas
        In the network's space.
    region_atlas : mapping of str to str, optional
        By map, the atlas by whose regions it was made, where a method covers regions: only those are summarised.

    Attributes
    ----------
    controls : list of Control
    moments : dict of str to VoxelMoments
        By map.
    patterns : dict of str to VoxelMoments
        Of each map's :func:`~.pattern.pattern_of`.
    scan : VoxelMoments
        Of the scans as the network saw them.
    values : dict of (str, str) to list of ndarray
        By map and atlas, (R, 5) of each control.
    """

    def __init__(
        self,
        question: Mapping[str, Any],
        methods: Mapping[str, Mapping[str, Any]],
        atlases: Sequence[Atlas],
        region_atlas: Mapping[str, str] | None = None,
    ) -> None:
        self.question, self.methods = dict(question), {name: dict(entry) for name, entry in methods.items()}
        self.grid: Grid = grid_of(question)
        self.atlases = tuple(atlas.on_grid(self.grid) for atlas in atlases)
        self.controls: list[Control] = []
        self.moments = {name: VoxelMoments(self.grid.shape) for name in methods}
        self.patterns = {name: VoxelMoments(pattern_grid(self.grid).shape) for name in methods}
        self.scan = VoxelMoments(self.grid.shape)
        self._indices: dict[str, RegionIndex] = {atlas.name: index_regions(atlas) for atlas in self.atlases}
        if len(self._indices) < len(self.atlases):
            raise ReferenceCohortError(f"Two atlases are called {self.atlases[0].name}; each needs a name of its own.")
        only = region_atlas or {}
        self.values: dict[tuple[str, str], list[Values]] = {
            (name, atlas): [] for name in methods for atlas in self._indices if only.get(name, atlas) == atlas
        }
        self._like: dict[tuple[str, str], RegionTable] = {}

    @property
    def n(self) -> int:
        """Controls that were taken up."""
        return len(self.controls)

    def add(self, control: Control, record: Mapping[str, Any], maps: Mapping[str, Volume], scan: Volume) -> None:
        """Take up one control's maps, each in one pass. Nothing is taken where anything is refused.

        Parameters
        ----------
        control : Control
        record : mapping
            Provenance of the explanation.
        maps : mapping of str to Volume
            On the network's grid.
        scan : Volume
            As the network saw it.

        Raises
        ------
        ReferenceCohortError
            A person or scan that was taken up already, a map that was asked otherwise, or one that is empty or not
            finite.
        """
        self._require_new(control)
        tables = {}
        for name in self.methods:
            self._require_usable(control, record, name, maps)
            for method, atlas in self.values:
                if method == name:
                    tables[name, atlas] = region_table(maps[name], self._indices[atlas], name)
        if not scan.grid.is_same(self.grid) or not np.isfinite(scan.array).all():
            raise ReferenceCohortError(f"The scan of {control.subject} is not finite, or not on the network's grid.")
        for name in self.methods:
            self.moments[name].add(maps[name].array)
            self.patterns[name].add(pattern_of(maps[name].array, self.grid))
        self.scan.add(scan.array)
        for key, table in tables.items():
            self.values[key].append(values_of(table))
            self._like.setdefault(key, table)
        self.controls.append(control)

    def design(self, names: Sequence[str]) -> Design | None:
        """The covariates of all controls; None for no names.

        Raises
        ------
        ReferenceCohortError
            A control without one of them, or as :func:`~.covariates.design_of`.
        """
        if not names:
            return None
        for control in self.controls:
            missing = [name for name in names if not control.covariates.get(name)]
            if missing:
                raise ReferenceCohortError(f"{control.subject}: {', '.join(missing)} is not known.")
        return design_of([control.covariates for control in self.controls], names)

    def statistics(self, covariates: Sequence[str] = ()) -> dict[tuple[str, str], RegionStatistics]:
        """Statistics per region, by map and atlas.

        Raises
        ------
        ReferenceCohortError
            One control, or as :meth:`design`.
        """
        design = self.design(covariates)
        return {
            key: statistics_of(
                np.stack(values) if values else np.empty((0, 0, len(QUANTITIES))), self.like(*key), design
            )
            for key, values in self.values.items()
        }

    def like(self, method: str, atlas: str) -> RegionTable:
        """A region table of this map and atlas: which regions there are, and how large (its values mean nothing)."""
        if (method, atlas) not in self._like:
            empty = Volume(np.zeros(self.grid.shape, dtype=np.float32), self.grid.affine)
            self._like[method, atlas] = region_table(empty, self._indices[atlas], method)
        return self._like[method, atlas]

    def _require_new(self, control: Control) -> None:
        for known in self.controls:
            if known.subject == control.subject:
                raise ReferenceCohortError(
                    f"{control.subject} is in the reference already"
                    f"{f' ({known.session})' if known.session else ''}: scans of one person are not independent."
                )
            if known.scan_sha256 == control.scan_sha256:
                raise ReferenceCohortError(
                    f"{known.subject} and {control.subject} have the same scan (sha256 {control.scan_sha256[:12]}…): "
                    "one of the two rows is wrong."
                )

    def _require_usable(
        self, control: Control, record: Mapping[str, Any], name: str, maps: Mapping[str, Volume]
    ) -> None:
        if name not in maps:
            raise ReferenceCohortError(f"{control.subject} has no map {name}, only {', '.join(maps) or 'none'}.")
        heatmap = maps[name]
        found = differences(self.question, question_of_record(record, heatmap.grid))
        found += method_differences(self.methods[name], method_of_record(record, name))
        if found:
            raise ReferenceCohortError(f"The map {name} of {control.subject} was asked otherwise: {'; '.join(found)}.")
        bad = heatmap.array.size - int(np.isfinite(heatmap.array).sum())
        if bad:
            raise ReferenceCohortError(
                f"The map {name} of {control.subject} has {bad} voxels of {heatmap.array.size} that are NaN or "
                "infinite; one such map would spoil the reference."
            )
        if not heatmap.array.any():
            raise ReferenceCohortError(f"The map {name} of {control.subject} is 0 everywhere; nothing was attributed.")
