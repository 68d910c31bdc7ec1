"""A real head as scanners deliver it, with known motion: found again, extracted, and explained on the scan itself.

Three representative acquisitions; ``Testing/benchmarks/study_native_recovery.py`` makes twelve and prints all figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import colin27, needs_head

from ADAttributionLogic.cli import main
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preprocessing.brain_extraction import overlap
from ADAttributionLogic.preprocessing.pipeline import Options, Preprocessed, preprocess
from ADAttributionLogic.registration.deformable import ants_available
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.native_scan import acquire, draw_acquisition
from ADAttributionLogic.volume import Volume, resample

SMALL = Grid((78, 92, 78), np.array([[2.5, 0, 0, -96], [0, 2.5, 0, -132], [0, 0, 2.5, -78], [0, 0, 0, 1.0]]))

pytestmark = [pytest.mark.slow, needs_head]


@pytest.fixture(scope="module")
def target(template: Volume) -> RegistrationTarget:
    return RegistrationTarget(template)


@pytest.fixture(scope="module")
def direct(target: RegistrationTarget) -> Preprocessed:
    """The head as it is, which the acquisitions are held against."""
    return preprocess(colin27()[0], SMALL, target, Options(registered=False))


def test_a_real_head_is_registered_and_its_brain_found(direct: Preprocessed) -> None:
    """The brain against BET's, which knows nothing of our template."""
    assert direct.quality.passed, direct.quality.failures
    assert overlap(direct.brain_mask.array, colin27()[1].array) > 0.93
    similarity = next(c for c in direct.quality.checks if c.name == "similarity to the template")
    assert similarity.value > 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_acquisitions_of_a_real_head_are_recovered(direct: Preprocessed, target: RegistrationTarget, seed: int) -> None:
    """Seed 0: 20°, 30 mm, 1 mm, axial, uint8. Seed 1: 1×1×3 mm, sagittal, uint8."""
    head, brain = colin27()
    native = acquire(head, draw_acquisition(seed))
    found = preprocess(native.scan, SMALL, target)
    points = target.brain.grid.to_ras(np.argwhere(target.mask.array)[::997])
    truth = direct.transform.points_to_scan(points) @ native.matrix[:3, :3].T + native.matrix[:3, 3]
    assert np.linalg.norm(found.transform.points_to_scan(points) - truth, axis=1).mean() <= 2
    moved = resample(Volume(brain.array, native.matrix @ brain.affine), native.scan.grid, "nearest")
    assert overlap(found.brain_mask.array, moved.array) >= 0.93
    assert found.quality.passed, found.quality.failures


@pytest.mark.skipif(not ants_available(), reason="needs ANTs (antspyx, extra registration)")
def test_the_deformable_path_fits_better_and_inverts(direct: Preprocessed, target: RegistrationTarget) -> None:
    found = preprocess(colin27()[0], SMALL, target, Options("deformable", registered=False))
    similarity = {
        kind: next(c.value for c in p.quality.checks if c.name == "similarity to the template")
        for kind, p in (("affine", direct), ("deformable", found))
    }
    assert similarity["deformable"] > similarity["affine"] + 0.05
    assert overlap(found.brain_mask.array, colin27()[1].array) > 0.93
    points = target.brain.grid.to_ras(np.argwhere(target.mask.array)[::9973])
    back = found.transform.points_to_model(found.transform.points_to_scan(points))
    assert np.linalg.norm(back - points, axis=1).mean() < 0.5


def test_explain_shows_the_heatmap_on_the_scan_as_acquired(
    small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command from a file of a head; the second one, with another method, takes the cache."""
    monkeypatch.setenv("AD_ATTRIBUTION_CACHE", str(tmp_path / "cache"))
    native = acquire(colin27()[0], draw_acquisition(1))
    path = write_volume(native.scan, tmp_path / "head.nii.gz")
    command = ["explain", str(path), "--model", str(small_package), "--space", "native", "--registration", "affine"]
    assert main([*command, "--method", "lrp", "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    out = tmp_path / "out"
    heatmap = nib.load(out / "heatmaps" / "lrp.nii.gz")
    assert heatmap.shape == native.scan.grid.shape
    np.testing.assert_allclose(heatmap.affine, native.scan.affine, atol=1e-4)
    record = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    assert record["space"] == "native" and record["quality"]["passed"] and not record["preprocessing_from_cache"]
    names = {p.name for p in (out / "preprocessing").rglob("*")}
    assert {"brain.nii.gz", "brain-mask.nii.gz", "quality.png", "scan-to-model.mat", "model-to-scan.mat"} <= names
    with open(out / "tables" / "lrp.json", encoding="utf-8") as file:
        assert json.load(file)
    assert (out / "scene.mrb").exists()
    assert main([*command, "--method", "sensitivity", "--no-scene", "--no-figure", "--out", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b" / "provenance.json").read_text(encoding="utf-8"))["preprocessing_from_cache"]
