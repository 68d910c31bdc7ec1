"""Networks from elsewhere: consent, download, resuming, tampering, refusals, offline, removal.

A web server on this computer plays the source.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ncomms2022 import SOURCE, needs_weights
from network_source import Source, serve_package, write_registry

from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import Cancelled, NetworkError, OutputError, UnknownNameError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.networks.qiu2022_package import NAMES, source_files
from ADAttributionLogic.store.download import DownloadError
from ADAttributionLogic.store.installation import install_package, install_registered, remove, verify
from ADAttributionLogic.store.places import installed_packages, models_folder
from ADAttributionLogic.store.registry import RegisteredNetwork, find_registered, read_registry


@pytest.fixture
def source(small_package: Path, tmp_path: Path) -> Iterator[Source]:
    server = serve_package(small_package, tmp_path / "served")
    yield server
    server.close()


@pytest.fixture
def registry(source: Source, tmp_path: Path) -> Path:
    return write_registry(source, tmp_path / "registry.json")


@pytest.fixture
def network(registry: Path) -> RegisteredNetwork:
    return find_registered("untrained", registry)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of networks."""
    folder = tmp_path / "user" / "networks"
    monkeypatch.setenv("AD_ATTRIBUTION_MODELS", str(folder))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


def left_over(home: Path) -> list[str]:
    """What lies in the folder beside installed networks and downloads to be gone on with."""
    if not home.exists():
        return []
    return [p.name for p in home.iterdir() if p not in installed_packages(home) and p.name != ".downloads"]


# ------------------------------------------------------------------------------------------------------------ install


def test_a_registered_network_is_downloaded_checked_and_can_be_used(
    network: RegisteredNetwork, home: Path, small_model: Model
) -> None:
    reports: list[float] = []
    target = install_registered(network, monitor=Monitor(lambda fraction, _: reports.append(fraction)))
    assert target == home / "untrained" and installed_packages() == (target,)
    assert load_model("untrained").weights_sha256 == small_model.weights_sha256
    assert reports == sorted(reports) and reports[-1] == 1.0 and len(reports) > 5
    assert left_over(home) == [] and not (home / ".downloads" / "untrained").exists()
    assert verify(target) == ""


def test_the_command_asks_before_it_downloads(registry: Path, source: Source, home: Path) -> None:
    """Without a terminal nobody can agree: nothing is asked of the network, and nothing is written."""
    command = [sys.executable, "-m", "ADAttributionLogic.cli", "models", "install", "untrained", "--registry", registry]
    done = subprocess.run(list(map(str, command)), input="y\n", capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "needs your consent" in done.stderr
    for fact in ("MIT", "Nobody 2026", "Testing only", f"{source.address}/published/at-a-commit", "MB in 2 files"):
        assert fact in done.stderr
    assert source.asked == [] and not home.exists()


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "maybe\n"])
def test_anything_but_yes_is_no(
    answer: str, registry: Path, source: Source, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["models", "install", "untrained", "--registry", str(registry)]) == 0
    assert source.asked == [] and not home.exists()


def test_yes_installs_and_the_list_shows_it(
    registry: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO("yes\n")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["models", "install", "untrained", "--registry", str(registry)]) == 0
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert "Untrained network for tests (installed)" in listed and "simulated-atrophy" in listed
    assert "ad-attribution models install qiu2022-impairment" in listed
    assert main(["models", "remove", "untrained"]) == 0 and not (home / "untrained").exists()


# ------------------------------------------------------------------------------------------------- when it breaks off


@pytest.mark.parametrize("resumes", [True, False])
def test_a_download_that_breaks_off_is_gone_on_with(network: RegisteredNetwork, source: Source, resumes: bool) -> None:
    source.resumes, source.breaks_after = resumes, 40_000
    with pytest.raises(DownloadError, match=r"broke off after 40000 of \d+ bytes.*try again"):
        install_registered(network)
    assert installed_packages() == ()
    source.asked.clear()
    install_registered(network)
    (asked,) = source.asked
    assert asked == ("/published/at-a-commit/weights.safetensors", "bytes=40000-"), "the card is here already"
    assert verify(installed_packages()[0]) == ""


def test_a_cancelled_installation_leaves_no_network_and_keeps_what_arrived(
    network: RegisteredNetwork, home: Path, source: Source
) -> None:
    seen: list[str] = []

    def stop() -> bool:
        return len(seen) > 6

    with pytest.raises(Cancelled):
        install_registered(network, monitor=Monitor(lambda _, text: seen.append(text), stop))
    assert installed_packages() == () and left_over(home) == []
    assert any(home.rglob("*.part")) or any((home / ".downloads").rglob("*.safetensors"))
    assert remove("untrained") == home / ".downloads" / "untrained" and not any(home.rglob("*.part"))


