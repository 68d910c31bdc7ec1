"""Making a model package of a network of the user's: a form of questions. Reaches widgets through `ui` and `seam`."""

from __future__ import annotations

from pathlib import Path

from ADAttributionLib.Signals import connect
from ADAttributionLogic.authoring.questions import QUESTIONS, answers_that_apply, card_of, open_questions
from ADAttributionLogic.errors import ADAttributionError

_FILES = "Weights and exported programs (*.pt *.pth *.tar *.safetensors *.pt2)"
_METRIC = "By which its networks were chosen (best-METRIC), where a MAPS folder keeps several"


class PackagePanel:
    """Asks what the weights do not say, and has the package made.

    Parameters
    ----------
    ui : namespace of widgets
    seam : module or object
        chooseFile, chooseFolder, addChoice, addField and showRow: see QtSeam.
    question : QuestionPanel
        Whose list gets the new network.
    running : RequestPanel
    explainer : callable
        The ExplainLogic, when it is needed.
    """

    def __init__(self, ui, seam, question, running, explainer):
        self.ui = ui
        self._seam, self._question, self._running, self._explainer = seam, question, running, explainer
        self.source, self.metric = "", ""
        self._unread = ""
        self._known, self._said, self._shown = {}, {}, {}
        self._rows, self._metricField = (), None
        connect(ui.packageFileButton, "clicked(bool)", self.onFile)
        connect(ui.packageFolderButton, "clicked(bool)", self.onFolder)
        connect(ui.makePackageButton, "clicked(bool)", self.onMake)
        self._show()

    @property
    def answers(self):
        """What the source says and what the user said, which holds, as far as it goes together."""
        return answers_that_apply({**self._known, **self._said})

    def problem(self):
        """Why the package cannot be made yet; "" when it can."""
        if not self.source:
            return "Choose the weights first."
        if self._unread:
            return self._unread
        missing = open_questions(self.answers)
        if missing:
            return f"Still to be said: {', '.join(question.name for question in missing)}."
        try:
            card_of(self.answers)
        except ADAttributionError as error:
            return str(error)
        return ""

    # The source.

    def onFile(self, _checked=False):
        self._read(self._seam.chooseFile("Weights, or an exported program", _FILES), "")

    def onFolder(self, _checked=False):
        self._read(self._seam.chooseFolder("MAPS folder of ClinicaDL, or MONAI bundle"), "")

    def _onMetric(self, text):
        if text.strip() != self.metric:
            self._read(self.source, text.strip())

    def _read(self, source, metric):
        """Ask the worker what a source says of itself; what the user has said already stays."""
        if not source:
            return

        def ask(**callbacks):
            self.source, self.metric, self._known = source, metric, {}
            self._unread = f"{Path(source).name} has not been read: choose it again."
            self._show()
            return self._explainer().knownAnswers(source, metric or None, **callbacks)

        def done(request):
            self._known, self._unread = request.result["answers"], ""
            self._show()
            return f"{Path(source).name} answers {len(self._known)} of the questions about it."

        def failed(error):
            self._unread = str(error)
            self._show()

        self._running.start(ask, done, failed)

    # The form.

    def _show(self):
        ui, answers, problem = self.ui, self.answers, self.problem()
        ui.packageSourceLabel.text = self.source
        ui.packageFrame.visible = bool(self.source)
        ui.packageProblemLabel.text = problem
        ui.makePackageButton.enabled = not problem
        ui.makePackageButton.toolTip = problem or "Makes the package, tries it, and adds it to the list of networks"
        if not self.source:
            return
        if not self._rows:
            self._addRows()
        form = ui.packageFrame.layout()
        self._seam.showRow(form, self._metricField, Path(self.source).is_dir())
        self._metricField.text = self.metric
        for question, editor in self._rows:
            # Rows are hidden, never removed: with them would go the editor whose signal this is, and the focus.
            self._seam.showRow(form, editor, question.applies(answers))
            self._showAnswer(question, editor, answers.get(question.name, ""))

    def _addRows(self):
        form, seam = self.ui.packageFrame.layout(), self._seam
        self._metricField = seam.addField(form, "metric", _METRIC, "", self._onMetric)
        rows = []
        for question in QUESTIONS:
            title = question.name if question.default is not None else f"{question.name} *"
            take = self._taker(question)
            if question.choices:
                choices = [(choice, choice) for choice in question.choices]
                editor = seam.addChoice(form, title, question.text, choices, take)
            else:
                editor = seam.addField(form, title, question.text, question.default or "", take)
            rows.append((question, editor))
        self._rows = tuple(rows)

    def _showAnswer(self, question, editor, text):
        if question.choices:
            text = text or question.default
            editor.setCurrentIndex(question.choices.index(text) if text in question.choices else -1)
        elif text != self._shown.get(question.name):  # else it may be just being typed over
            editor.text = text
        self._shown[question.name] = text

    def _taker(self, question):
        def take(text):
            self._said.pop(question.name, None)
            if text.strip():
                self._said[question.name] = text.strip()
            self._shown.pop(question.name, None)  # an emptied field shows again what the source says
            self._show()

        return take

    # The package.

    def onMake(self, _checked=False):
        source, answers, metric = self.source, self.answers, self.metric or None

        def ask(**callbacks):
            return self._explainer().createPackage(source, answers, metric=metric, **callbacks)

        def done(request):
            self._question.fillModels(request.result["folder"])
            return f"Made, and chosen as the network: {request.result['folder']}"

        self._running.start(ask, done)
