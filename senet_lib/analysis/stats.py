"""Intervals and tests of one or two samples. Arrays in, small records out; no file access.

A sample is one accuracy (a fraction in [0, 1]) per seed. Differences are treatment minus baseline, in the same unit.
Where no interval exists (one seed, or no spread), `low` and `high` are None and `reason` says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
MARGIN = 0.003  # 0.3 pp, declared before any run; a smaller difference does not justify an architecture
EXACT_UP_TO = 16  # sign-flip test: up to 2**16 sign vectors are enumerated, more are sampled
ONE_SEED, NO_SPREAD = "n = 1: no interval", "no spread between seeds: no interval"  # why there is no interval


@dataclass(frozen=True)
class Interval:
    """A point estimate and its interval. If there is no interval, low and high are None and `reason` says why."""

    point: float
    low: float | None = None
    high: float | None = None
    reason: str = ""
    level: float = LEVEL

    @property
    def exists(self) -> bool:
        return self.low is not None


@dataclass(frozen=True)
class Sample:
    """One network's accuracies over seeds: n, mean, standard deviation (n - 1; None for n < 2), t interval of the
    mean."""

    n: int
    mean: float
    sd: float | None
    interval: Interval


@dataclass(frozen=True)
class McNemar:
    """Two trained models on the same images: how many only one of them classifies correctly, and the exact two-sided
    p."""

    only_first: int
    only_second: int
    p: float


# --------------------------------------------------------------------------------------------------------- one sample


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of `values` (n,). Raises ValueError on an empty sample."""
    values = _sample(values)
    mean = float(values.mean())
    if reason := _no_spread(values):
        return Interval(mean, reason=reason, level=level)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - float(half), mean + float(half), level=level)


def prediction_interval(values: ArrayLike, runs: int, level: float = LEVEL) -> Interval:
    """Student's t interval for the mean of `runs` further values from the distribution of `values` (n,). It is wider
    than `t_interval`, since the further values vary, too."""
    values = _sample(values)
    mean = float(values.mean())
    if reason := _no_spread(values):
        return Interval(mean, reason=reason, level=level)
    scale = values.std(ddof=1) * np.sqrt(1 / len(values) + 1 / runs)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * scale)
    return Interval(mean, mean - half, mean + half, level=level)


def describe(values: ArrayLike, level: float = LEVEL) -> Sample:
    """n, mean, standard deviation and t interval of `values` (n,)."""
    values = _sample(values)
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return Sample(len(values), float(values.mean()), sd, t_interval(values, level))


def wilson_interval(correct: int, total: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion (1927).

    It covers one model's uncertainty from the finite number of test images, and nothing else. Raises ValueError unless
    0 <= correct <= total and total > 0.
    """
    if not (0 <= correct <= total and total > 0):
        raise ValueError(f"correct {correct} of total {total}: needs 0 <= correct <= total and total > 0")
    low, high = stats.binomtest(int(correct), int(total)).proportion_ci(level, method="wilson")
    return Interval(correct / total, float(low), float(high), level=level)


# -------------------------------------------------------------------------------------------------------- two samples


def welch_difference(treatment: ArrayLike, baseline: ArrayLike, level: float = LEVEL) -> Interval:
    """mean(treatment) - mean(baseline) with Welch's t interval (1947); the samples may differ in size and variance."""
    samples = _sample(treatment), _sample(baseline)
    point = float(samples[0].mean() - samples[1].mean())
    if min(map(len, samples)) < 2:
        return Interval(point, reason=ONE_SEED, level=level)
    if all(map(_no_spread, samples)):
        return Interval(point, reason=_no_spread(samples[0]), level=level)
    # Not scipy's test, which warns about a sample without spread, a legitimate case here
    errors = [values.var(ddof=1) / len(values) for values in samples]  # squared standard errors
    degrees = sum(errors) ** 2 / sum(e**2 / (len(v) - 1) for e, v in zip(errors, samples, strict=True))
    half = float(stats.t.ppf((1 + level) / 2, degrees) * np.sqrt(sum(errors)))
    return Interval(point, point - half, point + half, level=level)


def bca_difference(
    treatment: ArrayLike, baseline: ArrayLike, rng: np.random.Generator, *, resamples: int = 9999, level: float = LEVEL
) -> Interval:
    """Mean paired difference with its bias-corrected and accelerated bootstrap interval (Efron 1987), resampling seeds.

    Both samples: (n,), in the same order of seeds. The interval is too narrow at small n, since it resamples only the n
    observed differences. It is reported beside the verdict's interval and does not affect the verdict.
    """
    differences = _paired(treatment, baseline)
    point = float(differences.mean())
    if len(differences) < 3:
        return Interval(point, reason=f"n = {len(differences)}: too few seeds to resample", level=level)
    if reason := _no_spread(differences):
        return Interval(point, reason=reason, level=level)
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=resamples, confidence_level=level, method="BCa", rng=rng
    ).confidence_interval
    return Interval(point, float(found.low), float(found.high), level=level)


