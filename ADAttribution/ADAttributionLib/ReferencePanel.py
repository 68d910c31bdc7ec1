"""The part of the step Explanation that chooses controls to compare with. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib import References
from ADAttributionLib.Signals import connect
from ADAttributionLogic.comparison.covariate_text import parse_covariates
from ADAttributionLogic.errors import ADAttributionError

_RECENT = "recentReferences"
_NONE = "none: no comparison"


class ReferencePanel:
    """Lets the user choose a reference and say the scan's covariates.

    Parameters
    ----------
    ui : namespace of widgets
    seam : QtSeam
    parameters : callable
        The parameter node; None while there is none.
    onChanged : callable
        Called when another reference is chosen.
    """

    def __init__(self, ui, seam, parameters, onChanged):
        self.ui = ui
        self._seam, self._parameters, self._onChanged = seam, parameters, onChanged
        self._recent = list(seam.listSetting(_RECENT))
        self._fill()
        connect(ui.referenceComboBox, "activated(int)", self.onChosen)
        connect(ui.referenceFolderButton, "clicked(bool)", self.onFolder)

    def _fill(self):
        self.ui.referenceComboBox.clear()
        self.ui.referenceComboBox.addItem(_NONE, "")
        for title, folder in References.choices(self._recent):
            self.ui.referenceComboBox.addItem(title, folder)

    def show(self, parameters):
        """Show what belongs to the choice: the reference's card, and the field for covariates it can adjust for."""
        ui, card = self.ui, self._card(parameters)
        index = ui.referenceComboBox.findData(parameters.reference)
        if index < 0 and card is not None:  # of a scene that somebody else saved
            self._recent = References.remember(self._recent, parameters.reference)
            self._fill()
            index = ui.referenceComboBox.findData(parameters.reference)
        ui.referenceComboBox.setCurrentIndex(max(index, 0))
        ui.referenceInfoLabel.text = "" if card is None else References.describe(card)
        ui.referenceInfoLabel.visible = card is not None
        known = {} if card is None else References.covariatesOf(card)
        ui.covariatesLabel.visible = ui.covariatesLineEdit.visible = bool(known)
        ui.covariatesLineEdit.placeholderText = ", ".join(f"{name}=…" for name in known)

    def _card(self, parameters):
        try:
            return References.cardOf(parameters.reference) if parameters.reference else None
        except ADAttributionError:
            return None

    def problem(self, parameters):
        """Why nothing can be compared; "" when it can, or nothing is to be."""
        if not parameters.reference:
            return ""
        try:
            card = References.cardOf(parameters.reference)
            given = parse_covariates([parameters.covariates])
        except ADAttributionError as error:
            return str(error)
        known = {name.lower(): name for name in References.covariatesOf(card)}
        if not given or not known:
            return ""
        unknown = [name for name in given if name.lower() not in known]
        missing = [name for key, name in known.items() if key not in {other.lower() for other in given}]
        if unknown:
            return f"The reference does not know {', '.join(unknown)}, but {', '.join(known.values())}."
        return f"Say {', '.join(missing)} of this scan as well, or nothing at all." if missing else ""

    def asked(self, parameters):
        """What explain() is given: nothing without a reference."""
        if not parameters.reference:
            return {}
        known = References.covariatesOf(References.cardOf(parameters.reference))
        given = parse_covariates([parameters.covariates]) if known else {}
        return {"reference": parameters.reference, "covariates": given}

    # Slots.

    def onChosen(self, _index):
        self._choose(self.ui.referenceComboBox.currentData or "")

    def onFolder(self, _checked=False):
        folder = self._seam.chooseFolder("Reference of controls (a folder with reference.json)")
        if not folder:
            return
        with self._seam.reportingErrors("This is no reference of controls."):
            References.cardOf(folder)
            self._recent = References.remember(self._recent, folder)
            self._seam.setSetting(_RECENT, self._recent)
            self._fill()
            self._choose(str(folder))

    def _choose(self, folder):
        parameters = self._parameters()
        if parameters is not None:
            parameters.reference = folder
            self._onChanged()
