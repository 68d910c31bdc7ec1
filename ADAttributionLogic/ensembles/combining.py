"""The mean of the members' maps, and their standard deviation, without holding all of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.attribution.result import Attribution, RegionPair
from ADAttributionLogic.propagation.account import Account, LayerAccount

K = TypeVar("K", bound=Hashable)


class MapMean:
    """Takes one member's attribution after the other (Welford 1962), so that memory does not grow with their number.

    Parameters
    ----------
    with_spread : bool
        Also the standard deviation per voxel.
    """

    def __init__(self, with_spread: bool = False) -> None:
        self.names: list[str] = []
        self._parts: list[Attribution] = []
        self._mean: npt.NDArray[np.float64] | None = None
        self._squares: npt.NDArray[np.float64] | None = None
        self._with_spread = with_spread

    def add(self, name: str, found: Attribution) -> None:
        """Take a member's attribution; its map is not kept."""
        values = found.values.astype(np.float64)
        self.names.append(name)
        # Without its map: what is left of an attribution is small.
        self._parts.append(replace(found, values=np.empty((0,), np.float32)))
        if self._mean is None:
            self._mean = values
            self._squares = np.zeros_like(values) if self._with_spread else None
            return
        change = values - self._mean
        self._mean += change / len(self._parts)
        if self._squares is not None:
            self._squares += change * (values - self._mean)

    def result(self) -> Attribution:
        """The mean of the attributions taken so far: what each of them sets out to distribute, and distributes."""
        assert self._mean is not None
        parts, values = self._parts, self._mean.astype(np.float32)
        to_attribute = _mean(p.to_attribute for p in parts)
        relevance_sum = float(values.sum(dtype=np.float64))
        pairs, notes = _common_pairs(parts)
        return replace(
            parts[0],
            values=values,
            score=_mean(p.score for p in parts),
            to_attribute=to_attribute,
            relevance_sum=relevance_sum,
            unattributed=to_attribute - relevance_sum,
            probabilities=tuple(_mean(column) for column in zip(*(p.probabilities for p in parts), strict=True)),
            seconds=math.fsum(p.seconds for p in parts),
            notes=(*_joint_notes(self.names, parts), *notes),
            relevance_by_layer=_mean_mapping([p.relevance_by_layer for p in parts]),
            conservation=_mean_account([p.conservation for p in parts]),
            region_drops=_mean_mapping([p.region_drops for p in parts]),
            region_pairs=pairs,
            is_partial=any(p.is_partial for p in parts),
            members={
                name: {"score": p.score, "relevance_sum": p.relevance_sum, "unattributed": p.unattributed}
                for name, p in zip(self.names, parts, strict=True)
            },
        )

    def spread(self) -> npt.NDArray[np.float32]:
        """Standard deviation (n − 1) per channel and voxel; needs ``with_spread`` and at least two members."""
        assert self._squares is not None
        # Rounding may leave a tiny negative sum of squares where all members agree.
        found = np.sqrt(np.maximum(self._squares, 0) / (len(self._parts) - 1))
        return found.astype(np.float32)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _mean_mapping(mappings: Sequence[Mapping[K, float] | None]) -> dict[K, float] | None:
    given = [m for m in mappings if m is not None]
    if not given or len(given) < len(mappings):
        return None
    return {key: _mean(m[key] for m in given) for key in given[0] if all(key in m for m in given)}


def _mean_account(accounts: Sequence[Account | None]) -> Account | None:
    """Layer by layer, where all networks have the same layers; a cause that one of them lacks counts as 0 there."""
    given = [account for account in accounts if account is not None]
    layers = [[line.layer for line in account] for account in given]
    if not given or len(given) < len(accounts) or any(names != layers[0] for names in layers):
        return None
    return tuple(
        LayerAccount(
            lines[0].layer,
            lines[0].operation,
            _mean(line.received for line in lines),
            _mean(line.passed_on for line in lines),
            {
                cause: _mean(line.kept.get(cause, 0.0) for line in lines)
                for cause in dict.fromkeys(cause for line in lines for cause in line.kept)
            },
        )
        for lines in zip(*given, strict=True)
    )


def _joint_notes(names: Sequence[str], parts: Sequence[Attribution]) -> tuple[str, ...]:
    """What all members say once, what only some say with their names."""
    notes: list[str] = []
    for note in dict.fromkeys(note for part in parts for note in part.notes):
        who = [name for name, part in zip(names, parts, strict=True) if note in part.notes]
        notes.append(note if len(who) == len(parts) else f"{', '.join(who)}: {note}")
    return tuple(notes)


def _common_pairs(parts: Sequence[Attribution]) -> tuple[tuple[RegionPair, ...], tuple[str, ...]]:
    """Pairs of regions that were covered on every member: each chooses those with its own largest drops."""
    found = [{(p.first, p.second): p for p in part.region_pairs} for part in parts]
    common = [key for key in found[0] if all(key in pairs for pairs in found)]
    means = tuple(
        RegionPair(*key, _mean(p[key].drop for p in found), _mean(p[key].interaction for p in found)) for key in common
    )
    covered = len({key for pairs in found for key in pairs})
    if covered == len(common):
        return means, ()
    return means, (f"Of {covered} pairs of regions, {len(common)} were covered on every network; only these are kept.",)
