"""The optimizers of a recipe, SGD and Muon; learning rate and weight decay are converted to PyTorch's conventions.

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

from collections.abc import Iterable

import torch
from torch import nn

from senet_lib.study import Recipe

# Coefficients of a quintic whose iteration moves singular values in (0, 1] near 1, small ones fastest (Jordan et al.)
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 3
MUON_MOMENTUM = 0.6  # github:KellerJordan/cifar10-airbench


def make_optimizers(
    model: nn.Module, recipe: Recipe, *, fused: bool, muon_dtype: torch.dtype | None = None
) -> list[torch.optim.Optimizer]:
    """SGD over all parameters; with the recipe's muon_lr, Muon for all convolutions except the first, SGD for the rest.

    bias_lr_factor f: batch-norm biases form a group with f times the learning rate and 1/f of the weight decay. The
    product, the fraction of a weight removed per step, is then the same in both groups. muon_dtype: of Muon's
    iteration; None for the dtype of the weights.
    """
    factor, decay = 1.0, recipe.weight_decay
    if recipe.decoupled:
        factor, decay = recipe.batch_size / 1024 * (1 - recipe.momentum), recipe.weight_decay / recipe.lr
    filters, biases = [], []
    if recipe.muon_lr is not None:
        filters = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)][1:]
    if recipe.bias_lr_factor != 1:
        norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
        biases = [module.bias for module in norms if module.bias is not None]
    elsewhere = {id(parameter) for parameter in (*filters, *biases)}
    others = [parameter for parameter in model.parameters() if id(parameter) not in elsewhere]
    groups = [{"params": others, "weight_decay": decay, "lr_factor": factor}]
    if biases:
        decay, factor = decay / recipe.bias_lr_factor, factor * recipe.bias_lr_factor
        groups.append({"params": biases, "weight_decay": decay, "lr_factor": factor})
    sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)
    return [sgd, Muon(filters, recipe.muon_lr, recipe.muon_lr / recipe.lr, muon_dtype)] if filters else [sgd]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group for a step; `lr` is the step's learning rate in the recipe's terms."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for 4-dimensional weights (filters, channels, height, width).

    lr_factor: the group's learning rate as a multiple of the recipe's. dtype: of the matrix products. bfloat16, as in
    the source, suffices: only the approximate direction matters.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, lr_factor: float = 1.0, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(weights, {"lr": lr, "lr_factor": lr_factor, "momentum": MUON_MOMENTUM})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffer = state["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(buffer, alpha=group["momentum"])  # Nesterov
                # Rescale the root mean square of the filters' norms to 1: batch norm cancels their scale
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(orthogonal(update.flatten(1), self.dtype).view(weight.shape), alpha=group["lr"])


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
