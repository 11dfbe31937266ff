"""Maps weighted by a function of their own mean, with one hand-written backward pass: what SE and SK have in common.

Autograd reaches each map twice, through the mean and through the product, and adds the two gradients: one of them a
single value per channel, expanded to a whole map. Written by hand, the sum is part of the product's own pass. The
blocks in `blocks.py` say the same in plain operations, and take these instead only while they train.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn


def weighted_by_mean(
    maps: Sequence[Tensor], weigh: Callable[[Tensor], Tensor], parameters: Iterable[nn.Parameter]
) -> Tensor:
    """sum_m w_m * maps[m], where w = weigh(mean_HW(sum_m maps[m])): M maps of (N, C, H, W) -> (N, C, H, W).

    weigh: (N, C) -> (N, M, C), differentiable; `parameters` are those that it uses. First derivatives only.
    """
    return _WeightedByMean.apply(weigh, len(maps), *maps, *parameters)


def by_hand(module: nn.Module) -> bool:
    """Whether a block takes the hand-written pass: while it trains eagerly. A compiler fuses the plain operations."""
    return module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _WeightedByMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weigh, count: int, *tensors: Tensor) -> Tensor:
        maps, ctx.parameters = tensors[:count], tensors[count:]
        mean = maps[0].mean((2, 3))
        for u in maps[1:]:
            mean += u.mean((2, 3))
        with torch.enable_grad():  # N x C values: autograd may have this part, whatever `weigh` is
            ctx.mean = mean.requires_grad_()
            ctx.weights = weigh(ctx.mean)
        ctx.save_for_backward(*maps)
        weights = ctx.weights.detach().to(maps[0].dtype)
        out = maps[0] * weights[:, 0, :, None, None]
        for m in range(1, count):
            out.addcmul_(maps[m], weights[:, m, :, None, None])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        maps = ctx.saved_tensors
        d_weights = torch.stack([(grad * u).sum((2, 3)) for u in maps], 1).to(ctx.weights.dtype)  # (N, M, C)
        wanted = [ctx.mean, *(p for p in ctx.parameters if p.requires_grad)]
        d_mean, *d_wanted = torch.autograd.grad(ctx.weights, wanted, d_weights, retain_graph=True)
        d_parameters = iter(d_wanted)
        weights = ctx.weights.detach().to(grad.dtype)
        share = (d_mean / (grad.shape[2] * grad.shape[3])).to(grad.dtype)[:, :, None, None]
        d_maps = [torch.addcmul(share, grad, weights[:, m, :, None, None]) for m in range(len(maps))]
        return None, None, *d_maps, *(next(d_parameters) if p.requires_grad else None for p in ctx.parameters)
