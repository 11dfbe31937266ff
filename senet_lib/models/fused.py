"""The fused pass that SE and SK share: maps weighted by a function of their own mean, with its own backward pass.

Autograd computes two gradients for each map, through the mean and through the product, and adds them. The first is one
value per channel, expanded to a whole map. The fused backward pass adds it while computing the second; the fused
forward pass includes the shortcut's addition and the ReLU. This saves passes over maps that are too large for a cache.
`blocks.py` also has the plain operations and uses the fused pass only in training.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

CACHED = 2**20  # number of elements that fit in a CPU's cache between two passes over them


def weighted_by_mean(
    maps: Sequence[Tensor], weigh: Callable[[Tensor], Tensor], skip: Tensor | None = None, relu: bool = False
) -> Tensor:
    """sum_m w_m * maps[m], where w = weigh(mean_HW(sum_m maps[m])): M maps of (N, C, H, W) -> (N, C, H, W).

    weigh: a differentiable function (N, C) -> (N, M, C); autograd finds whatever tensors it uses.
    skip: a map added to the sum. relu: whether a ReLU follows.
    """
    mean, *to_maps = _Mean.apply(*maps)
    return _Product.apply(weigh(mean), skip, relu, *to_maps, *maps)


def use_fused(module: nn.Module) -> bool:
    """Whether a block uses the fused pass: only in eager training, since a compiler fuses the plain operations.

    Plain operations also wherever an autograd.Function is unsupported: torch.func, forward-mode AD, torch.jit.trace.
    """
    if not module.training or not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0


def mean_of_sum(maps: Sequence[Tensor]) -> Tensor:
    """mean_HW(sum_m maps[m]): M maps of (N, C, H, W) -> (N, C)."""
    pixels = maps[0].shape[2] * maps[0].shape[3]
    mean = sum(sum_over_pixels(u) for u in maps) / pixels  # mean() would first copy the whole map to fp32
    return mean.half() if maps[0].dtype == torch.half else mean


def sum_over_pixels(x: Tensor) -> Tensor:
    """sum_HW x: (N, C, H, W) -> (N, C), in fp32 if x is fp16, whose largest value is 65504."""
    return x.sum((2, 3), dtype=torch.float32 if x.dtype == torch.half else None)


def products_summed(grad: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """sum_HW grad * maps[m]: (N, M, C). On a CPU, processes a few images at a time so that the product stays cached."""
    some = max(1, CACHED // grad.shape[1:].numel()) if grad.device.type == "cpu" else len(grad)
    chunks = zip(grad.split(some), *(u.split(some) for u in maps), strict=True)
    return torch.cat([torch.stack([sum_over_pixels(g * u) for u in us], 1) for g, *us in chunks])


# A map's gradient is complete only after the backward pass of `weigh`, which needs the product's. So the product sends
# its own gradient on in two factors, `grad` and the weights, as the gradients of two empty outputs of the mean. All
# steps are ordinary operations, so second derivatives work too.


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = maps[0]
        return mean_of_sum(maps), u.new_zeros(()).expand_as(u), u.new_zeros(()).expand(len(u), len(maps), u.shape[1])

    @staticmethod
    def backward(ctx, d_mean: Tensor, grad: Tensor, weights: Tensor):
        share = (d_mean / (grad.shape[2] * grad.shape[3])).to(grad.dtype)[:, :, None, None]
        return tuple(torch.addcmul(share, grad, w[:, :, None, None]) for w in weights.unbind(1))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, weights: Tensor, skip: Tensor | None, relu: bool, to_maps: Tensor, to_weights: Tensor, *maps: Tensor
    ):
        out = skip
        for u, w in zip(maps, weights.to(maps[0].dtype)[..., None, None].unbind(1), strict=True):
            if out is None:
                out = u * w
            elif out is skip:  # not in place: `skip` belongs to the caller
                out = torch.addcmul(out, u, w)
            else:
                out.addcmul_(u, w)
        if relu:
            out.relu_()
        ctx.save_for_backward(weights, *maps, *((out,) if relu else ()))
        ctx.relu = relu
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        weights, *maps = ctx.saved_tensors
        if ctx.relu:
            grad = torch.ops.aten.threshold_backward(grad, maps.pop(), 0)
        d_weights = products_summed(grad, maps).to(weights.dtype) if ctx.needs_input_grad[0] else None
        to_maps = (grad, weights.to(grad.dtype)) if ctx.needs_input_grad[3] else (None, None)
        return d_weights, grad if ctx.needs_input_grad[1] else None, None, *to_maps, *(None for _ in maps)
