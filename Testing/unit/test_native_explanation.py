"""Explaining a scan as acquired: on the command line and in Python, in both spaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.explain import Explanation, explain
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.pipeline import Options
from ADAttributionLogic.preprocessing.quality import QualityError
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.simulation.native_scan import Acquisition, NativeScan, acquire
from ADAttributionLogic.volume import Volume


@pytest.fixture(scope="module")
def native(template: Volume) -> NativeScan:
    return acquire(
        template, Acquisition((-10, 6, 12), (-20, 10, 15), (2.5, 2.5, 2.5), "coronal", "uint8", 0.1, 0.01, 5)
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the module: the scan is registered once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AD_ATTRIBUTION_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def explanation(native: NativeScan, small_model: Model, cache: Path) -> Explanation:
    atlas = load_atlas("neuromorphometrics")
    return explain_native(native.scan, small_model, ["lrp", "sensitivity"], atlas=atlas, space="native")


def test_everything_lies_on_the_scan_as_acquired(explanation: Explanation, native: NativeScan) -> None:
    assert explanation.scan.grid.is_same(native.scan.grid)
    np.testing.assert_array_equal(explanation.scan.array, native.scan.array)
    for heatmap in explanation.heatmaps:
        assert heatmap.volume.grid.is_same(native.scan.grid)
    assert explanation.atlas is not None and explanation.atlas.labels.grid.is_same(native.scan.grid)
    assert explanation.provenance["space"] == "native"
    steps = [step["step"] for step in explanation.provenance["preprocessing"]]
    assert steps[0] == "reorient" and steps[-1] == "normalise" and "registration and resampling" in steps


def test_the_decision_hardly_depends_on_how_the_patient_lay(
    explanation: Explanation, small_model: Model, template: Volume
) -> None:
    direct = explain(template, small_model, ["sensitivity"])
    assert explanation.probabilities["AD"] == pytest.approx(direct.probabilities["AD"], abs=0.1)


def test_tables_of_both_spaces_agree(
    explanation: Explanation, native: NativeScan, small_model: Model, cache: Path
) -> None:
    """Sums of large regions, from the cached preprocessing; the scan's voxels are others than the model's."""
    atlas = load_atlas("neuromorphometrics")
    model = explain_native(native.scan, small_model, ["lrp"], atlas=atlas, space="model")
    assert model.provenance["preprocessing_from_cache"]
    here, there = explanation.heatmaps[0].table, model.heatmaps[0].table
    assert here.columns["sum"].sum() == pytest.approx(there.columns["sum"].sum(), rel=0.02)
    sums = {row["name"]: row["sum"] for row in here.rows()}
    rows = [row for row in there.rows() if row["volume_mm3"] > 4000 and row["label"]]
    assert len(rows) > 40
    pairs = np.array([(row["sum"], sums[row["name"]]) for row in rows])
    assert np.corrcoef(pairs.T)[0, 1] > 0.9


def test_the_command_line_writes_transforms_and_quality(
    native: NativeScan, small_package: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_volume(native.scan, tmp_path / "scan.nii.gz")
    command = ["preprocess", str(scan), "--model", str(small_package), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "similarity to the template: 0." in printed and "Seconds: " in printed
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert names == {
        "brain.nii.gz",
        "brain-mask.nii.gz",
        "preprocessing.json",
        "quality.png",
        "transforms/model-to-scan.mat",
        "transforms/scan-to-model.mat",
    }
    record = json.loads((tmp_path / "out" / "preprocessing.json").read_text(encoding="utf-8"))
    assert record["quality"]["passed"] and "not for clinical use" in record["notice"]
    assert main(command) == 6, "nothing is overwritten"
    assert sorted(p.name for p in tmp_path.iterdir() if p != cache) == ["out", "scan.nii.gz"]


def test_a_scan_that_fails_the_checks_is_refused_and_leaves_nothing(
    native: NativeScan, small_package: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contrast as in a T2: exit code 3 and the numbers, unless accepted."""
    inverted = np.where(native.scan.array > 20, native.scan.array.max() * 1.1 - native.scan.array, 0)
    scan = write_volume(native.scan.with_array(inverted.astype(np.float32)), tmp_path / "t2.nii.gz")
    command = ["preprocess", str(scan), "--model", str(small_package), "--no-figure", "--out", str(tmp_path / "out")]
    assert main(command) == 3
    message = capsys.readouterr().err
    assert "white to grey matter" in message and "T2, FLAIR" in message and "--accept-qc" in message
    assert not (tmp_path / "out").exists()
    assert main([*command, "--accept-qc"]) == 0
    assert "accepted by the user" in capsys.readouterr().err


