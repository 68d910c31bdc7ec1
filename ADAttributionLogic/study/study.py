"""All that a study computed: what its tables, figures and page are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.study.agreement import Coherence
from ADAttributionLogic.study.analysis import SetAnalysis, StudyOptions, members_of
from ADAttributionLogic.study.material import MapSet, Material
from ADAttributionLogic.study.mean_maps import parts_of
from ADAttributionLogic.volume import Volume

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Study:
    """All that was computed.

    Attributes
    ----------
    material : Material
    options : StudyOptions
    analyses : tuple of SetAnalysis
    coherences : tuple of Coherence
    by_sum, by_maximum : ndarray or None
        Distances (Rieke et al. 2018; Eitel & Ritter 2019) between the mean maps named in `compared`.
    compared : tuple of (str, str)
        Key of the set of maps and case, in the order of the rows of both.
    volumes : ndarray or None, shape (n, R)
    """

    material: Material
    options: StudyOptions
    analyses: tuple[SetAnalysis, ...]
    coherences: tuple[Coherence, ...]
    by_sum: FloatArray | None
    by_maximum: FloatArray | None
    compared: tuple[tuple[str, str], ...]
    volumes: FloatArray | None


def cases_of(study: Study, maps: MapSet) -> dict[str, int]:
    """Number of scans per case."""
    members = members_of(maps, study.material, study.options.threshold)
    return {name: int(found.sum()) for name, found in members.items()}


def mean_maps(kept: Path, maps: MapSet, material: Material) -> dict[str, Volume]:
    """The mean maps of one set, by case."""
    found = {case: kept / maps.key / f"{case}.nii.gz" for case in parts_of(material)}
    return {case: read_scan(path) for case, path in found.items() if path.is_file()}
