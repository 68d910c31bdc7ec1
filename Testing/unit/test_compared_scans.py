"""A scan explained against a reference of controls: in Python, on the command line, in batches, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter
from small_reference import covariates_of, small_control

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cli import main
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.command_options.reference import asked_by_reference
from ADAttributionLogic.comparison.comparing import Against, compare
from ADAttributionLogic.comparison.covariate_text import parse_covariates
from ADAttributionLogic.errors import ReferenceCohortError, ScanError, UnknownNameError, UsageError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.explanation import Explanation, MethodRequest
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.reference.package import Reference
from ADAttributionLogic.relevance.region_table import with_scores
from ADAttributionLogic.report.result_folder import write_explanation
from ADAttributionLogic.report.result_reading import read_result
from ADAttributionLogic.scan_files import write_volume


@pytest.fixture(scope="session")
def compared(small_reference: Reference, small_model: Model) -> Explanation:
    """A man of 71 whom the reference does not know."""
    against = Against(small_reference, {"age": "71", "sex": "M"}, quantity="sum")
    methods = ["lrp", "guided-backprop"]
    scan = small_control(40, age=71)
    return explain(scan, small_model, methods, atlas=load_atlas("aal"), against=against, with_spread=False)


# --------------------------------------------------------------------------------------------------------- what it says


def test_the_table_has_what_the_controls_say(compared: Explanation, small_controls: list[Explanation]) -> None:
    """Against scipy and counting over the controls' own tables."""
    table = compared.heatmaps[0].table
    assert table is not None
    controls = np.array([c.heatmaps[0].table.columns["sum"] for c in small_controls])[:, :-1]  # type: ignore[union-attr]
    own = table.columns["sum"][:-1]
    np.testing.assert_allclose(table.columns["z"][:-1], stats.zmap(own[None], controls, 0, 1)[0], rtol=1e-6)
    np.testing.assert_allclose(table.columns["gain"][:-1], own / controls.mean(axis=0), rtol=1e-6)
    floor = np.maximum(controls.mean(axis=0), controls.std(axis=0, ddof=1))
    np.testing.assert_allclose(table.columns["gain_floor"][:-1], own / floor, rtol=1e-6)
    counted = 100 * (controls < own).mean(axis=0)
    assert np.abs(table.columns["percentile"][:-1] - counted).max() < 100 / 12
    outside = [table.columns[name][-1] for name in ("z", "percentile", "gain", "z_adjusted")]
    assert np.isnan(outside).all(), "nothing is known of what lies outside the atlas"


def test_a_map_that_repeats_the_probability_is_compared_by_its_shares(
    small_reference: Reference, small_controls: list[Explanation]
) -> None:
    """Of a map of twice the relevance, no share and no voxel is more unusual; the gain doubles."""
    once = compare(small_controls[0], Against(small_reference))
    lrp = small_controls[0].heatmaps[0]
    doubled = lrp.volume.with_array(lrp.volume.array * 2)
    assert lrp.table is not None
    columns = lrp.table.columns | {name: lrp.table.columns[name] * 2 for name in ("sum", "absolute_sum")}
    twice = replace(lrp, volume=doubled, table=replace(lrp.table, columns=columns))
    again = compare(replace(small_controls[0], heatmaps=(twice,)), Against(small_reference))
    assert {m.quantity for m in once.comparison.maps} == {"magnitude_share"}  # type: ignore[union-attr]
    first, second = once.heatmaps[0].table, again.heatmaps[0].table
    assert first is not None and second is not None
    np.testing.assert_allclose(first.columns["z"], second.columns["z"])
    np.testing.assert_allclose(2 * first.columns["gain"], second.columns["gain"])
    np.testing.assert_allclose(once.heatmaps[1].volume.array, again.heatmaps[1].volume.array, atol=1e-4)
    controls = np.array([c.heatmaps[0].table.columns["share"][:-1] for c in small_controls])  # type: ignore[union-attr]
    np.testing.assert_allclose(first.columns["z"][:-1], stats.zmap(controls[:1], controls, 0, 1)[0], rtol=1e-5)


def test_what_maps_are_compared_by(small_reference: Reference, small_controls: list[Explanation]) -> None:
    """DeepLIFT adds up to P less that of the controls' mean, among controls about 0: by sums all would be unusual."""
    lrp, against = small_controls[0].heatmaps[0], Against(small_reference)
    card = {key: value for key, value in small_reference.card.items() if key != "pattern"}
    earlier = Against(replace(small_reference, card=card))
    assert (against.quantity_of(lrp), earlier.quantity_of(lrp)) == ("magnitude_share", "share")
    for name in ("deeplift", "integrated-gradients"):
        other = replace(lrp, method=get_method(name))
        assert (against.quantity_of(other), earlier.quantity_of(other)) == ("magnitude_share", "sum"), name
    assert Against(small_reference, quantity="share").quantity_of(lrp) == "share"
    logit = replace(lrp, attribution=replace(lrp.attribution, start="logit"))
    assert against.quantity_of(logit) == earlier.quantity_of(logit) == "sum"


