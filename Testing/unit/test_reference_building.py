"""Building reference cohorts: growing, what is refused, and that every control counts once."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_reference import covariates_of, small_control

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cli import main
from ADAttributionLogic.cohort.table import read_cohort
from ADAttributionLogic.errors import OutputError, ReferenceCohortError, UsageError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.explanation import MethodRequest
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.preprocessing.pipeline import Options
from ADAttributionLogic.reference.accumulation import Accumulation, Control
from ADAttributionLogic.reference.building import BuildOptions, Built, build_reference
from ADAttributionLogic.reference.covariates import design_of
from ADAttributionLogic.reference.moments import VoxelMoments
from ADAttributionLogic.reference.package import Reference, read_reference
from ADAttributionLogic.reference.writing import About, check_reference_folder, write_reference
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.volume import Volume

ASKED = BatchOptions([MethodRequest("gradient-x-input")])


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small controls."""
    folder = tmp_path_factory.mktemp("controls")
    for seed in range(6):
        write_volume(small_control(seed), folder / f"c{seed}.nii.gz")
    return folder


def write_table(path: Path, scans: Path, seeds: range | list[int], extra: str = "") -> Path:
    lines = ["scan\tsubject\tsession\tdiagnosis\tage\tsex"]
    for seed in seeds:
        known = covariates_of(seed)
        lines.append(f"{scans}/c{seed}.nii.gz\tp{seed}\t1\tCN\t{known['age']}\t{known['sex']}")
    path.write_text("\n".join(lines) + "\n" + extra, encoding="utf-8")
    return path


def build(table: Path, model: Model, out: Path, **options: object) -> Built:
    return build_reference(read_cohort(table), model, ASKED, [load_atlas("aal")], out, BuildOptions(**options))


