"""Every statistic of a group study against another way to it: pandas, statsmodels, scipy, or the published numbers."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ADAttributionLogic.errors import ScanError, UsageError
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.study.cases import Groups, area_under_curve, cases, performance, require_members
from ADAttributionLogic.study.coherence import (
    chance_limit,
    chance_overlap,
    intersections,
    intraclass_correlation,
    kendalls_w,
    off_diagonal_mean,
    top_regions,
)
from ADAttributionLogic.study.covariates import coefficients, design, residualised
from ADAttributionLogic.study.distances import map_distances
from ADAttributionLogic.study.distant_pair import most_distant_pair
from ADAttributionLogic.study.group_regions import (
    bootstrap_gain,
    density,
    group_gain,
    individual_scores,
    mean_of,
    ranks,
)
from ADAttributionLogic.study.mean_maps import CaseSums, sum_cases
from ADAttributionLogic.study.permutation import benjamini_hochberg, group_test, student_t
from ADAttributionLogic.study.volume_correlation import volume_correlation
from ADAttributionLogic.volume import Volume

GROUPS = Groups()


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(12)


# ---------------------------------------------------------------------------------------------------- cases and groups


def test_cases_are_counted_as_published() -> None:
    """Böhle et al. 2019: 172 scans, 67 TP, 84 TN, 13 FP, 8 FN, balanced accuracy .8797."""
    truth = np.repeat([True, False, False, True], [67, 84, 13, 8])
    probability = np.repeat([0.9, 0.1, 0.7, 0.3], [67, 84, 13, 8])
    found = cases(truth, probability, GROUPS)
    assert {name: int(m.sum()) for name, m in found.items()} == {
        "AD": 75, "HC": 97, "TP": 67, "TN": 84, "FP": 13, "FN": 8,
    }  # fmt: skip
    assert performance(found, GROUPS)["balanced_accuracy"] == pytest.approx(0.8797, abs=5e-5)
    with pytest.raises(UsageError, match=r"FN has 8 subjects; a study compares groups of at least 10"):
        require_members(found, ["TP", "FN"], 10)
    with pytest.raises(UsageError, match="1 of 2 answers"):
        cases([True, False], [0.5, np.nan], GROUPS)


def test_one_half_counts_as_positive_and_empty_groups_have_no_rate() -> None:
    found = cases([True, True], [0.5, 0.49], Groups("MCI-c", "MCI-s"))
    assert list(found) == ["MCI-c", "MCI-s", "TP", "TN", "FP", "FN"]
    assert found["TP"].tolist() == [True, False] and np.isnan(
        performance(found, Groups("MCI-c", "MCI-s"))["specificity"]
    )


def test_the_area_under_the_curve_is_that_of_scikit_learn(generator: np.random.Generator) -> None:
    from sklearn.metrics import roc_auc_score

    truth, probability = generator.random(80) < 0.4, np.round(generator.random(80), 1)  # with ties
    assert area_under_curve(truth, probability) == pytest.approx(roc_auc_score(truth, probability), abs=1e-12)


def test_means_densities_and_gains_are_those_of_pandas(generator: np.random.Generator) -> None:
    import pandas as pd

    sums, volumes = generator.gamma(2.0, size=(40, 7)), generator.uniform(100, 5000, 7)
    found = cases(generator.random(40) < 0.5, generator.random(40), GROUPS)
    frame = pd.DataFrame(sums).assign(
        positive=found["AD"], case=np.select([found[c] for c in ("TP", "TN", "FP", "FN")], ["TP", "TN", "FP", "FN"], "")
    )
    by_case = frame.groupby("case")[list(range(7))].mean()
    control_mean = frame[~frame.positive][list(range(7))].mean()
    for name in ("TP", "TN", "FP", "FN"):
        np.testing.assert_allclose(mean_of(sums, found[name]), by_case.loc[name], rtol=1e-12)
        np.testing.assert_allclose(
            group_gain(sums, found[name], found["HC"]), by_case.loc[name] / control_mean, rtol=1e-12
        )
    np.testing.assert_allclose(density(sums, volumes), pd.DataFrame(sums).div(volumes), rtol=1e-12)


def test_the_gain_divides_by_all_controls_also_those_taken_for_patients() -> None:
    """The published definition: (TN + FP), not TN alone; the gain of all controls is 1."""
    sums = np.array([[8.0], [1.0], [3.0]])
    found = cases([True, False, False], [0.9, 0.1, 0.9], GROUPS)
    assert group_gain(sums, found["TP"], found["HC"]).item() == 4.0
    assert group_gain(sums, found["TN"], found["HC"]).item() == 0.5
    assert group_gain(sums, found["HC"], found["HC"]).item() == 1.0


def test_a_control_is_compared_with_the_others(generator: np.random.Generator) -> None:
    sums = generator.normal(1e6, 1.0, size=(12, 3))  # a large mean: nothing may cancel
    controls = np.arange(12) >= 4
    found = individual_scores(sums, controls)
    for row in range(12):
        others = np.delete(sums, [row, *range(4)], axis=0) if controls[row] else sums[controls]
        z = (sums[row] - others.mean(axis=0)) / others.std(axis=0, ddof=1)
        np.testing.assert_allclose(found["z"][row], z, rtol=1e-6)
        np.testing.assert_allclose(found["gain"][row], sums[row] / others.mean(axis=0), rtol=1e-12)


def test_the_bootstrap_interval_is_that_of_a_plain_loop(generator: np.random.Generator) -> None:
    sums = generator.gamma(3.0, size=(30, 4))
    case, controls = np.arange(30) < 14, np.arange(30) >= 14
    found = bootstrap_gain(sums, case, controls, resamples=4000, seed=1)
    loop = np.random.default_rng(99)
    gains = [
        sums[loop.choice(np.flatnonzero(case), 14)].mean(axis=0)
        / sums[loop.choice(np.flatnonzero(controls), 16)].mean(axis=0)
        for _ in range(4000)
    ]
    low, high = np.percentile(gains, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found.low, low, rtol=0.03)
    np.testing.assert_allclose(found.high, high, rtol=0.03)
    np.testing.assert_array_equal(found.estimate, group_gain(sums, case, controls))


def test_bootstrap_intervals_hold_the_true_gain_as_often_as_they_say() -> None:
    """200 studies of 40 + 40 subjects whose true gain is 2."""
    inside = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        sums = generator.gamma(4.0, size=(80, 1)) * np.repeat([2.0, 1.0], 40)[:, None]
        case = np.arange(80) < 40
        found = bootstrap_gain(sums, case, ~case, resamples=400, seed=seed)
        inside.append(found.low[0] <= 2.0 <= found.high[0])
    assert 0.90 <= np.mean(inside) <= 0.98


def test_controls_within_a_case_are_drawn_with_all_controls(generator: np.random.Generator) -> None:
    """The gain of all controls is 1 in every possible study, not a ratio of two independent draws."""
    sums = generator.gamma(2.0, size=(20, 3))
    everyone = np.ones(20, dtype=bool)
    found = bootstrap_gain(sums, everyone, everyone, resamples=50)
    np.testing.assert_allclose([found.low, found.high], 1.0, rtol=1e-12)
    nobody = bootstrap_gain(sums, ~everyone, everyone, resamples=50)
    assert np.isnan(nobody.estimate).all() and np.isnan(nobody.low).all()


def test_small_regions_and_those_without_a_value_have_no_rank() -> None:
    assert ranks([3.0, 9.0, np.nan, 3.0, 5.0], np.array([True, False, True, True, True])).tolist() == [2, 0, 0, 2, 1]


# ---------------------------------------------------------------------------------------------------------- covariates


def people(generator: np.random.Generator, n: int) -> dict[str, list[str]]:
    return {
        "age": [f"{a:.1f}" for a in generator.uniform(55, 90, n)],
        "sex": generator.choice(["F", "M"], n).tolist(),
        "site": generator.choice(["A", "B", "C"], n).tolist(),
    }


def test_residuals_are_those_of_statsmodels(generator: np.random.Generator) -> None:
    import statsmodels.api as sm

    n = 50
    controls, values = np.arange(n) >= 20, generator.normal(size=(n, 5))
    made = design(people(generator, n), controls)
    assert made.names == ("age", "sex=M", "site=B", "site=C")
    mine = residualised(values, made, controls)
    for region in range(5):
        model = sm.OLS(values[controls, region], sm.add_constant(made.columns[controls])).fit()
        expected = values[:, region] - model.predict(sm.add_constant(made.columns)) + values[controls, region].mean()
        np.testing.assert_allclose(mine[:, region], expected, atol=1e-10)
        np.testing.assert_allclose(coefficients(values, made, controls)[:, region], model.params[1:], atol=1e-10)


def test_residualised_z_of_controls_does_not_know_their_age(generator: np.random.Generator) -> None:
    """|r| < .05 where raw z follows age; of patients, whose line nobody fitted, that of the controls is taken out."""
    n = 120
    controls, covariates = np.arange(n) >= 60, people(generator, n)
    age = np.array([float(a) for a in covariates["age"]])
    values = 5 + 0.05 * age[:, None] + generator.normal(size=(n, 3))
    made = design(covariates, controls)
    raw, adjusted = (
        individual_scores(v, controls)["z"][controls] for v in (values, residualised(values, made, controls))
    )
    for region in range(3):
        assert np.corrcoef(raw[:, region], age[controls])[0, 1] > 0.25
        assert abs(np.corrcoef(adjusted[:, region], age[controls])[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"age": ["70", "", "71", "72", "73", "74"]}, "1 of 6 subjects have no age"),
        ({"site": ["Z", "A", "B", "A", "B", "A"]}, "No control has site 'Z'"),
        ({"age": ["70"] * 6}, "All controls have the same age"),
        ({"a": ["9", "1", "2", "3", "4", "5"], "b": ["9", "2", "4", "6", "8", "10"]}, "say the same twice"),
        ({k: [str(hash((k, i)) % 97) for i in range(6)] for k in "abc"}, "5 controls are too few for 3 columns"),
    ],
)
def test_covariates_that_cannot_be_used_are_refused_by_name(values: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        design(values, np.arange(6) >= 1)


# -------------------------------------------------------------------------------------------------- permutation tests


def test_t_is_that_of_scipy(generator: np.random.Generator) -> None:
    values, case = generator.normal(1e3, 1, size=(30, 6)), np.arange(30) < 11
    np.testing.assert_allclose(
        student_t(values, case), stats.ttest_ind(values[case], values[~case]).statistic, rtol=1e-8
    )
    assert np.isnan(student_t(np.full((30, 1), 0.1), case)).all(), "without spread there is no t"


def test_p_is_that_of_scipys_permutation_test(generator: np.random.Generator) -> None:
    values, case = generator.normal(size=(24, 3)) + np.outer(np.arange(24) < 12, [0.9, 0.4, 0.0]), np.arange(24) < 12
    mine = group_test(values, case, permutations=8000)
    theirs = stats.permutation_test(
        (values[case], values[~case]),
        lambda a, b, axis: stats.ttest_ind(a, b, axis=axis).statistic,
        vectorized=True,
        n_resamples=8000,
        rng=np.random.default_rng(3),
    )
    np.testing.assert_allclose(mine.p, theirs.pvalue, atol=0.012)


def test_familywise_p_counts_the_largest_of_all_regions() -> None:
    """All 70 relabellings of 4 + 4 subjects by hand."""
    values = np.random.default_rng(5).normal(size=(8, 3))
    values[:4, 0] += 2.5
    case = np.arange(8) < 4
    observed = np.abs(student_t(values, case))
    largest = []
    for chosen in itertools.combinations(range(8), 4):
        largest.append(np.nanmax(np.abs(student_t(values, np.isin(np.arange(8), chosen)))))
    exact = [(np.array(largest) >= t - 1e-9).mean() for t in observed]
    found = group_test(values, case, permutations=20_000)
    np.testing.assert_allclose(found.p_familywise, exact, atol=0.012)
    assert (found.p_familywise >= found.p).all()


def test_q_is_that_of_statsmodels(generator: np.random.Generator) -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.append(generator.random(40) ** 3, np.nan)
    mine = benjamini_hochberg(p)
    np.testing.assert_allclose(mine[:-1], multipletests(p[:-1], method="fdr_bh")[1], rtol=1e-12)
    assert np.isnan(mine[-1])


def test_adjusted_t_knows_that_slopes_are_estimates(generator: np.random.Generator) -> None:
    """The further the cases' covariates are from the controls', the less is known: as statsmodels' standard error."""
    import statsmodels.api as sm

    case = np.arange(50) < 22
    age, size = generator.normal(70, 7, 50) + 5 * case, generator.normal(1400, 90, 50)
    values = generator.normal(size=(50, 3)) + 0.05 * age[:, None]
    made = design({"age": [f"{a}" for a in age], "size": [f"{a}" for a in size]}, ~case)
    found = group_test(values, case, covariates=made, permutations=20).t
    plain = student_t(residualised(values, made, ~case), case)
    fitted = sm.OLS(values[~case, 0], made.matrix[~case]).fit()
    line = fitted.get_prediction(made.matrix[case].mean(axis=0)[None]).se_mean[0] ** 2 / fitted.mse_resid
    expected = plain * np.sqrt((1 / 22 + 1 / 28) / (1 / 22 + line))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (np.abs(found) < np.abs(plain)).all()


