"""A scan as acquired, from the console to the scene: real worker, real registration, real MRML."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slicer
import torch
import vtk
from test_runs import drawn

from ADAttributionLib import AnswerPanel, QualityText, RunMaking, RunMaps, Runs, SceneBuilder, SceneFile
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.Overlays import shownMap
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.TransformNodes import transformOf
from ADAttributionLib.VolumeNodes import arrayFromMatrix, nodesOfClass, volumeFromNode
from ADAttributionLib.WhatIf import WhatIf
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.errors import OutputError, UsageError
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.preparation import PreparationReport
from ADAttributionLogic.preprocessing.carried_maps import map_on_model
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.preprocessing.quality import QualityReport
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.service.answer import AnswerPreparation, load_answer, save_answer
from ADAttributionLogic.simulation.native_scan import Acquisition, NativeScan, acquire
from ADAttributionLogic.volume import Volume

METHODS = ["lrp", "sensitivity"]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One worker with one cache for the module: a scan is registered once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AD_ATTRIBUTION_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = WorkerClient(graceSeconds=5.0, arguments=("--heartbeat", "0.2"))
        yield made
        made.close()


@pytest.fixture
def logic(scene, client):
    made = ExplainLogic(scene, client)
    yield made
    scene.RemoveObserver(made._closing)


@pytest.fixture(scope="module")
def native(template: Volume) -> NativeScan:
    """The template brain, turned and shifted, in sagittal slices of 3 mm."""
    return acquire(
        template, Acquisition((12, -8, 10), (20, -15, 12), (2.5, 2.5, 3.0), "sagittal", "int16", 0.1, 0.01, 4)
    )


def added(scene, volume, name="T1 as acquired"):
    node = SceneBuilder.addVolume(scene, volume, name)
    node.CreateDefaultDisplayNodes()
    return node


@pytest.fixture
def scan(scene, native):
    return added(scene, native.scan)


@pytest.fixture(scope="module")
def report(client, native, small_package) -> PreparationReport:
    """The preparation of the native scan: done here, and in the cache from then on."""
    scene = SceneFile.newScene()
    logic = ExplainLogic(scene, client)
    node = added(scene, native.scan)
    before = contents(scene)
    found = logic.prepare(node, small_package)
    assert contents(scene) == before, "only looked at"
    assert logic.registrationToDo(node, small_package, registration="affine") == "none"
    assert logic.registrationToDo(node, small_package, registration="rigid") == "rigid"
    scene.RemoveObserver(logic._closing)
    SceneFile.closeScene(scene)
    return found


@pytest.fixture
def run(logic, scan, small_package, report):
    return logic.explain(scan, model=small_package, methods=METHODS, atlas="neuromorphometrics", registration="affine")


def contents(scene) -> set[str]:
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


def pollUntil(logic, condition, seconds: float = 120.0) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "took too long"
        logic.poll()
        time.sleep(0.01)


def matrixOf(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToParent(matrix)
    return arrayFromMatrix(matrix)


# ------------------------------------------------------------------------------------------------------------ preparing


def test_prepare_returns_the_checks_with_their_numbers_and_a_figure(report) -> None:
    assert report.quality.passed and not report.from_cache and not report.already_registered
    names = [check.name for check in report.quality.checks]
    assert "similarity to the template" in names and "intracranial volume" in names
    assert all(np.isfinite(check.value) and check.needed for check in report.quality.checks)
    assert (
        report.because["decided"] == "measured"
        and report.because["similarity"] < report.because["needed"]["similarity"]
    )
    assert {"affine", "bias", "brain"} <= set(report.seconds) and report.transform["kind"] == "affine"
    assert report.figure.startswith(b"\x89PNG") and len(report.figure) > 50_000
    lines = QualityText.reportLines(report)
    assert lines[0] == "All checks passed." and any("similarity 0." in line for line in lines)
    assert any("turned by" in line for line in lines) and not any("--" in line for line in lines)


def test_no_file_of_a_preparation_is_left(client, report) -> None:
    assert [path.name for path in client._folder.iterdir()] == [".ad-attribution-owner"]


def test_prepare_then_explain_registers_once(logic, scan, small_package, report) -> None:
    seen = []
    request = logic.explain(
        scan,
        model=small_package,
        methods=["sensitivity"],
        atlas=None,
        registration="affine",
        wait=False,
        onProgress=lambda r: seen.append((r.job.fraction, r.job.text)),
    )
    pollUntil(logic, lambda: request.hasEnded)
    assert request.error is None, request.error
    assert request.report.from_cache and request.report.figure == report.figure
    fractions, texts = [f for f, _ in seen], [t for _, t in seen]
    assert fractions == sorted(fractions) and fractions[-1] > 0.9
    assert request.run.provenance["preprocessing_from_cache"] and "registering" not in texts
    assert any("taken from the cache" in text for text in texts)
    assert logic.prepare(scan, small_package).from_cache


def test_the_estimate_includes_what_has_to_be_done(client, small_package) -> None:
    job = {"model": str(small_package), "methods": [{"name": "sensitivity"}], "device": "cpu"}
    found = {r: client.wait(client.request("estimate", {**job, "registration": r})) for r in ("none", "affine")}
    assert found["affine"]["seconds"] - found["none"]["seconds"] == pytest.approx(found["affine"]["preparation"])
    assert found["none"]["preparation"] == 0 < found["affine"]["preparation"]
    with pytest.raises(WorkerError, match="no registration named 'afine'"):
        client.wait(client.request("estimate", {**job, "registration": "afine"}))


# ------------------------------------------------------------------------------------------------------------ the scene


def test_the_heatmap_lies_on_the_scan_as_acquired(scene, scan, run, native, small_model) -> None:
    grid = volumeFromNode(scan).grid
    assert grid.orientation() != "RAS" and run.scanNode is scan and run.space == "native"
    expected = explain_native(native.scan, small_model, METHODS)
    assert expected.provenance["preprocessing_from_cache"], "the worker's"
    for heatmap in expected.heatmaps:
        found = volumeFromNode(run.mapNodes[heatmap.name])
        assert found.grid.is_same(grid)
        largest = np.abs(heatmap.volume.array).max()
        np.testing.assert_allclose(found.array, heatmap.volume.array, atol=1e-3 * largest)
    image = run.atlasNode.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    np.testing.assert_allclose(arrayFromMatrix(matrix), grid.affine, atol=1e-6)
    assert image.GetDimensions() == grid.shape
    assert volumeFromNode(run.gridScanNode).grid.is_same(small_model.grid)
    assert shownMap(scene, run.mapNodes.values()) is run.mapNodes["lrp"] and run.backgroundNode is scan
    assert RunDisplay(run).describeAt(grid.to_ras(np.array(grid.shape) / 2))["value"] is not None


def test_the_transforms_say_where_the_patient_lay(run, native) -> None:
    toScan, toModel = (matrixOf(run.transformNodes[key]) for key in ("model-to-scan", "scan-to-model"))
    np.testing.assert_allclose(toScan @ toModel, np.eye(4), atol=1e-6)
    corners = np.array([(x, y, z, 1) for x in (-60, 60) for y in (-90, 60) for z in (-30, 60)], float)
    assert np.linalg.norm((corners @ toScan.T - corners @ native.matrix.T)[:, :3], axis=1).max() < 2.5
    # Applied to the scan, the node moves it onto the network's space.
    scan = run.scanNode
    scan.SetAndObserveTransformNodeID(run.transformNodes["scan-to-model"].GetID())
    brain, moved = volumeFromNode(run.gridScanNode), volumeFromNode(scan)
    centre = [brain.grid.to_ras(np.argwhere(brain.array > 0).mean(axis=0))]
    mask = moved.array > 0.2 * np.percentile(moved.array, 99)
    np.testing.assert_allclose(moved.grid.to_ras(np.argwhere(mask).mean(axis=0)), centre[0], atol=4)


def test_everything_is_in_one_folder_and_goes_with_the_run(scene, scan, run) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    nodes = [*run.mapNodes.values(), *run.tableNodes.values(), run.atlasNode, run.gridScanNode, run.aboutNode]
    for node in (*nodes, *run.transformNodes.values(), RunMaps.addModelMap(run, "lrp")):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == run.folderItem, node.GetName()
    assert sorted(node.GetName() for node in run.transformNodes.values()) == [
        "T1 as acquired - model to scan",
        "T1 as acquired - scan to model",
    ]
    Runs.removeRun(run)
    assert not nodesOfClass(scene, "vtkMRMLTransformNode") and not nodesOfClass(scene, "vtkMRMLTableNode")
    assert nodesOfClass(scene, "vtkMRMLScalarVolumeNode") == [scan]


def test_the_answer_tells_what_was_done(run) -> None:
    assert run.provenance["quality"]["passed"] and run.provenance["space"] == "native"
    steps = [step["step"] for step in run.provenance["preprocessing"]]
    assert steps[0] == "reorient" and "registration and resampling" in steps
    assert "--" not in AnswerPanel.warningsText(run)
    about = AnswerPanel.aboutText(run)
    assert "preparation: affine, result in native space" in about and "reorient → bias correction" in about
    assert "quality checks passed: yes" in about


def test_a_saved_run_is_picked_up_with_its_transforms(scene, run, scan, tmp_path: Path) -> None:
    expected = volumeFromNode(RunMaps.addModelMap(run, "lrp")).array
    Runs.removeAll(scene, {run.modelNodes["lrp"].GetID()})
    toScan = matrixOf(run.transformNodes["model-to-scan"])
    assert scene.WriteToMRB(str(tmp_path / "run.mrb"))
    again = SceneFile.readScene(tmp_path / "run.mrb")
    try:
        (found,) = Runs.findRuns(again)
        assert (found.name, found.key, found.space) == (run.name, run.key, "native")
        assert list(found.mapNodes) == METHODS and found.atlasNode is not None
        np.testing.assert_allclose(matrixOf(found.transformNodes["model-to-scan"]), toScan, atol=1e-6)
        assert volumeFromNode(found.mapNodes["lrp"]).grid.is_same(volumeFromNode(found.scanNode).grid)
        carried = volumeFromNode(RunMaps.addModelMap(found, "lrp"))
        np.testing.assert_allclose(carried.array, expected, atol=1e-6 * np.abs(expected).max())
        Runs.removeRun(found)
        assert not nodesOfClass(again, "vtkMRMLTransformNode")
    finally:
        SceneFile.closeScene(again)


# ------------------------------------------------------------------------------------------------------ the other space


def test_both_spaces_of_the_same_scan(scene, logic, scan, run, small_package) -> None:
    """Two runs that do not replace each other; a map carried from one to the other is the other's, smoothed."""
    model = logic.explain(
        scan,
        model=small_package,
        methods=METHODS,
        atlas="neuromorphometrics",
        registration="affine",
        space="model",
    )
    assert len(Runs.findRuns(scene)) == 2 and model.key != run.key and model.space == "model"
    assert shownMap(scene, model.mapNodes.values()) is not None and model.backgroundNode is model.gridScanNode
    view = nodesOfClass(scene, "vtkMRMLSliceCompositeNode")[0]
    assert view.GetBackgroundVolumeID() == model.gridScanNode.GetID(), "the scan itself lies elsewhere"
    for name in METHODS:
        there = volumeFromNode(RunMaps.addModelMap(run, name))
        here = volumeFromNode(model.mapNodes[name])
        assert there.grid.is_same(here.grid) and RunMaps.addModelMap(model, name) is model.mapNodes[name]
        back = volumeFromNode(RunMaps.addNativeMap(model, name))
        native = volumeFromNode(run.mapNodes[name])
        np.testing.assert_allclose(back.array, native.array, atol=1e-4 * np.abs(native.array).max())
        assert RunMaps.addNativeMap(run, name) is run.mapNodes[name]
        # A gradient's noise does not survive two interpolations, its places do.
        coarse = [_blocks(v.array) for v in (there, here)]
        assert np.corrcoef(*[c.ravel() for c in coarse])[0, 1] > 0.8
    lrp = [volumeFromNode(n).array.sum() for n in (RunMaps.addModelMap(run, "lrp"), model.mapNodes["lrp"])]
    assert lrp[0] == pytest.approx(lrp[1], rel=0.05), "relevance that adds up still does"
    count = scene.GetNumberOfNodes()
    RunMaps.addOtherMap(run, "lrp")
    assert scene.GetNumberOfNodes() == count, "made once"
    logic.explain(
        scan, model=small_package, methods=METHODS, atlas="neuromorphometrics", registration="affine", space="model"
    )
    assert len(Runs.findRuns(scene)) == 2, "the same question replaces the earlier run"


