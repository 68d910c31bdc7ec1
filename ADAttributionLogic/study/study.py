"""All that a study computed: what its tables, figures and page are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.study.agreement import Coherence
from ADAttributionLogic.study.analysis import SetAnalysis, StudyOptions, members_of
from ADAttributionLogic.study.material import MapSet, Material

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
