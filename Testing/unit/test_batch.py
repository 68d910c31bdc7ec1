"""Many scans: lists, resuming, failures, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_grid import SMALL_AFFINE, SMALL_SHAPE
from small_networks import PublishedStyle, make_lively

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import BatchResult, explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cli import main
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.commands.batch import parse_method
from ADAttributionLogic.errors import Cancelled, OutputError, ScanError, UsageError
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.loading import load_model, model_from_module
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.spreadsheet_cells import plain_cell
from ADAttributionLogic.volume import Volume, resample

OPTIONS = BatchOptions([MethodRequest("gradient-x-input")], figure=False)


@pytest.fixture
def folder(tmp_path: Path, small_scan_file: Path) -> Path:
    """Two good scans, one of them in a subfolder, and one that is constant."""
    scans = tmp_path / "scans"
    (scans / "second visit").mkdir(parents=True)
    shutil.copy(small_scan_file, scans / "a.nii.gz")
    shutil.copy(small_scan_file, scans / "second visit" / "a.nii.gz")
    write_volume(Volume(np.ones((20, 20, 20), np.float32), np.eye(4)), scans / "b constant.nii.gz")
    (scans / "notes.txt").write_text("no scan", encoding="utf-8")
    (scans / ".hidden.nii.gz").write_bytes(b"")
    return scans


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_with_a_broken_scan_and_a_second_start(folder: Path, small_model: Model, tmp_path: Path) -> None:
    scans = find_scans(folder)
    assert [s.name for s in scans] == ["a", "b_constant", "second_visit_a"]
    atlas = load_atlas("neuromorphometrics")
    seen: list[str] = []
    result = explain_batch(
        scans, small_model, OPTIONS, tmp_path / "out", atlas=atlas, on_row=lambda row: seen.append(row["name"])
    )
    assert (result.done, result.failed, result.kept) == (2, 1, 0) and seen == [s.name for s in scans]
    rows = rows_of(result.summary)
    assert [r["status"] for r in rows] == ["done", "failed", "done"]
    assert "constant" in rows[1]["message"]
    assert "ScanError" in (tmp_path / "out" / "failures.log").read_text(encoding="utf-8")
    assert float(rows[0]["P(AD)"]) == pytest.approx(1 - float(rows[0]["P(CN)"]), abs=1e-5)
    assert rows[0]["explained_class"] == "AD" and rows[0]["top region (gradient-x-input)"]
    assert (tmp_path / "out" / "a" / "heatmaps" / "gradient-x-input.nii.gz").is_file()
    before = (tmp_path / "out" / "a" / "provenance.json").stat().st_mtime_ns
    again = explain_batch(scans, small_model, OPTIONS, tmp_path / "out", atlas=atlas)
    assert (again.done, again.failed, again.kept) == (0, 1, 2)
    assert (tmp_path / "out" / "a" / "provenance.json").stat().st_mtime_ns == before, "not computed twice"
    assert again.rows[0]["status"] == "done before"
    assert rows_of(again.summary) == rows, "the same results, the same table"


def test_an_interrupted_batch_goes_on(folder: Path, small_model: Model, tmp_path: Path) -> None:
    scans = find_scans(folder)
    reached: list[str] = []
    monitor = Monitor(lambda _, text: reached.append(text), lambda: any("scan 3 of 3" in text for text in reached))
    with pytest.raises(Cancelled):
        explain_batch(scans, small_model, OPTIONS, tmp_path / "out", monitor=monitor)
    assert [r["status"] for r in rows_of(tmp_path / "out" / "summary.csv")] == ["done", "failed"]
    assert not (tmp_path / "out" / "second_visit_a").exists()
    result = explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
    assert (result.done, result.kept, result.failed) == (1, 1, 1)


def test_another_question_or_a_foreign_folder_is_refused(folder: Path, small_model: Model, tmp_path: Path) -> None:
    scans = find_scans(folder)[:1]
    explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
    with pytest.raises(OutputError, match="another methods"):
        explain_batch(scans, small_model, BatchOptions([MethodRequest("lrp")], figure=False), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("my only copy", encoding="utf-8")
    with pytest.raises(OutputError, match="nothing is overwritten"):
        explain_batch(scans, small_model, OPTIONS, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "my only copy"


def test_a_list_of_scans(tmp_path: Path) -> None:
    """Who shares a name gets the hash of the path, so that no order on the list decides."""
    (tmp_path / "list.csv").write_text(
        "\ufeffname,scan,age\nP1,x/one.nii.gz,70\n,two.nii,71\nP1,three.mgz,72\n", encoding="utf-8"
    )
    scans = find_scans(tmp_path / "list.csv")
    names = [s.name for s in scans]
    assert names[1] == "two" and len(set(names)) == 3 and all(n.startswith("P1-") for n in (names[0], names[2]))
    assert scans[0].path == tmp_path / "x" / "one.nii.gz"
    (tmp_path / "list.csv").write_text("name,scan\nP1,three.mgz\nP1,x/one.nii.gz\n", encoding="utf-8")
    assert [s.name for s in find_scans(tmp_path / "list.csv")] == [names[2], names[0]]
    (tmp_path / "bad.csv").write_text("file\na.nii\n", encoding="utf-8")
    with pytest.raises(ScanError, match="line 2: the column 'scan' is missing"):
        find_scans(tmp_path / "bad.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="names no scan"):
        find_scans(tmp_path / "empty")
    with pytest.raises(ScanError, match="neither a folder nor a CSV"):
        find_scans(tmp_path / "nothing")


def test_a_name_is_that_of_the_subject_and_the_path(tmp_path: Path) -> None:
    lines = ["sub-01/T1.nii.gz", "/data/study/sub-02/ses-1/anat/sub-02_T1w.nii", "visit/T1.nii", "visit_T1.nii"]
    (tmp_path / "list.csv").write_text("scan\n" + "\n".join(lines), encoding="utf-8")
    first, second, *others = (s.name for s in find_scans(tmp_path / "list.csv"))
    assert first == "sub-01_T1" and second == "sub-02_ses-1_anat_sub-02_T1w"
    assert all(name.startswith("visit_T1-") for name in others) and len(set(others)) == 2


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "name,scan\n../../escape,a.nii\n..,b.nii\nCON/x,c.nii\n" + "n" * 300 + ",d.nii\n", encoding="utf-8"
    )
    *names, long = (s.name for s in find_scans(tmp_path / "list.csv"))
    assert names == ["escape", "scan", "CON_x"] and len(long) < 140


def test_what_is_no_scan_is_not_listed(folder: Path, small_model: Model, tmp_path: Path) -> None:
    """The batch's own output inside its input, a header with its image, a pipe, names that are no UTF-8."""
    shutil.rmtree(folder / "second visit")
    explain_batch(find_scans(folder), small_model, OPTIONS, folder / "results")
    assert [s.name for s in find_scans(folder)] == ["a", "b_constant"]
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "c.nii").write_bytes(b"1")
    assert len(find_scans(folder)) == 3 and len(find_scans(folder, without=[folder / "unfinished"])) == 2
    for name in ("pair.hdr", "pair.img"):
        (folder / name).write_bytes(b"1")
    os.mkfifo(folder / "pipe.nii")
    assert [s.name for s in find_scans(folder)] == ["a", "b_constant", "pair", "unfinished_c"]
    Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller.nii")).write_bytes(b"1")
    result = explain_batch(find_scans(folder), small_model, OPTIONS, tmp_path / "out")
    assert (result.done, result.failed) == (1, 4)
    assert any(row["name"] == "M_ller" for row in rows_of(result.summary))


