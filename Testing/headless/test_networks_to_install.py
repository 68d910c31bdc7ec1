"""Getting a network from the panel and the console: named, agreed to, downloaded by the worker, then in the list."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from contract import Api
from network_source import Source, serve_package, write_registry
from stand_in import panel

from ADAttributionLib import ModelCards
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.NetworksPanel import NetworksPanel
from ADAttributionLib.QuestionPanel import QuestionPanel
from ADAttributionLib.RequestPanel import RequestPanel
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.store.registry import find_registered

QIU = "qiu2022-impairment"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of networks."""
    monkeypatch.setenv("AD_ATTRIBUTION_MODELS", str(tmp_path / "networks"))
    return tmp_path / "networks"


@pytest.fixture
def source(small_package: Path, tmp_path: Path):
    server = serve_package(small_package, tmp_path / "served")
    yield server
    server.close()


@pytest.fixture
def registry(source: Source, tmp_path: Path) -> Path:
    return write_registry(source, tmp_path / "registry.json")


@pytest.fixture
def logic(scene):
    """The logic with a worker of its own, which knows this test's folder of networks."""
    made = ExplainLogic(scene, WorkerClient(arguments=("--threads", "1")))
    yield made
    made.client.close()


def chosen(ui, name: str) -> None:
    ui.modelComboBox.setCurrentIndex(ui.modelComboBox.findData(name))


def test_a_network_that_is_not_installed_is_listed_with_what_one_must_know() -> None:
    ui = panel(Api())
    section = QuestionPanel(ui, [])
    section.showModel()
    assert section.model is not None and not ui.installNetworkButton.visible
    chosen(ui, f"{ModelCards.TO_INSTALL}{QIU}")
    section.showModel()
    assert section.toInstall.name == QIU and section.model is None and section.card is None
    assert ui.installNetworkButton.visible and ui.installNetworkFolderButton.visible
    text = ui.modelCardLabel.text
    for fact in ("Not installed yet", "Nothing is downloaded before you agree", "MIT", "21 MB", "from https:"):
        assert fact in text
    question = section.toInstall.question()
    assert "MIT" in question and "SHA-256" in question and "Not for diagnosis" in question


def test_an_installed_network_is_listed_as_any_other(small_package: Path, home: Path) -> None:
    shutil.copytree(small_package, home / "untrained")
    assert ("Untrained network for tests", str(home / "untrained")) in ModelCards.choices()
    shutil.copytree(small_package, home / QIU)
    assert QIU not in [network.name for network in ModelCards.networksToInstall()]


def test_a_package_elsewhere_is_taken_into_the_list_and_remembered(small_package: Path, tmp_path: Path) -> None:
    ui, settings = panel(Api()), {}
    section = QuestionPanel(ui, [])
    running = RequestPanel(ui, lambda: None, pytest.fail)
    refusals: list[str] = []

    class Seam:
        chosen = str(small_package)
        setSetting = staticmethod(settings.__setitem__)

        def chooseFolder(self, title: str) -> str:
            return self.chosen

        @contextmanager
        def reportingErrors(self, message: str):
            try:
                yield
            except NetworkError as error:
                refusals.append(f"{message} {error}")

    seam = Seam()
    NetworksPanel(ui, seam, section, running, pytest.fail)
    ui.modelFolderButton.emit("clicked(bool)", False)
    assert section.model == str(small_package) and settings == {"recentPackages": [str(small_package)]}
    seam.chosen = str(tmp_path)
    ui.modelFolderButton.emit("clicked(bool)", False)
    assert "This folder cannot be used." in refusals[0] and section.model == str(small_package)


def test_from_the_console(logic, registry: Path, source: Source, home: Path) -> None:
    found = logic.installNetwork("untrained", registry=registry)
    assert found == {"folder": str(home / "untrained")} and source.asked
    with pytest.raises(WorkerError, match="is installed already"):
        logic.installNetwork("untrained", registry=registry)


def test_offline_from_a_folder(logic, registry: Path, source: Source, home: Path) -> None:
    folder = source.folder / "published" / "at-a-commit"
    assert logic.installNetwork("untrained", folder, registry)["folder"] == str(home / "untrained")
    assert source.asked == []


def test_the_panels_buttons_ask_first_and_then_install(logic, registry: Path, source: Source, home: Path, monkeypatch):
    """The real worker and download; only the registry is this test's, in the panel's list as in the worker."""
    monkeypatch.setattr(ModelCards, "networksToInstall", lambda: [find_registered("untrained", registry)])
    ui = panel(Api())
    section = QuestionPanel(ui, [])
    running = RequestPanel(ui, lambda: None, pytest.fail)
    asked: list[tuple[str, str]] = []

    class Seam:
        agrees = False

        def confirm(self, question: str, details: str) -> bool:
            asked.append((question, details))
            return self.agrees

        def chooseFolder(self, title: str) -> str:
            return ""

    def install(name, given, **callbacks):
        return logic.installNetwork(name, given, registry, **callbacks)

    seam = Seam()
    made = NetworksPanel(ui, seam, section, running, install)
    chosen(ui, f"{ModelCards.TO_INSTALL}untrained")
    made.onInstallFromFolder()
    assert asked == [] and running.request is None, "no folder chosen"
    made.onInstall()
    assert "MIT" in asked[0][0] and "Do what you like" in asked[0][1] and running.request is None
    seam.agrees = True
    made.onInstall()
    finish(logic, running)
    assert section.model == str(home / "untrained") and "Installed: A network for tests" in ui.statusLabel.text


def finish(logic: ExplainLogic, running: RequestPanel) -> None:
    end = time.monotonic() + 60
    while running.request is not None and time.monotonic() < end:
        logic.client.poll()
        time.sleep(0.01)


def test_the_panels_foot_shows_progress_and_the_cause_of_a_failure(logic, registry: Path, source: Source, home: Path):
    ui = panel(Api())
    failures: list[object] = []
    running = RequestPanel(ui, lambda: None, failures.append)
    source.refuses = 404

    def ask(**callbacks):
        return logic.installNetwork("untrained", registry=registry, **callbacks)

    running.start(ask, lambda request: "Installed")
    finish(logic, running)
    assert "404" in ui.statusLabel.text and ui.detailsButton.visible and len(failures) == 1
    source.refuses = None
    running.start(ask, lambda request: f"Installed in {request.result['folder']}")
    finish(logic, running)
    assert ui.statusLabel.text == f"Installed in {home / 'untrained'}"


def test_cancelled_nothing_is_half_installed(logic, registry: Path, source: Source, home: Path) -> None:
    source.pause = 0.05
    request = logic.installNetwork("untrained", registry=registry, wait=False)
    end = time.monotonic() + 60
    while not source.asked and time.monotonic() < end:
        logic.client.poll()
        time.sleep(0.005)
    request.cancel()
    while not request.hasEnded and time.monotonic() < end:
        logic.client.poll()
        time.sleep(0.005)
    assert request.isCancelled and not (home / "untrained").exists()
    source.pause = 0.0
    assert logic.installNetwork("untrained", registry=registry)["folder"] == str(home / "untrained")
