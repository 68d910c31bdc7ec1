"""What is being computed: progress, cancelling, and why it failed. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib.QuestionPanel import progressText


class RequestPanel:
    """Runs one request at a time.

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
        self._onChange, self._onFailure = onChange, onFailure

    def start(self, ask, onDone):
        """Start what `ask` asks for.

        Parameters
        ----------
        ask : callable
            Takes wait, onProgress, onDone and onError, and returns a Request at once.
        onDone : callable
            Called with the Request; returns what to say.
        """

        def done(request):
            self._end()
            self.ui.statusLabel.text = onDone(request)

        try:
            self.request = ask(wait=False, onProgress=self._progress, onDone=done, onError=self._fail)
        except Exception as error:  # a message in the panel, whatever it is
            self.showFailure(error)
            return
        self.ui.progressBar.value = 0
        self.ui.progressBar.visible = True
        self._onChange()
        self.ui.statusLabel.text = "Starting…"

    def cancel(self):
        """Stop it; the scene stays as it is."""
        self.ui.statusLabel.text = "Cancelling…"
        self.request.cancel()

    def showFailure(self, error):
        """The real cause first, in the panel and in the log, which opens."""
        details = getattr(error, "details", "")
        self.ui.statusLabel.text = str(error)
        self.ui.logTextEdit.plainText = f"{error}\n\n{details}".strip()
        self.ui.logGroupBox.collapsed = False

    def _progress(self, request):
        self.ui.progressBar.value = int(1000 * request.job.fraction)
        self.ui.statusLabel.text = progressText(request.job)

    def _fail(self, request):
        self._end()
        if request.isCancelled:
            self.ui.statusLabel.text = "Cancelled; nothing has changed."
            return
        self.showFailure(request.error)
        self._onFailure(request.error)

    def _end(self):
        self.request = None
        self.ui.progressBar.visible = False
        self._onChange()
