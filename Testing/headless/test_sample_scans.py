"""The simulated patient and its control: made by the real worker, offered to the module Sample Data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ADAttributionLib import SceneFile
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.SampleScans import sampleSources
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.resources import resources_folder


@pytest.fixture(scope="module")
def logic():
    scene = SceneFile.newScene()
    made = ExplainLogic(scene, WorkerClient(arguments=("--threads", "2")))
    yield made
    made.close()
    SceneFile.closeScene(scene)


@pytest.fixture(scope="module")
def subjects(logic):
    """As the buttons in Sample Data make them."""
    return [source["customDownloader"](None) for source in sampleSources(logic.addSimulatedSubject)]


def test_both_are_brains_on_the_networks_grid(subjects, logic) -> None:
    import json

    card = json.loads((resources_folder() / "Models" / "simulated-atrophy" / "model.json").read_text(encoding="utf-8"))
    assert [node.GetName() for node in subjects] == ["Simulated patient", "Simulated control"]
    for node in subjects:
        volume = volumeFromNode(node)
        assert volume.array.shape == (193, 229, 193) and volume.array.dtype == np.float32
        np.testing.assert_allclose(volume.affine, card["grid"]["affine"])
        assert np.isfinite(volume.array).all() and 0.15 < (volume.array > 0).mean() < 0.35, "a brain, not a head"
        assert node.GetDisplayNode() is not None
    assert nodesOfClass(logic.scene, "vtkMRMLScalarVolumeNode") == subjects
    assert not list(logic.client._folder.glob("*.npy")), "no array is left behind"


def test_the_patient_has_lost_tissue_where_the_control_has_not(subjects) -> None:
    """More voxels as dark as cerebrospinal fluid where the template has its hippocampi (measured: 6.2 and 3.1 %)."""
    atlas = load_atlas("neuromorphometrics")
    labels = [r.label for r in atlas.regions if "Hippocampus" in r.name]
    patient, control = (volumeFromNode(node) for node in subjects)
    assert not np.array_equal(patient.array, control.array)
    inside = np.isin(atlas.on_grid(patient.grid).labels.array, labels)
    dark = [(v.array[inside] < 0.7 * np.median(v.array[v.array > 0])).mean() for v in (patient, control)]
    assert dark[0] > 1.5 * dark[1], dark


def test_the_same_seed_gives_the_same_scan_and_another_label_is_refused(subjects, logic) -> None:
    again = volumeFromNode(logic.addSimulatedSubject("CN", name="again"))
    np.testing.assert_array_equal(again.array, volumeFromNode(subjects[1]).array)
    with pytest.raises(UsageError, match=r"AD \(a patient\) or CN \(a control\), but not 'MCI'"):
        logic.addSimulatedSubject("MCI")
    with pytest.raises(WorkerError, match="lacks 'label'"):
        logic.client.wait(logic.client.request("simulate"), timeout=60)


def test_sample_data_can_register_them() -> None:
    """Slicer's SampleDataSource takes these arguments, and requires lists of one length."""
    sources = sampleSources(lambda label: label)
    assert [s["sampleName"] for s in sources] == ["Simulated patient", "Simulated control"]
    for source, label in zip(sources, ("AD", "CN"), strict=True):
        assert set(source) <= {
            "category",
            "sampleName",
            "uris",
            "fileNames",
            "nodeNames",
            "customDownloader",
            "thumbnailFileName",
        }
        assert len(source["uris"]) == len(source["fileNames"]) == len(source["nodeNames"]) == 0
        assert Path(source["thumbnailFileName"]).is_file()
        assert source["customDownloader"]("source") == label