def same(one: Reference, other: Reference) -> None:
    method = "gradient-x-input"
    np.testing.assert_allclose(one.voxel_mean(method).array, other.voxel_mean(method).array, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(one.voxel_sd(method).array, other.voxel_sd(method).array, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(one.mean_scan().array, other.mean_scan().array, rtol=1e-6)
    for quantity in ("sum", "share"):
        here, there = (r.regions(method, "aal")[quantity] for r in (one, other))
        for name in ("mean", "sd", "quantiles", "coefficients", "residual_sd"):
            np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=1e-7, atol=1e-15)


# ------------------------------------------------------------------------------------------------------------- growing


def test_a_reference_grows_without_starting_over_into_what_one_build_gives(
    scans: Path, small_model: Model, tmp_path: Path
) -> None:
    """Table by table on the command line's way, against all at once; also with somebody taken out again."""
    rows: list[str] = []

    def grow(seeds: range) -> Built:
        cohort = read_cohort(write_table(tmp_path / "table.tsv", scans, seeds))
        options = BuildOptions(covariates=["age"] if len(seeds) > 4 else [])
        return build_reference(cohort, small_model, ASKED, [load_atlas("aal")], tmp_path / "ref", options,
                               on_row=lambda row: rows.append(row["status"]))  # fmt: skip

    assert grow(range(3)).taken == 3 and read_reference(tmp_path / "ref").n == 3
    assert grow(range(6)).taken == 3, "the first three were taken up before"
    assert rows == ["done"] * 3 + ["done before"] * 3 + ["done"] * 3
    grown = read_reference(tmp_path / "ref")
    assert grown.n == 6 and grown.covariates is not None
    write_table(tmp_path / "all.tsv", scans, range(6))
    options = BuildOptions(covariates=["age"])
    build_reference(read_cohort(tmp_path / "all.tsv"), small_model, ASKED, [load_atlas("aal")], tmp_path / "whole",
                    options, work=tmp_path / "ref.work")  # fmt: skip
    same(grown, read_reference(tmp_path / "whole"))
    taken = build(write_table(tmp_path / "fewer.tsv", scans, [0, 2, 4]), small_model, tmp_path / "ref").taken
    assert taken == 3, "sums cannot be taken back: they are summed anew, from maps that are there"
    assert read_reference(tmp_path / "ref").n == 3


def test_moments_are_numpys_and_two_parts_join(small_model: Model) -> None:
    maps = np.random.default_rng(0).normal(1e4, 1e-2, size=(40, 7, 6, 5))
    one, first, second = (VoxelMoments((7, 6, 5)) for _ in range(3))
    for number, each in enumerate(maps):
        one.add(each)
        (first if number < 15 else second).add(each)
    first.join(second)
    for moments in (one, first):
        np.testing.assert_allclose(moments.mean, maps.mean(0), rtol=1e-14)
        np.testing.assert_allclose(moments.sd, maps.std(0, ddof=1), rtol=1e-7)
    assert np.isnan(VoxelMoments((2,)).sd).all()
    with pytest.raises(ValueError, match="cannot be added"):
        one.add(np.zeros((3, 3, 3)))


def test_rounded_maps_are_as_right_as_the_card_says(small_controls: list, tmp_path: Path) -> None:
    from small_reference import accumulate_small

    found = accumulate_small(small_controls)
    exact = read_reference(write_reference(found, tmp_path / "exact", About()))
    rounded = read_reference(write_reference(found, tmp_path / "rounded", About(), rounded=True))
    brain = exact.mean_scan().array != 0
    mean, sd = exact.voxel_mean("lrp").array, exact.voxel_sd("lrp").array
    assert (np.abs(rounded.voxel_mean("lrp").array - mean)[brain] <= sd[brain] / 16 * 1.0001).all()
    assert (np.abs(rounded.voxel_sd("lrp").array - sd)[brain] <= 0.032 * sd[brain]).all()
    assert not rounded.voxel_sd("lrp").array[~brain].any()
    top = np.abs(exact.mean_scan().array).max()
    assert np.abs(rounded.mean_scan().array - exact.mean_scan().array).max() <= 0.008 * top
    assert ((rounded.mean_scan().array != 0) == brain).all(), "what is brain stays brain"
    assert "rounded" in rounded.card["voxel_precision"] and exact.card["voxel_precision"] == "float32"
    sizes = [sum(p.stat().st_size for p in r.folder.glob("*.nii.gz")) for r in (rounded, exact)]
    assert sizes[0] < 0.5 * sizes[1]


# ---------------------------------------------------------------------------------------- who counts, and who does not


def test_of_a_person_who_was_scanned_twice_the_first_scan_counts(
    scans: Path, small_model: Model, tmp_path: Path
) -> None:
    extra = f"{scans}/c4.nii.gz\tp0\t2\tCN\t62\tF\n{scans}/c5.nii.gz\tpatient\t1\tAD\t70\tF\n"
    built = build(write_table(tmp_path / "t.tsv", scans, range(3), extra), small_model, tmp_path / "ref")
    assert built.n == 3 and "p0 was scanned 2 times; only the first scan (1) counts." in built.notes
    card = (tmp_path / "ref" / "reference.json").read_text(encoding="utf-8")
    assert "1 persons were scanned several times" in card and "p0" not in card, "the card names nobody"
    maps = tmp_path / "ref.work" / "maps"
    assert len([p for p in maps.iterdir() if p.is_dir()]) == 3, "neither the second session nor the patient"


def test_controls_that_cannot_be_used_are_named_or_left_out(scans: Path, small_model: Model, tmp_path: Path) -> None:
    flat = small_control(0).with_array(np.ones((78, 92, 78), np.float32))
    write_volume(flat, tmp_path / "flat.nii.gz")
    moved = small_control(1)
    write_volume(moved.with_array(np.roll(moved.array, (20, 20, 20), (0, 1, 2))), tmp_path / "moved.nii.gz")
    extra = f"{tmp_path}/flat.nii.gz\tflat\t1\tCN\t70\tF\n{tmp_path}/moved.nii.gz\tmoved\t1\tCN\t70\tM\n"
    early = f"{tmp_path}/gone.nii.gz\tgone\t1\tCN\t70\tF\n{scans}/c5.nii.gz\tageless\t1\tCN\tn/a\tM\n"
    table = write_table(tmp_path / "t.tsv", scans, range(5), extra + early)
    with pytest.raises(ReferenceCohortError, match=r"2 of 9 controls cannot be used\. gone.* is not there\..*ageless"
                       r".*: age is not known"):  # fmt: skip
        build(table, small_model, tmp_path / "ref", covariates=["age"])
    assert not (tmp_path / "ref.work").exists(), "before anything was computed"
    built = build(table, small_model, tmp_path / "ref", covariates=["age"], leave_out=True)
    assert built.n == 5 and len([n for n in built.notes if n.startswith("Left out")]) == 4
    assert "4 of 9 controls could not be used" in " ".join(read_reference(tmp_path / "ref").card["notes"])
    with pytest.raises(ReferenceCohortError, match=r"2 of 7 .* flat, 1 .*constant.* moved, 1 .*not registered"):
        build(write_table(tmp_path / "t.tsv", scans, range(5), extra), small_model, tmp_path / "other")


def test_one_control_is_no_reference(scans: Path, small_model: Model, tmp_path: Path) -> None:
    with pytest.raises(ReferenceCohortError, match="A reference of 1 control has no spread"):
        build(write_table(tmp_path / "t.tsv", scans, [0]), small_model, tmp_path / "ref")
    assert not (tmp_path / "ref").exists()
    with pytest.raises(ReferenceCohortError, match=r"2 controls are too few for the covariates age: .* at least 4"):
        build(write_table(tmp_path / "t.tsv", scans, range(2)), small_model, tmp_path / "ref", covariates=["age"])
    with pytest.raises(ReferenceCohortError, match="no column iq; beside scan, subject and diagnosis it has age, sex"):
        build(write_table(tmp_path / "t.tsv", scans, range(2)), small_model, tmp_path / "ref", covariates=["iq"])


def test_one_scan_under_two_names_is_refused(scans: Path, small_model: Model, tmp_path: Path) -> None:
    (tmp_path / "copy.nii.gz").write_bytes((scans / "c0.nii.gz").read_bytes())
    table = write_table(tmp_path / "t.tsv", scans, range(2), f"{tmp_path}/copy.nii.gz\tq\t1\tCN\t70\tF\n")
    with pytest.raises(Exception, match="have the same scan"):
        build(table, small_model, tmp_path / "ref")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"sex": "F"}] * 9, "sex is F for all controls"),
        ([{"age": str(a), "months": str(12 * a)} for a in range(60, 70)], "age, months follow from one another"),
        ([{"age": "60"}, {"age": "inf"}] * 5, "not finite"),
    ],
)
def test_covariates_that_nothing_can_be_adjusted_for(values: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ReferenceCohortError, match=message):
        design_of(values, list(values[0]))


