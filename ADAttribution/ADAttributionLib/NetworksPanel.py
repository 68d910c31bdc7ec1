"""Taking packages into the list of networks, and installing what is not here. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib.Signals import connect


class NetworksPanel:
    """The buttons beside the list of networks.

    Parameters
    ----------
    ui : namespace of widgets
    seam : module or object
        confirm, chooseFolder, reportingErrors and setSetting: see QtSeam.
    question : QuestionPanel
    running : RequestPanel
    install : callable
        As ExplainLogic.installNetwork.
    """

    def __init__(self, ui, seam, question, running, install):
        self._seam, self._question, self._running, self._install = seam, question, running, install
        connect(ui.modelFolderButton, "clicked(bool)", self.onFolder)
        connect(ui.installNetworkButton, "clicked(bool)", self.onInstall)
        connect(ui.installNetworkFolderButton, "clicked(bool)", self.onInstallFromFolder)

    def onFolder(self, _checked=False):
        folder = self._seam.chooseFolder("Folder of a model package")
        if folder:
            with self._seam.reportingErrors("This folder cannot be used."):
                self._question.addModel(folder)
                self._seam.setSetting("recentPackages", self._question.recent)

    def onInstall(self, _checked=False):
        self._start(None)

    def onInstallFromFolder(self, _checked=False):
        folder = self._seam.chooseFolder("Folder with the files of the network's authors")
        if folder:
            self._start(folder)

    def _start(self, source):
        network = self._question.toInstall
        if network is None or not self._seam.confirm(network.question(), network.licence_text):
            return

        def done(request):
            self._question.fillModels(request.result["folder"])
            return f"Installed: {network.title}"

        self._running.start(lambda **callbacks: self._install(network.name, source, **callbacks), done)
