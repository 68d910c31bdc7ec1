"""Networks from .pt2 files: any number of images, what they return, and calls whose shapes would reach too far."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.errors import NetworkError, UnsupportedOperationError
from ADAttributionLogic.networks.exported_file import read_exported_network
from ADAttributionLogic.networks.loading import load_model


class Small(nn.Module):
    def __init__(self, ending: Callable[[Tensor], Tensor] = lambda s: s) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3)
        self.scores, self.ending = nn.Linear(3 * 27, 2), ending

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.first(x)))
        return self.ending(self.scores(y.view(x.size(0), -1)))


def export(network: nn.Module, path: Path, batch: int = 1, dynamic: object = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network.eval(), (torch.zeros(batch, 1, 5, 5, 5),), dynamic_shapes=dynamic, strict=False
        )
        torch.export.save(program, path)
    return path


def edited(path: Path, member: str, change: Callable[[Any], None]) -> Path:
    """The file with the JSON of one member changed."""
    target = path.with_name("edited.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(member):
                document = json.loads(data)
                change(document)
                data = json.dumps(document).encode()
            new.writestr(info.filename, data)
    return target


def test_the_number_of_images_may_be_left_open(tmp_path: Path) -> None:
    network, batch = Small(), torch.export.Dim("batch", min=1)
    path = export(network, tmp_path / "n.pt2", 2, ({0: batch},))
    x = torch.rand(3, 1, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read_exported_network(path)(x), network(x))
    model = load_model(path)
    assert model.network.graph is not None and model.shape == (5, 5, 5)
    torch.testing.assert_close(model.network.graph.logits(x), network(x))


def test_other_sizes_may_not(tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.scores(x.mean((2, 3, 4)))

    path = export(Pooled(), tmp_path / "n.pt2", dynamic=({2: torch.export.Dim("height")},))
    with pytest.raises(UnsupportedOperationError, match="Only the number of images may be left open"):
        read_exported_network(path)


@pytest.mark.parametrize("flag", [False, True])
def test_probabilities_of_an_exported_network(tmp_path: Path, flag: bool) -> None:
    """A softmax that is found, whatever is said; a smoothed one only where it is said."""
    x = torch.rand(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    found = Small(lambda s: F.softmax(s.view(-1, 2, 1, 1, 1), 1).flatten(1))
    smoothed = Small(lambda s: 0.9 * F.softmax(s, 1) + 0.05)
    for number, network in enumerate((found, smoothed)):
        path = export(network, tmp_path / f"{number}.pt2")
        if network is smoothed and not flag:
            with pytest.raises(NetworkError, match="--gives-probabilities"):
                load_model(path)
            continue
        model = load_model(path, gives_probabilities=flag)
        result = attribute(Evaluation(model.network, x, torch.device("cpu")), "lrp")
        np.testing.assert_allclose(result.probabilities, network(x)[0].detach(), atol=1e-6)


@pytest.mark.parametrize("operation", ["batch_norm", "native_batch_norm"])
@pytest.mark.parametrize("opaque", [False, True])
def test_statistics_that_are_too_short_are_refused(tmp_path: Path, operation: str, opaque: bool) -> None:
    """PyTorch's batch normalisation would read the memory behind them."""
    network = Small((lambda s: s.cumsum(1)) if opaque else (lambda s: s))
    path = export(network, tmp_path / "n.pt2")

    def shorten(config: Any) -> None:
        config["config"]["norm.running_mean"]["tensor_meta"]["sizes"] = [{"as_int": 0}]

    def rename(program: Any) -> None:
        for node in program["graph_module"]["graph"]["nodes"]:
            if node["target"] == "torch.ops.aten.batch_norm.default" and operation != "batch_norm":
                node["target"] = "torch.ops.aten.native_batch_norm.default"
                node["inputs"] = [i for i in node["inputs"] if i["name"] != "cudnn_enabled"]
                node["outputs"] = [{"as_tensors": [node["outputs"][0]["as_tensor"], {"name": "m"}, {"name": "v"}]}]

    shortened = edited(path, "model_weights_config.json", shorten)
    path = edited(shortened.rename(tmp_path / "short.pt2"), "models/model.json", rename)
    with pytest.raises(NetworkError, match=r"damaged: its running_mean has shape \(0,\), but the layer has 3 channels"):
        load_model(path)
    with pytest.raises(NetworkError, match="running_mean"):
        read_exported_network(path)(torch.zeros(1, 1, 5, 5, 5))


def test_a_range_of_any_size_is_refused(tmp_path: Path) -> None:
    path = export(Small(lambda s: s + torch.arange(2)), tmp_path / "n.pt2")

    def enlarge(program: Any) -> None:
        (node,) = (n for n in program["graph_module"]["graph"]["nodes"] if "arange" in n["target"])
        node["inputs"][0]["arg"] = {"as_int": 10**13}

    with pytest.raises(NetworkError, match=r"10000000000000|refused"):
        load_model(edited(path, "models/model.json", enlarge))


@pytest.mark.parametrize("opaque", [False, True])
def test_a_constant_of_any_size_is_refused(tmp_path: Path, opaque: bool) -> None:
    ending = (lambda s: (s + torch.full((2,), 1.5)).cumsum(1)) if opaque else (lambda s: s + torch.full((2,), 1.5))
    path = export(Small(ending), tmp_path / "n.pt2")

    def enlarge(program: Any) -> None:
        (node,) = (
            n for n in program["graph_module"]["graph"]["nodes"] if n["target"].startswith("torch.ops.aten.full")
        )
        node["inputs"][0]["arg"] = {"as_ints": [10**13, 1]}

    with pytest.raises(NetworkError, match="more than .* refused"):
        load_model(edited(path, "models/model.json", enlarge))
