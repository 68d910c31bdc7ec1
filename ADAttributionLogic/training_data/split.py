"""Who is learned from, who chooses the epoch, and who is kept for the test: by subject, stratified, by seed.

A subject, with all scans, is in one part only. The held-out test subjects are drawn first and are in no fold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ADAttributionLogic.errors import CohortError, UsageError

#: Diagnosis and site of a subject.
Stratum = tuple[str, str]


@dataclass(frozen=True)
class SplitPlan:
    """How subjects are divided.

    Attributes
    ----------
    test : float
        Part of the subjects that are held out; 0 for none.
    folds : int
        Each is once the validation part, the others are learned from; 1 for a single training.
    validation : float
        With one fold: part of the subjects (without the test's) that choose the epoch.
    repeats : int
        Divisions into folds, each anew.
    seed : int
    """

    test: float = 0.2
    folds: int = 5
    validation: float = 0.2
    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test < 1 or not 0 < self.validation < 1:
            raise UsageError(
                f"The part of the test must be from 0 to below 1 and that of the validation between 0 and 1, but they "
                f"are {self.test:g} and {self.validation:g}."
            )
        if self.folds < 1 or self.repeats < 1:
            raise UsageError(
                f"There must be 1 fold and 1 repeat at least, but {self.folds} and {self.repeats} are asked."
            )


@dataclass(frozen=True)
class Part:
    """One training: subjects to learn from, and those that choose the epoch."""

    repeat: int
    fold: int
    training: frozenset[str]
    validation: frozenset[str]

    @property
    def name(self) -> str:
        """As its folder, e.g. ``repeat-1-fold-2``."""
        return f"repeat-{self.repeat}-fold-{self.fold}"


@dataclass(frozen=True)
class Split:
    """All trainings of a plan, and the test subjects that none of them sees."""

    plan: SplitPlan
    test: frozenset[str]
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            for one, other in (
                (part.training, part.validation),
                (part.training, self.test),
                (part.validation, self.test),
            ):
                if shared := sorted(one & other):
                    raise ValueError(f"Subjects are on two sides of a split: {', '.join(shared[:5])}.")

    def describe(self) -> dict[str, Any]:
        """The plan and the sizes, without anybody's name."""
        sizes = [[len(part.training), len(part.validation)] for part in self.parts]
        return asdict(self.plan) | {"subjects_of_test": len(self.test), "subjects_of_training_and_validation": sizes}


def split_subjects(strata: Mapping[str, Stratum], plan: SplitPlan, held_out: Collection[str] = ()) -> Split:
    """Divide subjects.

    Parameters
    ----------
    strata : mapping of str to (str, str)
        By subject, diagnosis and site ("" where sites are not told apart). Both are spread evenly; those of a site
        that has too few of a diagnosis to be spread go with the largest site's.
    plan : SplitPlan
    held_out : collection of str
        Test subjects that are given instead of drawn.

    Raises
    ------
    CohortError
        Too few subjects of a diagnosis.
    """
    from sklearn.model_selection import StratifiedKFold

    subjects = sorted(strata)
    test = frozenset(held_out)
    if not test and plan.test > 0:
        _require_enough(strata, subjects, max(2, round(1 / plan.test)), "to hold out a test set")
        test = frozenset(_held_out(strata, subjects, plan.test, plan.seed)[1])
    if test:
        _require_enough(strata, sorted(test), 1, "in the test")
    rest = [subject for subject in subjects if subject not in test]
    parts = []
    for repeat in range(plan.repeats):
        seed = plan.seed + repeat
        if plan.folds == 1:
            _require_enough(strata, rest, 2, "to choose the epoch on others than are learned from")
            pairs = [_held_out(strata, rest, plan.validation, seed)]
        else:
            _require_enough(strata, rest, plan.folds, f"for {plan.folds} folds")
            folds = StratifiedKFold(plan.folds, shuffle=True, random_state=seed)
            codes = _codes(strata, rest, plan.folds)
            pairs = [[[rest[i] for i in side] for side in sides] for sides in folds.split(rest, codes)]
        for fold, (training, validation) in enumerate(pairs, start=1):
            parts.append(Part(repeat + 1, fold, frozenset(training), frozenset(validation)))
    return Split(plan, test, tuple(parts))


def _held_out(strata: Mapping[str, Stratum], subjects: Sequence[str], part: float, seed: int) -> list[list[str]]:
    """Two groups, the second of about that part; by diagnosis alone where there are more sites than places."""
    from sklearn.model_selection import train_test_split

    codes = _codes(strata, subjects, 2)
    count = math.ceil(part * len(subjects))
    if len(set(codes)) > min(count, len(subjects) - count):
        codes = [strata[subject][0] for subject in subjects]
    groups: list[list[str]] = train_test_split(subjects, test_size=part, stratify=codes, random_state=seed)
    return groups


def _codes(strata: Mapping[str, Stratum], subjects: Sequence[str], least: int) -> list[str]:
    """Each subject's stratum, with those that are too rare joined to the largest one of the diagnosis."""
    counts = Counter(strata[subject] for subject in subjects)
    largest = {d: max((s for s in counts if s[0] == d), key=lambda s: (counts[s], s)) for d, _ in counts}
    return ["\0".join(own if counts[own] >= least else largest[own[0]]) for own in map(strata.__getitem__, subjects)]


def _require_enough(strata: Mapping[str, Stratum], subjects: Sequence[str], least: int, what: str) -> None:
    counts = Counter(strata[subject][0] for subject in subjects)
    for diagnosis, count in sorted(counts.items()):
        if count < least:
            raise CohortError(
                f"There are {count} subjects with the diagnosis {diagnosis}, but {least} are needed {what}. Ask for "
                "fewer folds (--folds), another part for the test (--test), or give a larger table."
            )
    if len(counts) < 2:
        raise CohortError(f"There are subjects of one diagnosis only {what} ({', '.join(counts) or 'none at all'}).")
