"""Batch norm over the images of all processes that share a batch, in place of each process's own images.

Source: S. Ioffe, C. Szegedy, "Batch Normalization", 2015 (arXiv:1502.03167): the mean and variance are those of the
batch. With 8 devices and 16 images on each, statistics per device are those of a batch of 16.

PyTorch's SyncBatchNorm computes this on GPUs alone; `SynchronisedBatchNorm` is the same for a CPU.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronise(model: nn.Module, device: torch.device) -> None:
    """Let every batch norm in `model` use the statistics of the whole batch. Parameters and buffers are kept."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                continue
            if device.type == "cuda":
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
            else:
                setattr(parent, name, SynchronisedBatchNorm.like(child))


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """(N, C, H, W) or (N, C) -> the same shape; in training with the mean and variance over all processes."""

    @classmethod
    def like(cls, norm: nn.Module) -> "SynchronisedBatchNorm":
        """The same batch norm, with the same parameters and buffers."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new.weight, new.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(new, name, buffer)
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        over = [0, *range(2, x.ndim)]
        # The mean first, then the deviations from it: the difference of two large sums would lose digits
        own, wide = x.numel() / x.shape[1], x.float()
        count = sum_over_processes(x.new_tensor(own, dtype=torch.float32))
        mean = SumOverProcesses.apply(wide.sum(over)) / count  # (C,)
        centred = wide - _along_channels(mean, x)
        variance = SumOverProcesses.apply(centred.square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * _along_channels(scale, x) + _along_channels(self.bias, x)).to(x.dtype)


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; every process's loss depends on every summand."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return sum_over_processes(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return sum_over_processes(gradient)


def sum_over_processes(x: Tensor) -> Tensor:
    total = x.clone()
    dist.all_reduce(total)
    return total


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1), or (1, C) for x (N, C)."""
    return values.view(1, -1, *(1,) * (x.ndim - 2))
