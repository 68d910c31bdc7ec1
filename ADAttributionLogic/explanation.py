"""What explaining a scan gives: plain values, from the scan as the network saw it to the table of each heatmap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ADAttributionLogic.answer_spread import spread_of
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.attribution.registry import Method
from ADAttributionLogic.attribution.result import Attribution
from ADAttributionLogic.checks.findings import Checks
from ADAttributionLogic.ensembles.agreement import Agreement
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.outcome import Outcome
from ADAttributionLogic.preprocessing.model_input import ModelInput
from ADAttributionLogic.preprocessing.pipeline import Preprocessed
from ADAttributionLogic.relevance.region_table import RegionTable
from ADAttributionLogic.volume import Volume


@dataclass(frozen=True)
class MethodRequest:
    """A method to run, with those of its options that are not the default."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One method's result.

    Attributes
    ----------
    name : str
        Unique in its explanation: the method, with ``-2`` … when it was asked for several times.
    method : Method
    attribution : Attribution
    volume : Volume
        float32, on the network's grid.
    table : RegionTable or None
        None without an atlas.
    agreement : Agreement or None
        Of an ensemble, with an atlas: how far the networks agree on the regions, on the network's grid.
    """

    name: str
    method: Method
    attribution: Attribution
    volume: Volume
    table: RegionTable | None
    agreement: Agreement | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """All that :func:`explain` found.

    Attributes
    ----------
    model : Model
    model_input : ModelInput
        The scan as the network saw it.
    outcome : Outcome
        What the network says: probabilities of classes or a score, and what each network of an ensemble says.
    target_class : str
        What all heatmaps explain: a class, or the name of the score.
    heatmaps : tuple of Heatmap
    atlas : Atlas or None
        On the network's grid.
    provenance : dict
        Everything needed to repeat it, as plain values.
    preprocessed : Preprocessed or None
        How the scan came onto the network's grid, when :func:`~.explain_native.explain_native` brought it there.
    checks : Checks or None
        Whether the maps can be believed, where that was asked; also in the provenance.
    consensus : tuple of Volume, or None
        With checks of several maps: the mean of the rank-normalised maps, and their standard deviation, on the
        heatmaps' grid.
    """

    model: Model
    model_input: ModelInput
    outcome: Outcome
    target_class: str
    heatmaps: tuple[Heatmap, ...]
    atlas: Atlas | None
    provenance: dict[str, Any]
    preprocessed: Preprocessed | None = None
    checks: Checks | None = None
    consensus: tuple[Volume, Volume] | None = None

    @property
    def probabilities(self) -> dict[str, float]:
        """By class name; {} for a network that gives a score."""
        return {} if self.outcome.output.is_score else dict(self.outcome.values)

    @property
    def predicted_class(self) -> str:
        """The most probable class, or the level of the score."""
        return self.outcome.verdict

    @property
    def spread(self) -> dict[str, float]:
        """How far each class's probability, or the score, moves with the scan's placement: what stands after ±."""
        return spread_of(self.provenance)

    @property
    def scan(self) -> Volume:
        """The scan on the network's grid, with its own intensities."""
        return self.model_input.unnormalised