@pytest.mark.parametrize("with_covariates", [False, True])
def test_one_study_in_twenty_without_any_effect_finds_one(with_covariates: bool) -> None:
    """200 null studies of 40 regions that vary together: with p ≤ .05 family-wise, 10 are expected to find something.

    The number is random (binomial): 18 are exceeded in less than 1 % of such tests. With covariates, patients are older
    and the values follow age.
    """
    false_alarms = 0
    for seed in range(200):
        generator = np.random.default_rng([seed, 7])
        n, case = 40, np.arange(40) < 20
        shared = generator.normal(size=(n, 1))
        values = generator.normal(size=(n, 40)) + shared
        covariates = None
        if with_covariates:
            age = generator.normal(70, 7, n) + 3.0 * case
            values += 0.1 * (age[:, None] - 70)
            covariates = design({"age": [f"{a:.2f}" for a in age]}, ~case)
        found = group_test(values, case, covariates=covariates, permutations=199, seed=seed)
        false_alarms += bool((found.p_familywise <= 0.05).any())
    print(f"{false_alarms} of 200 null studies")
    assert false_alarms <= 18


def test_a_true_difference_is_found_and_groups_of_one_are_refused(generator: np.random.Generator) -> None:
    values, case = generator.normal(size=(60, 100)), np.arange(60) < 30
    values[:30, 17] += 2.0
    found = group_test(values, case, permutations=1000)
    assert found.p_familywise[17] < 0.01 and (found.p_familywise < 0.05).sum() == 1
    assert found.difference[17] == pytest.approx(values[:30, 17].mean() - values[30:, 17].mean())
    with pytest.raises(UsageError, match="at least 2 subjects, but got 1 and 59"):
        group_test(values, np.arange(60) < 1)


