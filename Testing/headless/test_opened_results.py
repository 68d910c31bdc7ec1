"""Results and scenes of the command line, opened in the module: the same run as if it had been computed there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ADAttributionLib import AtlasNodes, OlderScenes, RunMaps, Runs, SceneBuilder
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.errors import ADAttributionError
from ADAttributionLogic.explain import Explanation, MethodRequest, explain
from ADAttributionLogic.report.overlay_display import OverlayDisplay
from ADAttributionLogic.report.result_folder import write_explanation
from ADAttributionLogic.scan_files import read_scan


@pytest.fixture(scope="module")
def explanation(small_scan_file, small_model) -> Explanation:
    methods = ["lrp", MethodRequest("lrp", {"beta": 1.0})]
    return explain(read_scan(small_scan_file), small_model, methods, atlas=load_atlas("neuromorphometrics"))


@pytest.fixture(scope="module")
def folder(explanation: Explanation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_explanation(explanation, tmp_path_factory.mktemp("out") / "result", figure=False)


@pytest.fixture(scope="module")
def client():
    made = WorkerClient(arguments=("--threads", "1"))
    yield made
    made.close()


@pytest.fixture
def logic(scene, client):
    made = ExplainLogic(scene, client)
    yield made
    scene.RemoveObserver(made._closing)  # the worker serves the next test as well


def test_a_result_folder_becomes_the_run_that_it_was(scene, logic, folder, explanation, small_scan_file) -> None:
    run = logic.openResult(folder)
    assert run.probabilities == pytest.approx(explanation.probabilities) and run.targetClass == "AD"
    assert run.name == "small - untrained - AD" and run.scanNode.GetName() == "small"
    np.testing.assert_array_equal(volumeFromNode(run.scanNode).array, read_scan(small_scan_file).array)
    assert run.titles == {"lrp": "Layer-wise relevance propagation", "lrp-2": "Layer-wise relevance propagation (2)"}
    for heatmap in explanation.heatmaps:
        found = volumeFromNode(run.mapNodes[heatmap.name])
        assert found.grid.is_same(heatmap.volume.grid)
        np.testing.assert_array_equal(found.array, heatmap.volume.array)
        rows = Runs.tableRows(run.tableNodes[heatmap.name].GetTable())
        assert [row["name"] for row in rows] == [row["name"] for row in heatmap.table.rows()]
        np.testing.assert_allclose([row["density"] for row in rows], heatmap.table.columns["density"])
        assert [row["density_rank"] for row in rows] == heatmap.table.columns["density_rank"].tolist()
    display = RunDisplay(run)
    assert display.isShown
    best = display.showTopRegion()
    assert AtlasNodes.labelAt(run.atlasNode, (best["peak_r"], best["peak_a"], best["peak_s"]))[1] == best["name"]
    again = logic.openResult(folder / "provenance.json")
    assert [r.identifier for r in Runs.findRuns(scene)] == [again.identifier], "opened again, it takes its own place"


def test_the_scan_that_is_loaded_already_is_not_loaded_again(scene, logic, folder, small_scan_file) -> None:
    scan = read_scan(small_scan_file)
    SceneBuilder.addScan(scene, scan.with_array(scan.array + 1), "the same, edited")
    node = SceneBuilder.addScan(scene, scan, "my patient")
    run = logic.openResult(folder)
    assert run.scanNode is node and run.name.startswith("my patient")


def test_a_scan_that_is_gone_or_was_changed_is_said_and_can_be_given(
    scene, logic, folder, small_scan, tmp_path
) -> None:
    moved = tmp_path / "result"
    shutil.copytree(folder, moved)
    record = json.loads((moved / "provenance.json").read_text(encoding="utf-8"))
    record["scan"]["source"] = "gone/head.nii.gz"
    (moved / "provenance.json").write_text(json.dumps(record), encoding="utf-8")
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(ADAttributionError, match=r"gone/head.nii.gz, is not there any more. .* give it as the scan"):
        logic.openResult(moved)
    assert scene.GetNumberOfNodes() == nodes
    own = SceneBuilder.addScan(scene, small_scan, "T1")
    assert logic.openResult(moved, volumeNode=own).scanNode is own
    shifted = small_scan.affine.copy()
    shifted[0, 3] += 3
    other = SceneBuilder.addScan(scene, type(small_scan)(small_scan.array, shifted), "another")
    with pytest.raises(ADAttributionError, match="not the scan that was explained"):
        logic.openResult(moved, volumeNode=other)
    (tmp_path / "gone").mkdir()
    from ADAttributionLogic.scan_files import write_volume

    write_volume(small_scan.with_array(small_scan.array + 1), tmp_path / "gone" / "head.nii.gz")
    with pytest.raises(ADAttributionError, match="its voxels have changed"):
        logic.openResult(moved)  # found again beside the result, by its relative path


def test_what_is_no_result_is_said_before_anything_is_loaded(scene, logic, folder, tmp_path) -> None:
    with pytest.raises(ADAttributionError, match="does not exist"):
        logic.openResult(tmp_path / "nowhere")
    with pytest.raises(ADAttributionError, match=r"holds no result: there is no provenance\.json"):
        logic.openResult(tmp_path)
    with pytest.raises(ADAttributionError, match="is no batch"):
        logic.openResult(folder, "patient 3")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "heatmaps" / "lrp-2.nii.gz").unlink()
    with pytest.raises(ADAttributionError, match=r"lrp-2\.nii\.gz"):
        logic.openResult(broken)
    (broken / "provenance.json").write_text('{"kind": "something/else"}', encoding="utf-8")
    with pytest.raises(ADAttributionError, match="its kind is 'something/else'"):
        logic.openResult(broken)
    assert not Runs.findRuns(scene) and not nodesOfClass(scene, "vtkMRMLScalarVolumeNode")


def test_an_atlas_that_is_another_now_is_left_out_with_a_note(scene, logic, folder, tmp_path) -> None:
    other = tmp_path / "result"
    shutil.copytree(folder, other)
    record = json.loads((other / "provenance.json").read_text(encoding="utf-8"))
    record["atlas"]["labels_sha256"] = "0" * 64
    (other / "provenance.json").write_text(json.dumps(record), encoding="utf-8")
    run = logic.openResult(other)
    assert run.atlasNode is None and any("cannot be outlined" in note for note in run.notes)
    assert run.tableNodes["lrp"].GetTable().GetNumberOfRows() > 100


def test_a_row_of_a_batch(scene, logic, small_scan_file, small_model, tmp_path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "b"):
        shutil.copy(small_scan_file, scans / f"{name}.nii.gz")
    (scans / "c.nii.gz").write_bytes(b"no image")
    options = BatchOptions([MethodRequest("gradient-x-input")], figure=False)
    summary = explain_batch(find_scans(scans), small_model, options, tmp_path / "out").summary
    rows = logic.resultsIn(summary)
    assert list(rows) == ["a", "b", "c"] and rows["a"] == rows["b"] == "done" and "c.nii.gz" in rows["c"]
    with pytest.raises(ADAttributionError, match=r"a batch of 3 scans, 2 of them done; say which one: a, b\."):
        logic.openResult(summary)
    with pytest.raises(ADAttributionError, match="c has no result: "):
        logic.openResult(summary, "c")
    with pytest.raises(ADAttributionError, match="no scan in this batch named 'd'"):
        logic.openResult(summary.parent, "d")
    run = logic.openResult(summary, "b")
    assert run.scanNode.GetName() == "b" and list(run.mapNodes) == ["gradient-x-input"]


def test_bars_are_drawn_by_the_worker_and_a_strange_question_is_refused(client) -> None:
    asked = {"names": ["Hippocampus L", "Amygdala L"], "values": [2e-6, -1e-6], "title": "LRP", "unit": "per mm³"}
    assert client.wait(client.request("chart", asked)).startswith(b"\x89PNG")
    with pytest.raises(ADAttributionError, match="lacks 'unit'"):
        client.wait(client.request("chart", {key: asked[key] for key in ("names", "values", "title")}))
    assert not list(client._folder.glob("*chart*"))


# ------------------------------------------------------------------------------------------------------- older scenes


def writtenBefore(scene, explanation: Explanation):
    """The nodes of a scene as version 0.1 of the command line wrote it: names only."""
    scan = SceneBuilder.addScan(scene, explanation.scan, "head scan")
    for heatmap in explanation.heatmaps:
        title = f"head - {heatmap.method.title} - AD" + ("" if heatmap.name == "lrp" else f" ({heatmap.name})")
        display = OverlayDisplay.for_heatmap(heatmap.volume.array)
        colors = SceneBuilder.addOverlayColors(scene, f"{title} colors", display)
        SceneBuilder.addHeatmap(scene, heatmap.volume, title, display, colors)
        table = SceneBuilder.addRegionTable(scene, heatmap.table, f"{title} regions")
        table.GetTable().GetColumnByName("density_rank").SetValue(0, 1)  # as the rule was: small regions ranked too
    SceneBuilder.addAtlasSegmentation(scene, explanation.atlas, "head atlas neuromorphometrics")
    return scan


def test_a_scene_of_an_earlier_version_is_picked_up(scene, explanation, folder) -> None:
    scan = writtenBefore(scene, explanation)
    users = SceneBuilder.addScan(scene, explanation.scan, "CT scan")
    (run,) = OlderScenes.adoptOlderScenes(scene)
    assert Runs.findRuns(scene)[0].identifier == run.identifier and OlderScenes.adoptOlderScenes(scene) == []
    assert run.scanNode is scan and users.GetAttribute(Runs.RUN) is None and run.targetClass == "AD"
    assert list(run.titles.values()) == ["Layer-wise relevance propagation"] * 2 and len(run.tableNodes) == 2
    assert "earlier version" in run.notes[0] and run.probabilities == {}
    display = RunDisplay(run)
    display.show()
    expected = explanation.heatmaps[0].table.ranked("density_rank")[0]
    assert display.showTopRegion()["name"] == expected["name"], "ranked by today's rule"
    assert set(RunMaps.addCharts(run, next(iter(run.mapNodes)))) == set("RAS")


def test_an_older_scene_takes_its_probabilities_from_the_folder_that_it_lies_in(scene, explanation, folder) -> None:
    writtenBefore(scene, explanation)
    scene.SetURL(str(folder / "scene.mrb"))
    (run,) = OlderScenes.adoptOlderScenes(scene)
    assert run.probabilities == pytest.approx(explanation.probabilities) and list(run.mapNodes) == ["lrp", "lrp-2"]
