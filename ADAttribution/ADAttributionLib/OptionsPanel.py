"""The method options under Advanced: one method at a time. Reaches widgets through `ui` and `forms` alone."""

from __future__ import annotations

from ADAttributionLib import MethodOptions
from ADAttributionLib.Signals import connect
from ADAttributionLogic.errors import ADAttributionError

_NOT_YET = "The options are listed as soon as the worker has said what there is…"


class OptionsPanel:
    """Lists the options of a method with what they do, and writes what the user changes into the parameter node.

    Parameters
    ----------
    ui : namespace of widgets
    forms : module or object
        clearForm, addChoice and addField: see QtSeam.
    describe : callable
        describe(onEnd) asks the worker what methods there are; called when the user opens Advanced, not before.
    """

    def __init__(self, ui, forms, describe):
        self.ui = ui
        self.parameters = None
        self._forms, self._describe = forms, describe
        self._methods = {}
        self._asked = None
        self._rows = []
        self._shownText = None
        connect(ui.advancedGroupBox, "toggled(bool)", self.onAdvanced)
        connect(ui.optionsMethodComboBox, "currentIndexChanged(int)", self.onMethod)

    @property
    def method(self):
        """The method whose options are listed; None before the worker has described them."""
        return self._methods.get(self.ui.optionsMethodComboBox.currentData)

    def show(self, parameters):
        """Show the values of a parameter node (None: there is none at present)."""
        self.parameters = parameters
        # Only when they have changed: a text that is being typed is left alone.
        if parameters is not None and parameters.otherOptions != self._shownText:
            self._showValues()

    def _showValues(self):
        parameters = self.parameters
        if parameters is None or self.method is None:
            return
        self._shownText = parameters.otherOptions
        try:
            given = MethodOptions.parseOptions(parameters.otherOptions).get(self.method.name, {})
        except ADAttributionError:
            return  # half a text; problem() says so
        for option, choices, editor in self._rows:
            value = given.get(option.name)
            if choices is None:
                editor.text = "" if value is None else str(value)
            else:
                values = [choice for _, choice in choices]
                value = self.method.default(option) if value is None else value
                editor.setCurrentIndex(values.index(value) if value in values else -1)

    def problem(self, parameters):
        """Why the options cannot be asked for, as far as it is known without the worker; "" when they can."""
        if not self._methods:
            return ""
        try:
            MethodOptions.checkOptions(parameters.otherOptions, self._methods)
        except ADAttributionError as error:
            return str(error)
        return ""

    def onAdvanced(self, opened):
        """Ask once what there is; a worker that could not be started is asked again the next time."""
        if not opened or self._methods or (self._asked is not None and not self._asked.hasEnded):
            return
        self.ui.optionsLabel.text = _NOT_YET
        try:
            self._asked = self._describe(self._onDescribed)
        except ADAttributionError as error:
            self.ui.optionsLabel.text = str(error)

    def _onDescribed(self, job):
        self.ui.optionsLabel.text = "" if job.state == "done" else str(job.error or "Open Advanced again.")
        if job.state == "done":
            self.fill(job.result)

    def fill(self, document):
        """List what the worker has described."""
        self._methods = MethodOptions.describedMethods(document)
        self.ui.optionsMethodComboBox.clear()
        for name, method in self._methods.items():
            if method.offered():
                self.ui.optionsMethodComboBox.addItem(method.title, name)  # the first one is chosen by that

    def onMethod(self, _index=None):
        """List the options of the chosen method."""
        form, method = self.ui.optionsFrame.layout(), self.method
        self._forms.clearForm(form)
        self._rows = []
        for option in method.offered() if method is not None else ():
            title, help_ = option.name.replace("_", " "), MethodOptions.helpText(option)
            choices = MethodOptions.choicesOf(method, option)
            if choices is None:
                default = MethodOptions.defaultText(method, option)
                editor = self._forms.addField(form, title, help_, default, self._onTyped(method, option))
            else:
                editor = self._forms.addChoice(form, title, help_, choices, self._onChosen(method, option))
            self._rows.append((option, choices, editor))
        self._showValues()

    def _onTyped(self, method, option):
        return lambda text: self._change(method, option, lambda: self._typed(method, option, text))

    def _onChosen(self, method, option):
        return lambda value: self._change(method, option, lambda: value)

    def _typed(self, method, option, text):
        return option.parse(method.name, text) if text.strip() else method.default(option)

    def _change(self, method, option, value):
        """Take a value over; a wrong one is refused with what is allowed, and the former one is shown again."""
        if self.parameters is None:
            return
        try:
            text = MethodOptions.changed(self.parameters.otherOptions, method, option, value())
        except ADAttributionError as error:
            self.ui.optionsLabel.text = f"{error} It stays as it was."
            self._showValues()
            return
        self.ui.optionsLabel.text = ""
        if text != self.parameters.otherOptions:
            self.parameters.otherOptions = text  # its observer shows it
