"""The optimizer of a recipe: SGD or Muon, with learning rate and weight decay converted to PyTorch's conventions.

bias_lr_factor and decoupled: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498),
section 3.4 and its code, after D. Page, "How to Train Your ResNet", 2018.

`decoupled` makes `lr` and `weight_decay` independent of the batch size B and the momentum m, and the decay independent
of the learning rate. For every 1024 images, a constant gradient g of the mean loss moves the weights by lr * g, and
decay removes the fraction `weight_decay` of them. Under a constant gradient, momentum (Nesterov or not) multiplies the
step by 1 / (1 - m). PyTorch's learning rate is therefore lr * B / 1024 * (1 - m), its weight decay weight_decay / lr.

Differs from the paper: its code uses the factor 1 + 1 / (1 - m), so its lr of 11.5 and weight decay of 0.0153 at
m = 0.85 correspond to 10 and 0.0133 here.

muon_lr: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon), and github:KellerJordan/cifar10-airbench. A step moves the filters of a convolution
by the orthogonal matrix nearest to the Nesterov update, so it moves them equally far in every direction.
"""

import torch
from torch import nn

from senet_lib.study import Recipe

# Coefficients of a quintic whose iteration moves singular values in (0, 1] near 1, small ones fastest (Jordan et al.)
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 3
MUON_MOMENTUM = 0.6  # github:KellerJordan/cifar10-airbench


def make_optimizer(
    model: nn.Module, recipe: Recipe, *, fused: bool, muon_dtype: torch.dtype | None = None
) -> torch.optim.SGD:
    """SGD over all parameters, or Muon if the recipe has a muon_lr.

    bias_lr_factor f: batch-norm biases form a group with f times the learning rate and 1/f of the weight decay. The
    product, the fraction of a weight removed per step, is then the same in both groups. muon_lr: all convolutions
    except the first form a Muon group. muon_dtype: of Muon's iteration; None for the dtype of the weights.
    """
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
    """Set every group's learning rate for a step; `lr` is the step's learning rate in the recipe's terms."""
    own = lr * recipe.batch_size / 1024 * (1 - recipe.momentum) if recipe.decoupled else lr
    rates = [own]
    if recipe.bias_lr_factor != 1:
        rates.append(own * recipe.bias_lr_factor)
    if recipe.muon_lr is not None:
        rates.append(recipe.muon_lr * lr / recipe.lr)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


class Muon(torch.optim.SGD):
    """SGD, with Muon for the groups marked `muon`: 4-dimensional weights (filters, channels, height, width).

    muon_dtype: of the matrix products. bfloat16, as in the source, suffices: only the approximate direction matters.
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
        """Rescale the weight (F, C, h, w) so that the root mean square of its filters' norms is 1, and replace its
        gradient with the update that a plain SGD step subtracts."""
        state = self.state[weight]
        if "muon_buffer" not in state:
            state["muon_buffer"] = torch.zeros_like(weight)
        buffer = state["muon_buffer"]
        buffer.mul_(MUON_MOMENTUM).add_(weight.grad)
        update = weight.grad.add(buffer, alpha=MUON_MOMENTUM)
        weight.mul_(len(weight) ** 0.5 / weight.norm())  # batch norm cancels the scale of the filters
        weight.grad.copy_(orthogonal(update.flatten(1), self.muon_dtype).view(weight.shape))


def orthogonal(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(F, K) -> (F, K): approximately U V^T of x = U S V^T, by Newton-Schulz iteration in `dtype` (None: x's dtype).
    The singular values lie between 0.5 and 1.5, except those that were far smaller than the largest."""
    a, b, c = QUINTIC
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = (wide / (wide.norm() + 1e-7)).to(dtype or x.dtype)
    for _ in range(ITERATIONS):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T
