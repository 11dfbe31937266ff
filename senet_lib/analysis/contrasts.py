"""Differences between networks from one linear model of a study's runs: accuracy = network + machine + error.

The standard deviation of the error is pooled over all networks, so that a few seeds per network give an interval with
many degrees of freedom. A machine that trained some of the runs is a block: a constant difference between machines does
not count as a difference between networks. If the deviations of the networks clearly differ, each comparison uses those
of its own networks, and of those that link its machines (Welch 1947).

`simultaneous` gives intervals that contain all true differences at once with the stated probability, and p values
corrected accordingly (Hothorn, Bretz and Westfall 2008, single step): a corrected p is below 0.05 if the 95 % CI
excludes 0. Arrays in, small records out; no file access. Accuracies are fractions.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import optimize, stats

from senet_lib.analysis.stats import ALPHA, LEVEL, NO_SPREAD, ONE_SEED, POWER, Interval

# Bartlett's test at this level decides whether deviations clearly differ. A preliminary test needs a high level: at
# 0.05 it misses most differences that would make the intervals too narrow (docs/statistics.md has the error rates).
UNEQUAL_AT = 0.2
DRAWS = 200_000  # of the joint t distribution; the Monte Carlo error of a corrected p of 0.05 is 0.0005
OTHER_MACHINE = "compared on different machines: no interval"
NO_DEGREES = "no degrees of freedom beside the machines: no interval"
SINGULAR = 1e-7  # eigenvalues of a correlation below this are rounding
NONE_LEFT = 1e-9  # shares and degrees of freedom below this are rounding
SMALLEST_SHARE = 0.49  # of a network's residuals, see RunModel.shares; a smaller one does not estimate its variance

Coefficients = Mapping[str, float]  # network -> its factor in a sum of network means


@dataclass(frozen=True)
class Estimate:
    """A contrast: its interval, standard error and degrees of freedom, p, and the critical t value of the interval.

    Without an interval (`interval.reason` says why), the other fields are None.
    """

    interval: Interval
    error: float | None = None
    degrees: float | None = None
    p: float | None = None
    critical: float | None = None


class RunModel:
    """The fitted model of a study's runs.

    values: network -> {seed: accuracy}. machines: network -> {seed: name of the machine}; without it, one machine
    trained all runs. Networks without a run are left out.
    """

    def __init__(self, values: Mapping[str, Mapping[int, float]], machines: Mapping[str, Mapping[int, str]] | None):
        runs = [(label, seed) for label, seeds in values.items() for seed in seeds]
        places = [machines[label][seed] if machines else "" for label, seed in runs]
        self.labels = [label for label, seeds in values.items() if seeds]
        self.machines = sorted(set(places))
        self.values = np.array([values[label][seed] for label, seed in runs], dtype=float)  # (runs,)
        self.network = np.array([self.labels.index(label) for label, _ in runs], dtype=int)  # (runs,)
        columns = [self.network == index for index in range(len(self.labels))]
        columns += [np.array([place == machine for place in places]) for machine in self.machines[1:]]
        self._design = np.array(columns, dtype=float).reshape(len(columns), len(runs)).T  # (runs, networks + machines)
        self._inverse = np.linalg.pinv(self._design)
        self.effects = self._inverse @ self.values
        self.residuals = self.values - self._design @ self.effects
        rank = np.linalg.matrix_rank(self._design) if runs else 0
        self.degrees = len(runs) - int(rank)
        self.counts = np.bincount(self.network, minlength=len(self.labels))  # (networks,)
        # The expected sum of each network's squared residuals, in variances of the error: n - 1 on one machine. A run
        # that is alone on its machine is fitted exactly, so it says nothing about the spread.
        leverage = (self._design * self._inverse.T).sum(axis=1)  # (runs,)
        self.shares = np.bincount(self.network, 1 - leverage, minlength=len(self.labels))  # (networks,)

    @property
    def linked(self) -> bool:
        """Whether the runs tell every network from every machine, since networks share machines, if only in a chain."""
        return self.degrees == len(self.values) - self._design.shape[1]

    @cached_property
    def degrees_within(self) -> np.ndarray:
        """(networks,): the degrees of freedom of each network's variance: n - 1 on one machine. The residuals of two
        runs on two machines are smaller than on one, but still one normal variable."""
        if len(self.machines) < 2:
            return self.shares
        equal, found = np.ones(len(self.labels)), np.zeros(len(self.labels))
        for index in np.flatnonzero(self.with_spread):
            found[index] = self.degrees_of(np.eye(len(self.labels))[index], equal)
        return found

    def degrees_of(self, parts: np.ndarray, variances: np.ndarray) -> float:
        """The degrees of freedom of an estimate of the sum over networks of parts * variance (Satterthwaite 1946), for
        these true variances. parts, variances: (networks,).

        On one machine it is Welch's formula. With several machines their difference enters the residuals of several
        networks, which are not independent then; so the estimate is treated as a quadratic form in all errors.
        """
        if len(self.machines) < 2:
            return float(
                (parts @ variances) ** 2 / ((parts * variances)[parts > 0] ** 2 / self.shares[parts > 0]).sum()
            )
        factors = np.divide(parts, self.shares, out=np.zeros(len(parts)), where=self.with_spread)
        to_residuals = np.eye(len(self.values)) - self._design @ self._inverse  # (runs, runs)
        standard = to_residuals * np.sqrt(variances)[self.network]  # for errors with variance 1
        form = standard.T @ (factors[self.network][:, None] * standard)
        return float(np.trace(form) ** 2 / (form**2).sum())

    @property
    def with_spread(self) -> np.ndarray:
        """(networks,): whether the network's runs say anything about the spread over seeds."""
        return self.shares > NONE_LEFT

    @cached_property
    def sd(self) -> float | None:
        """The pooled standard deviation over seeds; None without degrees of freedom or without a spread."""
        squares = float((self.residuals**2).sum())
        negligible = 1e-24 * float((self.values**2).sum())  # a spread of the last bits only is rounding
        return float(np.sqrt(squares / self.degrees)) if self.degrees > 0 and squares > negligible else None

    def sd_of(self, labels: Collection[str]) -> float | None:
        """The standard deviation over seeds, pooled over these networks; None if their runs say nothing about it."""
        chosen = self.with_spread & np.isin(self.labels, list(labels))
        squares, freedom = (self.shares * np.nan_to_num(self.variances()))[chosen].sum(), self.shares[chosen].sum()
        return float(np.sqrt(squares / freedom)) if freedom > NONE_LEFT and squares > 0 else None

    @cached_property
    def p_equal(self) -> float | None:
        """p of Bartlett's test that all networks have the same standard deviation; None if fewer than two networks
        have a spread."""
        variances = self.variances()
        with_spread = (self.shares > SMALLEST_SHARE) & (np.nan_to_num(variances) > 1e-24)
        if with_spread.sum() < 2:
            return None
        variances, degrees = variances[with_spread], self.degrees_within[with_spread]
        total = degrees.sum()
        pooled = (degrees * variances).sum() / total
        correction = 1 + ((1 / degrees).sum() - 1 / total) / (3 * (len(degrees) - 1))
        statistic = (total * np.log(pooled) - (degrees * np.log(variances)).sum()) / correction
        return float(stats.chi2.sf(statistic, len(degrees) - 1))

    @property
    def unequal(self) -> bool:
        """Whether the standard deviations of the networks clearly differ."""
        return self.p_equal is not None and self.p_equal < UNEQUAL_AT

    def weights(self, contrast: Coefficients) -> np.ndarray | None:
        """(runs,): the contrast's estimate is weights @ values. None if the runs cannot tell it from the machines."""
        wanted = np.zeros(self._design.shape[1])
        for label, coefficient in contrast.items():
            wanted[self.labels.index(label)] += coefficient
        weights = self._inverse.T @ wanted
        return weights if np.allclose(self._design.T @ weights, wanted, atol=1e-8) else None

    def variances(self) -> np.ndarray:
        """(networks,): the variance over seeds within each network; NaN where the residuals have no degree of
        freedom, as for a single run."""
        squares = np.bincount(self.network, self.residuals**2, minlength=len(self.labels))
        return np.divide(squares, self.shares, out=np.full(len(squares), np.nan), where=self.with_spread)