def _blocks(array: np.ndarray) -> np.ndarray:
    i, j, k = (n // 4 for n in array.shape)
    return np.abs(array[: 4 * i, : 4 * j, : 4 * k]).reshape(i, 4, j, 4, k, 4).sum(axis=(1, 3, 5))


def test_a_map_is_carried_from_where_the_scan_was(run, scan) -> None:
    """The user may have moved the scan since, with the very transform that the run offers."""
    before = volumeFromNode(run.mapNodes["lrp"]).grid
    scan.SetAndObserveTransformNodeID(run.transformNodes["scan-to-model"].GetID())
    assert RunMaps._scanGridOf(run).is_same(before) and not volumeFromNode(scan).grid.is_same(before)


def test_a_removed_transform_is_said_to_be_missing(scene, run) -> None:
    scene.RemoveNode(run.transformNodes["model-to-scan"])
    before = contents(scene)
    with pytest.raises(OutputError, match="model-to-scan of this run is no longer in the scene"):
        RunMaps.addModelMap(run, "lrp")
    assert contents(scene) == before


def test_a_warp_travels_to_the_scene_and_back(scene, scanNode, answer, tmp_path: Path) -> None:
    """A deformable preparation as the worker hands it over; ANTs itself is not needed for that."""
    from test_preprocessing import warped

    warp = warped(3.0)
    options = {"options": {"registration": "deformable"}}
    record = {**answer.provenance, "space": "native", "preprocessing_decisions": options, "brain_mask_sha256": None}
    empty = PreparationReport(QualityReport(()), "deformable", False, {}, warp.describe(), {}, (), False, b"\x89PNG")
    prepared = AnswerPreparation("native", answer.scan, warp, empty)
    document = save_answer(replace(answer, provenance=record, preparation=prepared), tmp_path, "job-1")
    loaded = load_answer(document, tmp_path)
    assert loaded.preparation.report.figure == b"\x89PNG" and loaded.preparation.transform.kind == "deformable"
    points = np.random.default_rng(0).uniform(-50, 50, (50, 3))
    np.testing.assert_allclose(loaded.preparation.transform.points_to_scan(points), warp.points_to_scan(points))
    run = RunMaking.createRun(scene, loaded, scanNode)
    assert all(not node.IsLinear() for node in run.transformNodes.values())
    assert scene.WriteToMRB(str(tmp_path / "run.mrb"))
    again = SceneFile.readScene(tmp_path / "run.mrb")
    try:
        (found,) = Runs.findRuns(again)
        values, brain = volumeFromNode(found.mapNodes["lrp"]), volumeFromNode(found.gridScanNode)
        there = transformOf(found.transformNodes, brain.grid, values.grid)
        np.testing.assert_allclose(there.points_to_scan(points), warp.points_to_scan(points), atol=0.1)
        np.testing.assert_allclose(there.points_to_model(points), warp.points_to_model(points), atol=0.1)
        expected = map_on_model(values, warp, brain.grid, True).array
        carried = volumeFromNode(RunMaps.addModelMap(found, "lrp")).array
        inside = np.s_[8:-8, 8:-8, 8:-8]
        assert np.corrcoef(carried[inside].ravel(), expected[inside].ravel())[0, 1] > 0.98
    finally:
        SceneFile.closeScene(again)


def test_arrays_from_elsewhere_are_refused(report, tmp_path: Path) -> None:
    document = {"kind": "deformable", "matrix": np.eye(4).tolist(), "warp": "../w.h5", "inverse_warp": None}
    from ADAttributionLogic.registration.space_transform import restore_transform
    from ADAttributionLogic.service.answer import load_report, save_report

    with pytest.raises(UsageError, match="lies outside the folder"):
        restore_transform(document, tmp_path)
    with pytest.raises(UsageError, match="lies outside the folder"):
        load_report({**save_report(report, tmp_path, "asked"), "figure": "../../etc/passwd"}, tmp_path)


# --------------------------------------------------------------------------------------------------------- what fails


def test_failed_checks_leave_the_scene_and_name_the_numbers(logic, scene, scan, small_package) -> None:
    """The user says that the scan is registered, which it is not: that takes no registration to find out."""
    before = contents(scene)
    asked = {"model": small_package, "methods": ["sensitivity"], "atlas": None, "registration": "affine"}
    with pytest.raises(WorkerError, match=r"did not pass \d of \d+ checks") as raised:
        logic.explain(scan, **asked, registered=True)
    error = raised.value
    assert contents(scene) == before and error.kind == "QualityError"
    (similarity,) = [check for check in error.quality.failures if check.name == "similarity to the template"]
    assert similarity.value < 0.4 and f"{similarity.value:.3g} (needed: at least 0.4)" in str(error)
    assert "Go on although a check did not pass" in str(error) and "--" not in str(error)
    found = logic.prepare(scan, small_package, "affine", registered=True)
    assert found.from_cache and not found.quality.passed and "did not pass" in QualityText.reportLines(found)[0]
    run = logic.explain(scan, **asked, registered=True, acceptQuality=True)
    assert any("accepted by the user: similarity to the template" in note for note in run.notes)
    np.testing.assert_allclose(matrixOf(run.transformNodes["scan-to-model"]), np.eye(4))


def test_cancelled_in_the_middle_of_the_registration(logic, scene, client, scan, small_package) -> None:
    pid, before = client.pid, contents(scene)
    request = logic.explain(
        scan,
        model=small_package,
        methods=["sensitivity"],
        atlas=None,
        registration="affine",
        biasCorrection=False,  # not in the cache
        registered=False,
        wait=False,
    )
    pollUntil(logic, lambda: request.hasEnded or request.job.text in ("searching for the brain", "registering"))
    assert not request.hasEnded, request.error
    cancelled = time.monotonic()
    request.cancel()
    pollUntil(logic, lambda: request.hasEnded)
    assert request.isCancelled and contents(scene) == before and time.monotonic() - cancelled < 8
    if pid is not None:
        assert client.pid == pid, "it stopped by itself"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "native"}, "so that space would do nothing"),
        ({"acceptQuality": True, "registered": False}, "registered, acceptQuality would do nothing"),
        ({"segmentId": "brain", "registration": "affine"}, "not the brainMask"),
        ({"registration": "afine"}, "must be one of none, rigid"),
        ({"registration": "affine", "space": "scan"}, "must be one of native, model"),
    ],
)
def test_what_makes_no_sense_is_refused(logic, scene, scan, small_package, options, message) -> None:
    before = contents(scene)
    with pytest.raises((UsageError, WorkerError), match=message):
        logic.explain(scan, model=small_package, methods=["lrp"], atlas=None, **options)
    assert contents(scene) == before
    with pytest.raises(UsageError, match="would do nothing here"):
        logic.prepare(scan, small_package, space="model")


