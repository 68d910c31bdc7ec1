"""What a network's output is must be declared: softmax, sigmoid or score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import NetworkError, UnknownNameError
from ADAttributionLogic.networks.card_text import card_parts
from ADAttributionLogic.networks.loading import load_model, model_from_module
from ADAttributionLogic.networks.network import opaque
from ADAttributionLogic.networks.output import Output, head_of, read_output
from ADAttributionLogic.networks.packages import load_package, read_card, save_package
from ADAttributionLogic.preprocessing.normalisation import Normalisation

SHAPE = (20, 20, 20)
LEVELS = {"levels": ("normal", "impaired", "demented"), "thresholds": (0.6, 1.1)}


class OneOutput(nn.Module):
    """A convolution, a pool and a dense layer with one output."""

    def __init__(self, ends_with_sigmoid: bool = False) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv3d(1, 2, 3), nn.Linear(2 * 6**3, 1)
        self.ends_with_sigmoid = ends_with_sigmoid

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense(nn.functional.max_pool3d(torch.relu(self.conv(x)), 3).flatten(1))
        return torch.sigmoid(x) if self.ends_with_sigmoid else x


def test_one_output_that_nobody_declares_is_refused_with_what_to_say() -> None:
    with pytest.raises(NetworkError, match=r"one output.*--output score or --output sigmoid.*output=\"score\""):
        model_from_module(OneOutput().eval(), SHAPE)
    with pytest.raises(NetworkError, match="one output"):
        opaque(OneOutput().eval(), (1, *SHAPE), "a test")


def test_one_output_is_what_it_is_declared_to_be() -> None:
    score = model_from_module(OneOutput().eval(), SHAPE, output=Output("score", "age", unit="years"))
    assert (score.classes, score.network.head, score.network.class_count) == (("age",), "score", 1)
    assert score.output.unit == "years"
    sigmoid = model_from_module(OneOutput().eval(), SHAPE, output="sigmoid")
    assert (sigmoid.classes, sigmoid.network.head) == (("CN", "AD"), "sigmoid")
    assert model_from_module(OneOutput(ends_with_sigmoid=True).eval(), SHAPE).network.head == "sigmoid"


def test_a_bare_exported_file_is_asked_what_it_is(tmp_path: Path) -> None:
    program = torch.export.export(OneOutput().eval(), (torch.zeros(1, 1, *SHAPE),))
    torch.export.save(program, tmp_path / "age.pt2")
    with pytest.raises(NetworkError, match="age has one output, and nothing says what it is"):
        load_model(tmp_path / "age.pt2")
    assert load_model(tmp_path / "age.pt2", output="score").output.is_score
    assert load_model(tmp_path / "age.pt2", output="sigmoid").classes == ("CN", "AD")


@pytest.mark.parametrize(
    ("outputs", "traced", "declared", "reason"),
    [
        (2, None, "score", "needs one output; it has 2"),
        (3, None, "sigmoid", "needs one output; it has 3"),
        (1, None, "softmax", "at least two outputs; it has 1"),
        (1, "sigmoid", "score", "declared a score, but the network ends with a sigmoid"),
    ],
)
def test_declarations_that_the_network_contradicts_are_refused(
    outputs: int, traced: str | None, declared: str, reason: str
) -> None:
    with pytest.raises(NetworkError, match=reason):
        head_of(outputs, traced, declared, "net")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="kind of output"):
        head_of(1, None, "scores", "net")


def test_a_score_has_no_classes() -> None:
    with pytest.raises(NetworkError, match="has no classes; leave out a, b"):
        model_from_module(OneOutput().eval(), SHAPE, output="score", classes=("a", "b"))


@pytest.mark.parametrize("method", ["occlusion", "area-occlusion"])
def test_covering_keeps_its_sign_where_the_output_is_a_score(method: str) -> None:
    """Covering healthy tissue raises an impairment; what lowers a probability is what speaks for the class."""
    torch.manual_seed(0)
    network = OneOutput().eval()
    image = torch.rand(1, 1, *SHAPE)
    regions = (torch.arange(20**3).reshape(SHAPE) // 1000 + 1).int()

    def lowest(output: str, **options: bool) -> float:
        evaluation = Evaluation(model_from_module(network, SHAPE, output=output).network, image, torch.device("cpu"))
        sized = {"size": 5, "stride": 5} if method == "occlusion" else {}
        found = attribute(evaluation, method, Target(0), {**sized, **options}, companions=Companions(regions=regions))
        return float(found.heatmap.min())

    assert lowest("score") < 0
    assert lowest("score", signed=False) == lowest("sigmoid") == 0
    assert lowest("sigmoid", signed=True) < 0


def test_levels_by_thresholds_of_the_ensemble_or_of_a_member() -> None:
    output = Output("score", "COG", **LEVELS)
    assert [output.level_of(v) for v in (-3, 0.59, 0.6, 1.0999, 1.1, 9)] == [
        "normal", "normal", "impaired", "impaired", "demented", "demented",
    ]  # fmt: skip
    assert output.level_of(0.59, (0.5, 1.0)) == "impaired"
    assert Output("score", "COG").level_of(1.0) == ""


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"levels": ("a", "b", "c"), "thresholds": (1.0,)}, "3 levels, which need 2 thresholds"),
        ({"levels": ("a", "b", "c"), "thresholds": (2.0, 1.0)}, "must ascend"),
        ({"scale": (2.0, 0.0)}, "must ascend"),
        ({"name": ""}, "needs a name"),
    ],
)
def test_scales_that_make_no_sense_are_refused(given: dict[str, object], reason: str) -> None:
    with pytest.raises(NetworkError, match=reason):
        Output("score", **{"name": "COG", **given})


def test_an_output_survives_its_card() -> None:
    output = Output("score", "COG", "how impaired", "points", (0.0, 2.0), reference=0.6, **LEVELS)
    assert read_output(json.loads(json.dumps(output.describe()))) == output
    assert Output("softmax").describe() == {"kind": "softmax"}


# ------------------------------------------------------------------------------------------------- packages of several


def _card(**changes: object) -> dict[str, object]:
    return {
        "schema_version": 1,
        "name": "two-of-a-kind",
        "title": "A test",
        "network": {"architecture": "qiu2022-impairment"},
        "grid": {"shape": [99, 99, 99], "affine": None, "space": "nowhere"},
        "normalisation": {"kind": "mean", "clip": [0, 8]},
        "output": {"kind": "score", "name": "COG", "meaning": "a test", **{k: list(v) for k, v in LEVELS.items()}},
        "training": {"data": "nothing"},
        "licence": "BSD-3-Clause",
        "intended_use": "testing",
        **changes,
    }


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    from ADAttributionLogic.architectures.catalogue import build_network, initialise

    networks = {name: build_network("qiu2022-impairment", (99, 99, 99)) for name in ("one", "two")}
    for seed, network in enumerate(networks.values()):
        initialise(network, seed)
    card = _card(members=[{"name": "two", "thresholds": [0.5, 0.9]}])
    return save_package(tmp_path / "pair", card, networks, {"LICENSE": b"free"})


def test_a_package_of_an_ensemble(pair: Path) -> None:
    model = load_package(pair)
    assert [m.name for m in model.members] == ["one", "two"]
    assert [m.thresholds for m in model.members] == [(), (0.5, 0.9)]
    assert (model.classes, model.output.name, model.normalisation.clip) == (("COG",), "COG", (0.0, 8.0))
    assert sorted(p.name for p in pair.iterdir()) == ["LICENSE", "model.json", "one.safetensors", "two.safetensors"]
    x = torch.rand(1, 1, 99, 99, 99, generator=torch.Generator().manual_seed(0))
    scores = [float(member.load().layers.logits(x)) for member in model.members]
    assert scores[0] == float(model.network.layers.logits(x)) != scores[1]


def test_every_member_is_checked_before_anything_is_used(pair: Path) -> None:
    weights = pair / "two.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(NetworkError, match=r"two\.safetensors is not the file .* changed or damaged"):
        load_package(pair)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ["CN", "AD"], "positive_class": 1}, "is a score, which has no classes"),
        ({"output": {"kind": "score", "name": "COG"}}, "'meaning' is a required property"),
        ({"output": {"kind": "regression", "name": "COG"}}, "at output"),
        (
            {"output": {"kind": "score", "name": "C", "meaning": "m", "levels": ["a", "b"], "thresholds": [1, 2]}},
            "2 are given",
        ),
        ({"output": {"kind": "sigmoid"}}, "'classes' is a required property"),
    ],
)
def test_cards_of_scores_that_make_no_sense_are_refused(pair: Path, changes: dict[str, object], reason: str) -> None:
    document = json.loads((pair / "model.json").read_text(encoding="utf-8"))
    (pair / "model.json").write_text(json.dumps({**document, **changes}), encoding="utf-8")
    with pytest.raises(NetworkError, match=reason):
        read_card(pair)


def test_members_of_one_name_are_refused(pair: Path) -> None:
    document = json.loads((pair / "model.json").read_text(encoding="utf-8"))
    document["members"][1]["name"] = "one"
    (pair / "model.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(NetworkError, match="names are not all different"):
        read_card(pair)


def test_a_card_as_text_says_what_is_not_stated(pair: Path) -> None:
    parts = dict(card_parts(read_card(pair)))
    assert "COG, a score" in parts["Answers"] and "normal below 0.6" in parts["Answers"]
    assert "Mean of 2 networks" in parts["Answers"]
    assert parts["Not for"] == parts["Performance"] == "not stated"


def test_a_state_dict_of_either_head_is_known_by_its_sizes(tmp_path: Path) -> None:
    from ADAttributionLogic.architectures.catalogue import build_network

    for name, head in (("qiu2022-impairment", "score"), ("qiu2022-alzheimers", "softmax")):
        torch.save(build_network(name, (99, 99, 99)).state_dict(), tmp_path / f"{name}.pt")
        model = load_model(tmp_path / f"{name}.pt", shape=(99, 99, 99))
        assert (model.name, model.network.head) == (name, head)


# ------------------------------------------------------------------------------------------ normalisation by the mean


def test_division_by_the_mean_of_the_whole_volume_clipped() -> None:
    import numpy as np

    scan = np.zeros((4, 4, 4), np.float32)
    scan[0, 0, :2] = 3, 61
    found, figures = Normalisation("mean", clip=(0, 8)).apply(scan)
    assert figures["mean"] == 1.0 and figures["share_clipped"] == 1 / 64
    assert found[0, 0, :3].tolist() == [3, 8, 0]
    inside, _ = Normalisation("mean", "nonzero").apply(scan)
    assert inside[0, 0, :2].tolist() == pytest.approx([3 / 32, 61 / 32])


def test_a_scan_whose_mean_is_not_positive_is_refused() -> None:
    import numpy as np

    from ADAttributionLogic.errors import ScanError

    with pytest.raises(ScanError, match="mean of the scan is 0"):
        Normalisation("mean").apply(np.zeros((3, 3, 3)))
