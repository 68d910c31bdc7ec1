"""The command line as users type it: real processes, real files, exit codes as documented."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ADAttributionLogic.cli import EXIT_CODES, main
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.volume import Volume, resample

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ADAttributionLogic.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def quick(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The same in this process, where only messages and codes matter."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_explain_writes_everything_and_prints_the_answer(
    small_scan_file: Path, small_package: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(
        "explain", small_scan_file, "--model", small_package, "--method", "lrp", "--method", "guided-backprop",
        "--lrp-beta", "0.5", "--atlas", "aal", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    expected = [
        "heatmaps/guided-backprop.nii.gz",
        "heatmaps/lrp.nii.gz",
        "overview.png",
        "provenance.json",
        "report.html",
        "scene.mrb",
    ]
    assert [n for n in names if not n.startswith(("tables/", "checks/"))] == expected
    checks = ["agreement.tsv", "checks.tsv", "consensus.nii.gz", "curves.tsv", "disagreement.nii.gz"]
    assert [n for n in names if n.startswith("checks/")] == [f"checks/{name}" for name in checks]
    assert "checks: " in done.stdout and "Stability" in done.stdout
    assert "P(CN) = " in done.stdout and "explained class: AD" in done.stdout and "unattributed" in done.stdout
    assert str(out / "scene.mrb") in done.stdout
    record = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    assert record["methods"]["lrp"]["options"]["beta"] == 0.5 and record["atlas"]["name"] == "aal"


def test_exit_codes(
    small_scan_file: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every documented code, with a message that names the cause; and nothing is left in the folder."""
    base = ["explain", small_scan_file, "--model", small_package, "--out", tmp_path / "out", "--atlas", "none"]

    def check(code: int, message: str, *changes: object) -> None:
        found, out, err = quick(capsys, *base, *changes)
        assert (found, out) == (code, ""), err
        assert message in err and "Traceback" not in err
        assert not list(tmp_path.glob("*out*"))

    check(2, "Did you mean lrp", "--method", "lpr")
    check(2, "between 0 and 100", "--lrp-beta", "-1")
    check(2, "--occlusion-size was given, but not --method occlusion", "--occlusion-size", "8", "--method", "lrp")
    check(2, "Did you mean neuromorphometrics", "--atlas", "neuromorphometric")
    check(2, "CN, positive, predicted", "--target", "MCI")
    check(2, "three whole numbers", "--shape", "193")
    empty = tmp_path / "empty.nii"
    empty.write_bytes(b"")
    base[1] = empty
    check(3, "is empty")
    base[1] = tmp_path / "nothing.nii"
    check(3, "does not exist")
    base[1] = small_scan_file
    base[3] = tmp_path / "no-model"
    check(2, "no model")
    broken = tmp_path / "model"
    broken.mkdir()
    base[3] = broken
    check(4, "no model.json")
    base[3] = small_package
    labels = tmp_path / "labels.nii"
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), labels)
    check(5, "every voxel is 0", "--atlas", labels)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("1", encoding="utf-8")
    base[5] = tmp_path / "notes"
    check(6, "nothing is overwritten")
    check(6, "was not written by this program", "--overwrite")


