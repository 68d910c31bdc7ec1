"""Trials on one scan: what is covered, and how the answer of a network, or of all networks of an ensemble, moves."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.graph.layer_graph import Head, class_probabilities
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.outcome import Outcome, outcome_of
from ADAttributionLogic.whatif.covers import Cover, Drawn
from ADAttributionLogic.whatif.filling import Fills, Subject
from ADAttributionLogic.whatif.mirroring import has_mirror_image, symmetry_of
from ADAttributionLogic.whatif.warm import Composition, Found, Put, WarmNetwork

#: Bound on what all networks' activations take together; those beyond it are answered by full forward passes.
MEMORY_BYTES = 2 << 30

#: Trials whose answers are remembered, so that taking one back gives exactly what was there.
_REMEMBERED = 500


@dataclass(frozen=True, eq=False)
class Trial:
    """What covering did.

    Attributes
    ----------
    covers : tuple of str
        What was covered, and what was put there, in words.
    before, after : Outcome
        What the networks say of the whole scan, and of the covered one.
    voxels : int
        Covered, each counted once.
    volume_mm3 : float
        Of the network's space.
    passes : float
        What it took in full forward passes, of all networks, by counting operations.
    in_full : int
        How many networks were run in full.
    seconds : float
    notes : tuple of str
    """

    covers: tuple[str, ...]
    before: Outcome
    after: Outcome
    voxels: int
    volume_mm3: float
    passes: float
    in_full: int
    seconds: float
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "covers": list(self.covers),
            "before": self.before.describe(),
            "after": self.after.describe(),
            "voxels": self.voxels,
            "volume_mm3": round(self.volume_mm3, 3),
            "passes": round(self.passes, 5),
            "in_full": self.in_full,
            "seconds": round(self.seconds, 5),
            "notes": list(self.notes),
        }


class Session:
    """A scan before a network, warm for trials.

    Parameters
    ----------
    subject : Subject
    networks : sequence of (name, WarmNetwork, thresholds)
        One, or all of an ensemble.
    memory_bytes : int
        Bound on what their activations take together.
    """

    def __init__(
        self,
        subject: Subject,
        networks: Sequence[tuple[str, WarmNetwork, tuple[float, ...]]],
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.subject = subject
        self.memory_bytes = memory_bytes
        self._networks = tuple(networks)
        device = self._networks[0][1].evaluation.device
        self._image = subject.image.to(device)
        self._fills = Fills(subject, device)
        self._known: OrderedDict[tuple[str, ...], Trial] = OrderedDict()
        self._mirror_note: str | None = None
        self._keep_within_bound()
        self.before = self._outcome([network.answer(Composition(self._image)) for _, network, _ in self._networks])

    @property
    def held_bytes(self) -> int:
        """Of the networks' activations."""
        return sum(network.held_bytes for _, network, _ in self._networks)

    @property
    def warm(self) -> int:
        """How many networks' activations are kept."""
        return sum(not network.reason for _, network, _ in self._networks)

    def ask(self, covers: Sequence[Cover], monitor: Monitor | None = None) -> Trial:
        """Cover all of these, in order, and ask again. Nothing stays covered: the next call says all that is.

        Parameters
        ----------
        covers : sequence of Cover
            Where two overlap, the later one is seen. None gives the answer as it was.
        monitor : Monitor, optional

        Raises
        ------
        UsageError, GridMismatchError, Cancelled
        """
        started, monitor = time.perf_counter(), monitor or Monitor()
        puts = tuple(self._put(cover) for cover in covers)
        key = tuple(put.key for put in puts)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        wanted = Composition(self._image, puts)
        found = []
        for number, (_, network, _) in enumerate(self._networks):
            monitor.report(number / len(self._networks), "asking the network again")
            found.append(network.answer(wanted))
        self._keep_within_bound()
        voxels = _covered(wanted)
        trial = Trial(
            tuple(cover.title for cover in covers),
            self.before,
            self._outcome(found),
            voxels,
            voxels * self.subject.placing.grid.voxel_volume_mm3,
            sum(f.passes for f in found),
            sum(f.in_full for f in found),
            time.perf_counter() - started,
            self._notes(covers, puts),
        )
        self._known[key] = trial
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return trial

    def describe(self) -> dict[str, Any]:
        """What a client needs to know of it."""
        atlas = self.subject.placing.atlas
        return {
            "before": self.before.describe(),
            "regions": [] if atlas is None else [{"label": r.label, "name": r.name} for r in atlas.regions],
            "networks": len(self._networks),
            "warm": self.warm,
            "held_bytes": self.held_bytes,
            "memory_bytes": self.memory_bytes,
            "notes": [*self.subject.notes, *self._reasons()],
        }

    def _reasons(self) -> list[str]:
        return [
            f"{f'Network {name}' if name else 'The network'} runs in full at every trial: {network.reason}."
            for name, network, _ in self._networks
            if network.reason
        ]

    def _put(self, cover: Cover) -> Put:
        values, area = self._fills[cover.put], self.subject.placing.area(cover)
        digest = hashlib.sha256(f"{cover.put} {area.low.tolist()} {area.mask.shape}".encode())
        digest.update(np.packbits(area.mask).tobytes())
        return Put(digest.hexdigest(), area, values)

    def _outcome(self, found: Sequence[Found]) -> Outcome:
        model = self.subject.model
        said = [
            (name, _values(network.evaluation.network.head, f.logits), thresholds)
            for (name, network, thresholds), f in zip(self._networks, found, strict=True)
        ]
        return outcome_of(model.output, model.classes, said)

    def _notes(self, covers: Sequence[Cover], puts: Sequence[Put]) -> tuple[str, ...]:
        notes = [note for cover in covers if isinstance(cover.what, Drawn) for note in cover.what.mask.notes]
        if any(cover.put == "mirrored" for cover in covers):
            notes.append(self._symmetry())
            there = has_mirror_image(self.subject.placing.grid)
            for cover, put in zip(covers, puts, strict=True):
                if cover.put == "mirrored" and (missing := int((put.area.mask & ~there[put.area.box]).sum())):
                    notes.append(
                        f"{missing:,} voxels of {cover.what.title} have no other side on the grid; 0 is there."
                    )
        return tuple(dict.fromkeys(notes))

    def _symmetry(self) -> str:
        """Whether the other side is the same place, by the atlas; measured once."""
        if self._mirror_note is None:
            atlas = self.subject.placing.atlas
            found = None if atlas is None else symmetry_of(atlas)
            self._mirror_note = (
                "Whether the network's space is symmetric was not checked: there is no atlas with two sides."
                if atlas is None or found is None
                else found.sentence(atlas.title or atlas.name)
            )
        return self._mirror_note

    def _keep_within_bound(self) -> None:
        """Let go of the last networks' activations where all of them take more than they may."""
        for _, network, _ in reversed(self._networks):
            if self.held_bytes <= self.memory_bytes:
                return
            if network.held_bytes:
                network.let_go(over_bound(self.memory_bytes))


def over_bound(memory_bytes: int) -> str:
    """Why a network's activations are not kept."""
    return f"all networks' activations would take more than the {memory_bytes / 2**20:.0f} MiB that they may"


def _covered(wanted: Composition) -> int:
    """Voxels that any part covers, each once."""
    box = wanted.difference(Composition(wanted.image))
    if box is None:
        return 0
    low, high = box
    inside = np.zeros(high - low, dtype=bool)
    for put in wanted.puts:
        start = put.area.low - low
        here = tuple(slice(int(a), int(a + n)) for a, n in zip(start, put.area.mask.shape, strict=True))
        inside[here] |= put.area.mask
    return int(inside.sum())


def _values(head: Head, logits: Tensor) -> list[float]:
    """Probabilities, or the score; in double precision, because a probability near 1 hardly changes."""
    logits = logits.double()
    found = [float(v) for v in (logits if head == "score" else class_probabilities(logits, head))[0]]
    if not all(map(math.isfinite, found)):
        raise UsageError("The network's answer to the covered scan is no number; put something else in.")
    return found
