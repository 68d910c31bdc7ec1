"""ADAttribution for 3D Slicer: which voxels and brain regions made a network decide as it did on a T1 MRI scan.

This file holds the module, its widget, its logic and its self-test; everything that needs no Qt is in ADAttributionLib,
and all computation in the package ADAttributionLogic, which runs in a process of its own.
"""

from typing import Annotated, Optional

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper, parameterPack
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from ADAttributionLib import QtSeam, SelfTest
from ADAttributionLib.AnswerPanel import AnswerPanel
from ADAttributionLib.ChartPanel import ChartPanel
from ADAttributionLib.ChecksPanel import ChecksPanel
from ADAttributionLib.ConsoleCalls import ConsoleCalls
from ADAttributionLib.DicomSource import filesOf
from ADAttributionLib.EstimatePanel import EstimatePanel
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.ExportPanel import ExportPanel
from ADAttributionLib.MethodPresets import Preset, choose, preselect, presetOf
from ADAttributionLib.NetworksPanel import NetworksPanel
from ADAttributionLib.OlderScenes import adoptOlderScenes
from ADAttributionLib.OptionsPanel import OptionsPanel
from ADAttributionLib.OverlayPanel import OverlayPanel
from ADAttributionLib.PackagePanel import PackagePanel
from ADAttributionLib.PreparationPanel import PreparationPanel, Registration, ResultSpace, checkOf, preparationOf
from ADAttributionLib.QualityText import verdictOf
from ADAttributionLib.QuestionPanel import (
    AtlasChoice,
    Device,
    LrpRule,
    QuestionPanel,
    Start,
    atlasOf,
    methodsOf,
)
from ADAttributionLib.ReferencePanel import ReferencePanel
from ADAttributionLib.RegionsPanel import RegionsPanel
from ADAttributionLib.RequestPanel import RequestPanel
from ADAttributionLib.ResultOpening import ResultOpening
from ADAttributionLib.RunAnswer import answerOf
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.Runs import findRuns
from ADAttributionLib.SampleScans import sampleSources
from ADAttributionLib.ScanArrivals import ScanArrivals, firstScan
from ADAttributionLib.SetupPanel import SetupPanel, chosenPython
from ADAttributionLib.Signals import connect
from ADAttributionLib.WhatIf import WhatIf
from ADAttributionLib.WhatIfPanel import WhatIfPanel
from ADAttributionLib.WorkerClient import WorkerClient

# -------------------------------------------------------------------------------------------------------------- module


