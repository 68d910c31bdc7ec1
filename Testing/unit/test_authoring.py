"""Packages of users' own networks: questions, weights, exported programs, ClinicaDL's MAPS, MONAI's bundles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.authoring.clinicadl_maps import ARCHITECTURES, read_maps
from ADAttributionLogic.authoring.creation import create_package, known_answers
from ADAttributionLogic.authoring.questions import QUESTIONS, card_of, open_questions
from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import NetworkError, UnsafeFileError, UsageError
from ADAttributionLogic.graph.recording import record
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import file_sha256

SHAPE = (20, 24, 22)
TEXT = ",".join(map(str, SHAPE))
SAID = {
    "name": "mine",
    "title": "My network",
    "grid": "none",
    "shape": TEXT,
    "normalisation": "min-max",
    "output": "softmax",
    "classes": "CN,AD",
    "positive": "AD",
    "trained-on": "nobody",
    "licence": "CC0",
}
SCORE = {k: v for k, v in SAID.items() if k not in ("classes", "positive")} | {
    "output": "score",
    "score-name": "age",
    "score-meaning": "years since birth",
    "score-unit": "years",
    "score-scale": "20,90",
    "score-levels": "young,old",
    "score-thresholds": "60",
}


# ----------------------------------------------------------------------------------------------------------- questions


def test_answers_make_a_card() -> None:
    card = card_of(SAID | {"registration": "affine", "skull": "kept", "citation": "Me 2026"})
    assert card["classes"] == ["CN", "AD"] and card["positive_class"] == 1
    assert card["grid"] == {"shape": list(SHAPE), "affine": None, "space": "unknown"}
    assert card["training"] == {"data": "nobody", "registration": "affine", "skull": "kept"}
    assert "Not for diagnosis" in card["intended_use"] and card["citation"] == "Me 2026"


def test_a_score_has_levels_and_no_classes() -> None:
    output = card_of(SCORE)["output"]
    assert output["kind"] == "score" and output["levels"] == ["young", "old"] and output["thresholds"] == [60.0]
    assert output["scale"] == [20.0, 90.0] and "classes" not in card_of(SCORE)


def test_what_is_missing_is_named_with_its_flag_and_nothing_is_guessed() -> None:
    with pytest.raises(UsageError) as caught:
        card_of({"name": "mine"})
    for question in ("title", "grid", "normalisation", "output", "trained-on", "licence"):
        assert f"--{question} (" in str(caught.value)
    assert [q.name for q in open_questions({**SAID, "output": ""})] == ["output"]
    assert [q.name for q in open_questions({**SAID, "classes": ""})] == ["classes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "tanh"}, "--output must be one of softmax, sigmoid, score"),
        ({"classes": "CN"}, "two or more different names"),
        ({"classes": "CN,CN"}, "two or more different names"),
        ({"classes": "CN,MCI,AD", "output": "sigmoid"}, "between two classes, but 3 were named"),
        ({"positive": "ad"}, "--positive must be one of CN, AD"),
        ({"name": "My Network"}, "small letters"),
        ({"shape": "20,24"}, "three whole numbers"),
        ({"grid": "icbm152", "shape": ""}, "no grid 'icbm152'.*icbm152-2009c"),
        ({"grid": "fsl-mni152"}, "--shape was given, but does not go with"),
        ({"score-name": "COG"}, "--score-name was given, but does not go with"),
        ({"colour": "red"}, "no question 'colour'"),
    ],
)
def test_answers_that_make_no_sense_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        card_of(SAID | change)


def test_what_a_source_says_gives_way_to_what_is_said(tmp_path: Path) -> None:
    """A bundle that names classes, of a network that its user knows to return a score."""
    bundle = make_bundle(tmp_path / "bundle")
    exported(tmp_path, outputs=1).rename(bundle / "models" / "model.pt2")
    assert load_model(create_package(bundle, SCORE, tmp_path / "package")).card["output"]["kind"] == "score"
    with pytest.raises(UsageError, match="--classes was given, but does not go with"):
        create_package(bundle, SCORE | {"classes": "CN,AD"}, tmp_path / "other")


@pytest.mark.parametrize("thresholds", ["60,70", "sixty", ""])
def test_thresholds_fit_the_levels(thresholds: str) -> None:
    with pytest.raises(UsageError, match="score-thresholds"):
        card_of(SCORE | {"score-thresholds": thresholds})


def test_a_grid_can_be_taken_from_an_image(small_scan_file: Path) -> None:
    grid = card_of({k: v for k, v in SAID.items() if k != "shape"} | {"grid": str(small_scan_file)})["grid"]
    assert len(grid["affine"]) == 4 and grid["space"] == f"that of {small_scan_file.name}"


def test_every_question_is_an_option_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "create", "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{question.name}" in shown for question in QUESTIONS)


# ----------------------------------------------------------------------------------------------------- files of weights


def small_weights(folder: Path, suffix: str) -> Path:
    network = build_network("boehle2019", (78, 80, 82))
    initialise(network, 1)
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_package_of_weights_by_the_command(suffix: str, tmp_path: Path) -> None:
    answers = SAID | {"shape": "78,80,82"}
    flags = [text for name, answer in answers.items() for text in (f"--{name}", answer)]
    source, out = small_weights(tmp_path, suffix), tmp_path / "package"
    assert main(["models", "create", str(source), "--out", str(out), *flags]) == 0
    model = load_model(out)
    assert model.name == "mine" and model.classes == ("CN", "AD") and model.shape == (78, 80, 82)
    assert model.card["network"] == {"architecture": "boehle2019"}


def test_without_a_terminal_the_missing_flags_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small_weights(tmp_path, ".pt")
    assert main(["models", "create", str(source), "--out", str(tmp_path / "package"), "--name", "mine"]) == 2
    assert "--trained-on (" in capsys.readouterr().err and not (tmp_path / "package").exists()


def exported(folder: Path, outputs: int = 2) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 2, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 6 * 8 * 7, outputs))
    path = folder / "network.pt2"
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(1, 1, *SHAPE),)), path)
    return path


def test_a_package_of_an_exported_program(tmp_path: Path) -> None:
    package = create_package(exported(tmp_path), SAID, tmp_path / "package")
    assert load_model(package).card["weights"]["sha256"] == file_sha256(tmp_path / "network.pt2")


def test_a_program_that_does_not_fit_what_is_said_leaves_no_package(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="2 classes, but its card names 3"):
        create_package(exported(tmp_path), SAID | {"classes": "CN,MCI,AD"}, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_one_output_becomes_a_score_only_because_it_is_said(tmp_path: Path) -> None:
    model = load_model(create_package(exported(tmp_path, 1), SCORE, tmp_path / "package"))
    assert model.output.is_score and model.output.levels == ("young", "old")


# ---------------------------------------------------------------------------------------------------------------- MAPS


class Surprise:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("/tmp/executed-by-a-maps"),)


def make_maps(folder: Path, architecture: str, splits: int = 2, **changes: object) -> Path:
    """A MAPS folder as ClinicaDL 1.6 writes it, with random weights on Clinica's cropped grid."""
    parameters = {
        "architecture": architecture,
        "network_task": "classification",
        "label": "diagnosis",
        "label_code": {"CN": 1, "AD": 0},
        "output_size": 2,
        "normalize": True,
        "size_reduction": False,
        "multi_network": False,
        "preprocessing_dict": {"preprocessing": "t1-linear", "mode": "image", "use_uncropped_image": False},
    }
    folder.mkdir()
    (folder / "maps.json").write_text(json.dumps(parameters | changes), encoding="utf-8")
    task = "-score" if changes.get("network_task") == "regression" else ""
    for split in range(splits):
        network = build_network(ARCHITECTURES[architecture] + task, (169, 208, 179))
        initialise(network, split)
        best = folder / f"split-{split}" / "best-loss"
        best.mkdir(parents=True)
        state = {"model": network.state_dict(), "epoch": 3, "name": architecture}
        torch.save(state, best / "model.pth.tar")
    return folder


