"""What the user asks: scan and network in the step Scan, the step Explanation. Reaches widgets through `ui` alone."""

from __future__ import annotations

import contextlib
import enum
from pathlib import Path

from ADAttributionLib import ModelCards
from ADAttributionLib.FoldedText import FoldedText, firstSentence
from ADAttributionLib.MethodOptions import VOXEL_MINUTES, parseOptions
from ADAttributionLogic.errors import ADAttributionError, UnknownNameError, UsageError

#: Field of the parameter pack → name of the method, in the panel's order.
METHODS = {
    "lrp": "lrp",
    "deeplift": "deeplift",
    "sensitivity": "sensitivity",
    "gradientXInput": "gradient-x-input",
    "guidedBackprop": "guided-backprop",
    "integratedGradients": "integrated-gradients",
    "smoothgrad": "smoothgrad",
    "gradCam": "grad-cam",
    "occlusion": "occlusion",
    "voxelOcclusion": "voxel-occlusion",
    "areaOcclusion": "area-occlusion",
    "attentionRollout": "attention-rollout",
}


class LrpRule(enum.Enum):
    """Saved by name: never rename."""

    B_RULE = "b-rule"
    E_RULE = "e-rule"
    EPSILON_PLUS_FLAT = "epsilon-plus-flat"
    EPSILON_GAMMA_BOX = "epsilon-gamma-box"

    def label(self):
        return self.value


class Device(enum.Enum):
    """Saved by name: never rename."""

    AUTO = "auto"
    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"

    def label(self):
        return {"auto": "auto (GPU if there is one)", "cuda": "GPU (NVIDIA)", "mps": "GPU (Apple)", "cpu": "CPU"}[
            self.value
        ]


class Start(enum.Enum):
    """Saved by name: never rename."""

    PROBABILITY = "probability"
    LOGIT = "logit"
    UNIT = "unit"
    DISTANCE = "distance"

    def label(self):
        return {
            "probability": "probability, or score",
            "logit": "logit (of a class)",
            "unit": "unit",
            "distance": "distance from the reference (of a score)",
        }[self.value]

    def quantity(self):
        """What explain() takes: the first one is the network's own answer, whatever its kind."""
        return None if self is Start.PROBABILITY else self.value


class AtlasChoice(enum.Enum):
    """Saved by name: never rename."""

    AAL = "aal"
    NEUROMORPHOMETRICS = "neuromorphometrics"
    DESIKAN_KILLIANY = "desikan-killiany"
    OWN = "own"
    NONE = "none"

    def label(self):
        return {
            "aal": "AAL 2",
            "neuromorphometrics": "Neuromorphometrics",
            "desikan-killiany": "Desikan-Killiany",
            "own": "own regions: a segmentation of yours",
            "none": "none: no table",
        }[self.value]


def methodsOf(parameters):
    """The chosen methods with their options, as ExplainLogic.explain() takes them.

    Raises
    ------
    UsageError
        None chosen, or an option of a method that does not exist.
    """
    panel = {
        "lrp": {"rule": parameters.lrpRule.value},
        "integrated-gradients": {"steps": parameters.steps},
        "smoothgrad": {"samples": parameters.samples},
        "occlusion": {"size": parameters.occlusionSize, "stride": parameters.occlusionStride},
        "voxel-occlusion": {"minutes": VOXEL_MINUTES},
    }
    if parameters.lrpRule is LrpRule.B_RULE:
        panel["lrp"]["beta"] = parameters.lrpBeta
    other = parseOptions(parameters.otherOptions)
    chosen = [name for field, name in METHODS.items() if getattr(parameters.methods, field)]
    if not chosen:
        raise UsageError("Choose at least one method.")
    # Those of a method that is not chosen are kept for when it is.
    for name in other:
        if name not in METHODS.values():
            raise UnknownNameError("method", name, METHODS.values())
    return [(name, {**panel.get(name, {}), **other.get(name, {})}) for name in chosen]


def atlasOf(parameters):
    """Name, segmentation node or None.

    Raises
    ------
    UsageError
        Own regions without a segmentation, or area occlusion without an atlas.
    """
    choice = parameters.atlas
    if choice is AtlasChoice.NONE and parameters.methods.areaOcclusion:
        raise UsageError("Area occlusion needs an atlas: choose one.")
    if choice is AtlasChoice.NONE:
        return None
    if choice is AtlasChoice.OWN:
        if parameters.atlasSegmentation is None:
            raise UsageError("Choose the segmentation with your own regions.")
        return parameters.atlasSegmentation
    return choice.value


