"""The residual network of all families: a stem, stages of residual blocks, global average pooling, a linear head.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, and "Identity Mappings in Deep Residual
Networks", arXiv:1603.05027. An Arch sets depth and width; `spatial` and `gate` set the family.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.models.arch import Arch, Family
from senet_lib.models.blocks import (
    BatchNorm,
    PaddedShortcut,
    PreactivationBlock,
    ResidualBlock,
    SelectiveKernelConv,
    SqueezeExcitation,
    conv,
    conv_bn,
    fx_leaf,
)


class ResNet(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes); H and W at least 28.

    spatial(c_in, c_out, stride) creates the convolution that carries the stride: conv-BN-ReLU or SK.
    gate(channels) creates the SE gate on the residual branch; None for no gate.
    """

    def __init__(
        self,
        arch: Arch,
        spatial: Callable[[int, int, int], nn.Module],
        gate: Callable[[int], nn.Module] | None = None,
        placement: str = "standard",
        shortcut: str = "projection",
        stem: str = "cifar",
        num_classes: int = 10,
    ):
        super().__init__()
        self.stem = make_stem(arch, stem)
        self.stages = nn.Sequential()
        c_in = arch.stem_width
        for stage, (depth, width, c_out) in enumerate(zip(arch.depths, arch.widths, arch.outs, strict=True)):
            blocks = nn.Sequential()
            if arch.pooled:
                blocks.append(conv_pool(c_in, c_out))
                c_in = c_out
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 and not arch.pooled else 1
                blocks.append(make_block(arch, c_in, width, c_out, stride, spatial, gate, placement, shortcut))
                c_in = c_out
            self.stages.append(blocks)
        self.norm = BatchNorm(c_in) if arch.preactivation else None
        self.head = nn.Linear(c_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        if self.norm is not None:
            x = F.relu(self.norm(x))
        return self.head(self.pool(x))  # (N, C, H, W) -> (N, C) -> (N, num_classes)

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def make_stem(arch: Arch, stem: str) -> nn.Module:
    """The stem for small ('cifar') or large ('imagenet') images.

    cifar: 3x3, stride 1; with pooled stages, 2x2 without padding: (H, W) -> (H-1, W-1).
    imagenet: 7x7, stride 2, then a 3x3 max-pool, stride 2: (H, W) -> (H/4, W/4).
    """
    if stem == "imagenet":
        return conv_bn(3, arch.stem_width, 7, stride=2, relu=True).append(nn.MaxPool2d(3, stride=2, padding=1))
    if arch.pooled:
        patches = nn.Conv2d(3, arch.stem_width, 2, bias=False)
        return nn.Sequential(patches, BatchNorm(arch.stem_width), nn.ReLU(inplace=True))
    if arch.preactivation:  # the first block starts with BN and ReLU
        return conv(3, arch.stem_width, 3)
    return conv_bn(3, arch.stem_width, 3, relu=True)


class Halve(nn.MaxPool2d):
    """A 2x2 max-pool: (N, C, H, W) -> (N, C, H/2, W/2).

    Drops an odd last row or column. A map with a height or width of 1 is returned unchanged.
    """

    def __init__(self):
        super().__init__(2)

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if min(x.shape[2:]) > 1 else x


def conv_pool(c_in: int, c_out: int) -> nn.Sequential:
    """3x3 -> 2x2 max-pool -> BN -> ReLU: (N, c_in, H, W) -> (N, c_out, H/2, W/2).

    Pooling before BN and ReLU leaves them a quarter of the pixels.
    """
    return nn.Sequential(conv(c_in, c_out, 3), Halve(), BatchNorm(c_out), nn.ReLU(inplace=True))


def spatial_conv(c_in: int, c_out: int, stride: int, groups: int = 1) -> nn.Module:
    """The standard spatial convolution: 3x3 -> BN -> ReLU."""
    return conv_bn(c_in, c_out, 3, stride, groups, relu=True)


def make_spatial(family: Family, arch: Arch, knobs: dict) -> Callable[[int, int, int], nn.Module]:
    """The family's spatial convolution, as a function of (c_in, c_out, stride)."""
    if family.spatial == "conv":
        return partial(spatial_conv, groups=arch.groups)
    return partial(
        SelectiveKernelConv,
        kernels=knobs["kernels"],
        groups=knobs["groups"],
        reduction=knobs.get("sk_reduction", knobs["reduction"]),
        min_hidden=knobs["min_hidden"],
        select_bias=knobs["select_bias"],
    )


def make_gate(family: Family, knobs: dict) -> Callable[[int], nn.Module] | None:
    """The family's gate, as a function of the number of channels; None for no gate."""
    if family.gate is None:
        return None
    return partial(
        SqueezeExcitation,
        reduction=knobs["reduction"],
        squeeze=knobs["squeeze"],
        excitation=knobs["excitation"],
        bias=knobs["se_bias"],
    )


def make_block(
    arch: Arch,
    c_in: int,
    width: int,
    c_out: int,
    stride: int,
    spatial: Callable[[int, int, int], nn.Module],
    gate: Callable[[int], nn.Module] | None,
    placement: str,
    shortcut: str,
) -> ResidualBlock:
    """One residual block; `width` is the number of channels of the spatial convolution."""
    last = conv if arch.preactivation else conv_bn  # the next block applies the BN
    if arch.body == "basic":
        body = [spatial(c_in, width, stride), last(width, c_out, 3)]
    else:
        body = [conv_bn(c_in, width, 1, relu=True), spatial(width, width, stride), last(width, c_out, 1)]

    gate_module = nn.Identity()
    if gate is not None:
        gate_module = gate({"pre": c_in, "after_3x3": width}.get(placement, c_out))
        if placement == "after_3x3":
            body.insert(-1, gate_module)
            gate_module = nn.Identity()

    if c_in == c_out and stride == 1:
        skip = nn.Identity()
    elif shortcut == "padded":
        skip = PaddedShortcut(c_in, c_out, stride)
    else:
        skip = last(c_in, c_out, 1, stride)
    if arch.preactivation:
        return PreactivationBlock(c_in, nn.Sequential(*body), skip, gate_module, placement)
    return ResidualBlock(nn.Sequential(*body), skip, gate_module, placement)


def build(
    arch: Arch,
    family: Family,
    knobs: dict,
    num_classes: int,
    network: type[ResNet] = ResNet,
    spatial: Callable[[int, int, int], nn.Module] | None = None,
    gate: Callable[[int], nn.Module] | None = None,
) -> ResNet:
    """The residual network with these options; `network`, `spatial` and `gate` replace the family's own if given."""
    return network(
        arch,
        spatial or make_spatial(family, arch, knobs),
        gate or make_gate(family, knobs),
        knobs.get("placement", "standard"),
        knobs["shortcut"],
        knobs["stem"],
        num_classes,
    )


def initialise(model: nn.Module, init: str) -> None:
    """Initialise the convolutions; all other layers keep PyTorch's default.

    init: 'kaiming' (normal, fan-out: He et al. 2015, as in torchvision) or 'pytorch' (its default).
    Draws from torch's global generator: seed it first.
    """
    if init == "pytorch":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
