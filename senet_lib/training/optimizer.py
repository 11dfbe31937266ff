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

from collections import defaultdict
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
        """Weights of equal shape are moved together, so that a GPU starts few operations, each with much to do: their
        number grows with the shapes, not with the weights."""
        for group in self.param_groups:
            weights, momentum = group["params"], group["momentum"]
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            gradients = [weight.grad for weight in weights]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            updates = torch._foreach_add(gradients, buffers, alpha=momentum)  # Nesterov
            by_shape = defaultdict(list)
            for weight, update in zip(weights, updates, strict=True):
                matrix = _in_memory_order(weight).view(len(weight), -1)
                by_shape[matrix.shape].append((matrix, _in_memory_order(update).flatten(1)))
            for (filters, _), pairs in by_shape.items():
                own = [matrix for matrix, _ in pairs]  # views of the weights
                matrices = torch.stack(own)  # (n, F, K)
                # Rescale the root mean square of the filters' norms to 1: batch norm cancels their scale
                matrices *= filters**0.5 / torch.linalg.matrix_norm(matrices, keepdim=True)
                matrices.sub_(orthogonal(torch.stack([update for _, update in pairs]), self.dtype), alpha=group["lr"])
                torch._foreach_copy_(own, list(matrices.unbind()))


def _in_memory_order(weight: torch.Tensor) -> torch.Tensor:
    """(F, C, H, W) -> a view (F, H, W, C) if the weight is stored in that order, as in channels_last. The order of a
    matrix's columns does not matter to Muon, but stacking is faster in the order of the memory."""
    return weight.permute(0, 2, 3, 1) if weight.is_contiguous(memory_format=torch.channels_last) else weight


def orthogonal(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(N, F, K) -> (N, F, K): approximately U V^T of each x = U S V^T, by Newton-Schulz iteration in `dtype` (None:
    x's dtype). The singular values lie between 0.5 and 1.5, except those that were far smaller than the largest."""
    a, b, c = QUINTIC
    wide = x if x.shape[-2] <= x.shape[-1] else x.mT
    wide = (wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)).to(dtype or x.dtype)
    for _ in range(ITERATIONS):
        square = wide @ wide.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        wide = torch.baddbmm(wide, polynomial, wide, beta=a)
    return wide if x.shape[-2] <= x.shape[-1] else wide.mT
