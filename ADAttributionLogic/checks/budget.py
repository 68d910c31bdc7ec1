"""What each check costs, in forward passes, before it runs; and which checks a budget allows.

A forward pass is one of the network as PyTorch runs it on one image; of an ensemble, one of each of its networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import find_objects

from ADAttributionLogic.attribution.shift_mean import SHIFTED, places
from ADAttributionLogic.checks.deletion import PARTS
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.incremental.planning import first_coupling_layer, fractions_of_a_pass, plan_within
from ADAttributionLogic.method_cost import forward_passes
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.occlusion.covering import WORTH_FOLLOWING

#: Forward passes for all checks of one map.
DEFAULT_BUDGET = 40.0

#: In this order: what finds most for least comes first.
ORDER = ("conservation", "recomputation", "stability", "randomisation", "deletion", "causality", "insertion")

#: These begin with the answers to the scan and to the reference, which the first of them pays for.
CURVES, ENDS = ("deletion", "insertion"), 2.0

#: Changes of the scan for which the map is made anew.
_CHANGES = 5
#: Bound on the memory for activations when regions are covered, in bytes.
_MEMORY = 1 << 30
#: A map of a new image, its forward pass included (measured at 193×229×193; bench_checks.py measures them again).
_GRADIENT_MAP, _RULES_MAP, _MORE_RULES_MAP = 2.0, 2.5, 3.5


@dataclass(frozen=True)
class Costs:
    """Forward passes.

    Attributes
    ----------
    per_map : mapping of str to float
        By check, for this map alone.
    shared : mapping of str to float
        What the first map that needs it pays for all: the answers in random order, covering all regions. The ends of
        the curves, :data:`ENDS`, are planned for with the first curve that runs.
    """

    per_map: Mapping[str, float]
    shared: Mapping[str, float]

    def of(self, check: str, is_paid: bool) -> float:
        """What a check costs, when what is shared was computed already or not."""
        return self.per_map[check] + (0.0 if is_paid else self.shared.get(check, 0.0))


def costs_of(question: Question, checked: CheckedMap, network: Network, regions: float) -> Costs:
    """What the checks of a map cost.

    Parameters
    ----------
    question : Question
    checked : CheckedMap
    network : Network
        The first one.
    regions : float
        From :func:`region_passes`.
    """
    again = map_passes(checked, question, network)
    steps = float(len(PARTS))
    return Costs(
        {
            "conservation": 0.0,
            "recomputation": again,
            "stability": _CHANGES * again,
            "randomisation": again,
            "deletion": steps,
            "causality": 0.0,
            "insertion": steps,
        },
        {"deletion": steps, "causality": regions, "insertion": steps},
    )


def map_passes(checked: CheckedMap, question: Question, network: Network) -> float:
    """About how many forward passes a map of a new image takes."""
    method, options = checked.method, checked.options
    if options.get(SHIFTED.name):
        once = replace(checked, options={**options, SHIFTED.name: False})
        return places(question.brain.ndim) * map_passes(once, question, network)
    if method.name == "lrp":
        positive_alone = options["rule"] != "b-rule" or not options["beta"]
        return _RULES_MAP if positive_alone and options["rule"] != "epsilon-gamma-box" else _MORE_RULES_MAP
    repeats = options.get("steps") or options.get("samples")
    if repeats is not None:
        return _GRADIENT_MAP * float(repeats)
    if "occlusion" not in method.name:
        return _GRADIENT_MAP
    regions = 0 if question.regions is None else len(question.regions.regions)
    return 1 + forward_passes(method, options, question.brain.shape, regions, network)


def region_passes(question: Question, network: Network) -> float:
    """What covering every region of the atlas costs, by counting operations."""
    if question.regions is None:
        return 0.0
    boxes = [box for box in find_objects(question.regions.atlas.labels.array) if box is not None]
    if network.graph is None:
        return float(len(boxes))
    graph = network.folded
    coupling = first_coupling_layer(graph)
    if coupling is not None and graph.layers.index(coupling) == 1:
        return float(len(boxes))
    total = 1.0
    for box in boxes:
        low = np.array([[side.start for side in box]])
        high = np.array([[side.stop for side in box]])
        plan = plan_within(graph, tuple((high - low)[0].tolist()), _MEMORY, 4)
        work = float(fractions_of_a_pass(graph, plan, low, high)[0])
        total += work if work < WORTH_FOLLOWING else 1.0
    return total


@dataclass(frozen=True)
class Plan:
    """Which checks run.

    Attributes
    ----------
    costs : mapping of str to float
        Of every check that makes sense for the map.
    chosen : tuple of str
    """

    costs: Mapping[str, float]
    chosen: tuple[str, ...]

    @property
    def total(self) -> float:
        """Forward passes of the chosen checks."""
        return math.fsum(self.costs[name] for name in self.chosen)


def plan_checks(costs: Mapping[str, float], wanted: Sequence[str], budget: float, ends: float = 0.0) -> Plan:
    """Choose checks in their order, each as long as it fits into what is left; a cheaper one may still fit after it.

    Parameters
    ----------
    costs : mapping of str to float
        Without the ends of the curves.
    wanted : sequence of str
    budget : float
    ends : float
        What the first of :data:`CURVES` pays for their ends: :data:`ENDS`, or 0 where they are known.
    """
    left, chosen = budget, []
    planned: dict[str, float] = {}
    for name in (one for one in ORDER if one in wanted):
        pays = name in CURVES and not any(curve in chosen for curve in CURVES)
        planned[name] = costs[name] + (ends if pays else 0.0)
        if planned[name] <= left + 1e-9:
            chosen.append(name)
            left -= planned[name]
    return Plan({name: planned[name] for name in wanted}, tuple(chosen))