def test_a_result_on_the_scan_is_checked_on_the_networks_grid(
    native: NativeScan, small_package: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When it is made, and again when it is finished: the map on the scan is what carrying the new one there gives."""
    scan, out = write_volume(native.scan, tmp_path / "scan.nii.gz"), tmp_path / "out"
    command = ["explain", str(scan), "--model", str(small_package), "--registration", "affine", "--space", "native"]
    methods = ["--method", "lrp", "--method", "sensitivity", "--checks", "3", "--no-figure", "--no-scene"]
    assert main([*command, *methods, "--out", str(out)]) == 0
    assert read_scan(out / "checks" / "consensus.nii.gz").grid.is_same(native.scan.grid)
    capsys.readouterr()
    assert main(["check", str(out), "--model", str(small_package), "--checks", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("✓ Recomputation") == 2 and "carried onto the scan" in printed.err


def test_wrong_usage_is_named(
    native: NativeScan, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = str(write_volume(native.scan, tmp_path / "scan.nii.gz"))
    command = ["explain", scan, "--model", str(small_package), "--atlas", "none", "--out", str(tmp_path / "out")]
    for options, message in (
        (["--registration", "affine", "--brain-label", "3"], "but not --brain-mask"),
        (["--brain-mask", scan], "--brain-mask needs a registration"),
        (["--registered", "no"], "--registered needs a registration"),
        (["--no-bias-correction"], "--no-bias-correction needs a registration"),
        (["--accept-qc"], "--accept-qc needs a registration"),
    ):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err


def test_a_scan_taken_as_registered_that_is_not_gets_a_note(
    native: NativeScan, small_scan: Volume, small_model: Model
) -> None:
    fine = explain(small_scan, small_model, ["sensitivity"]).provenance
    assert fine["looks_registered"]["looks_registered"] and not any("look registered" in n for n in fine["notes"])
    found = explain(native.scan, small_model, ["sensitivity"]).provenance
    assert not found["looks_registered"]["looks_registered"]
    assert found["looks_registered"]["similarity"] < found["looks_registered"]["least"]
    assert "--registration affine" in found["notes"][0] and "similarity" in found["notes"][0]


def test_a_model_without_space_cannot_be_registered_to(native: NativeScan) -> None:
    from small_networks import PublishedStyle

    from ADAttributionLogic.networks.loading import model_from_module

    with pytest.raises(UsageError, match="says nothing about the space"):
        explain_native(native.scan, model_from_module(PublishedStyle(3), (20, 20, 20)), ["lrp"])


def test_a_localiser_is_no_quality_matter(small_model: Model) -> None:
    slab = Volume(np.random.default_rng(0).random((256, 256, 3)).astype(np.float32), np.diag((1.0, 1, 8, 1)))
    with pytest.raises(Exception, match="localiser") as raised:
        explain_native(slab, small_model, ["lrp"], Options())
    assert not isinstance(raised.value, QualityError)


def test_a_written_result_is_read_back_as_it_was(explanation: Explanation, native: NativeScan, tmp_path: Path) -> None:
    """With the transform, the checks, and the atlas carried onto the scan again."""
    from ADAttributionLogic.report.result_folder import write_explanation
    from ADAttributionLogic.report.result_reading import read_result

    folder = write_explanation(explanation, tmp_path / "result", figure=False)
    answer, scan = read_result(folder, native.scan)
    assert scan is native.scan and answer.scan is scan and answer.preparation is not None
    assert answer.preparation.space == "native" and answer.preparation.report.quality.passed
    assert explanation.preprocessed is not None and explanation.atlas is not None and answer.atlas is not None
    np.testing.assert_allclose(answer.preparation.transform.matrix, explanation.preprocessed.transform.matrix)
    np.testing.assert_allclose(answer.preparation.brain.array, explanation.preprocessed.brain.array, rtol=1e-6)
    assert (answer.atlas.labels.array != explanation.atlas.labels.array).mean() < 1e-3, "but for voxels on a border"
    assert [r.name for r in answer.atlas.regions] == [r.name for r in explanation.atlas.regions]
    for found, heatmap in zip(answer.maps, explanation.heatmaps, strict=True):
        np.testing.assert_array_equal(found.volume.array, heatmap.volume.array)
        assert found.table is not None and heatmap.table is not None
        for name, column in heatmap.table.columns.items():
            np.testing.assert_array_equal(found.table.columns[name], column)
    assert answer.provenance["probabilities"] == explanation.probabilities
