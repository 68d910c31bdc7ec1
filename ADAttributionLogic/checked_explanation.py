"""An explanation with its checks: what :mod:`~.checks` needs is taken from it, and what they found is put beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ADAttributionLogic.attribution.registry import Companions
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checks.agreement import Consensus
from ADAttributionLogic.checks.budget import DEFAULT_BUDGET
from ADAttributionLogic.checks.findings import KEY
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.checks.replacement import Kind, choose_replacement
from ADAttributionLogic.checks.running import run_checks
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.explanation import Explanation, Heatmap
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.model_input import ModelInput
from ADAttributionLogic.provenance import array_sha256
from ADAttributionLogic.relevance.region_table import RegionIndex
from ADAttributionLogic.volume import Volume


@dataclass(frozen=True, eq=False)
class CheckRequest:
    """Which checks are wanted.

    Attributes
    ----------
    budget : float
        Forward passes for all checks of one map, of each network; a check that does not fit is not run, and says what
        it costs.
    replacement : {"auto", "reference", "blur", "zero"}
        What takes the place of tissue: ``auto`` is the mean of the controls where there is one, else the scan itself,
        blurred.
    mean_scan : Volume, optional
        The mean of the controls as the network sees them, on its grid (:meth:`Reference.mean_scan`).
    mean_scan_name : str
        What to call it.
    """

    budget: float = DEFAULT_BUDGET
    replacement: Kind = "auto"
    mean_scan: Volume | None = None
    mean_scan_name: str = "the mean of the controls"

    def __post_init__(self) -> None:
        if not self.budget >= 0:
            raise UsageError(f"The budget of the checks must be a number of forward passes, not {self.budget}.")

    def describe(self) -> dict[str, Any]:
        """Plain values, the mean of the controls by its hash."""
        mean = None if self.mean_scan is None else array_sha256(self.mean_scan.array)
        return {"budget": self.budget, "replacement": self.replacement, "mean_scan_sha256": mean}


def check_explanation(
    explanation: Explanation,
    request: CheckRequest,
    *,
    index: RegionIndex | None,
    companions: Companions,
    target: Target,
    device: torch.device,
    monitor: Monitor | None = None,
) -> Explanation:
    """Check the maps of an explanation that is on the network's grid.

    Parameters
    ----------
    explanation : Explanation
    request : CheckRequest
    index : RegionIndex or None
        Of its atlas.
    companions : Companions
        With which its maps were made.
    target : Target
        Which its maps explain; its class may be None, for the one that was found most probable.
    device : torch.device
    monitor : Monitor, optional
        Cancelling keeps the checks that were finished.

    Returns
    -------
    Explanation
        With ``checks``, also in the provenance, and with several maps ``consensus``.
    """
    monitor = monitor or Monitor()
    if monitor.is_cancelled:
        return explanation
    first = explanation.heatmaps[0].attribution
    fixed = replace(target, class_index=None if explanation.outcome.output.is_score else first.class_index)
    question = question_about(explanation, request, index, companions, fixed, device, monitor)
    found = run_checks(question, [checked_map(h) for h in explanation.heatmaps if not is_deviation(h)], request.budget)
    record = {**explanation.provenance, KEY: found.checks.describe()}
    return replace(
        explanation, checks=found.checks, consensus=_volumes(found.consensus, explanation), provenance=record
    )


def question_about(
    explanation: Explanation,
    request: CheckRequest,
    index: RegionIndex | None,
    companions: Companions,
    target: Target,
    device: torch.device,
    monitor: Monitor,
) -> Question:
    """What the checks ask the networks of an explanation."""
    start = "score" if explanation.outcome.output.is_score else "probability"
    name = explanation.outcome.quantity(explanation.target_class, start)
    called = reference_name(explanation.provenance.get("reference"))
    seen, model = explanation.model_input, explanation.model
    return ask(model, seen, name, request, index, companions, target, device, monitor, called)


def reference_name(record: Mapping[str, Any] | None) -> str:
    """What to call the image that came with the scan, by what the provenance says of it."""
    is_control_mean = record is not None and "control_mean_of" in record
    return "the network's mean control" if is_control_mean else "the reference scan"


def ask(
    model: Model,
    seen: ModelInput,
    name: str,
    request: CheckRequest,
    index: RegionIndex | None,
    companions: Companions,
    target: Target,
    device: torch.device,
    monitor: Monitor,
    called: str = "the reference scan",
) -> Question:
    """What the checks ask the networks of a model about a scan; `name` is what is explained, e.g. ``P(AD)``."""
    grid = seen.volume.grid
    image = torch.from_numpy(seen.array)[None, None].to(device)
    brain = seen.unnormalised.array != 0
    reference = companions.reference
    if request.mean_scan is not None:
        if not request.mean_scan.grid.is_same(grid):
            raise UsageError(
                f"The mean of the controls is on {request.mean_scan.grid.describe()}, the network's grid is "
                f"{grid.describe()}."
            )
        mean = request.mean_scan.array.astype(np.float32)
        reference, called = torch.from_numpy(mean)[None, None], request.mean_scan_name
    return Question(
        networks=networks_of(model),
        image=image,
        target=target,
        name=name,
        device=device,
        brain=brain,
        replacement=choose_replacement(image, brain, grid.spacing, request.replacement, reference, called),
        regions=index,
        spacing=grid.spacing,
        left_right_axis=_left_right_axis(grid),
        companions=companions,
        monitor=monitor,
    )


def networks_of(model: Model) -> tuple[Any, ...]:
    """How to get each network of a model; the first is in memory already."""
    return (lambda: model.network, *(member.load for member in model.members[1:]))


def is_deviation(heatmap: Heatmap) -> bool:
    """Whether it is the map of the standard deviation over the networks: no explanation by itself."""
    return heatmap.name.endswith("-sd")


def checked_map(heatmap: Heatmap) -> CheckedMap:
    """What a heatmap that was computed just now claims of itself."""
    found = heatmap.attribution
    shared = (found.agreement or {}).get("top_ten_overlap_density")
    return CheckedMap(
        heatmap.name,
        heatmap.method.title,
        found.heatmap,
        heatmap.method,
        found.options,
        found.to_attribute,
        found.conservation,
        shared_by_members=shared,
    )


def _left_right_axis(grid: Grid) -> int:
    """The array axis that runs nearest to left-right."""
    return int(np.argmax(np.abs(grid.affine[0, :3]) / np.linalg.norm(grid.affine[:3, :3], axis=0)))


def _volumes(found: Consensus | None, explanation: Explanation) -> tuple[Volume, Volume] | None:
    if found is None:
        return None
    affine, count = explanation.model_input.volume.affine, len(explanation.heatmaps)
    return (
        Volume(found.mean, affine, f"mean rank over {count} methods"),
        Volume(found.disagreement, affine, f"standard deviation of the rank over {count} methods"),
    )
