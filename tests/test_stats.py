"""Statistics on cases that a person can do by hand, and against scipy or statsmodels."""

import numpy as np
import pytest
import scipy.stats
from scipy.special import comb
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from senet_lib.analysis import stats

SEEDS_A = [0.912, 0.915, 0.9105, 0.9142, 0.9171, 0.9119]
SEEDS_B = [0.9081, 0.9133, 0.9096, 0.9077, 0.9102, 0.9123]


def rng():
    return np.random.default_rng(0)


# One sample


def test_t_interval_by_hand():
    # mean 3, s = sqrt(2.5), s / sqrt(5) = 0.70711, t(0.975; 4) = 2.77645
    interval = stats.t_interval([1, 2, 3, 4, 5])
    assert (interval.point, interval.low, interval.high) == pytest.approx((3, 3 - 1.96324, 3 + 1.96324), abs=1e-5)


def test_t_interval_agrees_with_statsmodels():
    interval = stats.t_interval(SEEDS_A, level=0.9)
    assert (interval.low, interval.high) == pytest.approx(DescrStatsW(SEEDS_A).tconfint_mean(alpha=0.1))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.9], "n = 1: no interval"),
        ([0.9, 0.9], "all seeds alike: no interval"),
        ([0.1 + 0.2, 0.3], "all seeds alike"),
    ],
)
def test_an_interval_is_never_made_up(values, reason):
    interval = stats.t_interval(values)
    assert not interval.exists
    assert interval.high is None
    assert interval.reason.startswith(reason)
    assert interval.point == pytest.approx(np.mean(values))


@pytest.mark.parametrize("values", [[], [0.9, float("nan")], [[0.9]], [float("inf")]])
def test_what_is_no_sample_is_refused(values):
    with pytest.raises(ValueError, match="non-empty list of finite numbers"):
        stats.describe(values)


def test_describe():
    sample = stats.describe([1, 3])
    assert (sample.n, sample.mean, sample.sd) == (2, 2, pytest.approx(np.sqrt(2)))
    assert stats.describe([1]).sd is None


def test_wilson_by_hand():
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    interval = stats.wilson_interval(0, 10)
    assert (interval.low, interval.high) == pytest.approx((0, z2 / (10 + z2)), abs=1e-12)  # 0.2775


