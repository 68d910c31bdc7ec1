"""Rules on parts of maps: the same relevance, and the same account, as on whole ones."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from small_networks import Attending, image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.propagation import parts
from ADAttributionLogic.propagation.account import kept_by_cause


class Residual(nn.Module):
    """Additions, batch normalisation of its own behind one, and dense layers on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.tokens, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.norm(x + self.second(x)))
        return self.head(torch.tanh(self.tokens(x.movedim(1, -1))).mean((1, 2, 3)))


class Windows(nn.Module):
    """Constants of each place: one for all windows, one for all heads, and factors; tokens without an axis of maps."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.spread = nn.Conv3d(1, 6, 5, stride=5)
        self.bias = nn.Parameter(torch.randn(1, 3, 8, 8, generator=generator))
        self.mask = nn.Parameter(torch.randn(8, 1, 8, 8, generator=generator))
        self.factor = nn.Parameter(torch.rand(8, 6, generator=generator) + 0.5)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.spread(x).reshape(-1, 6, 8, 8).transpose(1, 2)  # of 64 places, 8 at a time
        heads = windows.reshape(-1, 8, 3, 2, 8)
        scores = heads.mT @ heads + self.bias + self.mask
        chosen = scores.softmax(-1) @ heads.mT
        tokens = chosen.transpose(2, 3).reshape(-1, 8, 8, 6) * self.factor
        return self.head(self.norm(tokens).mean((1, 2)))


NETWORKS = {
    "windows": Windows,
    "transformer": lambda: Attending(3),
    "residual": Residual,
}


@pytest.mark.parametrize("rule", ["b-rule", "e-rule", "epsilon-gamma-box", "attn-lrp", "cp-lrp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_change_nothing(name: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    x = image(1, 3, (20, 20, 20))
    network = explainable(make_lively(NETWORKS[name]()), x.shape[1:])
    found, lengths = {}, []
    divided = parts.in_parts

    def counted(work: object, tensors: tuple[Tensor, ...], axis: int = 0, at_least: int = 1) -> tuple[Tensor, ...]:
        lengths.append(tensors[0].numel())
        return divided(work, tensors, axis, at_least)

    monkeypatch.setattr(parts, "in_parts", counted)
    monkeypatch.setattr(parts, "_ROWS", 3)
    by_outputs = Mock(wraps=parts._output_by_output)
    monkeypatch.setattr(parts, "_output_by_output", by_outputs)
    for size in (1 << 40, 200):
        monkeypatch.setattr(parts, "PART_BYTES", size)
        monkeypatch.setattr(parts, "WEIGHT_BYTES", size // 10)
        evaluation = Evaluation(network, x, torch.device("cpu"))
        found[size] = attribute(evaluation, "lrp", Target(1, "logit"), {"rule": rule, "batch_norm": "fold"})
    assert by_outputs.called
    assert max(lengths) > 100, "something was there to be divided"
    whole, divided_up = found.values()
    scale = abs(whole.values).max()
    torch.testing.assert_close(
        torch.from_numpy(divided_up.values), torch.from_numpy(whole.values), rtol=0, atol=1e-10 * scale
    )
    first, second = (kept_by_cause(one.conservation or ()) for one in (whole, divided_up))
    for cause in set(first) | set(second):
        size = sum(abs(amount) for amount in first.values()) + 1
        assert first.get(cause, 0.0) == pytest.approx(second.get(cause, 0.0), abs=1e-9 * size), cause


def test_on_rows_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the parts do not divide the length."""
    x = torch.arange(70.0).view(7, 10)
    done: list[int] = []

    def doubled(part: Tensor) -> tuple[Tensor]:
        done.append(len(part))
        return (2 * part,)

    monkeypatch.setattr(parts, "PART_BYTES", 3 * 10 * 4)
    (found,) = parts.in_parts(doubled, (x,))
    assert torch.equal(found, 2 * x) and done == [3, 3, 1]