# ----------------------------------------------------------------------------------------- whose result is in whose row


def brighter(path: Path, target: Path, gain: float) -> None:
    """Another patient: the same brain, dimmer to the front."""
    scan = read_scan(path)
    ramp = np.linspace(1, gain, scan.array.shape[1], dtype=np.float32)[None, :, None]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    write_volume(scan.with_array(scan.array * ramp), target)


@pytest.fixture
def patients(tmp_path: Path, small_scan_file: Path) -> Path:
    """Three patients whose scans are all called T1."""
    for number, gain in enumerate((0.2, 0.6, 1.0), start=1):
        brighter(small_scan_file, tmp_path / "data" / f"sub-0{number}" / "T1.nii.gz", gain)
    return tmp_path / "data"


def probabilities(summary: Path) -> dict[str, str]:
    return {row["scan"].split("/")[-2]: row["P(AD)"] for row in rows_of(summary)}


def write_list(folder: Path, *subjects: str) -> Path:
    path = folder / "list.csv"
    path.write_text("scan\n" + "\n".join(f"{s}/T1.nii.gz" for s in subjects), encoding="utf-8")
    return path


def test_no_patient_gets_anothers_row(patients: Path, small_model: Model, tmp_path: Path) -> None:
    """Another patient on top of the list; then two of them change places, by name and on disk."""
    out = tmp_path / "out"
    explain_batch(find_scans(write_list(patients, "sub-02", "sub-03")), small_model, OPTIONS, out)
    result = explain_batch(find_scans(write_list(patients, "sub-01", "sub-02", "sub-03")), small_model, OPTIONS, out)
    assert (result.done, result.kept) == (1, 2)
    alone = explain_batch(find_scans(write_list(patients, "sub-01")), small_model, OPTIONS, tmp_path / "alone")
    expected = probabilities(result.summary)
    assert len(set(expected.values())) == 3
    assert expected["sub-01"] == probabilities(alone.summary)["sub-01"]
    # The same names with the paths exchanged: both are computed again, and the message says why.
    for order in (("sub-01", "sub-02"), ("sub-02", "sub-01")):
        (patients / "list.csv").write_text(
            "name,scan\n" + "\n".join(f"P{n},{s}/T1.nii.gz" for n, s in enumerate(order)), encoding="utf-8"
        )
        result = explain_batch(find_scans(patients / "list.csv"), small_model, OPTIONS, tmp_path / "named")
        found = probabilities(result.summary)
        assert result.done == 2 and all(found[s] == expected[s] for s in order)
    assert all("another one than that of the result that was here" in row["message"] for row in result.rows)


