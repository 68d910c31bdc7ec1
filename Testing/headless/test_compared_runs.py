"""A run that was compared with controls: z map, table, violins and the panel's choice, on real MRML."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import vtk
from small_reference import small_control

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import panel

from ADAttributionLib import Legend, Overlays, References, RegionRows, RunMaking, Runs, SceneBuilder, Violins
from ADAttributionLib.ChartPanel import ChartPanel
from ADAttributionLib.OverlayPanel import OverlayPanel
from ADAttributionLib.ReferencePanel import ReferencePanel
from ADAttributionLib.RegionsPanel import RegionsPanel
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.comparison.comparing import Against
from ADAttributionLogic.errors import ReferenceCohortError, UsageError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.service.answer import answer_of, load_answer, save_answer


@pytest.fixture(scope="session")
def comparedAnswer(small_reference, small_model, tmp_path_factory):
    """As it comes from the worker."""
    against = Against(small_reference, {"age": "71", "sex": "M"})
    scan = small_control(40, age=85)
    found = explain(scan, small_model, ["lrp", "sensitivity"], atlas=load_atlas("aal"), against=against)
    folder = tmp_path_factory.mktemp("answer")
    return load_answer(save_answer(answer_of(found), folder, "a"), folder)


@pytest.fixture
def run(scene, comparedAnswer):
    node = SceneBuilder.addVolume(scene, small_control(40, age=85), "T1")
    node.CreateDefaultDisplayNodes()
    return RunMaking.createRun(scene, comparedAnswer, node)


@pytest.fixture
def display(run):
    made = RunDisplay(run)
    made.show("lrp-z")
    return made


@pytest.fixture
def ui():
    return panel(Api())


# ----------------------------------------------------------------------------------------------------------- the z map


def test_the_z_map_is_one_more_map_with_the_table_of_its_map(run) -> None:
    assert list(run.mapNodes) == ["lrp", "lrp-z", "sensitivity"]
    assert run.mapNodes["lrp-z"].GetName() == "T1 - Layer-wise relevance propagation, z - AD"
    assert run.tableNodes["lrp-z"] is run.tableNodes["lrp"] is not run.tableNodes["sensitivity"]
    table = run.tableNodes["lrp"].GetTable()
    names = {table.GetColumn(i).GetName() for i in range(table.GetNumberOfColumns())}
    assert {"z", "z_rank", "percentile", "gain", "gain_floor", "z_adjusted"} <= names


def test_it_is_shown_from_two_on_in_colours_of_its_own(run) -> None:
    node = run.mapNodes["lrp-z"]
    settings, maximum = Overlays.settingsOf(node), Overlays.statisticsOf(node).maximum
    assert (settings.byPercentile, settings.value, settings.palette) == (False, 2.0, "orange and purple")
    assert 4 <= maximum <= 12
    window = node.GetDisplayNode().GetWindowLevelMin(), node.GetDisplayNode().GetWindowLevelMax()
    assert window == (-maximum, maximum)
    colors, colour = node.GetDisplayNode().GetColorNode(), [0.0] * 4
    shown = []
    for index in range(256):
        colors.GetColor(index, colour)
        shown.append(colour[3] > 0)
    values = np.linspace(-maximum, maximum, 256)
    assert not any(np.array(shown)[np.abs(values) < 2]) and all(np.array(shown)[np.abs(values) > 2 + maximum / 64])
    assert Legend.meaningOf(run.methodOf("lrp-z"), "AD") == ("more than the controls", "less than the controls")


def test_regions_of_the_z_map_are_those_with_the_largest_z(display) -> None:
    _names, values = display.topRegions(5)
    assert values == sorted(values, reverse=True) and display.showTopRegion()["z_rank"] == 1
    display.show("lrp")
    assert display.topRegions(5)[1] != values and display.showTopRegion()["density_rank"] == 1
    display.show("lrp-z")
    assert " z " in display.textAt((0, 0, 0)) and "relevance" not in display.textAt((0, 0, 0))


def test_a_run_against_other_controls_is_another_run(scene, run, comparedAnswer) -> None:
    from dataclasses import replace

    record = comparedAnswer.provenance
    other = {**record, "comparison": {**record["comparison"], "covariates": {}}}
    RunMaking.createRun(scene, replace(comparedAnswer, provenance=other), run.scanNode)
    assert len(Runs.findRuns(scene)) == 2
    RunMaking.createRun(scene, comparedAnswer, run.scanNode)
    assert len(Runs.findRuns(scene)) == 2, "the same question replaces its run"


def test_the_panels_table_shows_z_and_percentile(run) -> None:
    rows = Runs.tableRows(run.tableNodes["lrp"].GetTable())
    columns = RegionRows.shownColumns(RegionRows.FIRST_COLUMNS, rows[0])
    assert columns[-4:] == ["z_rank", "z", "percentile", "z_adjusted"]
    cells = RegionRows.cellsOf(RegionRows.sortedRows(rows, "z_rank"), columns, 1.0)
    first = dict(zip(columns, cells[0], strict=True))
    assert first["z_rank"].text == "1" and first["z"].text[0] in "+-−" and first["percentile"].text.endswith("%")
    plain = Runs.tableRows(run.tableNodes["sensitivity"].GetTable())
    assert "z" not in RegionRows.shownColumns(RegionRows.FIRST_COLUMNS, plain[0])


# ------------------------------------------------------------------------------------------------------------- violins


def test_violins_of_the_most_unusual_regions_with_this_scans_dot(run) -> None:
    chart = Violins.addViolins(run, "lrp")
    places, names = Violins.axisNames(chart)
    rows = {row["name"].replace("_", " "): row for row in Runs.tableRows(run.tableNodes["lrp"].GetTable())}
    assert len(names) == 9 and places == [-float(i) for i in range(9)]
    largest = sorted((abs(r["z_adjusted"]) for r in rows.values() if r["z_adjusted_rank"]), reverse=True)
    assert [abs(rows[name]["z_adjusted"]) for name in names] == pytest.approx(largest[:9])
    for number, name in enumerate(names):
        outline, dot = (chart.GetNthPlotSeriesNode(2 * number + i) for i in (0, 1))
        assert Violins.regionOfSeries(outline) == Violins.regionOfSeries(dot) == rows[name]["label"]
        z = dot.GetTableNode().GetTable().GetColumnByName("z").GetValue(0)
        low, high = -8.0, 8.0
        assert z == pytest.approx(np.clip(rows[name]["z"], low, high), rel=1e-4) or abs(rows[name]["z"]) > abs(z)
        table = outline.GetTableNode().GetTable()
        heights = [table.GetColumnByName("Height").GetValue(i) for i in range(table.GetNumberOfRows())]
        assert min(heights) >= -number - 0.41 and max(heights) <= -number + 0.41
        assert heights[0] == heights[-1], "the outline closes"


def test_a_chosen_region_is_drawn_and_the_chart_replaced(scene, run) -> None:
    before = scene.GetNumberOfNodes()
    Violins.addViolins(run, "lrp")
    count = scene.GetNumberOfNodes()
    rows = Runs.tableRows(run.tableNodes["lrp"].GetTable())
    last = max((r for r in rows if r["z_rank"]), key=lambda row: -abs(row["z_adjusted"]))
    chart = Violins.addViolins(run, "lrp", last["label"])
    assert scene.GetNumberOfNodes() == count and last["name"].replace("_", " ") in Violins.axisNames(chart)[1]
    Runs.removeRun(run)
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 0 and scene.GetNumberOfNodes() < before


def test_a_click_on_a_violin_jumps_and_a_row_changes_the_chart(scene, ui, display, monkeypatch) -> None:
    import slicer

    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    shown, named, said = [], [], []
    view = SimpleNamespace(connect=lambda *_: True)
    seam = SimpleNamespace(
        showChart=lambda chart: shown.append(chart) or [view],
        nameLeftAxis=lambda _view, places, names: named.append(names),
        listSetting=lambda _name: [],
        setSetting=lambda *_: None,
        fillTable=lambda *_: None,
        fillMenu=lambda *_: None,
        onHeaderClicked=lambda *_: None,
    )
    overlay = OverlayPanel(ui, lambda: None, lambda: None)
    overlay.setDisplay(display)
    charts = ChartPanel(overlay, seam, SimpleNamespace(say=said.append), lambda: None)
    ui.chartComboBox.setCurrentIndex(ui.chartComboBox.findData(Violins.KIND))
    charts.show()
    assert shown and len(named[-1]) == 9
    series = shown[-1].GetNthPlotSeriesNode(2)
    ids, points, selections = vtk.vtkStringArray(), vtk.vtkIdTypeArray(), vtk.vtkCollection()
    ids.InsertNextValue(series.GetID())
    points.InsertNextValue(3)
    selections.AddItem(points)
    charts.onPointClicked(ids, selections)
    assert display.chosenLabel == Violins.regionOfSeries(series)
    regions = RegionsPanel(ui, seam, charts.onRegion)
    regions.setDisplay(display)
    least = min((row for row in regions._rows if row["z_rank"]), key=lambda row: abs(row["z_adjusted"]))
    ui.regionTable.values["chosenRow"] = regions._rows.index(least)
    regions.onSelection()
    assert least["name"].replace("_", " ") in named[-1]
    display.show("sensitivity")
    charts.show()
    assert "not compared with controls" in said[-1]


def test_names_stand_on_a_plots_axis_and_go_again() -> None:
    """What QtSeam.nameLeftAxis relies on, in VTK itself."""
    axis = vtk.vtkAxis()
    places, texts = vtk.vtkDoubleArray(), vtk.vtkStringArray()
    places.InsertNextValue(-1.0)
    texts.InsertNextValue("Hippocampus L")
    assert axis.SetCustomTickPositions(places, texts) and axis.GetTickLabels().GetValue(0) == "Hippocampus L"
    axis.SetCustomTickPositions(None, None)
    assert axis.GetTickLabels().GetNumberOfValues() == 0


# ------------------------------------------------------------------------------------------------------------ the panel


@pytest.fixture
def section(ui, small_reference):
    made = SimpleNamespace(parameters=SimpleNamespace(reference="", covariates=""), settings={}, changed=[])
    folder = str(small_reference.folder)
    seam = SimpleNamespace(
        listSetting=lambda _name: [],
        setSetting=lambda name, value: made.settings.update({name: value}),
        chooseFolder=lambda _title: folder,
        reportingErrors=lambda _message: contextlib.nullcontext(),
    )
    made.panel = ReferencePanel(ui, seam, lambda: made.parameters, lambda: made.changed.append(True))
    return made


def test_a_reference_of_ones_own_is_chosen_by_its_folder(ui, section, small_reference) -> None:
    assert ui.referenceComboBox.items[0] == ("none: no comparison", "")
    section.panel.show(section.parameters)
    assert ui.referenceInfoLabel.visible is False and section.panel.asked(section.parameters) == {}
    section.panel.onFolder()
    assert section.parameters.reference == str(small_reference.folder) and section.changed
    section.panel.show(section.parameters)
    assert ui.referenceComboBox.currentData == str(small_reference.folder)
    assert "12 controls" in ui.referenceInfoLabel.text and "age (60–8" in ui.referenceInfoLabel.text
    assert ui.covariatesLineEdit.visible is True and ui.covariatesLineEdit.placeholderText == "age=…, sex=…"
    assert section.settings["recentReferences"] == [str(small_reference.folder)]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", ""),
        ("age=71, sex=F", ""),
        ("age=71", "Say sex of this scan as well, or nothing at all."),
        ("age=71, sez=F", "The reference does not know sez, but age, sex."),
        ("age", "A covariate is written NAME=VALUE, such as age=71, but this is 'age'."),
    ],
)
def test_what_is_missing_is_said_before_the_run(section, small_reference, text: str, problem: str) -> None:
    section.parameters.reference, section.parameters.covariates = str(small_reference.folder), text
    assert section.panel.problem(section.parameters) == problem
    if not problem:
        given = {"age": "71", "sex": "F"} if text else {}
        asked = {"reference": str(small_reference.folder), "covariates": given}
        assert section.panel.asked(section.parameters) == asked
        assert References.comparisonJob(**asked) == asked


def test_a_folder_that_is_no_reference_is_refused(section, tmp_path) -> None:
    with pytest.raises(ReferenceCohortError, match="is no reference of controls"):
        References.cardOf(tmp_path)
    section.parameters.reference = str(tmp_path)
    assert "is no reference of controls" in section.panel.problem(section.parameters)
    with pytest.raises(UsageError, match="no reference"):
        References.comparisonJob(None, {"age": 71})
