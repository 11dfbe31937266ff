"""Power: what a number of seeds can find, compared with statsmodels and with simulated studies."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from senet_lib.analysis.power import Spread, detectable, pooled_spread, power_lines, seeds_needed
from senet_lib.analysis.stats import holm, welch_difference


def test_pooled_spread_of_three_networks():
    # Sums of squares 2 and 8 with 2 and 1 degrees of freedom; a single run adds nothing
    found = pooled_spread([[1, 2, 3], [0, 4], [9]])
    assert found == Spread(pytest.approx(np.sqrt((2 + 8) / 3)), runs=5, networks=2)
    assert pooled_spread([[1], [2], []]) is None
    assert pooled_spread([[1, 1], [2]]) is None, "no spread"


def test_detectable_difference_equals_statsmodels():
    for seeds in (5, 25):  # for two and three seeds at a small alpha, statsmodels is off by up to 3 %
        for comparisons in (1, 4, 10):
            effect = TTestIndPower().solve_power(nobs1=seeds, alpha=0.05 / comparisons, power=0.8)
            assert detectable(0.002, seeds, comparisons) == pytest.approx(0.002 * effect, rel=1e-4)
    assert detectable(0.002, 1, 1) is None


def test_detectable_difference_of_two_seeds_by_simulation():
    rng, comparisons = np.random.default_rng(1), 4
    treatment, baseline = rng.normal(0, 1, (2, 200_000, 2))
    treatment += detectable(1, 2, comparisons)
    error = np.sqrt((treatment.var(1, ddof=1) + baseline.var(1, ddof=1)) / 2)
    t = (treatment.mean(1) - baseline.mean(1)) / error
    assert (np.abs(t) > stats.t.ppf(1 - 0.025 / comparisons, 2)).mean() == pytest.approx(0.8, abs=0.004)


def test_seeds_needed_is_the_smallest_number():
    for difference in (0.001, 0.003, 0.05):
        needed = seeds_needed(difference, 0.002, 5)
        assert detectable(0.002, needed, 5) <= difference
        assert needed == 2 or detectable(0.002, needed - 1, 5) > difference
    assert seeds_needed(1e-6, 0.002, 5) is None


def test_simulated_power_is_80_percent():
    """In 80 % of 2,000 studies, Holm's correction over 3 Welch tests finds the one true difference of the stated size
    (Monte Carlo standard error 0.9 %)."""
    rng, sd, seeds, found = np.random.default_rng(0), 0.002, 6, 0
    difference = detectable(sd, seeds, 3)
    for _ in range(2000):
        samples = rng.normal(0, sd, (4, seeds))
        samples[1] += difference
        p = [welch_difference(treatment, samples[0]).p for treatment in samples[1:]]
        found += holm(p)[0] < 0.05
    assert 0.75 < found / 2000 < 0.85


def test_power_lines_state_the_numbers():
    spread = Spread(sd=0.0013, runs=20, networks=4)
    text = "\n".join(power_lines(spread, "here", 5, 5))
    for part in ("0.13 pp", "20 runs of 4 networks", f"{100 * detectable(0.0013, 5, 5):.2f} pp", "80 %"):
        assert part in text
    assert f"{seeds_needed(0.003, 0.0013, 5)} seeds" in text
    assert len(power_lines(None, "", 5, 5)) == 1
    assert "One seed" in "\n".join(power_lines(spread, "here", 1, 5))
