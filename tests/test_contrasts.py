"""Simultaneous intervals from a study's linear model, on small worked cases and against scipy and statsmodels."""

import numpy as np
import pytest
import scipy.stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from senet_lib.analysis import contrasts
from senet_lib.analysis.contrasts import (
    NO_DEGREES,
    OTHER_MACHINE,
    JointT,
    RunModel,
    correlation,
    detectable,
    simultaneous,
)
from senet_lib.analysis.stats import NO_SPREAD, ONE_SEED

UNEQUAL = {"a": [0.90, 0.95, 0.92, 0.85], "b": [0.910, 0.911, 0.912, 0.910], "c": [0.900, 0.901, 0.899, 0.902]}
SIMILAR = {"a": [0.912, 0.915, 0.911, 0.914], "b": [0.908, 0.913, 0.910, 0.907], "c": [0.905, 0.909, 0.903, 0.904]}


def study(samples):
    return {label: dict(enumerate(values)) for label, values in samples.items()}


def difference(treatment, baseline):
    return {treatment: 1.0, baseline: -1.0}


def test_pooled_interval_by_hand():
    # Sums of squares 2 and 2 with 2 and 1 degrees of freedom; the single run adds nothing
    model = RunModel(study({"a": [1, 2, 3], "b": [1, 3], "c": [9]}), None)
    assert model.sd == pytest.approx(np.sqrt((2 + 2) / 3)) and model.degrees == 3
    (found,) = simultaneous(model, [difference("a", "b")])
    error = np.sqrt(4 / 3 * (1 / 3 + 1 / 2))
    assert (found.interval.point, found.error) == pytest.approx((0, error))
    assert found.interval.high == pytest.approx(3.182446 * error)  # t(0.975; 3)
    assert found.p == pytest.approx(1)


def test_deviation_of_some_networks():
    model = RunModel(study({"a": [1, 2, 3], "b": [1, 3], "c": [9], "d": [0, 100]}), None)
    assert model.sd_of(["a", "b", "c", "unknown"]) == pytest.approx(np.sqrt((2 + 2) / 3))
    assert model.sd_of(["a", "b", "c", "d"]) == pytest.approx(model.sd)
    assert model.sd_of(["c"]) is None


def test_many_to_one_equals_dunnett():
    samples = {"plain": SIMILAR["b"], "se": SIMILAR["a"], "sk": SIMILAR["c"], "x": [0.911, 0.9, 0.906, 0.905]}
    found = simultaneous(RunModel(study(samples), None), [difference(label, "plain") for label in ("se", "sk", "x")])
    expected = scipy.stats.dunnett(*list(samples.values())[1:], control=samples["plain"], rng=np.random.default_rng(0))
    ends = expected.confidence_interval()
    for estimate, low, high, p in zip(found, ends.low, ends.high, expected.pvalue, strict=True):
        assert (estimate.interval.low, estimate.interval.high) == pytest.approx((low, high), abs=2e-5)
        assert estimate.p == pytest.approx(p, abs=0.003)


def test_all_pairs_equal_tukey():
    """Three differences of three networks are linearly dependent: their correlation is singular."""
    pairs = [("a", "b"), ("b", "c"), ("a", "c")]
    found = simultaneous(RunModel(study(SIMILAR), None), [difference(*pair) for pair in pairs])
    expected = scipy.stats.tukey_hsd(*SIMILAR.values())
    ends = expected.confidence_interval()
    for estimate, (i, j) in zip(found, [(0, 1), (1, 2), (0, 2)], strict=True):
        assert (estimate.interval.low, estimate.interval.high) == pytest.approx(
            (ends.low[i, j], ends.high[i, j]), abs=2e-5
        )
        assert estimate.p == pytest.approx(expected.pvalue[i, j], abs=0.003)


