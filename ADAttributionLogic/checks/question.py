"""What a map claims to explain, and how the networks are asked about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, Method, attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checks.replacement import Replacement
from ADAttributionLogic.graph.layer_graph import class_probabilities
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.propagation.account import Account
from ADAttributionLogic.relevance.region_table import RegionIndex, are_ranked

FloatArray = npt.NDArray[np.float32]
Voxels = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CheckedMap:
    """A map, and what it claims of itself.

    Attributes
    ----------
    name, title : str
    values : ndarray, shape (…), float32
        Relevance per voxel, on the network's grid.
    method : Method
    options : mapping
        Complete.
    to_attribute : float
        What the method set out to distribute.
    conservation : tuple of LayerAccount, or None
        Of LRP and DeepLIFT: what each layer received, passed on and kept.
    was_computed_here : bool
        By this program in this run, from this scan; a map that was read from a file was not.
    shared_by_members : float or None
        Of an ensemble: mean share of the top ten regions that two of its networks have in common.
    """

    name: str
    title: str
    values: FloatArray
    method: Method
    options: Mapping[str, Any]
    to_attribute: float
    conservation: Account | None = None
    was_computed_here: bool = True
    shared_by_members: float | None = None


@dataclass(frozen=True, eq=False)
class Question:
    """What is the same for all maps of a scan.

    Attributes
    ----------
    networks : tuple of callable
        Each returns a network: one, or all members of an ensemble.
    image : Tensor, shape (1, C, …)
        As the networks see it.
    target : Target
        With its class.
    name : str
        What is explained, e.g. ``P(AD)``.
    device : torch.device
    brain : ndarray of bool, shape (…)
        Voxels that are no background.
    replacement : Replacement
        What takes the place of tissue.
    regions : RegionIndex or None
    spacing : tuple of float
        Size of the voxels, mm.
    left_right_axis : int
        Array axis that runs nearest to left-right.
    companions : Companions
        For methods that need more than the image.
    monitor : Monitor
    """

    networks: tuple[Callable[[], Network], ...]
    image: Tensor
    target: Target
    name: str
    device: torch.device
    brain: Voxels
    replacement: Replacement
    regions: RegionIndex | None
    spacing: tuple[float, float, float]
    left_right_axis: int = 0
    companions: Companions = field(default_factory=Companions)
    monitor: Monitor = field(default_factory=Monitor)

    # ---------------------------------------------------------------------------------------------------- the networks

    def evaluations(self) -> Iterator[Evaluation]:
        """Each network with the scan, one in memory at a time."""
        for load in self.networks:
            self.monitor.check()
            yield Evaluation(load(), self.image, self.device, self.monitor)

    def answers(self, images: Callable[[], Iterable[Tensor]], what: str) -> npt.NDArray[np.float64]:
        """What the networks say of other images: the class's probability, or the score; the mean of an ensemble.

        Parameters
        ----------
        images : callable
            Makes the images (1, C, …) anew for each network, so that one needs memory at a time.
        what : str
            For the progress.

        Returns
        -------
        ndarray, shape (images,)
        """
        each = []
        for evaluation in self.evaluations():
            found = []
            for image in images():
                self.monitor.report(0.0, what)
                found.append(self._answer(evaluation.network, evaluation.logits_of(image.to(evaluation.image))))
            each.append(found)
        return np.asarray(np.mean(np.array(each, dtype=np.float64), axis=0))

    def _answer(self, network: Network, logits: Tensor) -> float:
        """In double precision: a probability near 1 hardly changes."""
        if network.head == "score":
            return float(logits.double()[0, 0])
        return float(class_probabilities(logits.double(), network.head)[0, self.target.class_index or 0])

    # -------------------------------------------------------------------------------------------------------- the maps

    def map_of(
        self, checked: CheckedMap, image: Tensor, changed: Callable[[Network], Network] = lambda network: network
    ) -> npt.NDArray[np.float64]:
        """The map that a method makes of an image, the mean over the networks, each of which may be changed; (…)."""
        total = np.zeros(self.brain.shape)
        # What a run of its own keeps in a file is that run's.
        options = {**checked.options, "checkpoint": None} if "checkpoint" in checked.options else checked.options
        for load in self.networks:
            self.monitor.check()
            evaluation = Evaluation(changed(load()), image, self.device, self.monitor)
            # Without a report of its own: what is being done was said already.
            quiet = Monitor(is_cancelled=lambda: self.monitor.is_cancelled)
            total += attribute(
                evaluation, checked.method, self.target, options, monitor=quiet, companions=self.companions
            ).heatmap
        return total / len(self.networks)

    def watched_by(self, monitor: Monitor) -> Question:
        """The same question with another monitor."""
        return replace(self, monitor=monitor)

    # ------------------------------------------------------------------------------------------------------ the regions

    @property
    def ranked(self) -> npt.NDArray[np.bool_]:
        """Which regions of the index are large enough to be ranked."""
        assert self.regions is not None
        return are_ranked(self.volumes_mm3)

    @property
    def volumes_mm3(self) -> npt.NDArray[np.float64]:
        """Of each region."""
        assert self.regions is not None
        voxels = np.diff(np.append(self.regions.starts, self.regions.order.size))
        return np.asarray(voxels * float(np.prod(self.spacing)))