# ----------------------------------------------------------------------------------------------------------- coherence


@pytest.mark.parametrize(
    ("published", "corrected"),
    [  # Eitel & Ritter 2019, table 2, ten trainings: with the diagonal, and without
        ((72.6, 69.0, 46.4), (69.6, 65.6, 40.4)),
        ((96.6, 80.6, 68.6), (96.2, 78.4, 65.1)),
        ((96.8, 88.4, 78.0), (96.4, 87.1, 75.6)),
        ((84.6, 74.2, 67.8), (82.9, 71.3, 64.2)),
    ],
)
def test_the_published_coherence_without_comparing_with_oneself(
    published: tuple[float, ...], corrected: tuple[float, ...]
) -> None:
    for with_diagonal, without in zip(published, corrected, strict=True):
        beside = (10 * with_diagonal - 100) / 9
        matrix = np.full((10, 10), beside)
        np.fill_diagonal(matrix, 100.0)
        assert matrix.mean() == pytest.approx(with_diagonal), "the published mean"
        assert off_diagonal_mean(matrix) == pytest.approx(without, abs=0.051)


def test_overlap_is_that_of_sets_and_chance_that_of_drawing(generator: np.random.Generator) -> None:
    values = generator.normal(size=(4, 68))
    ranked = np.ones(68, dtype=bool)
    tops = [top_regions(v, ranked) for v in values]
    matrix = intersections(tops)
    for i, j in itertools.product(range(4), range(4)):
        assert matrix[i, j] == len(set(np.argsort(-values[i])[:10]) & set(np.argsort(-values[j])[:10])) / 10
    assert chance_overlap(68) == pytest.approx(0.147, abs=5e-4), "the 14.7 % of 68 regions"
    draws = [len(set(generator.permutation(68)[:10]) & set(range(10))) / 10 for _ in range(4000)]
    assert np.mean(draws) == pytest.approx(chance_overlap(68), abs=0.01)
    assert np.mean(np.array(draws) > chance_limit(68)) <= 0.05
    assert np.isnan(off_diagonal_mean(np.ones((1, 1))))


