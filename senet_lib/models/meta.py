"""Shapes without arithmetic: a network run on the meta device."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode


class BatchNormSkipped(TorchFunctionMode):
    """BN keeps the shape and has no multiply-adds that count, but on the meta device it takes most of the time."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return args[0] if function is F.batch_norm else function(*args, **(kwargs or {}))


def run_on_meta(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """One image (C, H, W) through the network in evaluation mode: its hooks see shapes, and nothing is changed."""
    meta = {name: x.to("meta") for name, x in (*model.named_parameters(), *model.named_buffers())}
    image = torch.empty(1, *input_size, dtype=next(model.parameters()).dtype, device="meta")
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad(), BatchNormSkipped():
            functional_call(model, meta, (image,))
    finally:
        for module in training:
            module.training = True