def test_another_file_than_the_registered_one_is_refused_and_removed(
    network: RegisteredNetwork, source: Source, home: Path
) -> None:
    weights = source.folder / "published" / "at-a-commit" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DownloadError, match=r"not the file that was registered: its SHA-256 is [0-9a-f]{12}"):
        install_registered(network)
    assert installed_packages() == () and not any(home.rglob("weights*"))


def test_a_longer_file_is_refused_without_reading_on(network: RegisteredNetwork, source: Source) -> None:
    card = source.folder / "published" / "at-a-commit" / "model.json"
    card.write_bytes(card.read_bytes() + b" ")
    with pytest.raises(DownloadError, match=r"more than the \d+ bytes that were registered"):
        install_registered(network)


@pytest.mark.parametrize("status", [403, 404, 407, 500])
def test_a_refusal_says_what_to_do(status: int, network: RegisteredNetwork, source: Source) -> None:
    source.refuses = status
    with pytest.raises(DownloadError, match=f"says {status} .*install them from a folder"):
        install_registered(network)
    assert installed_packages() == ()


def test_without_network(network: RegisteredNetwork, source: Source) -> None:
    source.close()
    with pytest.raises(DownloadError, match=r"cannot be downloaded: .*refused.*install them from a folder"):
        install_registered(network)


def test_a_proxy_that_refuses(
    network: RegisteredNetwork, source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = Source(tmp_path)
    proxy.refuses = 407
    monkeypatch.setenv("http_proxy", proxy.address)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DownloadError, match="a proxy says 407"):
        install_registered(network)
    assert proxy.asked and not source.asked
    proxy.close()


def test_a_redirection_to_a_file_of_this_computer_is_not_followed(network: RegisteredNetwork, source: Source) -> None:
    source.redirects = "file:///etc/passwd"
    with pytest.raises(DownloadError):
        install_registered(network)


def test_a_full_disk_is_said_before_anything_is_downloaded(
    network: RegisteredNetwork, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"0 MB free; \d+ MB are needed.*AD_ATTRIBUTION_MODELS"):
        install_registered(network)
    assert source.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_on_the_way(network: RegisteredNetwork, home: Path) -> None:
    part = home / ".downloads" / "untrained" / "model.json.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="is full"):
        install_registered(network)
    assert installed_packages() == ()


def test_nothing_is_overwritten(network: RegisteredNetwork) -> None:
    target = install_registered(network)
    (target / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="models remove untrained"):
        install_registered(network)
    assert (target / "note.txt").read_text(encoding="utf-8") == "mine"


# ------------------------------------------------------------------------------------------------------------ offline


def test_from_a_folder_nothing_is_downloaded(network: RegisteredNetwork, source: Source, registry: Path) -> None:
    clone = source.folder / "published" / "at-a-commit"
    command = ["models", "install", "untrained", "--registry", str(registry), "--from", str(clone), "--yes"]
    assert main(command) == 0 and source.asked == []
    assert len(installed_packages()) == 1


