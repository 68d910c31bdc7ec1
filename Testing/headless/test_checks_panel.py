"""The section Checks in use, with checks that were really run: on real MRML, through the worker."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from scipy.stats import rankdata, spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import panel

from ADAttributionLib import RunMaking, Runs
from ADAttributionLib.ChecksPanel import COLOURS, ChecksPanel
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient
from ADAttributionLogic.checks.findings import MARKS, read_checks


@pytest.fixture(scope="module")
def client():
    made = WorkerClient(graceSeconds=0.5, arguments=("--threads", "1"))
    yield made
    made.close()


@pytest.fixture
def run(scene, client, scanNode, small_package):
    logic = ExplainLogic(scene, client)
    methods = ["gradient-x-input", "guided-backprop"]
    yield logic.explain(scanNode, small_package, methods, atlas="neuromorphometrics", checks=40)
    scene.RemoveObserver(logic._closing)


def test_one_line_per_check_with_mark_number_null_and_words(scene, run) -> None:
    shown, charts, ui = {}, [], panel(Api())
    seam = SimpleNamespace(
        fillTable=lambda table, _heads, rows: table is ui.mapChecksTable and shown.update(rows=rows),
        showChart=charts.append,
    )
    section, display = ChecksPanel(ui, seam), RunDisplay(run)
    assert shown["rows"] == [] and not ui.mapChecksTable.visible
    section.setDisplay(display)
    found = read_checks(run.provenance["checks"]).of(display.mapName)
    assert len(shown["rows"]) == len(found.checks) >= 5 and ui.mapChecksLabel.text == found.summary
    for row, check in zip(shown["rows"], found.checks, strict=True):
        assert row[0].text == f"{MARKS[check.verdict]} {check.verdict}" and row[0].colour == COLOURS[check.verdict]
        assert row[1].text.startswith(check.title) and row[4].text == check.sentence
        assert (row[2].text == "–") == (check.number is None) and (row[3].text == "–") == (check.null is None)
    curved = next(number for number, check in enumerate(found.checks) if check.curve is not None)
    for _ in range(2):  # the second chart takes the place of the first
        ui.mapChecksTable.values["chosenRow"] = curved
        ui.mapChecksTable.emit("itemSelectionChanged()")
    curve, chart = found.checks[curved].curve, charts[-1]
    assert [n.GetName() for n in Runs.runNodes(run, "vtkMRMLPlotChartNode", "check curve")] == [chart.GetName()]
    assert chart.GetXAxisTitle() == curve.x_title and chart.GetNumberOfPlotSeriesNodes() == len(curve.lines)
    table = chart.GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    first = next(iter(curve.lines))
    column = table.GetColumnByName(first)
    assert [column.GetValue(i) for i in range(len(curve.x))] == pytest.approx(curve.lines[first])
    plain = next(number for number, check in enumerate(found.checks) if check.curve is None)
    ui.mapChecksTable.values["chosenRow"] = plain
    ui.mapChecksTable.emit("itemSelectionChanged()")
    assert len(charts) == 2, "no curve, no chart"
    section.setDisplay(None)
    assert ui.mapChecksLabel.text == "" and shown["rows"] == []


def test_how_far_the_maps_agree_and_what_they_say_together(scene, run) -> None:
    tables, ui = {}, panel(Api())
    seam = SimpleNamespace(fillTable=lambda table, heads, rows: tables.update({table: (heads, rows)}), showChart=None)
    section, display = ChecksPanel(ui, seam), RunDisplay(run)
    assert not (ui.consensusButton.visible or ui.disagreementButton.visible or ui.agreementTable.visible)
    section.setDisplay(display)
    agreement = read_checks(run.provenance["checks"]).agreement
    heads, rows = tables[ui.agreementTable]
    assert heads == ["", *run.titles.values()] == ["", *(row[0].text for row in rows)]
    assert [cell.text for cell in rows[0][1:]] == ["1", f"{agreement.matrix[0][1]:.3g}"]
    assert agreement.consensus_top[0].replace("_", " ") in ui.agreementLabel.text
    consensus, disagreement = (volumeFromNode(run.rankNodes[role]).array for role in Runs.RANK_ROLES)
    ranks = [rankdata(volumeFromNode(node).array[consensus > 0]) for node in run.mapNodes.values()]
    assert spearmanr(sum(ranks), consensus[consensus > 0]).statistic > 0.999
    assert consensus.max() <= 1 and disagreement.min() >= 0 and disagreement.max() <= 0.7072
    for button, role in ((ui.consensusButton, "consensus"), (ui.disagreementButton, "disagreement")):
        assert button.visible
        button.emit("clicked(bool)", False)
        views = nodesOfClass(scene, "vtkMRMLSliceCompositeNode")
        assert {view.GetForegroundVolumeID() for view in views} == {run.rankNodes[role].GetID()}
    display.hide()
    assert not any(view.GetForegroundVolumeID() for view in nodesOfClass(scene, "vtkMRMLSliceCompositeNode"))
    Runs.removeRun(run)
    assert not [n for n in nodesOfClass(scene, "vtkMRMLVolumeNode") if "of the maps" in n.GetName()]


def test_a_run_without_checks_says_how_to_get_them(scene, scanNode, answer) -> None:
    ui, rows = panel(Api()), []
    section = ChecksPanel(ui, SimpleNamespace(fillTable=lambda _t, _h, given: rows.append(given), showChart=None))
    section.setDisplay(RunDisplay(RunMaking.createRun(scene, answer, scanNode)))
    assert "were not checked" in ui.mapChecksLabel.text and rows and not any(rows)
