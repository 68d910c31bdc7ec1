"""The main job in one function, and its results as a folder."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_grid import SMALL_AFFINE, SMALL_SHAPE
from small_networks import PublishedStyle
from test_volume import ORIENTATIONS, reoriented

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.errors import (
    AtlasError,
    Cancelled,
    GeometryError,
    GridMismatchError,
    OutputError,
    ScanError,
    UnknownNameError,
    UsageError,
)
from ADAttributionLogic.explain import Explanation, MethodRequest, explain
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.loading import model_from_module
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.report.result_folder import check_output_folder, write_explanation
from ADAttributionLogic.volume import Volume

METHODS = ("lrp", "sensitivity", "gradient-x-input", "guided-backprop")


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return load_atlas("neuromorphometrics")


@pytest.fixture(scope="module")
def explanation(small_scan: Volume, small_model: Model, atlas: Atlas) -> Explanation:
    return explain(small_scan, small_model, METHODS, atlas=atlas)


# --------------------------------------------------------------------------------------------------------- explaining


def test_what_an_explanation_holds(explanation: Explanation, small_scan: Volume) -> None:
    assert [h.name for h in explanation.heatmaps] == list(METHODS)
    assert explanation.target_class == "AD"
    assert sum(explanation.probabilities.values()) == pytest.approx(1)
    assert explanation.predicted_class in ("CN", "AD")
    for heatmap in explanation.heatmaps:
        assert heatmap.volume.grid.shape == SMALL_SHAPE and heatmap.volume.array.dtype == np.float32
        np.testing.assert_allclose(heatmap.volume.affine, SMALL_AFFINE)
        assert heatmap.table.columns["sum"].sum() == pytest.approx(
            heatmap.attribution.relevance_sum, rel=1e-5, abs=1e-9
        )
    steps = explanation.provenance["preprocessing"]
    assert [s["step"] for s in steps] == ["reorient", "normalise"] and steps[0]["interpolation"] == "none"


def test_the_networks_decision_is_the_modules(explanation: Explanation, small_package: Path) -> None:
    """Against the plain PyTorch module on the array that the seeds would have fed it."""
    from safetensors.torch import load_file

    from ADAttributionLogic.architectures.catalogue import build_network

    network = build_network("boehle2019", SMALL_SHAPE)
    network.load_state_dict(load_file(small_package / "weights.safetensors"))
    scan = explanation.scan.array
    with torch.no_grad():
        logits = network(torch.from_numpy(scan / scan.max())[None, None])
    assert explanation.probabilities["AD"] == pytest.approx(float(torch.softmax(logits, 1)[0, 1]), abs=1e-6)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[2::9])
def test_the_scans_storage_order_changes_nothing(
    small_scan: Volume,
    small_model: Model,
    atlas: Atlas,
    explanation: Explanation,
    axes: tuple[int, ...],
    signs: tuple[int, ...],
) -> None:
    """Re-oriented files give the same maps and the same table, to rounding."""
    found = explain(reoriented(small_scan, axes, signs), small_model, ["lrp"], atlas=atlas)
    np.testing.assert_array_equal(found.heatmaps[0].volume.array, explanation.heatmaps[0].volume.array)
    for name, column in explanation.heatmaps[0].table.columns.items():
        np.testing.assert_array_equal(found.heatmaps[0].table.columns[name], column)


def test_other_grids_are_resampled_through_the_affines(
    small_scan: Volume, small_model: Model, explanation: Explanation
) -> None:
    """The same brain sampled obliquely at 2 mm: nearly the same decision, and the steps say what was done."""
    from scipy.spatial.transform import Rotation

    from ADAttributionLogic.geometry import Grid
    from ADAttributionLogic.volume import resample

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (8, -5, 10), degrees=True).as_matrix() * 2
    affine[:3, 3] = -affine[:3, :3] @ (70, 80, 70) + (0, -17, 19)
    oblique = resample(small_scan, Grid((140, 160, 140), affine))
    found = explain(oblique, small_model, ["sensitivity"])
    assert found.provenance["preprocessing"][0]["step"] == "resample"
    assert found.probabilities["AD"] == pytest.approx(explanation.probabilities["AD"], abs=0.02)
    brain = explanation.scan.array > 0
    assert np.corrcoef(found.scan.array[brain], explanation.scan.array[brain])[0, 1] > 0.96


@pytest.mark.parametrize(("target", "name"), [("positive", "AD"), ("cn", "CN"), ("AD", "AD"), ("0", "CN"), (1, "AD")])
def test_all_methods_explain_one_class(small_scan: Volume, small_model: Model, target: str | int, name: str) -> None:
    found = explain(small_scan, small_model, ["lrp", "sensitivity"], target=target)
    assert found.target_class == name
    assert {h.attribution.class_index for h in found.heatmaps} == {["CN", "AD"].index(name)}
    assert all(h.attribution.score == pytest.approx(found.probabilities[name]) for h in found.heatmaps)


def test_the_predicted_class_can_be_explained(small_scan: Volume, small_model: Model) -> None:
    found = explain(small_scan, small_model, ["sensitivity"], target="predicted")
    assert found.target_class == found.predicted_class


def test_a_method_may_be_asked_for_twice(small_scan: Volume, small_model: Model) -> None:
    found = explain(small_scan, small_model, ["lrp", MethodRequest("lrp", {"beta": 1.0})])
    assert [h.name for h in found.heatmaps] == ["lrp", "lrp-2"]
    assert np.abs(found.heatmaps[0].volume.array - found.heatmaps[1].volume.array).max() > 0


def test_area_occlusion_uses_the_atlas(small_scan: Volume, small_model: Model) -> None:
    merged = load_atlas("aal", grouping="aal2-left-right")
    found = explain(small_scan, small_model, [MethodRequest("area-occlusion", {"signed": True})], atlas=merged)
    heatmap, labels = found.heatmaps[0].volume.array, found.atlas.labels.array
    values = [np.unique(heatmap[labels == region.label]) for region in found.atlas.regions]
    assert all(v.size == 1 for v in values) and len({float(v[0]) for v in values}) > 10
    drops = dict(zip(found.heatmaps[0].table.columns["label"], found.heatmaps[0].table.columns["drop"], strict=True))
    for region, value in zip(found.atlas.regions, values, strict=True):
        assert drops[region.label] == pytest.approx(float(value[0]), abs=1e-6)
    assert found.heatmaps[0].table.described[-1].name == "drop"
    with pytest.raises(UsageError, match="Area occlusion needs an atlas"):
        explain(small_scan, small_model, ["area-occlusion"])


def test_provenance_says_everything_needed_to_repeat_it(
    explanation: Explanation, small_scan_file: Path, small_model: Model
) -> None:
    from ADAttributionLogic.networks.packages import file_sha256
    from ADAttributionLogic.scan_files import read_scan

    record = explain(read_scan(small_scan_file), small_model, ["lrp"]).provenance
    assert record["scan"]["file_sha256"] == file_sha256(small_scan_file)
    assert record["model"]["weights_sha256"] == small_model.weights_sha256
    assert record["model"]["training"]["data"] == "nothing: random weights"
    assert "not for clinical use" in record["notice"].lower()
    assert {"torch", "numpy", "python", "ad-attribution"} <= set(record["software"])
    lrp = record["methods"]["lrp"]
    assert lrp["options"]["rule"] == "b-rule" and lrp["options"]["beta"] == 0
    assert lrp["to_attribute"] == pytest.approx(lrp["relevance_sum"] + lrp["unattributed"])
    assert record["seconds"] > 0 and record["device"].startswith("cpu")
    json.dumps(explanation.provenance, allow_nan=False)


def test_progress_rises_to_one_and_cancelling_stops(small_scan: Volume, small_model: Model) -> None:
    seen: list[tuple[float, str]] = []
    explain(small_scan, small_model, METHODS, monitor=Monitor(lambda f, t: seen.append((f, t))))
    fractions = [f for f, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any("Guided" in text for _, text in seen)
    with pytest.raises(Cancelled):
        explain(small_scan, small_model, METHODS, monitor=Monitor(is_cancelled=lambda: len(seen) > 0))


def test_what_was_finished_before_cancelling_is_kept(small_scan: Volume, small_model: Model, tmp_path: Path) -> None:
    """Whole maps, and a voxel map as far as it was refined; the result says so and can be written."""
    texts: list[str] = []
    monitor = Monitor(lambda _, text: texts.append(text), lambda: any("voxels covered: " in t for t in texts[:-1]))
    methods = ["sensitivity", "voxel-occlusion", "lrp"]
    found = explain(small_scan, small_model, methods, monitor=monitor)
    assert "sensitivity" in [h.name for h in found.heatmaps] and "lrp" not in [h.name for h in found.heatmaps]
    assert "Cancelled after 1 of 3 methods were finished" in found.provenance["notes"][-1]
    assert found.provenance["is_cancelled"]
    if len(found.heatmaps) == 2:
        partial = found.heatmaps[1].attribution
        assert partial.is_partial and "Cancelled after" in partial.notes[0] and partial.values.any()
    assert (write_explanation(found, tmp_path / "out", figure=False) / "heatmaps" / "sensitivity.nii.gz").exists()


def test_a_mask_and_a_reference_come_through_the_same_geometry(small_scan: Volume, small_model: Model) -> None:
    """Covering a scan with itself changes nothing; the mask is placed by its affine."""
    box = np.zeros_like(small_scan.array)
    box[30:40, 40:50, 30:40] = 1
    request = MethodRequest(
        "occlusion", {"size": 12, "stride": 12, "mask": "given", "fill": "reference", "signed": True}
    )
    mask = small_scan.with_array(box)
    itself = explain(small_scan, small_model, [request], mask=mask, reference=small_scan)
    assert not itself.heatmaps[0].volume.array.any()
    darker = small_scan.with_array(np.sqrt(small_scan.array))
    found = explain(small_scan, small_model, [request], mask=mask, reference=darker).heatmaps[0].volume.array
    inside = box[::-1] > 0
    assert found[inside].any() and not found[~inside].any()


# ---------------------------------------------------------------------------------------------------------- bad input


def test_scans_that_cannot_be_used(small_scan: Volume, small_model: Model) -> None:
    broken = small_scan.array.copy()
    broken[3, 3, 3] = np.nan
    with pytest.raises(ScanError, match="1 NaN and 0 infinite"):
        explain(small_scan.with_array(broken), small_model, ["lrp"])
    repaired = explain(small_scan.with_array(broken), small_model, ["lrp"], replace_non_finite=0)
    assert "1 NaN" in repaired.provenance["notes"][0]
    with pytest.raises(ScanError, match="constant"):
        explain(small_scan.with_array(np.ones_like(small_scan.array)), small_model, ["lrp"])


def test_a_scan_elsewhere_in_space_is_refused(small_scan: Volume, small_model: Model) -> None:
    """For instance the seeds' own files, which have an identity affine (trap 3)."""
    with pytest.raises(GeometryError, match=r"covers \d+% of the network's grid.*Register"):
        explain(Volume(small_scan.array, np.eye(4)), small_model, ["lrp"])
    cropped = Volume(small_scan.array[:, :70], small_scan.affine)
    assert "covers only 75% of the network's grid" in explain(cropped, small_model, ["lrp"]).provenance["notes"][0]