class ADAttribution(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "AD Attribution"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Neuroimaging")]
        self.parent.dependencies = []
        self.parent.contributors = ["The ADAttribution founders"]
        self.parent.helpText = _(
            "Explains a neural network's decision on a T1 MRI scan: attribution maps over the scan, and how much each "
            "brain region contributed. Research software, not a medical device, not for clinical use. Layer-wise "
            "relevance propagation is patented (WO2016/150472, EP3271863B1, US 12,061,966 B2; Fraunhofer, TU Berlin; "
            "free for personal and scientific use, say its inventors): commercial use may need a licence."
        )
        self.parent.acknowledgementText = _(
            "Methods after Böhle et al. 2019, Rieke et al. 2018, Eitel & Ritter 2019; the README names all sources."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the simulated patient and its control in the Sample Data module."""
    import SampleData

    for source in sampleSources(addSimulatedSubject):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(**source)


def addSimulatedSubject(label):
    """Add a simulated subject to the scene and show it."""
    with slicer.util.tryWithErrorDisplay(_("The simulated scan could not be made."), waitCursor=True):
        node = slicer.util.getModuleLogic("ADAttribution").addSimulatedSubject(label)
        slicer.util.setSliceViewerLayers(background=node, fit=True)
        return node


# ---------------------------------------------------------------------------------------------------------- parameters


@parameterPack
class MethodChoice:
    """Which methods are chosen; the names are saved in scenes and never change."""

    lrp: bool = True
    sensitivity: bool = False
    gradientXInput: bool = False
    guidedBackprop: bool = False
    integratedGradients: bool = False
    smoothgrad: bool = False
    gradCam: bool = False
    occlusion: bool = False
    voxelOcclusion: bool = False
    areaOcclusion: bool = True
    deeplift: bool = False
    attentionRollout: bool = False


@parameterNodeWrapper
class ADAttributionParameterNode:
    """What the user asks; how maps are shown is kept with the maps."""

    inputVolume: Optional[slicer.vtkMRMLScalarVolumeNode] = None  # noqa: UP045 (the wrapper prefers Optional)
    atlasSegmentation: Optional[slicer.vtkMRMLSegmentationNode] = None  # noqa: UP045
    registration: Registration = Registration.AFFINE
    resultSpace: ResultSpace = ResultSpace.NATIVE
    brainMask: Optional[slicer.vtkMRMLSegmentationNode] = None  # noqa: UP045
    brainSegment: str = ""
    biasCorrection: bool = True
    acceptQuality: bool = False
    methods: MethodChoice
    lrpRule: LrpRule = LrpRule.B_RULE
    # The wrapper takes the widgets' own limits away where there are none here.
    lrpBeta: Annotated[float, WithinRange(0.0, 10.0)] = 0.0
    steps: Annotated[int, WithinRange(2, 1000)] = 32
    samples: Annotated[int, WithinRange(1, 1000)] = 16
    occlusionSize: Annotated[int, WithinRange(1, 500)] = 40
    occlusionStride: Annotated[int, WithinRange(1, 500)] = 25
    otherOptions: str = ""
    atlas: AtlasChoice = AtlasChoice.AAL
    reference: str = ""
    covariates: str = ""
    checkMaps: bool = True
    memberSd: bool = False
    device: Device = Device.AUTO
    start: Start = Start.PROBABILITY


# -------------------------------------------------------------------------------------------------------------- widget


class ADAttributionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: three steps and a foot that is always in sight. Each section is a class of its own, connected here."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._display = None
        self._card = None

    # Life cycle.

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ADAttribution.ui"))
        self.layout.addWidget(uiWidget, 1)  # fills the panel, so that each step scrolls by itself above the foot
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = ADAttributionLogic()
        self._question = QuestionPanel(self.ui, QtSeam.listSetting("recentPackages"))
        for preset in Preset:
            self.ui.presetComboBox.addItem(preset.label(), preset.name)
        self._options = OptionsPanel(self.ui, QtSeam, self._describe)
        self._preparation = PreparationPanel(self.ui, QtSeam)
        self._reference = ReferencePanel(self.ui, QtSeam, lambda: self._parameterNode, self._checkCanApply)
        self._estimate = EstimatePanel(
            self.ui, self._question, lambda: self._parameterNode, lambda: self.logic.explainer
        )
        self._running = RequestPanel(self.ui, self._checkCanApply, self._preparation.showFailure)
        self._networks = NetworksPanel(self.ui, QtSeam, self._question, self._running, self.logic.installNetwork)
        self._package = PackagePanel(self.ui, QtSeam, self._question, self._running, lambda: self.logic.explainer)
        self._answer = AnswerPanel(self.ui)
        self._opening = ResultOpening(self._running, QtSeam, self.logic, self._chosenScan, self._showResult)
        self._rest = QtSeam.makeRestTimer(400, self._onRest)
        self._settle = QtSeam.makeRestTimer(100, self._onScanLoaded)
        self._arrivals = ScanArrivals(slicer.mrmlScene, self._settle.start)
        self._overlay = OverlayPanel(self.ui, self._onMapChanged, self._rest.start)
        self._charts = ChartPanel(self._overlay, QtSeam, self._running, lambda: self.logic.explainer.client)
        self._regions = RegionsPanel(self.ui, QtSeam, self._charts.onRegion)
        self._checks = ChecksPanel(self.ui, QtSeam)
        self._whatIf = WhatIfPanel(
            self.ui, QtSeam, self._running, lambda: self.logic.trials, self._question.modelOf, self._regions
        )
        self._export = ExportPanel(self.ui, QtSeam, self._running, lambda: self.logic.explainer)
        self._setup = SetupPanel(self.ui, QtSeam, lambda: self.logic.interpreter, self.onSetupChanged)
        self._connectWidgets()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self._question.showModel()
        self.initializeParameterNode()
        self.refreshRuns()

    def _connectWidgets(self):
        ui = self.ui
        connect(ui.modelComboBox, "currentIndexChanged(int)", self.onModel)
        connect(ui.brainSegmentComboBox, "activated(int)", self.onSegment)
        connect(ui.enlargeButton, "clicked(bool)", self._preparation.onEnlarge)
        connect(ui.checkButton, "clicked(bool)", self.onCheck)
        connect(ui.presetComboBox, "activated(int)", self.onPreset)
        connect(ui.applyButton, "clicked(bool)", self.onApply)
        connect(ui.runComboBox, "activated(int)", self.onRunChosen)
        connect(ui.openResultButton, "clicked(bool)", self._opening.ask)
        connect(ui.chartButton, "clicked(bool)", self._charts.show)
        connect(ui.copyTableButton, "clicked(bool)", lambda _checked: QtSeam.copyText(self._regions.text()))
        connect(ui.exportTableButton, "clicked(bool)", self.onExportTable)
        connect(ui.copyAboutButton, "clicked(bool)", lambda _checked: QtSeam.copyText(ui.aboutTextEdit.plainText))

    def cleanup(self):
        self.removeObservers()
        if self.logic is not None:
            self._arrivals.close()
            self.logic.close()

    def enter(self):
        self.initializeParameterNode()
        self.refreshRuns()

    def exit(self):
        self.setParameterNode(None)

    def onSceneStartClose(self, _caller=None, _event=None):
        # The logic has cancelled what was running: it observes the scene itself.
        self.setParameterNode(None)
        self._setDisplay(None)

    def onSceneEndClose(self, _caller=None, _event=None):
        self.refreshRuns()
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, _caller=None, _event=None):
        self.refreshRuns()

    # Parameters.

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())
        self._card = self._question.card
        if self._parameterNode.inputVolume is None:  # nobody has chosen anything yet
            preselect(self._parameterNode, self._card)
            self._parameterNode.inputVolume = firstScan(slicer.mrmlScene)

    def _onScanLoaded(self):
        """A scan that is loaded while none is chosen becomes the chosen one; in other modules as well."""
        scan = self._arrivals.newest()
        if scan is not None:
            parameters = self.logic.getParameterNode()
            parameters.inputVolume = parameters.inputVolume or scan

    def setParameterNode(self, node):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
        self._parameterNode = node
        if node is not None:
            self._parameterNodeGuiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
        self._checkCanApply()

    def _checkCanApply(self, _caller=None, _event=None):
        ui, parameters = self.ui, self._parameterNode
        self._options.show(parameters)
        if parameters is None:
            return
        ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findData(presetOf(parameters.methods).name))
        self._question.show(parameters)
        self._reference.show(parameters)
        self._preparation.show(parameters, self._question.card, self._isPrepared())
        if self._running.request is not None:
            ui.applyButton.text, ui.applyButton.enabled, ui.checkButton.enabled = _("Cancel"), True, False
            ui.applyButton.toolTip = _("Stop; the scene stays as it is")
            self._running.showProblem("")
            return
        problem = self._problem()
        ui.checkButton.enabled = parameters.inputVolume is not None and self._question.card is not None
        ui.applyButton.text = _("Explain")
        ui.applyButton.enabled = ui.estimateButton.enabled = not problem
        ui.applyButton.toolTip = problem or _("Compute the chosen maps")
        self._running.showProblem(problem)
        self._rest.start()

    def _chosenScan(self):
        return None if self._parameterNode is None else self._parameterNode.inputVolume

    def _isPrepared(self):
        parameters = self._parameterNode
        if self._preparation.problem(parameters, self._question.card):
            return False
        return self.logic.isPrepared(parameters.inputVolume, self._question.model, **preparationOf(parameters))

    def _problem(self):
        parameters = self._parameterNode
        return (
            self._setup.problem()
            or self._question.problem(parameters)
            or self._preparation.problem(parameters, self._question.card)
            or self._reference.problem(parameters)
            or self._options.problem(parameters)
        )

    # Question.

    def onSetupChanged(self):
        self.logic.restartWorker()
        self._checkCanApply()

    def onModel(self, _index):
        self._question.showModel()
        with slicer.util.NodeModify(self._parameterNode):
            preselect(self._parameterNode, self._question.card, self._card)
        self._card = self._question.card
        self._checkCanApply()

    def onPreset(self, _index):
        with slicer.util.NodeModify(self._parameterNode):
            choose(self._parameterNode.methods, Preset[self.ui.presetComboBox.currentData])

    def _describe(self, onEnd):
        return self.logic.explainer.client.request("describe", onEnd=onEnd)

    def _onRest(self):
        """The user has stopped changing things for a moment."""
        if not self.ui.overlayCollapsibleButton.collapsed:
            self._overlay.showClusters()
        if self.logic.isWarm and self._running.request is None and self.ui.applyButton.enabled:
            self._estimate.refresh()

    # Preparation.

    def onSegment(self, _index):
        self._parameterNode.brainSegment = self._preparation.chosenSegment()

    def onCheck(self, _checked=False):
        parameters = self._parameterNode

        def ask(**callbacks):
            return self.logic.prepare(parameters.inputVolume, self._question.model, **checkOf(parameters), **callbacks)

        self._running.start(ask, self._onChecked)

    def _onChecked(self, request):
        self._preparation.showReport(request.report)
        return _("{verdict} Nothing was explained yet.").format(verdict=verdictOf(request.report))

    # Explain.

    def onApply(self, _checked=False):
        if self._running.request is not None:
            self._running.cancel()
            return
        parameters = self._parameterNode

        def ask(**callbacks):
            return self.logic.explain(
                parameters.inputVolume,
                model=self._question.model,
                methods=methodsOf(parameters),
                atlas=atlasOf(parameters),
                target=self._question.target,
                start=parameters.start.quantity(),
                device=parameters.device.value,
                checks=parameters.checkMaps,
                memberSd=parameters.memberSd and self._question.isEnsemble,
                **preparationOf(parameters),
                **self._reference.asked(parameters),
                **callbacks,
            )

        self._running.start(ask, self._onExplained)

    def _onExplained(self, request):
        self._preparation.showReport(request.report)
        self._showResult(request.run)
        return _("Done.")

    def _showResult(self, run):
        """Open the step Result on a run, with the highest region outlined and the views at its peak."""
        self.refreshRuns(run)
        self.ui.stepTabWidget.setCurrentWidget(self.ui.resultScrollArea)
        if self._display is not None:
            self._display.showTopRegion()

    # Answer, overlay, regions.

    def refreshRuns(self, selected=None):
        """List the scene's runs, and show one: the given one, the shown one, or the last one."""
        adoptOlderScenes(slicer.mrmlScene)
        runs = {run.identifier: run for run in findRuns(slicer.mrmlScene)}
        if selected is None and self._display is not None:
            selected = runs.get(self._display.run.identifier)
        if selected is None and runs:
            selected = list(runs.values())[-1]
        self._answer.fillRuns(list(runs.values()), selected)
        self._answer.show(selected)
        self._setDisplay(RunDisplay(selected) if selected is not None and selected.mapNodes else None)

    def onRunChosen(self, _index):
        chosen = self.ui.runComboBox.currentData
        run = next((run for run in findRuns(slicer.mrmlScene) if run.identifier == chosen), None)
        if run is not None:
            self.refreshRuns(run)
            if self._display is not None:
                self._display.show()

    def _setDisplay(self, display):
        self._display = display
        self._overlay.setDisplay(display)
        self._regions.setDisplay(display)
        self._checks.setDisplay(display)
        self._whatIf.setDisplay(display)
        self._export.setDisplay(display)
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
        if crosshair is not None and not self.hasObserver(crosshair, event, self._onCrosshair):
            self.addObserver(crosshair, event, self._onCrosshair)

    def _onMapChanged(self):
        self._regions.refresh()
        self._checks.refresh()
        self._rest.start()

    def _onCrosshair(self, crosshair, _event):
        place = [0.0, 0.0, 0.0]
        if self._display is not None and self.parent.isEntered and crosshair.GetCursorPositionRAS(place):
            self.ui.crosshairLabel.text = self._display.textAt(place)

    def onExportTable(self, _checked=False):
        path = QtSeam.chooseNewFile(_("Export the region table"), "TSV (*.tsv);;CSV (*.csv)")
        if path:
            with slicer.util.tryWithErrorDisplay(_("The table was not exported."), waitCursor=False):
                self._regions.export(path)


# --------------------------------------------------------------------------------------------------------------- logic


class ADAttributionLogic(ConsoleCalls, ScriptedLoadableModuleLogic):
    """Explains scans, from the panel and from the console.

    Example::

        logic = slicer.util.getModuleLogic("ADAttribution")
        scan = slicer.util.getNode("T1")
        run = logic.explain(scan, registration="affine", methods=["lrp", ("occlusion", {"size": 20})], atlas="aal")
        print(run.probabilities, run.mapNodes["lrp"].GetName())
        logic.explainFolder("/data/scans", "/data/results")
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._explainer = None
        self._trials = None
        self._timer = None

    def getParameterNode(self):
        return ADAttributionParameterNode(super().getParameterNode())

    @property
    def interpreter(self):
        """The Python that the user chose for the computation; "" for Slicer's own."""
        return chosenPython(QtSeam.setting("interpreter"))

    @property
    def isWarm(self):
        """Whether the worker runs and is idle."""
        return self._explainer is not None and self._explainer.client.isRunning and not self._explainer.isBusy

    @property
    def explainer(self):
        """Made when it is first needed; a timer lets it hear its worker."""
        if self._explainer is None:
            client = WorkerClient(interpreter=QtSeam.workerInterpreter(self.interpreter))
            self._explainer = ExplainLogic(slicer.mrmlScene, client)
            self._trials = WhatIf(self._explainer)
            self._timer = QtSeam.makeTimer(20, self._explainer.poll)
            QtSeam.onQuit(self.close)
        return self._explainer

    @property
    def trials(self):
        """What if parts of a scan were not there: see ADAttributionLib.WhatIf."""
        return self._trials if self.explainer is not None else None

    def whatIf(self, run, covers, **options):
        """Cover parts of a run's scan and ask its network again; returns the Trial with ``before`` and ``after``.

        Example::

            trial = logic.whatIf(run, {"regions": ["Hippocampus_L", "Hippocampus_R"], "put": "mirrored"})
            print(trial.before.values, trial.after.values)
        """
        return self.trials.ask(run, covers, **options)

    def isPrepared(self, volumeNode, model, **preparation):
        """Whether a scan was registered and checked in just this way in this session."""
        if self._explainer is None or volumeNode is None or preparation.get("registration", "none") == "none":
            return False
        return self._explainer.registrationToDo(volumeNode, model, **preparation) == "none"

    def exportDicom(self, run, folder, **options):
        """Write a run as DICOM objects for the study that its scan was loaded from; they carry the patient's name."""
        files = filesOf(run.scanNode, QtSeam.dicomDatabase())
        return self.explainer.exportDicom(answerOf(run), files, folder, **options)

    def restartWorker(self):
        """Use another Python, or one in which something was installed, from now on."""
        self.close()

    def close(self):
        """End the worker with its children."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._explainer is not None:
            self._explainer.close()
            self._explainer = None


# ---------------------------------------------------------------------------------------------------------- self-tests


class ADAttributionTest(ScriptedLoadableModuleTest):
    """Real computations in this Slicer; each check is in ADAttributionLib.SelfTest, which also runs without Slicer.

    Without torch they fail, with how to install it.
    """

    def setUp(self):
        slicer.mrmlScene.Clear(False)
        self.logic = ADAttributionLogic()
        self.addCleanup(self.logic.close)

    def test_explainWithTheSmallNetwork(self):
        SelfTest.checkExplain(self, slicer.mrmlScene, self.logic)

    def test_explainWithTheDemonstrationNetwork(self):
        SelfTest.checkDemonstration(self, slicer.mrmlScene, self.logic.explainer)

    def test_saveAndReload(self):
        SelfTest.checkSaveAndReload(self, slicer.mrmlScene, self.logic.explainer)

    def test_explainAScanAsAcquired(self):
        SelfTest.checkNativeScan(self, slicer.mrmlScene, self.logic)

    def test_cancel(self):
        SelfTest.checkCancel(self, slicer.mrmlScene, self.logic.explainer)

    def test_badInput(self):
        SelfTest.checkBadInput(self, slicer.mrmlScene, self.logic)

    def test_panel(self):
        SelfTest.checkPanel(self, slicer.util.getModuleWidget("ADAttribution"))
