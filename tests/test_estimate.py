"""The part of a run's estimated cost that is computed, not measured."""

from dataclasses import replace

import pytest
import torch

from senet_lib.metrics import count_macs
from senet_lib.models import create_model
from senet_lib.running.estimate import estimate
from senet_lib.running.inputs import outline
from senet_lib.study import Recipe, RunConfig


def h100_seconds(**recipe):
    run = RunConfig(study="s", label="a", model="resnet20", knobs={}, seed=0, data="cifar10", recipe=Recipe(**recipe))
    return estimate(run, device="cpu", threads=1).h100_seconds


def test_macs_are_those_of_the_images(monkeypatch):
    """Neither wide nor high images count as square ones."""
    run = RunConfig(
        study="s", label="a", model="resnet20", knobs={"width": 0.25}, seed=0, data="folder:x", recipe={"batch_size": 8}
    )
    model = create_model("resnet20", width=0.25)
    for height, width in ((8, 24), (24, 8)):
        images = torch.zeros(4, height, width, 3, dtype=torch.uint8)
        data = replace(outline("cifar10"), train_images=images, train_labels=torch.arange(4))
        monkeypatch.setattr("senet_lib.running.inputs.load_dataset", lambda *_, data=data: data)
        assert estimate(run, device="cpu", threads=1).macs == count_macs(model, (3, height, width))


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