def test_a_network_without_space_takes_only_its_shape(small_scan: Volume) -> None:
    model = model_from_module(PublishedStyle(3), (20, 20, 20))
    with pytest.raises(GridMismatchError, match=r"20×20×20 voxels, but the scan has 78×92×78"):
        explain(small_scan, model, ["lrp"])
    cube = Volume(small_scan.array[20:40, 20:40, 20:40], small_scan.affine)
    assert explain(cube, model, ["lrp"]).heatmaps[0].volume.grid.is_same(cube.grid)


def test_unknown_names(small_scan: Volume, small_model: Model) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean lrp"):
        explain(small_scan, small_model, ["lrpp"])
    with pytest.raises(UnknownNameError, match="CN, positive, predicted"):
        explain(small_scan, small_model, ["lrp"], target="MCI")
    with pytest.raises(UsageError, match="no class 7"):
        explain(small_scan, small_model, ["lrp"], target=7)
    with pytest.raises(UsageError, match="at least one method"):
        explain(small_scan, small_model, [])
    with pytest.raises(UsageError, match="no device 'gpu'"):
        explain(small_scan, small_model, ["lrp"], device="gpu")


def test_an_atlas_elsewhere_is_refused(small_scan: Volume, small_model: Model, atlas: Atlas) -> None:
    far = np.array(atlas.labels.affine)
    far[:3, 3] += 1000
    moved = Atlas("far", Volume(atlas.labels.array, far), atlas.regions)
    with pytest.raises(AtlasError, match="does not overlap"):
        explain(small_scan, small_model, ["lrp"], atlas=moved)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this computer has a GPU")
