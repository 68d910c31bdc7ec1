"""The checks of the module's self-test: real computations on a small network that ships. Needs no Qt, but checkPanel.

`case` is a unittest.TestCase, `logic` has explain() (the module's logic or ExplainLogic).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import slicer
import vtk

from ADAttributionLib import SceneBuilder, Views
from ADAttributionLib.ModelCards import bundledPackages
from ADAttributionLib.Overlays import Sign
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.Runs import findRuns, tableRows
from ADAttributionLib.VolumeNodes import arrayFromMatrix, volumeFromNode
from ADAttributionLib.WorkerClient import WorkerError
from ADAttributionLogic.errors import ADAttributionError, ScanError
from ADAttributionLogic.volume import Volume

#: An untrained network on a 2.5 mm grid: it decides nothing, but computes like the real ones.
SMALL_NETWORK = Path(__file__).resolve().parents[1] / "Resources" / "SelfTest" / "untrained-small"
_SHAPE = (78, 92, 78)
_AFFINE = np.array([[2.5, 0, 0, -96], [0, 2.5, 0, -132], [0, 0, 2.5, -78], [0, 0, 0, 1]])
#: Something that takes long enough to be cancelled.
_LONG = ("occlusion", {"size": 4, "stride": 2})
#: Turned by 10° and shifted by 22 mm: not in the network's space.
_TURN = np.array([[0.985, -0.174, 0, 12], [0.174, 0.985, 0, -18], [0, 0, 1, 4], [0, 0, 0, 1]])
_AFFECTED = ("hippocamp", "amygdala", "entorhinal", "parahippocampal", "ent_", "phg")


def addPhantom(scene, name="phantom"):
    """Add an ellipsoid with some texture, on the small network's grid."""
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in _SHAPE], indexing="ij"))
    inside = (places**2).sum(axis=0) < 0.8
    texture = (
        100 + 20 * np.sin(9 * places[0]) * np.cos(7 * places[1]) + 5 * np.random.default_rng(0).normal(size=_SHAPE)
    )
    node = SceneBuilder.addVolume(scene, Volume((texture * inside).astype(np.float32), _AFFINE), name)
    node.CreateDefaultDisplayNodes()
    return node


