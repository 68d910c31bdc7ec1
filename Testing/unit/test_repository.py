"""The house rules: what is where, who imports whom, and that the README tells the truth."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from ADAttributionLogic.commands.licences import used_packages

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
    "tracing": {"tracing", "graph"},
    "incremental": {"incremental", "graph"},
    "propagation": {"propagation", "graph"},
    "architectures": {"architectures"},
    "networks": {"networks", "architectures", "tracing", "graph", "preprocessing", "store"},
    "attribution": {"attribution", "propagation", "tracing", "graph", "networks"},
    "occlusion": {"occlusion", "attribution", "tracing", "graph", "incremental", "networks"},
    "atlas": {"atlas"},
    "relevance": {"relevance", "atlas"},
    "ensembles": {"ensembles", "attribution", "propagation", "relevance"},
    "checks": {"checks", "attribution", "occlusion", "propagation", "graph", "incremental", "networks", "relevance"},
    "registration": {"registration"},
    "preprocessing": {"preprocessing", "registration"},
    "training_data": {"training_data", "registration", "preprocessing", "cohort", "atlas"},
    "reading": {"reading"},
    "dicom_export": {"dicom_export", "reading", "atlas", "relevance", "service", "report"},
    "comparison": {"comparison", "reference", "relevance", "atlas"},
    "simulation": {"simulation", "atlas"},
    "truth": {"truth", "simulation", "attribution", "architectures", "networks", "relevance"},
    "whatif": {"whatif", "attribution", "occlusion", "graph", "incremental", "networks", "atlas", "preprocessing"}
    | {"registration", "reference"},
    "cohort": {"cohort", "report", "relevance"},
    "engines": {"engines"},
    "runs": {"runs"},
    "bids": {"bids", "batch", "cohort", "atlas", "attribution", "networks", "page", "reference", "relevance"}
    | {"report", "study"},
    "page": {"page", "checks", "networks", "relevance", "report", "service"},
    "study_figures": {"study_figures", "atlas", "report"},
    "study": {"study", "study_figures", "engines", "cohort", "comparison", "relevance", "report", "atlas"}
    | {"registration"},
    "robustness": {"robustness", "study", "study_figures", "comparison", "cohort", "attribution", "architectures"}
    | {"graph", "networks", "relevance", "atlas", "report"},
    "reference": {"reference", "batch", "cohort", "relevance", "atlas", "attribution", "networks", "preprocessing"}
    | {"report"},
    "batch": {"batch", "cohort", "engines", "runs", "atlas", "attribution", "checks", "comparison", "networks", "page"}
    | {"preprocessing", "reference", "report", "tracing"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_not_reach_into_other_rooms(room: str) -> None:
    """A scan flows one way; only explain, report, training and the command line see several rooms."""
    for path in (LOGIC / room).glob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "ADAttributionLogic" and len(parts) > 1 and (LOGIC / parts[1]).is_dir():
                assert parts[1] in ROOMS[room], f"{path.name} imports {name}"


def test_every_room_says_what_lives_there() -> None:
    for room in LOGIC.glob("*/__init__.py"):
        assert ast.get_docstring(ast.parse(room.read_text(encoding="utf-8"))), room


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
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)


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
        "checks",
        "overview.png",
        "report.html",
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
    shipped = tuple(f"Resources/{name}/" for name in ("Atlases", "Models", "References", "Report"))
    expected |= {f.replace("Resources", "ADAttributionResources", 1) for f in tracked if f.startswith(shipped)}
    assert names == {f for f in expected if not f.endswith("CMakeLists.txt")}


@pytest.mark.slow
def test_the_wheel_explains_outside_of_the_clone(
    small_scan_file: Path, small_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed from the wheel, in a folder that knows nothing of this repository."""
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "installed"), str(wheel)], check=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    (tmp_path / "elsewhere").mkdir()

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=tmp_path / "elsewhere", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import ADAttributionLogic, ADAttributionLib; print(ADAttributionLogic.__file__)")
    assert where.startswith(str(tmp_path))
    assert "simulated-atrophy" in run("-m", "ADAttributionLogic.cli", "models"), "the resources are there"
    command = ["explain", str(small_scan_file), "--model", str(small_package), "--method", "lrp", "--out", "result"]
    assert "Results: result" in run("-m", "ADAttributionLogic.cli", *command)
    record = json.loads((tmp_path / "elsewhere" / "result" / "provenance.json").read_text(encoding="utf-8"))
    assert len(record["software"]["code_sha256"]) == 64 and record["software"]["scipy"]
    assert (tmp_path / "elsewhere" / "result" / "scene.mrb").is_file()


def test_every_dependency_has_a_tested_version() -> None:
    """The constraints file names each, within the bounds that pyproject.toml gives."""
    from packaging.requirements import Requirement

    lines = (ROOT / "Testing" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(r for name in extras for r in extras[name])]:
        needed = Requirement(text)
        if needed.name != "antspyx":  # too large for the tests
            assert needed.specifier.contains(tested[needed.name.lower().replace("_", "-")]), text


def test_the_licences_of_all_that_is_used_are_listed() -> None:
    found = {name.lower(): (version, licence) for name, version, licence in used_packages()}
    assert found["ad-attribution"][1] == "BSD-3-Clause" and "BSD" in found["torch"][1]
    assert {"numpy", "nibabel", "simpleitk", "safetensors", "sympy"} <= set(found), "and theirs"
    assert all(version and licence for version, licence in found.values())


def test_continuous_integration_makes_a_bill_of_materials() -> None:
    assert re.search(r"^make sbom$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert "Report a vulnerability" in (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")