def test_unfinished_comparisons_count_as_independent():
    alone = JointT(np.ones((1, 1)), 8)
    assert alone.critical() == pytest.approx(scipy.stats.t.ppf(0.975, 8)) and alone.p(2.0) > 0.05
    for planned in (2, 6):  # Sidak's bound with a common denominator lies between one test and Bonferroni's correction
        joint = JointT(np.ones((1, 1)), 8, planned)
        assert joint.critical() == pytest.approx(JointT(np.eye(planned), 8).critical(), rel=0.005)
        assert alone.critical() < joint.critical() < scipy.stats.t.isf(0.025 / planned, 8)
        assert joint.p(joint.critical()) == pytest.approx(0.05, abs=1e-4)


def test_corrected_p_is_never_zero():
    assert JointT(np.eye(2), 8).p(1e9) == pytest.approx(1 / (contrasts.DRAWS + 1))


def test_draws_do_not_depend_on_the_choice_of_eigenvectors(monkeypatch):
    """Those of equal eigenvalues, which are arbitrary, differ between processors."""
    star = np.full((4, 4), 0.5) + np.eye(4) / 2  # four networks against one: three equal eigenvalues
    singular = np.kron(np.ones((2, 2)), np.eye(2))  # each comparison twice: two eigenvalues of zero
    decompose, rng = np.linalg.eigh, np.random.default_rng(0)

    def turned(matrix):
        values, vectors = decompose(matrix)
        for value in np.unique(values.round(6)):
            (equal,) = np.nonzero(np.abs(values - value) < 1e-5)
            vectors[:, equal] @= np.linalg.qr(rng.normal(size=(len(equal), len(equal))))[0]
        return values + 1e-9 * rng.normal(size=len(values)), vectors

    for matrix in (star, singular):
        first = JointT(matrix, 20)
        with monkeypatch.context() as patch:
            patch.setattr(np.linalg, "eigh", turned)
            contrasts._sorted_maxima.cache_clear()
            second = JointT(matrix, 20)
        assert second.critical() == pytest.approx(first.critical(), rel=1e-7)
        assert second.sampled is not first.sampled


def test_machine_is_a_block():
    """Against least squares with an indicator of the machine, and exact where the shift is the only difference."""
    rng, shift = np.random.default_rng(1), 0.01
    noise = {label: rng.normal(0.9, 0.001, 4) for label in ("a", "b", "c")}
    moved = {("a", 3), ("b", 2), ("b", 3)}
    values = {label: {s: v + shift * ((label, s) in moved) for s, v in enumerate(row)} for label, row in noise.items()}
    machines = {label: {s: "two" if (label, s) in moved else "one" for s in range(4)} for label in values}
    model = RunModel(values, machines)
    rows = [(label, seed) for label in values for seed in values[label]]
    design = np.array([[label == other for other in values] + [(label, seed) in moved] for label, seed in rows], float)
    fit = OLS([values[label][seed] for label, seed in rows], design).fit()
    assert (model.degrees, model.sd) == (8, pytest.approx(np.sqrt(fit.scale)))
    (found,) = simultaneous(model, [difference("b", "c")])
    test = fit.t_test([0, 1, -1, 0])
    assert (found.interval.point, found.error, found.p) == pytest.approx(
        (test.effect[0], test.sd[0, 0], float(test.pvalue))
    )
    assert (found.interval.low, found.interval.high) == pytest.approx(test.conf_int()[0])
    assert abs(found.interval.point) < 0.003, "the shift between machines is no difference between networks"
    assert model.machines == ["one", "two"]


def test_networks_without_a_common_machine_have_no_interval():
    values = study(SIMILAR)
    apart = {label: dict.fromkeys(seeds, label) for label, seeds in values.items()}
    (found,) = simultaneous(RunModel(values, apart), [difference("a", "b")])
    assert found.interval.reason == OTHER_MACHINE and not found.interval.exists
    assert found.interval.point == pytest.approx(np.mean(SIMILAR["a"]) - np.mean(SIMILAR["b"]))
    linked = apart | {"c": {0: "a", 1: "a", 2: "b", 3: "b"}}
    (found,) = simultaneous(RunModel(values, linked), [difference("a", "b")])
    assert found.interval.exists, "c has runs on both machines"


