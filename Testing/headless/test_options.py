"""The method options under Advanced: described by the real worker, edited, checked, saved, asked for."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import StandIn, panel
from test_panels import parameters

from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.MethodOptions import WITH_WIDGET, describedMethods, formatOptions, parseOptions
from ADAttributionLib.OptionsPanel import OptionsPanel
from ADAttributionLib.QuestionPanel import METHODS, methodsOf
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.errors import UsageError


class Forms:
    """Rows of a form, with the editors' classes as a running Slicer has them."""

    def __init__(self) -> None:
        self.rows: dict[str, SimpleNamespace] = {}

    def clearForm(self, form) -> None:
        assert form.kind == "QFormLayout"
        self.rows.clear()

    def addChoice(self, form, title, helpText, choices, onChosen):
        box = StandIn("QComboBox", form.api)
        for text, value in choices:
            box.addItem(text, value)
        self.rows[title] = SimpleNamespace(help=helpText, editor=box, choices=choices, user=onChosen)
        return box

    def addField(self, form, title, helpText, default, onTyped):
        field = StandIn("QLineEdit", form.api)
        field.placeholderText = default
        self.rows[title] = SimpleNamespace(help=helpText, editor=field, choices=None, user=onTyped)
        return field


@pytest.fixture(scope="module")
def client():
    made = WorkerClient(arguments=("--threads", "1"))
    yield made
    made.close()


@pytest.fixture
def described(client):
    return client.wait(client.request("describe"), timeout=60)


@pytest.fixture
def section(described):
    made = SimpleNamespace(ui=panel(Api()), forms=Forms(), parameters=parameters(methods={"lrp": True}))
    made.panel = OptionsPanel(made.ui, made.forms, lambda onEnd: pytest.fail("nobody opened Advanced"))
    made.panel.show(made.parameters)
    made.panel.fill(described)
    return made


def choose(section, method: str) -> dict[str, SimpleNamespace]:
    section.ui.optionsMethodComboBox.setCurrentIndex(section.ui.optionsMethodComboBox.findData(method))
    return section.forms.rows


def test_the_worker_describes_what_the_methods_take(described) -> None:
    from ADAttributionLogic.attribution.registry import available_methods

    methods = describedMethods(described)
    assert list(methods) == [method.name for method in available_methods()] and set(methods) == set(METHODS.values())
    for method in available_methods():
        assert methods[method.name].options == method.options and methods[method.name].title == method.title
    for name, options in WITH_WIDGET.items():
        assert set(options) <= {option.name for option in methods[name].options}


def test_every_option_is_listed_with_its_default_help_and_choices(section, described) -> None:
    for name, method in describedMethods(described).items():
        rows = choose(section, name) if method.offered() else {}
        assert list(rows) == [option.name.replace("_", " ") for option in method.offered()]
        for option, row in zip(method.offered(), rows.values(), strict=True):
            assert option.help in row.help
            if row.choices is None:
                assert row.editor.text == "" and row.editor.placeholderText != ""
            else:
                assert [value for _, value in row.choices] == (
                    list(option.choices) or [*([None] if option.default is None else []), False, True]
                )
                assert "(default)" in row.editor.items[row.editor.currentIndex][0]
    rows = choose(section, "lrp")
    assert "rule" not in rows and "beta" not in rows, "they are beside the check box"
    assert rows["epsilon"].editor.placeholderText == "1e-06" and "between 0 and 1000" in rows["epsilon"].help
    assert choose(section, "voxel-occlusion")["minutes"].editor.placeholderText == "10", "what the panel asks for"


def test_a_changed_option_is_saved_and_asked_for(section) -> None:
    rows = choose(section, "lrp")
    rows["epsilon"].user("1e-4")
    rows["first rule"].user("z-box")
    choose(section, "occlusion")["signed"].user(True)
    section.forms.rows["mask"].user("4, 5")
    assert section.parameters.otherOptions == (
        "lrp.epsilon = 0.0001; lrp.first_rule = z-box; occlusion.signed = true; occlusion.mask = 4, 5"
    )
    expected = {"rule": "b-rule", "beta": 0.0, "epsilon": 1e-4, "first_rule": "z-box"}
    assert methodsOf(section.parameters) == [("lrp", expected)]
    section.panel.show(section.parameters)
    assert section.forms.rows["signed"].editor.currentIndex == 2 and section.forms.rows["mask"].editor.text == "4, 5"
    rows = choose(section, "lrp")
    assert rows["epsilon"].editor.text == "0.0001" and rows["first rule"].editor.currentIndex == 4
    rows["epsilon"].user("")
    rows["first rule"].user("preset")
    assert section.parameters.otherOptions == "occlusion.signed = true; occlusion.mask = 4, 5", "defaults are left out"


