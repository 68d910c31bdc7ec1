"""How long an explanation will take, before it is started. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib.PreparationPanel import preparationOf
from ADAttributionLib.QuestionPanel import durationText
from ADAttributionLib.Signals import connect
from ADAttributionLogic.errors import ADAttributionError


class EstimatePanel:
    """Asks the worker for an estimate, and shows it.

    Parameters
    ----------
    ui : namespace of widgets
    question : QuestionPanel
    parameters : callable
        The parameter node; None while there is none.
    explainer : callable
        The ExplainLogic, made where there is none yet.
    """

    def __init__(self, ui, question, parameters, explainer):
        self.ui = ui
        self._question, self._parameters, self._explainer = question, parameters, explainer
        self._isAsking = False
        connect(ui.estimateButton, "clicked(bool)", self.onEstimate)

    def onEstimate(self, _checked=False):
        """The user wants to know: the worker is started for it where it is not running."""
        self.ui.estimateLabel.text = "Measuring one forward pass…"
        self.refresh()

    def refresh(self):
        """Ask anew; an answer that is on its way is waited for."""
        parameters = self._parameters()
        if self._isAsking or parameters is None:
            return
        try:
            explainer = self._explainer()
            asked = preparationOf(parameters)
            toDo = explainer.registrationToDo(parameters.inputVolume, self._question.model, **asked)
            job = self._question.estimateJob(parameters, toDo)
            self._isAsking = True
            explainer.client.request("estimate", job, onEnd=self._onEnd)
        except ADAttributionError as error:
            self._isAsking = False
            self.ui.estimateLabel.text = f"The time cannot be estimated: {error}"

    def _onEnd(self, job):
        self._isAsking = False
        found = job.result
        self.ui.estimateLabel.text = estimateText(found) if job.state == "done" else str(job.error or "")


def estimateText(found):
    """An estimate of the worker's, in words."""
    parts = ", ".join(f"{entry['name']} {durationText(entry['seconds'])}" for entry in found["methods"])
    if found.get("preparation"):
        parts += f", preparation {durationText(found['preparation'])} (nothing if it was done before)"
    if found.get("checks"):
        parts += f", checks up to {durationText(found['checks'])}"
    return f"About {durationText(found['seconds'])} on {found['device']}: {parts}"
