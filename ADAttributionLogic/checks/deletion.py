"""Do the voxels that the map puts first carry the answer?

Deletion replaces the brain's voxels from the top of the map on by those of a reference, and watches the answer go;
insertion starts from the reference and brings them back (Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820; Petsiuk et
al. 2018, arXiv:1806.07421). Beside each stands the same in random order, without which the curve says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.checks.findings import Check, Curve, Verdict
from ADAttributionLogic.checks.question import CheckedMap, Question

#: Parts of the brain that are replaced: equal steps of the logarithm.
PARTS = (0.005, 0.05, 0.158, 0.5)
#: How much larger than by chance the area must be; the whole way from the scan to the reference is 1.
LEAST_GAIN = 0.1
#: An answer that the reference changes by less than this leaves nothing to be measured: a probability, or a share of a
#: score's own size.
LEAST_WAY = 0.05

Name = Literal["deletion", "insertion"]
TITLES: dict[Name, str] = {"deletion": "Deletion", "insertion": "Insertion"}


@dataclass(frozen=True)
class Ends:
    """What all maps of a scan share.

    Attributes
    ----------
    scan, reference : float
        Answers to the scan, and to the scan with all of the brain replaced.
    """

    scan: float
    reference: float

    @property
    def are_near(self) -> bool:
        """Whether the reference hardly changes the answer."""
        return abs(self.scan - self.reference) < LEAST_WAY * max(1.0, abs(self.scan))


def ends_of(question: Question) -> Ends:
    """Ask for both ends of the curves: 2 forward passes."""
    everything = np.ones(int(question.brain.sum()), dtype=bool)

    def images() -> Iterator[Tensor]:
        yield question.image
        yield _replaced(question, everything)

    scan, reference = question.answers(images, "replacing all tissue").tolist()
    return Ends(scan, reference)


def random_curve(name: Name, question: Question) -> tuple[float, ...]:
    """The null: answers when voxels are replaced, or brought back, in random order; 4 forward passes."""
    order = np.random.default_rng(2024).permutation(int(question.brain.sum()))
    return _answers(name, question, order, f"{TITLES[name].lower()} in random order")


def deletion(
    name: Name, question: Question, checked: CheckedMap, ends: Ends, random: tuple[float, ...], cost: float
) -> Check:
    """Delete, or insert, from the top of the map; 4 forward passes.

    Parameters
    ----------
    name : {"deletion", "insertion"}
    question : Question
    checked : CheckedMap
    ends : Ends
    random : tuple of float
        From :func:`random_curve`.
    cost : float
        As estimated beforehand.

    Returns
    -------
    Check
        ``number``: the :func:`area` of the map's curve, ``null`` that of the random one's.
    """
    order = np.argsort(-checked.values[question.brain], kind="stable")
    answers = _answers(name, question, order, f"{TITLES[name].lower()} by {checked.title}")
    curve = Curve(
        tuple(100 * part for part in PARTS),
        {checked.title: answers, "random order": random},
        f"% of the brain {'replaced' if name == 'deletion' else 'brought back'}, from the map's top",
        question.name,
        x_is_logarithmic=True,
    )
    details = {"scan": ends.scan, "reference": ends.reference, "replacement": question.replacement.name}
    check = partial(Check, name, TITLES[name], cost=cost, curve=curve, details=details)
    if ends.are_near:
        text = (
            f"Replacing the whole brain by {question.replacement.name} changes {question.name} from {ends.scan:.2f} to "
            f"{ends.reference:.2f} only: there is nothing to take away."
        )
        return check(None, None, "unsure", text)
    number, null = (area(values, ends, name) for values in (answers, random))
    verdict: Verdict = "pass" if number - null >= LEAST_GAIN else "unsure" if number > null else "fail"
    return check(
        number,
        null,
        verdict,
        _sentence(name, question, answers, random, verdict),
        number_is="area between the curve and its start, the whole way to its end being 1",
        null_is="in random order",
    )


def area(answers: tuple[float, ...], ends: Ends, name: Name) -> float:
    """Mean way that the answer has gone, over the logarithm of the replaced part (trapezoidal).

    0: no step taken; 1: the whole way from the scan's answer to the reference's (deletion), or back (insertion), at
    once; beyond these where an answer overshoots.
    """
    begin, end = (ends.scan, ends.reference) if name == "deletion" else (ends.reference, ends.scan)
    way = (np.array(answers) - begin) / (end - begin)
    places = np.log(PARTS)
    return float(np.trapezoid(way, places) / (places[-1] - places[0]))


def _sentence(
    name: Name, question: Question, answers: tuple[float, ...], random: tuple[float, ...], verdict: str
) -> str:
    at = PARTS.index(0.05)
    verb = "Replacing" if name == "deletion" else "Bringing back"
    means = {
        "pass": "the answer rests on what the map puts first.",
        "unsure": "the map finds what the answer rests on hardly better than chance.",
        "fail": "the map finds what the answer rests on no better than chance.",
    }[verdict]
    by = f" by {question.replacement.name}" if name == "deletion" else f" into {question.replacement.name}"
    return (
        f"{verb} the map's top {PARTS[at]:.0%} of the brain{by} makes {question.name} {answers[at]:.2f}, as many "
        f"random voxels {random[at]:.2f}: {means}"
    )


def _answers(name: Name, question: Question, order: npt.NDArray[np.int64], what: str) -> tuple[float, ...]:
    """Answers with growing parts of the voxels, in this order, replaced or brought back."""

    def images() -> Iterator[Tensor]:
        for part in PARTS:
            chosen = np.zeros(order.size, dtype=bool)
            chosen[order[: round(part * order.size)]] = True
            yield _replaced(question, chosen if name == "deletion" else ~chosen)

    return tuple(question.answers(images, what).tolist())


def _replaced(question: Question, chosen: npt.NDArray[np.bool_]) -> Tensor:
    """The scan with some of the brain's voxels, in the order of the mask, from the reference."""
    mask = np.zeros(question.brain.shape, dtype=bool)
    mask[question.brain] = chosen
    where = torch.from_numpy(mask).to(question.image.device)
    return torch.where(where, question.replacement.image.to(question.image), question.image)
