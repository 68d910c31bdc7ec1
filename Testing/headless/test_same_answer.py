"""The panel's worker, the command line and a batch find the same in a scan as acquired, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import slicer
from scipy.spatial.transform import Rotation

from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient
from ADAttributionLogic.cli import main
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.simulation.native_scan import Acquisition, acquire
from ADAttributionLogic.volume import Volume

PREPARATION = {"registration": "affine", "registered": False, "space": "model", "accept_quality": True}


@pytest.fixture(scope="module")
def scanFile(template: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan whose axes are those of no scanner: float32 cannot hold its affine."""
    acquired = acquire(
        template, Acquisition((15, -8, 10), (25, -15, 20), (2.3, 2.5, 2.9), "sagittal", "int16", 0.1, 0.01, 3)
    )
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (7.3, -4.1, 3.3), degrees=True).as_matrix()
    turn[:3, 3] = (3.33, 1.7, -9.1)
    scan = Volume(acquired.scan.array, turn @ acquired.scan.affine)
    return write_volume(scan, tmp_path_factory.mktemp("oblique") / "scan.nii.gz")


def asSlicerReadsIt(scene, path: Path) -> Volume:
    """The file through Slicer's own storage node."""
    storage, node = slicer.vtkMRMLVolumeArchetypeStorageNode(), slicer.vtkMRMLScalarVolumeNode()
    scene.AddNode(storage)
    scene.AddNode(node)
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    return volumeFromNode(node)


def fresh(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A cache that holds nothing yet: nobody takes over what another one computed."""
    monkeypatch.setenv("AD_ATTRIBUTION_CACHE", str(folder))


def matrixOf(record: dict) -> list:
    (step,) = (s for s in record["preprocessing"] if s["step"] == "registration and resampling")
    return step["matrix_model_to_scan_ras_mm"]


def test_the_same_bits_from_all(
    scene, scanFile: Path, small_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(monkeypatch, tmp_path / "cache-1")
    common = ["--model", str(small_package), "--atlas", "none", "--method", "lrp", "--registration", "affine"]
    common += ["--registered", "no", "--space", "model", "--accept-qc", "--no-figure"]
    assert main(["explain", str(scanFile), *common, "--no-scene", "--out", str(tmp_path / "one")]) == 0
    fresh(monkeypatch, tmp_path / "cache-2")
    many = [option for option in common if option != "--no-figure"]
    assert main(["batch", str(scanFile.parent), *many, "--out", str(tmp_path / "many")]) == 0
    fresh(monkeypatch, tmp_path / "cache-3")
    seen = asSlicerReadsIt(scene, scanFile)
    assert (seen.affine != read_scan(scanFile).affine).any(), "Slicer has the voxels in another order"
    client = WorkerClient(arguments=("--threads", "1"))
    try:
        answer = client.wait(client.explain(seen, small_package, [("lrp", {})], preparation=PREPARATION), timeout=300)
    finally:
        client.close()
    folders = [tmp_path / "one", tmp_path / "many" / "scan"]
    records = [json.loads((f / "provenance.json").read_text(encoding="utf-8")) for f in folders] + [answer.provenance]
    assert not any(record["preprocessing_from_cache"] for record in records)
    one, many, worker = ((matrixOf(r), r["probabilities"], r["answer_spread"]["answers"]) for r in records)
    assert one == many == worker
    brains = [read_scan(f / "preprocessing" / "brain.nii.gz").array for f in folders] + [answer.preparation.brain.array]
    maps = [read_scan(f / "heatmaps" / "lrp.nii.gz").array for f in folders] + [answer.maps[0].volume.array]
    for first, *others in (brains, maps):
        assert np.abs(first).max() > 0
        for other in others:
            np.testing.assert_array_equal(first, other)