def test_clearly_unequal_deviations_use_welch():
    similar, unequal = RunModel(study(SIMILAR), None), RunModel(study(UNEQUAL), None)
    assert (similar.unequal, unequal.unequal) == (False, True)
    assert unequal.p_equal == pytest.approx(scipy.stats.bartlett(*UNEQUAL.values()).pvalue)
    found = simultaneous(unequal, [difference("a", "b"), difference("b", "c")])
    for estimate, pair in zip(found, (("a", "b"), ("b", "c")), strict=True):
        means = CompareMeans(*(DescrStatsW(UNEQUAL[label]) for label in pair))
        ends = means.tconfint_diff(alpha=0.025, usevar="unequal")  # Bonferroni: 0.05 / 2
        assert (estimate.interval.low, estimate.interval.high) == pytest.approx(ends)
        assert estimate.p == pytest.approx(min(1, 2 * means.ttest_ind(usevar="unequal")[1]))


def test_welch_degrees_with_unequal_numbers_of_seeds():
    wide = [0.90, 0.95, 0.92, 0.85, 0.91, 0.94, 0.88, 0.93, 0.96, 0.89, 0.92, 0.90]
    samples = {"a": wide, "b": [0.91, 0.93, 0.94], "c": [0.900, 0.901, 0.899, 0.902]}
    model = RunModel(study(samples), None)
    assert model.unequal
    for pair in (("a", "b"), ("b", "c"), ("a", "c")):
        (found,) = simultaneous(model, [difference(*pair)])
        expected = scipy.stats.ttest_ind(*(samples[label] for label in pair), equal_var=False)
        ends = expected.confidence_interval()
        assert found.degrees == pytest.approx(expected.df), pair
        assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high)), pair


def test_rounding_of_the_weights_does_not_enter_welch(monkeypatch):
    """A pseudoinverse may have rounding where it should be 0: here a single run gets a weight in the mean of a."""

    def rounded(design):
        inverse = design.T / design.sum(axis=0)[:, None]
        inverse[0, -1] = 1e-17
        return inverse

    values = study(UNEQUAL | {"single": [0.95]})
    (exact,) = simultaneous(RunModel(values, None), [difference("a", "b")])
    monkeypatch.setattr(np.linalg, "pinv", rounded)
    model = RunModel(values, None)
    assert model.unequal and model.shares[-1] == 0 and model.weights(difference("a", "b"))[-1] != 0
    (found,) = simultaneous(model, [difference("a", "b")])
    assert (found.degrees, found.error, found.p) == pytest.approx((exact.degrees, exact.error, exact.p))


def test_deviations_differ_below_a_p_of_one_fifth():
    """Three networks of four seeds; the third one's deviation is a multiple of that of the others."""
    steps = np.array([-1.5, -0.5, 0.5, 1.5])
    for multiple, between, unequal in ((2.2, (0.2, 0.4), False), (2.8, (0.1, 0.2), True), (6, (0, 0.05), True)):
        samples = {"a": 0.91 + 0.002 * steps, "b": 0.90 + 0.002 * steps, "c": 0.90 + multiple * 0.002 * steps}
        model = RunModel(study(samples), None)
        assert between[0] < model.p_equal < between[1] and model.unequal == unequal, multiple


def test_equal_deviations_are_tested_with_their_degrees_of_freedom_on_several_machines():
    """Two runs on two machines have one degree of freedom, whatever their share of the residuals is, so the test is
    that of two independent runs with the same variance."""
    values = {"a": {0: 0.90, 1: 0.93}, "b": {0: 0.91, 1: 0.92}, "c": {0: 0.90, 1: 0.901}, "d": {0: 0.90, 1: 0.95}}
    model = RunModel(values, dict.fromkeys(values, {0: "one", 1: "two"}))
    assert model.shares == pytest.approx([0.75] * 4)
    alone = [[0, np.sqrt(2 * variance)] for variance in model.variances()]
    assert model.p_equal == pytest.approx(scipy.stats.bartlett(*alone).pvalue)


