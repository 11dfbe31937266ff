"""The optimizer of a recipe: SGD, its learning rate and weight decay put into PyTorch's terms.

bias_lr_factor and decoupled: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498),
section 3.4 and its code, after D. Page, "How to Train Your ResNet", 2018.

`decoupled` states the two numbers so that neither depends on batch size B or momentum m, nor the decay on the rate:
`lr` is how far a constant gradient of the mean loss moves the weights with every 1024 images, `weight_decay` the
fraction that they lose meanwhile. Under a constant gradient momentum, Nesterov's or not, lengthens a step by
1 / (1 - m); PyTorch's learning rate is therefore lr * B / 1024 * (1 - m), its weight decay weight_decay / lr.

Differs from the paper: its code takes 1 + 1 / (1 - m) for the gain, so its lr of 11.5 and weight decay of 0.0153 at
m = 0.85 are 10 and 0.0133 here.
"""

import torch
from torch import nn

from senet_lib.study import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool) -> torch.optim.SGD:
    """SGD over all parameters; with a bias_lr_factor f the batch-norm biases are a second group of f times the learning
    rate and 1/f of the weight decay, whose product, what a step takes off a weight, is then the same everywhere."""
    decay = recipe.weight_decay / recipe.lr if recipe.decoupled else recipe.weight_decay
    groups = [{"params": list(model.parameters()), "weight_decay": decay}]
    if recipe.bias_lr_factor != 1:
        biases = {id(module.bias) for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))}
        groups = [
            {"params": [p for p in model.parameters() if id(p) not in biases], "weight_decay": decay},
            {
                "params": [p for p in model.parameters() if id(p) in biases],
                "weight_decay": decay / recipe.bias_lr_factor,
            },
        ]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, lr: float) -> None:
    """Give every group its learning rate of a step whose rate is `lr` in the recipe's terms."""
    if recipe.decoupled:
        lr *= recipe.batch_size / 1024 * (1 - recipe.momentum)
    for group, factor in zip(optimizer.param_groups, (1.0, recipe.bias_lr_factor), strict=False):
        group["lr"] = lr * factor
