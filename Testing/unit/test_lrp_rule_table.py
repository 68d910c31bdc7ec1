"""The table of LRP's rules is what the code does: every operation stands in it, and relevance passes as it says."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.attribution.lrp import PRESETS, composite, kind_of
from ADAttributionLogic.attribution.lrp_rule_table import all_operations, describe, rule_rows
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.cli import main
from ADAttributionLogic.graph.operations import Input
from ADAttributionLogic.tracing.tracer import trace


class OfManyKinds(nn.Module):
    """A layer of every kind whose rule is chosen per layer."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.deeper, self.scale = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.deeper(F.relu(self.read(x))))
        tokens = (F.avg_pool2d(y, 2) + self.scale(F.max_pool2d(y, 2))).flatten(2).transpose(1, 2)
        return self.out(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def test_every_operation_of_the_graph_stands_in_one_row() -> None:
    rows = {row.kind: row for row in rule_rows()}
    listed = [name for kind, row in rows.items() if kind != "first" for name in row.operations]
    assert sorted(listed) == sorted(operation.__name__ for operation in all_operations())
    assert all(row.operations and row.why and set(row.rules) == set(PRESETS) for row in rows.values())
    graph = trace(OfManyKinds().double().eval(), (1, 12, 12))
    there = {type(layer.operation) for layer in graph.layers if not isinstance(layer.operation, Input)}
    assert there <= set(all_operations())
    assert {kind_of(operation) for operation in there} >= {"convolution", "dense", "sums", "scaling", "matrix product"}


@pytest.mark.parametrize("preset", PRESETS)
def test_each_weighted_layer_of_a_network_gets_the_rule_of_its_row(preset: str) -> None:
    rows = {row.kind: row for row in rule_rows()}
    graph = trace(OfManyKinds().double().eval(), (1, 12, 12))
    image = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    rules = composite(get_method("lrp").complete({"rule": preset}), image).assign(graph, image)
    (first, *others) = rules
    assert describe(rules[first]) == rows["first"].rules[preset]
    for index in others:
        kind = kind_of(type(graph.layers[index].operation))
        assert describe(rules[index]) == rows[kind].rules[preset], graph.layers[index].name


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--rules"]) == 0
    printed = capsys.readouterr().out
    assert "cp-lrp" in printed and "gradient × value" in printed and "Achtibat et al. 2024" in printed
    assert main(["methods", "--rules", "--json"]) == 0
    assert [row["kind"] for row in json.loads(capsys.readouterr().out)] == [row.kind for row in rule_rows()]
