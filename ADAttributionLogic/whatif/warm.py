"""One network kept warm: a covered image is answered from what changes, or in full where that is cheaper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.graph.recording import record
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.incremental.reach import Places
from ADAttributionLogic.occlusion.covering import WORTH_FOLLOWING, why_full_passes
from ADAttributionLogic.occlusion.regions import Area

#: Sizes of changed boxes are rounded up to a multiple of this, so that a box that is dragged, and grows by a voxel here
#: and there on its way, is followed by one plan.
_STEP = 4


@dataclass(frozen=True, eq=False)
class Put:
    """Values that stand in place of an image's own.

    Attributes
    ----------
    key : str
        The same for the same voxels and values.
    area : Area
    values : Tensor, shape (1, C, …)
        A whole image.
    """

    key: str
    area: Area
    values: Tensor


@dataclass(frozen=True, eq=False)
class Composition:
    """An image with parts covered, one over the other.

    Attributes
    ----------
    image : Tensor, shape (1, C, …)
    puts : tuple of Put
        In order: where two overlap, the later one is seen.
    """

    image: Tensor
    puts: tuple[Put, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """What is covered, in order."""
        return tuple(put.key for put in self.puts)

    def before(self) -> Composition:
        """Without the last."""
        return Composition(self.image, self.puts[:-1])

    def difference(self, other: Composition) -> tuple[Places, Places] | None:
        """First and last-plus-one voxel of a box outside of which both are the same; None if they are the same."""
        common = 0
        for mine, theirs in zip(self.keys, other.keys, strict=False):
            if mine != theirs:
                break
            common += 1
        areas = [put.area for put in (*self.puts[common:], *other.puts[common:])]
        if not areas:
            return None
        return np.minimum.reduce([a.low for a in areas]), np.maximum.reduce([a.high for a in areas])

    def part(self, low: Places, high: Places) -> Tensor:
        """The image inside a box, (1, C, …)."""
        here = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        values = self.image[(slice(None), slice(None), *here)].clone()
        for put in self.puts:
            first, last = np.maximum(put.area.low, low), np.minimum(put.area.high, high)
            if (first >= last).any():
                continue
            inside, place, own = (
                tuple(slice(int(a - o), int(b - o)) for a, b, o in zip(first, last, origin, strict=True))
                for origin in (low, np.zeros_like(low), put.area.low)
            )
            mask = torch.from_numpy(np.ascontiguousarray(put.area.mask[own])).to(values.device)
            target = values[(slice(None), slice(None), *inside)]
            target[:, :, mask] = put.values[(slice(None), slice(None), *place)][:, :, mask]
        return values

    def whole(self) -> Tensor:
        """The whole image."""
        shape = np.array(self.image.shape[2:])
        return self.part(np.zeros_like(shape), shape)


@dataclass(frozen=True, eq=False)
class Found:
    """What a network said.

    Attributes
    ----------
    logits : Tensor, shape (1, K)
    passes : float
        What it took, in full forward passes, by counting operations.
    in_full : bool
        By full forward passes.
    """

    logits: Tensor
    passes: float
    in_full: bool


class WarmNetwork:
    """A network with an image's activations recorded.

    What is recorded is first the image as it is. When parts stay covered while another is moved (the same trial is
    asked for again and again but for its last part), the image with these parts covered is recorded instead, so that
    the last part alone has to be followed.

    Parameters
    ----------
    evaluation : Evaluation
        Of the image as it is.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.reason = why_full_passes(evaluation)
        self.logits = evaluation.logits
        self._base: Composition | None = None
        self._forward: IncrementalForward | None = None
        self._standing: tuple[str, ...] | None = None
        if not self.reason:
            self._base = Composition(evaluation.image)
            self._forward = IncrementalForward(evaluation.recording())

    @property
    def held_bytes(self) -> int:
        """Of recorded activations and what is kept beside them."""
        return 0 if self._forward is None else self._forward.held_bytes

    def let_go(self, reason: str) -> None:
        """Forget the activations: from now on every trial is a full forward pass."""
        self.reason, self._base, self._forward = reason, None, None
        self.evaluation.forget_recordings()

    def answer(self, wanted: Composition) -> Found:
        """What the network says of an image with parts covered."""
        if not wanted.puts:
            return Found(self.logits, 0.0, False)
        if self._forward is None:
            return Found(self.evaluation.logits_of(wanted.whole()), 1.0, True)
        work = self._work(wanted, self._base)
        if work >= WORTH_FOLLOWING and self._is_asked_again(wanted):
            self._record(wanted.before())
            work = self._work(wanted, self._base)
        if work >= WORTH_FOLLOWING:
            return Found(self.evaluation.logits_of(wanted.whole()), 1.0, True)
        return Found(self._follow(wanted), work, False)

    def _work(self, wanted: Composition, base: Composition | None) -> float:
        """What following a change costs, in full forward passes."""
        if base is None or self._forward is None:
            return 1.0
        box = wanted.difference(base)
        return 0.0 if box is None else float(self._forward.work(*_as_windows(_steady(*box, _shape(wanted))))[0])

    def _is_asked_again(self, wanted: Composition) -> bool:
        """Whether it pays to record the image with all but the last part covered: the second time that it stands."""
        before, again = wanted.before(), wanted.before().keys == self._standing
        self._standing = before.keys
        return again and self._work(wanted, before) < WORTH_FOLLOWING

    def _record(self, base: Composition) -> None:
        assert self._forward is not None
        self._forward = None  # before the next one takes memory
        self.evaluation.forget_recordings()
        recording = record(self.evaluation.graph(), base.whole(), check=self.evaluation.monitor.check)
        self._base, self._forward = base, IncrementalForward(recording)

    def _follow(self, wanted: Composition) -> Tensor:
        assert self._base is not None and self._forward is not None
        box = wanted.difference(self._base)
        if box is None:
            return self._forward.known_logits
        low, high = _steady(*box, _shape(wanted))
        changed = wanted.part(low, high)

        def change(_numbers: npt.NDArray[np.int64], _known: Tensor, _starts: Places) -> Tensor:
            return changed

        ((_, logits),) = self._forward.run(*_as_windows((low, high)), change)
        return logits


def _shape(wanted: Composition) -> Sequence[int]:
    return tuple(wanted.image.shape[2:])


def _as_windows(box: tuple[Places, Places]) -> tuple[Places, Places]:
    low, high = box
    return low[None], high[None]


def _steady(low: Places, high: Places, shape: Sequence[int]) -> tuple[Places, Places]:
    """The box with its edges rounded up, inside the image."""
    size = np.minimum(-(-(high - low) // _STEP) * _STEP, shape)
    low = np.minimum(low, np.array(shape) - size)
    return low, low + size