@pytest.mark.parametrize(
    ("method", "row", "typed", "message"),
    [
        ("lrp", "epsilon", "5000", "Option epsilon of lrp must be between 0 and 1000, but is 5000"),
        ("smoothgrad", "seed", "1.5", "Option seed of smoothgrad must be a whole number, but is 1.5"),
        ("smoothgrad", "noise", "a lot", "Option noise of smoothgrad must be a number, but is 'a lot'"),
        ("occlusion", "mask", "4;5", "Option mask of occlusion cannot hold a semicolon"),
    ],
)
def test_a_wrong_value_is_refused_and_the_former_one_stays(section, method, row, typed, message) -> None:
    entry = choose(section, method)[row]
    entry.editor.text = typed
    entry.user(typed)
    assert message in section.ui.optionsLabel.text and section.parameters.otherOptions == ""
    assert entry.editor.text == ""


def test_a_text_that_is_being_typed_is_left_alone(section) -> None:
    entry = choose(section, "lrp")["epsilon"]
    entry.editor.text = "1e-"
    section.panel.show(section.parameters)  # something else has changed, or a run has ended
    assert entry.editor.text == "1e-"
    section.parameters.otherOptions = "lrp.epsilon = 0.5"
    section.panel.show(section.parameters)
    assert entry.editor.text == "0.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrp.epsilom = 1", "option of lrp named 'epsilom'.*mean epsilon"),
        ("lrp.epsilon = much", "Option epsilon of lrp must be a number, but is 'much'"),
        ("lpr.epsilon = 1", "method named 'lpr'"),
        ("epsilon = 1", "is no option"),
    ],
)
def test_a_wrong_text_keeps_the_button_disabled(section, text, message) -> None:
    section.parameters.otherOptions = text
    assert re.search(message, section.panel.problem(section.parameters))
    section.panel.show(section.parameters)  # it does not hurt
    section.parameters.otherOptions = "lrp.epsilon = 1"
    assert section.panel.problem(section.parameters) == ""


def test_the_worker_is_asked_when_advanced_is_opened_and_not_before(client) -> None:
    ui, asked = panel(Api()), []

    def describe(onEnd):
        asked.append(client.request("describe", onEnd=onEnd))
        return asked[-1]

    made = OptionsPanel(ui, Forms(), describe)
    made.show(parameters(methods={"lrp": True}, otherOptions="lrp.epsilom = 1"))
    assert asked == [] and made.problem(made.parameters) == "", "not known yet; the worker refuses it"
    ui.advancedGroupBox.emit("toggled(bool)", True)
    ui.advancedGroupBox.emit("toggled(bool)", False)
    ui.advancedGroupBox.emit("toggled(bool)", True)
    assert len(asked) == 1 and "as soon as the worker" in ui.optionsLabel.text
    client.wait(asked[0], timeout=60)
    assert ui.optionsMethodComboBox.count >= 8 and ui.optionsLabel.text == ""
    ui.advancedGroupBox.emit("toggled(bool)", True)
    assert len(asked) == 1 and "epsilom" in made.problem(made.parameters)


def test_a_worker_that_cannot_start_is_a_message() -> None:
    ui = panel(Api())
    client = WorkerClient(interpreter="/nowhere/python")
    made = OptionsPanel(ui, Forms(), lambda onEnd: client.request("describe", onEnd=onEnd))
    made.onAdvanced(True)
    assert "cannot be started with the Python /nowhere/python" in ui.optionsLabel.text


def test_what_the_panel_asks_for_is_what_the_worker_does(scene, scanNode, small_package, client, section) -> None:
    """From the form to the provenance of the map."""
    choose(section, "lrp")["first rule"].user("flat")
    logic = ExplainLogic(scene, client)
    run = logic.explain(scanNode, model=small_package, methods=methodsOf(section.parameters), atlas=None)
    plain = logic.explain(scanNode, model=small_package, methods=["lrp"], atlas=None)
    assert run.provenance["methods"]["lrp"]["options"]["first_rule"] == "flat"
    arrays = [volumeFromNode(r.mapNodes["lrp"]).array for r in (run, plain)]
    assert not np.allclose(*arrays)
    with pytest.raises(WorkerError, match="option of lrp named 'epsilom'"):
        logic.explain(scanNode, model=small_package, methods=[("lrp", {"epsilom": 1})], atlas=None)
    scene.RemoveObserver(logic._closing)  # the client goes on


@pytest.mark.parametrize("value", ["true", "1", "null", "a b", " x", "", '"q"', 1e-7, 3, True, None, "α = 1"])
def test_texts_are_read_as_they_were_written(value) -> None:
    options = {"occlusion": {"mask": value}, "lrp": {"low": 1.5}}
    assert parseOptions(formatOptions(options)) == options
    with pytest.raises(UsageError, match="semicolon"):
        formatOptions({"occlusion": {"mask": "a;b"}})