def simultaneous(model: RunModel, contrasts: Sequence[Coefficients], planned: int | None = None) -> list[Estimate]:
    """Estimates of all contrasts, with intervals that contain all true values at once in 95 % of studies.

    planned: the number of comparisons to correct for, if more than these. Every network of a contrast needs a run.
    Without an estimable difference or a spread, or with a network that has one run only, there is no interval.
    """
    planned = max(planned or 0, len(contrasts))
    weights = [model.weights(contrast) for contrast in contrasts]
    reasons = [_no_interval(model, *pair) for pair in zip(contrasts, weights, strict=True)]
    points = [_point(model, *pair) for pair in zip(contrasts, weights, strict=True)]
    usable = [index for index, reason in enumerate(reasons) if not reason]
    found = [Estimate(Interval(point, reason=reason)) for point, reason in zip(points, reasons, strict=True)]
    make = _welch if model.unequal else _pooled
    for index, estimate in zip(usable, make(model, [weights[i] for i in usable], planned), strict=True):
        found[index] = estimate
    return found


def _no_interval(model: RunModel, contrast: Coefficients, weights: np.ndarray | None) -> str:
    """Why a contrast has no interval; empty if it has one."""
    networks = [model.labels.index(label) for label in contrast]
    if weights is None:
        return OTHER_MACHINE
    if min(model.counts[networks]) < 2:
        return ONE_SEED
    if model.unequal:
        used = np.bincount(model.network, weights**2, minlength=len(model.labels)) > 1e-24
        if model.shares[used].min() <= SMALLEST_SHARE:
            return NO_DEGREES
        return "" if model.variances()[used].sum() > 1e-24 else NO_SPREAD
    if model.degrees == 0:
        return NO_DEGREES
    return "" if model.sd is not None else NO_SPREAD


