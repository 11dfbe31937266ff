"""The building blocks of every network: convolution units, the SE gate, the SK convolution, the residual blocks.

SE: Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507. SK: Li et al., "Selective Kernel Networks",
arXiv:1903.06586. Residual blocks: He et al., arXiv:1512.03385 (post-activation) and arXiv:1603.05027 (pre-activation).

Shapes: N images, C channels, H x W pixels; M branches.
"""

from collections.abc import Callable
from functools import wraps
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import module as nn_module

from senet_lib.models.fused import mean_of_sum, use_fused, weighted_by_mean
from senet_lib.models.knobs import check_groups, hidden_units, parse_kernels


def fx_leaf(forward: Callable) -> Callable:
    """Decorates a layer's forward that branches on its input: torch.fx records one call, as for layers of PyTorch."""

    @wraps(forward)
    def leaf(self: nn.Module, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
        return forward(self, x)

    return leaf


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d that also accepts a single value per channel in training.

    A single value has no variance, so PyTorch raises an error. With batch size 1 (the last batch of an epoch, for
    example) this occurs in SK's fuse step and in a last stage with 1x1 maps. Such a value is normalised by the running
    statistics, as in evaluation, and does not update them.
    """

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class DilatedGroupedConv2d(nn.Conv2d):
    """A dilated nn.Conv2d that computes undilated convolutions where it is trained on a CPU, with the same result.

    A kernel of dilation d reads only every d-th row and column, so the d * d images that these form are convolved
    separately; with a stride of d, one of them is enough. This avoids oneDNN's gradients of dilated grouped
    convolutions, which are slow and which, in bf16 and channels_last above 28 columns, are uninitialised memory for the
    weight (seen with oneDNN 3.12 and AVX512-BF16).
    """

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.jit.is_tracing():
            return super().forward(x)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        (dilation, _), (stride, _), (padding, _) = self.dilation, self.stride, self.padding
        common = gcd(stride, dilation)
        stride, step = stride // common, dilation // common
        x = x.permute(0, 2, 3, 1)[:, ::common, ::common]  # channels last, or the gradient would be laid out otherwise
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % step, 0, -height % step)) if height % step or width % step else x
        x = split_phases(x, step).permute(0, 3, 1, 2)
        x = F.conv2d(x, self.weight, self.bias, padding=padding // dilation, groups=self.groups)
        x = join_phases(x.permute(0, 2, 3, 1), step)[:, :height:stride, :width:stride].permute(0, 3, 1, 2)
        return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def split_phases(x: Tensor, step: int) -> Tensor:
    """Every `step`-th row and column as an image of its own: (N, H, W, C) -> (step * step * N, H/step, W/step, C)."""
    parts = x.unflatten(2, (-1, step)).unflatten(1, (-1, step))  # N, H/step, step, W/step, step, C
    return parts.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)


def join_phases(x: Tensor, step: int) -> Tensor:
    """The inverse of `split_phases`: (step * step * N, H, W, C) -> (N, step * H, step * W, C)."""
    return x.unflatten(0, (step, step, -1)).permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A bias-free convolution with padding that preserves H x W, up to the stride."""
    kind = DilatedGroupedConv2d if groups > 1 and dilation > 1 else nn.Conv2d
    return kind(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False)


def conv_bn(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1, *, relu: bool = False
) -> nn.Sequential:
    """conv -> BN, then ReLU if `relu`."""
    unit = nn.Sequential(conv(c_in, c_out, kernel, stride, groups, dilation), BatchNorm(c_out))
    return unit.append(nn.ReLU(inplace=True)) if relu else unit


SQUEEZE = {
    "avg": lambda x: x.mean((2, 3), keepdim=True),  # (N, C, H, W) -> (N, C, 1, 1)
    "max": lambda x: x.amax((2, 3), keepdim=True),  # (N, C, H, W) -> (N, C, 1, 1)
    "none": lambda x: x,  # no squeeze: one gate per pixel
}
EXCITATION = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 relu(W1 mean_HW(x))): (N, C, H, W) -> the same; the gate is (N, C, 1, 1).

    Hu et al. 2018, Section 3, equations 2 to 4. W1: C -> C // reduction, W2: C // reduction -> C.
    Raises ValueError when C // reduction is 0.
    """

    def __init__(
        self, channels: int, reduction: int = 16, squeeze: str = "avg", excitation: str = "sigmoid", bias: bool = True
    ):
        super().__init__()
        hidden = hidden_units(channels, reduction)
        self.squeeze = squeeze
        self.excitation = excitation
        self.fc1 = nn.Linear(channels, hidden, bias)
        self.fc2 = nn.Linear(hidden, channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.can_fuse(x):  # same result, faster backward pass
            return self.fused_add(None, x)
        z = SQUEEZE[self.squeeze](x).movedim(1, -1)  # (N, C, 1, 1) -> (N, 1, 1, C): the FCs act on the last axis
        return x * self.excite(z).movedim(-1, 1)  # (N, 1, 1, C) -> (N, C, 1, 1)

    def can_fuse(self, x: Tensor) -> bool:
        """Whether `fused_add` may be called: average squeeze, in eager training."""
        return self.squeeze == "avg" and use_fused(self) and not isinstance(x, fx.Proxy)

    @property
    def is_observed(self) -> bool:
        """Whether calling the block does more than `SqueezeExcitation.forward`: hooks, or a forward of its own."""
        own = (self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks)
        replaced = getattr(self.forward, "__func__", None) is not SqueezeExcitation.forward
        return replaced or any(own) or bool(nn_module._has_any_global_hook())

    def fused_add(self, skip: Tensor | None, x: Tensor, relu: bool = False) -> Tensor:
        """skip + self(x), then ReLU if `relu`, in one fused pass; skip=None adds nothing. Maps are (N, C, H, W)."""
        return weighted_by_mean([x], lambda z: self.excite(z)[:, None], skip, relu)

    def excite(self, z: Tensor) -> Tensor:
        """(..., C) squeezed values -> the gate, of the same shape."""
        return EXCITATION[self.excitation](self.fc2(torch.relu(self.fc1(z))))

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, excitation={self.excitation}"


@fx.wrap  # recorded as one call, since it branches on its input
def fuse_branches(maps: list[Tensor]) -> Tensor:
    """mean_HW(sum_m maps[m]), the SK fuse step's input in plain operations: M maps of (N, C, H, W) -> (N, C)."""
    if maps[0].dtype == torch.half:  # the sum of two maps may exceed fp16's range
        return mean_of_sum(maps)
    total = maps[0]
    for u in maps[1:]:
        total = total + u
    return total.mean((2, 3))


