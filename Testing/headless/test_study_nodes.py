"""A study's output and a reference of controls as nodes: one folder, and two groups side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer

from ADAttributionLib import Overlays, StudyNodes, Views
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLogic.errors import ScanError, UnknownNameError, UsageError
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.volume import Volume


@pytest.fixture
def folder(tmp_path) -> Path:
    """As ``ad-attribution study`` writes it: maps by set and case, tables, study.json."""
    generator = np.random.default_rng(1)
    for case in ("TP", "TN"):
        (tmp_path / "study" / "maps" / "lrp").mkdir(parents=True, exist_ok=True)
        volume = Volume(generator.normal(size=(8, 9, 7)).astype(np.float32), np.eye(4), case)
        write_volume(volume, tmp_path / "study" / "maps" / "lrp" / f"{case}.nii.gz")
    (tmp_path / "study" / "tables").mkdir()
    table = "region\tgain\nHippocampus_L\t8.8\nParahippocampal gyrus, Größe\t2.5\n"
    (tmp_path / "study" / "tables" / "gain.tsv").write_text(table, encoding="utf-8")
    (tmp_path / "study" / "study.json").write_text("{}", encoding="utf-8")
    return tmp_path / "study"


def test_maps_and_tables_lie_in_one_folder(scene, folder) -> None:
    study = StudyNodes.openStudy(scene, folder / "study.json")
    assert list(study.mapNodes) == ["lrp/TN", "lrp/TP"] and list(study.tableNodes) == ["gain"]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemName(study.folderItem) == "Study study"
    for node in [*study.mapNodes.values(), *study.tableNodes.values()]:
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study.folderItem
    table = study.tableNodes["gain"].GetTable()
    assert table.GetColumnByName("gain").GetValue(0) == 8.8
    assert "Größe" in str(table.GetColumnByName("region").GetValue(1))
    assert Overlays.settingsOf(study.mapNodes["lrp/TP"]).percentile == 95.0
    assert volumeFromNode(study.mapNodes["lrp/TP"]).array.shape == (8, 9, 7)


def test_two_groups_stand_side_by_side_in_linked_views(scene, folder) -> None:
    study = StudyNodes.openStudy(scene, folder)
    composites = StudyNodes.showBeside(scene, study, ["lrp/TP", "lrp/TN"])
    shown = [composite.GetForegroundVolumeID() for composite in composites]
    assert shown == [study.mapNodes["lrp/TP"].GetID(), study.mapNodes["lrp/TN"].GetID()]
    assert all(composite.GetLinkedControl() for composite in composites) and Views.isComparing(scene)
    with pytest.raises(UnknownNameError, match="lrp/FP"):
        StudyNodes.showBeside(scene, study, ["lrp/FP"])


def test_what_is_no_study_is_refused_and_nothing_is_half_loaded(scene, folder, tmp_path) -> None:
    with pytest.raises(UsageError, match="neither a study nor a reference"):
        StudyNodes.openStudy(scene, tmp_path)
    (folder / "maps" / "lrp" / "TP.nii.gz").write_bytes(b"damaged")
    before = scene.GetNumberOfNodes()
    with pytest.raises(ScanError):
        StudyNodes.openStudy(scene, folder)
    assert scene.GetNumberOfNodes() == before