def test_wrong_usage_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["explain"], ["nonsense"], ["explain", "scan.nii", "--out", "x", "--no-such-option"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(meaning.split(" ")[0] in text for meaning in EXIT_CODES.values()) and "not for clinical use" in text


def test_the_lists(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = quick(capsys, "methods")
    assert code == 0 and "guided-backprop" in out and "--lrp-beta" in out and "arXiv:1808.02874" in out
    code, out, _ = quick(capsys, "methods", "--json")
    assert {
        k: v
        for k, v in next(m for m in json.loads(out) if m["name"] == "occlusion")["options"][0].items()
        if k in ("name", "default")
    } == {"name": "size", "default": 40}
    code, out, _ = quick(capsys, "atlases")
    assert code == 0 and "neuromorphometrics-boehle2019" in out and "licence" in out
    assert {"aal", "neuromorphometrics", "desikan-killiany"} == {
        a["name"] for a in json.loads(quick(capsys, "atlases", "--json")[1])["atlases"]
    }
    code, out, _ = quick(capsys, "models")
    assert code == 0


def test_listing_does_not_wait_for_torch() -> None:
    done = run("atlases")
    assert done.returncode == 0
    code = "import sys; from ADAttributionLogic import cli; cli.main(['atlases']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == 0


def let_compute(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait until a process has used this much processor time, however busy the machine is."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        time.sleep(seconds)
        return
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        user, system = stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
        if (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") >= seconds:
            return
        time.sleep(0.1)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent differently on Windows")
def test_ctrl_c_cancels_and_leaves_nothing(small_scan_file: Path, small_package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-u",
        "-m",
        "ADAttributionLogic.cli",
        "explain",
        str(small_scan_file),
        "--model",
        str(small_package),
    ]
    command += ["--method", "smoothgrad", "--smoothgrad-samples", "10000", "--atlas", "none", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    let_compute(process, 10)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Cancelled" in errors and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent differently on Windows")
def test_ctrl_c_keeps_the_methods_that_were_finished(
    small_scan_file: Path, small_package: Path, tmp_path: Path
) -> None:
    """The first method's map is whole, so that it is written; provenance and exit code say what happened."""
    out = tmp_path / "out"
    command = [sys.executable, "-u", "-m", "ADAttributionLogic.cli", "explain", str(small_scan_file)]
    command += ["--model", str(small_package), "--method", "lrp", "--method", "smoothgrad", "--smoothgrad-samples"]
    command += ["10000", "--atlas", "none", "--no-figure", "--no-scene", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    let_compute(process, 16)  # LRP and the answer with its spread take some seconds, SmoothGrad hours
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert sorted(p.name for p in (out / "heatmaps").iterdir()) == ["lrp.nii.gz"]
    assert json.loads((out / "provenance.json").read_text(encoding="utf-8"))["is_cancelled"] is True


def test_area_occlusion_writes_its_pairs(small_scan_file: Path, small_package: Path, tmp_path: Path) -> None:
    """Two regions together: the interaction is what the drops of each do not add up to."""
    out = tmp_path / "out"
    code = main([
        "explain", str(small_scan_file), "--model", str(small_package), "--method", "area-occlusion",
        "--area-occlusion-pairs", "3", "--atlas", "aal", "--no-figure", "--no-scene", "--out", str(out),
    ])  # fmt: skip
    assert code == 0
    with open(out / "tables" / "area-occlusion.csv", encoding="utf-8", newline="") as file:
        drops = {row["label"]: float(row["drop"]) for row in csv.DictReader(file) if row["drop"] != "n/a"}
    with open(out / "tables" / "area-occlusion-pairs.csv", encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 3
    for pair in pairs:
        alone = drops[pair["first_label"]] + drops[pair["second_label"]]
        assert float(pair["drop"]) - alone == pytest.approx(float(pair["interaction"]), abs=1e-6)


def test_occlusion_of_given_voxels_by_another_scan(
    small_scan: Volume, small_scan_file: Path, small_package: Path, tmp_path: Path
) -> None:
    """--mask says where boxes go, --reference what they are filled with."""
    half = np.zeros(small_scan.array.shape, np.float32)
    half[: half.shape[0] // 2] = 1
    mask = write_volume(small_scan.with_array(half), tmp_path / "mask.nii.gz")
    darker = write_volume(small_scan.with_array(small_scan.array * np.float32(0.7)), tmp_path / "darker.nii.gz")
    command = ["explain", str(small_scan_file), "--model", str(small_package), "--method", "occlusion"]
    command += ["--occlusion-size", "8", "--occlusion-stride", "8", "--occlusion-mask", "given", "--mask", str(mask)]
    command += ["--occlusion-fill", "reference", "--reference", str(darker), "--occlusion-signed"]
    command += ["--atlas", "none", "--no-figure", "--no-scene"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    found = read_scan(tmp_path / "out" / "heatmaps" / "occlusion.nii.gz")
    covered = resample(small_scan.with_array(half), found.grid, "nearest").array > 0
    assert np.abs(found.array[covered]).max() > 0
    far = ~covered & (np.abs(np.indices(covered.shape)[0] - covered.shape[0] / 2) > 9)
    assert (found.array[far] == 0).all()


def test_simulate_writes_a_subject_with_its_ground_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = quick(capsys, "simulate", "--class", "AD", "--seed", "3", "--out", tmp_path / "s")
    assert code == 0 and "left Hippocampus" in out
    truth = json.loads((tmp_path / "s" / "ground_truth.json").read_text(encoding="utf-8"))
    assert truth["simulated"] and truth["relative_volume_change"]["left Hippocampus"] < -0.05
    assert nib.load(tmp_path / "s" / "scan.nii.gz").shape == (193, 229, 193)
    assert quick(capsys, "simulate", "--out", tmp_path / "s")[0] == 6
    assert quick(capsys, "simulate", "--seed", "-1", "--out", tmp_path / "t")[0] == 2
