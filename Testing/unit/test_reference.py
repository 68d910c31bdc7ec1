"""Reference cohorts: what is in them, that it is right, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from small_reference import METHODS, covariates_of, small_control

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.comparison.adjusted import adjusted_scores
from ADAttributionLogic.errors import ReferenceCohortError, UnknownNameError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.explanation import Explanation, MethodRequest
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.reference.package import QUANTITIES, Reference, read_reference
from ADAttributionLogic.reference.pattern import pattern_grid

# ------------------------------------------------------------------------------------------------------- what is in it


def test_a_reference_says_what_it_is(small_reference: Reference) -> None:
    assert (small_reference.name, small_reference.n, small_reference.methods) == ("small-controls", 12, METHODS)
    assert small_reference.atlases == ("aal",)
    assert small_reference.question["start"] == "probability" and small_reference.question["target_class"] == "AD"
    assert "Only 12 controls" in " ".join(small_reference.card["notes"])
    assert "not for clinical use" in small_reference.card["intended_use"]


def test_statistics_voxels_and_scan_are_those_of_the_controls(
    small_reference: Reference, small_controls: list[Explanation], small_model: Model
) -> None:
    """Against numpy and pandas on the maps and tables themselves."""
    import pandas as pd

    found = small_controls
    maps = np.stack([f.heatmaps[0].volume.array for f in found]).astype(np.float64)
    np.testing.assert_allclose(small_reference.voxel_mean("lrp").array, maps.mean(0), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(small_reference.voxel_sd("lrp").array, maps.std(0, ddof=1), rtol=1e-6, atol=1e-12)
    scans = np.stack([f.model_input.array for f in found]).astype(np.float64)
    np.testing.assert_allclose(small_reference.mean_scan().array, scans.mean(0), rtol=1e-6, atol=1e-7)
    assert small_reference.mean_scan().grid.is_same(small_model.grid)

    statistics = small_reference.regions("lrp", "aal")
    rows = pd.concat(pd.DataFrame(f.heatmaps[0].table.columns).iloc[:-1].assign(scan=n) for n, f in enumerate(found))
    rows["magnitude_share"] = rows["sum"] / rows.groupby("scan")["absolute_sum"].transform("sum")
    for quantity in QUANTITIES:
        table = rows.pivot(index="scan", columns="label", values=quantity)[statistics.labels]
        np.testing.assert_allclose(statistics[quantity].mean, table.mean(), rtol=1e-8)
        np.testing.assert_allclose(statistics[quantity].sd, table.std(), rtol=1e-8)
        np.testing.assert_allclose(statistics[quantity].quantiles, table.quantile(statistics.probabilities), rtol=1e-8)
    assert statistics.names == tuple(rows["name"].iloc[: len(statistics)]) and statistics.n == 12


def test_patterns_are_those_of_the_controls_smoothed_by_scipy(
    small_reference: Reference, small_controls: list[Explanation]
) -> None:
    """6 mm of full width at half maximum are 1.02 voxels of 2.5 mm; every second voxel is kept."""
    for number, method in enumerate(METHODS):
        maps = [f.heatmaps[number].volume.array.astype(np.float64) for f in small_controls]
        width = 6 / 2.3548200450309493 / 2.5
        smooth = np.stack([gaussian_filter(m / np.abs(m).sum(), width, mode="constant", truncate=8) for m in maps])
        expected = smooth[:, ::2, ::2, ::2]
        found = small_reference.pattern(method)
        assert found is not None
        # Against their largest: far from the brain, a Gaussian of float32 ends at 0.
        np.testing.assert_allclose(found[0].array, expected.mean(0), rtol=0.005, atol=1e-5 * np.abs(expected).max())
        sd = expected.std(0, ddof=1)
        np.testing.assert_allclose(found[1].array, sd, rtol=0.005, atol=1e-5 * sd.max())
        assert found[0].grid.is_same(pattern_grid(small_reference.grid))
        assert found[0].grid.spacing == pytest.approx((5, 5, 5))


def test_a_reference_of_an_earlier_version_has_no_patterns(small_reference: Reference, tmp_path: Path) -> None:
    copied = tmp_path / "earlier"
    shutil.copytree(small_reference.folder, copied)
    card = json.loads((copied / "reference.json").read_text(encoding="utf-8"))
    del card["pattern"]
    for name in [name for name in card["files"] if "-pattern-" in name]:
        del card["files"][name]
        (copied / name).unlink()
    (copied / "reference.json").write_text(json.dumps(card), encoding="utf-8")
    earlier = read_reference(copied)
    assert not earlier.has_patterns and earlier.pattern("lrp") is None
    assert earlier.voxel_mean("lrp").array.any()


def test_covariates_are_least_squares_with_the_prediction_interval(
    small_reference: Reference, small_controls: list[Explanation]
) -> None:
    """Coefficients, residual spread and the interval of a new scan against statsmodels."""
    import pandas as pd
    import statsmodels.formula.api as smf

    tables = [c.heatmaps[0].table for c in small_controls]
    model, statistics = small_reference.covariates, small_reference.regions("lrp", "aal")
    assert model is not None and model.columns == ("intercept", "age", "sex=M") and model.dof == 9
    rows = pd.DataFrame([covariates_of(s) for s in range(12)]).astype({"age": float})
    density = statistics["density"]
    new = {"age": 71.0, "sex": "M"}
    row = model.row(new)
    leverage = float(row @ model.inverse @ row)
    said = adjusted_scores(density.mean, row @ density.coefficients, density.residual_sd, leverage, model.dof)
    for region in (0, 37, len(statistics) - 1):
        rows["y"] = [table.columns["density"][region] for table in tables]
        fitted = smf.ols("y ~ age + C(sex)", rows).fit()
        assert density.coefficients[1, region] == pytest.approx(fitted.params["age"], rel=1e-6)
        assert density.coefficients[2, region] == pytest.approx(fitted.params["C(sex)[T.M]"], rel=1e-6)
        assert density.residual_sd[region] == pytest.approx(np.sqrt(fitted.mse_resid), rel=1e-6)
        oracle = fitted.get_prediction(pd.DataFrame([new])).summary_frame(alpha=0.05).iloc[0]
        assert said.expected[region] == pytest.approx(oracle["mean"], rel=1e-6)
        interval = said.expected_low[region], said.expected_high[region]
        assert interval == pytest.approx((oracle["obs_ci_lower"], oracle["obs_ci_upper"]), rel=1e-6)


def test_nobodys_own_values_are_in_it(small_reference: Reference) -> None:
    text = json.dumps(small_reference.card) + json.dumps(small_reference.regions("lrp", "aal").describe())
    assert not re.search(r"sub-\d\d|small control \d", text)
    assert {p.name for p in small_reference.folder.iterdir()} == {
        "reference.json", "mean-scan.nii.gz",
        *(f"{m}-{what}.nii.gz" for m in METHODS for what in ("mean", "sd", "pattern-mean", "pattern-sd")),
        *(f"{m}-aal.json.gz" for m in METHODS),
    }  # fmt: skip
    assert small_reference.regions("lrp", "aal").probabilities.min() > 0, "the smallest value would be somebody's"


# ------------------------------------------------------------------------------------------- who is compared with whom


def test_a_map_that_was_asked_the_same_is_taken(small_reference: Reference, small_model: Model) -> None:
    found = explain(small_control(50), small_model, METHODS, atlas=load_atlas("aal"), with_spread=False)
    grid = found.heatmaps[0].volume.grid
    for name in METHODS:
        assert small_reference.require_same_question(found.provenance, name, grid, found.provenance["atlas"]) == name
    assert small_reference.registration_note(found.provenance) == ""
    registered = {**found.provenance, "preprocessing_decisions": {"options": {"registration": "affine"}}}
    assert "registered here (affine)" in small_reference.registration_note(registered)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"start": "logit"}, "it starts from logit, not probability"),
        ({"target": "CN"}, "it explains CN, not AD"),
        ({"methods": [MethodRequest("lrp", {"beta": 0.5})]}, r"beta is 0\.5, not 0\.0"),
        ({"methods": ["sensitivity"]}, "it is by sensitivity, and the reference has lrp, gradient-x-input only"),
    ],
)
def test_a_map_that_was_asked_otherwise_is_refused(
    small_reference: Reference, small_model: Model, asked: dict, message: str
) -> None:
    methods = asked.pop("methods", ["lrp"])
    found = explain(small_control(50), small_model, methods, with_spread=False, **asked)
    heatmap = found.heatmaps[0]
    with pytest.raises(ReferenceCohortError, match=message):
        small_reference.require_same_question(found.provenance, heatmap.name, heatmap.volume.grid)


def test_another_network_space_or_atlas_is_refused(small_reference: Reference, small_model: Model) -> None:
    found = explain(small_control(50), small_model, ["lrp"], atlas=load_atlas("aal"), with_spread=False)
    record, grid = found.provenance, found.heatmaps[0].volume.grid
    other = {**record, "model": {**record["model"], "weights_sha256": "0" * 64}}
    with pytest.raises(ReferenceCohortError, match="its network's weights sha256 is 000000"):
        small_reference.require_same_question(other, "lrp", grid)
    with pytest.raises(ReferenceCohortError, match="its network is mine, not untrained"):
        small_reference.require_same_question({**other, "model": {**other["model"], "name": "mine"}}, "lrp", grid)
    with pytest.raises(ReferenceCohortError, match="it lies on 96×121×100 voxels.*not 78×92×78"):
        small_reference.require_same_question(record, "lrp", load_atlas("neuromorphometrics").labels.grid)
    moved = type(grid)(grid.shape, grid.affine + np.eye(4, k=3) * 3)
    with pytest.raises(ReferenceCohortError, match="it lies on .* elsewhere, not"):
        small_reference.require_same_question(record, "lrp", moved)
    with pytest.raises(ReferenceCohortError, match="knows the regions of aal, not of the atlas neuromorphometrics"):
        small_reference.require_same_atlas({"name": "neuromorphometrics", "labels_sha256": "0"})
    with pytest.raises(ReferenceCohortError, match="The atlas aal has other labels"):
        small_reference.require_same_question(record, "lrp", grid, {"name": "aal", "labels_sha256": "0"})
    unknown = {**record, "model": {**record["model"], "weights_sha256": None}}
    with pytest.raises(ReferenceCohortError, match="was not read from a file"):
        small_reference.require_same_question(unknown, "lrp", grid)
    partial = {**record, "methods": {"lrp": {**record["methods"]["lrp"], "is_partial": True}}}
    with pytest.raises(ReferenceCohortError, match="stopped before it was complete"):
        small_reference.require_same_question(partial, "lrp", grid)


def test_covariates_of_a_new_scan(small_reference: Reference) -> None:
    model = small_reference.covariates
    assert model is not None
    with pytest.raises(ReferenceCohortError, match="adjusted for age, sex; of this scan sex is not known"):
        model.row({"age": 70})
    with pytest.raises(ReferenceCohortError, match="sex is X, which no control of the reference is; they are F, M"):
        model.row({"age": 70, "sex": "X"})
    with pytest.raises(ReferenceCohortError, match="age is 'old', but the reference needs a number"):
        model.row({"age": "old", "sex": "F"})
    assert model.row({"Age": "70", "SEX": "M", "other": 3})[2] == 1, "names in any case of letters"
    assert model.beyond({"age": 70, "sex": "F"}) == ()
    assert model.beyond({"age": 91, "sex": "F"}) == ("age 91 is outside the reference's range (60 to 84).",)


# -------------------------------------------------------------------------------------------------- damaged, and absent


@pytest.fixture
def copied(small_reference: Reference, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_reference.folder, tmp_path / "copied"))


def change_card(folder: Path, **entries: object) -> None:
    card = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    (folder / "reference.json").write_text(json.dumps({**card, **entries}), encoding="utf-8")


def test_what_is_damaged_is_named(copied: Path) -> None:
    path = copied / "lrp-mean.nii.gz"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReferenceCohortError, match=r"lrp-mean\.nii\.gz is not the file that its card was written for"):
        read_reference(copied).voxel_mean("lrp")
    path.write_bytes(content[:-1])
    with pytest.raises(ReferenceCohortError, match=r"lrp-mean\.nii\.gz has \d+ bytes, but the card says"):
        read_reference(copied)
    path.unlink()
    with pytest.raises(ReferenceCohortError, match=r"lrp-mean\.nii\.gz of the reference .* is missing"):
        read_reference(copied)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"kind": "something"}, "not a valid card, at kind"),
        ({"n": 1}, "not a valid card, at n"),
        ({"files": {"../x": {"sha256": "0" * 64, "bytes": 1}}}, "not a valid card, at files"),
        ({"methods": {"a/b": {}}}, "not a valid card, at methods"),
        ({"n": 13}, "does not belong to this reference of 13 controls"),
        ({"covariates": None}, "does not belong to this reference"),
        (
            {"covariates": {"terms": [{"name": "a", "kind": "number", "mean": 0, "range": [0, 1]}],
                            "inverse": [[1]], "dof": 3}},
            r"matrix has shape \(1, 1\); 2 columns need 2×2",
        ),
    ],
)  # fmt: skip
def test_a_card_that_lies_is_refused(copied: Path, entries: dict, message: str) -> None:
    change_card(copied, **entries)
    with pytest.raises(ReferenceCohortError, match=message):
        read_reference(copied).regions("lrp", "aal")


def test_what_is_no_reference(tmp_path: Path, small_reference: Reference) -> None:
    with pytest.raises(ReferenceCohortError, match="is no reference cohort"):
        read_reference(tmp_path)
    with pytest.raises(UnknownNameError, match="no reference .* named 'nothing'"):
        read_reference("nothing")
    with pytest.raises(UnknownNameError, match="no method .* named 'occlusion'"):
        small_reference.voxel_mean("occlusion")
    with pytest.raises(UnknownNameError, match="no atlas of lrp .* named 'desikan'"):
        small_reference.regions("lrp", "desikan")
    assert read_reference(small_reference.folder / "reference.json").n == 12


def test_reading_one_needs_no_torch() -> None:
    """The panel lists references where torch is not installed yet."""
    code = "import sys, ADAttributionLogic.reference.package as _; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


def test_a_reference_of_an_earlier_version_is_asked_the_same_although_an_option_was_added() -> None:
    """Before there was ``dense``, and when a gate was held constant without saying that the preset wants it."""
    from ADAttributionLogic.attribution.registry import get_method
    from ADAttributionLogic.reference.question import method_differences

    def asked(**options: object) -> dict:
        return {"method": "lrp", "options": dict(get_method("lrp").complete(options))}

    earlier = asked(product="signal")
    del earlier["options"]["dense"]
    assert method_differences(earlier, asked()) == []
    assert method_differences(earlier, asked(dense="gamma")) == [], "this preset has no such rule"
    assert method_differences(earlier, asked(beta=0.5)) == ["beta is 0.5, not 0.0"]
    assert method_differences(earlier, asked(product="half")) == ["product is half, not signal"]
    assert method_differences(asked(rule="attn-lrp"), asked(rule="attn-lrp", dense="gamma"))
    unknown = {"method": "lrp", "options": {**asked()["options"], "of_the_future": 1}}
    assert method_differences(unknown, asked()), "compared as it stands"
