"""Many scans: lists, resuming, failures, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch import BatchOptions, explain_batch, find_scans
from ADAttributionLogic.cli import main
from ADAttributionLogic.commands.batch import parse_method
from ADAttributionLogic.errors import Cancelled, OutputError, ScanError, UsageError
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.volume import Volume

OPTIONS = BatchOptions([MethodRequest("gradient-x-input")], figure=False)


@pytest.fixture
def folder(tmp_path: Path, small_scan_file: Path) -> Path:
    """Two good scans, one of them in a subfolder, and one that is constant."""
    scans = tmp_path / "scans"
    (scans / "second visit").mkdir(parents=True)
    shutil.copy(small_scan_file, scans / "a.nii.gz")
    shutil.copy(small_scan_file, scans / "second visit" / "a.nii.gz")
    write_volume(Volume(np.ones((20, 20, 20), np.float32), np.eye(4)), scans / "b constant.nii.gz")
    (scans / "notes.txt").write_text("no scan")
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
    assert "constant" in rows[1]["message"] and "ScanError" in (tmp_path / "out" / "failures.log").read_text()
    assert float(rows[0]["P(AD)"]) == pytest.approx(1 - float(rows[0]["P(CN)"]), abs=1e-5)
    assert rows[0]["explained_class"] == "AD" and rows[0]["top region (gradient-x-input)"]
    assert (tmp_path / "out" / "a" / "heatmaps" / "gradient-x-input.nii.gz").is_file()
    before = (tmp_path / "out" / "a" / "provenance.json").stat().st_mtime_ns
    again = explain_batch(scans, small_model, OPTIONS, tmp_path / "out", atlas=atlas)
    assert (again.done, again.failed, again.kept) == (0, 1, 2)
    assert (tmp_path / "out" / "a" / "provenance.json").stat().st_mtime_ns == before, "not computed twice"
    kept = rows_of(again.summary)
    assert kept[0] == {**rows[0], "status": "done before"}


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
    (tmp_path / "mine" / "thesis.txt").write_text("my only copy")
    with pytest.raises(OutputError, match="nothing is overwritten"):
        explain_batch(scans, small_model, OPTIONS, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "my only copy"


def test_a_list_of_scans(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "﻿name,scan,age\nP1,x/one.nii.gz,70\n,two.nii,71\nP1,three.mgz,72\n", encoding="utf-8"
    )
    scans = find_scans(tmp_path / "list.csv")
    assert [s.name for s in scans] == ["P1", "two", "P1-2"] and scans[0].path == tmp_path / "x" / "one.nii.gz"
    (tmp_path / "bad.csv").write_text("file\na.nii\n")
    with pytest.raises(ScanError, match="line 2: the column 'scan' is missing"):
        find_scans(tmp_path / "bad.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="names no scan"):
        find_scans(tmp_path / "empty")
    with pytest.raises(ScanError, match="neither a folder nor a CSV"):
        find_scans(tmp_path / "nothing")


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("name,scan\n../../escape,a.nii\n..,b.nii\nCON/x,c.nii\n")
    assert [s.name for s in find_scans(tmp_path / "list.csv")] == ["escape", "scan", "CON_x"]


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
    assert json.loads((tmp_path / "out" / "a" / "provenance.json").read_text())["space"] == "native"
    assert main([*command[:-2], "--out", str(tmp_path / "out")]) == 6, "the other space is another question"
    assert "another preparation" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--brain-mask", "x.nii", "--out", str(tmp_path / "other")])


def test_options_of_methods_in_one_word() -> None:
    assert parse_method("lrp:beta=0.5,rule=e-rule") == MethodRequest("lrp", {"beta": 0.5, "rule": "e-rule"})
    assert parse_method("occlusion:signed=true") == MethodRequest("occlusion", {"signed": True})
    with pytest.raises(UsageError, match="has no value"):
        parse_method("lrp:beta")
