"""Running the checks that a budget allows on all maps of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.checks.agreement import Consensus, compare_methods, consensus
from ADAttributionLogic.checks.budget import (
    DEFAULT_BUDGET,
    ENDS,
    ORDER,
    Costs,
    Plan,
    costs_of,
    plan_checks,
    region_passes,
)
from ADAttributionLogic.checks.causality import causality, region_drops
from ADAttributionLogic.checks.conservation import conservation
from ADAttributionLogic.checks.deletion import Ends, Name, deletion, ends_of, random_curve
from ADAttributionLogic.checks.findings import Check, Checks, MapChecks, not_run
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.checks.randomisation import randomisation
from ADAttributionLogic.checks.recomputation import recomputation
from ADAttributionLogic.checks.stability import stability
from ADAttributionLogic.errors import Cancelled

TITLES = {
    "conservation": "Conservation",
    "recomputation": "Recomputation",
    "stability": "Stability",
    "randomisation": "Randomisation",
    "deletion": "Deletion",
    "causality": "Causality",
    "insertion": "Insertion",
}

#: Checks that take tissue away.
_REPLACING = ("deletion", "causality", "insertion")


@dataclass(frozen=True, eq=False)
class Checked:
    """What the checks found, with the maps that they made.

    Attributes
    ----------
    checks : Checks
    consensus : Consensus or None
        With two maps or more.
    """

    checks: Checks
    consensus: Consensus | None = None


def run_checks(question: Question, maps: Sequence[CheckedMap], budget: float = DEFAULT_BUDGET) -> Checked:
    """Check maps of one scan.

    Parameters
    ----------
    question : Question
    maps : sequence of CheckedMap
    budget : float
        Forward passes that the checks of one map may take, of each network; see :mod:`~.budget`. A check that does not
        fit is ``not run`` and says what it costs.

    Returns
    -------
    Checked
        When the user cancels, the checks that were finished; the others are ``not run``.
    """
    return _Run(question, budget).all_of(maps)


@dataclass
class _Run:
    """What the maps of one run share: answers in random order, and the effect of covering each region."""

    question: Question
    budget: float
    regions: float | None = None
    ends: Ends | None = None
    random: dict[Name, tuple[float, ...]] = field(default_factory=dict)
    drops: npt.NDArray[np.float64] | None = None
    is_cancelled: bool = False
    spent: float = 0.0
    notes: list[str] = field(default_factory=list)

    def all_of(self, maps: Sequence[CheckedMap]) -> Checked:
        found = []
        for number, checked in enumerate(maps):
            with self.question.monitor.stage(number / len(maps), (number + 1) / len(maps)) as part:
                found.append(self._map(self.question.watched_by(part), checked))
        replaced = any(c.verdict != "not run" for m in found for c in m.checks if c.name in _REPLACING)
        name = self.question.replacement.name if replaced else ""
        checks = Checks(
            tuple(found), name, self.budget, self.spent, compare_methods(self.question, maps), tuple(self.notes)
        )
        return Checked(checks, consensus(maps, self.question.brain))

    def _map(self, question: Question, checked: CheckedMap) -> MapChecks:
        network = question.networks[0]()
        if self.regions is None:
            self.regions = region_passes(question, network)
        costs = costs_of(question, checked, network, self.regions)
        wanted = [name for name in ORDER if _makes_sense(name, question, checked)]
        ends = ENDS if self.ends is None else 0.0
        plan = plan_checks({name: self._cost(name, costs) for name in wanted}, wanted, self.budget, ends)
        made, done = [], 0.0
        for name in wanted:
            share = [done / (plan.total or 1.0), (done + plan.costs[name]) / (plan.total or 1.0)]
            with question.monitor.stage(min(share[0], 1.0), min(share[1], 1.0)) as part:
                made.append(self._check(name, question.watched_by(part), checked, plan))
            if name in plan.chosen:
                done += plan.costs[name]
        return MapChecks(checked.name, checked.title, tuple(made))

    def _cost(self, name: str, costs: Costs) -> float:
        return costs.of(name, self.drops is not None if name == "causality" else name in self.random)

    def _check(self, name: str, question: Question, checked: CheckedMap, plan: Plan) -> Check:
        cost = plan.costs[name]
        if name not in plan.chosen:
            why = f"it costs {cost:.0f} forward passes, of which {self.budget:g} are allowed for all checks of a map."
            return not_run(name, TITLES[name], cost, why)
        if self.is_cancelled:
            return not_run(name, TITLES[name], cost, "cancelled.")
        try:
            found = self._run(name, question, checked, cost)
        except Cancelled:
            self.is_cancelled = True
            self.notes.append("The checks were cancelled; those that were finished are kept.")
            return not_run(name, TITLES[name], cost, "cancelled.")
        self.spent += cost
        return found

    def _run(self, name: str, question: Question, checked: CheckedMap, cost: float) -> Check:
        if name == "conservation":
            return conservation(checked)
        if name == "recomputation":
            return recomputation(question, checked, cost)
        if name == "stability":
            return stability(question, checked, cost)
        if name == "randomisation":
            return randomisation(question, checked, cost)
        if name == "causality":
            if self.drops is None:
                self.drops = region_drops(question)
            return causality(question, checked, self.drops, cost)
        which: Name = "deletion" if name == "deletion" else "insertion"
        if self.ends is None:
            self.ends = ends_of(question)
        if which not in self.random:
            self.random[which] = random_curve(which, question)
        return deletion(which, question, checked, self.ends, self.random[which], cost)


def _makes_sense(name: str, question: Question, checked: CheckedMap) -> bool:
    """Whether a check can say anything of this map."""
    if name == "conservation":
        return checked.method.is_conserving
    if name == "recomputation":
        return not checked.was_computed_here
    if name == "causality":
        return question.regions is not None and int(question.ranked.sum()) > 2
    return True