def test_the_z_of_voxels_is_that_of_the_smoothed_parts_of_the_map(
    small_reference: Reference, small_controls: list[Explanation]
) -> None:
    """On the voxels that were kept: against scipy on the controls' own maps, smoothed."""
    width = 6 / 2.3548200450309493 / 2.5
    maps = [c.heatmaps[0].volume.array.astype(np.float64) for c in small_controls]
    smooth = np.stack([gaussian_filter(m / np.abs(m).sum(), width, mode="constant", truncate=8) for m in maps])
    found = compare(small_controls[3], Against(small_reference)).heatmaps[1]
    inside = small_reference.voxel_sd("lrp").array > 0
    sd = smooth.std(0, ddof=1)
    kept = np.zeros_like(inside)
    kept[::2, ::2, ::2] = (inside & (sd > 0.01 * sd.max()))[::2, ::2, ::2]
    expected = (smooth[3] - smooth.mean(0))[kept] / sd[kept]
    np.testing.assert_allclose(found.volume.array[kept], expected, rtol=0.01, atol=0.01)
    assert not found.volume.array[~inside].any() and np.isfinite(found.volume.array).all()
    other = compare(small_controls[3], Against(small_reference, smoothing_mm=5.0)).heatmaps[1]
    assert np.abs(other.volume.array[kept]).mean() < np.abs(expected).mean(), "of single voxels, z is smaller"


def test_regions_are_ranked_by_z_beside_density_and_small_ones_are_not(compared: Explanation) -> None:
    table = compared.heatmaps[0].table
    assert table is not None
    ranked = table.ranked("z_rank")
    assert [row["z"] for row in ranked] == sorted((row["z"] for row in ranked), reverse=True)
    assert len(ranked) == len(table.ranked("density_rank")) and ranked[0]["z_rank"] == 1
    outside = table.rows()[-1]
    assert outside["z_rank"] == outside["z_adjusted_rank"] == 0


def test_a_small_region_has_a_z_and_no_rank(compared: Explanation) -> None:
    table = compared.heatmaps[0].table
    assert table is not None
    volumes = table.columns["volume_mm3"].copy()
    volumes[4] = 99.0
    shrunken = with_scores(replace(table, columns={**table.columns, "volume_mm3": volumes}), {})
    assert shrunken.columns["z_rank"][4] == shrunken.columns["z_adjusted_rank"][4] == 0
    assert np.isfinite(shrunken.columns["z"][4]) and table.columns["z_rank"][4] > 0


def test_the_adjusted_z_is_that_of_least_squares_on_the_controls(
    compared: Explanation, small_controls: list[Explanation]
) -> None:
    import pandas as pd
    import statsmodels.formula.api as smf

    rows = pd.DataFrame([covariates_of(s) for s in range(12)]).astype({"age": float})
    table = compared.heatmaps[0].table
    assert table is not None
    for region in (3, 40, 90):
        rows["y"] = [c.heatmaps[0].table.columns["sum"][region] for c in small_controls]  # type: ignore[union-attr]
        fitted = smf.ols("y ~ age + C(sex)", rows).fit()
        new = fitted.get_prediction(pd.DataFrame([{"age": 71.0, "sex": "M"}])).summary_frame(alpha=0.05).iloc[0]
        row = {name: column[region] for name, column in table.columns.items()}
        assert row["expected"] == pytest.approx(new["mean"], rel=1e-6)
        assert row["expected_low"] == pytest.approx(new["obs_ci_lower"], rel=1e-6)
        assert row["expected_high"] == pytest.approx(new["obs_ci_upper"], rel=1e-6)
        assert row["z_adjusted"] == pytest.approx((row["sum"] - new["mean"]) / np.sqrt(fitted.mse_resid), rel=1e-5)
        assert row["z_adjusted_low"] < row["z_adjusted"] < row["z_adjusted_high"]