REST = {"trained-on": "ADNI, 300 people", "licence": "CC0", "score-meaning": "years since birth"}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["Conv4_FC3", "ResNet3D"])
def test_a_maps_folder_becomes_an_ensemble(architecture: str, tmp_path: Path) -> None:
    """Label code, crop, min-max and weights as ClinicaDL has them; a member gives the network's own logits."""
    maps = make_maps(tmp_path / "MAPS_Wen", architecture)
    said = {k: v for k, v in REST.items() if not k.startswith("score")}
    model = load_model(create_package(maps, said, tmp_path / "package"))
    assert model.name == "maps_wen" and model.classes == ("AD", "CN") and model.positive_class == 0
    assert [member.name for member in model.members] == ["split-0", "split-1"]
    assert model.grid is not None and model.grid.shape == (169, 208, 179)
    assert model.grid.affine[:3, 3].tolist() == [-84.0, -119.0, -78.0]
    assert model.normalisation.kind == "min-max" and model.normalisation.mask == "all"
    assert model.card["training"] == {"data": "ADNI, 300 people", "registration": "affine", "skull": "kept"}
    plain = build_network(ARCHITECTURES[architecture], (169, 208, 179))
    plain.load_state_dict(torch.load(maps / "split-1" / "best-loss" / "model.pth.tar", weights_only=True)["model"])
    image = torch.rand(1, 1, 169, 208, 179)
    with torch.no_grad():
        logits = record(model.members[1].load().layers, image).logits
        assert torch.allclose(logits, plain(image), rtol=1e-5, atol=1e-6)