def test_small_regions_are_in_no_top_ten(generator: np.random.Generator) -> None:
    values, ranked = np.arange(12.0), np.ones(12, dtype=bool)
    ranked[11] = False
    assert top_regions(values, ranked) == frozenset(range(1, 11))
    with pytest.raises(UsageError, match="top 10 of 9 regions"):
        top_regions(values, np.arange(12) < 9)


def test_kendalls_w_follows_friedman_and_icc_the_analysis_of_variance(generator: np.random.Generator) -> None:
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    values = np.round(generator.normal(size=(5, 30)) + generator.normal(size=30), 1)  # with ties
    m, regions = values.shape
    chi2 = stats.friedmanchisquare(*values.T).statistic
    assert kendalls_w(values) == pytest.approx(chi2 / (m * (regions - 1)), rel=1e-9)
    import pandas as pd

    long = pd.DataFrame(values).reset_index().melt("index", var_name="region", value_name="y")
    table = anova_lm(smf.ols("y ~ C(index) + C(region)", long).fit())["mean_sq"]
    expected = (table["C(region)"] - table["Residual"]) / (table["C(region)"] + (m - 1) * table["Residual"])
    assert intraclass_correlation(values) == pytest.approx(expected, rel=1e-9)
    assert kendalls_w(np.tile(np.arange(5.0), (3, 1))) == 1.0 and np.isnan(kendalls_w(values[:1]))


