"""Where values are positive, or not 0, as factors: equal to choosing by truth values."""

from __future__ import annotations

import pytest
import torch

from ADAttributionLogic.graph.indicators import has_negative, ones_where_nonzero, ones_where_positive

INFINITE = float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_are_truth_values(dtype: torch.dtype) -> None:
    """Also of the smallest numbers, infinite ones and both zeros; enough of them for the processor's wide registers."""
    x = torch.tensor([0.0, -0.0, torch.finfo(dtype).tiny, -1e-40, 2.0, -3.0, INFINITE, -INFINITE] * 9, dtype=dtype)
    assert torch.equal(ones_where_positive(x), (x > 0).to(dtype))
    assert torch.equal(ones_where_nonzero(x), (x != 0).to(dtype))


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 1.0], False), ([-0.0, 0.0], False), ([2.0, -1e-40], True), ([-INFINITE], True)]
)
def test_whether_a_value_is_negative(values: list[float], expected: bool) -> None:
    assert has_negative(torch.tensor(values)) is expected
