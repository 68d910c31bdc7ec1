"""What the extension installs is what is on the disk, and the metadata that the extension index asks for is there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


def listed(file: str, variable: str) -> list[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    (found,) = re.findall(rf"set\({variable}\n(.*?)\n  \)", text, re.DOTALL)
    return [line.strip() for line in found.splitlines()]


@pytest.mark.parametrize(
    ("file", "variable", "folder", "suffixes"),
    [
        ("ADAttribution/CMakeLists.txt", "MODULE_PYTHON_SCRIPTS", "ADAttribution/", (".py",)),
        ("ADAttribution/CMakeLists.txt", "MODULE_PYTHON_RESOURCES", "ADAttribution/Resources/", ("",)),
    ],
)
def test_every_file_of_the_module_is_installed(
    file: str, variable: str, folder: str, suffixes: tuple[str, ...]
) -> None:
    base = file.split("/")[0] + "/"
    expected = {n.removeprefix(base) for n in tracked() if n.startswith(folder) and n.endswith(suffixes)}
    found = listed(file, variable)
    assert len(found) == len(set(found)) and set(found) == expected


def test_the_logic_layer_is_installed() -> None:
    expected = {n for n in tracked() if n.startswith("ADAttributionLogic/") and n.endswith(".py")}
    assert set(listed("CMakeLists.txt", "ADATTRIBUTION_LOGIC")) == expected


def test_all_data_that_ships_is_installed() -> None:
    expected = {n for n in tracked() if n.startswith(("Resources/Atlases/", "Resources/Models/"))}
    assert set(listed("CMakeLists.txt", "ADATTRIBUTION_RESOURCES")) == expected


def test_a_forgotten_file_would_be_noticed() -> None:
    """The comparison above is between two lists that come from different places."""
    found = listed("ADAttribution/CMakeLists.txt", "MODULE_PYTHON_SCRIPTS")
    assert "ADAttribution.py" in found and "ADAttributionLib/WorkerClient.py" in found
    assert "ADAttribution/ADAttribution.py" in tracked()


def test_the_extensions_metadata() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"cmake_minimum_required\(VERSION [\d.]+\.\.\.[\d.]+\)", text)
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS"):
        assert re.search(rf'set\(EXTENSION_{name} "[^"]+"\)', text), name
    assert 'set(EXTENSION_DEPENDS "PyTorch")' in text
    assert text.rstrip().endswith("include(${Slicer_EXTENSION_CPACK})")
    for name in ("ICONURL", "SCREENSHOTURLS"):
        (url,) = re.findall(rf'set\(EXTENSION_{name} "([^"]+)"\)', text)
        path = url.split("/main/", 1)[1]
        assert (ROOT / path).is_file(), path


def test_the_index_entry_agrees_with_the_metadata() -> None:
    entry = json.loads((ROOT / "ADAttribution" / "ADAttribution.json").read_text(encoding="utf-8"))
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    (depends,) = re.findall(r'set\(EXTENSION_DEPENDS "([^"]+)"\)', text)
    (homepage,) = re.findall(r'set\(EXTENSION_HOMEPAGE "([^"]+)"\)', text)
    assert entry["build_dependencies"] == depends.split() and entry["scm_url"] == f"{homepage}.git"
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert set(entry) == {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }


def test_the_root_holds_no_python_file() -> None:
    """Slicer takes every .py in a module path for a module."""
    assert not list(ROOT.glob("*.py"))


def test_icons_are_pictures_of_the_right_size() -> None:
    from PIL import Image

    with Image.open(ROOT / "ADAttribution/Resources/Icons/ADAttribution.png") as icon:
        assert icon.size == (128, 128) and icon.mode == "RGBA"
        alpha = icon.getchannel("A").getextrema()
    assert alpha == (0, 255), "not an empty square"


def test_the_readme_has_what_the_index_asks_for() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for heading in ("## In 3D Slicer", "### Tutorial", "### Many scans", "## Licence", "## Sources"):
        assert heading in text, heading
    assert "Resources/Screenshots/slice-views.png" in text and "not for clinical use" in text