def test_a_gpu_that_is_not_there_is_never_silently_replaced(small_scan: Volume, small_model: Model) -> None:
    with pytest.raises(UsageError, match="finds no CUDA GPU"):
        explain(small_scan, small_model, ["lrp"], device="cuda")


# ------------------------------------------------------------------------------------------------------ normalisation


def test_normalisations() -> None:
    scan = np.array([[[0.0, 2.0], [4.0, 6.0]]], dtype=np.float32)
    np.testing.assert_allclose(Normalisation("min-max").apply(scan)[0], scan / 6)
    z, figures = Normalisation("z-score", "nonzero").apply(scan)
    np.testing.assert_allclose(z[0, 0, 1], (2 - 4) / np.std([2, 4, 6]), rtol=1e-6)
    assert z[0, 0, 0] == 0 and figures["mean"] == 4
    mean, std = np.ones_like(scan), np.array([[[0.0, 2.0], [1.0, 1.0]]], dtype=np.float32)
    np.testing.assert_allclose(Normalisation("voxelwise", "all", mean, std).apply(scan)[0], [[[0, 0.5], [3, 5]]])
    assert Normalisation().apply(scan)[0] is not scan


def test_the_darkest_brain_voxel_is_not_background() -> None:
    scan = np.array([[[0.0, 0.0], [50.0, 100.0]]], dtype=np.float32)
    np.testing.assert_allclose(Normalisation("min-max", "nonzero").apply(scan)[0], scan / 100)