# ------------------------------------------------------------------------------------------------ maps that are refused


@pytest.fixture
def empty(small_controls: list) -> tuple[Accumulation, object]:
    from small_reference import accumulate_small

    return accumulate_small(small_controls[:2]), small_controls[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.__setitem__((40, 40, 40), np.nan), "has 1 voxels of 559728 that are NaN"),
        (lambda a: a.__setitem__((slice(2),), np.inf), "that are NaN or infinite"),
        (lambda a: a.fill(0), "is 0 everywhere"),
    ],
)
def test_maps_that_would_spoil_a_reference(empty: tuple, change: object, message: str) -> None:
    found, one = empty
    maps = {h.name: h.volume.with_array(h.volume.array.copy()) for h in one.heatmaps}
    change(maps["lrp"].array)
    before = found.moments["gradient-x-input"].n
    with pytest.raises(ReferenceCohortError, match=message):
        found.add(Control("new", "", "x"), one.provenance, maps, one.model_input.volume)
    assert found.n == 2 and before == found.moments["gradient-x-input"].n, "nothing was taken"


def test_maps_of_another_question_and_persons_that_are_known(empty: tuple) -> None:
    found, one = empty
    maps = {h.name: h.volume for h in one.heatmaps}
    scan = one.model_input.volume
    with pytest.raises(ReferenceCohortError, match=r"map lrp of new was asked otherwise: it starts from logit"):
        found.add(Control("new", "", "x"), {**one.provenance, "start": "logit"}, maps, scan)
    with pytest.raises(ReferenceCohortError, match="new has no map lrp, only none"):
        found.add(Control("new", "", "x"), one.provenance, {}, scan)
    with pytest.raises(ReferenceCohortError, match="sub-00 is in the reference already"):
        found.add(Control("sub-00", "2", "x"), one.provenance, maps, scan)
    with pytest.raises(ReferenceCohortError, match="sub-01 and new have the same scan"):
        found.add(Control("new", "", found.controls[1].scan_sha256), one.provenance, maps, scan)