def test_a_regression_becomes_a_score_named_after_its_label(tmp_path: Path) -> None:
    maps = make_maps(tmp_path / "age", "Conv4_FC3", 1, network_task="regression", label="age", label_code=None)
    model = load_model(create_package(maps, REST, tmp_path / "package"))
    assert model.output.is_score and model.output.name == "age" and model.members == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet18"}, "whose layers are not known here"),
        ({"size_reduction": True}, "size_reduction"),
        ({"multi_network": True}, "multi_network"),
        ({"preprocessing_dict": {"preprocessing": "t1-linear", "mode": "patch"}}, "by patch"),
        ({"preprocessing_dict": {"preprocessing": "t1-extensive", "mode": "image"}}, "t1-extensive"),
        ({"label_code": {"AD": 0, "CN": 1, "MCI": 2}}, "two classes or a regression"),
        ({"network_task": "reconstruction"}, "reconstruction"),
    ],
)
def test_a_maps_that_is_not_understood_is_refused_by_name(changes: dict[str, object], message: str, tmp_path: Path):
    maps = make_maps(tmp_path / "MAPS", "Conv4_FC3", 0)
    parameters = json.loads((maps / "maps.json").read_text(encoding="utf-8"))
    (maps / "maps.json").write_text(json.dumps(parameters | changes), encoding="utf-8")
    with pytest.raises(NetworkError, match=message):
        read_maps(maps)


def test_networks_chosen_by_several_metrics_have_to_be_named(tmp_path: Path) -> None:
    maps = make_maps(tmp_path / "MAPS", "Conv4_FC3", 0)
    for metric in ("loss", "BA"):
        folder = maps / "split-0" / f"best-{metric}"
        folder.mkdir(parents=True)
        (folder / "model.pth.tar").write_bytes(b"x")
    with pytest.raises(NetworkError, match="by BA, loss: say which with --metric"):
        read_maps(maps)
    assert read_maps(maps, "BA").weights["split-0"].parent.name == "best-BA"


def test_weights_of_a_maps_execute_nothing(tmp_path: Path) -> None:
    maps = make_maps(tmp_path / "MAPS", "Conv4_FC3", 0)
    folder = maps / "split-0" / "best-loss"
    folder.mkdir(parents=True)
    torch.save({"model": Surprise()}, folder / "model.pth.tar")
    with pytest.raises(UnsafeFileError):
        create_package(maps, {k: v for k, v in REST.items() if k != "score-meaning"}, tmp_path / "package")
    assert not Path("/tmp/executed-by-a-maps").exists() and not (tmp_path / "package").exists()


# -------------------------------------------------------------------------------------------------------- MONAI bundles


def make_bundle(folder: Path, **changes: object) -> Path:
    metadata = {
        "name": "Dementia Classifier",
        "task": "classify",
        "data_source": "OASIS",
        "copyright": "Apache-2.0",
        "intended_use": "research",
        "references": ["Somebody 2025"],
        "network_data_format": {
            "inputs": {"image": {"type": "image", "num_channels": 1, "spatial_shape": list(SHAPE)}},
            "outputs": {"pred": {"type": "probabilities", "channel_def": {"0": "CN", "1": "AD"}}},
        },
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata | changes), encoding="utf-8")
    return folder


def test_a_bundle_says_much_of_itself(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert known_answers(bundle) == {
        "name": "dementia-classifier",
        "title": "Dementia Classifier",
        "trained-on": "OASIS",
        "licence": "Apache-2.0",
        "intended-use": "research",
        "citation": "Somebody 2025",
        "classes": "CN,AD",
    }
    exported(bundle / "models")
    said = {k: SAID[k] for k in ("grid", "shape", "normalisation", "output", "positive")}
    model = load_model(create_package(bundle, said, tmp_path / "package"))
    assert model.name == "dementia-classifier" and model.card["training"]["data"] == "OASIS"


def test_a_bundle_of_torchscript_is_refused_with_what_to_do(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "models" / "model.ts").write_bytes(b"TorchScript")
    with pytest.raises(NetworkError, match=r"torch\.export\.save"):
        create_package(bundle, SAID, tmp_path / "package")


@pytest.mark.parametrize(
    ("image", "message"),
    [({"num_channels": 4}, "images of 4 channels"), ({"num_channels": 1, "is_patch_data": True}, "takes patches")],
)
def test_a_bundle_for_other_images_is_refused(image: dict[str, object], message: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", network_data_format={"inputs": {"image": image}})
    with pytest.raises(NetworkError, match=message):
        known_answers(bundle)


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"network_data_format": 3}', "{", '{"network_data_format": {"inputs": 1}}']
)
@pytest.mark.parametrize("kind", ["maps.json", "configs/metadata.json"])
def test_damaged_descriptions_are_refused_with_a_sentence(kind: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / kind).write_text(text, encoding="utf-8")
    with pytest.raises(NetworkError):
        create_package(tmp_path, SAID, tmp_path / "package")


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="neither a MAPS folder.*nor a MONAI bundle"):
        create_package(tmp_path, SAID, tmp_path / "package")
    with pytest.raises(UsageError, match="no file or folder"):
        create_package(tmp_path / "nothing", SAID, tmp_path / "package")