def sign_flip_p(
    treatment: ArrayLike, baseline: ArrayLike, rng: np.random.Generator | None = None, *, resamples: int = 99_999
) -> float:
    """Two-sided p of the paired sign-flip permutation test (Fisher 1935).

    p is the share of sign vectors whose mean difference is at least as far from 0. Exact over all 2**n sign vectors up
    to n = 16; beyond that sampled with `rng`, and ValueError without it. The smallest p that n pairs can give is
    2 / 2**n: 0.25 for n = 3, 0.031 for n = 6.
    """
    differences = _paired(treatment, baseline)
    n = len(differences)
    scale = np.abs(differences).sum()
    reached = abs(differences.sum()) - 1e-9 * scale  # tolerance: summation order changes the last bits
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)  # (2**n, n) of +1 and -1
        return float((np.abs(signs @ differences) >= reached).mean())
    if rng is None:
        raise ValueError(f"n = {n} pairs are too many to enumerate; pass a numpy Generator as rng")
    count = 0
    for size in _chunks(resamples, 10_000):
        signs = rng.choice((-1.0, 1.0), size=(size, n))
        count += int((np.abs(signs @ differences) >= reached).sum())
    return (count + 1) / (resamples + 1)  # the observed signs count as one draw, so p is never 0


def probability_of_superiority(treatment: ArrayLike, baseline: ArrayLike) -> float:
    """P(a run of treatment beats a run of baseline), ties counted half: Mann-Whitney's U over the number of pairs."""
    treatment, baseline = _sample(treatment), _sample(baseline)
    signs = np.sign(treatment[:, None] - baseline[None, :])  # (n_treatment, n_baseline)
    return float((signs.mean() + 1) / 2)


def mcnemar_exact(first_correct: ArrayLike, second_correct: ArrayLike) -> McNemar:
    """McNemar's exact test (1947) of two trained models on the same images: (images,) booleans, True if correct.

    It compares these two sets of weights. Whether one *architecture* beats another is a question over seeds.
    """
    first, second = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"the models were not evaluated on the same images: shapes {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def independent_sd(networks: Sequence[Sequence[ArrayLike]]) -> float | None:
    """The standard deviation of a run's accuracy over seeds if the runs of a network misclassified each image
    independently of the other images, pooled over networks.

    networks: for each network, for each of its runs, (images,) booleans, True if correct. Networks with one run, or
    whose runs were evaluated on different numbers of images, are left out; None if no network is left.
    """
    stacked = [np.array(runs, dtype=float) for runs in networks if len(runs) > 1 and len(set(map(len, runs))) == 1]
    variances = [runs.var(axis=0, ddof=1).mean() / runs.shape[1] for runs in stacked]  # (seeds, images)
    return float(np.sqrt(np.average(variances, weights=[len(runs) - 1 for runs in stacked]))) if stacked else None


# ------------------------------------------------------------------------------------------------------------- checks


def _sample(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a sample must be a non-empty list of finite numbers, not {values}")
    return values


def _paired(treatment: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    treatment, baseline = _sample(treatment), _sample(baseline)
    if treatment.shape != baseline.shape:
        raise ValueError(f"paired samples must have the same seeds, not {len(treatment)} and {len(baseline)} values")
    return treatment - baseline


def _no_spread(values: np.ndarray) -> str:
    """Why a mean has no interval; empty if it has one. A spread of the last bits only is rounding."""
    if len(values) == 1:
        return ONE_SEED
    return NO_SPREAD if np.ptp(values) <= 1e-12 * np.abs(values).max() else ""


def _chunks(total: int, size: int) -> list[int]:
    return [size] * (total // size) + ([total % size] if total % size else [])