@pytest.mark.parametrize(("correct", "total"), [(9545, 10_000), (1, 3), (10, 10)])
def test_wilson_agrees_with_statsmodels(correct, total):
    interval = stats.wilson_interval(correct, total)
    expected = proportion_confint(correct, total, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


def test_wilson_on_source_a():
    """Its ResNet50 and SENet50 are not told apart by 10,000 images, its SKNet50 is."""
    resnet, senet, sknet = (stats.wilson_interval(correct, 10_000) for correct in (9545, 9505, 8981))
    assert senet.high > resnet.low
    assert sknet.high < senet.low


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_impossible_counts(correct, total):
    with pytest.raises(ValueError, match="needs 0 <= correct <= total"):
        stats.wilson_interval(correct, total)


# Two samples


def test_welch_by_hand():
    # difference -1, standard error sqrt(1/3 + 1/3), equal variances and sizes: 4 degrees of freedom
    found = stats.welch_difference([1, 2, 3], [2, 3, 4])
    half = 2.776445 * np.sqrt(2 / 3)
    assert found.degrees == pytest.approx(4)
    assert (found.interval.point, found.interval.low, found.interval.high) == pytest.approx(
        (-1, -1 - half, -1 + half), abs=1e-5
    )


def test_welch_agrees_with_statsmodels_for_unequal_sizes():
    found = stats.welch_difference(SEEDS_A, SEEDS_B[:4])
    means = CompareMeans(DescrStatsW(SEEDS_A), DescrStatsW(SEEDS_B[:4]))
    assert (found.interval.low, found.interval.high) == pytest.approx(means.tconfint_diff(usevar="unequal"))
    assert (found.p, found.degrees) == pytest.approx(means.ttest_ind(usevar="unequal")[1:])


def test_welch_needs_a_spread_in_one_sample_only():
    assert stats.welch_difference([1.0, 1.0], [0.9, 0.95]).interval.exists
    found = stats.welch_difference([1.0, 1.0], [0.9, 0.9])
    assert (found.interval.exists, found.p, found.interval.reason) == (False, None, "all seeds alike: no interval")
    assert stats.welch_difference([1.0], [0.9, 0.8]).interval.reason == "n = 1: no interval"


def test_interaction_by_hand():
    # (2 - 3) - (5 - 7) = 1; four samples of variance 1 and size 3: standard error sqrt(4 / 3), 8 degrees of freedom
    found = stats.interaction(([1, 2, 3], [2, 3, 4]), ([4, 5, 6], [6, 7, 8]))
    half = 2.306004 * np.sqrt(4 / 3)
    assert found.degrees == pytest.approx(8)
    assert (found.interval.point, found.interval.low, found.interval.high) == pytest.approx(
        (1, 1 - half, 1 + half), abs=1e-5
    )


def test_interaction_agrees_with_statsmodels_least_squares_where_variances_are_equal():
    """In a balanced 2x2 layout Welch's standard error is that of least squares with one pooled variance."""
    cells = np.random.default_rng(2).normal(0.9, 0.01, size=(2, 2, 5))
    found = stats.interaction(tuple(cells[1]), tuple(cells[0]))
    rows, columns, _ = np.indices(cells.shape)
    design = np.column_stack([np.ones(20), rows.ravel(), 1 - columns.ravel(), (rows * (1 - columns)).ravel()])
    fit = OLS(cells.ravel(), design).fit()
    assert found.interval.point == pytest.approx(fit.params[3])
    error = (found.interval.high - found.interval.point) / scipy.stats.t.ppf(0.975, found.degrees)
    assert error == pytest.approx(fit.bse[3])


@pytest.mark.parametrize(
    ("last", "reason"), [([0.9], "n = 1: no interval"), ([0.9, 0.9], "all seeds alike: no interval")]
)
def test_interaction_without_an_interval_says_why(last, reason):
    same = [0.8, 0.8]
    assert stats.interaction((same, same), (same, last)).interval.reason == reason


def bca_by_the_formulas(differences, draws, level=0.95):
    """Efron (1987), written out; an own resampling."""
    n, mean = len(differences), np.mean(differences)
    means = np.random.default_rng(1).choice(differences, size=(draws, n)).mean(axis=1)
    bias = scipy.stats.norm.ppf(((means < mean).mean() + (means <= mean).mean()) / 2)
    left_out = (np.sum(differences) - np.asarray(differences)) / (n - 1)
    deviations = left_out.mean() - left_out
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    z = bias + scipy.stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(means, scipy.stats.norm.cdf(bias + z / (1 - acceleration * z)))


def test_bca_agrees_with_its_formulas():
    skewed = [0.001, 0.002, 0.0025, 0.003, 0.0041, 0.012, 0.0005, 0.0022]
    interval = stats.bca_difference(skewed, np.zeros(8), rng(), resamples=50_000)
    low, high = bca_by_the_formulas(skewed, 50_000)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=0.02)
    assert interval.high - interval.point > interval.point - interval.low  # it follows the skew