class SelectiveKernelConv(nn.Module):
    """A convolution with soft kernel selection per channel: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride).

    Split   U_m = relu(BN(conv_m(x)))                 one branch per kernel, M branches
    Fuse    z = relu(BN(W mean_HW(sum_m U_m)))        (N, d), d = max(C_out // reduction, min_hidden)
    Select  a = softmax over the branches of W_m z    (N, M, C_out)
            V = sum_m a_m U_m

    Li et al. 2019, Section 3.1. Replaces a conv-BN-ReLU unit, including its stride and groups; no layer follows the
    selection. With one branch it equals the unit that it replaces.
    Raises ValueError when a branch's groups do not divide the channels.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int = 1,
        kernels: str = "3x3+3x3d2",
        groups: int = 32,
        reduction: int = 16,
        min_hidden: int = 32,
        select_bias: bool = False,
    ):
        super().__init__()
        self.branches = nn.ModuleList()
        for kernel in parse_kernels(kernels):
            g = kernel.groups or groups
            check_groups(g, c_in)
            check_groups(g, c_out)
            self.branches.append(conv_bn(c_in, c_out, kernel.size, stride, g, kernel.dilation, relu=True))
        if len(self.branches) > 1:
            hidden = max(c_out // reduction, min_hidden)
            self.fuse = nn.Linear(c_out, hidden, bias=False)
            self.norm = BatchNorm(hidden)
            self.select = nn.Linear(hidden, len(self.branches) * c_out, select_bias)

    def forward(self, x: Tensor) -> Tensor:
        u = [branch(x) for branch in self.branches]  # M maps of (N, C, H, W)
        if len(u) == 1:
            return u[0]
        if use_fused(self) and not isinstance(x, fx.Proxy):  # same result, faster backward pass
            return weighted_by_mean(u, self.attend)
        a = self.attend(fuse_branches(u))  # M maps of (N, C, H, W) -> (N, C) -> (N, M, C)
        v = u[0] * a[:, 0, :, None, None]
        for m in range(1, len(u)):
            v = v + u[m] * a[:, m, :, None, None]
        return v

    def attend(self, mean: Tensor) -> Tensor:
        """(N, C) -> branch weights (N, M, C), which sum to 1 over M."""
        z = self.fuse(mean)  # (N, C) -> (N, d)
        z = torch.relu(self.norm(z[:, :, None, None])).flatten(1)
        scores = self.select(z).unflatten(1, (len(self.branches), -1))  # (N, M, C)
        return scores.softmax(1)


class PaddedShortcut(nn.Module):
    """Option A of He et al. 2015, Section 3.3: every stride-th pixel, zeros in the new channels, no parameters."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        if c_out < c_in:
            raise ValueError(f"shortcut='padded' cannot reduce {c_in} channels to {c_out}; allowed: projection")
        self.stride = stride
        self.new_channels = c_out - c_in

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class ResidualBlock(nn.Module):
    """y = relu(shortcut(x) + gate(body(x))): (N, C_in, H, W) -> (N, C_out, H/stride, W/stride).

    `placement` moves the gate (Hu et al. 2018, Figure 5); with 'after_3x3' the body already contains it.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module, gate: nn.Module, placement: str = "standard"):
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.gate = gate
        self.placement = placement

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(x, x, relu=True)

    def merge(self, skip: Tensor, x: Tensor, relu: bool) -> Tensor:
        """shortcut(skip) + gate(body(x)), then ReLU if `relu`; `placement` moves the gate."""

        def activation(total: Tensor) -> Tensor:
            return F.relu(total, inplace=True) if relu else total  # in place: nothing else uses the sum

        if self.placement == "pre":
            return activation(self.shortcut(skip) + self.body(self.gate(x)))
        if self.placement == "post":
            return self.gate(activation(self.shortcut(skip) + self.body(x)))
        if self.placement == "identity":
            return activation(self.gate(self.shortcut(skip)) + self.body(x))
        gate = self.gate
        if isinstance(gate, SqueezeExcitation) and gate.can_fuse(x) and not gate.is_observed:  # same result in one pass
            return gate.fused_add(self.shortcut(skip), self.body(x), relu)
        return activation(self.shortcut(skip) + gate(self.body(x)))


class PreactivationBlock(ResidualBlock):
    """y = shortcut(x) + gate(body(relu(BN(x)))); a projection shortcut also receives relu(BN(x)).

    He et al. 2016, Figure 4(e); their released code applies a projection after the activation.
    """

    def __init__(self, c_in: int, body: nn.Module, shortcut: nn.Module, gate: nn.Module, placement: str = "standard"):
        super().__init__(body, shortcut, gate, placement)
        self.norm = BatchNorm(c_in)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(x))
        skip = h if isinstance(self.shortcut, nn.Conv2d) else x
        return self.merge(skip, h, relu=False)
