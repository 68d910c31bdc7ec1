"""The module's logic without Qt: real worker, real scene."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from small_reference import small_control

from ADAttributionLib import ModelCards, Runs
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.MethodOptions import methodRequest
from ADAttributionLib.Overlays import shownMap
from ADAttributionLib.StudyNodes import openStudy
from ADAttributionLib.VolumeNodes import nodesOfClass
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.errors import NetworkError, UnknownNameError, UsageError
from ADAttributionLogic.reference.package import read_reference
from ADAttributionLogic.scan_files import write_volume

LONG = ("occlusion", {"size": 4, "stride": 2})


@pytest.fixture(scope="module")
def client():
    made = WorkerClient(graceSeconds=0.5, arguments=("--heartbeat", "0.2", "--threads", "1"))
    yield made
    made.close()


@pytest.fixture
def logic(scene, client):
    made = ExplainLogic(scene, client)
    yield made
    scene.RemoveObserver(made._closing)


def contents(scene) -> set[str]:
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


def pollUntil(logic, condition, seconds: float = 120.0) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "took too long"
        logic.poll()
        time.sleep(0.01)


def test_explain_gives_a_run_with_its_nodes(logic, scene, scanNode, small_package) -> None:
    run = logic.explain(
        scanNode, model=small_package, methods=["gradient-x-input", ("lrp", {"beta": 0.5})], atlas="neuromorphometrics"
    )
    assert list(run.mapNodes) == ["gradient-x-input", "lrp"] and list(run.tableNodes) == list(run.mapNodes)
    assert (
        run.atlasNode is not None and run.scanNode is scanNode and sum(run.probabilities.values()) == pytest.approx(1)
    )
    assert shownMap(scene, run.mapNodes.values()) is run.mapNodes["gradient-x-input"]
    assert run.provenance["methods"]["lrp"]["options"]["beta"] == 0.5


def test_callbacks_come_while_the_caller_goes_on(logic, scene, scanNode, small_package) -> None:
    seen, ended = [], []
    request = logic.explain(
        scanNode,
        model=small_package,
        methods=["sensitivity"],
        atlas=None,
        wait=False,
        onProgress=lambda r: seen.append(r.job.text),
        onDone=ended.append,
        onError=lambda r: pytest.fail(str(r.error)),
    )
    assert not request.hasEnded and logic.isBusy
    pollUntil(logic, lambda: request.hasEnded)
    assert ended == [request] and request.run.mapNodes and len(seen) > 3 and not request.run.tableNodes


def test_regions_that_the_user_drew(logic, scene, scanNode, small_package, small_scan) -> None:
    from test_runs import drawn

    node = drawn(scene, small_scan, {"box left": np.s_[50:60, 40:50, 30:40]})
    run = logic.explain(scanNode, model=small_package, methods=["gradient-x-input"], atlas=node)
    rows = Runs.tableRows(run.tableNodes["gradient-x-input"].GetTable())
    assert [r["name"] for r in rows] == ["box left", "outside the atlas"] and rows[0]["voxels"] == 1000
    assert run.atlasNode is node


@pytest.mark.parametrize("ending", ["error", "cancel", "removed scan"])
def test_what_fails_leaves_the_scene_as_it_was(logic, scene, scanNode, small_package, ending) -> None:
    before = contents(scene)
    errors = []
    methods = [("lrp", {"beta": -3})] if ending == "error" else [LONG]
    if ending == "removed scan":
        methods = ["sensitivity"]
    request = logic.explain(
        scanNode, model=small_package, methods=methods, atlas=None, wait=False, onError=lambda r: errors.append(r.error)
    )
    if ending == "cancel":
        pollUntil(logic, lambda: "window" in request.job.text)
        logic.cancelAll()
    elif ending == "removed scan":
        before.discard(scanNode.GetID())
        scene.RemoveNode(scanNode)
    pollUntil(logic, lambda: bool(errors))
    texts = {"error": "must be between", "cancel": "Cancelled", "removed scan": "was removed from the scene"}
    assert texts[ending] in str(errors[0])
    assert contents(scene) == before and request.run is None


def test_closing_the_scene_cancels(scene, scanNode, small_package) -> None:
    logic = ExplainLogic(scene, WorkerClient(arguments=("--heartbeat", "0.2", "--threads", "1")))
    errors = []
    request = logic.explain(
        scanNode, model=small_package, methods=[LONG], atlas=None, wait=False, onError=lambda r: errors.append(r.error)
    )
    pollUntil(logic, lambda: request.job.state == "running")
    scene.Clear(False)
    assert request.isCancelled and "Cancelled" in str(errors[0]) and not logic.client.isRunning
    assert not nodesOfClass(scene, "vtkMRMLScalarVolumeNode")
    logic.close()


def test_the_console_gets_the_cause(logic, scanNode, small_package, tmp_path) -> None:
    with pytest.raises(WorkerError, match="There is no model"):
        logic.explain(scanNode, model="no-such-model", methods=["lrp"], atlas=None)
    with pytest.raises(UsageError, match="is no method"):
        logic.explain(scanNode, model=small_package, methods=[3])
    assert methodRequest({"name": "lrp"}) == ("lrp", {})


def test_a_folder(logic, small_scan_file, small_package, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    shutil.copy(small_scan_file, tmp_path / "scans" / "a.nii.gz")
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"no image")
    seen = []
    arguments = {"model": small_package, "methods": ["gradient-x-input"], "atlas": None}
    result = logic.explainFolder(
        tmp_path / "scans", tmp_path / "out", **arguments, onProgress=lambda r: seen.append(r.job.text)
    )
    assert (result["done"], result["failed"]) == (1, 1) and any("scan 2 of 2" in text for text in seen)
    with open(result["summary"], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["status"] for r in rows] == ["done", "failed"] and "b.nii.gz" in rows[1]["message"]
    assert logic.explainFolder(tmp_path / "scans", tmp_path / "out", **arguments)["kept"] == 1


def test_a_reference_cohort_from_the_console(logic, small_package, tmp_path: Path) -> None:
    """The controls of a table through the worker; started again with more it grows; mistakes are sentences."""
    lines = ["scan,subject,dx"]
    for seed in range(3):
        write_volume(small_control(seed), tmp_path / f"c{seed}.nii.gz")
        lines.append(f"c{seed}.nii.gz,p{seed},HC")
    (tmp_path / "table.csv").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    seen = []
    options = {"model": small_package, "methods": ["gradient-x-input"], "title": "Ours"}
    built = logic.buildReference(
        tmp_path / "table.csv", tmp_path / "ref", **options, onProgress=lambda r: seen.append(r.job.text)
    )
    assert (built["n"], built["taken"]) == (2, 2) and any("taking up" in text for text in seen)
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert logic.buildReference([tmp_path / "table.csv"], tmp_path / "ref", **options)["taken"] == 1
    assert read_reference(built["folder"]).title == "Ours" and read_reference(built["folder"]).n == 3
    with pytest.raises(WorkerError, match="has no column age"):
        logic.buildReference(tmp_path / "table.csv", tmp_path / "other", **options, covariates=["age"])
    with pytest.raises(UsageError, match="One brain mask does not fit many scans"):
        logic.buildReference(tmp_path / "table.csv", tmp_path / "ref", registration="affine", brainMask=object())


def test_a_study_from_the_console(logic, scene, small_package, tmp_path: Path) -> None:
    """A batch, two groups compared in the worker, and its maps and tables in the scene."""
    lines = ["scan,subject,diagnosis,age"]
    for seed in range(8):
        write_volume(small_control(seed), tmp_path / f"p{seed}.nii.gz")
        lines.append(f"p{seed}.nii.gz,s{seed},{'AD' if seed % 2 else 'HC'},{60 + seed}")
    (tmp_path / "people.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table, results, out = (tmp_path / name for name in ("people.csv", "results", "study"))
    assert logic.explainFolder(table, results, model=small_package, methods=["gradient-x-input"])["done"] == 8
    found = logic.study(table, results, out, covariates=("age",), permutations=99, resamples=100)
    assert found["subjects"] == 8 and Path(found["page"]).is_file() and Path(found["folder"]) == out
    study = openStudy(scene, found["folder"])
    assert "gradient-x-input/AD" in study.mapNodes and study.tableNodes
    with pytest.raises(WorkerError, match="nothing is overwritten"):
        logic.study(table, {"once more": results}, out)
    with pytest.raises(UnknownNameError, match="permutation"):
        logic.study(table, results, tmp_path / "other", permutation=99)


# --------------------------------------------------------------------------------------------------------- model cards


def test_packages_to_choose_from(small_package, tmp_path) -> None:
    recent = ModelCards.rememberPackage([str(tmp_path / "gone")], small_package)
    assert recent == [str(small_package), str(tmp_path / "gone")]
    assert ModelCards.rememberPackage(recent, small_package) == recent
    found = ModelCards.choices(recent)
    assert found[-1] == ("Untrained network for tests", str(small_package))
    assert [Path(folder).name for _, folder in found[:-1]] == [p.name for p in ModelCards.bundledPackages()]
    card = ModelCards.cardOf(small_package)
    text = ModelCards.describeCard({**card, "intended_use": "<b>any"})
    assert "&lt;b&gt;any" in text and "nothing: random weights" in text and "not a medical device" in text
    assert ModelCards.targetClasses(card)[0] == ("AD (the positive class)", "AD")


def test_folders_that_are_no_package(tmp_path) -> None:
    with pytest.raises(NetworkError, match="is no model package"):
        ModelCards.cardOf(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"title": "x"}), encoding="utf-8")
    with pytest.raises(NetworkError, match="is not a model card"):
        ModelCards.cardOf(tmp_path)


def test_the_panel_needs_no_torch() -> None:
    """Opening the module must not wait for torch, nor need it."""
    import subprocess
    import sys

    library = Path(ModelCards.__file__).parent
    names = sorted(p.stem for p in library.glob("*.py") if not p.stem.startswith("_") and p.stem != "QtSeam")
    heavy = ["torch", "jsonschema", "nibabel", "scipy", "matplotlib"]
    code = (
        f"import sys, importlib; [importlib.import_module('ADAttributionLib.' + n) for n in {names!r}]; "
        f"print([n for n in {heavy!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def environment() -> dict[str, str]:
    import os

    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "ADAttribution")])}