def test_networks_with_a_small_share_of_the_residuals_are_no_test_of_equal_deviations():
    """Three networks of two runs link three machines in a circle: one degree of freedom, a third for each."""
    values = study({"a": [0.90, 0.93], "b": [0.91, 0.92], "c": [0.90, 0.95]})
    values |= study({"d": [0.90, 0.901, 0.903], "e": [0.90, 0.904, 0.906]})
    machines = {"a": {0: "1", 1: "2"}, "b": {0: "1", 1: "3"}, "c": {0: "2", 1: "3"}}
    machines |= {"d": dict.fromkeys(range(3), "1"), "e": dict.fromkeys(range(3), "2")}
    model = RunModel(values, machines)
    assert model.shares == pytest.approx([1 / 3] * 3 + [2, 2])
    assert model.p_equal == pytest.approx(scipy.stats.bartlett(*([*values[label].values()] for label in "de")).pvalue)


def test_networks_that_link_the_machines_need_degrees_of_freedom():
    """Under Welch, c alone tells the machines of a and b apart. It is fitted exactly, so its variance is unknown."""
    values = study({"a": [0.90, 0.95, 0.92], "b": [0.910, 0.911, 0.9105], "c": [0.90, 0.905]})
    values |= study({"d": [0.93, 0.9301, 0.93005]})
    machines = {label: dict.fromkeys(range(3), "two" if label == "b" else "one") for label in "abd"}
    model = RunModel(values, machines | {"c": {0: "one", 1: "two"}})
    assert model.unequal and model.shares == pytest.approx([2, 2, 0, 2])
    linked, direct = simultaneous(model, [difference("a", "b"), difference("a", "d")])
    assert linked.interval.reason == NO_DEGREES and direct.interval.exists


def test_run_alone_on_its_machine_says_nothing_of_the_spread():
    """Such a run is fitted exactly. Without the residuals' own degrees of freedom its network would have variance 0."""
    values = study({"plain": [0.9300, 0.9308, 0.9302, 0.9305, 0.9306], "sk": [0.92, 0.935, 0.925, 0.94, 0.93]})
    values["se"] = {0: 0.928, 1: 0.933}
    machines = {label: dict.fromkeys(seeds, "one") for label, seeds in values.items()}
    machines["se"][1] = "two"
    model = RunModel(values, machines)
    assert model.degrees_within == pytest.approx([4, 4, 0]) and model.degrees == 8 and model.unequal
    assert np.isnan(model.variances()[2]) and model.variances()[0] == pytest.approx(
        np.var(list(values["plain"].values()), ddof=1)
    )
    found = simultaneous(model, [difference("se", "plain"), difference("sk", "plain")])
    assert found[0].interval.reason == NO_DEGREES and found[1].interval.exists
    alone = RunModel({"a": {0: 0.93, 1: 0.94}, "b": {0: 0.92, 1: 0.95}}, {"a": {0: "A", 1: "B"}, "b": {0: "A", 1: "C"}})
    assert alone.degrees == 0
    (found,) = simultaneous(alone, [difference("a", "b")])
    assert found.interval.reason == NO_DEGREES


def test_shares_of_the_residuals_add_up():
    values = study(SIMILAR)
    machines = {
        label: {s: "two" if s == 3 and label != "a" else "one" for s in seeds} for label, seeds in values.items()
    }
    model = RunModel(values, machines)
    assert model.shares.sum() == pytest.approx(model.degrees) and model.degrees == 8
    assert model.shares == pytest.approx([3, 2.5, 2.5])
    assert model.degrees_within == pytest.approx([3, 2.5**2 / 2.25, 2.5**2 / 2.25])  # eigenvalues 1, 1, 0.5


