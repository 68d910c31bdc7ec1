"""What the extension installs is what is on the disk, and the metadata that the extension index asks for is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Data that ships beside the code.
SHIPPED = tuple(f"Resources/{name}/" for name in ("Atlases", "Models", "References", "Report"))


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
    expected = {n for n in tracked() if n.startswith(SHIPPED)}
    assert set(listed("CMakeLists.txt", "ADATTRIBUTION_RESOURCES")) == expected


# ------------------------------------------------------------------------------------------------- installed for real


def cmake_tool(name: str) -> str:
    """A program of the cmake wheel, or of the system; skips without one."""
    found = shutil.which(name)
    if importlib.util.find_spec("cmake") is not None:
        import cmake

        found = shutil.which(name, path=cmake.CMAKE_BIN_DIR) or found
    if found is None or not (shutil.which("make") or shutil.which("ninja")):
        pytest.skip("configuring needs cmake (extra dev) and make or ninja")
    return found


def configure(source: Path, build: Path, prefix: Path) -> subprocess.CompletedProcess[str]:
    """Configure the extension; nothing is compiled, so that no compiler is needed."""
    compilers = [f"-DCMAKE_{language}_COMPILER={sys.executable}" for language in ("C", "CXX")]
    known = [f"-DCMAKE_{language}_COMPILER_{what}=1" for language in ("C", "CXX") for what in ("FORCED", "ID_RUN")]
    places = [f"-DSlicer_DIR={ROOT / 'Testing' / 'panel' / 'slicer_cmake'}", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    command = [cmake_tool("cmake"), "-S", str(source), "-B", str(build), *compilers, *known, *places]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of scripted modules after configuring and installing with cmake."""
    folder = tmp_path_factory.mktemp("extension")
    done = configure(ROOT, folder / "build", folder / "installed")
    assert done.returncode == 0, done.stdout + done.stderr
    command = [cmake_tool("cmake"), "--install", str(folder / "build")]
    subprocess.run(command, capture_output=True, text=True, check=True)
    tests = subprocess.run(
        [cmake_tool("ctest"), "-N"], cwd=folder / "build", capture_output=True, text=True, check=True
    ).stdout
    assert "py_ADAttribution" in tests and "py_nomainwindow_qSlicerADAttributionModuleGenericTest" in tests
    return folder / "installed" / "lib" / "Slicer" / "qt-scripted-modules"


def test_cmake_installs_the_module_the_logic_layer_and_all_data_and_nothing_else(installed: Path) -> None:
    module = {n.removeprefix("ADAttribution/") for n in tracked() if n.startswith("ADAttribution/")}
    module -= {"CMakeLists.txt", "ADAttribution.json"}
    logic = {n for n in tracked() if n.startswith("ADAttributionLogic/") and n.endswith(".py")}
    data = {n for n in tracked() if n.startswith(SHIPPED)}
    assert {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file()} == module | logic | data
    whole = installed.parents[2]
    assert all(installed in p.parents for p in whole.rglob("*") if p.is_file()), "nothing beside the modules' folder"


def test_what_is_installed_finds_its_own_files(installed: Path, tmp_path: Path) -> None:
    """With the installed folder alone on the path, as in Slicer: networks, atlases, icons, the self-test's network."""
    program = """
        from pathlib import Path
        import ADAttributionLib, ADAttributionLogic
        from ADAttributionLib.ModelCards import bundledPackages
        from ADAttributionLib.SampleScans import sampleSources
        from ADAttributionLib.SelfTest import SMALL_NETWORK
        from ADAttributionLogic.resources import resources_folder
        files = [ADAttributionLib.__file__, ADAttributionLogic.__file__, SMALL_NETWORK / "model.json"]
        files += [folder / "weights.safetensors" for folder in bundledPackages()]
        files += [resources_folder() / "Atlases" / "aal116-labels.tsv"]
        files += [source["thumbnailFileName"] for source in sampleSources(print)]
        for file in files:
            print(Path(file).resolve(strict=True))
    """
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert len(paths) == 7 and all(installed.resolve() in path.parents for path in paths), paths


def test_a_listed_file_that_is_missing_stops_cmake(tmp_path: Path) -> None:
    for name in tracked():
        if name.startswith(("ADAttribution/", "CMakeLists.txt", "README", "LICENSE")):
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    done = configure(tmp_path / "source", tmp_path / "build", tmp_path / "installed")
    assert done.returncode != 0 and "there is no file ADAttributionLogic/__init__.py" in done.stderr


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
