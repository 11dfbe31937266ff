"""Measures of recorded gates and weights: arrays in, tables out.

Intervals are 95 % CIs over images. They describe one trained network, not the variation between trainings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as distributions

from senet_lib.analysis.stats import LEVEL, Interval, t_interval

GROUPS = 20  # jackknife groups of images; the data set's order is effectively random
OPEN = 0.95  # a gate above this counts as open


# ----------------------------------------------------------------------------------------------------------- SE's gates


@dataclass(frozen=True)
class ClassMoments:
    """Mean (K, C) and standard deviation (K, C) of each channel's gate over each class's images; NaN with too few
    images. count: images of each class (K,)."""

    mean: np.ndarray
    sd: np.ndarray
    count: np.ndarray


def class_moments(gates: np.ndarray, labels: np.ndarray, classes: int) -> ClassMoments:
    """Moments of gates (N, C) of images with the class indices `labels` (N,)."""
    count, total, squares = _class_sums(gates, labels, classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count[:, None]
        variance = (squares - count[:, None] * mean**2) / (count[:, None] - 1)
        sd = np.where(count[:, None] > 1, np.sqrt(np.maximum(variance, 0)), np.nan)
    return ClassMoments(mean, sd, count)


@dataclass(frozen=True)
class Spread:
    """How far gates differ between classes and within a class.

    between, within: standard deviation between the class means and within a class, in quadratic mean over channels, in
    the gate's unit. share: the fraction of the variance over images that lies between classes. Estimates are unbiased:
    the share of a gate that is independent of the class scatters around 0 and is often negative.
    """

    between: float
    within: float
    share: Interval


def class_spread(gates: np.ndarray, labels: np.ndarray, classes: int, groups: int = GROUPS) -> Spread:
    """Spread of gates (N, C) of images with the class indices `labels` (N,).

    The share's interval is a jackknife over `groups` groups of images (t with groups - 1 degrees of freedom). A gate
    that is the same for every image has no share.
    """
    group = np.arange(len(labels)) % groups
    parts = [_class_sums(gates[group == g], labels[group == g], classes) for g in range(min(groups, len(labels)))]
    whole = tuple(map(sum, zip(*parts, strict=True)))
    within, total = _variances(*whole)
    if not total > 1e-12:
        return Spread(0.0, 0.0, Interval(float("nan"), reason="the gate is the same for every image"))
    left = [_variances(*(w - p for w, p in zip(whole, part, strict=True))) for part in parts]
    shares = np.array([1 - w / t if t > 0 else np.nan for w, t in left])
    point = float(1 - within / total)
    half = distributions.t.ppf((1 + LEVEL) / 2, len(shares) - 1) * np.sqrt((len(shares) - 1) * shares.var())
    share = Interval(point, point - float(half), point + float(half)) if np.isfinite(half) else Interval(point)
    return Spread(float(np.sqrt(max(0.0, total - within))), float(np.sqrt(within)), share)


def _class_sums(gates: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class: number of images (K,), and sum (K, C) and sum of squares (K, C) of their gates."""
    member = np.asarray(labels)[None, :] == np.arange(classes)[:, None]  # (K, N)
    gates = np.asarray(gates, dtype=np.float64)
    return member.sum(1), member @ gates, member @ gates**2


