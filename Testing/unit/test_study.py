"""The command ``ad-attribution study``, from a table and a batch's results to tables, figures and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cli import main
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.cohort.table import read_cohort
from ADAttributionLogic.engines.local import LocalProcesses
from ADAttributionLogic.engines.machine import Plan
from ADAttributionLogic.errors import Cancelled, CohortError, OutputError, UsageError
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.study import mean_maps, running
from ADAttributionLogic.study.analysis import StudyOptions
from ADAttributionLogic.study.material import gather
from ADAttributionLogic.study.volumes import volumes_from_table, volumes_of_segmentations
from ADAttributionLogic.volume import Volume

PATIENTS = CONTROLS = 6
METHODS = [MethodRequest("lrp"), MethodRequest("lrp", {"beta": 0.5}), MethodRequest("gradient-x-input")]
QUICK = ["--permutations", "99", "--resamples", "100"]


@pytest.fixture(scope="module")
def batch(small_model: Model, small_scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of 12 people, their table, and the results of a batch on it."""
    root = tmp_path_factory.mktemp("cohort")
    (root / "scans").mkdir()
    generator = np.random.default_rng(4)
    rows = []
    for n in range(PATIENTS + CONTROLS):
        brain = small_scan.array * (1 + 0.1 * generator.normal()) + 4 * generator.normal(size=small_scan.array.shape)
        array = np.where(small_scan.array > 0, np.clip(brain, 0.1, None), 0).astype(np.float32)
        write_volume(Volume(array, small_scan.affine), root / "scans" / f"p{n:02d}.nii.gz")
        name = "sub-<script>alert(1)</script>" if n == 0 else f"sub-{n:02d}"
        who = "AD" if n % 2 else "HC"
        rows.append([name, f"scans/p{n:02d}.nii.gz", who, f"{60 + 2 * n + generator.normal():.1f}", "AB"[n // 3 % 2]])
    table = pd.DataFrame(rows, columns=["subject", "scan", "diagnosis", "age", "site"])
    table.to_csv(root / "people.tsv", sep="\t", index=False)
    options = BatchOptions(METHODS, figure=False, with_spread=False)
    explain_batch(find_scans(root / "people.tsv"), small_model, options, root / "results", atlas=load_atlas("aal"))
    return root


def threshold(batch: Path) -> float:
    """Between the answers of an untrained network, so that all cases occur."""
    return float(np.median(pd.read_csv(batch / "results" / "summary.csv")["P(AD)"]))


@pytest.fixture(scope="module")
def study(batch: Path) -> Path:
    """The study, made by the command."""
    out = batch / "study"
    command = ["study", str(batch / "people.tsv"), "--results", str(batch / "results"), "--out", str(out), *QUICK]
    covariates = ["--covariate", "age", "--by", "site", "--threshold", repr(threshold(batch))]
    assert main([*command, *covariates]) == 0
    return out


def sums_of(batch: Path, method: str = "lrp") -> pd.DataFrame:
    """Σ R per region of every scan, as the batch's tables have them."""
    found = {
        p.name: pd.read_csv(p / "tables" / f"{method}.tsv", sep="\t")
        for p in sorted((batch / "results").glob("scans_*"))
    }
    return pd.DataFrame({name: table.set_index("label")["sum"] for name, table in found.items()}).T.drop(columns=0)


def cases_of(batch: Path) -> pd.Series[str]:
    table, summary = pd.read_csv(batch / "people.tsv", sep="\t"), pd.read_csv(batch / "results" / "summary.csv")
    yes = summary["P(AD)"] >= threshold(batch)
    truth = table["diagnosis"] == "AD"
    found = np.select([truth & yes, ~truth & ~yes, ~truth & yes], ["TP", "TN", "FP"], "FN")
    return pd.Series(found, index=summary["name"])


def test_the_region_table_is_that_of_pandas(batch: Path, study: Path) -> None:
    table = pd.read_csv(study / "tables" / "regions-lrp.tsv", sep="\t").set_index("label")
    sums, case = sums_of(batch), cases_of(batch)
    assert set(case) >= {"TP", "TN"}
    controls = sums[case.isin(["TN", "FP"])].mean()
    for name, parts in {"AD": ["TP", "FN"], "HC": ["TN", "FP"], "TP": ["TP"], "TN": ["TN"]}.items():
        mean = sums[case.isin(parts)].mean()
        np.testing.assert_allclose(table[f"sum {name}"], mean, rtol=1e-9)
        np.testing.assert_allclose(table[f"density {name}"], mean / table["volume_mm3"], rtol=1e-9)
        if name != "HC":
            np.testing.assert_allclose(table[f"gain {name}"], mean / controls, rtol=1e-9)
    assert (table["gain TP low"] <= table["gain TP"]).all() and (table["gain TP"] <= table["gain TP high"]).all()
    small = table["volume_mm3"] < 100
    assert table.loc[small, "rank density TP"].isna().all()
    assert {"t adjusted", "p family-wise", "q adjusted", "mean z_adjusted TP"} <= set(table)


def test_mean_maps_are_the_means_of_the_maps(batch: Path, study: Path) -> None:
    case = cases_of(batch)
    for name, parts in {"AD": ["TP", "FN"], "TN": ["TN"]}.items():
        chosen = case.index[case.isin(parts)]
        arrays = [read_scan(batch / "results" / who / "heatmaps" / "lrp.nii.gz").array for who in chosen]
        found = read_scan(study / "maps" / "lrp" / f"{name}.nii.gz")
        np.testing.assert_allclose(found.array, np.mean(arrays, axis=0, dtype=float), rtol=1e-4, atol=1e-12)
    assert not list(study.glob("maps/*/*.npy")) and not list(batch.glob(".study-maps*"))


def test_every_figure_is_vector_and_pixels_with_its_numbers_beside(study: Path) -> None:
    names = {p.stem for p in (study / "figures").glob("*.svg")}
    assert (
        names
        == {p.stem for p in (study / "figures").glob("*.png")}
        == {p.stem for p in (study / "figures").glob("*.tsv")}
    )
    for kind in ("maps", "scatter", "violins", "gains", "gain-intervals"):
        assert f"{kind}-lrp" in names and f"{kind}-gradient-x-input" in names
    assert {"distances-rieke", "distances-eitel", "intersection-beta-lrp-density"} <= names
    gains = pd.read_csv(study / "figures" / "gains-lrp.tsv", sep="\t")
    assert list(gains) == ["region", "subject", "gain"] and len(gains) > 0


def test_the_page_holds_its_pictures_asks_nobody_and_runs_nothing(study: Path) -> None:
    page = (study / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)
    pictures = re.findall(r'<img src="([^"]{30})', page)
    assert len(pictures) >= 15 and all(p.startswith("data:image/png;base64,") for p in pictures)
    for link in set(re.findall(r'href="((?:figures|tables)/[^"]+)"', page)):
        assert (study / link.replace("&lt;", "<")).is_file(), link
    assert "not for clinical use" in page.lower() and "LRP (β 0.5)" in page
    assert "is in part the answer again" in page, "the relevance starts from the probability"


def test_coherence_leaves_the_diagonal_out(study: Path) -> None:
    table = pd.read_csv(study / "tables" / "coherence.tsv", sep="\t")
    row = table[(table["over"] == "methods") & (table["quantity"] == "density")].iloc[0]
    matrix = pd.read_csv(
        study / "figures" / "intersection-methods-results-density.tsv", sep="\t", index_col=0
    ).to_numpy()
    m = len(matrix)
    assert row["coherence %"] == pytest.approx((matrix.sum() - np.trace(matrix)) / (m * (m - 1)))
    regions = pd.read_csv(study / "tables" / "regions-lrp.tsv", sep="\t")
    assert row["chance %"] == pytest.approx(1000 / (regions["volume_mm3"] >= 100).sum())
    beta = table[(table["over"] == "beta") & (table["quantity"] == "sum")]
    assert len(beta) == 1 and beta["sets"].item() == 2


def test_distances_are_those_of_the_written_maps(study: Path) -> None:
    found = pd.read_csv(study / "figures" / "distances-rieke.tsv", sep="\t", index_col=0)
    a, b = (read_scan(study / "maps" / "lrp" / f"{case}.nii.gz").array.astype(float) for case in ("AD", "HC"))
    expected = np.linalg.norm(a / a.sum() - b / b.sum()) / 1e-4
    assert found.loc["LRP (β 0), AD", "LRP (β 0), HC"] == pytest.approx(expected, rel=1e-4)


def test_a_study_that_is_there_is_not_overwritten_unless_told(
    batch: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", str(batch / "people.tsv"), "--results", str(batch / "results"), "--out", str(study), *QUICK]
    assert main(command) == OutputError.exit_code
    assert "holds a study; nothing is overwritten" in capsys.readouterr().err
    (study / "mine.txt").write_text("notes", encoding="utf-8")
    assert main([*command, "--overwrite", "--no-maps"]) == OutputError.exit_code
    assert "mine.txt" in capsys.readouterr().err and (study / "index.html").is_file()
    (study / "mine.txt").unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--covariate", "weight"], "There is no column of covariates in the table named 'weight'"),
        (["--negative", "MCI"], "There is no diagnosis .* named 'MCI'"),
        (["--positive", "HC"], "say --positive and --negative"),
        (["--permutations", "5"], "--permutations must be at least 99, but is 5"),
        (["--volumes", "people.tsv"], "gives no volumes: it needs a column 'subject' and columns called like"),
        (["--volumes", "column:site"], "A"),
        (["--threshold", "2"], ""),
    ],
)
def test_what_cannot_be_computed_is_refused_in_words(
    options: list[str], message: str, batch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(batch)
    command = ["study", "people.tsv", "--results", "results", "--out", str(tmp_path / "out"), *QUICK, "--no-maps"]
    code = main([*command, *options])
    said = capsys.readouterr()
    if message:
        assert code != 0 and re.search(message, said.err) and not (tmp_path / "out").exists()
        assert "Traceback" not in said.err
    else:  # nobody is a true positive: the study is written all the same, without their figures' contents
        assert code == 0, said.err


def test_results_of_other_scans_or_no_batch_are_refused(batch: Path, tmp_path: Path) -> None:
    cohort = read_cohort(batch / "people.tsv")
    with pytest.raises(UsageError):
        gather(cohort, [("x", tmp_path)])
    other = tmp_path / "other.tsv"
    scan = next((batch / "scans").iterdir())
    moved = tmp_path / "scan.nii.gz"
    moved.write_bytes(scan.read_bytes()[:-1] + b"!")
    other.write_text(f"subject\tscan\tdiagnosis\na\t{moved}\tHC\nb\t{moved}2\tAD\n", encoding="utf-8")
    with pytest.raises(CohortError, match="No scan of .* has a result"):
        gather(read_cohort(other), [("x", batch / "results")])


def test_of_each_person_one_scan_counts(batch: Path) -> None:
    """Two sessions of one person are not two people."""
    table = pd.read_csv(batch / "people.tsv", sep="\t")
    table["session"] = "ses-1"
    table.loc[2, ["subject", "session"]] = [table.loc[4, "subject"], "ses-0"]
    twice = batch / "twice.tsv"
    table.to_csv(twice, sep="\t", index=False)
    material = gather(read_cohort(twice), [("x", batch / "results")])
    assert len(material.subjects) == 11
    assert any("was scanned 2 times" in note for note in material.notes)


def test_sets_shared_among_processes_give_the_same_study(batch: Path, tmp_path: Path) -> None:
    """The same bytes of tables and mean maps as in this process."""
    material = gather(read_cohort(batch / "people.tsv"), [("x", batch / "results")])
    material = replace(material, sets=material.sets[:2])
    options = StudyOptions(threshold=threshold(batch), permutations=99, resamples=100)
    found = []
    for name, engine in (("here", None), ("processes", LocalProcesses(Plan(2, 1, 1000.0, "")))):
        running.run_study(material, tmp_path / name, options, engine=engine)
        files = [p for p in (tmp_path / name).rglob("*") if p.suffix in (".csv", ".tsv", ".gz")]
        found.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
    assert len(found[0]) > 5 and found[0] == found[1]


def test_an_interrupted_study_goes_on_with_the_maps_that_were_finished(
    batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = gather(read_cohort(batch / "people.tsv"), [("x", batch / "results")])
    material = replace(material, sets=material.sets[:2])
    options = StudyOptions(threshold=threshold(batch), permutations=99, resamples=100)
    seen: list[str] = []
    stop = Monitor(lambda _, text: seen.append(text), lambda: sum("scan 1 of 12" in text for text in seen) >= 2)
    with pytest.raises(Cancelled):
        running.run_study(material, tmp_path / "out", options, monitor=stop)
    assert not (tmp_path / "out").exists()
    kept = [p.name for p in tmp_path.glob(".out-maps-*/*") if not p.name.endswith("unfinished")]
    assert kept == ["lrp"], "the first set was finished"
    read: list[Path] = []
    real = mean_maps.read_scan
    monkeypatch.setattr(mean_maps, "read_scan", lambda path: read.append(path) or real(path))
    page = running.run_study(material, tmp_path / "out", options)
    assert len(read) == 12 and page.is_file() and list(tmp_path.iterdir()) == [tmp_path / "out"]
    record = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert record["sets"][0]["cases"]["AD"] == 6 and record["subjects"] == 12
    assert all((tmp_path / "out" / name).is_file() for name in record["files"])


def test_volumes_come_from_a_table_or_from_segmentations(batch: Path, tmp_path: Path) -> None:
    material = gather(read_cohort(batch / "people.tsv"), [("x", batch / "results")])
    names = material.regions.name[:2]
    lines = ["subject\t" + "\t".join(names)]
    lines += [f"{s.subject}\t{1000 + n}\tn/a" for n, s in enumerate(material.subjects)]
    (tmp_path / "volumes.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = volumes_from_table(tmp_path / "volumes.tsv", material)
    np.testing.assert_array_equal(found[:, 0], 1000 + np.arange(12))
    assert np.isnan(found[:, 1:]).all()
    labels = np.zeros((6, 6, 6), dtype=np.int16)
    labels[:2, :3, :4] = material.regions.label[1]
    write_volume(Volume(labels, np.diag([2.0, 2, 2, 1])), tmp_path / "own.nii.gz")
    table = pd.read_csv(batch / "people.tsv", sep="\t").assign(segmentation=str(tmp_path / "own.nii.gz"))
    table.loc[3, "segmentation"] = "n/a"
    table.to_csv(batch / "segmented.tsv", sep="\t", index=False)
    material = gather(read_cohort(batch / "segmented.tsv"), [("x", batch / "results")])
    found = volumes_of_segmentations("segmentation", batch / "segmented.tsv", material, Monitor())
    np.testing.assert_allclose(np.delete(found, 3, axis=0)[:, 1], 24 * 8)
    assert np.isnan(found[3]).all() and (np.delete(found, 3, axis=0)[:, 0] == 0).all()