def addRegions(scene):
    """Add a segmentation with two boxes, as a user would draw it."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn regions")
    node.CreateDefaultDisplayNodes()
    for name, start in (("box left", 22), ("box right", 46)):
        labels = np.zeros(_SHAPE, np.uint8)
        labels[start : start + 10, 40:50, 30:40] = 1
        image = slicer.vtkOrientedImageData()
        image.DeepCopy(SceneBuilder.imageData(labels))
        image.SetImageToWorldMatrix(SceneBuilder.vtkMatrix(_AFFINE))
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment)
    return node


def checkExplain(case, scene, logic):
    """Two methods on drawn regions: what is in the scene afterwards, and that a second run does not litter."""
    scan, regions = addPhantom(scene), addRegions(scene)

    def explain():
        return logic.explain(scan, model=SMALL_NETWORK, methods=["lrp", "gradient-x-input"], atlas=regions)

    run = explain()
    case.assertAlmostEqual(sum(run.probabilities.values()), 1.0, places=5)
    case.assertEqual(list(run.mapNodes), ["lrp", "gradient-x-input"])
    for node in run.mapNodes.values():
        case.assertTrue(node.GetName().startswith("phantom - "), node.GetName())
        case.assertTrue(volumeFromNode(node).grid.is_same(volumeFromNode(scan).grid))
        case.assertGreater(float(np.abs(volumeFromNode(node).array).max()), 0)
    names = [row["name"] for row in tableRows(run.tableNodes["lrp"].GetTable())]
    case.assertEqual(names, ["box left", "box right", "outside the atlas"])
    display = RunDisplay(run)
    display.show("gradient-x-input")
    colors = display.mapNode.GetDisplayNode().GetColorNode()
    case.assertEqual(_alphas(colors)[[0, 127, 128, 255]].tolist(), [1, 0, 0, 1])
    display.change(sign=Sign.POSITIVE)
    case.assertEqual(_alphas(colors)[[0, 255]].tolist(), [0, 1])
    case.assertIsNotNone(display.chooseRegion(tableRows(run.tableNodes["lrp"].GetTable())[0]["label"]))
    explain()  # now with the outlined region as a surface
    count = scene.GetNumberOfNodes()
    explain()
    case.assertEqual(scene.GetNumberOfNodes(), count)
    case.assertEqual(len(findRuns(scene)), 1)


def _alphas(colors):
    found = []
    for index in range(colors.GetNumberOfColors()):
        color = [0.0] * 4
        colors.GetColor(index, color)
        found.append(color[3])
    return np.array(found)


def checkDemonstration(case, scene, logic):
    """The simulated patient through the demonstration network: it looks at the regions that were shrunken."""
    names = [folder.name for folder in bundledPackages()]
    case.assertIn("simulated-atrophy", names, "The demonstration network is not installed (Resources/Models).")
    scan = logic.addSimulatedSubject("AD")
    run = logic.explain(scan, model="simulated-atrophy", methods=["lrp"], atlas="neuromorphometrics")
    case.assertGreater(run.probabilities["AD"], 0.5)
    rows = sorted(tableRows(run.tableNodes["lrp"].GetTable()), key=lambda row: row["density_rank"] or 9999)
    best = [row["name"].lower() for row in rows[:5]]
    case.assertTrue(any(word in name for name in best for word in _AFFECTED), best)


def checkSaveAndReload(case, scene, logic):
    """A run is picked up again from a saved scene."""
    run = logic.explain(addPhantom(scene), model=SMALL_NETWORK, methods=["gradient-x-input"], atlas=addRegions(scene))
    RunDisplay(run).change(percentile=97.0, sign=Sign.NEGATIVE)
    expected = float(np.abs(volumeFromNode(run.mapNodes["gradient-x-input"]).array).max())
    name, identifier = run.name, run.identifier
    with tempfile.TemporaryDirectory(prefix="ad-attribution-") as folder:
        path = str(Path(folder) / "run.mrb")
        case.assertTrue(scene.WriteToMRB(path))
        scene.Clear(False)
        case.assertEqual(findRuns(scene), [])
        case.assertTrue(scene.ReadFromMRB(path, True))
        (again,) = findRuns(scene)
        case.assertEqual((again.name, again.identifier), (name, identifier))
        node = again.mapNodes["gradient-x-input"]
        case.assertAlmostEqual(float(np.abs(volumeFromNode(node).array).max()), expected, places=6)
        settings = RunDisplay(again).settings
        case.assertEqual((settings.percentile, settings.sign), (97.0, Sign.NEGATIVE))
        case.assertIsNotNone(again.scanNode)
        case.assertIsNotNone(again.atlasNode)


def checkNativeScan(case, scene, logic):
    """A scan as acquired: registered, explained, and the result back on the scan, whatever way it is stored."""
    scan = addTurnedSubject(scene, logic)
    grid = volumeFromNode(scan).grid
    run = logic.explain(
        scan, model=SMALL_NETWORK, methods=["lrp"], atlas="neuromorphometrics", registration="affine", space="native"
    )
    for node in (*run.mapNodes.values(), run.scanNode):
        case.assertTrue(volumeFromNode(node).grid.is_same(grid))
    case.assertEqual(volumeFromNode(run.gridScanNode).array.shape, _SHAPE)
    matrix = vtk.vtkMatrix4x4()
    run.transformNodes["model-to-scan"].GetMatrixTransformToParent(matrix)
    found = arrayFromMatrix(matrix)
    # Where the template's brain is, the registration must have found the subject, which is another brain.
    corners = np.array([(x, y, z, 1) for x in (-60, 60) for y in (-90, 60) for z in (-30, 60)], float)
    distance = np.linalg.norm((corners @ found.T - corners @ _TURN.T)[:, :3], axis=1)
    case.assertLess(float(distance.max()), 8.0)
    hippocampus = [row for row in tableRows(run.tableNodes["lrp"].GetTable()) if "Hippocampus" in row["name"]]
    case.assertTrue(hippocampus and all(row["voxels"] > 100 for row in hippocampus), hippocampus)
    again = logic.prepare(scan, SMALL_NETWORK, "affine")
    case.assertTrue(again.from_cache and again.quality.passed, str(again.quality.failures))


def addTurnedSubject(scene, logic):
    """Add a simulated control who lies turned and shifted in the scanner, in sagittal slices of 2 mm."""
    subject = logic.addSimulatedSubject("CN")
    volume = volumeFromNode(subject)
    scene.RemoveNode(subject)
    # Stored with the slices from left to right as the last axis, every second voxel of each axis.
    array = np.ascontiguousarray(volume.array[::2, ::2, ::2].transpose(1, 2, 0))
    order = np.zeros((4, 4))
    order[[1, 2, 0], [0, 1, 2]] = 2
    order[3, 3] = 1
    node = SceneBuilder.addVolume(scene, Volume(array, _TURN @ volume.affine @ order), "scan as acquired")
    node.CreateDefaultDisplayNodes()
    return node


def checkCancel(case, scene, logic):
    """A cancelled run leaves the scene as it was, and the module usable."""
    scan = addPhantom(scene)
    before = scene.GetNumberOfNodes()
    request = logic.explain(scan, model=SMALL_NETWORK, methods=[_LONG], atlas=None, wait=False)
    _pollUntil(case, logic, lambda: request.hasEnded or "window" in request.job.text)
    request.cancel()
    _pollUntil(case, logic, lambda: request.hasEnded)
    case.assertTrue(request.isCancelled, str(request.error))
    case.assertEqual(scene.GetNumberOfNodes(), before)
    case.assertTrue(logic.explain(scan, model=SMALL_NETWORK, methods=["sensitivity"], atlas=None).mapNodes)


def _pollUntil(case, logic, condition, seconds=180):
    stop = time.monotonic() + seconds
    while not condition():
        case.assertLess(time.monotonic(), stop, "took too long")
        logic.poll()
        time.sleep(0.01)


def checkBadInput(case, scene, logic):
    """Each is refused with its cause, and nothing changes."""
    phantom = addPhantom(scene)
    constant = SceneBuilder.addVolume(scene, Volume(np.ones(_SHAPE, np.float32), _AFFINE), "constant")
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    before = scene.GetNumberOfNodes()
    for scan, model, methods, kind, message in (
        (empty, SMALL_NETWORK, ["lrp"], ScanError, "holds no voxels"),
        (constant, SMALL_NETWORK, ["lrp"], WorkerError, "constant"),
        (phantom, "no such network", ["lrp"], WorkerError, "no model"),
        (phantom, SMALL_NETWORK, ["lpr"], WorkerError, "Did you mean lrp"),
        (phantom, SMALL_NETWORK, [], WorkerError, "at least one method"),
    ):
        with case.assertRaisesRegex(kind, message):
            logic.explain(scan, model=model, methods=methods, atlas=None)
    case.assertTrue(issubclass(WorkerError, ADAttributionError))
    case.assertEqual(scene.GetNumberOfNodes(), before)


def checkPanel(case, widget):
    """Needs Slicer: the panel from an empty scene to an answer, by its own widgets."""
    ui, scene = widget.ui, slicer.mrmlScene
    slicer.app.processEvents()
    case.assertFalse(ui.applyButton.enabled)
    widget.initializeParameterNode()
    scan = addPhantom(scene)
    _waitUntil(case, lambda: ui.inputSelector.currentNode() is not None, "a loaded scan is chosen by itself")
    case.assertEqual(ui.inputSelector.currentNode().GetID(), scan.GetID())
    ui.stepTabWidget.setCurrentIndex(1)
    widget._question.addModel(SMALL_NETWORK)
    ui.preparationComboBox.setCurrentIndex(0)  # already registered
    ui.areaOcclusionCheckBox.checked = False  # needs an atlas
    ui.atlasComboBox.setCurrentIndex(ui.atlasComboBox.count - 1)  # none
    slicer.app.processEvents()
    case.assertTrue(ui.applyButton.enabled, ui.applyButton.toolTip)
    ui.applyButton.click()
    stop = time.monotonic() + 180
    while ui.progressBar.visible or not findRuns(scene):
        case.assertLess(time.monotonic(), stop, ui.statusLabel.text)
        if ui.logTextEdit.plainText and not findRuns(scene) and not ui.progressBar.visible:
            case.fail(ui.logTextEdit.plainText)
        slicer.app.processEvents()
    case.assertIn("%", ui.answerLabel.text)
    case.assertIn("%", ui.footerAnswerLabel.text)
    case.assertEqual(ui.stepTabWidget.currentIndex, 2, "the step Result opens by itself")
    case.assertGreater(ui.mapListWidget.count, 0)
    ui.thresholdSlider.value = 99.0
    slicer.app.processEvents()
    (run,) = findRuns(scene)
    case.assertEqual(RunDisplay(run).settings.percentile, 99.0)
    _checkComparison(case, ui, scene)
    _checkOptions(case, ui)


def _waitUntil(case, condition, what, seconds=10):
    """Let Slicer work until something has happened."""
    stop = time.monotonic() + seconds
    while not condition():
        case.assertLess(time.monotonic(), stop, what)
        slicer.app.processEvents()


def _checkComparison(case, ui, scene):
    """One map is ticked, shown in a view of its own, and taken away again."""
    case.assertGreater(ui.compareComboBox.count, 1)
    ui.compareComboBox.setCheckState(ui.compareComboBox.model().index(1, 0), 2)
    case.assertIn("1 ", ui.compareLabel.text)
    ui.compareButton.click()
    slicer.app.processEvents()
    case.assertTrue(Views.isComparing(scene), ui.compareLabel.text)
    view = scene.GetSingletonNode("ADAttribution1", "vtkMRMLSliceCompositeNode")
    (run,) = findRuns(scene)
    case.assertEqual(view.GetForegroundVolumeID(), list(run.mapNodes.values())[1].GetID())
    ui.compareButton.click()
    case.assertFalse(Views.isComparing(scene))


def _checkOptions(case, ui):
    """The worker fills the form under Advanced; what is written as text is checked."""
    ui.advancedGroupBox.collapsed = False
    stop = time.monotonic() + 60
    while ui.optionsMethodComboBox.count == 0:
        case.assertLess(time.monotonic(), stop, ui.optionsLabel.text)
        slicer.app.processEvents()
    case.assertGreater(ui.optionsFrame.layout().rowCount(), 5)
    ui.otherOptionsLineEdit.text = "lrp.epsilon = 5000"
    slicer.app.processEvents()
    case.assertFalse(ui.applyButton.enabled)
    case.assertIn("between 0 and 1000", ui.applyButton.toolTip)
    ui.otherOptionsLineEdit.text = ""
    slicer.app.processEvents()
    case.assertTrue(ui.applyButton.enabled)
