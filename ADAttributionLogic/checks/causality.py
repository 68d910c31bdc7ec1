"""Do the regions that the map puts first matter to the network when they are covered?

Every region of the atlas is covered in turn, exactly, by following what changes (area occlusion), and the drops are
held against the map. Most regions hardly matter at all, and the order among them is chance: the rank correlation
weights each region by the size of its drop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.stats import rankdata

from ADAttributionLogic.attribution.registry import Companions, attribute
from ADAttributionLogic.attribution.target import Start
from ADAttributionLogic.checks.findings import Check, Verdict
from ADAttributionLogic.checks.overlap import TOP_REGIONS, densities, rank_correlation
from ADAttributionLogic.checks.question import CheckedMap, Question

NAME, TITLE = "causality", "Causality"

#: How often a map with its regions in random order may do as well, for a pass, and before it is a failure.
SURE, UNSURE = 0.05, 0.2

Values = npt.NDArray[np.float64]


def region_drops(question: Question) -> Values:
    """How much covering each region lowers the explained answer; (regions,), the mean over the networks.

    Of a class its margin (of a sigmoid its logit), which does not saturate, of a score the score.
    """
    assert question.regions is not None
    labels = question.regions.atlas.labels.array
    covered = Companions(regions=torch.from_numpy(labels), reference=question.replacement.image)
    options = {"fill": "reference", "signed": True}
    total = np.zeros(len(question.regions.regions))
    for evaluation in question.evaluations():
        starts: dict[str, Start] = {"softmax": "margin", "sigmoid": "logit", "score": "score"}
        target = replace(question.target, start=starts[evaluation.network.head])
        found = attribute(
            evaluation, "area-occlusion", target, options, monitor=question.monitor, companions=covered
        ).region_drops
        assert found is not None
        total += np.array([found[region.label] for region in question.regions.regions])
    return total / len(question.networks)


def causality(question: Question, checked: CheckedMap, drops: Values, cost: float) -> Check:
    """Hold a map's order of the regions against what covering them does; the drops are computed once for all maps.

    Parameters
    ----------
    question : Question
    checked : CheckedMap
    drops : ndarray, shape (regions,)
        From :func:`region_drops`.
    cost : float
        As estimated beforehand.

    Returns
    -------
    Check
        ``number``: the :func:`weighted_rank_correlation` of relevance and drop, both per mm³; ``null``: that of the
        scan's edges. ``details`` has the plain rank correlation over all regions, in which regions that do not matter
        count as much as those that do.
    """
    found = drops[question.ranked]
    relevance = densities(checked.values, question)
    details = {
        "plain_rank_correlation": _finite(rank_correlation(relevance, found / question.volumes_mm3[question.ranked])),
        "replacement": question.replacement.name,
    }
    if not np.any(found):
        text = f"Covering any region by {question.replacement.name} changes nothing: there is nothing to compare with."
        return Check(NAME, TITLE, None, None, "unsure", text, cost=cost, details=details)
    is_signed = _is_two_sided(checked.values)
    number = weighted_rank_correlation(relevance, found, is_signed)
    chance = by_chance(found, number, is_signed)
    verdict: Verdict = "pass" if chance <= SURE else "unsure" if chance <= UNSURE else "fail"
    details["by_chance"] = chance
    edges = gaussian_gradient_magnitude(question.image[0].sum(0).cpu().numpy(), 1.0)
    return Check(
        NAME,
        TITLE,
        number,
        weighted_rank_correlation(densities(edges, question), found, is_signed),
        verdict,
        _sentence(question, checked, relevance, found, verdict),
        number_is="rank correlation of relevance and drop over the regions, weighted by the drop",
        null_is="of the scan's edges",
        cost=cost,
        details=details,
    )


def weighted_rank_correlation(relevance: Values, drops: Values, is_signed: bool) -> float:
    """Rank-biserial correlation (Cureton 1956) of "matters" with the map's order, regions weighted by their drop.

    1: all that matters stands first; 0: as by chance; −1: last. Where the map has two signs, regions whose covering
    raises the answer belong to the end.

    Parameters
    ----------
    relevance, drops : ndarray, shape (regions,)
    is_signed : bool
    """
    place = (2 * rankdata(relevance) - 1) / relevance.size - 1
    return float(place @ _weights(drops, is_signed))


def by_chance(drops: Values, number: float, is_signed: bool, draws: int = 2000) -> float:
    """How often a map with its regions in random order does as well."""
    weights, generator = _weights(drops, is_signed), np.random.default_rng(2024)
    place = (2 * np.arange(1, drops.size + 1) - 1) / drops.size - 1
    random = np.array([generator.permutation(place) @ weights for _ in range(draws)])
    return float((1 + (random >= number - 1e-12).sum()) / (draws + 1))


def _weights(drops: Values, is_signed: bool) -> Values:
    return np.asarray((drops if is_signed else np.abs(drops)) / np.abs(drops).sum())


def _is_two_sided(values: npt.NDArray[np.float32]) -> bool:
    """Whether a map speaks for and against: at least a hundredth of it on either side."""
    total = float(np.abs(values).sum(dtype=np.float64))
    net = float(values.sum(dtype=np.float64))
    return total > 0 and (total - abs(net)) / 2 >= 0.01 * total


def _sentence(question: Question, checked: CheckedMap, relevance: Values, drops: Values, verdict: Verdict) -> str:
    assert question.regions is not None
    names = [r.name for r, there in zip(question.regions.regions, question.ranked, strict=True) if there]
    first = int(np.argmax(np.abs(drops)))
    place = int((relevance > relevance[first]).sum()) + 1
    held = np.abs(drops)[np.argsort(-relevance, kind="stable")[:TOP_REGIONS]].sum() / np.abs(drops).sum()
    means = {
        "pass": "what the map puts first matters.",
        "unsure": "what the map puts first matters hardly more than by chance.",
        "fail": "what the map puts first matters no more than by chance.",
    }[verdict]
    return (
        f"Covered by {question.replacement.name}, {names[first].replace('_', ' ')} changes the answer most; it is "
        f"number {place} of {len(names)} on the map, whose top {TOP_REGIONS} make {held:.0%} of all changes: {means}"
    )


def _finite(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