def test_a_scan_changed_in_place_is_computed_again(
    patients: Path, small_scan_file: Path, small_model: Model, tmp_path: Path
) -> None:
    scans = find_scans(write_list(patients, "sub-01", "sub-02"))
    before = probabilities(explain_batch(scans, small_model, OPTIONS, tmp_path / "out").summary)
    brighter(small_scan_file, patients / "sub-01" / "T1.nii.gz", 0.9)
    result = explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
    after = probabilities(result.summary)
    assert (result.done, result.kept) == (1, 1)
    assert after["sub-01"] != before["sub-01"] and after["sub-02"] == before["sub-02"]
    # Notes that somebody has put beside a result are not deleted for it.
    brighter(small_scan_file, patients / "sub-01" / "T1.nii.gz", 0.8)
    (tmp_path / "out" / "sub-01_T1" / "remarks.txt").write_text("mine", encoding="utf-8")
    result = explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
    assert result.failed == 1 and "remarks.txt" in rows_of(result.summary)[0]["message"]
    assert (tmp_path / "out" / "sub-01_T1" / "remarks.txt").read_text(encoding="utf-8") == "mine"


def test_a_damaged_or_foreign_result_is_not_taken(patients: Path, small_model: Model, tmp_path: Path) -> None:
    scans = find_scans(write_list(patients, "sub-01", "sub-02"))
    first = explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
    heatmap = tmp_path / "out" / "sub-01_T1" / "heatmaps" / "gradient-x-input.nii.gz"
    heatmap.unlink()
    again = explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
    assert (again.done, again.kept) == (1, 1) and heatmap.is_file() and "damaged" in again.rows[0]["message"]
    assert probabilities(again.summary) == probabilities(first.summary)
    shutil.rmtree(tmp_path / "out" / "sub-01_T1")
    other = BatchOptions([MethodRequest("sensitivity")], figure=False)
    explain_batch(scans[:1], small_model, other, tmp_path / "other")
    shutil.copytree(tmp_path / "other" / "sub-01_T1", tmp_path / "out" / "sub-01_T1")
    again = explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
    assert again.done == 1 and "answered another methods" in again.rows[0]["message"]