def test_unknown_keys_are_no_silent_defaults(client, small_package) -> None:
    for command, job, message in (
        ("explain", {"preparation": {"registraton": "affine"}}, "Did you mean registration"),
        ("explain", {"preparation": "affine"}, "is an object with keys such as registration, not 'affine'"),
        ("explain", {"preparation": {"registration": "none", "space": "native"}}, "space would do nothing"),
        ("prepare", {"preparation": {}, "methods": []}, "no key of this request named 'methods'"),
        ("batch", {"preparation": {"accept": True}}, "accept_quality"),
    ):
        with pytest.raises(WorkerError, match=message):
            client.wait(client.request(command, {"methods": [], **job} if command == "batch" else job))


# ------------------------------------------------------------------------------------------- masks and drawn regions


def brainSegmentation(scene, scan: Volume):
    """Two segments, as a user would have them: the brain, and a box."""
    return drawn(scene, scan, {"a box": np.s_[20:30, 20:30, 20:30], "brain": scan.array > 0})


def test_a_brain_mask_from_a_segment(logic, scene, scanNode, small_scan, small_package) -> None:
    """On a scan that is registered already, which is found out by measuring."""
    node = brainSegmentation(scene, small_scan)
    brain = float((small_scan.array > 0).sum()) * small_scan.grid.voxel_volume_mm3 / 1000
    request = logic.explain(
        scanNode,
        model=small_package,
        methods=["sensitivity"],
        atlas=None,
        registration="affine",
        brainMask=node,
        segmentId="brain",
        wait=False,
    )
    pollUntil(logic, lambda: request.hasEnded)
    assert request.error is None, request.error
    assert request.report.already_registered and request.report.because["would_move_mm"] < 2.5
    assert any("is in the network's space already: similarity" in t for t in QualityText.reportLines(request.report))
    (step,) = [s for s in request.run.provenance["preprocessing"] if s["step"] == "brain extraction"]
    assert step["method"] == "given mask" and step["brain_cm3"] == pytest.approx(brain, rel=0.001)
    assert step["source"] == "segment brain of my regions"
    asked = {"model": small_package, "methods": ["sensitivity"], "atlas": None, "registration": "affine"}
    for wrong, message in (
        ({}, "has 2 segments; say which is the brain"),
        ({"segmentId": "skull"}, "no segment 'skull'"),
    ):
        with pytest.raises(UsageError, match=message):
            logic.explain(scanNode, **asked, brainMask=node, **wrong)
    with pytest.raises(WorkerError, match=r"covers 1[56] cm³ of the scan"):
        logic.explain(scanNode, **asked, brainMask=node, segmentId="a box")