def test_an_empty_field_of_view_is_an_error() -> None:
    scan = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    with pytest.raises(ScanError, match="constant"):
        prepare(scan, None, Normalisation("z-score", "nonzero"))


# ------------------------------------------------------------------------------------------------------ result folder


def test_a_result_folder(explanation: Explanation, tmp_path: Path) -> None:
    folder = write_explanation(explanation, tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == [
        "heatmaps", "overview.png", "provenance.json", "report.html", "tables",
    ]  # fmt: skip
    image = nib.load(folder / "heatmaps" / "lrp.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), explanation.heatmaps[0].volume.array)
    np.testing.assert_allclose(image.affine, SMALL_AFFINE)
    assert sorted(p.name for p in (folder / "tables").iterdir())[:4] == [
        "gradient-x-input.csv", "gradient-x-input.json", "gradient-x-input.tsv", "gradient-x-input.units.json",
    ]  # fmt: skip
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert record["kind"] == "ad-attribution/explanation/1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "no temporary files are left"


def test_results_are_never_overwritten_unasked(explanation: Explanation, tmp_path: Path) -> None:
    folder = write_explanation(explanation, tmp_path / "out", figure=False)
    mine = folder / "my notes.txt"
    mine.write_text("keep", encoding="utf-8")
    with pytest.raises(OutputError, match="nothing is overwritten"):
        write_explanation(explanation, folder, figure=False)
    assert mine.read_text(encoding="utf-8") == "keep"
    with pytest.raises(OutputError, match=r"did not write.*my notes\.txt"):
        write_explanation(explanation, folder, overwrite=True, figure=False)
    assert mine.read_text(encoding="utf-8") == "keep", "--overwrite replaces results, not what lies beside them"
    mine.unlink()
    table = folder / "tables" / "lrp.csv"
    table.write_text(table.read_text(encoding="utf-8") + "a remark of mine\n")
    with pytest.raises(OutputError, match=r"changed since: tables/lrp\.csv"):
        write_explanation(explanation, folder, overwrite=True, figure=False)
    table.unlink()
    write_explanation(explanation, folder, overwrite=True, figure=False)
    assert table.exists() and (folder / "provenance.json").exists()


def test_foreign_folders_are_not_overwritten_even_when_asked(explanation: Explanation, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"1")
    with pytest.raises(OutputError, match="was not written by this program"):
        write_explanation(explanation, tmp_path / "photos", overwrite=True)
    (tmp_path / "file").write_text("1", encoding="utf-8")
    with pytest.raises(OutputError, match="not a folder"):
        check_output_folder(tmp_path / "file", True)
    assert (tmp_path / "photos" / "holiday.jpg").exists()
    (tmp_path / "empty").mkdir()
    assert write_explanation(explanation, tmp_path / "empty", figure=False).is_dir()


def test_a_failure_half_way_leaves_nothing_and_keeps_the_earlier_result(
    explanation: Explanation, tmp_path: Path
) -> None:
    folder = write_explanation(explanation, tmp_path / "out", figure=False)
    before = sorted(p.name for p in folder.rglob("*"))

    def fails(*_: object) -> None:
        raise OutputError("no more disk")

    with pytest.raises(OutputError, match="no more disk"):
        write_explanation(explanation, folder, overwrite=True, figure=False, scene_writer=fails)
    assert sorted(p.name for p in folder.rglob("*")) == before
    with pytest.raises(OutputError, match="no more disk"):
        write_explanation(explanation, tmp_path / "new", scene_writer=fails)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
