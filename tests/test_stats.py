"""Statistics on hand-computed cases, and against scipy and statsmodels."""

import numpy as np
import pytest
import scipy.stats
from scipy.special import comb
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from senet_lib.analysis import stats
from senet_lib.analysis.stats import NO_SPREAD, ONE_SEED

SEEDS_A = [0.912, 0.915, 0.9105, 0.9142, 0.9171, 0.9119]
SEEDS_B = [0.9081, 0.9133, 0.9096, 0.9077, 0.9102, 0.9123]


def rng():
    return np.random.default_rng(0)


def ends(interval):
    return interval.low, interval.high


# One sample


def test_t_interval():
    # mean 3, s = sqrt(2.5), s / sqrt(5) = 0.70711, t(0.975; 4) = 2.77645
    interval = stats.t_interval([1, 2, 3, 4, 5])
    assert (interval.point, *ends(interval)) == pytest.approx((3, 3 - 1.96324, 3 + 1.96324), abs=1e-5)
    assert ends(stats.t_interval(SEEDS_A, level=0.9)) == pytest.approx(DescrStatsW(SEEDS_A).tconfint_mean(alpha=0.1))


def test_describe():
    sample = stats.describe([1, 3])
    assert (sample.n, sample.mean, sample.sd) == (2, 2, pytest.approx(np.sqrt(2)))
    assert stats.describe([1]).sd is None


def test_wilson_interval():
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert ends(stats.wilson_interval(0, 10)) == pytest.approx((0, z2 / (10 + z2)), abs=1e-12)  # 0.2775
    for correct, total in ((9545, 10_000), (1, 3), (10, 10)):
        expected = proportion_confint(correct, total, method="wilson")
        assert ends(stats.wilson_interval(correct, total)) == pytest.approx(expected, abs=1e-12)


def test_no_interval_without_spread():
    varied = [0.91, 0.92, 0.93]
    for interval, reason, point in (
        (stats.t_interval([0.9]), ONE_SEED, 0.9),
        (stats.t_interval([0.9, 0.9]), NO_SPREAD, 0.9),
        (stats.t_interval([0.1 + 0.2, 0.3]), NO_SPREAD, 0.3),  # they differ in the last bit
        (stats.welch_difference([1.0, 1.0], [0.9, 0.9]), NO_SPREAD, 0.1),
        (stats.welch_difference([1.0], [0.9, 0.8]), ONE_SEED, 0.15),
        (stats.bca_difference([0.91, 0.92], [0.9, 0.9], rng()), "n = 2: too few seeds to resample", 0.015),
        (stats.bca_difference(varied, np.subtract(varied, 0.01), rng()), NO_SPREAD, 0.01),
    ):
        assert (interval.exists, *ends(interval), interval.reason) == (False, None, None, reason)
        assert interval.point == pytest.approx(point)
    assert stats.welch_difference([1.0, 1.0], [0.9, 0.95]).exists  # one sample with a spread suffices


def test_invalid_input_raises():
    many = np.zeros(stats.EXACT_UP_TO + 1)
    samples = [[], [0.9, float("nan")], [[0.9]], [float("inf")]]
    for message, calls in (
        ("non-empty list of finite numbers", [lambda v=v: stats.describe(v) for v in samples]),
        ("0 <= correct <= total", [lambda c=c: stats.wilson_interval(*c) for c in ((0, 0), (5, 4), (-1, 4))]),
        ("same seeds, not 2 and 3", [lambda: stats.sign_flip_p([1, 2], [1, 2, 3])]),
        ("pass a numpy Generator", [lambda: stats.sign_flip_p(many, many)]),
        ("not evaluated on the same images", [lambda: stats.mcnemar_exact([True], [True, False])]),
    ):
        for call in calls:
            with pytest.raises(ValueError, match=message):
                call()


# Two samples


def test_welch_difference():
    # difference -1, standard error sqrt(1/3 + 1/3), equal variances and sizes: 4 degrees of freedom
    found, half = stats.welch_difference([1, 2, 3], [2, 3, 4]), 2.776445 * np.sqrt(2 / 3)
    assert (found.point, *ends(found)) == pytest.approx((-1, -1 - half, -1 + half), abs=1e-5)
    found = stats.welch_difference(SEEDS_A, SEEDS_B[:4])
    means = CompareMeans(DescrStatsW(SEEDS_A), DescrStatsW(SEEDS_B[:4]))
    assert ends(found) == pytest.approx(means.tconfint_diff(usevar="unequal"))


def bca_by_its_formulas(differences, draws, level=0.95):
    """Efron (1987), with its own resampling."""
    n, mean = len(differences), np.mean(differences)
    means = np.random.default_rng(1).choice(differences, size=(draws, n)).mean(axis=1)
    bias = scipy.stats.norm.ppf(((means < mean).mean() + (means <= mean).mean()) / 2)
    left_out = (np.sum(differences) - np.asarray(differences)) / (n - 1)
    deviations = left_out.mean() - left_out
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    z = bias + scipy.stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(means, scipy.stats.norm.cdf(bias + z / (1 - acceleration * z)))


