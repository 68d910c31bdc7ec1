"""What is explained: a class and which quantity of it, or a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.graph.layer_graph import Head, class_probabilities

Start = Literal["probability", "logit", "margin", "score", "distance", "unit"]
STARTS: tuple[Start, ...] = get_args(Start)
#: Of a network that gives a score; the others are of classes, ``unit`` of both.
SCORE_STARTS: tuple[Start, ...] = ("score", "distance", "unit")
CLASS_STARTS: tuple[Start, ...] = ("probability", "logit", "margin", "unit")


@dataclass(frozen=True)
class Target:
    """What to explain.

    Attributes
    ----------
    class_index : int or None
        None: the class that the network finds most probable. A score is a target of its own, number 0.
    start : {"probability", "logit", "margin", "score", "distance", "unit"}, optional
        By default the probability of a class, or the score.

        * ``probability``: the class's probability. LRP starts with it (so that ΣR ≤ P(class), as published, and a
          scan that the network thinks unlikely gets little relevance); gradients and occlusion are of it.
        * ``logit``: the class's score before the softmax, which does not saturate.
        * ``margin``: the class's logit minus the largest other one, which says by how much it wins. LRP starts with it
          at the class's own logit; gradients and occlusion are of the difference.
        * ``score``: the score of a regression. LRP starts with it; gradients and occlusion are of it, in its unit.
        * ``distance``: the score minus a reference value, with sign: what makes it differ from, say, a threshold.
        * ``unit``: as the logit or the score, but with a start relevance of 1 (LRP) or scaled to Σ|R| = 1 (other
          methods), so that maps of different scans and networks can be compared whatever the scores were.
    reference : float or None
        The value that ``distance`` measures from, in the unit of the score.
    """

    class_index: int | None = None
    start: Start | None = None
    reference: float | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.start not in STARTS:
            raise UsageError(f"The start must be one of {', '.join(STARTS)}, not {self.start!r}.")


@dataclass(frozen=True, eq=False)
class Decision:
    """What the network says about one image, and which class of it is explained.

    Attributes
    ----------
    logits : Tensor, shape (1, K)
    head : {"softmax", "sigmoid", "score"}
    class_index : int
    start : {"probability", "logit", "margin", "score", "distance", "unit"}
    reference : float
        Subtracted from the score where the start is ``distance``.
    """

    logits: Tensor
    head: Head
    class_index: int
    start: Start
    reference: float = 0.0

    @property
    def outputs(self) -> Tensor:
        """What the network answers: class probabilities (1, classes), or the score (1, 1)."""
        return self.logits if self.head == "score" else class_probabilities(self.logits, self.head)

    @property
    def is_negated(self) -> bool:
        """Whether the class is the absence of what a single sigmoid output stands for, so that its logit is −z."""
        return self.head == "sigmoid" and self.class_index == 0

    def score_of(self, logits: Tensor) -> Tensor:
        """The explained quantity (N,) for other logits (N, K); that of ``unit`` is the logit, or the score."""
        if self.head == "score":
            return logits[:, 0] - (self.reference if self.start == "distance" else 0.0)
        if self.start == "probability":
            return class_probabilities(logits, self.head)[:, self.class_index]
        if self.head == "sigmoid":
            # A sigmoid's logit is the margin of two classes.
            return -logits[:, 0] if self.is_negated else logits[:, 0]
        if self.start == "margin":
            return logits[:, self.class_index] - logits.gather(1, self._best_other(logits))[:, 0]
        return logits[:, self.class_index]

    def _best_other(self, logits: Tensor) -> Tensor:
        """The most probable of the other classes (N, 1)."""
        others = logits.clone()
        others[:, self.class_index] = -torch.inf
        return others.argmax(1, keepdim=True)

    @property
    def score(self) -> float:
        """The explained quantity for the image."""
        return float(self.score_of(self.logits)[0])

    @property
    def start_relevance(self) -> float:
        """What LRP starts with."""
        return 1.0 if self.start == "unit" else self.score

    def gradient_at_logits(self, logits: Tensor) -> Tensor:
        """Derivative of the explained quantity with respect to the logits (N, K), in closed form."""
        if self.head == "score":
            return torch.ones_like(logits)
        if self.head == "sigmoid":
            sign = -1.0 if self.is_negated else 1.0
            if self.start == "probability":
                return sign * torch.sigmoid(logits) * torch.sigmoid(-logits)
            return torch.full_like(logits, sign)
        one_hot = torch.zeros_like(logits)
        one_hot[:, self.class_index] = 1
        if self.start == "margin":
            return one_hot.scatter(1, self._best_other(logits), -1.0)
        if self.start != "probability":
            return one_hot
        p = torch.softmax(logits, dim=1)
        return p[:, self.class_index : self.class_index + 1] * (one_hot - p)


def decide(logits: Tensor, head: Head, target: Target, class_count: int) -> Decision:
    """Resolve a target for one image's logits (1, K).

    Raises
    ------
    UsageError
        A class that the network does not have, a start that it cannot have, or a distance from nothing.
    """
    start = _start_of(target, head)
    if head == "score":
        if target.class_index not in (None, 0):
            raise UsageError(f"The network gives a score; there is no class {target.class_index} to explain.")
        if start == "distance" and target.reference is None:
            raise UsageError("The start distance needs a value to measure from; say --start-reference VALUE.")
        return Decision(logits, head, 0, start, target.reference or 0.0)
    if target.class_index is None:
        index = int(class_probabilities(logits, head)[0].argmax())
    elif 0 <= target.class_index < class_count:
        index = target.class_index
    else:
        raise UsageError(
            f"The network has {class_count} classes (0 to {class_count - 1}); there is no class {target.class_index}."
        )
    return Decision(logits, head, index, start)


def _start_of(target: Target, head: Head) -> Start:
    allowed, kind = (SCORE_STARTS, "a score") if head == "score" else (CLASS_STARTS, "probabilities of classes")
    if target.start is None:
        return allowed[0]
    if target.start not in allowed:
        raise UsageError(f"The network gives {kind}: the start must be {', '.join(allowed)}, not {target.start}.")
    return target.start
