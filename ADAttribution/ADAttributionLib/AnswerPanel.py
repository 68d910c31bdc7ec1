"""What a run found: the answer in the step Result and at the panel's foot, checks, and about the run.

Reaches widgets through `ui` alone. How an answer reads is decided here, for all places.
"""

from __future__ import annotations

import html
import json

from ADAttributionLib.AnswerScale import outcomeText
from ADAttributionLib.FoldedText import FoldedText
from ADAttributionLib.QualityText import checkLines, inPanelWords
from ADAttributionLogic.answer_spread import spread_note, spread_of
from ADAttributionLogic.outcome import read_outcome

_BAR_CELLS = 24


def answerLine(run):
    """The answer in one line of rich text, with whose answer it is: another scan may be chosen by now."""
    spread = spread_of(run.provenance)
    scan, outcome = run.name if run.scanNode is None else run.scanNode.GetName(), outcomeOf(run)
    if outcome is not None and (outcome.output.is_score or outcome.members):
        found = html.escape(outcome.headline(spread))
    else:
        found = " · ".join(f"{html.escape(n)} {_percent(p, spread.get(n))}" for n, p in run.probabilities.items())
    isScore = outcome is not None and outcome.output.is_score
    explained = "" if isScore else f" ({html.escape(run.targetClass)} explained)"
    return f"{html.escape(scan)}: <b>{found}</b>{explained}"


def outcomeOf(run):
    """What the network said, with each member of an ensemble; None for runs of version 0.1, which have bars only."""
    return read_outcome(run.provenance["outcome"]) if run.provenance.get("outcome") else None


def answerText(run):
    """The answer in rich text: bars of classes, or a score and every network's value on its scale."""
    outcome, spread = outcomeOf(run), spread_of(run.provenance)
    note = f"<small>{html.escape(spread_note(run.provenance))}</small>" if spread else ""
    if outcome is None or not (outcome.output.is_score or outcome.members):
        return barsText(run.probabilities, run.targetClass, spread) + note
    bars = "" if outcome.output.is_score else barsText(run.probabilities, run.targetClass, spread)
    return "<br>".join(filter(None, (bars + outcomeText(outcome, run.targetClass, spread), note)))


def barsText(probabilities, targetClass, spread=None):
    """Probability of each class as a bar, in rich text, and how far it moves."""
    rows, spread = [], spread or {}
    for name, value in probabilities.items():
        filled = round(value * _BAR_CELLS)
        empty = "█" * (_BAR_CELLS - filled)
        bar = f"<span style='color:#E17012'>{'█' * filled}</span><span style='color:#C8C8C8'>{empty}</span>"
        title = html.escape(name)
        title = f"<b>{title}</b> (explained)" if name == targetClass else title
        rows.append(f"<tr><td>{title}&nbsp;</td><td>{bar}</td><td>&nbsp;{_percent(value, spread.get(name))}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _percent(value, spread):
    return f"{value:.1%}" if spread is None else f"{value:.1%} ± {spread:.1%}"


def warningsText(run):
    """The warnings that belong to an answer: those of this run, and with all that is always true; in rich text."""
    notes = [html.escape(inPanelWords(text)) for text in run.notes if text]
    model = run.provenance.get("model", {})
    always = [
        run.provenance.get("notice", ""),
        f"Limits of the network: {model['limitations']}" if model.get("limitations") else "",
        f"The network was trained on: {model['training']['data']}" if model.get("training", {}).get("data") else "",
    ]
    always = [html.escape(inPanelWords(text)) for text in always if text]
    return tuple("<br>".join(f"• {text}" for text in texts) for texts in ([*notes, *always[:1]], [*notes, *always]))


def checksText(run):
    """The quality checks of a run's preparation, in rich text."""
    quality = run.provenance.get("quality")
    if not quality:
        return "The scan was taken as it lay; nothing was registered, and nothing checked."
    return "<br>".join(map(html.escape, checkLines(quality)))


def aboutText(run):
    """Versions, device, memory, times and hashes of a run."""
    record = run.provenance
    lines = [
        f"run: {run.name}",
        f"date: {record.get('date')}",
        f"device: {record.get('device')}, {record.get('threads')} CPU threads",
        f"seconds: {record.get('seconds')}",
        f"peak memory of the worker: {record.get('peak_memory_mb')} MB",
        f"scan: {record.get('scan', {}).get('source')}",
        f"  file sha256: {record.get('scan', {}).get('file_sha256')}",
        f"  voxels sha256: {record.get('scan', {}).get('voxels_sha256')}",
        f"network: {record.get('model', {}).get('title')}",
        f"  weights sha256: {record.get('model', {}).get('weights_sha256')}",
    ]
    if record.get("space"):
        lines += _preparationLines(record)
    if record.get("atlas"):
        lines.append(f"atlas: {record['atlas']['title']}, {record['atlas']['regions']} regions")
        lines.append(f"  labels sha256: {record['atlas']['labels_sha256']}")
    for name, summary in record.get("methods", {}).items():
        options = json.dumps(summary.get("options", {}), ensure_ascii=False)
        lines.append(f"{name}: {summary.get('seconds')} s on {summary.get('device')}, options {options}")
        lines.append(f"  sum {summary.get('relevance_sum'):.6g} of {summary.get('to_attribute'):.6g}")
        lines += [f"  between the networks, {what}: {value}" for what, value in _agreementFigures(summary)]
    lines += [f"{package} {version}" for package, version in record.get("software", {}).items()]
    return "\n".join(lines)


def _agreementFigures(summary):
    """How far the networks of an ensemble agree on the regions."""
    return [(key.replace("_", " "), value) for key, value in (summary.get("agreement") or {}).items()]


def _preparationLines(record):
    decisions = record["preprocessing_decisions"]
    seconds = ", ".join(f"{name} {value} s" for name, value in decisions.get("seconds", {}).items())
    cached = " (taken from the cache)" if record.get("preprocessing_from_cache") else ""
    steps = " → ".join(step.get("step", "?") for step in record.get("preprocessing", ()))
    return [
        f"preparation: {decisions['options']['registration']}, result in {record['space']} space: {seconds}{cached}",
        f"  steps: {steps}",
        f"  quality checks passed: {'yes' if record.get('quality', {}).get('passed') else 'no'}",
    ]


class AnswerPanel:
    """Shows what a run found."""

    def __init__(self, ui):
        self.ui = ui
        self._warnings = FoldedText(ui.warningsLabel)

    def fillRuns(self, runs, selected):
        """List the runs of the scene."""
        ui = self.ui
        ui.runComboBox.clear()
        for run in runs:
            ui.runComboBox.addItem(run.name, run.identifier)
        if selected is not None:
            ui.runComboBox.setCurrentIndex(ui.runComboBox.findData(selected.identifier))

    def show(self, run):
        """Show a run; None shows that there is none."""
        ui = self.ui
        if run is None:
            ui.answerLabel.text = "No run yet."
            ui.checksLabel.text = ui.footerAnswerLabel.text = ""
            self._warnings.show("")
            ui.footerAnswerLabel.visible = False
            ui.aboutTextEdit.plainText = ""
            return
        ui.answerLabel.text = answerText(run)
        ui.footerAnswerLabel.text = answerLine(run)
        ui.footerAnswerLabel.toolTip = "\n".join(filter(None, (run.name, spread_note(run.provenance))))
        ui.footerAnswerLabel.visible = True
        self._warnings.show(*warningsText(run))
        ui.checksLabel.text = checksText(run)
        ui.aboutTextEdit.plainText = aboutText(run)