def test_the_z_map_is_one_more_map_and_shares_the_table(compared: Explanation) -> None:
    lrp, z, guided = compared.heatmaps
    assert (z.name, z.z_of, guided.name) == ("lrp-z", "lrp", "guided-backprop")
    assert z.table is lrp.table and z.volume.grid.is_same(lrp.volume.grid)
    assert np.isfinite(z.volume.array).all() and np.abs(z.volume.array).max() > 1
    assert compared.provenance["methods"]["lrp-z"]["z_of"] == "lrp"
    assert "smoothed by 6 mm" in compared.provenance["methods"]["lrp-z"]["notes"][0]


def test_the_comparison_says_with_whom_and_what_to_mind(compared: Explanation) -> None:
    comparison, record = compared.comparison, compared.provenance["comparison"]
    assert comparison is not None and record == comparison.describe()
    assert (record["reference"], record["controls"], record["covariates"]) == (
        "small-controls",
        12,
        {"age": "71", "sex": "M"},
    )
    assert record["maps"]["lrp"]["limit"] == pytest.approx(2.291, abs=1e-3)
    assert record["maps"]["lrp"]["quantity"] == "sum"
    text = " ".join(record["notices"])
    assert "only 12 controls" in text and "Not compared" in text and "Guided backpropagation" in text
    assert set(record["notices"]) <= set(compared.provenance["notes"])
    json.dumps(record, allow_nan=False)


def test_without_an_atlas_there_is_only_the_z_map(small_reference: Reference, small_model: Model) -> None:
    found = explain(small_control(40), small_model, ["lrp"], against=Against(small_reference), with_spread=False)
    assert [h.name for h in found.heatmaps] == ["lrp", "lrp-z"] and found.heatmaps[1].table is None


def test_the_mean_of_the_controls_covers_tissue_in_occlusion(small_reference: Reference, small_model: Model) -> None:
    """The same as giving that scan, normalised, by hand; no scan was given for the fill."""
    requests = [
        MethodRequest("lrp"),
        MethodRequest("occlusion", {"fill": "reference", "size": 30, "stride": 30}),
    ]
    against, mean = Against(small_reference), small_reference.mean_scan()
    scan = small_control(41)
    found = explain(scan, small_model, requests, against=against, with_spread=False).heatmaps[2]
    untouched = replace(small_model, normalisation=replace(small_model.normalisation, kind="none"))
    seen = explain(scan, small_model, ["lrp"], with_spread=False).model_input.volume
    by_hand = explain(seen, untouched, requests[1:], reference=mean, with_spread=False).heatmaps[0]
    np.testing.assert_allclose(found.volume.array, by_hand.volume.array, atol=1e-6)
    assert np.abs(found.volume.array).max() > 0


# ----------------------------------------------------------------------------------------------------- what is refused