# ----------------------------------------------------------------------------------------------- pairs, volumes, maps


def test_the_most_distant_pair_is_that_of_all_pairs(generator: np.random.Generator) -> None:
    vectors, sure = generator.gamma(1.0, size=(20, 8)), np.arange(20) % 3 != 0
    vectors[1] = 0  # no direction
    found = most_distant_pair(vectors, sure)
    rows = [r for r in np.flatnonzero(sure) if r != 1]
    cosine = {
        (i, j): vectors[i] @ vectors[j] / np.sqrt((vectors[i] @ vectors[i]) * (vectors[j] @ vectors[j]))
        for i, j in itertools.combinations(rows, 2)
    }
    assert found is not None and (found.first, found.second) == min(cosine, key=cosine.__getitem__)
    assert found.cosine == pytest.approx(min(cosine.values()))
    assert most_distant_pair(vectors, np.arange(20) < 1) is None


def test_the_correlation_with_volume_is_that_of_scipy(generator: np.random.Generator) -> None:
    volumes = generator.normal(4000, 400, size=(60, 3))
    relevance = -volumes * [1e-5, 0.0, 0.0] + generator.normal(0, 0.003, size=(60, 3))
    volumes[:, 2] = 4000.0
    found = volume_correlation(relevance, volumes, permutations=2000)
    for region in range(2):
        theirs = stats.pearsonr(
            relevance[:, region], volumes[:, region], method=stats.PermutationMethod(n_resamples=2000, rng=1)
        )
        assert found.r[region] == pytest.approx(theirs.statistic, abs=1e-12)
        assert found.p[region] == pytest.approx(theirs.pvalue, abs=0.03)
    assert np.isnan([found.r[2], found.p[2], found.q[2]]).all() and found.n == 60