def test_two_runs_on_two_machines_have_one_degree_of_freedom():
    """Their residuals are +r and -r, one normal variable, however much of it the machines' difference takes. Four
    networks share that difference, so each keeps 3/4 of its variance."""
    labels, rng = ("a", "b", "c", "d"), np.random.default_rng(0)
    machines = dict.fromkeys(labels, {0: "one", 1: "two"})
    made = [RunModel({a: dict(enumerate(rng.standard_normal(2))) for a in labels}, machines) for _ in range(4_000)]
    assert made[0].shares == pytest.approx([0.75] * 4)
    assert made[0].degrees_within == pytest.approx([1.0] * 4)
    variances = np.array([model.variances()[0] for model in made])
    assert variances.mean() == pytest.approx(1, abs=0.08)
    assert variances.var() == pytest.approx(2 / 1, rel=0.25)  # of a variance with one degree of freedom: 2 / degrees


def test_deviations_that_two_machines_tie_together_count_once():
    """The difference between the machines follows from two networks alone, so their residuals are the same number."""
    values = {"a": {0: 0.90, 1: 0.93}, "b": {0: 0.91, 1: 0.92}, "c": {0: 0.90, 1: 0.91}, "d": {0: 0.90, 1: 0.92}}
    machines = dict.fromkeys("ab", {0: "one", 1: "two"}) | {"c": {0: "two", 1: "two"}, "d": {0: "one", 1: "one"}}
    model = RunModel(values, machines)
    variances = model.variances()
    assert model.shares == pytest.approx([0.5, 0.5, 1, 1]) and variances[0] == pytest.approx(variances[1])
    assert model.degrees_of(np.array([1.0, 1.0, 0, 0]), variances) == pytest.approx(1)
    assert model.degrees_of(np.array([0, 0, 1.0, 1.0]), np.ones(4)) == pytest.approx(2)


def test_interaction_of_two_factors():
    # (2 - 3) - (5 - 7) = 1; four samples of variance 1 and size 3: standard error sqrt(4 / 3), 8 degrees of freedom
    values = study({"a": [1, 2, 3], "b": [2, 3, 4], "c": [4, 5, 6], "d": [6, 7, 8]})
    (found,) = simultaneous(RunModel(values, None), [{"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}])
    half = 2.306004 * np.sqrt(4 / 3)
    assert (found.interval.point, found.interval.low, found.interval.high) == pytest.approx(
        (1, 1 - half, 1 + half), abs=1e-5
    )


def test_no_interval_without_seeds_or_spread():
    for samples, reason in (
        ({"a": [0.9], "b": [0.8]}, ONE_SEED),
        ({"a": [0.9], "b": [0.8, 0.81]}, ONE_SEED),
        ({"a": [0.9, 0.9], "b": [0.8, 0.8]}, NO_SPREAD),
        ({"a": [0.1 + 0.2, 0.3], "b": [0.8, 0.8]}, NO_SPREAD),  # differ in the last bit
    ):
        (found,) = simultaneous(RunModel(study(samples), None), [difference("a", "b")])
        assert (found.interval.reason, found.p, found.error) == (reason, None, None), samples
        assert found.interval.point == pytest.approx(np.mean(samples["a"]) - np.mean(samples["b"]))
    (found,) = simultaneous(RunModel(study({"a": [0.9, 0.9], "b": [0.8, 0.81]}), None), [difference("a", "b")])
    assert found.interval.exists
    unequal = {"a": [0.9, 0.9], "b": [0.8, 0.8], "c": [0.9, 0.95, 0.8], "d": [0.9, 0.9001, 0.9]}
    model = RunModel(study(unequal), None)
    without, found = simultaneous(model, [difference("a", "b"), difference("a", "c")])
    assert model.unequal and (without.interval.reason, without.error) == (NO_SPREAD, None) and found.interval.exists
    assert simultaneous(RunModel({"a": {}}, None), []) == []


def test_detectable_difference_equals_statsmodels():
    for n in (2, 3, 30):
        critical = scipy.stats.t.ppf(0.975, 2 * n - 2)
        expected = 0.002 * TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8)
        assert detectable(0.002 * np.sqrt(2 / n), 2 * n - 2, critical) == pytest.approx(expected, rel=1e-5), n


def test_correlation_of_differences():
    # se - plain and sk - plain share plain; sk - wide shares nothing with se - plain
    signs = np.array([[-1, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 1, -1]], dtype=float)
    assert np.allclose(correlation(signs), [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
