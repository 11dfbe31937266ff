"""Training steps as `fit` runs them, without evaluation, history and checkpoints, on random images on the device."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from measuring import synchronise

from senet_lib.data import Dataset
from senet_lib.models import create_model
from senet_lib.study import Recipe, load_study
from senet_lib.training.loop import train_step
from senet_lib.training.runtime import chosen_kernels
from senet_lib.training.state import TrainingState, prepare

STUDIES = Path(__file__).resolve().parent.parent / "studies"
WARM_UP = 3  # steps: cuDNN measures its kernels, torch.compile compiles, the allocator grows


def recipe_of(network: str, batch: int, **changes: object) -> Recipe:
    """The recipe that a network is timed with: for `fast` its study's, at full resolution; otherwise plain SGD."""
    own = {"lr": 1e-3, "schedule": "constant"}
    if network == "fast":
        own = load_study("fast", STUDIES).recipe.model_dump() | {"first_size": None}
    return Recipe(**{**own, "batch_size": batch, **changes})


class FitSteps:
    """The steps of one training, epoch after epoch; only full batches."""

    def __init__(self, network: str, data: Dataset, recipe: Recipe, width: float = 1, folder: Path | None = None):
        """data: images on any device; folder: where checkpoints go."""
        whole = len(data.train_labels) // recipe.batch_size * recipe.batch_size
        data = replace(data, train_images=data.train_images[:whole], train_labels=data.train_labels[:whole])
        torch.manual_seed(0)
        self.model = create_model(network, width=width)
        self.state: TrainingState = prepare(
            self.model, data, recipe, seed=0, run_dir=folder, config_hash="", device="auto"
        )
        self.device = self.state.fabric.device
        self.state.network.train()
        self._batches = self._endless()

    def _endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        epoch = 0
        while True:
            for step, batch in enumerate(self.state.batches.epoch(seed=0, epoch=epoch)):
                self.state.step = step
                yield batch
            epoch += 1

    def run(self, count: int) -> None:
        """Queue `count` steps."""
        for _ in range(count):
            train_step(self.state, *next(self._batches))

    def timed(self, seconds: float, rounds: int = 5) -> float:
        """Seconds per step: the median of `rounds` rounds of about `seconds` each, at least one step, after the
        warm-up."""
        self.run(WARM_UP)
        count = max(1, round(seconds / self.seconds_per_step()))
        return statistics.median(self.seconds_per_step(count) for _ in range(rounds))

    def seconds_per_step(self, count: int = 1) -> float:
        """Run `count` steps and wait for the device."""
        synchronise(self.device)
        started = time.perf_counter()
        self.run(count)
        synchronise(self.device)
        return (time.perf_counter() - started) / count


@contextmanager
def fit_steps(
    network: str, data: Dataset, batch: int, *, width: float = 1, folder: Path | None = None, **changes: object
) -> Iterator[FitSteps]:
    """Steps in the settings of `fit`, such as its kernels. `changes`: of the recipe."""
    recipe = recipe_of(network, batch, **changes)
    with chosen_kernels(recipe):
        steps = FitSteps(network, data, recipe, width, folder)
        with steps.state.writer:
            yield steps
