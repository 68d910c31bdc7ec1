"""Networks: the published architectures, their authors' files, exported files, packages, and what is refused."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_networks import PublishedStyle
from torch import Tensor, nn

from ADAttributionLogic.architectures.catalogue import (
    ARCHITECTURES,
    COMMON_SHAPES,
    build_network,
    count_parameters,
    initialise,
)
from ADAttributionLogic.errors import (
    GridMismatchError,
    NetworkError,
    OutputError,
    UnknownNameError,
    UnsafeFileError,
    UnsupportedOperationError,
)
from ADAttributionLogic.networks.exported_file import read_exported_network
from ADAttributionLogic.networks.loading import load_model, model_from_module
from ADAttributionLogic.networks.packages import available_models, load_package, read_card, save_package
from ADAttributionLogic.networks.state_dicts import identify, network_from_state_dict, read_state_dict, unwrap
from ADAttributionLogic.preprocessing.normalisation import Normalisation

SMALL = (78, 78, 78)

# ------------------------------------------------------------------------------------------------------ architectures


def test_parameter_counts_of_the_publications() -> None:
    full = (193, 229, 193)
    assert count_parameters(build_network("rieke2018", full)) == 737_026
    assert count_parameters(build_network("boehle2019", full)) == 728_898


def test_korolevs_networks_are_those_of_their_authors_code() -> None:
    """Counted by hand, layer by layer, for 110×110×110: weights, biases, and two figures per normalised channel."""

    def convolution(before: int, after: int) -> int:
        return 27 * before * after + after

    def dense(before: int, after: int) -> int:
        return before * after + after

    pairs = [(1, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    vgg = sum(convolution(*pair) for pair in pairs) + dense(64, 128) + 2 * 128 + dense(128, 64) + dense(64, 2)
    assert count_parameters(build_network("korolev2017-vgg", (110, 110, 110))) == vgg
    block = {c: 2 * convolution(c, c) + 2 * 2 * c for c in (64, 128)}
    stem = convolution(1, 32) + convolution(32, 32) + 2 * 2 * 32 + convolution(32, 64)
    middle = 4 * block[64] + 2 * 2 * 64 + convolution(64, 64) + convolution(64, 128)
    resnet = stem + middle + 2 * block[128] + dense(1024, 128) + dense(128, 2)
    assert count_parameters(build_network("korolev2017-resnet", (110, 110, 110))) == resnet
    assert ARCHITECTURES["korolev2017-vgg"].flattened_size((193, 229, 193)) == 20736
    assert ARCHITECTURES["korolev2017-resnet"].flattened_size((193, 229, 193)) == 4608


def test_networks_that_average_their_maps_fit_every_grid() -> None:
    for name, features in (("sfcn", 64), ("densenet121", 1024)):
        known = ARCHITECTURES[name]
        assert {known.flattened_size(shape) for shape in COMMON_SHAPES} == {features}
        assert network_from_state_dict(build_network(name, SMALL).state_dict(), SMALL)[1] is known


@pytest.mark.parametrize(
    ("shape", "size"), [((193, 229, 193), 5120), ((182, 218, 182), 2304), ((121, 145, 121), 512), ((96, 112, 96), 64)]
)
def test_flattened_sizes_of_the_grids_in_use(shape: tuple[int, int, int], size: int) -> None:
    for name in ("rieke2018", "boehle2019"):
        assert ARCHITECTURES[name].flattened_size(shape) == size
        assert shape in ARCHITECTURES[name].shapes_for(size) and shape in COMMON_SHAPES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_flattened_size_is_what_the_layers_give(name: str) -> None:
    shape = ARCHITECTURES[name].smallest_shape()
    for grid in (shape, tuple(n + 13 for n in shape)):
        network = build_network(name, grid)
        outputs = 2 if ARCHITECTURES[name].output == "softmax" else 1
        assert network(torch.zeros(1, 1, *grid)).shape == (1, outputs)
    with pytest.raises(GridMismatchError, match=f"needs? at least {'×'.join(map(str, shape))}"):
        build_network(name, tuple(n - 1 for n in shape))


def test_the_seeds_keys() -> None:
    keys = set(build_network("rieke2018", SMALL).state_dict())
    blocks = {
        f"Conv_{i}{part}"
        for i in range(1, 5)
        for part in (".weight", ".bias", "_bn.weight", "_bn.bias", "_bn.running_mean")
    }
    assert blocks <= keys and {"dense_1.weight", "dense_2.bias", "dense_3.weight"} <= keys
    assert len(keys) == 4 * 7 + 6


def test_initial_weights_depend_on_the_seed_only() -> None:
    one, two = build_network("boehle2019", SMALL), build_network("boehle2019", SMALL)
    initialise(one, 5)
    initialise(two, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# -------------------------------------------------------------------------------------------------------- state dicts


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("prefix", ["", "module.", "0.", "module.0."])
def test_state_dicts_of_the_seeds_load_key_for_key(tmp_path: Path, name: str, prefix: str) -> None:
    """Plain, from DataParallel, and from Sequential(network, Softmax), as the seeds' code saves them."""
    shape = ARCHITECTURES[name].smallest_shape()
    network = build_network(name, shape)
    torch.save({prefix + k: v for k, v in network.state_dict().items()}, tmp_path / "weights.pt")
    loaded, architecture, _ = network_from_state_dict(read_state_dict(tmp_path / "weights.pt"), shape)
    assert architecture.name == name
    assert all(torch.equal(network.state_dict()[k], v) for k, v in loaded.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_weights_inside_a_checkpoint_are_found(tmp_path: Path, key: str) -> None:
    torch.save({key: build_network("boehle2019", SMALL).state_dict(), "epoch": 7}, tmp_path / "c.pt")
    assert identify(read_state_dict(tmp_path / "c.pt")).name == "boehle2019"


def test_old_files_without_batch_counters_load(tmp_path: Path) -> None:
    state = build_network("rieke2018", SMALL).state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "w.pt")
    assert identify(read_state_dict(tmp_path / "w.pt")).name == "rieke2018"


