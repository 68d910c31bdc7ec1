"""Installing the chosen network when it is not here yet. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib.Signals import connect


class NetworksPanel:
    """The two buttons beside the list of networks.

    Parameters
    ----------
    ui : namespace of widgets
    seam : module or object
        confirm and chooseFolder: see QtSeam.
    question : QuestionPanel
    running : RequestPanel
    install : callable
        As ExplainLogic.installNetwork.
    """

    def __init__(self, ui, seam, question, running, install):
        self._seam, self._question, self._running, self._install = seam, question, running, install
        connect(ui.installNetworkButton, "clicked(bool)", self.onInstall)
        connect(ui.installNetworkFolderButton, "clicked(bool)", self.onInstallFromFolder)

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