def test_bca_is_a_function_of_its_generator():
    first, same = (stats.bca_difference(SEEDS_A, SEEDS_B, rng(), resamples=999) for _ in range(2))
    other = stats.bca_difference(SEEDS_A, SEEDS_B, np.random.default_rng(1), resamples=999)
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    ("treatment", "baseline", "reason"),
    [([0.91, 0.92], [0.9, 0.9], "n = 2: too few"), ([0.91, 0.92, 0.93], [0.9, 0.91, 0.92], "all seeds alike")],
)
def test_bca_says_why_there_is_none(treatment, baseline, reason):
    interval = stats.bca_difference(treatment, baseline, rng())
    assert not interval.exists
    assert interval.reason.startswith(reason)
    assert interval.point == pytest.approx(np.mean(treatment) - np.mean(baseline))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),  # only +++ and --- reach 6
        ([1, 1, -1], 1.0),  # every sum is at least 1 from 0
        ([3, 2, 0.5, -1], 6 / 16),  # 4.5: of the positive half +++-, ++++ (6.5) and ++-+ (5.5) reach it
        ([0, 0], 1.0),
        ([5], 1.0),
    ],
)
def test_sign_flips_by_hand(differences, p):
    assert stats.sign_flip_p(differences, np.zeros(len(differences))) == p


def test_sign_flips_agree_with_scipy():
    test = scipy.stats.permutation_test(
        (SEEDS_A, SEEDS_B), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True
    )
    assert stats.sign_flip_p(SEEDS_A, SEEDS_B) == pytest.approx(test.pvalue)


def test_sampled_sign_flips_are_near_the_exact_ones():
    differences = np.random.default_rng(3).normal(0.3, 1, size=stats.EXACT_UP_TO + 1)
    n = len(differences)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert stats.sign_flip_p(differences, np.zeros(n), rng(), resamples=20_000) == pytest.approx(exact, abs=0.01)
    with pytest.raises(ValueError, match="pass a numpy Generator"):
        stats.sign_flip_p(differences, np.zeros(n))


def test_pairs_must_match():
    with pytest.raises(ValueError, match="same seeds: 2 and 3 values"):
        stats.sign_flip_p([1, 2], [1, 2, 3])


def test_superiority_by_hand_and_against_mann_whitney():
    # (1, 1) tie, (1, 3) lost, (2, 1) won, (2, 3) lost: 1.5 of 4
    assert stats.probability_of_superiority([1, 2], [1, 3]) == 0.375
    u = scipy.stats.mannwhitneyu(SEEDS_A, SEEDS_B).statistic
    assert stats.probability_of_superiority(SEEDS_A, SEEDS_B) == pytest.approx(u / 36)


def test_holm_by_hand():
    # sorted 0.01, 0.03, 0.04: times 3, 2, 1, never falling
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


def test_holm_agrees_with_statsmodels():
    p = np.random.default_rng(5).uniform(0, 0.2, size=9)
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_counts_a_planned_comparison_without_a_test():
    assert stats.holm([0.02, None]) == [pytest.approx(0.04), None]


@pytest.mark.parametrize("p", [[-0.1], [1.1], [float("nan")]])
def test_holm_refuses_what_is_no_p(p):
    with pytest.raises(ValueError, match=r"p values must lie in \[0, 1\]"):
        stats.holm(p)


def test_mcnemar_by_hand():
    # 1 against 6 discordant images: 2 * (C(7, 0) + C(7, 1)) / 2**7
    first = [True] * 1 + [False] * 6 + [True] * 20 + [False] * 3
    second = [False] * 1 + [True] * 6 + [True] * 20 + [False] * 3
    found = stats.mcnemar_exact(first, second)
    assert found == stats.McNemar(1, 6, pytest.approx(2 * (comb(7, 0) + comb(7, 1)) / 2**7))
    assert stats.mcnemar_exact(first, first).p == 1.0


def test_mcnemar_agrees_with_statsmodels():
    first, second = np.random.default_rng(2).uniform(size=(2, 500)) < [[0.9], [0.86]]
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert stats.mcnemar_exact(first, second).p == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_mcnemar_needs_the_same_images():
    with pytest.raises(ValueError, match="not evaluated on the same images"):
        stats.mcnemar_exact([True], [True, False])


@pytest.mark.parametrize("n", [2, 3, 6, 10, 30])
def test_detectable_difference_agrees_with_statsmodels(n):
    expected = 0.002 * TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8)
    assert stats.detectable_difference(0.002, 0.002, n, n) == pytest.approx(expected, rel=1e-5)