def test_the_whole_question_is_compared(
    patients: Path, small_model: Model, small_package: Path, tmp_path: Path
) -> None:
    """Not the weights alone; and where an atlas lies does not matter."""
    scans, atlas = find_scans(write_list(patients, "sub-01")), load_atlas("neuromorphometrics")
    explain_batch(scans, small_model, OPTIONS, tmp_path / "out", atlas=atlas)
    elsewhere = replace(atlas, source="/another/environment/atlas.nii.gz")
    assert explain_batch(scans, load_model(small_package), OPTIONS, tmp_path / "out", atlas=elsewhere).kept == 1
    complete = BatchOptions([MethodRequest("gradient-x-input", {})], figure=False)
    assert explain_batch(scans, small_model, complete, tmp_path / "out", atlas=atlas).kept == 1
    renamed = replace(atlas, regions=(replace(atlas.regions[0], name="Elsewhere"), *atlas.regions[1:]))
    for changed, kwargs in {
        "model": {"model": replace(small_model, normalisation=Normalisation("z-score"))},
        "model ": {"model": replace(small_model, classes=("AD", "CN"))},
        "model  ": {"model": replace(small_model, card={**small_model.card, "limitations": "others"})},
        "atlas": {"atlas": renamed},
        "replace_non_finite": {"options": replace(OPTIONS, replace_non_finite=0.0)},
    }.items():
        given = {"model": small_model, "options": OPTIONS, "atlas": atlas, **kwargs}
        with pytest.raises(OutputError, match=f"another {changed.strip()}"):
            explain_batch(scans, given["model"], given["options"], tmp_path / "out", atlas=given["atlas"])


