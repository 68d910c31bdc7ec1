"""What a method returns: the map, and what is needed to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.propagation.account import Account


@dataclass(frozen=True)
class RegionPair:
    """What covering two regions together does.

    Attributes
    ----------
    first, second : int
        Their labels.
    drop : float
        Of the explained quantity, with both covered.
    interaction : float
        Drop for both minus the drops for each: positive where one region stands in for the other, so that only
        covering both tells; negative where covering one already takes what the other says.
    """

    first: int
    second: int
    drop: float
    interaction: float


@dataclass(frozen=True, eq=False)
class Attribution:
    """A heatmap on the network's grid.

    Attributes
    ----------
    values : ndarray, shape (C, …), float32
        Relevance per channel and voxel.
    method : str
        Name of the method.
    options : mapping
        All options, defaults included.
    class_index : int
        The explained class.
    start : str
        The explained quantity: ``"probability"``, ``"logit"``, ``"margin"``, ``"score"``, ``"distance"`` or ``"unit"``
        (:class:`~.target.Target`).
    score : float
        Its value for this image (for ``unit``: the logit).
    to_attribute : float
        How much the method sets out to distribute over the voxels: the start relevance of LRP, the score minus that of
        the baseline for integrated gradients, the score for all others.
    relevance_sum : float
        Σ of all values (float64).
    unattributed : float
        ``to_attribute − relevance_sum``: what did not reach the image (biases, zero voxels, stabilisers).
    is_conserving : bool
        Whether the method aims at ``unattributed = 0``; for others the number says little.
    probabilities : tuple of float
        The network's probability of each class; () for a score.
    device : str
    seconds : float
    notes : tuple of str
        What a user should know: a fallback to the CPU, an approximation, a stopped refinement.
    relevance_by_layer : mapping
        For LRP: Σ relevance at the output of each block of layers, by layer name.
    conservation : tuple of LayerAccount, or None
        For LRP and DeepLIFT: what each layer received, what it passed on, and what kept the difference.
    region_drops : mapping of int to float, or None
        For occlusion by region: how much the explained quantity drops, with sign, by label.
    region_pairs : tuple of RegionPair
    is_partial : bool
        Whether the method was stopped, by the user or a budget of time, before the map was complete.
    members : mapping of str to mapping, or None
        Of the mean over an ensemble: each member's score, sum of relevance and what was not attributed, by its name.
    agreement : mapping of str to float, or None
        Of the mean over an ensemble, with an atlas: how far the members agree on the regions.
    """

    values: npt.NDArray[np.float32]
    method: str
    options: Mapping[str, Any]
    class_index: int
    start: str
    score: float
    to_attribute: float
    relevance_sum: float
    unattributed: float
    is_conserving: bool
    probabilities: tuple[float, ...]
    device: str
    seconds: float
    notes: tuple[str, ...] = ()
    relevance_by_layer: Mapping[str, float] | None = None
    conservation: Account | None = None
    region_drops: Mapping[int, float] | None = None
    region_pairs: tuple[RegionPair, ...] = ()
    is_partial: bool = False
    members: Mapping[str, Mapping[str, float]] | None = None
    agreement: Mapping[str, float | None] | None = None

    @property
    def heatmap(self) -> npt.NDArray[np.float32]:
        """Relevance per voxel: the sum over channels."""
        if self.values.shape[0] == 1:
            return np.asarray(self.values[0])
        return np.asarray(self.values.sum(axis=0, dtype=np.float32))

    def summary(self) -> dict[str, Any]:
        """Everything but the map, as plain values for provenance."""
        return {
            "method": self.method,
            "options": dict(self.options),
            "class_index": self.class_index,
            "start": self.start,
            "score": self.score,
            "to_attribute": self.to_attribute,
            "relevance_sum": self.relevance_sum,
            "unattributed": self.unattributed,
            "is_conserving": self.is_conserving,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            **({"is_partial": True} if self.is_partial else {}),
            **({"agreement": dict(self.agreement)} if self.agreement else {}),
            **({"members": {name: dict(m) for name, m in self.members.items()}} if self.members else {}),
            **({"relevance_by_layer": dict(self.relevance_by_layer)} if self.relevance_by_layer else {}),
            **({"conservation": [line.describe() for line in self.conservation]} if self.conservation else {}),
            **({"region_drops": {str(k): v for k, v in self.region_drops.items()}} if self.region_drops else {}),
            **({"region_pairs": [asdict(pair) for pair in self.region_pairs]} if self.region_pairs else {}),
        }