def test_a_labelmap_as_brain_mask(logic, scene, scanNode, small_scan, small_package) -> None:
    labels = small_scan.with_array(np.where(small_scan.array > 0, 3, 1).astype(np.int16))
    node = slicer.vtkMRMLLabelMapVolumeNode()
    scene.AddNode(node)
    node.SetAndObserveImageData(SceneBuilder.imageData(labels.array))
    node.SetIJKToRASMatrix(SceneBuilder.vtkMatrix(labels.affine))
    report = logic.prepare(scanNode, small_package, registered=True, brainMask=node, segmentId=3)
    (volume,) = [check for check in report.quality.checks if check.name == "intracranial volume"]
    assert volume.value == pytest.approx((small_scan.array > 0).sum() * 2.5**3 / 1000, rel=0.001)


def test_regions_drawn_on_the_scan_stay_as_they_were_drawn(logic, scene, scan, native, small_package, report) -> None:
    middle = np.argwhere(native.scan.array > 100).mean(axis=0).astype(int)
    box = tuple(slice(m - 5, m + 5) for m in middle)
    node = drawn(scene, native.scan, {"box": box})
    asked = {"model": small_package, "methods": ["gradient-x-input", "area-occlusion"], "atlas": node}
    run = logic.explain(scan, **asked, registration="affine")
    rows = Runs.tableRows(run.tableNodes["gradient-x-input"].GetTable())
    assert run.atlasNode is node and rows[0]["name"] == "box" and rows[0]["voxels"] == 1000
    drops = Runs.tableRows(run.tableNodes["area-occlusion"].GetTable())
    assert np.isfinite(drops[0]["drop"]) and drops[0]["drop"] != 0
    model = logic.explain(scan, **asked, registration="affine", space="model")
    assert model.atlasNode is not node, "the user's own lies on the scan, not where these maps are"
    rows = Runs.tableRows(model.tableNodes["gradient-x-input"].GetTable())
    assert rows[0]["volume_mm3"] == pytest.approx(1000 * native.scan.grid.voxel_volume_mm3, rel=0.1)


