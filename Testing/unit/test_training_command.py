"""``ad-attribution train`` from a table to a package that ``explain`` takes, and what it says of mistakes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ADAttributionLogic.cli import main
from ADAttributionLogic.commands.train import NETWORKS, RECIPES
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.training.presets import PRESETS, preset_of
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training.trained import require_trainable, trainable
from ADAttributionLogic.volume import Volume, resample

#: ICBM152's field of view at 6 mm: SFCN takes no less.
SHAPE = (33, 39, 33)
AFFINE = np.array([[6.0, 0, 0, -96], [0, 6, 0, -132], [0, 0, 6, -78], [0, 0, 0, 1]])
QUICK = [
    "--network",
    "sfcn",
    "--grid",
    "scans",
    "--device",
    "cpu",
    "--normalisation",
    "min-max",
    "--recipe",
    "boehle2019",
]
QUICK += ["--learning-rate", "0.003", "--float32", "--batch-size", "8"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, template: Volume) -> Path:
    """Thirty people of two sites, some of them scanned twice; patients have a dark spot."""
    folder = tmp_path_factory.mktemp("cohort")
    brain = resample(template, Grid(SHAPE, AFFINE)).array.astype(np.float32)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(30):
        patient = number % 2 == 1
        for visit in range(2 if number % 6 == 0 else 1):
            array = brain * generator.normal(1, 0.05, SHAPE).astype(np.float32) * (brain > 0)
            if patient:
                array[12:21, 14:24, 10:18] *= 0.55
            name = f"sub-{number:02}_ses-{visit}.nii.gz"
            write_volume(Volume(array.astype(np.float32), AFFINE, "made"), folder / name)
            who = f"sub-{number:02},ses-{visit},{'AD' if patient else 'CN'},{'AB'[number // 2 % 2]}"
            rows.append(f"{name},{who},{60 + number}\n")
    rows.append("nobody.nii.gz,sub-99,ses-0,MCI,A,70\n")
    (folder / "cohort.csv").write_text("scan,subject,session,diagnosis,site,age\n" + "".join(rows), encoding="utf-8")
    return folder / "cohort.csv"


def train(cohort: Path, out: Path, *more: str) -> int:
    return main(["train", str(cohort), "--out", str(out), *QUICK, *more])


@pytest.fixture(scope="module")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("training") / "Our Study"
    assert (
        train(
            cohort,
            out,
            "--site",
            "site",
            "--positive",
            "AD",
            "--folds",
            "2",
            "--epochs",
            "2",
            "--data",
            "made-up scans",
        )
        == 0
    )
    return out


def test_every_fold_leaves_its_course_and_a_package_with_its_card(trained: Path) -> None:
    model = load_model(trained / "trainings" / "repeat-1-fold-2" / "package")
    said = model.card["training"]
    assert model.classes == ("CN", "AD") and model.card["name"] == "our-study-repeat-1-fold-2"
    assert said["recipe"]["name"] == "boehle2019" and said["seed"] == 1
    assert any("learning rate 0.003 instead of 0.0001" in change for change in said["recipe_changes"]["changes"])
    assert [epoch["number"] for epoch in said["epochs"]] == [1, 2]
    assert said["split"]["by"] == "subject" and said["split"]["stratified_by"] == ["diagnosis", "site"]
    assert set(said["sites"]) == {"A", "B"} and said["split"]["subjects_of_test"] == 6
    test = said["test"]
    assert test["subjects"] == 6 and sum(map(sum, test["confusion"]["matrix"])) == test["scans"]
    assert test["intervals_95"]["auc"][0] <= test["auc"] <= test["intervals_95"]["auc"][1]
    assert {"expected_calibration_error", "brier", "bins"} <= set(test["calibration"]) and set(test["sites"]) <= {
        "A",
        "B",
    }
    assert said["temperature"]["value"] > 0 and "too good" in said["validation"]["note"]
    assert "sub-" not in json.dumps(model.card), "nobody's name is in a card that is handed on"
    files = {path.name for path in (trained / "trainings" / "repeat-1-fold-2").rglob("*")}
    assert {"epochs.csv", "curves.png", "reliability.png", "checkpoint.json"} <= files
    rows = list(csv.DictReader((trained / "trainings" / "repeat-1-fold-1" / "epochs.csv").open()))
    assert [row["number"] for row in rows] == ["1", "2"] and float(rows[-1]["training_loss"]) > 0


def test_tensorboard_files_hold_the_same_losses(trained: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="optional")
    folder = trained / "trainings" / "repeat-1-fold-1"
    found = events.EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("validation_loss")
    rows = list(csv.DictReader((folder / "epochs.csv").open()))
    assert [one.step for one in found] == [1, 2]
    assert [one.value for one in found] == pytest.approx([float(row["validation_loss"]) for row in rows], rel=1e-5)


def test_the_folds_are_an_ensemble_at_once(trained: Path) -> None:
    """Its answer to the held-out scans is the mean of its members', as the table of the test says."""
    model = load_model(trained / "package")
    assert [member.name for member in model.members] == ["repeat-1-fold-1", "repeat-1-fold-2"]
    assert (
        model.card["performance"][0]["measure"] == "balanced accuracy"
        and sum(model.card["performance"][0]["n"].values()) > 5
    )
    assert model.control_mean is not None and "12 controls" in model.card["control_mean"]["of"]
    mean = model.control_mean().array
    assert mean.shape == SHAPE and mean.min() >= 0 and 0.2 < mean.max() <= 1
    rows = list(csv.DictReader((trained / "test.tsv").open(), delimiter="\t"))
    split = {row["subject"]: row for row in csv.DictReader((trained / "split.tsv").open(), delimiter="\t")}
    assert {row["subject"] for row in rows} == {s for s, row in split.items() if row["repeat-1-fold-1"] == "test"}
    for row in rows:
        members = [float(row[member.name]) for member in model.members]
        assert float(row["mean"]) == pytest.approx(np.mean(members), abs=2e-6)


