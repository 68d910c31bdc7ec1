"""The rules of Slicer's Extensions Index, as facts (its checker of August 2026), on what this repository would hand in.

What its checker asks the network (the topic ``3d-slicer-extension``, that pictures download) can only be seen once the
repository is public; here the addresses are compared with the files that they name.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY_FILE = ROOT / "ADAttribution" / "ADAttribution.json"
CMAKE_FILE = ROOT / "CMakeLists.txt"

SCHEMA_ADDRESS = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
)
TEXT = {"type": "string"}
#: What version 1.0.2 of the entry's schema says.
SCHEMA = {
    "type": "object",
    "required": ["$schema", "category", "scm_url"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": SCHEMA_ADDRESS},
        "category": TEXT,
        "scm_url": TEXT,
        "scm_revision": TEXT,
        "scm_type": {"enum": ["git", "local"]},
        "build_dependencies": {"type": "array", "items": TEXT},
        "dicom_support_rule": TEXT,
        "build_subdirectory": TEXT,
        "enabled": {"type": "boolean"},
        "tier": {"type": "integer", "minimum": 1, "maximum": 5},
    },
}
#: Those of the accepted categories that could be ours.
CATEGORIES = {"Analysis", "Informatics", "Neuroimaging", "Quantification"}
LICENCE_FILES = ("LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt")
MOST_MEGABYTES = 100
PATENTS = ("WO2016/150472", "EP3271863B1", "12,061,966")


def entry() -> dict[str, object]:
    document: dict[str, object] = json.loads(ENTRY_FILE.read_text(encoding="utf-8"))
    return document


def variable(name: str) -> str:
    """An EXTENSION_ variable, found by the checker's own kind of pattern: on one line, in quotes."""
    (found,) = re.findall(rf'set\s*\(EXTENSION_{name}\s*"([^"]+)"[ ]*\)', CMAKE_FILE.read_text(encoding="utf-8"))
    return str(found)


def test_the_entry_is_as_the_schema_says() -> None:
    jsonschema.validate(entry(), SCHEMA)
    content = ENTRY_FILE.read_bytes()
    assert b"\r" not in content and content.endswith(b"\n")


@pytest.mark.parametrize("damage", [{"category": None}, {"unknown": 1}, {"tier": 6}])
def test_the_schema_refuses_what_the_index_refuses(damage: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(entry() | damage, SCHEMA)


def test_names() -> None:
    """The repository's name begins with Slicer, the extension's does not, and the project is called as the entry."""
    name = ENTRY_FILE.stem
    assert not name.lower().startswith("slicer")
    address = str(entry()["scm_url"])
    assert address.startswith("https://github.com/") and address.endswith("/SlicerADAttribution.git")
    projects = re.findall(r"project\s*\(\s*([^\s\)\n\r]+)", CMAKE_FILE.read_text(encoding="utf-8"), re.IGNORECASE)
    assert projects == [name]
    assert entry()["category"] in CATEGORIES


def test_the_entry_agrees_with_the_projects_own_metadata() -> None:
    assert entry()["build_dependencies"] == variable("DEPENDS").split()
    assert entry()["scm_url"] == f"{variable('HOMEPAGE')}.git"
    module = (ROOT / "ADAttribution" / "ADAttribution.py").read_text(encoding="utf-8")
    assert f'"{entry()["category"]}"' in module, "the module stands in the same category"


@pytest.mark.parametrize("name", ["ICONURL", "SCREENSHOTURLS"])
def test_pictures_are_raw_addresses_of_files_of_this_repository(name: str) -> None:
    raw = variable("HOMEPAGE").replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    for address in variable(name).split():
        assert address.startswith(raw) and address.endswith((".png", ".jpg", ".gif"))
        assert (ROOT / address.removeprefix(raw)).is_file(), address


def test_the_description_is_short_plain_and_names_the_known_patents() -> None:
    text = variable("DESCRIPTION")
    assert all(number in text for number in PATENTS)
    assert "not for clinical use" in text and ";" not in text, "a semicolon would split it in CMake"
    assert text.count(". ") <= 4


@pytest.mark.parametrize("file", ["README.md", "ADAttribution/ADAttribution.py"])
def test_the_patents_are_named_where_people_look(file: str) -> None:
    text = " ".join((ROOT / file).read_text(encoding="utf-8").replace('"', " ").split())
    assert all(number in text for number in PATENTS)


def test_keywords_are_words_separated_by_spaces() -> None:
    words = variable("KEYWORDS").split()
    assert len(words) == len(set(words)) >= 8 and all(re.fullmatch(r"[\w-]+", word) for word in words)


def test_a_licence_file_stands_in_the_root() -> None:
    (file,) = [ROOT / name for name in LICENCE_FILES if (ROOT / name).is_file()]
    assert "BSD 3-Clause" in file.read_text(encoding="utf-8")


def test_the_repository_is_small_enough() -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in names.split("\0") if name]
    assert sum(f.stat().st_size for f in files if f.is_file()) < MOST_MEGABYTES * 2**20 / 2, "history needs room too"


def test_the_homepage_has_what_the_index_asks_for() -> None:
    """Name, description, pictures, each module in a sentence, tutorial, publications, how to cite, licence."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = ("# ADAttribution", "### Tutorial", "## Sources", "## How to cite", "## Licence", "### Third parties")
    for heading in headings:
        assert f"\n{heading}\n" in f"\n{text}", heading
    assert len(re.findall(r"!\[[^\]]+\]\(Resources/Screenshots/", text)) >= 2
    assert "**AD Attribution**" in text and "doi:" in text and "BSD 3-Clause" in text
    for name in re.findall(r"\]\((Resources/[^)]+)\)", text):
        assert (ROOT / name).is_file(), name
