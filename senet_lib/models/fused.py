"""The fused pass that SE and SK share: maps weighted by a function of their own mean, with its own backward pass.

Autograd computes two gradients for each map, through the mean and through the product, and adds them. The first is one
value per channel, expanded to a whole map. The fused backward pass adds it while computing the second; the fused
forward pass includes the shortcut's addition and the ReLU. This saves passes over maps that are too large for a cache.
`blocks.py` also has the plain operations and uses the fused pass only in training.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

CACHED = 2**20  # number of elements that fit in a CPU's cache between two passes over them


def weighted_by_mean(
    maps: Sequence[Tensor],
    weigh: Callable[[Tensor], Tensor],
    parameters: Iterable[nn.Parameter],
    skip: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """sum_m w_m * maps[m], where w = weigh(mean_HW(sum_m maps[m])): M maps of (N, C, H, W) -> (N, C, H, W).

    weigh: a differentiable function (N, C) -> (N, M, C). parameters: the parameters that it uses.
    skip: a map added to the sum. relu: whether a ReLU follows. Supports first derivatives only.
    """
    return _WeightedByMean.apply(weigh, len(maps), relu, skip, *maps, *parameters)


def use_fused(module: nn.Module) -> bool:
    """Whether a block uses the fused pass: only in eager training, since a compiler fuses the plain operations."""
    return module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def products_summed(grad: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """sum_HW grad * maps[m]: (N, M, C). On a CPU, processes a few images at a time so that the product stays cached."""
    some = max(1, CACHED // grad[0].numel()) if grad.device.type == "cpu" else len(grad)
    chunks = zip(grad.split(some), *(u.split(some) for u in maps), strict=True)
    return torch.cat([torch.stack([(g * u).sum((2, 3)) for u in us], 1) for g, *us in chunks])


class _WeightedByMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weigh, count: int, relu: bool, skip: Tensor | None, *tensors: Tensor) -> Tensor:
        maps, ctx.parameters = tensors[:count], tensors[count:]
        pixels = maps[0].shape[2] * maps[0].shape[3]
        mean = sum(u.sum((2, 3)) for u in maps) / pixels  # mean() would first copy the whole map to fp32
        with torch.enable_grad():  # only N x C values: autograd handles any `weigh`
            ctx.mean = mean.requires_grad_()
            ctx.weights = weigh(ctx.mean)
        weights = ctx.weights.detach().to(maps[0].dtype)
        out = skip
        for m, u in enumerate(maps):
            w = weights[:, m, :, None, None]
            if out is None:
                out = u * w
            elif m == 0:  # not in place: `skip` belongs to the caller
                out = torch.addcmul(out, u, w)
            else:
                out.addcmul_(u, w)
        if relu:
            out.relu_()
        ctx.save_for_backward(*maps, *((out,) if relu else ()))
        ctx.count, ctx.relu, ctx.skip = count, relu, skip is not None
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        maps = ctx.saved_tensors[: ctx.count]
        if ctx.relu:
            grad = torch.ops.aten.threshold_backward(grad, ctx.saved_tensors[-1], 0)
        d_weights = products_summed(grad, maps).to(ctx.weights.dtype)  # (N, M, C)
        wanted = [ctx.mean, *(p for p in ctx.parameters if p.requires_grad)]
        d_mean, *d_wanted = torch.autograd.grad(ctx.weights, wanted, d_weights, retain_graph=True)
        d_parameters = iter(d_wanted)
        weights = ctx.weights.detach().to(grad.dtype)
        share = (d_mean / (grad.shape[2] * grad.shape[3])).to(grad.dtype)[:, :, None, None]
        d_maps = [torch.addcmul(share, grad, weights[:, m, :, None, None]) for m in range(ctx.count)]
        d_learned = (next(d_parameters) if p.requires_grad else None for p in ctx.parameters)
        return None, None, None, grad if ctx.skip else None, *d_maps, *d_learned
