"""The module uses only what a running Slicer was seen to have; and the checker notices when it does not."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from contract import MODULE, UI_FILE, Api, check_source, check_ui, parameters_in, widgets_in_ui

SOURCE = (MODULE / "ADAttribution.py").read_text(encoding="utf-8")
PANEL = UI_FILE.read_text(encoding="utf-8")
FILES = [MODULE / "ADAttribution.py", *sorted((MODULE / "ADAttributionLib").glob("*.py"))]


@pytest.fixture(scope="module")
def api() -> Api:
    return Api()


def test_numbers_of_the_panel_keep_their_limits() -> None:
    """Slicer's parameter node wrapper takes a spin box's limits away unless the parameter is annotated with them."""
    pattern = r"(\w+): Annotated\[(?:int|float), WithinRange\(([\d.]+), ([\d.]+)\)\]"
    annotated = {name: (float(low), float(high)) for name, low, high in re.findall(pattern, SOURCE)}
    limits = {}
    for widget in ElementTree.fromstring(PANEL).iter("widget"):
        given = {p.get("name"): "".join(p.itertext()).strip() for p in widget.findall("property")}
        if "SpinBox" in widget.get("class", "") and "SlicerParameterName" in given:
            limits[given["SlicerParameterName"]] = (float(given["minimum"]), float(given["maximum"]))
    assert limits == annotated and len(limits) == 5


def test_the_panel_file(api: Api) -> None:
    report = check_ui(PANEL, api, parameters_in(SOURCE))
    assert report.problems == [] and report.checked > 200


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_source(api: Api, path: Path) -> None:
    assert check_source(path.read_text(encoding="utf-8"), api, widgets_in_ui(UI_FILE), path.name).problems == []


def test_the_checker_sees_most_of_what_is_used(api: Api) -> None:
    widgets = widgets_in_ui(UI_FILE)
    counts = {p.name: check_source(p.read_text(encoding="utf-8"), api, widgets).checked for p in FILES}
    for name, least in (
        ("ADAttribution.py", 60),
        ("ComparePanel.py", 12),
        ("OptionsPanel.py", 12),
        ("OverlayPanel.py", 60),
        ("QuestionPanel.py", 20),
        ("PackagePanel.py", 10),
        ("PreparationPanel.py", 15),
        ("RequestPanel.py", 10),
        ("SetupPanel.py", 8),
        ("QtSeam.py", 20),
    ):
        assert counts[name] >= least, counts


def test_every_widget_that_can_be_used_is_used() -> None:
    """A button that is connected to nothing would be a dead one."""
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    for name, kind in widgets_in_ui(UI_FILE).items():
        if kind in ("QPushButton", "QComboBox", "QListWidget", "ctkSliderWidget", "ctkPathLineEdit", "ctkSearchBox"):
            assert f"ui.{name}" in text or _is_bound(name), name


def test_every_widget_that_can_be_used_says_what_it_does() -> None:
    from xml.etree import ElementTree

    silent = (
        *("QLabel", "QFrame", "QProgressBar", "QWidget", "QScrollArea", "QTabWidget"),
        *("ctkCollapsibleButton", "ctkCollapsibleGroupBox", "qMRMLWidget"),
    )
    for widget in ElementTree.fromstring(PANEL).iter("widget"):
        if widget.get("class") not in silent:
            assert any(p.get("name") == "toolTip" for p in widget.findall("property")), widget.get("name")


def _is_bound(name: str) -> bool:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(PANEL)
    (widget,) = [w for w in root.iter("widget") if w.get("name") == name]
    return any(p.get("name") == "SlicerParameterName" for p in widget.findall("property"))


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('name="nodeTypes"', 'name="nodeType"', "no writable property nodeType"),
        ('<property name="toolTip"', '<property name="tooltip"', "no writable property tooltip"),
        ('<attribute name="title"', '<attribute name="tittle"', "a page has no tittle"),
        ('class="ctkSliderWidget"', 'class="ctkSlider"', "the class ctkSlider is unknown"),
        ("<string>lrpBeta</string>", "<string>lrpBata</string>", "the parameter node has no lrpBata"),
        ("<string>methods.lrp</string>", "<string>method.lrp</string>", "the parameter node has no method.lrp"),
        (
            "<signal>mrmlSceneChanged(vtkMRMLScene*)",
            "<signal>sceneChanged(vtkMRMLScene*)",
            "has no signal sceneChanged",
        ),
        ("<slot>setMRMLScene(vtkMRMLScene*)", "<slot>setScene(vtkMRMLScene*)", "has no slot setScene"),
        ('name="clusterSpinBox"', 'name="opacitySlider"', "two widgets are called opacitySlider"),
        ("<cstring>runComboBox</cstring>", "<cstring>runBox</cstring>", "its buddy does not exist"),
    ],
)
def test_a_misspelt_panel_is_noticed(api: Api, right: str, wrong: str, message: str) -> None:
    assert right in PANEL
    problems = check_ui(PANEL.replace(right, wrong, 1), api, parameters_in(SOURCE)).problems
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ui.applyButon.enabled = True", "no widget applyButon"),
        ("self.ui.applyButton.enable = True", "no writable property enable"),
        ("ui.applyButton.txt", "no attribute txt"),
        ("ui.applyButton.text()", "is a property and cannot be called"),
        ("ui.inputSelector.currentNodeID = 3; ui.inputSelector.currentNodes()", "no attribute currentNodes"),
        ("ui.applyButton.connect('click(bool)', f)", "no signal click(bool)"),
        ("self._connect(self.ui.thresholdSlider, 'valueChanged(float)', f)", "no signal valueChanged(float)"),
        ("slider = ui.thresholdSlider\n    slider.values = 3", "no writable property values"),
        ("head = ui.regionTable.horizontalHeader()\n    head.stretch('a')", "no attribute stretch"),
        ("timer = qt.QTimer()\n    timer.connect('timedOut()', f)", "no signal timedOut()"),
        ("qt.QTimmer()", "QTimmer is not in the excerpt"),
        ("slicer.util.loadUi('a')", "slicer.util has no loadUi"),
        ("slicer.app.layoutManger()", "no attribute layoutManger"),
        ("slicer.app.layoutManager().plotWidget(0).plotView().connect('selected()', f)", "no signal selected()"),
        ("slicer.modules.plot.logic()", "slicer.modules has no plot"),
        ("slicer.app.userSettings().get('a')", "no attribute get"),
    ],
)
def test_misspelt_source_is_noticed(api: Api, line: str, message: str) -> None:
    source = f"def slot(self, ui, f):\n    {line}\n"
    problems = check_source(source, api, widgets_in_ui(UI_FILE)).problems
    assert any(message in problem for problem in problems), problems


def test_the_module_stays_thin_and_imports_the_logic_package_by_no_name() -> None:
    assert len(SOURCE.splitlines()) < 600
    assert "\nimport ADAttributionLogic" not in SOURCE and "from ADAttributionLogic" not in SOURCE
    qt_files = [p.name for p in FILES if "import qt" in p.read_text(encoding="utf-8")]
    assert qt_files == ["QtSeam.py"], "Qt is reached through one seam"


def test_every_method_has_its_check_box() -> None:
    from ADAttributionLib.QuestionPanel import METHODS
    from ADAttributionLogic.attribution.registry import available_methods

    assert set(METHODS.values()) == {method.name for method in available_methods()}
    assert {f"methods.{field}" for field in METHODS} <= parameters_in(SOURCE)
    for field in METHODS:
        assert _is_bound(f"{field}CheckBox")