class QuestionPanel:
    """Fills and reads the upper sections.

    Parameters
    ----------
    ui : namespace of widgets
    recentPackages : list of str
    """

    def __init__(self, ui, recentPackages=()):
        self.ui = ui
        self._cardText = FoldedText(ui.modelCardLabel)
        self.recent = list(recentPackages)
        self.fillModels()

    @property
    def model(self):
        """Folder of the chosen package; None when there is none, or it is not installed."""
        return None if self.toInstall is not None else self.ui.modelComboBox.currentData

    def modelOf(self, run):
        """Folder of the listed package that a run was computed with; None where its name alone must do."""
        wanted = run.provenance["model"]["name"]
        for folder in (self.model, *(folder for _, folder in ModelCards.choices(self.recent))):
            with contextlib.suppress(ADAttributionError):
                if folder and ModelCards.cardOf(folder).get("name") == wanted:
                    return folder
        return None

    @property
    def toInstall(self):
        """The chosen network when it is one that can be installed first (RegisteredNetwork), else None."""
        chosen = str(self.ui.modelComboBox.currentData or "")
        name = chosen.removeprefix(ModelCards.TO_INSTALL)
        return None if name == chosen else next((n for n in ModelCards.networksToInstall() if n.name == name), None)

    @property
    def card(self):
        if not self.model:
            return None
        try:
            return ModelCards.cardOf(self.model)
        except ADAttributionError:
            return None

    @property
    def isEnsemble(self):
        """Whether the chosen package holds several networks."""
        return len((self.card or {}).get("members", ())) > 1

    @property
    def mayHaveAttention(self):
        """Whether the chosen network may be a transformer."""
        return bool(self.card) and ModelCards.mayHaveAttention(self.model)

    @property
    def target(self):
        return self.ui.targetComboBox.currentData or "positive"

    def fillModels(self, select=None):
        """List the packages that ship, are installed or were used before, then those that can be installed."""
        ui = self.ui
        ui.modelComboBox.clear()
        for title, folder in ModelCards.choices(self.recent):
            ui.modelComboBox.addItem(title, folder)
        for network in ModelCards.networksToInstall():
            ui.modelComboBox.addItem(f"Get: {network.title}", f"{ModelCards.TO_INSTALL}{network.name}")
        if select:
            ui.modelComboBox.setCurrentIndex(ui.modelComboBox.findData(str(select)))

    def addModel(self, folder):
        """Take a folder that the user chose into the list.

        Raises
        ------
        NetworkError
            It is no model package.
        """
        ModelCards.cardOf(folder)
        self.recent = ModelCards.rememberPackage(self.recent, Path(folder))
        self.fillModels(folder)

    def showModel(self):
        """Show the chosen package's card and classes."""
        ui, card, network = self.ui, self.card, self.toInstall
        ui.targetComboBox.clear()
        ui.installNetworkButton.visible = ui.installNetworkFolderButton.visible = network is not None
        if network is not None:
            self._cardText.show(ModelCards.describeNetwork(network))
            return
        if card is None:
            self._cardText.show(
                "No network yet. Networks that ship are listed here; a model package of your own is a folder with "
                "model.json and weights.safetensors."
            )
            return
        self._cardText.show(firstSentence(card.get("intended_use", "Unknown purpose.")), ModelCards.describeCard(card))
        for text, value in ModelCards.targetClasses(card):
            ui.targetComboBox.addItem(text, value)

    def show(self, parameters):
        """Show what belongs to the choices that were made."""
        ui = self.ui
        for widget in (ui.ownRegionsLabel, ui.segmentationSelector):
            widget.visible = parameters.atlas is AtlasChoice.OWN
        ui.memberSdCheckBox.visible = self.isEnsemble
        # What follows attention is offered where there is some; ticked for another network, it stays to be unticked.
        ui.attentionRolloutCheckBox.visible = self.mayHaveAttention or parameters.methods.attentionRollout

    def problem(self, parameters):
        """Why nothing can be explained yet; "" when it can."""
        if parameters.inputVolume is None:
            return "Choose a scan."
        if self.toInstall is not None:
            return "This network is not installed yet: install it, or choose another."
        if self.card is None:
            return "Choose a network."
        if parameters.methods.attentionRollout and not self.mayHaveAttention:
            return "Attention rollout needs a network with attention, and this one has none: untick it."
        try:
            methodsOf(parameters)
            atlasOf(parameters)
        except ADAttributionError as error:
            return str(error)
        return ""

    def estimateJob(self, parameters, registration):
        """What the worker is asked to estimate; `registration` is the one that has yet to be done."""
        methods = [{"name": name, "options": options} for name, options in methodsOf(parameters)]
        regions = 0 if parameters.atlas is AtlasChoice.NONE else 120
        job = {"model": self.model, "methods": methods, "device": parameters.device.value, "regions": regions}
        return {**job, "registration": registration, "checks": parameters.checkMaps}


def durationText(seconds):
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progressText(job):
    """Stage and remaining time of a job: that of the stage where it tells one, for then it knows best."""
    if job.text.endswith(" left"):
        return job.text
    left = job.secondsLeft()
    return job.text if left is None else f"{job.text}, about {durationText(left)} left"
