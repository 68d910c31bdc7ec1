"""A package of the user's own network, by the panel's form and from the console: the real worker makes it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from contract import Api
from stand_in import StandIn, panel
from test_authoring import SAID, exported, make_bundle, small_weights

from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.PackagePanel import PackagePanel
from ADAttributionLib.QuestionPanel import QuestionPanel
from ADAttributionLib.RequestPanel import RequestPanel
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.authoring.questions import QUESTIONS
from ADAttributionLogic.networks.loading import load_model


class Seam:
    """The form's rows, and what the user chooses in dialogs."""

    def __init__(self) -> None:
        self.rows: dict[str, SimpleNamespace] = {}
        self.chosen = ""

    def chooseFile(self, title: str, filters: str) -> str:
        return self.chosen

    def chooseFolder(self, title: str) -> str:
        return self.chosen

    def addChoice(self, form, title, helpText, choices, onChosen):
        editor = StandIn("QComboBox", form.api)
        for text, value in choices:
            editor.addItem(text, value)
        return self._row(title, editor, onChosen)

    def addField(self, form, title, helpText, default, onTyped):
        return self._row(title, StandIn("QLineEdit", form.api), onTyped)

    def _row(self, title, editor, take):
        self.rows[title.removesuffix(" *")] = SimpleNamespace(title=title, editor=editor, user=take, shown=True)
        return editor

    def showRow(self, form, editor, shown) -> None:
        next(row for row in self.rows.values() if row.editor is editor).shown = shown


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of networks, for the worker as well."""
    monkeypatch.setenv("AD_ATTRIBUTION_MODELS", str(tmp_path / "networks"))
    return tmp_path / "networks"


@pytest.fixture
def logic(scene, home: Path):
    made = ExplainLogic(scene, WorkerClient(arguments=("--threads", "1")))
    yield made
    made.close()


@pytest.fixture
def section(logic):
    made = SimpleNamespace(ui=panel(Api()), seam=Seam(), logic=logic)
    made.question = QuestionPanel(made.ui, [])
    made.running = RequestPanel(made.ui, lambda: None, lambda error: None)
    made.panel = PackagePanel(made.ui, made.seam, made.question, made.running, lambda: logic)
    return made


def finish(section) -> None:
    end = time.monotonic() + 60
    while section.running.request is not None and time.monotonic() < end:
        section.logic.poll()
        time.sleep(0.01)
    assert section.running.request is None


def open_source(section, path: Path) -> None:
    section.seam.chosen = str(path)
    button = section.ui.packageFolderButton if path.is_dir() else section.ui.packageFileButton
    button.emit("clicked(bool)", False)
    finish(section)


def answer(section, **answers: str) -> None:
    for name, text in answers.items():
        section.seam.rows[name.replace("_", "-")].user(text)


def shown(section) -> set[str]:
    return {name for name, row in section.seam.rows.items() if row.shown}


def test_the_form_opens_with_a_source_and_not_before(section, tmp_path: Path) -> None:
    ui = section.ui
    assert not ui.packageFrame.visible and not ui.makePackageButton.enabled and section.seam.rows == {}
    section.panel.onFile()
    assert section.running.request is None, "the dialog was cancelled"
    open_source(section, small_weights(tmp_path, ".pt"))
    assert ui.packageFrame.visible and ui.packageSourceLabel.text.endswith("weights.pt")
    needed = {name for name, row in section.seam.rows.items() if row.title.endswith(" *")}
    assert needed == {q.name for q in QUESTIONS if q.default is None}
    assert "metric" not in shown(section), "that is a question about a MAPS folder"
    assert section.seam.rows["output"].editor.currentIndex == -1, "nothing is guessed"
    assert section.seam.rows["skull"].editor.currentIndex == 2, "unknown, unless it is said"


def test_only_questions_that_apply_are_shown_and_what_is_missing_is_named(section, tmp_path: Path) -> None:
    open_source(section, exported(tmp_path))
    assert not {"classes", "score-name", "shape", "normalisation-mask"} & shown(section)
    answer(section, **{k.replace("-", "_"): v for k, v in SAID.items() if k not in ("classes", "licence")})
    assert {"classes", "positive", "shape", "normalisation-mask"} <= shown(section)
    assert "score-name" not in shown(section)
    assert section.ui.packageProblemLabel.text == "Still to be said: classes, licence."
    assert section.ui.makePackageButton.toolTip == "Still to be said: classes, licence."
    answer(section, classes="CN,MCI", licence="CC0")
    assert "--positive must be one of CN, MCI" in section.ui.packageProblemLabel.text
    assert not section.ui.makePackageButton.enabled
    answer(section, output="score")
    assert section.panel.answers.keys().isdisjoint({"classes", "positive"}) and "score-name" in shown(section)
    answer(section, output="softmax")
    assert section.panel.answers["classes"] == "CN,MCI", "what was said is not lost"
    answer(section, classes="CN,AD")
    assert section.ui.makePackageButton.enabled and section.ui.packageProblemLabel.text == ""


def test_a_package_is_made_and_is_the_chosen_network(section, tmp_path: Path, home: Path) -> None:
    open_source(section, exported(tmp_path))
    answer(section, **{k.replace("-", "_"): v for k, v in SAID.items()})
    section.ui.makePackageButton.emit("clicked(bool)", False)
    assert section.running.request is not None
    section.panel.onMake()
    assert section.ui.statusLabel.text == "Wait until this is done, or cancel it."
    finish(section)
    assert section.question.model == str(home / "mine") and str(home / "mine") in section.ui.statusLabel.text
    assert load_model(home / "mine").classes == ("CN", "AD")
    section.ui.makePackageButton.emit("clicked(bool)", False)
    finish(section)
    assert "exists; nothing is overwritten" in section.ui.statusLabel.text and section.ui.detailsButton.visible


def test_what_a_bundle_says_itself_is_filled_in_and_may_be_said_otherwise(section, tmp_path: Path, home: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    exported(tmp_path).rename(bundle / "models" / "model.pt2")
    open_source(section, bundle)
    rows = section.seam.rows
    assert rows["name"].editor.text == "dementia-classifier" and rows["licence"].editor.text == "Apache-2.0"
    assert "classes" not in shown(section) and "metric" in shown(section)
    answer(section, output="softmax", grid="none", shape=SAID["shape"])
    assert rows["output"].editor.currentIndex == 0 and rows["classes"].editor.text == "CN,AD"
    answer(section, title="Ours")
    answer(section, title="")
    assert rows["title"].editor.text == "Dementia Classifier", "the source's again"
    answer(section, name="ours", normalisation="none", positive="CN", trained_on="OASIS-3, 900 people")
    assert section.ui.packageProblemLabel.text == ""
    section.panel.onMake()
    finish(section)
    card = load_model(home / "ours").card
    assert card["title"] == "Dementia Classifier" and card["training"]["data"] == "OASIS-3, 900 people"
    assert card["positive_class"] == 0


def test_a_folder_that_is_not_understood_says_so_and_makes_nothing(section, tmp_path: Path) -> None:
    open_source(section, tmp_path)
    assert "neither a MAPS folder" in section.ui.packageProblemLabel.text
    assert "neither a MAPS folder" in section.ui.statusLabel.text and not section.ui.makePackageButton.enabled
    answer(section, name="mine")
    open_source(section, exported(tmp_path))
    assert section.panel.answers == {"name": "mine"}, "what was said stays when another source is chosen"


def test_a_maps_folder_of_several_metrics_is_read_again_once_one_is_named(section, tmp_path: Path) -> None:
    from test_authoring import make_maps

    maps = make_maps(tmp_path / "maps", "Conv4_FC3", splits=1)
    best = maps / "split-0" / "best-loss"
    shutil.copytree(best, best.with_name("best-BA"))
    open_source(section, maps)
    assert "BA, loss" in section.ui.packageProblemLabel.text and "metric" in shown(section)
    answer(section, metric="loss")
    finish(section)
    assert section.panel.metric == "loss" and section.seam.rows["classes"].editor.text == "AD,CN"
    assert section.ui.packageProblemLabel.text.startswith("Still to be said: ")


def test_from_the_console(logic, tmp_path: Path, home: Path) -> None:
    source = exported(tmp_path)
    assert logic.knownAnswers(source) == {"answers": {}}
    assert logic.createPackage(source, SAID) == {"folder": str(home / "mine")}
    assert logic.createPackage(source, SAID, tmp_path / "there")["folder"] == str(tmp_path / "there")
    with pytest.raises(WorkerError, match=r"Still to be said: --licence"):
        logic.createPackage(source, {k: v for k, v in SAID.items() if k != "licence"}, tmp_path / "not there")
    with pytest.raises(WorkerError, match=r"2 classes, but its card names 3"):
        logic.createPackage(source, SAID | {"classes": "CN,MCI,AD"}, tmp_path / "not there")
    assert not (tmp_path / "not there").exists()


def test_a_request_that_is_not_understood_is_refused(logic) -> None:
    for command, job, message in (
        ("known", {"source": "a", "metrics": "loss"}, "metrics"),
        ("known", {}, "lacks 'source'"),
        ("create", {"source": "a", "answers": {}, "folder": "b"}, "folder"),
        ("create", {"source": "a"}, "lacks 'answers'"),
        ("create", {"source": "a", "answers": {"shape": [1, 2, 3]}}, "texts by question"),
    ):
        with pytest.raises(WorkerError, match=message):
            logic.client.wait(logic.client.request(command, job), timeout=60)
