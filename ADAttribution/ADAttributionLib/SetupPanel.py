"""The section Setup: what is missing, installing it, and which Python computes. Reaches widgets through `ui` alone."""

from __future__ import annotations

import os
import tempfile

from ADAttributionLib import Dependencies
from ADAttributionLib.Signals import connect

#: Which Python computes where the user has not chosen one: settings are empty when Slicer runs its tests.
PYTHON_VARIABLE = "AD_ATTRIBUTION_PYTHON"


def chosenPython(setting, environment=os.environ):
    """The Python that computes: the user's setting, else the environment's; "" for Slicer's own."""
    return setting or environment.get(PYTHON_VARIABLE, "")


class SetupPanel:
    """Says what is missing, and installs it when the user agrees.

    Parameters
    ----------
    ui : namespace of widgets
    seam : module or object
        setting, setSetting, pipInstall, installTorch, confirm and reportingErrors: see QtSeam.
    interpreter : callable
        The Python that computes; "" for Slicer's own.
    onChange : callable
        Called when another Python is chosen, or something was installed.
    """

    def __init__(self, ui, seam, interpreter, onChange):
        self.ui = ui
        self._seam, self._interpreter, self._onChange = seam, interpreter, onChange
        ui.interpreterPathLineEdit.currentPath = seam.setting("interpreter")
        connect(ui.interpreterPathLineEdit, "currentPathChanged(QString)", self.onInterpreter)
        connect(ui.installButton, "clicked(bool)", self.onInstall)
        self.refresh()

    def refresh(self):
        """Show what is missing; the section opens when something is."""
        # What another Python lacks is its own business: the worker says it.
        other = self._interpreter()
        self.missing = missing = [] if other else Dependencies.missingPackages()
        self.ui.setupLabel.text = f"{other} computes." if other else Dependencies.describeMissing(missing)
        self.ui.installButton.enabled = bool(missing)
        self.ui.setupCollapsibleButton.collapsed = not missing

    def problem(self):
        """What hinders every computation; "" when nothing does.

        Without torch nothing runs; of what else is missing, the worker says what it was needed for.
        """
        if "torch" not in self.missing:
            return ""
        return f"Install {', '.join(self.missing)} first: Setup, at the end of step 1."

    def onInterpreter(self, path):
        self._seam.setSetting("interpreter", path)
        self._changed()

    def onInstall(self, _checked=False):
        missing, wheels = self.missing, self.ui.wheelsPathLineEdit.currentPath
        source = f"from the folder {wheels}" if wheels else "from the internet (PyPI)"
        if not self._seam.confirm(f"Install {', '.join(missing)} into Slicer's Python, {source}?"):
            return
        with (
            self._seam.reportingErrors("The installation failed."),
            tempfile.TemporaryDirectory(prefix="ad-attribution-") as folder,
        ):
            Dependencies.install(missing, self._seam.pipInstall, self._seam.installTorch, folder, wheels or None)
        self._changed()

    def _changed(self):
        self.refresh()
        self._onChange()
