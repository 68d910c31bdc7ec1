"""Network files made to do harm, or damaged: none is executed, none reads foreign memory, none is taken as whole."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import PublishedStyle
from torch import Tensor, nn

from ADAttributionLogic.architectures.catalogue import build_network
from ADAttributionLogic.errors import NetworkError, UnsafeFileError
from ADAttributionLogic.networks.archives import is_torchscript
from ADAttributionLogic.networks.exported_file import read_exported_network
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import file_sha256, load_package
from ADAttributionLogic.networks.state_dicts import read_state_dict

SHAPE = (20, 20, 20)

# -------------------------------------------------------------------------------------------------------- TorchScript


class Harmless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4)) + 1.5


#: What forward() does instead of adding 1.5: each of these wrote or read a file of the user, or could have.
HARM = {
    "from_file": "torch.from_file({path!r}, True, 4, dtype=6)",
    "alias": "f = torch.from_file\n  y = f({path!r}, True, 4, dtype=6)",
    "alias of torch": "t = torch\n  y = t.save(x, {path!r})",
    "getattr": 'y = getattr(torch, "save")(x, {path!r})',
    "save": "torch.save(x, {path!r})",
    "alias of save": "s = torch.save\n  s(x, {path!r})",
    "ops": "o = ops.aten\n  y = o.from_file({path!r}, True, 4)",
    "ops.prim": "ops.prim.save(x, {path!r})",
    "method": "x._save({path!r})",
    "unpickle": "torch.load({path!r})",
}


def with_code(source: Path, target: Path, change: Callable[[str], str], member: Callable[[str], str] = str) -> Path:
    """Rewrite the code of a TorchScript archive, and the names of its members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(".py"):
                data = change(data.decode()).encode()
            new.writestr(member(info.filename), data)
    return target


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scripted") / "net.pt"
    torch.jit.script(Harmless()).save(str(path))
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ts", ".pt2"])
@pytest.mark.parametrize("harm", HARM)
def test_torchscript_is_refused_without_being_loaded(torchscript: Path, tmp_path: Path, suffix: str, harm: str) -> None:
    victim = tmp_path / "notes.txt"
    victim.write_text("the user's own words", encoding="utf-8")
    line = HARM[harm].format(path=str(victim))
    crafted = with_code(torchscript, tmp_path / f"net{suffix}", lambda code: f"{code}\n  {line}\n")
    with pytest.raises(UnsafeFileError, match=r"(?s)is TorchScript.*torch\.export\.save"):
        load_model(crafted, shape=SHAPE)
    assert victim.read_text(encoding="utf-8") == "the user's own words"


@pytest.mark.parametrize(
    "member",
    [
        str.upper,
        lambda name: name.replace("/code/", "/CODE/"),
        lambda name: name.replace(".py", ".PY"),
        lambda name: name.replace("/", "\\"),
        lambda name: f"deeper/{name}",
    ],
)
def test_torchscript_is_recognised_however_its_members_are_spelt(
    torchscript: Path, tmp_path: Path, member: Callable[[str], str]
) -> None:
    crafted = with_code(torchscript, tmp_path / "net.pt", str, member)
    assert is_torchscript(crafted)
    with pytest.raises(UnsafeFileError):
        read_state_dict(crafted)


