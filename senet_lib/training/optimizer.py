"""The optimizer of a recipe: SGD, its learning rate and weight decay put into PyTorch's terms.

bias_lr_factor and decoupled: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498),
section 3.4 and its code, after D. Page, "How to Train Your ResNet", 2018.

`decoupled` states the two numbers so that neither depends on batch size B or momentum m, nor the decay on the rate:
`lr` is how far a constant gradient of the mean loss moves the weights with every 1024 images, `weight_decay` the
fraction that they lose meanwhile. Under a constant gradient momentum, Nesterov's or not, lengthens a step by
1 / (1 - m); PyTorch's learning rate is therefore lr * B / 1024 * (1 - m), its weight decay weight_decay / lr.

Differs from the paper: its code takes 1 + 1 / (1 - m) for the gain, so its lr of 11.5 and weight decay of 0.0153 at
m = 0.85 are 10 and 0.0133 here.

muon_lr: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon), and github:KellerJordan/cifar10-airbench: a step moves the filters of a convolution
along the nearest orthogonal matrix to Nesterov's update, so in every direction as far.
"""

import torch
from torch import nn

from senet_lib.study import Recipe

# Of a quintic that, iterated, drives every singular value in (0, 1] near 1; fastest for the small ones (Jordan et al.)
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 3
MUON_MOMENTUM = 0.6  # github:KellerJordan/cifar10-airbench


def make_optimizer(
    model: nn.Module, recipe: Recipe, *, fused: bool, muon_dtype: torch.dtype | None = None
) -> torch.optim.SGD:
    """SGD over all parameters; with a bias_lr_factor f the batch-norm biases are a group of f times the learning rate
    and 1/f of the weight decay, whose product, what a step takes off a weight, is then the same everywhere. With a
    muon_lr the convolutions behind the first are a group of Muon's, whose iteration computes in `muon_dtype`; None: in
    the weights' own."""
    decay = recipe.weight_decay / recipe.lr if recipe.decoupled else recipe.weight_decay
    biases, filters = set(), set()
    groups = [{"weight_decay": decay}]
    if recipe.bias_lr_factor != 1:
        biases = {id(m.bias) for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))}
        groups.append({"weight_decay": decay / recipe.bias_lr_factor})
    if recipe.muon_lr is not None:
        filters = {id(m.weight) for m in [m for m in model.modules() if isinstance(m, nn.Conv2d)][1:]}
        groups.append({"weight_decay": 0.0, "momentum": 0.0, "nesterov": False, "muon": True})
    for group in groups:
        group["params"] = []
    for parameter in model.parameters():
        group = groups[-1] if id(parameter) in filters else groups[1] if id(parameter) in biases else groups[0]
        group["params"].append(parameter)
    options = {"lr": recipe.lr, "momentum": recipe.momentum, "nesterov": recipe.nesterov, "fused": fused}
    return torch.optim.SGD(groups, **options) if recipe.muon_lr is None else Muon(groups, muon_dtype, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, lr: float) -> None:
    """Give every group its learning rate of a step whose rate is `lr` in the recipe's terms."""
    own = lr * recipe.batch_size / 1024 * (1 - recipe.momentum) if recipe.decoupled else lr
    rates = [own]
    if recipe.bias_lr_factor != 1:
        rates.append(own * recipe.bias_lr_factor)
    if recipe.muon_lr is not None:
        rates.append(recipe.muon_lr * lr / recipe.lr)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


class Muon(torch.optim.SGD):
    """SGD, but for groups that say `muon`: 4-dimensional weights (filters, channels, height, width).

    muon_dtype: of the iteration's products. bfloat16, as in its source, does: all that counts is the direction, about.
    """

    def __init__(self, groups: list[dict], muon_dtype: torch.dtype | None = None, **options) -> None:
        super().__init__(groups, **options)
        self.muon_dtype = muon_dtype

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"] if group.get("muon") else ():
                self._prepare(weight)
        return super().step(closure)

    @torch.no_grad()
    def _prepare(self, weight: nn.Parameter) -> None:
        """Scale the weight (F, C, h, w) to filters of norm 1, in the root mean square, and put in the gradient's place
        what a plain step is to subtract."""
        state = self.state[weight]
        if "muon_buffer" not in state:
            state["muon_buffer"] = torch.zeros_like(weight)
        buffer = state["muon_buffer"]
        buffer.mul_(MUON_MOMENTUM).add_(weight.grad)
        update = weight.grad.add(buffer, alpha=MUON_MOMENTUM)
        weight.mul_(len(weight) ** 0.5 / weight.norm())  # the filters' scale is the batch norm's business
        weight.grad.copy_(orthogonal(update.flatten(1), self.muon_dtype).view(weight.shape))


def orthogonal(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(F, K) -> (F, K): about U V^T of a matrix U S V^T, by Newton and Schulz's iteration, in `dtype` or x's own:
    singular values between 0.5 and 1.5, but for those that were far smaller than the largest."""
    a, b, c = QUINTIC
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = (wide / (wide.norm() + 1e-7)).to(dtype or x.dtype)
    for _ in range(ITERATIONS):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T
