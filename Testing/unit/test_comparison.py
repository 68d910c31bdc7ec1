"""A scan against controls: the statistics against scipy, statsmodels and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import ndimage, stats

from ADAttributionLogic.comparison.adjusted import adjusted_scores, score_interval
from ADAttributionLogic.comparison.scores import (
    gain,
    gain_with_floor,
    percentile,
    percentile_bounds,
    score_limit,
    standard_score,
)
from ADAttributionLogic.comparison.z_map import z_map
from ADAttributionLogic.errors import GeometryError, ScanError, UsageError
from ADAttributionLogic.volume import Volume

PROBABILITIES = np.linspace(0, 1, 101)


def random_controls(seed: int, n: int = 60, regions: int = 40) -> np.ndarray:
    """Values of n controls (n, R) with means and spreads of several orders of magnitude."""
    generator = np.random.default_rng(seed)
    means, sds = generator.normal(size=regions), 10 ** generator.uniform(-4, 1, regions)
    return means + sds * generator.normal(size=(n, regions))


# ---------------------------------------------------------------------------------------------------------------- gain


def test_gain_is_the_ratio_of_sums_as_published() -> None:
    """The definition of Böhle et al. on a small example: own sum by the mean sum of all controls."""
    controls, own = np.array([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]]), np.array([18.2, 1.0, 0.5])
    np.testing.assert_allclose(gain(own, controls.mean(axis=0)), [9.1, 0.5, np.nan])


def test_the_floor_is_the_controls_spread() -> None:
    mean, sd = np.array([2.0, 0.01, -1.0, 0.0, -1.0]), np.array([1.0, 1.0, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(gain_with_floor([4.0] * 5, mean, sd), [2.0, 4.0, 8.0, np.nan, np.nan])


def test_gain_with_floor_is_at_most_z_plus_one_above_the_mean() -> None:
    controls = random_controls(1)
    mean, sd = controls.mean(axis=0), controls.std(axis=0, ddof=1)
    own = mean + sd * np.random.default_rng(2).uniform(0, 50, mean.size)
    assert (gain_with_floor(own, mean, sd) <= standard_score(own, mean, sd) + 1 + 1e-9).all()


@pytest.mark.parametrize("n", [60, 200])
def test_other_controls_hardly_move_the_gain_with_floor(n: int) -> None:
    """Where plain gain exceeds 20 it changes by more than half of itself from one reference to the next."""
    generator = np.random.default_rng(3)
    means = np.array([0.02, 0.05, 0.2, 1.0, 3.0])  # in standard deviations of the controls
    references = means + generator.normal(size=(2000, n, means.size))
    mean, sd, own = references.mean(axis=1), references.std(axis=1, ddof=1), 5.0
    plain, floored = gain(np.full_like(mean, own), mean), gain_with_floor(np.full_like(mean, own), mean, sd)
    explodes = np.median(np.abs(plain), axis=0) > 20
    assert explodes[0]
    variation = floored.std(axis=0) / floored.mean(axis=0)
    spread = stats.iqr(plain, axis=0) / np.abs(np.median(plain, axis=0))
    assert (variation < 1.15 / np.sqrt(n)).all() and (variation < 0.2).all(), variation
    assert (spread[explodes] > 0.5).all(), spread


# ------------------------------------------------------------------------------------------------------------------- z


def test_z_is_scipys() -> None:
    controls = random_controls(4)
    own = random_controls(5)[0]
    together = stats.zmap(own[None], controls, axis=0, ddof=1)[0]
    np.testing.assert_allclose(standard_score(own, controls.mean(axis=0), controls.std(axis=0, ddof=1)), together)


def test_where_controls_have_no_spread_there_is_no_z() -> None:
    same = np.full((9, 1), 0.1)  # whose standard deviation is rounding
    found = standard_score([0.2], same.mean(axis=0), same.std(axis=0, ddof=1))
    assert np.isnan(found).all()


@pytest.mark.parametrize("n", [5, 20, 60])
def test_five_percent_of_controls_lie_beyond_the_limits(n: int) -> None:
    """Of further controls, against mean and standard deviation of n others; 1.96 would be exceeded far too often."""
    generator = np.random.default_rng(n)
    controls, own = generator.normal(3, 2, (n, 200_000)), generator.normal(3, 2, 200_000)
    z = standard_score(own, controls.mean(axis=0), controls.std(axis=0, ddof=1))
    assert np.mean(np.abs(z) > score_limit(n)) == pytest.approx(0.05, abs=0.002)
    assert n > 20 or np.mean(np.abs(z) > 1.96) > 0.06


def test_leaving_one_out_five_percent_of_the_controls_lie_beyond_the_limits() -> None:
    """60 controls, 120 regions that vary together, each control against the 59 others."""
    generator = np.random.default_rng(8)
    shared = generator.normal(size=(60, 12)) @ generator.normal(size=(12, 120)) / np.sqrt(12)
    controls = shared + 0.5 * generator.normal(size=(60, 120))
    beyond = []
    for left_out in range(60):
        others = np.delete(controls, left_out, axis=0)
        z = standard_score(controls[left_out], others.mean(axis=0), others.std(axis=0, ddof=1))
        beyond.append(np.abs(z) > score_limit(59))
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.01)


def test_one_control_is_no_reference() -> None:
    with pytest.raises(UsageError, match="1 control, and so no spread"):
        score_limit(1)


# ---------------------------------------------------------------------------------------------------------- percentile


def test_the_percentile_is_that_of_the_controls() -> None:
    """Against counting, up to the distance of the stored quantiles."""
    controls = np.sort(random_controls(6, n=400), axis=0)
    quantiles = np.quantile(controls, PROBABILITIES, axis=0).T
    own = random_controls(7, n=400)[:40].diagonal()
    counted = [stats.percentileofscore(controls[:, r], own[r]) for r in range(40)]
    np.testing.assert_allclose(percentile(own, PROBABILITIES, quantiles, 400), counted, atol=1.0)


def test_beyond_all_controls_the_percentile_is_a_bound() -> None:
    """From 60 controls nobody knows that a scan is beyond 99 % of all."""
    quantiles = np.tile(np.linspace(-1, 1, 101), (3, 1))
    found = percentile([-5.0, 0.0, 5.0], PROBABILITIES, quantiles, 60)
    np.testing.assert_allclose(found, [100 / 61, 50.0, 6000 / 61])
    assert percentile_bounds(PROBABILITIES, 60) == pytest.approx((100 / 61, 6000 / 61))


def test_a_grid_of_quantiles_that_ends_early_bounds_as_well() -> None:
    grid = np.array([0.05, 0.5, 0.95])
    found = percentile([9.0, -9.0], grid, np.tile([-1.0, 0.0, 1.0], (2, 1)), 60)
    np.testing.assert_allclose(found, [95, 5])


def test_of_equal_quantiles_the_middle_counts() -> None:
    quantiles = np.concatenate([np.zeros(61), np.linspace(0.1, 1, 40)])[None]
    np.testing.assert_allclose(percentile([0.0], PROBABILITIES, quantiles, 100), [30.0])


def test_a_value_that_is_no_number_has_no_percentile() -> None:
    assert np.isnan(percentile([np.nan], PROBABILITIES, PROBABILITIES[None], 60)).all()


# ---------------------------------------------------------------------------------------------------------- covariates


def fitted(seed: int, n: int = 60) -> tuple[np.ndarray, sm.regression.linear_model.RegressionResultsWrapper]:
    generator = np.random.default_rng(seed)
    age, sex = generator.uniform(55, 90, n), generator.integers(0, 2, n)
    design = sm.add_constant(np.column_stack([age, sex]))
    return design, sm.OLS(0.03 * age - 0.5 * sex + generator.normal(size=n), design).fit()


def test_the_expected_value_has_the_prediction_interval_of_statsmodels() -> None:
    design, fit = fitted(9)
    mine = np.array([1.0, 71.0, 1.0])
    leverage = float(mine @ np.linalg.inv(design.T @ design) @ mine)
    found = adjusted_scores([4.0], fit.predict(mine), [np.sqrt(fit.mse_resid)], leverage, int(fit.df_resid))
    frame = fit.get_prediction(mine).summary_frame(alpha=0.05)
    interval = frame[["mean", "obs_ci_lower", "obs_ci_upper"]].to_numpy()[0]
    np.testing.assert_allclose((found.expected[0], found.expected_low[0], found.expected_high[0]), interval)
    assert found.z[0] == pytest.approx((4.0 - interval[0]) / np.sqrt(fit.mse_resid))
    assert abs(interval[2] - interval[0]) == pytest.approx(found.limit * np.sqrt(fit.mse_resid))


def test_without_covariates_the_adjusted_score_is_the_plain_one() -> None:
    controls = random_controls(10, regions=5)
    mean, sd, own = controls.mean(axis=0), controls.std(axis=0, ddof=1), random_controls(11, regions=5)[0]
    found = adjusted_scores(own, mean, sd, 1 / 60, 59)
    np.testing.assert_allclose(found.z, standard_score(own, mean, sd))
    assert found.limit == pytest.approx(score_limit(60))


@pytest.mark.parametrize("true_z", [0.0, 2.0, 6.0])
def test_the_interval_of_z_covers_the_true_one(true_z: float) -> None:
    generator = np.random.default_rng(12)
    controls = generator.normal(size=(20, 4000))
    z = standard_score(np.full(4000, true_z), controls.mean(axis=0), controls.std(axis=0, ddof=1))
    low, high = score_interval(z, 1 / 20, 19)
    assert np.mean((low <= true_z) & (true_z <= high)) == pytest.approx(0.95, abs=0.012)


def test_the_interval_of_a_huge_z_goes_on_from_that_of_a_large_one() -> None:
    z = np.array([-1e9, 25.8, 25.9, 1e9, np.nan])  # 200 · √leverage lies between the second and the third
    low, high = score_interval(z, 1 / 60, 59)
    np.testing.assert_allclose((low / z)[1:4], low[1] / z[1], rtol=2e-3)
    np.testing.assert_allclose((high / z)[1:4], high[1] / z[1], rtol=2e-3)
    assert low[0] == -high[3] and np.isnan(low[4]) and np.isnan(high[4])


def test_the_adjusted_z_does_not_go_with_age_where_the_plain_one_does() -> None:
    """New controls against a line that other controls gave."""
    generator = np.random.default_rng(13)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        age = generator.uniform(55, 90, n)
        return age, 0.1 * age + generator.normal(size=n)

    age, values = draw(1000)
    design = sm.add_constant(age)
    fit = sm.OLS(values, design).fit()
    new_age, own = draw(20_000)
    plain = standard_score(own, values.mean(), values.std(ddof=1))
    rows = sm.add_constant(new_age)
    leverage = float(np.mean(np.einsum("ij,jk,ik->i", rows, np.linalg.inv(design.T @ design), rows)))
    adjusted = adjusted_scores(own, fit.predict(rows), np.sqrt(fit.mse_resid), leverage, 998).z
    assert stats.pearsonr(plain, new_age).statistic > 0.5
    assert abs(stats.pearsonr(adjusted, new_age).statistic) < 0.05


# --------------------------------------------------------------------------------------------------------------- z map

AFFINE = np.diag([1.0, 2.0, 1.5, 1.0])


def random_maps(seed: int, n: int = 30, shape: tuple[int, int, int] = (13, 10, 11)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    maps = generator.normal(generator.normal(size=shape), 10 ** generator.uniform(-2, 1, shape), (n, *shape))
    maps[:, 0] = 7.25  # nothing varies here
    maps[:, :, :, -1] = 0
    return maps.astype(np.float32)


def mean_and_sd(maps: np.ndarray) -> tuple[Volume, Volume]:
    exact = maps.astype(np.float64)
    pair = exact.mean(axis=0), exact.std(axis=0, ddof=1)
    return Volume(pair[0].astype(np.float32), AFFINE), Volume(pair[1].astype(np.float32), AFFINE)


def test_without_smoothing_the_z_map_is_z_in_every_voxel() -> None:
    maps = random_maps(14)
    mean, sd = mean_and_sd(maps[1:])
    found = z_map(Volume(maps[0], AFFINE), mean, sd, smoothing_mm=0)
    expected = stats.zmap(maps[:1, 1:, :, :-1], maps[1:, 1:, :, :-1], axis=0, ddof=1)[0]
    np.testing.assert_allclose(found.volume.array[1:, :, :-1], expected, rtol=2e-4, atol=2e-5)


def test_voxels_without_spread_are_empty_and_not_infinite() -> None:
    maps = random_maps(15)
    own = maps[0].copy()
    own[0], own[:, :, -1] = 99.0, 99.0
    found = z_map(Volume(own, AFFINE), *mean_and_sd(maps[1:]))
    assert not found.known[0].any() and not found.known[:, :, -1].any() and found.known[1:, :, :-1].all()
    assert (found.volume.array[~found.known] == 0).all() and np.isfinite(found.volume.array).all()
    assert np.array_equal(z_map(Volume(maps[0], AFFINE), *mean_and_sd(maps[1:])).volume.array, found.volume.array)


def test_the_smoothing_is_a_gaussian_of_the_stated_width() -> None:
    """Against scipy's filter, voxels of 1×2×1.5 mm."""
    maps = random_maps(16)
    mean, sd = mean_and_sd(maps[1:])
    known = np.zeros(maps.shape[1:], dtype=bool)
    known[1:, :, :-1] = True
    widths = 4.0 / 2.3548200450309493 / np.array([1.0, 2.0, 1.5])

    def smooth(array: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(np.where(known, array, 0).astype(float), widths, mode="constant", truncate=9)

    expected = smooth(maps[0] - mean.array)[known] / smooth(sd.array)[known]
    found = z_map(Volume(maps[0], AFFINE), mean, sd, smoothing_mm=4.0)
    np.testing.assert_allclose(found.volume.array[known], expected, rtol=1e-3, atol=1e-4)


def test_smoothing_never_makes_controls_look_unusual() -> None:
    """Its standard deviation over further controls is at most 1: where neighbours vary together it is 1."""
    generator = np.random.default_rng(17)
    for together, least, most in ((True, 0.85, 1.15), (False, 0.0, 0.6)):
        noise = generator.normal(size=(400, 1, 1, 1) if together else (400, 8, 8, 8))
        maps = np.broadcast_to(1 + noise * np.linspace(0.1, 5, 8), (400, 8, 8, 8))
        mean, sd = (Volume(f(maps[:200]).astype(np.float32), np.eye(4)) for f in (_mean, _sd))
        z = [z_map(Volume(m.astype(np.float32), np.eye(4)), mean, sd, 4.0).volume.array for m in maps[200:]]
        spread = float(np.std(z, axis=0).mean())
        assert least <= spread <= most, (together, spread)


def _mean(maps: np.ndarray) -> np.ndarray:
    return np.asarray(maps.mean(axis=0))


def _sd(maps: np.ndarray) -> np.ndarray:
    return np.asarray(maps.std(axis=0, ddof=1))


def test_maps_that_cannot_be_compared_are_refused() -> None:
    maps = random_maps(18)
    mean, sd = mean_and_sd(maps[1:])
    with pytest.raises(GeometryError, match="13×10×11 voxels.*13×10×11 voxels"):
        z_map(Volume(maps[0], np.diag([2.0, 2.0, 2.0, 1.0])), mean, sd)
    broken = maps[0].copy()
    broken[3, 3, 3:5] = np.nan, np.inf
    with pytest.raises(ScanError, match="2 NaN or infinite voxels of 1430"):
        z_map(Volume(broken, AFFINE, "the map"), mean, sd)
    with pytest.raises(UsageError, match="0 mm or more, but is -1 mm"):
        z_map(Volume(maps[0], AFFINE), mean, sd, smoothing_mm=-1)
