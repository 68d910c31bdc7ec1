"""The house rules: what is where, who imports whom, and that the README tells the truth."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOGIC = ROOT / "ADAttributionLogic"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", sorted(LOGIC.rglob("*.py")), ids=lambda p: str(p.relative_to(LOGIC)))
def test_the_logic_layer_knows_no_slicer(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"slicer", "qt", "ctk", "vtk", "ADAttributionLib"}


#: Which rooms a room may look into.
ROOMS = {
    "graph": {"graph"},
    "networks": {"networks", "graph", "preprocessing", "store"},
    "attribution": {"attribution", "graph", "networks"},
    "atlas": {"atlas"},
    "relevance": {"relevance", "atlas"},
    "ensembles": {"ensembles", "attribution", "relevance"},
    "preprocessing": {"preprocessing"},
    "reading": {"reading"},
    "simulation": {"simulation", "atlas"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_not_reach_into_other_rooms(room: str) -> None:
    """A scan flows one way; only explain, report, training and the command line see several rooms."""
    for path in (LOGIC / room).glob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "ADAttributionLogic" and len(parts) > 1 and (LOGIC / parts[1]).is_dir():
                assert parts[1] in ROOMS[room], f"{path.name} imports {name}"


def test_importing_the_logic_layer_is_light() -> None:
    code = "import sys, ADAttributionLogic.cli as _; print(*(m in sys.modules for m in ('torch', 'SimpleITK')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]


def test_no_file_is_called_by_what_it_is_not() -> None:
    for path in ROOT.rglob("*.py"):
        if ".venv" not in str(path):
            assert path.stem not in {"utils", "util", "common", "helpers", "helper", "misc", "manager"}, path


# --------------------------------------------------------------------------------------------------------------- README


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readmes_picture_and_files_exist() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).is_file(), link
    assert "not for clinical use" in README.lower()


def test_the_readmes_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_the_readmes_commands_and_python_run_as_they_stand(tmp_path: Path) -> None:
    """The command line section and the ten lines of Python, one after the other, at full size."""
    (commands,) = [block for block in code_blocks("sh") if "ad-attribution explain" in block]
    for command in commands.replace("\\\n", " ").splitlines():
        words = shlex.split(command, comments=True)
        assert words[0] == "ad-attribution"
        done = subprocess.run(
            [sys.executable, "-m", "ADAttributionLogic.cli", *words[1:]], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "result").iterdir()} == {
        "heatmaps",
        "tables",
        "overview.png",
        "scene.mrb",
        "provenance.json",
    }
    (script,) = code_blocks("python")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Hippocampus" in done.stdout, "the demonstration network looks at the hippocampus"


# ------------------------------------------------------------------------------------------------------------ packaging


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    """What is in the repository's packages and resources is in the wheel; nothing else is."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info" not in n}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    expected = {f for f in tracked if f.startswith("ADAttributionLogic/")}
    expected |= {f.removeprefix("ADAttribution/") for f in tracked if f.startswith("ADAttribution/ADAttributionLib/")}
    shipped = ("Resources/Atlases/", "Resources/Models/")
    expected |= {f.replace("Resources", "ADAttributionResources", 1) for f in tracked if f.startswith(shipped)}
    assert names == {f for f in expected if not f.endswith("CMakeLists.txt")}
