"""Qiu et al. 2022: the published weights as packages, on a real brain."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from heads import BRAIN, needs_head
from ncomms2022 import SOURCE, needs_weights
from torch import Tensor

from ADAttributionLogic.errors import NetworkError, UnknownNameError
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.networks.qiu2022_package import convert, source_files
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.scan_files import read_scan

NAMES = ("qiu2022-impairment", "qiu2022-alzheimers")
EPOCHS = (58, 39, 62, 51, 75)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("qiu2022")
    return {name: load_model(convert(name, SOURCE, folder / name)) for name in NAMES}


def published(head: str, fold: int, x: Tensor) -> Tensor:
    """Straight from the authors' files with PyTorch's functions, without any class of ours."""
    folder = SOURCE / "checkpoint_dir" / f"CNN_baseline_new_cross{fold}"
    body, mlp = (
        {k.removeprefix("module."): v for k, v in torch.load(path, weights_only=True, map_location="cpu").items()}
        for path in (folder / f"backbone_{EPOCHS[fold]}.pth", folder / f"{head}_{EPOCHS[fold]}.pth")
    )
    for block, (stride, pool) in enumerate(((2, (3, 2)), (1, (2, 2)), (1, (2, 2)), (1, (2, 2))), start=1):
        x = F.max_pool3d(F.conv3d(x, body[f"block{block}.conv.weight"], stride=stride), *pool)
        part = [body[f"block{block}.BN.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.leaky_relu(F.batch_norm(x, *part), 0.01)
    x = F.leaky_relu(F.linear(x.flatten(1), mlp["dense1.1.weight"], mlp["dense1.1.bias"]), 0.01)
    return F.linear(x, mlp["dense2.2.weight"], mlp["dense2.2.bias"])


@needs_weights
@needs_head
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "oracle"),
    [
        ("qiu2022-impairment", "COG", (0.37, 0.45, 0.46, 0.42, 0.35)),
        ("qiu2022-alzheimers", "ADD", (0.42, 0.99, 1.00, 0.28, 0.98)),
    ],
)
def test_all_state_dicts_on_a_real_brain(
    models: dict[str, Model], name: str, head: str, oracle: tuple[float, ...]
) -> None:
    """The input by nibabel and numpy alone, the layers by PyTorch's functions, and the numbers in COHORT.md."""
    import nibabel
    from nibabel.processing import resample_from_to

    model = models[name]
    placed = resample_from_to(nibabel.load(BRAIN), (model.shape, model.grid.affine), order=1).get_fdata()
    placed = np.maximum(placed, 0)
    x = np.clip(placed / placed.mean(), 0, 8).astype(np.float32)
    ours = prepare(read_scan(BRAIN), model.grid, model.normalisation).array
    np.testing.assert_allclose(ours, x, atol=1e-5)
    for fold, member in enumerate(model.members):
        expected = published(head, fold, torch.from_numpy(x)[None, None])
        found = member.load().folded.logits(torch.from_numpy(ours)[None, None])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        answer = float(found) if head == "COG" else float(torch.softmax(found, 1)[0, 1])
        assert round(answer, 2) == oracle[fold]


@needs_weights
def test_cards_of_the_packages(models: dict[str, Model]) -> None:
    impairment, alzheimers = (models[name] for name in NAMES)
    assert impairment.grid.orientation() == "LAS"
    assert impairment.grid.to_ras((0, 0, 0)).tolist() == [90, -126, -72]
    assert impairment.members[0].thresholds == (0.628, 1.049) and len(impairment.members) == 5
    assert impairment.output.thresholds == pytest.approx((0.6372, 1.067), abs=1e-6)
    assert (alzheimers.classes, alzheimers.output.kind) == (("other dementia", "Alzheimer's dementia"), "softmax")
    for model in models.values():
        assert {"licence", "citation", "not_for", "preparation", "performance"} <= set(model.card)


@needs_weights
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    for file in source_files(NAMES[0]):
        (tmp_path / "clone" / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE / file.path, tmp_path / "clone" / file.path)
    changed = tmp_path / "clone" / source_files(NAMES[0])[3].path
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(NetworkError, match="is not the published file"):
        convert(NAMES[0], tmp_path / "clone", tmp_path / "package")
    changed.unlink()
    with pytest.raises(NetworkError, match="is missing.*at commit e68d9b651e42"):
        convert(NAMES[0], tmp_path / "clone", tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_only_the_two_heads_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="qiu2022-impairment"):
        convert("qiu2022", tmp_path, tmp_path / "package")
