"""Averages of the weights over training, which are what is evaluated and kept.

ema: an exponential moving average beside the training. lookahead: the same, and training goes on from the average
(M. Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019, arXiv:1907.08610), as K. Jordan,
"94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498), section 3.4, uses it.

After step t of T, where T - t is a multiple of k:   average <- a * average + (1 - a) * weights
                                                     a = decay^k * (t / T)^3
The cube lets the first averages follow the weights at once, which are still far from where they will end.

Differs from the lookahead paper: a grows, where its alpha = 1 - a is constant. From both: k counts back from the end,
so that the last step is part of the last average.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from senet_lib.study import Recipe


class WeightAverage:
    """The average of a model's parameters and floating-point buffers over the `steps` of its training.

    Batch-norm's running mean and variance are averaged, and under lookahead set back, exactly as the weights are, so
    that they lag as the weights do; measuring them anew at the averaged weights would cost a pass over the training
    images at every evaluation. The integer count of batches, which nothing here reads, stays the model's own.

    Nothing waits for the device. `state` is what a checkpoint needs beside the model's own weights.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int) -> None:
        self.recipe, self.steps = recipe, steps
        live = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
        self.live = list(live.values())  # the model's own memory
        self.average = [value.clone() for value in self.live]
        self.names = list(live)

    def update(self, step: int) -> None:
        """Take in the weights as they are after `step` steps of the whole training."""
        if (self.steps - step) % self.recipe.averaging_steps:
            return
        share = self.recipe.averaging_decay**self.recipe.averaging_steps * (step / self.steps) ** 3
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.live, 1 - share)
            if self.recipe.averaging == "lookahead":
                torch._foreach_copy_(self.live, self.average)

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """The model has the averages for the while, and then its own weights again, bit for bit."""
        own = [value.clone() for value in self.live]
        self.put_into_the_model()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.live, own)

    def put_into_the_model(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.average)

    @property
    def state(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state.items():
            value.copy_(state[name])
