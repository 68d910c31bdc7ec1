"""The section Checks in use, with checks that were really run: on real MRML, through the worker."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import panel

from ADAttributionLib import Runs
from ADAttributionLib.ChecksPanel import COLOURS, ChecksPanel
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.RunDisplay import RunDisplay
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
    yield logic.explain(scanNode, small_package, ["gradient-x-input"], atlas="neuromorphometrics", checks=40)
    scene.RemoveObserver(logic._closing)


def test_one_line_per_check_with_mark_number_null_and_words(scene, run) -> None:
    shown, charts, ui = {}, [], panel(Api())
    seam = SimpleNamespace(
        fillTable=lambda _table, heads, rows: shown.update(heads=heads, rows=rows), showChart=charts.append
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


def test_a_run_without_checks_says_how_to_get_them(scene, scanNode, answer) -> None:
    ui, rows = panel(Api()), []
    section = ChecksPanel(ui, SimpleNamespace(fillTable=lambda _t, _h, given: rows.append(given), showChart=None))
    section.setDisplay(RunDisplay(Runs.createRun(scene, answer, scanNode)))
    assert "were not checked" in ui.mapChecksLabel.text and rows[-1] == []