def test_the_distance_of_maps_is_the_published_one(generator: np.random.Generator) -> None:
    """norm(a / a.sum() − b / b.sum()), as in Rieke et al.'s interpretation.py; by maximum as Eitel & Ritter."""
    maps = [generator.random((5, 6, 7)).astype(np.float32) for _ in range(3)]
    for scale, by in (("sum", np.sum), ("maximum", np.max)):
        found = map_distances(maps, scale)  # type: ignore[arg-type]
        for i, j in itertools.product(range(3), range(3)):
            a, b = maps[i].astype(float), maps[j].astype(float)
            assert found[i, j] == pytest.approx(np.linalg.norm(a / by(a) - b / by(b)), rel=1e-6, abs=1e-12)
    signed = maps[0] - maps[0].mean(dtype=float).astype(np.float32)
    assert np.isnan(map_distances([maps[0], signed - signed.mean()], "sum")[0, 1]) or abs(signed.sum()) > 1e-3
    assert np.isnan(map_distances([maps[0], -maps[1]], "maximum")[0, 1])
    with pytest.raises(UsageError, match="different sizes"):
        map_distances([maps[0], maps[0][1:]], "sum")


def test_mean_maps_are_means_and_memory_does_not_grow(generator: np.random.Generator, tmp_path: Path) -> None:
    cells, arrays, paths = {}, [], {}
    for row in range(12):
        array = generator.random((48, 52, 56)).astype(np.float32)  # beside which what reading a file needs is little
        arrays.append(array)
        cells[row] = ("TP", "TN", "FP", "FN")[row % 4 if row < 8 else 0]
        paths[row] = write_volume(Volume(array, np.eye(4)), tmp_path / f"{row}.nii.gz")
    sums = sum_cases(paths, cells)
    for case, wanted in {"TP": ("TP",), "HC": ("TN", "FP"), "AD": ("TP", "FN")}.items():
        expected = np.mean([a for row, a in enumerate(arrays) if cells[row] in wanted], axis=0, dtype=float)
        found = sums.mean(wanted, case)
        assert found is not None and found.array.dtype == np.float32
        np.testing.assert_allclose(found.array, expected, rtol=1e-6)
    peaks = []
    for count in (12, 48):
        tracemalloc.start()
        sum_cases({r: paths[r % 12] for r in range(count)}, {r: cells[r % 12] for r in range(count)})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.25 * 36 * arrays[0].nbytes


def test_maps_that_do_not_fit_are_refused_by_name() -> None:
    sums = CaseSums()
    sums.add(Volume(np.ones((3, 3, 3), dtype=np.float32), np.eye(4), "one"), "TP")
    with pytest.raises(ScanError, match=r"two is on .* those before it on"):
        sums.add(Volume(np.ones((3, 3, 4), dtype=np.float32), np.eye(4), "two"), "TP")
    with pytest.raises(ScanError, match="three has 1 NaN or infinite voxels"):
        broken = np.ones((3, 3, 3), dtype=np.float32)
        broken[1, 1, 1] = np.nan
        sums.add(Volume(broken, np.eye(4), "three"), "TP")
    assert sums.mean(("FN",), "") is None
