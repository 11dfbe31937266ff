"""The rule for a verdict: limit cases, and how often it errs in simulated studies."""

import importlib.util
import re

import numpy as np
import pytest

from senet_lib.analysis import rule
from senet_lib.analysis.rule import BETTER, EARLY, EQUIVALENT, INCONCLUSIVE, NO_GAIN, NO_LOSS, UNPLANNED, WORSE
from senet_lib.analysis.stats import Interval
from senet_lib.project import project_root

SEEDS_A = [0.912, 0.915, 0.9105, 0.9142, 0.9171, 0.9119]
SEEDS_B = [0.9081, 0.9133, 0.9096, 0.9077, 0.9102, 0.9123]


def rng():
    return np.random.default_rng(0)


def test_verdict_follows_from_the_interval():
    for low, high, expected in (
        (0.001, 0.009, BETTER),
        (0.0001, 0.002, BETTER),  # detected, though within the margin
        (-0.009, -0.001, WORSE),
        (-0.0029, 0.0029, EQUIVALENT),
        (-0.003, 0.002, NO_GAIN),  # the margin itself is outside
        (-0.02, 0.0, NO_GAIN),
        (-0.002, 0.003, NO_LOSS),
        (0.0, 0.02, NO_LOSS),
        (-0.003, 0.003, INCONCLUSIVE),
        (-0.02, 0.02, INCONCLUSIVE),
    ):
        interval = Interval((low + high) / 2, low, high)
        assert rule.verdict(interval) == expected, (low, high)
        assert rule.verdict(interval, early=True) == EARLY
        assert rule.verdict(interval, margin=0.03) in (BETTER, WORSE, EQUIVALENT)
    assert rule.verdict(Interval(0.1, reason="n = 1")) == rule.verdict(Interval(0.1), early=True) == INCONCLUSIVE
    text = rule.in_words(margin=0.005, level=0.9)
    assert all(number in text for number in ("90 %", "±0.5 pp", "50 %", "5 pp"))


def test_comparison_pairs_common_seeds():
    ours, theirs = dict(enumerate(SEEDS_A)), {seed + 1: value for seed, value in enumerate(SEEDS_B)}
    (found,) = rule.compare({"a": ours, "b": theirs}, [("a", "b")], rng())
    assert (found.n_treatment, found.n_baseline, found.n_pairs) == (6, 6, 5)
    assert found.difference.point == pytest.approx(np.mean(SEEDS_A) - np.mean(SEEDS_B))  # of all seeds
    assert found.bca.point == pytest.approx(np.mean(SEEDS_A[1:]) - np.mean(SEEDS_B[:-1]))  # of the common seeds
    assert found.p_sign_flip is None, "five pairs cannot be significant"
    higher = {seed: value + 0.004 for seed, value in ours.items()}
    (found,) = rule.compare({"a": higher, "b": dict(enumerate(SEEDS_B))}, [("a", "b")], rng())
    assert found.p_sign_flip == 2 / 64
    (found,) = rule.compare({"a": dict(enumerate(SEEDS_A[:4])), "b": dict(enumerate(SEEDS_B[:4]))}, [("a", "b")], rng())
    assert found.bca is None


def test_planned_comparisons_are_corrected():
    values = {"plain": dict(enumerate(SEEDS_B)), "se": {s: v + 0.004 for s, v in enumerate(SEEDS_A)}, "sk": {}}
    pairs = [("se", "plain"), ("sk", "plain")]
    (alone,) = rule.compare(values, pairs[:1], rng())
    (found,) = rule.compare(values, pairs, rng(), planned=2)
    assert (found.treatment, found.baseline, found.verdict) == ("se", "plain", BETTER)
    assert found.difference.low < alone.difference.low and found.estimate.p > alone.estimate.p
    (unplanned,) = rule.compare(values, pairs[:1], rng(), planned=0)
    assert unplanned.estimate == alone.estimate and unplanned.verdict == UNPLANNED
    (early,) = rule.compare(values, pairs, rng(), early={"plain"})
    assert early.verdict == EARLY
    assert rule.compare({"plain": values["plain"]}, pairs, rng()) == []
    (found,) = rule.compare({"a": {0: 0.99}, "b": {0: 0.5}}, [("a", "b")], rng())  # one seed decides nothing
    assert (found.verdict, found.estimate.p, found.detectable) == (INCONCLUSIVE, None, None)


def error_rates():
    spec = importlib.util.spec_from_file_location("error_rates", project_root() / "tools" / "error_rates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_unadjusted_statistics_need_the_same_machines():
    """A shift between machines is no difference. The model removes it; these three statistics would not. Two of them
    are paired by seed; P(superior) also compares runs of different seeds, so it needs one machine."""
    values = {"a": dict(enumerate(SEEDS_A)), "b": dict(enumerate(SEEDS_B))}
    one = {label: dict.fromkeys(range(6), "one") for label in values}
    last = {label: {**places, 5: "two"} for label, places in one.items()}
    (alone,), (same,) = (rule.compare(values, [("a", "b")], rng(), machines=places) for places in (None, last))
    assert (same.bca, same.p_sign_flip) == (alone.bca, alone.p_sign_flip)
    assert None not in (same.bca, same.p_sign_flip, alone.superiority) and same.superiority is None
    (other,) = rule.compare(values, [("a", "b")], rng(), machines={"a": one["a"], "b": last["b"]})
    assert (other.bca, other.p_sign_flip, other.superiority) == (None, None, None) and other.difference.exists


def test_a_study_in_twenty_errs():
    """400 studies: the Monte Carlo standard error of 5 % is 1.1 %."""
    simulation = error_rates()
    two = {("sk", 2): "second", ("wide", 2): "second"}
    alone = {(name, 2): name for name in simulation.NETWORKS}  # these runs say nothing about any deviation
    for elsewhere in (two, alone):
        rates = simulation.simulate(simulation.Scenario("", 3, elsewhere=elsewhere), 400)
        assert 0.015 < rates.missed < 0.085, elsewhere
    rates = simulation.simulate(simulation.Scenario("", 5, gains={"se": 0.02, "sk": 0.02}), 100)
    assert rates.wrong_sign < 0.15 and rates.wrong_bound == 0


@pytest.mark.slow
def test_error_rates_are_nominal_and_documented():
    """10,000 studies: the Monte Carlo standard error of 5 % is 0.22 %."""
    simulation = error_rates()
    page = simulation.PAGE.read_text(encoding="utf-8")
    for name, seeds in ((simulation.NULL, 5), (simulation.GAINS, 5)):
        (scenario,) = [row for row in simulation.SCENARIOS if (row.name, row.seeds) == (name, seeds)]
        rates = simulation.simulate(scenario)
        assert 0.043 < rates.missed < 0.057, name
        assert rates.wrong_bound < 0.057, name
        (row,) = re.findall(rf"^\| {name} \| {seeds} \| (.*?) \|$", page, re.MULTILINE)
        shown = [float(cell) for cell in row.replace("–", "0").split("|")]
        measured = [100 * rate for rate in (rates.missed, rates.wrong_sign, rates.wrong_bound, rates.welch)]
        assert shown == pytest.approx(measured, abs=0.051), name
    (shown,) = re.findall(r"^\| 3 \| ([\d.]+) \|$", page, re.MULTILINE)
    assert float(shown) == pytest.approx(100 * simulation.power(3), abs=0.051)