# -------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_whose_scans_are_prepared(logic, small_scan, small_package, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    write_volume(small_scan, tmp_path / "scans" / "good.nii.gz")
    bright = small_scan.with_array(np.where(small_scan.array > 0, small_scan.array.max() * 1.1 - small_scan.array, 0))
    write_volume(bright.with_array(bright.array.astype(np.float32)), tmp_path / "scans" / "t2.nii.gz")
    asked = {"model": small_package, "methods": ["sensitivity"], "atlas": None, "registration": "affine"}
    out = tmp_path / "out"
    result = logic.explainFolder(tmp_path / "scans", out, **asked, registered=True)
    assert (result["done"], result["failed"]) == (1, 1)
    with open(result["summary"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["status"] == "failed" and "white to grey matter: 0." in rows[1]["message"]
    assert (out / "good" / "preprocessing").is_dir()
    result = logic.explainFolder(tmp_path / "scans", out, **asked, registered=True, acceptQuality=True)
    assert (result["done"], result["kept"], result["failed"]) == (1, 1, 0)
    with pytest.raises(WorkerError, match="another preparation"):
        logic.explainFolder(tmp_path / "scans", out, **asked)
    with pytest.raises(UsageError, match="does not fit many scans"):
        logic.explainFolder(tmp_path / "scans", out, **asked, brainMask=object())


def test_what_if_covers_where_the_user_points(logic, run, small_package, small_model) -> None:
    """A box on the scan as acquired: voxel by voxel through the transform, and a full pass."""
    brain = volumeFromNode(run.gridScanNode)
    transform = transformOf(run.transformNodes, brain.grid, volumeFromNode(run.scanNode).grid)
    points = transform.points_to_scan(brain.grid.to_ras(np.stack(np.indices(brain.grid.shape), -1).reshape(-1, 3)))
    centre = transform.points_to_scan([-25.0, -20.0, -15.0])
    seen = prepare(brain, small_model.grid, small_model.normalisation).array
    covered = np.where((np.abs(points - centre) < 15).all(1).reshape(seen.shape), 0, seen)
    evaluation = Evaluation(small_model.network, torch.from_numpy(covered)[None, None], torch.device("cpu"))
    box = {"box": {"centre": centre.tolist(), "size": 30}, "put": "zero"}
    trial = WhatIf(logic).ask(run, box, model=small_package)
    expected = torch.softmax(evaluation.logits.double(), 1)[0].tolist()
    assert list(trial.after.values.values()) == pytest.approx(expected, abs=1e-5)
    assert dict(trial.before.values) == pytest.approx(run.probabilities, abs=1e-6)
    assert trial.volumeMm3 == pytest.approx((covered != seen).sum() * 2.5**3, rel=0.3)