def test_the_grid_is_found_from_the_weights(tmp_path: Path) -> None:
    state = build_network("boehle2019", (121, 145, 121)).state_dict()
    assert network_from_state_dict(state)[2] == (121, 145, 121)
    with pytest.raises(
        GridMismatchError,
        match=r"193×229×193 voxels to 5120 features, but these weights need 512\. Grids that fit: 121×145×121",
    ):
        network_from_state_dict(state, (193, 229, 193))
    with pytest.raises(GridMismatchError, match="none of the grids in common use"):
        network_from_state_dict(build_network("boehle2019", (300, 78, 78)).state_dict())


def test_foreign_weights_name_the_nearest_network(tmp_path: Path) -> None:
    state = build_network("boehle2019", SMALL).state_dict()
    state["dense_9.weight"] = state.pop("dense_2.weight")
    with pytest.raises(
        NetworkError,
        match=r"none of the known networks.*Nearest is boehle2019, with 2 keys.*dense_2\.weight, dense_9\.weight",
    ):
        identify(state)


def test_weights_of_a_wrong_shape_or_not_finite_are_refused() -> None:
    state = build_network("boehle2019", SMALL).state_dict()
    with pytest.raises(NetworkError, match=r"Conv_1\.weight has shape \(8, 1, 3, 3, 1\)"):
        network_from_state_dict({**state, "Conv_1.weight": state["Conv_1.weight"][..., :1]}, SMALL)
    with pytest.raises(NetworkError, match="NaN"):
        network_from_state_dict({**state, "Conv_1.bias": torch.full((8,), float("nan"))}, SMALL)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.path, "executed"))


