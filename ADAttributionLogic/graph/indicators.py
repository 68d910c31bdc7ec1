"""Where values are positive, or not 0: as factors of 1 and 0.

Truth values are slow on a CPU: on a million elements that lie in the cache, torch's choosing by them
(``where``, ``masked_fill``) takes ten to thirty times as long as a product with such factors (0.14 ns an element).
"""

from __future__ import annotations

from torch import Tensor


def ones_where_positive(x: Tensor) -> Tensor:
    """1 where `x` > 0, else 0; of its shape and dtype."""
    return x.sign().clamp_(min=0)


def ones_where_nonzero(x: Tensor) -> Tensor:
    """1 where `x` is not 0, else 0; of its shape and dtype."""
    return x.sign().abs_()


def has_negative(x: Tensor) -> bool:
    """Whether an element is below 0."""
    return float(x.amin()) < 0.0