def test_torchscript_in_a_package_is_refused_and_its_owner_told_how_to_convert_it(
    torchscript: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.ts"
    path.write_bytes(torchscript.read_bytes())
    document = {
        "schema_version": 1,
        "name": "bundle",
        "title": "A bundle",
        "network": {"format": "torchscript"},
        "weights": {"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size},
        "grid": {"shape": list(SHAPE), "affine": None, "space": "none"},
        "normalisation": {"kind": "none"},
        "classes": ["CN", "AD"],
        "positive_class": 1,
        "training": {"data": "nothing"},
        "licence": "none",
        "intended_use": "testing",
    }
    (tmp_path / "model.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UnsafeFileError, match=r"(?s)load_state_dict\(torch\.jit\.load.*MONAI bundle"):
        load_package(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_the_advice_converts_a_torchscript_file(tmp_path: Path) -> None:
    """What the message tells the owner to do, done: the .pt2 gives what the TorchScript gave."""
    torch.manual_seed(0)
    original = PublishedStyle(3).eval()
    torch.jit.script(original).save(str(tmp_path / "net.pt"))
    network = PublishedStyle(3)
    network.load_state_dict(torch.jit.load(tmp_path / "net.pt", map_location="cpu").state_dict())
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(1, 1, *SHAPE),)), tmp_path / "network.pt2")
    x = torch.randn(1, 1, *SHAPE)
    torch.testing.assert_close(read_exported_network(tmp_path / "network.pt2")(x), original(x))


# -------------------------------------------------------------------------------------------------------- state dicts


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.manual_seed(0)
    torch.save({"a.weight": torch.randn(40, 30), "a.bias": torch.randn(40)}, path)
    return path


def test_a_flipped_bit_in_a_state_dict_is_never_accepted_as_other_weights(weights: Path, tmp_path: Path) -> None:
    """In the padding between members it changes nothing; anywhere else the file is refused."""
    whole, expected = weights.read_bytes(), read_state_dict(weights)
    accepted = 0
    for place in np.random.default_rng(0).integers(0, len(whole) * 8, 150):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        (tmp_path / "w.pt").write_bytes(damaged)
        try:
            found = read_state_dict(tmp_path / "w.pt")
        except NetworkError:
            continue
        accepted += 1
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
    assert accepted < 60


def test_a_damaged_member_is_named(weights: Path, tmp_path: Path) -> None:
    whole = bytearray(weights.read_bytes())
    with zipfile.ZipFile(weights) as archive:
        data = next(i for i in archive.infolist() if i.filename.endswith("data/0"))
    start = whole.find(archive_bytes := torch.load(weights)["a.weight"].numpy().tobytes())
    assert start > 0 and len(archive_bytes) == data.file_size
    whole[start + 100] ^= 4
    (tmp_path / "w.pt").write_bytes(whole)
    with pytest.raises(NetworkError, match=r"checksum of .*data/0 does not fit"):
        read_state_dict(tmp_path / "w.pt")


def test_a_tensor_that_claims_more_than_the_file_holds_reads_no_foreign_memory(tmp_path: Path) -> None:
    """PyTorch makes a storage of the size that the pickle claims, not of the record's."""
    torch.save({"w": torch.ones(7)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_STORED) as new,
    ):
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("data.pkl"):
                # K\x07 is the integer 7: the storage's size, and the tensor's.
                assert data.count(b"K\x07") == 2
                data = data.replace(b"K\x07", b"J" + (100_000_000).to_bytes(4, "little"))
            new.writestr(info.filename, data)
    with pytest.raises(NetworkError, match=r"b\.pt"):
        read_state_dict(tmp_path / "b.pt")


def test_state_dicts_of_pytorch_before_1_6_are_still_read(tmp_path: Path) -> None:
    """Their files, in which the networks of the publications were saved, have no checksums."""
    state = build_network("boehle2019", (121, 145, 121)).state_dict()
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    found = read_state_dict(tmp_path / "old.pt")
    assert all(torch.equal(found[k], state[k]) for k in state)
    cut = (tmp_path / "old.pt").read_bytes()[:-1000]
    (tmp_path / "cut.pt").write_bytes(cut)
    with pytest.raises(NetworkError, match="cannot be read as weights"):
        read_state_dict(tmp_path / "cut.pt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update({"dense_1.weight": torch.ones(5)}), "needs a matrix"),
        (lambda s: s.update({"dense_1.weight": torch.tensor(3.0)}), "needs a matrix"),
        (lambda s: s.update({"dense_1.weight": torch.ones(2, 2, 2, 2)}), "needs a matrix"),
        (lambda s: s.update({"dense_1.weight": s["dense_1.weight"].to_sparse()}), "sparse"),
        (lambda s: s.update({"dense_1.weight": torch.ones(1).expand(10**6, 10**6)}), "fewer numbers"),
        (lambda s: s.update({"Conv_1.weight": torch.ones(8, 1, 3)}), "needs"),
        (lambda s: s.update({7: torch.ones(1)}), "no state dict"),
        (lambda s: s.update({"dense_1.weight": [1.0, 2.0]}), "no state dict"),
    ],
)
def test_tensors_of_other_ranks_and_kinds_are_named(
    tmp_path: Path, change: Callable[[dict[Any, Any]], None], reason: str
) -> None:
    state: dict[Any, Any] = dict(build_network("rieke2018", (96, 112, 96)).state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=reason):
        load_model(tmp_path / "w.pt")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('written', 'w')",))


def test_pickles_are_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Harmful()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Harmful()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(NetworkError):
            load_model(tmp_path / name)
    assert not (tmp_path / "written").exists()


# ---------------------------------------------------------------------------------------------------- exported files


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    torch.manual_seed(0)
    torch.export.save(torch.export.export(PublishedStyle(3).eval(), (torch.zeros(1, 1, *SHAPE),)), path)
    return path


def rewritten(source: Path, target: Path, name: Callable[[str], str] = str, **options: Any) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for info in old.infolist():
            new.writestr(name(info.filename), old.read(info))
    return target


def test_archives_that_pytorch_would_not_write_are_refused(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.pt2"
    read_exported_network(rewritten(exported, target))
    with pytest.raises(NetworkError, match="is compressed"):
        read_exported_network(rewritten(exported, target, compression=zipfile.ZIP_DEFLATED))
    for name in ("../weights", "/etc/passwd", "a\\..\\b", "C:/b", "a//b"):
        with zipfile.ZipFile(rewritten(exported, target), "a") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(UnsafeFileError, match="leads elsewhere"):
            read_exported_network(target)
    with zipfile.ZipFile(exported) as archive:
        first = archive.namelist()[0]
    with zipfile.ZipFile(rewritten(exported, target), "a") as archive:
        archive.writestr(first.upper(), b"x")
    with pytest.raises(NetworkError, match="two members"):
        read_exported_network(target)


def test_a_compression_bomb_is_refused_before_it_grows(exported: Path, tmp_path: Path) -> None:
    target = rewritten(exported, tmp_path / "net.pt2")
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/weights/bomb", bytes(50_000_000))
    assert target.stat().st_size < 10_000_000
    with pytest.raises(NetworkError, match="is compressed"):
        read_exported_network(target)


def test_a_weight_that_repeats_a_few_numbers_is_not_made_large(exported: Path, tmp_path: Path) -> None:
    """A stride of 0 made 8.5 GB of a few bytes."""

    def grow(table: Any) -> None:
        entry = next(iter(table["config"].values()))["tensor_meta"]
        entry["sizes"], entry["strides"] = [{"as_int": 2**31}, {"as_int": 1}], [{"as_int": 0}, {"as_int": 0}]

    target = edited(exported, tmp_path / "net.pt2", "data/weights/model_weights_config.json", grow)
    with pytest.raises(NetworkError, match="has only"):
        read_exported_network(target)


def edited(source: Path, target: Path, member: str, change: Callable[[Any], Any]) -> Path:
    """Rewrite one JSON member of an archive."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(member):
                document = json.loads(data)
                change(document)
                data = json.dumps(document).encode()
            new.writestr(info.filename, data)
    return target


WRONG = [None, True, 3, -1, 2.5, 10**30, "text", [], {}, [None], {"as_int": "x"}, [[[]]]]


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    found = [path] if path else []
    if isinstance(document, dict | list):
        for key, value in entries if document else ():
            found += places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
    return found


def test_json_of_other_types_is_an_error_wherever_it_stands(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        document = json.loads(archive.read(name))
    spots = [p for p in places(document) if "metadata" not in p and {"nodes", "input_specs", "output_specs"} & set(p)]
    chosen = np.random.default_rng(0).choice(len(spots), 150, replace=False)
    refused = 0
    for number, spot in enumerate(chosen):
        wrong = WRONG[number % len(WRONG)]

        def change(found: Any, spot: tuple[Any, ...] = spots[spot], wrong: Any = wrong) -> None:
            for key in spot[:-1]:
                found = found[key]
            found[spot[-1]] = wrong

        try:
            read_exported_network(edited(exported, tmp_path / "net.pt2", "models/model.json", change))
        except NetworkError:
            refused += 1
    assert refused > 75, "the others were fields that nothing depends on, or values of the right type"


def test_deep_json_is_an_error(exported: Path, tmp_path: Path) -> None:
    target, deep = tmp_path / "net.pt2", b"[" * 200_000
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, deep if info.filename.endswith("models/model.json") else old.read(info))
    with pytest.raises(NetworkError, match="damaged"):
        read_exported_network(target)


def test_flipped_bits_in_an_exported_file_change_no_weight(exported: Path, tmp_path: Path) -> None:
    whole, network = exported.read_bytes(), read_exported_network(exported)
    expected = torch.cat([b.flatten().double() for b in network.buffers()])
    for place in np.random.default_rng(1).integers(0, len(whole) * 8, 80):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        (tmp_path / "n.pt2").write_bytes(damaged)
        try:
            found = read_exported_network(tmp_path / "n.pt2")
        except NetworkError:
            continue
        assert torch.equal(torch.cat([b.flatten().double() for b in found.buffers()]), expected)
        assert [c.name for c in found.calls] == [c.name for c in network.calls]


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    for content in (b"PK\x05\x06" + bytes(18), b"PK no archive", io.BytesIO().getvalue(), bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(NetworkError):
            read_exported_network(path)