def test_detectable_difference_for_unequal_samples():
    pooled = np.sqrt((5 * 0.001**2 + 2 * 0.003**2) / 7)
    expected = pooled * TTestIndPower().solve_power(nobs1=6, ratio=0.5, alpha=0.05, power=0.9)
    assert stats.detectable_difference(0.001, 0.003, 6, 3, power=0.9) == pytest.approx(expected, rel=1e-5)


def test_nothing_detectable_without_a_spread_or_a_second_seed():
    assert stats.detectable_difference(0.0, 0.0, 3, 3) is None
    assert stats.detectable_difference(0.1, 0.1, 1, 3) is None


# The verdict


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "expected"),
    [
        (0.001, 0.009, 0.01, stats.BETTER),
        (0.0001, 0.002, 0.04, stats.BETTER),  # detected, though within the margin
        (-0.009, -0.001, 0.01, stats.WORSE),
        (-0.0029, 0.0029, 0.9, stats.NO_DIFFERENCE),
        (0.0001, 0.002, 0.06, stats.NO_DIFFERENCE),  # not after the correction, and small in any case
        (-0.003, 0.002, 0.9, stats.INCONCLUSIVE),  # the margin itself is not within it
        (-0.001, 0.009, 0.3, stats.INCONCLUSIVE),
        (0.001, 0.009, 0.06, stats.INCONCLUSIVE),  # excludes 0 alone, not after the correction
        (None, None, None, stats.INCONCLUSIVE),
    ],
)
def test_verdict(low, high, p_holm, expected):
    point = 0.0 if low is None else (low + high) / 2
    assert stats.verdict(stats.Interval(point, low, high), p_holm) == expected


def test_the_rule_names_its_own_numbers():
    text = stats.rule(margin=0.005, level=0.9, alpha=0.1)
    assert "90 %" in text
    assert "±0.5 pp" in text
    assert "under 0.1 " in text


def test_compare_uses_all_seeds_unpaired_and_common_seeds_paired():
    ours, theirs = {0: 0.92, 1: 0.93, 3: 0.94}, {0: 0.90, 1: 0.92, 2: 0.91}
    found = stats.compare(ours, theirs, rng(), names=("se", "plain"))
    assert (found.n_treatment, found.n_baseline, found.n_pairs) == (3, 3, 2)
    assert found.difference.point == pytest.approx(0.02)
    assert found.bca.point == pytest.approx(0.015)  # seeds 0 and 1
    assert found.p_sign_flip == 0.5
    assert found.superiority == pytest.approx(17 / 18)  # all pairs but a tie at 0.92


def test_compare_without_a_common_seed():
    found = stats.compare({0: 0.9, 1: 0.91}, {2: 0.8, 3: 0.82}, rng())
    assert (found.n_pairs, found.p_sign_flip, found.bca.exists) == (0, None, False)
    assert found.bca.reason == "no seed in common"
    assert found.difference.exists


def test_compare_all_corrects_over_everything_that_was_planned():
    plain = dict(enumerate(SEEDS_B))
    values = {"plain": plain, "se": {s: v + 0.004 for s, v in enumerate(SEEDS_A)}, "sk": {}}
    pairs = [("se", "plain"), ("sk", "plain")]
    (found,) = stats.compare_all(values, pairs, rng())
    assert (found.treatment, found.baseline) == ("se", "plain")
    assert found.p_welch_holm == pytest.approx(2 * found.welch.p)
    assert found.p_sign_flip_holm == pytest.approx(2 * 2 / 64)
    assert found.verdict == stats.BETTER
    assert stats.compare_all({"plain": plain}, pairs, rng()) == []


def test_one_seed_is_never_more_than_inconclusive():
    (found,) = stats.compare_all({"a": {0: 0.99}, "b": {0: 0.5}}, [("a", "b")], rng())
    assert found.verdict == stats.INCONCLUSIVE
    assert (found.p_welch_holm, found.p_sign_flip, found.detectable) == (None, None, None)