def refused(
    reference: Reference, model: Model, match: str, kind: type[Exception] = ReferenceCohortError, **options: object
) -> None:
    given = {"atlas": load_atlas("aal"), "methods": ["lrp"], "covariates": {}} | options
    against = Against(reference, given.pop("covariates"))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(kind, match=match):
        patch.delattr("ADAttributionLogic.explain.run")  # it is refused before anything is computed
        explain(small_control(40), model, given.pop("methods"), against=against, **given)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[str, type[Exception], dict[str, object]]] = {
    "another atlas": ("not of the atlas neuromorphometrics", ReferenceCohortError, {"atlas": "neuromorphometrics"}),
    "another start": ("starts from logit, not probability", ReferenceCohortError, {"start": "logit"}),
    "another class": ("explains CN, not AD", ReferenceCohortError, {"target": "CN"}),
    "other options": ("beta is 0.5, not 0", ReferenceCohortError, {"methods": [MethodRequest("lrp", {"beta": 0.5})]}),
    "no method of it": ("none of sensitivity", ReferenceCohortError, {"methods": ["sensitivity"]}),
    "a covariate is missing": ("of this scan age is not known", ReferenceCohortError, {"covariates": {"sex": "F"}}),
    "an unknown covariate": (
        "no covariate in this reference named 'sez'",
        UnknownNameError,
        {"covariates": {"sez": "F"}},
    ),
    "an unknown category": (
        "sex is D, which no control",
        ReferenceCohortError,
        {"covariates": {"age": "70", "sex": "D"}},
    ),
    "no number": ("age is 'old'", ReferenceCohortError, {"covariates": {"age": "old", "sex": "F"}}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_asked_otherwise_is_refused(case: str, small_reference: Reference, small_model: Model) -> None:
    match, kind, options = REFUSED[case]
    given = dict(options)
    if isinstance(given.get("atlas"), str):
        given["atlas"] = load_atlas(str(given["atlas"]))
    refused(small_reference, small_model, match, kind, **given)


@pytest.mark.parametrize(
    "case", ["another atlas", "another start", "another class", "other options", "no method of it", "no number"]
)
def test_it_is_refused_before_a_registration_is_paid_for(
    case: str, small_reference: Reference, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    match, kind, options = REFUSED[case]
    given = {"atlas": "aal", "methods": ["lrp"], "covariates": {}} | options
    against = Against(small_reference, given.pop("covariates"))  # type: ignore[arg-type]
    atlas, methods = load_atlas(str(given.pop("atlas"))), given.pop("methods")
    monkeypatch.delattr("ADAttributionLogic.explain_native.preprocess_for")
    with pytest.raises(kind, match=match):
        explain_native(small_control(40), small_model, methods, atlas=atlas, against=against, **given)  # type: ignore[arg-type]


def test_another_network_is_refused(small_reference: Reference, small_model: Model) -> None:
    other = replace(small_model, name="other", weights_sha256="0" * 64)
    refused(small_reference, other, "its network is other, not")


def test_a_class_that_is_predicted_only_later_is_compared_then(small_reference: Reference, small_model: Model) -> None:
    """Whichever it is: asked as the reference was it passes, else it is refused by its name."""
    scan, atlas = small_control(40), load_atlas("aal")
    predicted = explain(scan, small_model, ["lrp"], target="predicted", atlas=atlas, with_spread=False)
    if predicted.target_class == "AD":
        assert compare(predicted, Against(small_reference)).comparison is not None
    else:
        with pytest.raises(ReferenceCohortError, match="explains CN, not AD"):
            compare(predicted, Against(small_reference))


def test_a_map_with_nan_is_refused(small_reference: Reference, small_controls: list[Explanation]) -> None:
    heatmap = small_controls[0].heatmaps[0]
    broken = heatmap.volume.array.copy()
    broken[4, 5, 6] = np.nan
    heatmaps = (replace(heatmap, volume=heatmap.volume.with_array(broken)), *small_controls[0].heatmaps[1:])
    with pytest.raises(ScanError, match="1 NaN or infinite voxels"):
        compare(replace(small_controls[0], heatmaps=heatmaps), Against(small_reference))


def test_an_age_that_no_control_had_is_said_with_the_range(
    small_reference: Reference, small_controls: list[Explanation]
) -> None:
    found = compare(small_controls[0], Against(small_reference, {"age": "93", "sex": "F"}))
    assert found.comparison is not None
    (notice,) = [n for n in found.comparison.notices if "93" in n]
    assert notice.startswith("age 93 is outside the reference's range (60 to 8")


def test_without_covariates_it_is_said_that_there_could_be_some(
    small_reference: Reference, small_controls: list[Explanation]
) -> None:
    found = compare(small_controls[0], Against(small_reference))
    assert any("not adjusted" in n and "age, sex" in n for n in found.provenance["notes"])
    assert "z_adjusted" not in found.heatmaps[0].table.columns  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "texts, message", [(["age"], "NAME=VALUE"), (["=3"], "NAME=VALUE"), (["age=1", "age=2"], "given twice")]
)
def test_covariates_are_written_as_name_and_value(texts: list[str], message: str) -> None:
    assert parse_covariates(["age=71, sex=F", "site = A "]) == {"age": "71", "sex": "F", "site": "A"}
    with pytest.raises(UsageError, match=message):
        parse_covariates(texts)


# --------------------------------------------------------------------------------------------------------------- files


def test_a_result_is_written_and_read_back(compared: Explanation, tmp_path: Path) -> None:
    folder = write_explanation(compared, tmp_path / "result")
    names = {p.name for p in (folder / "tables").iterdir()}
    assert {"lrp.csv", "lrp.json", "guided-backprop.csv"} <= names and not any("lrp-z" in n for n in names)
    rows = list(csv.DictReader((folder / "tables" / "lrp.csv").open(encoding="utf-8")))
    assert float(rows[0]["z"]) == pytest.approx(float(compared.heatmaps[0].table.columns["z"][0]))  # type: ignore[union-attr]
    assert rows[-1]["z_rank"] == rows[-1]["z"] == "n/a"
    answer, _ = read_result(folder, small_control(40, age=71))
    z = answer.maps[1]
    assert z.name == "lrp-z" and z.table is not None and answer.provenance["comparison"]["controls"] == 12
    np.testing.assert_allclose(z.volume.array, compared.heatmaps[1].volume.array, rtol=1e-6)
    for name, column in compared.heatmaps[0].table.columns.items():  # type: ignore[union-attr]
        read = z.table.columns[name]
        assert list(read) == list(column) if column.dtype == object else np.allclose(read, column, equal_nan=True), name


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    return write_volume(small_control(40, age=71), tmp_path / "scan.nii.gz")


@pytest.fixture
def command(scan_file: Path, small_package: Path, small_reference: Reference, tmp_path: Path) -> Callable[..., int]:
    def run(*options: str) -> int:
        fixed = ["explain", str(scan_file), "--model", str(small_package), "--out", str(tmp_path / "out")]
        return main([*fixed, "--no-figure", "--no-scene", "--reference", str(small_reference.folder), *options])

    return run


def test_the_command_line_compares(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--covariate", "age=71", "--covariate", "sex=M", "--smoothing", "8", "--top", "3") == 0
    said = capsys.readouterr()
    assert "lrp against 12 controls (Twelve small controls)" in said.out and "z adjusted" in said.out
    assert "only 12 controls" in said.err
    assert "No method was chosen" in said.err and "gradient-x-input against 12 controls" in said.out


def test_without_a_method_it_is_asked_as_the_reference_was(
    small_reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its options and its start; a start that the user gives stays, and is refused by name afterwards."""
    card = json.loads(json.dumps(dict(small_reference.card)))
    card["methods"]["lrp"]["options"]["beta"] = 0.5
    card["question"] |= {"start": "distance", "start_reference": 2.5}
    otherwise = replace(small_reference, card=card)
    (lrp, plain), start, measured_from = asked_by_reference(otherwise, None, None)
    assert (lrp.name, lrp.options["beta"], plain.name) == ("lrp", 0.5, "gradient-x-input")
    assert (start, measured_from) == ("distance", 2.5)
    assert "of the reference small-controls, from the distance" in capsys.readouterr().err
    assert asked_by_reference(otherwise, "logit", None)[1:] == ("logit", None)


def test_covariates_without_a_reference_are_refused(
    scan_file: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["explain", str(scan_file), "--model", str(small_package), "--out", str(tmp_path / "out")]
    assert main([*fixed, "--covariate", "age=71"]) == 2
    assert "belong to a comparison" in capsys.readouterr().err
    assert main([*fixed, "--reference", str(scan_file), "--covariate", "age=71"]) == 2
    assert f"but {scan_file} is none" in capsys.readouterr().err


def test_a_batch_compares_every_scan_with_its_own_covariates(
    small_model: Model, small_reference: Reference, tmp_path: Path
) -> None:
    """Again, nothing is computed; with another age, that scan is; whose age is missing fails by name."""
    scans = []
    for seed, values in ((40, {"age": "71", "Sex": "M"}), (41, {"age": "66", "Sex": "F"}), (42, {"site": "A"})):
        path = write_volume(small_control(seed), tmp_path / f"{seed}.nii.gz")
        scans.append(BatchScan(f"s{seed}", path, values))
    options = BatchOptions([MethodRequest("lrp")], figure=False, against=Against(small_reference), adjusted=True)

    def run() -> list[dict[str, str]]:
        found = explain_batch(scans, small_model, options, tmp_path / "out", atlas=load_atlas("aal"))
        return [dict(row) for row in found.rows]

    first, second, third = run()
    assert first["status"] == second["status"] == "done" and third["status"] == "failed"
    assert "says nothing of age, sex of s42" in third["message"]
    assert first["top region by adjusted z (lrp)"] and float(first["its adjusted z (lrp)"]) > 0
    assert int(first["regions beyond the limits (lrp)"]) >= 0 and "top region (lrp-z)" not in first
    scans[1] = replace(scans[1], values={"age": "80", "Sex": "F"})
    again = run()
    assert [row["status"] for row in again[:2]] == ["done before", "done"]
    assert "adjusted for other covariates" in again[1]["message"]
    assert again[0]["its adjusted z (lrp)"] == first["its adjusted z (lrp)"]


def test_a_batch_that_cannot_be_compared_begins_with_no_scan(
    small_model: Model, small_reference: Reference, tmp_path: Path
) -> None:
    """One sentence, not one failure per scan; the folder stays free for the right question."""
    scans = [BatchScan("s40", write_volume(small_control(40), tmp_path / "40.nii.gz"))]
    options = BatchOptions([MethodRequest("lrp", {"beta": 0.5})], figure=False, against=Against(small_reference))
    with pytest.raises(ReferenceCohortError, match="beta"):
        explain_batch(scans, small_model, options, tmp_path / "out", atlas=load_atlas("aal"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ReferenceCohortError, match="atlas"):
        right = replace(options, methods=[MethodRequest("lrp")])
        explain_batch(scans, small_model, right, tmp_path / "out", atlas=load_atlas("neuromorphometrics"))
    assert not (tmp_path / "out").exists()
