"""Lists of names, groupings, checkpoints and exchanged answers that are damaged, huge or made to hang the reader."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ADAttributionLogic.atlas.atlas import MAX_LABEL, MAX_REGIONS, build_atlas
from ADAttributionLogic.atlas.library import load_grouping
from ADAttributionLogic.atlas.region_names import MAX_BYTES, read_region_names
from ADAttributionLogic.errors import ADAttributionError, AtlasError, ScanError, UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.occlusion.checkpoint import Checkpoint
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.service.answer import load_answer, load_array, load_atlas_entry, load_report, load_volume
from ADAttributionLogic.volume import Volume

# -------------------------------------------------------------------------------------------------------- region names


@pytest.mark.parametrize(
    "unit",
    ["\n", " \n", "\t", " ", "1 ", "1 a ", '" ', '1 1 1 1 1 1 1 "', "#\n", "<", "1 Left 1 1 1 \n", "9", ",", "<label>"],
)
def test_no_list_of_names_takes_more_than_linear_time(tmp_path: Path, unit: str) -> None:
    """Half a megabyte of what patterns over the whole text took hours for."""
    path = tmp_path / "names.txt"
    for start in ("", "1 2 3\n"):
        path.write_text(start + unit * (500_000 // len(unit)), encoding="utf-8")
        began = time.process_time()
        with pytest.raises(AtlasError):
            read_region_names(path)
        assert time.process_time() - began < 5
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("number", ["9" * 5000, "²", "٣", "1e3", "-4", "0x10", "1_000", "nan", "12345678901"])
def test_what_is_no_label_is_no_label(tmp_path: Path, number: str) -> None:
    texts = {
        "a.csv": f"index,name\n{number},Hippocampus\n",
        "a.lut": f"{number} Hippocampus 1 2 3 0\n",
        "a.label": f'{number} 1 2 3 1 1 1 "Hippocampus"\n',
        "a.xml": f"<atlas><label><index>{number}</index><name>Hippocampus</name></label></atlas>",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(AtlasError):
            read_region_names(tmp_path / name)


def test_labels_and_colours_out_of_range_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"index,name\n{MAX_LABEL + 1},Hippocampus\n", encoding="utf-8")
    with pytest.raises(AtlasError, match=f"the label {MAX_LABEL + 1}; the largest"):
        read_region_names(path)
    path.write_text("5 Hippocampus 300 0 0 0\n", encoding="utf-8")
    with pytest.raises(AtlasError, match=r"colour \(300, 0, 0\)"):
        read_region_names(path)


def test_utf_7_hides_no_entities(tmp_path: Path) -> None:
    """A declared encoding would turn +ADwAIQ- into <! after the file was searched for it."""
    hidden = '<!DOCTYPE a [<!ENTITY e "x">]>'.replace("<!", "+ADwAIQ-")
    assert hidden.encode().decode("utf-7").startswith("<!DOCTYPE")
    path = tmp_path / "a.xml"
    path.write_text(f'<?xml version="1.0" encoding="utf-7"?>{hidden}<atlas>&e;</atlas>')
    with pytest.raises(AtlasError, match="not valid XML"):
        read_region_names(path)
    path.write_text(
        '<?xml version="1.0" encoding="utf-16"?><atlas><label><index>3</index><name>A</name></label></atlas>'
    )
    assert read_region_names(path).names == {3: "A"}, "read as the text that it is"


def test_a_label_map_of_a_million_pieces_is_no_atlas() -> None:
    grid = np.eye(4)
    with pytest.raises(AtlasError, match=rf"has 1000000 different labels; an atlas has at most {MAX_REGIONS}"):
        build_atlas("a", Volume(np.arange(1_000_001, dtype=np.int32)[1:].reshape(100, 100, 100), grid), {})
    large = np.zeros((4, 5, 6), np.int32)
    large[0, 0, 0] = 2_000_000_000
    began = time.process_time()
    with pytest.raises(AtlasError, match=rf"has the label 2000000000; the largest that is read is {MAX_LABEL}"):
        build_atlas("a", Volume(large, grid), {})
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        {"groups": 3},
        {"groups": [3]},
        {"groups": [[]]},
        {"groups": [{}]},
        {"groups": [{"name": 5}]},
        {"groups": [{"name": "a", "left": 3}]},
        {"groups": [{"name": "a", "left": ["3"]}]},
        {"groups": [{"name": "a", "left": [2.5]}]},
        {"groups": [{"name": "a", "left": [True]}]},
        {"groups": [{"name": "a", "left": [-1]}]},
        {"groups": [{"name": "a", "left": [2**40]}]},
    ],
)
def test_groupings_of_other_types_are_refused(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "g.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(AtlasError, match="is not a grouping"):
        load_grouping(str(path))
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(AtlasError, match="is not a grouping"):
        load_grouping(str(path))


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    found = Checkpoint(tmp_path / "c.npz", {"image": "a", "network": "b"})
    found.save(np.linspace(0, 1, 300))
    return found


def test_a_flipped_bit_in_a_checkpoint_never_becomes_a_value(checkpoint: Checkpoint) -> None:
    whole = checkpoint.path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole) * 8, 150):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        checkpoint.path.write_bytes(damaged)
        try:
            found = checkpoint.load(300)
        except UsageError:
            continue
        np.testing.assert_array_equal(found, np.linspace(0, 1, 300))


@pytest.mark.parametrize(
    "arrays",
    [
        {"values": np.zeros(300)},
        {"identity": np.array("[]"), "values": np.zeros(300)},
        {"identity": np.array("{}"), "values": np.zeros(300)},
        {"identity": np.array('{"image": 3}'), "values": np.zeros(300)},
        {"identity": np.array(3), "values": np.zeros(300)},
        {"identity": np.array("[" * 100_000), "values": np.zeros(300)},
        {"identity": np.array('{"image": "a", "network": "b"}'), "values": np.zeros(300, np.complex128)},
        {"identity": np.array('{"image": "a", "network": "b"}'), "values": np.full(300, np.inf)},
        {"identity": np.array('{"image": "a", "network": "b"}'), "values": np.zeros((300, 1))},
        {"identity": np.array('{"image": "a", "network": "b"}'), "values": np.array(["x"] * 300)},
    ],
)
def test_checkpoints_of_other_types_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(UsageError, match="checkpoint"):
        Checkpoint(tmp_path / "c.npz", {"image": "a", "network": "b"}).load(300)


def test_a_checkpoint_that_claims_more_than_it_holds_takes_no_memory(checkpoint: Checkpoint) -> None:
    with zipfile.ZipFile(checkpoint.path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["values.npy"] = parts["values.npy"].replace(b"(300,)", b"(99999999999,)"[:14])
    with zipfile.ZipFile(checkpoint.path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(UsageError, match="checkpoint"):
        checkpoint.load(300)
    np.savez_compressed(checkpoint.path, identity=np.array("{}"), values=np.zeros(10_000_000))
    with pytest.raises(UsageError, match="compressed"):
        checkpoint.load(300)


# ---------------------------------------------------------------------------------------------------- exchanged answers


@pytest.fixture
def answer(tmp_path: Path) -> dict[str, Any]:
    np.save(tmp_path / "scan.npy", np.ones((3, 4, 5), np.float32))
    np.save(tmp_path / "labels.npy", np.ones((3, 4, 5), np.int32))
    volume = {"file": "scan.npy", "affine": np.eye(4).tolist(), "source": "a", "notes": []}
    region = {"label": 1, "name": "A", "hemisphere": "left", "group": "", "members": [1], "colour": [1, 2, 3]}
    return {
        "probabilities": {"CN": 0.25, "AD": 0.75},
        "target_class": "AD",
        "scan": volume,
        "maps": [{"name": "l", "method": "l", "title": "L", "volume": volume, "table": None, "summary": {}}],
        "atlas": {
            "labels": {**volume, "file": "labels.npy"},
            "name": "a",
            "title": "",
            "licence": "",
            "source": "",
            "regions": [region],
        },
        "provenance": {},
        "preparation": None,
        "consensus": [],
    }


def everywhere(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            found += everywhere(document[key], (*path, key))
    return found


def test_an_answer_of_other_types_is_an_error_wherever_they_stand(answer: dict[str, Any], tmp_path: Path) -> None:
    load_answer(answer, tmp_path)
    refused = tried = 0
    for spot in (spot for spot in everywhere(answer) if "affine" not in spot[:-1]):
        for wrong in (None, -1, "../scan.npy", [[None]]):
            document = json.loads(json.dumps(answer))
            place = document
            for key in spot[:-1]:
                place = place[key]
            place[spot[-1]] = wrong
            tried += 1
            try:
                load_answer(document, tmp_path)
            except ADAttributionError:
                refused += 1
    assert refused > 0.6 * tried, "the others are texts, affines and numbers of the right type"


def test_a_message_says_where_an_answer_is_wrong(answer: dict[str, Any], tmp_path: Path) -> None:
    answer["maps"][0]["volume"] = {**answer["scan"], "affine": [[1, 2], [3, 4]]}
    with pytest.raises(UsageError, match="at maps/0/volume/affine"):
        load_answer(answer, tmp_path)
    for kind in (load_volume, load_atlas_entry, load_report):
        with pytest.raises(UsageError, match="is not as this version"):
            kind({}, tmp_path)


def test_arrays_are_plain_files_of_the_folder(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("pipe.npy", "missing.npy", "../x.npy", "/dev/zero", "\0", "."):
        with pytest.raises(UsageError):
            load_array(tmp_path, name)
    np.save(tmp_path / "a.npy", np.zeros(10))
    data = (tmp_path / "a.npy").read_bytes()
    for damaged in (
        data[:-1],
        data[:60],
        b"",
        data.replace(b"(10,)", b"(9**9,)"),
        data.replace(b"(10,), ", b"(10**9,)"),
    ):
        (tmp_path / "a.npy").write_bytes(damaged)
        with pytest.raises(UsageError, match="cannot be read"):
            load_array(tmp_path, "a.npy")


def test_labels_of_an_exchanged_atlas_are_labels(answer: dict[str, Any], tmp_path: Path) -> None:
    for array in (np.full((3, 4, 5), -1), np.full((3, 4, 5), 2**40), np.ones((3, 4, 5), np.float32)):
        np.save(tmp_path / "labels.npy", array)
        with pytest.raises(UsageError, match="whole numbers from 0"):
            load_answer(answer, tmp_path)


# ------------------------------------------------------------------------------------------------------------ outliers


def brain(outlier: float) -> Volume:
    array = np.random.default_rng(0).normal(500, 80, (20, 20, 20)).astype(np.float32)
    array[10, 10, 10] = outlier
    return Volume(array, np.eye(4), "scan")


@pytest.mark.parametrize("kind", ["min-max", "z-score"])
def test_one_voxel_that_flattens_the_brain_is_refused(kind: Any) -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    for outlier in (1e30, -1e30, 1e6):
        with pytest.raises(ScanError, match=r"1 voxels .* flattened.*winsorising"):
            prepare(brain(outlier), grid, Normalisation(kind))
    prepare(brain(1e30), grid, Normalisation("none"))


def test_one_voxel_that_darkens_the_brain_is_named() -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    notes = prepare(brain(5000), grid, Normalisation("min-max")).notes
    assert any("1 voxels (up to 5e+03) lie far beyond the others" in note for note in notes)
    assert not prepare(brain(900), grid, Normalisation("min-max")).notes