def test_bca_difference():
    skewed = [0.001, 0.002, 0.0025, 0.003, 0.0041, 0.012, 0.0005, 0.0022]
    interval = stats.bca_difference(skewed, np.zeros(8), rng(), resamples=20_000)
    assert ends(interval) == pytest.approx(bca_by_its_formulas(skewed, 20_000), rel=0.03)
    assert interval.high - interval.point > interval.point - interval.low  # as the sample is skewed
    first, same = (stats.bca_difference(SEEDS_A, SEEDS_B, rng(), resamples=99) for _ in range(2))
    other = stats.bca_difference(SEEDS_A, SEEDS_B, np.random.default_rng(1), resamples=99)
    assert first == same != other


def test_sign_flip_p():
    for differences, p in (
        ([1, 2, 3], 2 / 8),  # only +++ and --- reach 6
        ([1, 1, -1], 1.0),  # every sum is at least 1 from 0
        ([3, 2, 0.5, -1], 6 / 16),  # 4.5: of the positive half +++-, ++++ (6.5) and ++-+ (5.5) reach it
        ([0, 0], 1.0),
        ([5], 1.0),
    ):
        assert stats.sign_flip_p(differences, np.zeros(len(differences))) == p
    test = scipy.stats.permutation_test(
        (SEEDS_A, SEEDS_B), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True
    )
    assert stats.sign_flip_p(SEEDS_A, SEEDS_B) == pytest.approx(test.pvalue)


def test_sampled_sign_flips_approach_exact():
    n = stats.EXACT_UP_TO + 1
    differences = np.random.default_rng(3).normal(0.3, 1, size=n)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert stats.sign_flip_p(differences, np.zeros(n), rng(), resamples=20_000) == pytest.approx(exact, abs=0.01)


def test_sampled_sign_flip_p_is_never_zero():
    ones = np.ones(60)  # 99 draws do not contain the observed signs
    assert stats.sign_flip_p(ones, np.zeros(60), rng(), resamples=99) == 1 / 100


def test_sign_flips_that_reach_the_same_sum_count_despite_rounding():
    """Sums of thousandths are exact as integers; as fractions their last bits depend on the signs."""
    for thousandths in ([1, 2, 3, 6, 6], [7, -3, 4, 5, 1], [1, 2, 4, -7, 9, 3], [3, 3, -6, 9, 1, 7], [5, 8, -1, 2]):
        zeros = np.zeros(len(thousandths))
        exact = stats.sign_flip_p(thousandths, zeros)
        assert stats.sign_flip_p(np.divide(thousandths, 1000), zeros) == exact, thousandths


def test_prediction_interval_by_hand():
    # sd 1; t(0.975; 2) = 4.302653; sqrt(1 / 3 + 1) for a run, sqrt(1 / 3 + 1 / 3) for the mean of three
    for runs, scale in ((1, (4 / 3) ** 0.5), (3, (2 / 3) ** 0.5)):
        found = stats.prediction_interval([1, 2, 3], runs)
        assert (found.point, found.high) == pytest.approx((2, 2 + 4.302653 * scale), abs=1e-5)
    assert stats.prediction_interval([0.9], 3).reason == ONE_SEED


def test_probability_of_superiority():
    # (1, 1) tie, (1, 3) lost, (2, 1) won, (2, 3) lost: 1.5 of 4
    assert stats.probability_of_superiority([1, 2], [1, 3]) == 0.375
    u = scipy.stats.mannwhitneyu(SEEDS_A, SEEDS_B).statistic
    assert stats.probability_of_superiority(SEEDS_A, SEEDS_B) == pytest.approx(u / 36)


def test_mcnemar_exact():
    # 1 against 6 discordant images: 2 * (C(7, 0) + C(7, 1)) / 2**7
    first = [True] * 1 + [False] * 6 + [True] * 20 + [False] * 3
    second = [False] * 1 + [True] * 6 + [True] * 20 + [False] * 3
    assert stats.mcnemar_exact(first, second) == stats.McNemar(1, 6, pytest.approx(2 * (1 + comb(7, 1)) / 2**7))
    assert stats.mcnemar_exact(first, first).p == 1.0
    first, second = np.random.default_rng(2).uniform(size=(2, 500)) < [[0.9], [0.86]]
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert stats.mcnemar_exact(first, second).p == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_independent_sd_by_hand():
    """Two runs differ on two of four images (variance 1/2 each); one of four runs differs on one image (1/4)."""
    two = [[1, 1, 1, 1], [1, 1, 0, 0]]
    four = [[1, 1, 1, 1]] * 3 + [[1, 1, 1, 0]]
    variances = (2 * 1 / 2) / 4 / 4, (1 / 4) / 4 / 4  # of a mean over four images
    assert stats.independent_sd([two]) == pytest.approx(variances[0] ** 0.5)
    assert stats.independent_sd([two, four]) == pytest.approx(((variances[0] + 3 * variances[1]) / 4) ** 0.5)


def test_independent_sd_needs_two_runs_on_as_many_images():
    two, one, other = [[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 0, 1, 1]], [[1, 1, 0, 1], [1, 1, 0]]
    assert stats.independent_sd([two, one, other]) == stats.independent_sd([two])
    for networks in ([], [one], [other], [one, other]):
        assert stats.independent_sd(networks) is None, networks
