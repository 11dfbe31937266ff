"""The part of a run's estimated cost that is computed, not measured."""

import pytest

from senet_lib.running.estimate import estimate
from senet_lib.study import Recipe, RunConfig


def h100_seconds(**recipe):
    run = RunConfig(study="s", label="a", model="resnet20", knobs={}, seed=0, data="cifar10", recipe=Recipe(**recipe))
    return estimate(run, device="cpu", threads=1).h100_seconds


def test_fewer_and_smaller_images_cost_less():
    whole = 50_000 + 10_000 / 3  # images per epoch: evaluating one costs a third of training on it
    plain = h100_seconds(epochs=10)
    assert h100_seconds(epochs=10, holdout=5_000) / plain == pytest.approx((45_000 + 5_000 / 3) / whole)
    resolutions = [16, 16, 20, 24, 28, 32, 32, 32, 32, 32]
    pixels = sum(resolution**2 for resolution in resolutions) / (10 * 32**2)
    smaller = h100_seconds(epochs=10, crop_size=28)
    assert smaller / plain == pytest.approx((50_000 * (28 / 32) ** 2 + 10_000 / 3) / whole)
    growing = h100_seconds(epochs=10, first_size=16, full_size_from=0.5)
    assert growing / plain == pytest.approx((50_000 * pixels + 10_000 / 3) / whole)
