"""Power: what a number of seeds can find, compared with statsmodels and with simulated studies."""

import numpy as np
import pytest
from statsmodels.stats.power import TTestIndPower

from senet_lib.analysis.contrasts import RunModel, simultaneous
from senet_lib.analysis.power import detectable_by_plan, power_lines, seeds_needed

PAIRS = [("se", "plain"), ("sk", "plain"), ("sk", "wide"), ("wide", "plain")]


def model(sd, seeds, networks=4, rng=None):
    rng = rng or np.random.default_rng(0)
    values = rng.normal(0.9, sd, (networks, seeds))
    return RunModel({label: dict(enumerate(row)) for label, row in zip("abcd", values, strict=True)}, None)


def test_one_comparison_of_two_networks_equals_statsmodels():
    for seeds in (3, 5, 25):
        effect = TTestIndPower().solve_power(nobs1=seeds, alpha=0.05, power=0.8)
        assert detectable_by_plan(0.002, seeds, PAIRS[:1], 2) == pytest.approx(0.002 * effect, rel=1e-4)
    assert detectable_by_plan(0.002, 1, PAIRS, 4) is None


def test_power_grows_with_networks_and_falls_with_comparisons():
    one, two, four = (detectable_by_plan(0.002, 3, PAIRS[:count], 4) for count in (1, 2, 4))
    assert one < two < four
    assert detectable_by_plan(0.002, 3, PAIRS[:1], 11) < one < detectable_by_plan(0.002, 3, PAIRS[:1], 2)


def test_simulated_power_is_80_percent():
    """In 80 % of 1,000 studies, the interval of the one true difference of the stated size excludes 0 (Monte Carlo
    standard error 1.3 %). The pooled deviation is given, so that the share is that of the pooled test."""
    rng, sd, seeds, found = np.random.default_rng(0), 0.002, 5, 0
    difference = detectable_by_plan(sd, seeds, PAIRS, 4)
    contrasts = [{treatment: 1.0, baseline: -1.0} for treatment, baseline in PAIRS]
    for _ in range(1000):
        noise = dict(zip(("plain", "se", "sk", "wide"), rng.normal(0.9, sd, (4, seeds)), strict=True))
        noise["se"] += difference
        study = RunModel({label: dict(enumerate(row)) for label, row in noise.items()}, None)
        study.p_equal = None  # not Welch, which is used in a fifth of such studies and has less power
        found += simultaneous(study, contrasts)[0].interval.low > 0
    assert 0.76 < found / 1000 < 0.84


def test_seeds_needed_is_the_smallest_number():
    for difference in (0.001, 0.003, 0.05):
        needed = seeds_needed(difference, 0.002, PAIRS, 4)
        assert detectable_by_plan(0.002, needed, PAIRS, 4) <= difference
        assert needed == 2 or detectable_by_plan(0.002, needed - 1, PAIRS, 4) > difference
    assert seeds_needed(1e-6, 0.002, PAIRS, 4) is None


def test_power_lines_state_the_numbers():
    runs = model(0.0013, 5)
    text = "\n".join(power_lines(runs, "here", 5, PAIRS, 4))
    detected = detectable_by_plan(runs.sd, 5, PAIRS, 4)
    for part in (f"{100 * runs.sd:.2f} pp", "20 runs of 4 networks", f"{100 * detected:.2f} pp", "80 %"):
        assert part in text
    assert f"{seeds_needed(0.003, runs.sd, PAIRS, 4)} seeds" in text
    assert not runs.unequal and "found to differ, so less" not in text
    values = {"a": {0: 0.90, 1: 0.94}, "b": {0: 0.900, 1: 0.901}, "c": {0: 0.910, 1: 0.911}, "d": {0: 0.920, 1: 0.921}}
    assert "found to differ, so less" in "\n".join(power_lines(RunModel(values, None), "here", 5, PAIRS, 4))
    assert len(power_lines(None, "", 5, PAIRS, 4)) == 1
    assert "One seed" in "\n".join(power_lines(runs, "here", 1, PAIRS, 4))