def test_maps_without_any_spread(empty: tuple, tmp_path: Path) -> None:
    _, one = empty
    found = Accumulation(empty[0].question, empty[0].methods, [load_atlas("aal")])
    maps = {h.name: h.volume for h in one.heatmaps}
    for name in ("a", "b", "c"):
        found.add(Control(name, "", name), one.provenance, maps, one.model_input.volume)
    with pytest.raises(ReferenceCohortError, match="maps lrp of all 3 controls are equal in every voxel"):
        write_reference(found, tmp_path / "ref", About())


def test_a_region_without_spread_is_told(empty: tuple, tmp_path: Path) -> None:
    found, one = empty
    labels = load_atlas("aal").on_grid(found.grid).labels.array == 4102
    again = Accumulation(found.question, found.methods, [load_atlas("aal")])
    for number in range(3):
        maps = {h.name: h.volume.with_array(np.where(labels, 1, h.volume.array * (1 + number))) for h in one.heatmaps}
        again.add(Control(f"p{number}", "", f"{number}"), one.provenance, maps, one.model_input.volume)
    notes = " ".join(read_reference(write_reference(again, tmp_path / "ref", About())).card["notes"])
    assert "the same sum in 1 of 120 regions of aal (Hippocampus_R), so that there is no z of them" in notes


def test_questions_that_no_reference_can_have(scans: Path, small_model: Model, tmp_path: Path) -> None:
    cohort = read_cohort(write_table(tmp_path / "t.tsv", scans, range(2)))
    aal = load_atlas("aal")
    for asked, atlases, message in (
        (BatchOptions([MethodRequest("lrp")], target="predicted"), [aal], "predicted class differs from scan to scan"),
        (BatchOptions([MethodRequest("lrp")], member_sd=True), [aal], "leave out --member-sd"),
        (BatchOptions([MethodRequest("area-occlusion")]), [aal, aal], "covers the regions of one atlas, but 2"),
    ):
        with pytest.raises(UsageError, match=message):
            build_reference(cohort, small_model, asked, atlases, tmp_path / "ref")


# ---------------------------------------------------------------------------------------------------- places and files