def test_explain_takes_the_package(trained: Path, cohort: Path, tmp_path: Path) -> None:
    """And answers about a held-out scan as the training's own test has, but for float16."""
    row = next(csv.DictReader((trained / "test.tsv").open(), delimiter="\t"))
    scan = cohort.parent / f"{row['subject']}_{row['session']}.nii.gz"
    command = ["explain", str(scan), "--model", str(trained / "package"), "--method", "gradient-x-input", "--out"]
    assert main([*command, str(tmp_path / "result"), "--no-scene"]) == 0
    record = json.loads((tmp_path / "result" / "provenance.json").read_text())
    assert record["outcome"]["values"]["AD"] == pytest.approx(float(row["mean"]), abs=0.02)


def test_the_same_command_again_trains_nothing_anew(
    trained: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("state-*")}
    more = ["--site", "site", "--positive", "AD", "--folds", "2", "--epochs", "2", "--data", "made-up scans"]
    assert train(cohort, trained, *more) == 0
    assert "epoch 1" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("state-*")} == before
    assert train(cohort, trained, *more, "--learning-rate", "0.001") == 6
    assert "holds another training: its recipe differ" in capsys.readouterr().err


def test_a_damaged_state_and_a_damaged_prepared_scan(
    trained: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state is refused by name; the prepared scan is only a cache and made again."""
    out = tmp_path / "Our Study"
    shutil.copytree(trained, out)
    kept = next((out / "scans").glob("*.npy"))
    content = kept.read_bytes()
    kept.write_bytes(content[:-100] + bytes(100))
    state = next((out / "trainings" / "repeat-1-fold-1" / "state").glob("state-*"))
    state.write_bytes(state.read_bytes()[:-10])
    assert train(cohort, out, "--site", "site", "--positive", "AD", "--folds", "2", "--epochs", "2") == 4
    assert f"{state.name}, the state of an interrupted training, is damaged" in capsys.readouterr().err
    assert kept.read_bytes() == content


def test_voxelwise_networks_are_no_ensemble(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fold has constants of its own scans, in its own package; without a test, figures are the validation's."""
    few = cohort.with_name("few.csv")
    few.write_text("\n".join(cohort.read_text(encoding="utf-8").splitlines()[:11]), encoding="utf-8")
    more = ["--folds", "2", "--epochs", "1", "--test", "0", "--normalisation", "voxelwise", "--no-temperature"]
    assert train(few, tmp_path / "out", *more) == 0
    said = capsys.readouterr().out
    assert "no ensemble" in said and "(validation): balanced accuracy" in said
    assert not (tmp_path / "out" / "package").exists() and not (tmp_path / "out" / "test.tsv").exists()
    one, other = (load_model(tmp_path / "out" / "trainings" / f"repeat-1-fold-{n}" / "package") for n in (1, 2))
    assert one.normalisation.kind == "voxelwise" and "test" not in one.card["training"]
    assert not np.array_equal(one.normalisation.mean, other.normalisation.mean)


def test_what_can_be_asked_is_what_there_is() -> None:
    """The names stand at the command as well, which must not import torch."""
    assert set(NETWORKS) <= set(trainable()) and set(RECIPES) == set(PRESETS)
    assert all(preset_of(name, None)[0] == (name if name in PRESETS else "boehle2019") for name in NETWORKS)
    with pytest.raises(UsageError, match=r"qiu2022-impairment\) has no outputs for two classes"):
        require_trainable("qiu2022-impairment", Recipe())


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--positive", "PSP"], 2, "no diagnosis in .* named 'PSP'"),
        (["--positive", "AD", "--folds", "20"], 8, "20 are needed for 20 folds"),
        (["--positive", "AD", "--site", "scanner"], 8, "no column 'scanner'"),
        (["--positive", "AD", "--test-column", "age"], 8, "No row of .* says 'test' in the column 'age'"),
        (["--positive", "AD", "--batch-size", "1"], 2, "--batch-size must be at least 2, but is 1"),
        (["--positive", "AD", "--test", "1.5"], 2, "part of the test must be from 0 to below 1"),
        (["--positive", "AD", "--recipe", "small-cohort"], 2, "has no separate head"),
        (["--positive", "AD", "--augmentation", "acquisition", "--normalisation", "z-score"], 2, "between 0 and 1"),
        (["--positive", "AD", "--network", "boehle2019"], 4, "cannot take an image of 33×39×33 voxels"),
        (["--positive", "AD", "--grid", "nowhere"], 2, "no grid 'nowhere'"),
        (["--positive", "AD", "--accept-qc"], 2, "needs a registration"),
        ([], 8, "who is a patient: there are AD, MCI"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    assert train(cohort, tmp_path / "out", *more) == code
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert train(cohort, tmp_path, "--positive", "AD") == 6
    assert "exists and is no training; nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