def test_a_folder_with_another_file_is_refused(network: RegisteredNetwork, source: Source) -> None:
    clone = source.folder / "published" / "at-a-commit"
    (clone / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(DownloadError, match="it has 5 bytes"):
        install_registered(network, clone)
    (clone / "weights.safetensors").unlink()
    with pytest.raises(DownloadError, match=r"lacks weights\.safetensors"):
        install_registered(network, clone)
    assert installed_packages() == ()


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder"])
def test_a_package_is_installed_from_a_folder_or_zip(form: str, small_package: Path, tmp_path: Path) -> None:
    given = small_package
    if form != "folder":
        given = tmp_path / "package.zip"
        inside = "untrained/" if form == "zip with a folder" else ""
        with zipfile.ZipFile(given, "w") as archive:
            for path in small_package.iterdir():
                archive.write(path, f"{inside}{path.name}")
    assert main(["models", "install", str(given)]) == 0
    assert load_model("untrained").name == "untrained"
    assert main(["models", "verify"]) == 0


@pytest.mark.parametrize("name", ["../outside.json", "/tmp/outside.json", "..\\outside.json", "C:/outside.json"])
def test_a_zip_that_leads_elsewhere_is_refused(name: str, small_package: Path, tmp_path: Path, home: Path) -> None:
    given = tmp_path / "package.zip"
    with zipfile.ZipFile(given, "w") as archive:
        for path in small_package.iterdir():
            archive.write(path, path.name)
        archive.writestr(name, "x")
    with pytest.raises(NetworkError, match="leads elsewhere"):
        install_package(given)
    assert installed_packages() == () and left_over(home) == [] and not Path("/tmp/outside.json").exists()


def test_a_damaged_zip_and_what_is_no_package_are_refused(small_package: Path, tmp_path: Path, home: Path) -> None:
    given = tmp_path / "package.zip"
    with zipfile.ZipFile(given, "w") as archive:
        for path in small_package.iterdir():
            archive.write(path, path.name)
    content = bytearray(given.read_bytes())
    content[len(content) // 2] ^= 0xFF
    given.write_bytes(content)
    with pytest.raises(NetworkError, match="sound zip file"):
        install_package(given)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NetworkError, match=r"no model\.json"):
        install_package(tmp_path / "empty")
    text = tmp_path / "text.zip"
    text.write_text("no zip", encoding="utf-8")
    with pytest.raises(NetworkError, match="neither a folder nor a sound zip"):
        install_package(text)
    assert left_over(home) == []


# ------------------------------------------------------------------------------------------------- verify and registry


def test_verify_names_what_was_changed(network: RegisteredNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    target = install_registered(network)
    weights = target / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert main(["models", "verify", "untrained"]) == NetworkError.exit_code
    assert "weights.safetensors is not the file that its model card was written for" in capsys.readouterr().out


def test_what_is_not_installed_cannot_be_removed(home: Path) -> None:
    (home.parent / "precious").mkdir(parents=True)
    for name in ("untrained", "../precious", "..", ".", ""):
        with pytest.raises(UnknownNameError):
            remove(name)
    assert (home.parent / "precious").exists()


def test_the_shipped_registry() -> None:
    """Every address is https at a full commit, and no two files of a network have the same path."""
    networks = read_registry()
    assert [n.name for n in networks] == ["qiu2022-impairment", "qiu2022-alzheimers"]
    for network in networks:
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}", network.source)
        assert len({f.path for f in network.files}) == len(network.files) == 11
        assert network.licence == "MIT" and "Permission is hereby granted" in network.licence_text
        assert "doi:10.1038/s41467-022-31037-5" in network.citation and "Not for diagnosis" in network.intended_use


def test_the_registry_names_the_files_that_the_conversion_pins() -> None:
    for network in read_registry():
        pinned = {(file.path, file.sha256) for file in source_files(network.name)}
        assert {(file.path, file.sha256) for file in network.files} == pinned


@needs_weights
@pytest.mark.parametrize("name", NAMES)
def test_the_published_networks_install_offline(name: str, home: Path) -> None:
    assert main(["models", "install", name, "--from", str(SOURCE), "--yes"]) == 0
    model = load_model(name)
    assert len(model.members) == 5 and model.card["licence"].startswith("MIT")
    assert {path.name for path in (home / name).iterdir()} == {
        "LICENSE",
        "model.json",
        *(f"cross{fold}.safetensors" for fold in range(5)),
    }


def test_a_network_that_could_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match="ad-attribution models install qiu2022-impairment"):
        load_model("qiu2022-impairment")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": "http://example.org/x"}, "not https"),
        ({"source": "ftp://example.org/x"}, "not a valid registry"),
        ({"name": "../x"}, "not a valid registry"),
        ({"files": [{"path": "../x", "sha256": "0" * 64, "bytes": 1}]}, "not a valid registry"),
        ({"files": [{"path": "/x", "sha256": "0" * 64, "bytes": 1}]}, "not a valid registry"),
        ({"files": [{"path": "a/.x", "sha256": "0" * 64, "bytes": 1}]}, "not a valid registry"),
        ({"files": []}, "not a valid registry"),
    ],
)
def test_a_registry_that_cannot_be_trusted_is_refused(change: dict[str, object], reason: str, registry: Path) -> None:
    document = json.loads(registry.read_text(encoding="utf-8"))
    document["networks"][0].update(change)
    registry.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(NetworkError, match=reason):
        read_registry(registry)


def test_where_networks_are_kept(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert models_folder() == home
    monkeypatch.delenv("AD_ATTRIBUTION_MODELS")
    assert models_folder().parts[-2:] == ("ad-attribution", "models")
