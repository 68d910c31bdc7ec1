"""MONAI's own networks and bundles, where MONAI is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from field_networks import DenseNet121, ResNet18
from torch import nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.authoring.creation import create_package
from ADAttributionLogic.networks.loading import load_model

nets = pytest.importorskip("monai.networks.nets", reason="MONAI is an optional oracle: pip install monai")
bundle = pytest.importorskip("monai.bundle", reason="MONAI is an optional oracle: pip install monai")

SHAPE = (64, 64, 64)


@pytest.mark.parametrize(
    ("ours", "name", "options"),
    [
        (ResNet18, "resnet18", {"n_input_channels": 1, "num_classes": 2}),
        (DenseNet121, "DenseNet121", {"in_channels": 1, "out_channels": 2}),
    ],
)
def test_the_fields_networks_are_monais(ours: type[nn.Module], name: str, options: dict[str, int]) -> None:
    """The tests explain them without MONAI; here each takes the other's weights, name by name, and answers the same."""
    torch.manual_seed(0)
    theirs, image = getattr(nets, name)(spatial_dims=3, **options).eval(), torch.rand(1, 1, *SHAPE)
    same = ours().eval()
    same.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(same(image), theirs(image))


def test_a_bundle_that_its_owner_exported_answers_as_in_monai(tmp_path: Path) -> None:
    """The network as the bundle's configuration makes it, exported as our message says, packed and explained here."""
    folder = tmp_path / "bundle"
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    network = {"_target_": "DenseNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "init_features": 8}
    network |= {"growth_rate": 4, "block_config": [2, 2]}
    (folder / "configs" / "inference.json").write_text(json.dumps({"network": network}), encoding="utf-8")
    formats = {
        "inputs": {"image": {"type": "image", "num_channels": 1, "spatial_shape": [32, 32, 32]}},
        "outputs": {"pred": {"type": "probabilities", "channel_def": {"0": "CN", "1": "AD"}}},
    }
    metadata = {"version": "0.1.0", "monai_version": "1.6.1", "name": "Dementia", "network_data_format": formats}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")

    torch.manual_seed(0)
    parser = bundle.ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    theirs = parser.get_parsed_content("network").eval()
    image = torch.rand(1, 1, 32, 32, 32)
    torch.export.save(torch.export.export(theirs, (image,)), folder / "models" / "model.pt2")

    said = {"grid": "none", "shape": "32,32,32", "normalisation": "none", "output": "softmax", "positive": "AD"}
    model = load_model(create_package(folder, said | {"trained-on": "nobody", "licence": "CC0"}, tmp_path / "package"))
    assert model.classes == ("CN", "AD")
    evaluation = Evaluation(model.network, image, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(evaluation.logits, theirs(image), rtol=1e-5, atol=1e-5)
    x = image.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(theirs(x)[0, 1], x)
    found = attribute(evaluation, "sensitivity", Target(1, "logit"), {"postprocess": "signed"})
    torch.testing.assert_close(torch.from_numpy(found.values), expected[0], rtol=1e-4, atol=1e-6)