def _variances(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
    """Variance within classes (N - K degrees of freedom) and in total (N - 1), each averaged over channels."""
    count, total, squares = count[count > 0], total[count > 0], squares[count > 0]
    n = count.sum()
    all_squares = squares.sum(0)
    within = all_squares - (total**2 / count[:, None]).sum(0)
    around_mean = all_squares - total.sum(0) ** 2 / n
    if n <= len(count):
        return float("nan"), float("nan")
    return float(np.maximum(within, 0).mean() / (n - len(count))), float(np.maximum(around_mean, 0).mean() / (n - 1))


def gate_table(gates: Mapping[str, Mapping[str, np.ndarray]], labels: np.ndarray, classes: int) -> pd.DataFrame:
    """One row per network and block, from label -> block -> gates (N, C).

    Columns: label, block, channels, mean, between, within, share, low, high, open (share of gates above OPEN).
    """
    rows = []
    for label, blocks in gates.items():
        for block, values in blocks.items():
            spread = class_spread(values, labels, classes)
            rows.append(
                {
                    "label": label,
                    "block": block,
                    "channels": values.shape[1],
                    "mean": float(values.mean()),
                    "between": spread.between,
                    "within": spread.within,
                    "share": spread.share.point,
                    "low": _number(spread.share.low),
                    "high": _number(spread.share.high),
                    "open": float((values > OPEN).mean()),
                }
            )
    columns = ["label", "block", "channels", "mean", "between", "within", "share", "low", "high", "open"]
    return pd.DataFrame(rows, columns=columns)


def last_blocks(blocks: Sequence[str]) -> list[str]:
    """The last block of each stage: '1.3' of '1.1', '1.2', '1.3'. Names of another form are all kept."""
    return list({block.partition(".")[0]: block for block in blocks}.values())


def spread_out(classes: int, shown: int) -> list[int]:
    """`shown` evenly spaced class indices, including the first and the last."""
    return sorted({int(i) for i in np.linspace(0, classes - 1, min(shown, classes)).round()})


# --------------------------------------------------------------------------------------------------------- SK's weights


def larger_kernel(weights: np.ndarray, extents: Sequence[int]) -> np.ndarray:
    """The weight of the branch with the largest kernel: (N, M, C) and the extents of the M branches -> (N, C)."""
    return weights[:, int(np.argmax(extents))]


def kernel_table(
    weights: Mapping[str, np.ndarray], changed: Mapping[tuple[str, float], Mapping[str, np.ndarray]]
) -> pd.DataFrame:
    """The larger kernel's weight and its change in modified images; one row per block and modification.

    weights: block -> (N, C) in the original images. changed: (kind, zoom) -> the same for modified images.
    Columns: block, channels, kind ('original', 'enlarged', 'coarser'), zoom, weight (mean over images and channels),
    low, high; change (modified minus original, paired by image), change_low, change_high; beyond, beyond_low,
    beyond_high ('enlarged' minus 'coarser' at the same zoom, paired by image, where both exist); rising (share of
    channels whose mean weight rises).
    """
    rows = []
    for block, before in weights.items():
        for (kind, zoom), after in {("original", 1.0): weights, **changed}.items():
            level, change = (t_interval(x.mean(1)) for x in (after[block], after[block] - before))
            beyond = Interval(float("nan"))
            if kind == "enlarged" and ("coarser", zoom) in changed:
                beyond = t_interval((after[block] - changed["coarser", zoom][block]).mean(1))
            rows.append(
                {
                    "block": block,
                    "channels": before.shape[1],
                    "kind": kind,
                    "zoom": zoom,
                    "weight": level.point,
                    "low": _number(level.low),
                    "high": _number(level.high),
                    "change": change.point,
                    "change_low": _number(change.low),
                    "change_high": _number(change.high),
                    "beyond": beyond.point,
                    "beyond_low": _number(beyond.low),
                    "beyond_high": _number(beyond.high),
                    "rising": float((after[block].mean(0) > before.mean(0)).mean()),
                }
            )
    return pd.DataFrame(rows)


def class_changes(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], labels: np.ndarray, classes: int
) -> np.ndarray:
    """Mean change of the larger kernel's weight by class and block: block -> (N, C) twice -> (K, blocks)."""
    changes = [class_moments((after[b] - before[b]).mean(1, keepdims=True), labels, classes).mean for b in before]
    return np.concatenate(changes, axis=1)  # (K, 1) each


# ------------------------------------------------------------------------------------------------------------- Grad-CAM


def chosen_images(predicted: Mapping[str, np.ndarray], labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """'right': the first `count` images that every network classifies correctly; 'wrong': that every network
    misclassifies. There is no other selection."""
    hits = np.array([np.asarray(found) == labels for found in predicted.values()])
    return {"right": np.flatnonzero(hits.all(0))[:count], "wrong": np.flatnonzero(~hits.any(0))[:count]}


def centre_share(maps: np.ndarray) -> np.ndarray:
    """The share of each map in the central quarter of the image: (N, H, W) -> (N,); NaN for an empty map."""
    height, width = maps.shape[1:]
    rows, columns = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
    total = maps.sum((1, 2))
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, maps[:, rows, columns].sum((1, 2)) / total, np.nan)


def centre_table(shares: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean `centre_share` with its t interval, from label -> shares (N,) and label -> classified correctly (N,).

    Columns: label, images ('right' or 'wrong'), n, mean, low, high. Images with an empty map are omitted.
    """
    rows = []
    for label, values in shares.items():
        for name, chosen in (("right", right[label]), ("wrong", ~right[label])):
            kept = values[chosen & np.isfinite(values)]
            if len(kept):
                found = t_interval(kept)
                low, high = _number(found.low), _number(found.high)
                rows.append(
                    {"label": label, "images": name, "n": len(kept), "mean": found.point, "low": low, "high": high}
                )
    return pd.DataFrame(rows, columns=["label", "images", "n", "mean", "low", "high"])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
