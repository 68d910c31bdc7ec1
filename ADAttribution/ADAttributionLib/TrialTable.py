"""Trials of a run as a table node, which is saved with the scene, and as people read them. Needs no Qt."""

from __future__ import annotations

import html

import vtk

from ADAttributionLib.Runs import addToRun, runNodes, tableRows

ROLE = "trials"

#: Name, title, unit, description and kind of the columns; the answers are of what the run explains.
_COLUMNS = (
    ("trial", "#", "", "Number of the trial", vtk.vtkIntArray),
    ("covered", "Covered", "", "What was covered, one part over the other, and what was put there", vtk.vtkStringArray),
    ("volume_ml", "Volume", "ml", "Covered volume in the network's space", vtk.vtkDoubleArray),
    ("before", "Before", "", "The answer to the whole scan", vtk.vtkDoubleArray),
    ("after", "After", "", "The answer to the covered scan", vtk.vtkDoubleArray),
    ("change", "Change", "", "After minus before", vtk.vtkDoubleArray),
    ("answers", "All answers", "", "Every class or the score, and every network, before and after", vtk.vtkStringArray),
    ("seconds", "Time", "s", "That the computation took", vtk.vtkDoubleArray),
)
TITLES = tuple(title for _, title, *_ in _COLUMNS if title != "All answers")


def trialsNode(run):
    """The table node of a run's trials; None before the first."""
    return next(iter(runNodes(run, "vtkMRMLTableNode", ROLE)), None)


def addTrial(run, trial):
    """Write a trial below the earlier ones, and return the table node."""
    node = trialsNode(run) or _addNode(run)
    table = node.GetTable()
    before, after = (outcome.values[run.targetClass] for outcome in (trial.before, trial.after))
    row = {
        "trial": table.GetNumberOfRows() + 1,
        "covered": "; ".join(trial.covers),
        "volume_ml": trial.volumeMm3 / 1000,
        "before": before,
        "after": after,
        "change": after - before,
        "answers": "; ".join(_moves(trial)),
        "seconds": trial.seconds,
    }
    modified = node.StartModify()
    try:
        for name, *_ in _COLUMNS:
            table.GetColumnByName(name).InsertNextValue(row[name])
        table.Modified()
    finally:
        node.EndModify(modified)
    return node


def trialRows(run):
    """The trials of a run, newest first, as texts below :data:`TITLES`."""
    node = None if run is None else trialsNode(run)
    rows = [] if node is None else tableRows(node.GetTable())
    digits = digitsOf(run) if rows else 3
    return [
        (
            str(row["trial"]),
            row["covered"],
            f"{row['volume_ml']:.2f} ml",
            f"{row['before']:.{digits}f}",
            f"{row['after']:.{digits}f}",
            signed(row["change"], digits),
            f"{row['seconds']:.2f} s",
        )
        for row in reversed(rows)
    ]


def answersOfRows(run):
    """All answers of each of :func:`trialRows`."""
    node = None if run is None else trialsNode(run)
    return [] if node is None else [row["answers"] for row in reversed(tableRows(node.GetTable()))]


def trialText(trial, target):
    """Before → after in rich text: what is explained large, then all classes, and every network."""
    isScore, digits = trial.before.output.is_score, _digits(trial)
    old, new = trial.before.values[target], trial.after.values[target]
    name = html.escape(target if isScore else f"P({target})")
    line = f"{name} {old:.{digits}f} → <b>{new:.{digits}f}</b> ({signed(new - old, digits)})"
    if trial.before.verdict != trial.after.verdict:
        line += f"; now <b>{html.escape(trial.after.verdict)}</b> instead of {html.escape(trial.before.verdict)}"
    rest = _moves(trial) if trial.before.members or len(trial.before.values) > 2 else []
    return "<br>".join([f"<big>{line}</big>", *map(html.escape, rest), *map(html.escape, trial.notes)])


def digitsOf(run):
    """Decimals of a run's answers."""
    return 2 if run.provenance.get("outcome", {}).get("output", {}).get("kind") == "score" else 3


def signed(value, digits):
    """A change with its sign; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not any(c in "123456789" for c in text) else text.replace("-", "−")


def _digits(trial):
    return 2 if trial.before.output.is_score else 3


def _moves(trial):
    """One text for all networks together, and one for each."""
    isScore, digits = trial.before.output.is_score, _digits(trial)
    pairs = [("", trial.before, trial.after)]
    pairs += [(b.name, b, a) for b, a in zip(trial.before.members, trial.after.members, strict=True)]
    found = []
    for name, before, after in pairs:
        values = [
            f"{key if isScore else f'P({key})'} {value:.{digits}f} → {after.values[key]:.{digits}f}"
            for key, value in before.values.items()
        ]
        found.append(f"{name}: {', '.join(values)}" if name else ", ".join(values))
    return found


def _addNode(run):
    node = run.scene.AddNewNodeByClass("vtkMRMLTableNode", f"{run.name} - what if")
    modified = node.StartModify()
    try:
        for name, title, unit, description, kind in _COLUMNS:
            column = kind()
            column.SetName(name)
            node.AddColumn(column)
            node.SetColumnTitle(name, title)
            node.SetColumnDescription(name, description)
            if unit:
                node.SetColumnUnitLabel(name, unit)
    finally:
        node.EndModify(modified)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    node.AddDefaultStorageNode()
    addToRun(run, node, ROLE)
    return node