def test_nothing_of_somebody_else_is_overwritten(small_reference: Reference, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(OutputError, match="nothing is overwritten"):
        check_reference_folder(tmp_path / "mine")
    (tmp_path / "mine" / "reference.json").write_text("{", encoding="utf-8")
    with pytest.raises(OutputError, match="holds a reference that is damaged; it is not overwritten"):
        check_reference_folder(tmp_path / "mine")


def test_the_commands(scans: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my-controls"
    table = write_table(tmp_path / "t.tsv", scans, range(5))
    command = ["reference", "build", str(table), "--model", str(small_package), "--method", "gradient-x-input"]
    command += ["--atlas", "aal", "--covariate", "age", "--title", "Our controls", "--out", str(out)]
    assert main(command) == 0 and "5 controls, 5 of them taken up now" in capsys.readouterr().out
    assert main(command) == 0 and "5 controls, 0 of them taken up now" in capsys.readouterr().out
    more = write_table(tmp_path / "more.tsv", scans, [5])
    assert main(["reference", "add", str(out), str(more)]) == 0
    assert "6 controls, 1 of them taken up now" in capsys.readouterr().out
    assert main(["reference", "show", str(out)]) == 0
    shown = capsys.readouterr().out
    for text in ("Our controls (my-controls)", "adjusted for  age", "Untrained network for tests",
                 "AD, start probability", "aal (120 regions)", "Only 6 controls"):  # fmt: skip
        assert text in shown
    assert main(["reference", "show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 6
    assert main(["reference", "add", str(out), str(more), "--work", str(tmp_path)]) == 2
    assert "A reference holds nobody's data" in capsys.readouterr().err
    assert main([*command[:-4], "--out", str(out), "--start", "logit"]) == 6, "the maps answer another question"
    assert main(["reference", "show", str(tmp_path)]) == 8
    assert main(["reference"]) == 0


def test_a_batch_may_be_cut_off_and_a_state_damaged(scans: Path, small_model: Model, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.tsv", scans, range(3))
    build(table, small_model, tmp_path / "ref")
    (tmp_path / "ref.work" / "taken" / "scan-mean.npy").write_bytes(b"")
    with pytest.raises(ReferenceCohortError, match=r"scan-mean\.npy is missing or damaged\. Remove the folder"):
        build(table, small_model, tmp_path / "ref")


def test_the_scan_as_the_network_saw_it_is_kept(scans: Path, small_model: Model, tmp_path: Path) -> None:
    """Prepared again from its file: exactly what was explained."""
    build(write_table(tmp_path / "t.tsv", scans, range(2)), small_model, tmp_path / "ref")
    from ADAttributionLogic.preprocessing.model_input import prepare

    seen = [prepare(small_control(s), small_model.grid, small_model.normalisation).array for s in range(2)]
    mean = read_reference(tmp_path / "ref").mean_scan()
    np.testing.assert_allclose(mean.array, np.mean(seen, axis=0, dtype=np.float64), rtol=1e-6, atol=1e-7)
    assert isinstance(mean, Volume)


def test_controls_that_are_prepared_first(scans: Path, small_model: Model, tmp_path: Path) -> None:
    """The mean scan is that of the brains that the preparation has kept; the card says how they were registered."""
    asked = replace(
        ASKED,
        preparation=Preparation(Options(registration="affine", registered=True), "model", accept_quality=True),
        cache=tmp_path / "cache",
    )
    cohort = read_cohort(write_table(tmp_path / "t.tsv", scans, range(2)))
    build_reference(cohort, small_model, asked, [load_atlas("aal")], tmp_path / "ref")
    reference = read_reference(tmp_path / "ref")
    assert reference.question["registration"] == "affine"
    seen = []
    for folder in sorted(p for p in (tmp_path / "ref.work" / "maps").iterdir() if p.is_dir()):
        brain = read_scan(folder / "preprocessing" / "brain.nii.gz")
        found = explain(brain, small_model, ["gradient-x-input"], with_spread=False)
        np.testing.assert_allclose(
            found.heatmaps[0].volume.array, read_scan(folder / "heatmaps" / "gradient-x-input.nii.gz").array, rtol=1e-5
        )
        seen.append(found.model_input.array)
    np.testing.assert_allclose(reference.mean_scan().array, np.mean(seen, axis=0, dtype=float), rtol=1e-6, atol=1e-7)


def test_the_readmes_commands_run(
    scans: Path, small_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand, but with the small network."""
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("ad-attribution reference ")]
    assert [line.split()[2] for line in commands] == ["build", "show", "add"]
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "participants.tsv", scans, range(5))
    write_table(tmp_path / "more-participants.tsv", scans, [5])
    for line in commands:
        assert main([w.replace("simulated-atrophy", str(small_package)) for w in shlex.split(line)[1:]]) == 0
    assert read_reference("our-controls").n == 6