def _point(model: RunModel, contrast: Coefficients, weights: np.ndarray | None) -> float:
    if weights is not None:
        return float(weights @ model.values)
    means = {label: model.values[model.network == model.labels.index(label)].mean() for label in contrast}
    return float(sum(coefficient * means[label] for label, coefficient in contrast.items()))


def _pooled(model: RunModel, weights: Sequence[np.ndarray], planned: int) -> list[Estimate]:
    if not weights:
        return []
    stacked = np.array(weights)  # (contrasts, runs)
    lengths = np.linalg.norm(stacked, axis=1)
    joint = JointT(correlation(stacked), model.degrees, planned)
    return [
        _estimate(float(w @ model.values), model.sd * length, model.degrees, joint.critical(), joint.p)
        for w, length in zip(weights, lengths, strict=True)
    ]


def _welch(model: RunModel, weights: Sequence[np.ndarray], planned: int) -> list[Estimate]:
    """With the deviations of each contrast's own networks, Bonferroni-corrected: their t statistics have no common
    degrees of freedom, so there is no joint t distribution."""
    found = []
    for w in weights:
        parts = np.bincount(model.network, w**2, minlength=len(model.labels))  # (networks,)
        parts[parts <= 1e-24] = 0  # the others are networks of the contrast, or its links between machines
        variances = np.nan_to_num(model.variances())
        degrees, variance = model.degrees_of(parts, variances), float(parts @ variances)
        critical = stats.t.isf(ALPHA / planned / 2, degrees)
        p_value = functools.partial(_bonferroni, degrees=degrees, planned=planned)
        found.append(_estimate(float(w @ model.values), np.sqrt(variance), degrees, critical, p_value))
    return found


