"""What a network's card recommends, and the control mean it names."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import NetworkError, UnknownNameError, UsageError
from ADAttributionLogic.explain import MethodRequest, explain
from ADAttributionLogic.networks.packages import load_package
from ADAttributionLogic.recommendation import recommended, sentence
from ADAttributionLogic.scan_files import read_scan

RECOMMENDED = {
    "method": "deeplift",
    "options": {"rule": "gamma"},
    "why": "It was first in the benchmark.",
    "figures": [{"measure": "precision", "value": 0.6, "instead": {"edge-filter": 0.01}, "n": 30}],
    "source": "a test",
}


@pytest.fixture
def package(small_package: Path, small_scan_file: Path, tmp_path: Path) -> Path:
    """The small network with half of the small scan as the mean of its controls."""
    folder = tmp_path / "package"
    shutil.copytree(small_package, folder)
    model = load_package(folder)
    mean = read_scan(small_scan_file).array.astype(np.float32)
    mean = mean / mean.max() / 2
    assert model.grid is not None and mean.shape == model.shape
    nib.save(nib.Nifti1Image(mean, model.grid.affine), folder / "mean.nii.gz")
    change(folder, control_mean=entry(folder / "mean.nii.gz"), recommended=RECOMMENDED)
    return folder


def entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "of": "a test"}


def change(folder: Path, **entries: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **entries}), encoding="utf-8")


def test_without_a_recommendation_it_is_lrp(small_package: Path) -> None:
    model = load_package(small_package)
    assert recommended(model) == MethodRequest("lrp") and sentence(model) == "" and model.control_mean is None


def test_the_card_recommends_a_method_with_options(package: Path) -> None:
    model = load_package(package)
    assert recommended(model) == MethodRequest("deeplift", {"rule": "gamma"})
    assert "deeplift (rule gamma), which the card of" in sentence(model) and "first in the benchmark" in sentence(model)


def test_a_method_or_option_that_does_not_exist_is_refused(package: Path) -> None:
    change(package, recommended={**RECOMMENDED, "method": "deeplft"})
    with pytest.raises(UnknownNameError, match="deeplift"):
        recommended(load_package(package))
    change(package, recommended={**RECOMMENDED, "options": {"rule": "delta"}})
    with pytest.raises(UnknownNameError, match="rescale"):
        recommended(load_package(package))


def test_the_control_mean_is_what_a_scan_is_compared_with(package: Path, small_scan_file: Path) -> None:
    """As it is: it was normalised already, which would double it here."""
    model, scan = load_package(package), read_scan(small_scan_file)
    found = explain(scan, model, ["deeplift"], with_spread=False)
    assert found.provenance["reference"]["sha256"] == model.card["control_mean"]["sha256"]
    mean = torch.from_numpy(model.control_mean().array)[None, None]  # type: ignore[misc]
    before = torch.softmax(Evaluation(model.network, mean, torch.device("cpu")).logits, 1)[0, model.positive_class]
    result = found.heatmaps[0].attribution
    assert result.to_attribute == pytest.approx(result.score - float(before), abs=1e-5)
    assert explain(scan, model, ["lrp"], with_spread=False).provenance["reference"] is None


def test_a_given_reference_goes_before_the_cards(package: Path, small_scan_file: Path) -> None:
    model, scan = load_package(package), read_scan(small_scan_file)
    found = explain(scan, model, ["deeplift"], reference=scan, with_spread=False)
    assert not found.heatmaps[0].volume.array.any(), "nothing differs from the scan itself"


def test_without_any_reference_the_error_says_what_to_do(small_package: Path, small_scan_file: Path) -> None:
    with pytest.raises(UsageError, match="card names no reference and none was given"):
        explain(read_scan(small_scan_file), load_package(small_package), ["deeplift"], with_spread=False)


def test_a_changed_control_mean_is_refused(package: Path) -> None:
    model = load_package(package)
    path = package / "mean.nii.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(NetworkError, match="changed or damaged"):
        model.control_mean()  # type: ignore[misc]


def test_the_command_line_takes_what_the_card_recommends_and_says_so(
    package: Path, small_scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["explain", str(small_scan_file), "--model", str(package), "--atlas", "none", "--no-figure", "--no-scene"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "No method was chosen: deeplift (rule gamma)" in capsys.readouterr().err
    methods = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))["methods"]
    assert list(methods) == ["deeplift"] and methods["deeplift"]["options"]["rule"] == "gamma"
    assert main([*command, "--lrp-beta", "0.5", "--out", str(tmp_path / "lrp")]) == 0
    assert "No method was chosen" not in capsys.readouterr().err