@pytest.mark.parametrize("legacy", [False, True])
def test_files_that_need_unpickling_are_refused_with_the_reason(tmp_path: Path, legacy: bool) -> None:
    path, trace_of_execution = tmp_path / "model.pt", tmp_path / "executed"
    torch.save({"weights": Bomb(trace_of_execution)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeFileError, match=r"would execute code.*torch\.save\(network\.state_dict\(\)"):
        load_model(path)
    assert not trace_of_execution.exists()
    torch.save(build_network("boehle2019", SMALL), path)
    with pytest.raises(UnsafeFileError, match="Boehle2019"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(Bomb(trace_of_execution)))
    with pytest.raises(NetworkError):
        read_state_dict(path)
    assert not trace_of_execution.exists()


def test_broken_weight_files(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(NetworkError, match="do not exist"):
        read_state_dict(path)
    path.write_bytes(b"")
    with pytest.raises(NetworkError, match="empty"):
        read_state_dict(path)
    torch.save(build_network("boehle2019", SMALL).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(NetworkError, match="damaged"):
        read_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(NetworkError, match="no state dict"):
        read_state_dict(path)


def test_unwrapping_stops_at_the_networks_own_keys() -> None:
    assert set(unwrap({"module.0.a": torch.zeros(1), "module.0.b": torch.zeros(1)})) == {"a", "b"}
    assert set(unwrap({"module.a": torch.zeros(1), "b": torch.zeros(1)})) == {"module.a", "b"}


# ----------------------------------------------------------------------------------------------------- exported files


def export(network: nn.Module, x: Tensor, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, (x,), strict=False), path)
    return path


@pytest.fixture
def exported(tmp_path: Path) -> tuple[nn.Module, Tensor, Path]:
    torch.manual_seed(0)
    network, x = PublishedStyle(3).eval(), torch.randn(1, 1, 20, 20, 20)
    return network, x, export(network, x, tmp_path / "net.pt2")


def test_exported_networks_run_and_keep_their_layers(exported: tuple[nn.Module, Tensor, Path]) -> None:
    """LRP works on a .pt2 file, although nothing of it was executed to load it."""
    network, x, path = exported
    read = read_exported_network(path)
    torch.testing.assert_close(read(x), network(x))
    torch.testing.assert_close(read(torch.cat([x, 2 * x])), network(torch.cat([x, 2 * x])))
    model = load_model(path)
    assert model.network.graph is not None and model.shape == (20, 20, 20) and model.grid is None
    torch.testing.assert_close(model.network.graph.logits(x), network(x))


def test_exported_networks_with_other_operations_are_opaque(tmp_path: Path) -> None:
    class Gated(PublishedStyle):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.cumsum(2)) * 2

    network, x = Gated(3).eval(), torch.randn(1, 1, 20, 20, 20)
    model = load_model(export(network, x, tmp_path / "net.pt2"))
    assert model.network.graph is None and "cumsum" in model.network.why_opaque
    torch.testing.assert_close(model.network.module(x), network(x))


def rewrite(path: Path, changes: dict[str, object], target: Path) -> Path:
    """Copy an archive with some of its files replaced, removed (None) or edited (callable on the parsed JSON)."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for info in source.infolist():
            name = info.filename.split("/", 1)[1]
            data = source.read(info)
            change = changes.pop(name, data)
            if callable(change):
                document = json.loads(data)
                change(document)
                change = json.dumps(document).encode()
            if change is not None:
                copy.writestr(info.filename, change)
        for name, data in changes.items():
            copy.writestr(f"{source.namelist()[0].split('/')[0]}/{name}", data)
    return target


def test_tampered_exported_files_are_refused(exported: tuple[nn.Module, Tensor, Path], tmp_path: Path) -> None:
    """Nothing from a file is executed: pickles, foreign functions, compiled code and expressions are refused."""
    _, _, path = exported
    target = tmp_path / "bad.pt2"

    def set_target(function: str) -> object:
        return lambda d: d["graph_module"]["graph"]["nodes"][0].update(target=function)

    for function in (
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.hub.load",
        "math.exp",
        "torch.ops.aten.conv3d.no_such",
    ):
        with pytest.raises(UnsupportedOperationError):
            read_exported_network(rewrite(path, {"models/model.json": set_target(function)}, target))
    use_pickle = {
        "data/weights/model_weights_config.json": lambda d: next(iter(d["config"].values())).update(use_pickle=True)
    }
    with pytest.raises(UnsafeFileError, match="pickled object"):
        read_exported_network(rewrite(path, use_pickle, target))
    with pytest.raises(UnsafeFileError, match="compiled code"):
        read_exported_network(rewrite(path, {"data/aotinductor/model/x.so": b"\x7fELF"}, target))
    with pytest.raises(UnsafeFileError, match="could hold code"):
        kind = lambda d: d["graph_module"]["signature"]["input_specs"].insert(0, {"custom_obj": {}})  # noqa: E731
        read_exported_network(rewrite(path, {"models/model.json": kind}, target))
    with pytest.raises(UnsupportedOperationError, match="dynamic shapes"):
        read_exported_network(
            rewrite(path, {"models/model.json": lambda d: d.update(range_constraints={"s0": {}})}, target)
        )
    with pytest.raises(NetworkError, match="another version"):
        read_exported_network(rewrite(path, {"models/model.json": None}, target))
    with pytest.raises(NetworkError, match="graph format 99"):
        read_exported_network(
            rewrite(path, {"models/model.json": lambda d: d.update(schema_version={"major": 99})}, target)
        )
    with pytest.raises(NetworkError, match="has only"):
        read_exported_network(rewrite(path, {"data/weights/weight_0": b"\0" * 8}, target))
    target.write_bytes(b"PK no archive")
    with pytest.raises(NetworkError, match=r"not a network saved with torch\.export"):
        read_exported_network(target)


# ----------------------------------------------------------------------------------------------------------- packages


def card(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "schema_version": 1,
        "name": "test-model",
        "title": "A test",
        "network": {"architecture": "boehle2019"},
        "grid": {"shape": list(SMALL), "affine": np.diag([2.0, 2, 2, 1]).tolist(), "space": "nowhere"},
        "normalisation": {"kind": "min-max", "mask": "nonzero"},
        "classes": ["CN", "AD"],
        "positive_class": 1,
        "training": {"data": "nothing"},
        "licence": "BSD-3-Clause",
        "intended_use": "testing",
    }
    return {**base, **changes}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return save_package(tmp_path / "package", card(), build_network("boehle2019", SMALL))


def edit(package: Path, **changes: object) -> Path:
    document = json.loads((package / "model.json").read_text(encoding="utf-8"))
    document.update(changes)
    (package / "model.json").write_text(json.dumps(document), encoding="utf-8")
    return package


def test_a_package_round_trip(package: Path) -> None:
    model = load_package(package)
    assert (model.name, model.classes, model.positive_class, model.shape) == ("test-model", ("CN", "AD"), 1, SMALL)
    assert model.grid.spacing == (2, 2, 2) and model.normalisation.kind == "min-max"
    assert sorted(p.name for p in package.iterdir()) == ["model.json", "weights.safetensors"]
    assert len({p.stat().st_mode for p in package.iterdir()}) == 1, "both readable by the same people"
    assert (
        load_model(package).weights_sha256 == load_model(package / "model.json").weights_sha256 == model.weights_sha256
    )


def test_tampered_or_missing_weights_are_refused(package: Path) -> None:
    weights = package / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(NetworkError, match="changed or damaged"):
        load_package(package)
    weights.write_bytes(data[:-10])
    with pytest.raises(NetworkError, match=r"has \d+ bytes, but its model card says \d+"):
        load_package(package)
    weights.unlink()
    with pytest.raises(NetworkError, match=r"weights\.safetensors .* is missing"):
        load_package(package)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 2}, "schema_version: 1 was expected"),
        ({"network": {"architecture": "resnet"}}, "at network"),
        ({"network": {"pickle": "net.pkl"}}, "at network"),
        ({"weights": {"file": "../../etc/passwd", "sha256": "0" * 64, "bytes": 1}}, "at weights/file"),
        ({"surprise": 1}, "Additional properties"),
        ({"classes": ["AD"]}, "at classes"),
        ({"positive_class": 5}, "positive_class 5"),
        ({"training": {}}, "'data' is a required property"),
        ({"normalisation": {"kind": "voxelwise"}}, "at normalisation"),
    ],
)
def test_cards_that_break_the_schema_are_refused(package: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(NetworkError, match=reason):
        read_card(edit(package, **changes))


def test_cards_that_do_not_fit_their_weights_are_refused(package: Path) -> None:
    shape = {"shape": [120, 90, 90], "affine": None, "space": "nowhere"}
    with pytest.raises(GridMismatchError, match="these weights need 64"):
        load_package(edit(package, grid=shape))
    with pytest.raises(NetworkError, match="has 2 classes, but its card names 3"):
        load_package(edit(package, grid={**shape, "shape": list(SMALL)}, classes=["a", "b", "c"]))
    with pytest.raises(NetworkError, match="does not belong to Korolev"):
        load_package(edit(package, classes=["a", "b"], network={"architecture": "korolev2017"}))


def test_a_link_out_of_the_package_is_refused(package: Path, tmp_path: Path) -> None:
    (package / "weights.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (package / "weights.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(NetworkError, match="lies outside the model package"):
        load_package(package)


def test_a_package_never_overwrites(package: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        save_package(package, card(), build_network("boehle2019", SMALL))


def test_an_invalid_card_leaves_no_package_behind(tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        save_package(tmp_path / "p", card(name="Not A Name!"), build_network("boehle2019", SMALL))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_packages_of_network_files(tmp_path: Path) -> None:
    from ADAttributionLogic.networks.packages import file_sha256

    folder = tmp_path / "p"
    folder.mkdir()
    path = folder / "net.pt2"
    export(PublishedStyle(3).eval(), torch.zeros(1, 1, 20, 20, 20), path)
    weights = {"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}
    grid = {"shape": [20, 20, 20], "affine": None, "space": "none"}
    complete = card(network={"format": "pt2"}, weights=weights, grid=grid)
    (folder / "model.json").write_text(json.dumps(complete), encoding="utf-8")
    assert load_package(folder).network.graph is not None


def test_voxelwise_normalisation_comes_with_its_hash(tmp_path: Path) -> None:
    from ADAttributionLogic.networks.packages import file_sha256

    mean = torch.rand(SMALL)
    save_file({"mean": mean, "std": torch.ones(SMALL)}, tmp_path / "n.safetensors")
    entry = {"kind": "voxelwise", "file": "norm.safetensors", "sha256": file_sha256(tmp_path / "n.safetensors")}
    package = save_package(tmp_path / "p", card(normalisation=entry), build_network("boehle2019", SMALL))
    with pytest.raises(NetworkError, match=r"norm\.safetensors .* is missing"):
        load_package(package)
    (tmp_path / "n.safetensors").rename(package / "norm.safetensors")
    np.testing.assert_array_equal(load_package(package).normalisation.mean, mean)


# ------------------------------------------------------------------------------------------------------------ loading


def test_models_by_name_and_path(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no model"):
        load_model("no-such-model")
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(NetworkError, match="unknown kind"):
        load_model(tmp_path / "x.bin")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NetworkError, match=r"no model package: it has no model\.json"):
        load_model(tmp_path / "folder")


def test_bare_weights_say_what_is_not_known(tmp_path: Path) -> None:
    torch.save(build_network("boehle2019", (121, 145, 121)).state_dict(), tmp_path / "w.pt")
    model = load_model(tmp_path / "w.pt")
    assert model.grid is None and model.normalisation.kind == "min-max" and model.classes == ("CN", "AD")
    assert "unknown" in model.card["training"]["data"]
    save_file(build_network("rieke2018", (96, 112, 96)).state_dict(), tmp_path / "w.safetensors")
    model = load_model(tmp_path / "w.safetensors", shape=(96, 112, 96))
    assert model.title == "Rieke et al. 2018" and model.normalisation.kind == "none"


def test_a_network_passed_in_code() -> None:
    model = model_from_module(
        PublishedStyle(3), (20, 20, 20), classes=("a", "b"), normalisation=Normalisation("z-score")
    )
    assert model.name == "PublishedStyle" and model.network.graph is not None
    with pytest.raises(NetworkError, match="2 classes, but 3 names"):
        model_from_module(PublishedStyle(3), (20, 20, 20), classes=("a", "b", "c"))


@pytest.mark.parametrize("folder", available_models(), ids=lambda p: p.name)
def test_shipped_models_say_what_they_are(folder: Path) -> None:
    found = read_card(folder)
    assert found["name"] == folder.name
    assert "clinical" in found["intended_use"].lower() and found["training"]["data"]
    load_package(folder)
