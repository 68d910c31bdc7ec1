"""``ad-attribution check``: the checks on a finished result, which must be what was computed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.checked_result import check_result
from ADAttributionLogic.checks.findings import read_checks
from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import NetworkError, UsageError
from ADAttributionLogic.explain import CheckRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import read_card, save_package


@pytest.fixture(scope="module")
def result(small_scan_file: Path, small_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two maps, without checks."""
    out = tmp_path_factory.mktemp("results") / "result"
    command = ["explain", str(small_scan_file), "--model", str(small_package), "--checks", "none", "--no-scene"]
    methods = ["--method", "lrp", "--method", "sensitivity"]
    assert main([*command, *methods, "--atlas", "aal", "--out", str(out)]) == 0
    assert not (out / "checks").exists()
    return out


def test_a_finished_result_is_checked_and_not_changed(
    result: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in result.rglob("*")}
    out = tmp_path / "checks"
    arguments = ["check", str(result), "--model", str(small_package), "--checks", "12", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Layer-wise relevance propagation" in printed and "✓ Recomputation" in printed
    assert "Not run: it costs" in printed
    assert before == {path: path.stat().st_mtime_ns for path in result.rglob("*")}
    found = read_checks(json.loads((out / "checks.json").read_text(encoding="utf-8")))
    assert [m.map for m in found.maps] == ["lrp", "sensitivity"]
    for each in found.maps:
        assert next(c for c in each.checks if c.name == "recomputation").number < 1e-6
    with open(out / "checks.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["verdict"] for row in rows} <= {"pass", "unsure", "fail", "not run"}
    assert main(arguments) == 6, "nothing is overwritten"


def test_a_result_that_was_changed_is_refused_by_the_files_name(
    result: Path, small_package: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "result"
    shutil.copytree(result, copy)
    shutil.copyfile(copy / "heatmaps" / "sensitivity.nii.gz", copy / "heatmaps" / "lrp.nii.gz")
    with pytest.raises(UsageError, match=r"was changed after it was written \(heatmaps/lrp\.nii\.gz\)"):
        check_result(copy, load_model(small_package), CheckRequest(0))


def test_another_network_is_refused(result: Path, small_package: Path, tmp_path: Path) -> None:
    card = read_card(small_package)
    network = build_network("boehle2019", tuple(card["grid"]["shape"]))
    initialise(network, 2)
    other = save_package(tmp_path / "other", {k: v for k, v in card.items() if k != "weights"}, network)
    with pytest.raises(NetworkError, match="is not the network that was explained .*: its weights are"):
        check_result(result, load_model(other), CheckRequest(0))


def test_a_map_that_belongs_to_another_scan_is_found_though_the_folder_is_whole(
    result: Path, small_package: Path, tmp_path: Path
) -> None:
    """The hashes only say that nothing was changed afterwards: what was written is computed again."""
    from ADAttributionLogic.report.placing import hashes_of
    from ADAttributionLogic.scan_files import read_scan, write_volume

    copy = tmp_path / "result"
    shutil.copytree(result, copy)
    path = copy / "heatmaps" / "lrp.nii.gz"
    volume = read_scan(path)
    path.unlink()
    write_volume(volume.with_array(np.ascontiguousarray(volume.array[::-1])), path)
    record = json.loads((copy / "provenance.json").read_text(encoding="utf-8"))
    (copy / "provenance.json").unlink()
    (copy / "provenance.json").write_text(json.dumps({**record, "files": hashes_of(copy)}), encoding="utf-8")
    found = check_result(copy, load_model(small_package), CheckRequest(3))
    verdicts = {c.name: c.verdict for c in found.of("lrp").checks}
    assert verdicts["recomputation"] == "fail"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checks", "some"], "--checks must be auto, none or a number of forward passes, but is 'some'"),
        (["--checks", "-1"], "--checks must be auto, none or a number"),
        (["--checks", "none"], "With --checks none there is nothing to do"),
        (["--checks", "none", "--check-replacement", "zero"], "--check-replacement was given, but --checks is none"),
        (["--check-replacement", "reference"], "none was given: give one"),
    ],
)
def test_wrong_usage_is_named(
    result: Path, small_package: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(result), "--model", str(small_package), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_batch_has_a_verdict_per_map(small_scan_file: Path, small_package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copyfile(small_scan_file, folder / "a.nii.gz")
    torch.manual_seed(0)
    command = ["batch", str(folder), "--model", str(small_package), "--atlas", "none", "--no-figure"]
    assert main([*command, "--checks", "5", "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "summary.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["checks (lrp)"] in ("pass", "unsure", "fail") and "failed checks (lrp)" in row
    assert json.loads((tmp_path / "out" / "batch.json").read_text(encoding="utf-8"))["checks"]["budget"] == 5
