"""The panel's foot: what is being computed, the last message, and why it failed. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib.QuestionPanel import progressText
from ADAttributionLib.Signals import connect


class RequestPanel:
    """Runs one request at a time, and always shows how it stands.

    Parameters
    ----------
    ui : namespace of widgets
    onChange : callable
        Called when a request has started or ended.
    onFailure : callable
        Called with the error of a request that failed, when it is shown already.
    """

    def __init__(self, ui, onChange, onFailure):
        self.ui = ui
        self.request = None
        self._message, self._problem = "", ""
        self._onChange, self._onFailure = onChange, onFailure
        connect(ui.detailsButton, "toggled(bool)", self.onDetails)

    def start(self, ask, onDone, onFailure=None):
        """Start what `ask` asks for.

        Parameters
        ----------
        ask : callable
            Takes wait, onProgress, onDone and onError, and returns a Request at once.
        onDone : callable
            Called with the Request; returns what to say.
        onFailure : callable, optional
            Instead of the one that is called for all.
        """

        if self.request is not None:
            self.say("Wait until this is done, or cancel it.")
            return

        def failed(request):
            self._fail(request, onFailure or self._onFailure)

        def done(request):
            self._end()
            self.say(onDone(request))

        try:
            self.request = ask(wait=False, onProgress=self._progress, onDone=done, onError=failed)
        except Exception as error:  # a message in the panel, whatever it is
            self.showFailure(error)
            return
        self.ui.progressBar.value = 0
        self.ui.progressBar.visible = True
        self._onChange()
        self.say("Starting…")

    def cancel(self):
        """Stop it; the scene stays as it is."""
        self.say("Cancelling…")
        self.request.cancel()

    def say(self, message):
        """Show a message; it stays until the next one."""
        self._message = message
        self.showDetails("")
        self._show()

    def showProblem(self, problem):
        """Show what has to be chosen before anything can start; "" shows the last message again."""
        self._problem = problem
        self._show()

    def showFailure(self, error):
        """The real cause in a line; the rest is one click away."""
        cause = str(error).partition("\n")[0].rstrip(":")
        self.say(f"Failed: {cause}")
        self.showDetails(f"{error}\n\n{getattr(error, 'details', '')}".strip())

    def showDetails(self, text):
        """Offer a text of many lines; "" offers nothing."""
        ui = self.ui
        ui.logTextEdit.plainText = text
        ui.detailsButton.visible = bool(text)
        if not text:
            ui.detailsButton.checked = False

    def onDetails(self, shown):
        self.ui.logTextEdit.visible = shown

    def _show(self):
        # While something is computed, what it is doing; else what hinders the next run; else how the last one ended.
        self.ui.statusLabel.text = self._message if self.request is not None else self._problem or self._message

    def _progress(self, request):
        self.ui.progressBar.value = int(1000 * request.job.fraction)
        self.say(progressText(request.job))

    def _fail(self, request, onFailure):
        self._end()
        if request.isCancelled:
            self.say("Cancelled; nothing has changed.")
            return
        self.showFailure(request.error)
        onFailure(request.error)

    def _end(self):
        self.request = None
        self.ui.progressBar.visible = False
        self._onChange()
