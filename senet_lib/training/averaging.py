"""Weight averaging: the averaged weights are evaluated and kept.

ema: an exponential moving average (EMA) that does not affect training. lookahead: the same average, but training
continues from it (M. Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019, arXiv:1907.08610), as in
K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498), section 3.4.

After step t of T, where T - t is a multiple of k:   average <- a * average + (1 - a) * weights
                                                     a = decay^k * (t / T)^3
Early in training the weights change fast; the cube makes the first averages follow them closely.

Differs from the lookahead paper: a grows during training; the paper's alpha = 1 - a is constant. Differs from both: k
is counted back from the end of training, so that the last average includes the last step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from senet_lib.study import Recipe


class WeightAverage:
    """The average of a model's parameters and floating-point buffers over the `steps` of its training.

    Batch norm's running mean and variance are averaged, and under lookahead reset, exactly like the weights, so they
    lag by the same amount. Re-estimating them at the averaged weights would cost a pass over the training images at
    every evaluation. The integer batch count of batch norm is not averaged; nothing here reads it.

    No method waits for the device. A checkpoint stores `state` in addition to the model's own weights.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int) -> None:
        self.recipe, self.steps = recipe, steps
        live = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
        self.live = list(live.values())  # shares the model's memory
        self.average = [value.clone() for value in self.live]
        self.names = list(live)

    def update(self, step: int) -> None:
        """Update the average with the current weights, after `step` steps since the start of training."""
        if (self.steps - step) % self.recipe.averaging_steps:
            return
        share = self.recipe.averaging_decay**self.recipe.averaging_steps * (step / self.steps) ** 3
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.live, 1 - share)
            if self.recipe.averaging == "lookahead":
                torch._foreach_copy_(self.live, self.average)

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """Load the averages into the model inside the block; restore its own weights, bit for bit, afterwards."""
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