def between(first: Estimate, second: Estimate, planned: int) -> Estimate:
    """The first estimate minus the second, of studies without common runs, each with its own standard deviation
    (Satterthwaite 1946); Bonferroni-corrected over `planned` such differences."""
    point = first.interval.point - second.interval.point
    for estimate in (first, second):
        if not estimate.interval.exists:
            return Estimate(Interval(point, reason=estimate.interval.reason))
    squares = first.error**2, second.error**2
    degrees = sum(squares) ** 2 / sum(
        square**2 / estimate.degrees for square, estimate in zip(squares, (first, second), strict=True)
    )
    p_value = functools.partial(_bonferroni, degrees=degrees, planned=planned)
    return _estimate(point, np.sqrt(sum(squares)), degrees, stats.t.isf(ALPHA / planned / 2, degrees), p_value)


def _bonferroni(t: float, degrees: float, planned: int) -> float:
    return float(min(1.0, planned * 2 * stats.t.sf(abs(t), degrees)))


def _estimate(point: float, error: float, degrees: float, critical: float, p_value) -> Estimate:
    half = float(critical * error)
    interval = Interval(point, point - half, point + half, level=LEVEL)
    return Estimate(interval, float(error), float(degrees), float(p_value(point / error)), float(critical))


# --------------------------------------------------------------------------------------------- the joint t distribution


def correlation(weights: np.ndarray) -> np.ndarray:
    """(contrasts, contrasts) correlation of the estimates weights @ values, for (contrasts, runs) weights."""
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    return unit @ unit.T


class JointT:
    """The largest of several correlated t statistics, in absolute value.

    correlation: (contrasts, contrasts); may be singular. planned: contrasts to correct for; those beyond the matrix
    count as independent, which is the unfavourable case (Sidak 1967). For one contrast it is Student's t; otherwise it
    is sampled with a fixed seed, since scipy's multivariate t does not accept a singular correlation.
    """

    def __init__(self, correlation: np.ndarray, degrees: int, planned: int | None = None):
        planned = max(planned or 0, len(correlation))
        self.degrees = degrees
        self.sampled = None
        if planned > 1:
            matrix = np.round(correlation, 9)  # so that the last bits do not change the draws
            self.sampled = _sorted_maxima(matrix.tobytes(), len(matrix), degrees, planned - len(matrix))

    def critical(self, alpha: float = ALPHA) -> float:
        """The value that the largest |t| exceeds with probability `alpha`."""
        if self.sampled is None:
            return float(stats.t.isf(alpha / 2, self.degrees))
        return float(self.sampled[-round(alpha * DRAWS)])

    def p(self, t: float) -> float:
        """The probability that the largest |t| is at least |t|."""
        if self.sampled is None:
            return float(2 * stats.t.sf(abs(t), self.degrees))
        above = len(self.sampled) - np.searchsorted(self.sampled, abs(t))
        return float((above + 1) / (len(self.sampled) + 1))  # the observed value counts as one draw, so p is never 0


@functools.lru_cache(maxsize=64)
def _sorted_maxima(matrix: bytes, size: int, degrees: int, independent: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(np.frombuffer(matrix).reshape(size, size))
    # The symmetric root is unique; the eigenvectors of equal eigenvalues depend on the processor
    root = (vectors * np.sqrt(np.where(values > SINGULAR, values, 0))) @ vectors.T
    z = rng.standard_normal((DRAWS, size)) @ root
    largest = np.abs(z).max(axis=1, initial=0)
    for _ in range(independent):
        np.maximum(largest, np.abs(rng.standard_normal(DRAWS)), out=largest)
    return np.sort(largest / np.sqrt(rng.chisquare(degrees, DRAWS) / degrees))


# ---------------------------------------------------------------------------------------------------------------- power


def detectable(error: float, degrees: float, critical: float, power: float = POWER) -> float:
    """The smallest true difference whose |t| exceeds `critical` with this power (noncentral t distribution).

    error: the standard error of the estimated difference.
    """

    def shortfall(noncentrality: float) -> float:
        upper = stats.nct.sf(critical, degrees, noncentrality)
        lower = stats.nct.cdf(-critical, degrees, noncentrality)  # scipy returns NaN below 1e-10
        return upper + np.nan_to_num(lower) - power

    above = 2 * critical
    while shortfall(above) < 0:
        above *= 2
    return float(optimize.brentq(shortfall, 0, above) * error)