def test_a_network_passed_in_code_is_known_by_its_weights(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    write_volume(Volume(values, np.eye(4)), tmp_path / "a.nii")
    network = make_lively(PublishedStyle(3, 20)).float()

    def run() -> BatchResult:
        return explain_batch(find_scans(tmp_path), model_from_module(network, (20,) * 3), OPTIONS, tmp_path / "out")

    assert run().done == 1 and run().kept == 1
    with torch.no_grad():
        network.dense_2.bias += 1
    with pytest.raises(OutputError, match="another model"):
        run()


def test_a_full_disk_leaves_a_batch_that_goes_on(folder: Path, small_model: Model, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "batch.json").touch()
    assert explain_batch(find_scans(folder)[:1], small_model, OPTIONS, tmp_path / "out").done == 1
    (tmp_path / "out" / "batch.json").write_text('{"kind": ', encoding="utf-8")
    with pytest.raises(OutputError, match=r"batch\.json is damaged"):
        explain_batch(find_scans(folder)[:1], small_model, OPTIONS, tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- one scan, one row


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), ZeroDivisionError(), OverflowError("big")])
def test_whatever_is_raised_is_one_row(
    error: Exception, folder: Path, small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what nobody has thought of; the next scan is computed."""

    def read(path: Path) -> Volume:
        if path.parent.name == "scans":
            raise error
        return read_scan(path)

    monkeypatch.setattr("ADAttributionLogic.batch.one_scan.read_scan", read)
    result = explain_batch(find_scans(folder), small_model, OPTIONS, tmp_path / "out")
    assert (result.done, result.failed) == (1, 2)
    message = rows_of(result.summary)[0]["message"]
    assert ("memory did not suffice" if isinstance(error, MemoryError) else type(error).__name__) in message


def test_a_scan_that_does_not_look_registered_says_so_in_its_row(
    folder: Path, small_model: Model, tmp_path: Path
) -> None:
    scan = read_scan(folder / "a.nii.gz")
    write_volume(scan.with_array(np.roll(scan.array, (20, 20, 20), (0, 1, 2))), folder / "moved.nii.gz")
    result = explain_batch(find_scans(folder), small_model, OPTIONS, tmp_path / "out")
    for _ in range(2):
        rows = {row["name"]: row for row in rows_of(result.summary)}
        assert rows["a"]["looks_registered"] == "yes" and rows["moved"]["looks_registered"] == "no"
        assert "The result means nothing" in rows["moved"]["message"] and not rows["a"]["message"]
        result = explain_batch(find_scans(folder), small_model, OPTIONS, tmp_path / "out")


# ------------------------------------------------------------------------------------------------------- patients' data


def test_a_private_batch_names_nobody(small_scan_file: Path, small_package: Path, tmp_path: Path) -> None:
    """Neither in folders, rows, tables, scenes and logs, nor inside of compressed files; and it can be resumed."""
    scans = tmp_path / "MuellerClinic"
    (scans / "MaxMustermann").mkdir(parents=True)
    shutil.copy(small_scan_file, scans / "MaxMustermann" / "T1.nii.gz")
    write_volume(Volume(np.ones((20, 20, 20), np.float32), np.eye(4)), scans / "MaxMustermann.nii.gz")
    labels = resample(load_atlas("neuromorphometrics").labels, Grid(SMALL_SHAPE, SMALL_AFFINE), "nearest")
    write_volume(labels, tmp_path / "Mustermann-regions.nii.gz")
    command = ["batch", str(scans), "--model", str(small_package), "--method", "sensitivity"]
    command += ["--atlas", str(tmp_path / "Mustermann-regions.nii.gz")]
    command += ["--no-figure", "--private", "--out", str(tmp_path / "out")]
    assert main(command) == 3
    (folder,) = (p for p in (tmp_path / "out").iterdir() if p.is_dir())
    before = (folder / "provenance.json").stat().st_mtime_ns
    assert main(command) == 3 and (folder / "provenance.json").stat().st_mtime_ns == before
    for path in (tmp_path / "out").rglob("*"):
        text = b"" if path.is_dir() else path.read_bytes()
        text = gzip.decompress(text) if path.suffix == ".gz" else text
        for name in (b"Mustermann", b"Clinic", str(tmp_path).encode()):
            assert name not in text and name.decode() not in path.name, path
    assert all(p.stat().st_mode & 0o077 == 0 for p in [tmp_path / "out", *(tmp_path / "out").rglob("*")])


def test_cells_of_the_summary_are_no_formulas(tmp_path: Path, small_scan_file: Path, small_model: Model) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "=cmd|'calc'!A1.nii").write_bytes(b"no scan")
    (tmp_path / "list.csv").write_text("name,scan\n@SUM(A1),=cmd.nii\n", encoding="utf-8")
    for source in (scans, tmp_path / "list.csv"):
        result = explain_batch(find_scans(source), small_model, OPTIONS, tmp_path / f"out-{source.name}")
        for row in csv.reader(result.summary.open(encoding="utf-8")):
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row), row
    assert plain_cell("-0.5") == "'-0.5" and plain_cell(-0.5) == -0.5 and plain_cell("Left-Hippocampus")[0] == "L"


def test_the_command(folder: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "second visit")
    arguments = ["batch", str(folder), "--model", str(small_package), "--method", "lrp:beta=0.5", "--atlas", "none"]
    code = main([*arguments, "--no-figure", "--out", str(tmp_path / "out")])
    assert code == 3 and "1 computed, 0 complete from before, 1 failed" in capsys.readouterr().out
    assert main([*arguments, "--out", str(folder)]) == 6


def test_scans_that_are_registered_first(
    folder: Path,
    small_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the command line; that the scans lie where they should is said, which takes no registration."""
    monkeypatch.setenv("AD_ATTRIBUTION_CACHE", str(tmp_path / "cache"))
    shutil.rmtree(folder / "second visit")
    command = ["batch", str(folder), "--model", str(small_package), "--method", "sensitivity", "--atlas", "none"]
    command += ["--no-figure", "--registration", "affine", "--registered", "yes", "--space", "native"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 3, "the constant one fails"
    assert (tmp_path / "out" / "a" / "preprocessing" / "brain.nii.gz").is_file()
    assert json.loads((tmp_path / "out" / "a" / "provenance.json").read_text(encoding="utf-8"))["space"] == "native"
    assert main([*command[:-2], "--out", str(tmp_path / "out")]) == 6, "the other space is another question"
    assert "another preparation" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--brain-mask", "x.nii", "--out", str(tmp_path / "other")])


def test_options_of_methods_in_one_word() -> None:
    assert parse_method("lrp:beta=0.5,rule=e-rule") == MethodRequest("lrp", {"beta": 0.5, "rule": "e-rule"})
    assert parse_method("occlusion:signed=true") == MethodRequest("occlusion", {"signed": True})
    with pytest.raises(UsageError, match="has no value"):
        parse_method("lrp:beta")


def test_a_batch_without_the_answers_spread_is_another_question(
    folder: Path, small_model: Model, tmp_path: Path
) -> None:
    scans = find_scans(folder)[:1]
    quick = replace(OPTIONS, with_spread=False)
    explain_batch(scans, small_model, quick, tmp_path / "out")
    record = json.loads((tmp_path / "out" / scans[0].name / "provenance.json").read_text(encoding="utf-8"))
    assert "answer_spread" not in record
    with pytest.raises(OutputError, match="with_spread"):
        explain_batch(scans, small_model, OPTIONS, tmp_path / "out")
