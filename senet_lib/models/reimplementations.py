"""The networks of the four source notes as published, with every defect as an option that is on by default.

A. "SENet and its twin SKNet", a study note with a comparison on CIFAR-10, January 2021: `source_a_*`.
   Its ResNet18 to 152 are kuangliu/pytorch-cifar's, which are `resnet18` to `resnet152` with init="pytorch".
B. "SENet study notes and simulation", after JYPark09/SENet-PyTorch: `source_b_network`.
C. The notebook SENet_CIFAR10.ipynb of 2020: `source_c_senet18`.
D. "SENet", an SE-ResNet for ImageNet after miraclewkf/SENet-PyTorch, 2022: `source_d_senet*`.

Changing one option corrects one defect, so that a study can compare the two versions:
create_model("source_a_senet50", inner_relu=True).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.models.arch import Arch, Family
from senet_lib.models.blocks import conv_bn
from senet_lib.models.resnet import ResNet, build


class FixedPoolingResNet(ResNet):
    """The head of A's and C's networks pools over 4x4 pixels instead of the whole map.

    At a resolution of 25 to 32 pixels the last maps are 4x4, so the result is the same. From 33 to 56 pixels, all but
    the top-left 4x4 pixels of the map are silently ignored. At higher resolutions the pooling leaves several values per
    channel and the linear layer raises. At lower resolutions the pooling raises.
    """

    def pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 4).flatten(1)  # (N, C, 4, 4) -> (N, C)


class SqueezingResNet(ResNet):
    """A's linked SKNet removes every axis of length 1 after the pooling, including the batch axis at batch size 1.

    The logits of one image are (num_classes,), not (1, num_classes).
    """

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).squeeze()  # (N, C), or (C,) when N is 1


class SoftmaxResNet(ResNet):
    """D's networks end in a softmax: they output probabilities where the cross-entropy loss expects logits.

    The loss then applies softmax twice. Its minimum for K classes is log(1 + (K - 1) / e) instead of 0 (1.46 for ten
    classes), and its gradient is small wherever the network is confident, whether right or wrong.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class FixedPoolingGate(nn.Module):
    """D's SE gate: average pooling over a fixed map size, FCs for a fixed number of channels.

    channels: inputs of the FCs. map_size: height and width of the pooling window; None: the whole map.
    """

    def __init__(self, channels: int, map_size: int | None, reduction: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1) if map_size is None else nn.AvgPool2d(map_size, stride=1)
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        z = self.pool(x).flatten(1)  # (N, C, map_size, map_size) -> (N, C)
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(z))))
        return x * gate[:, :, None, None]  # (N, C) -> (N, C, 1, 1)


class SEBlock(nn.Module):
    """B's gate: x * sigmoid(w) + b, with (w, b) the two halves of 2C outputs; (N, C, H, W) -> the same.

    The note's code computes the pooled tensor and then overwrites it, so w and b are (N, C, H, W): a gate and a
    shift per pixel, computed from that pixel alone. There is no squeeze, and the two FCs run H * W times.
    `squeeze="avg"` is the intended form: w and b are (N, C, 1, 1).
    """

    def __init__(self, channels: int, reduction: int, squeeze: str):
        super().__init__()
        self.squeeze = squeeze
        self.fc = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, 2 * channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean((2, 3), keepdim=True) if self.squeeze == "avg" else x
        w, b = self.fc(z).chunk(2, dim=1)  # (N, 2C, h, w) -> two of (N, C, h, w)
        return x * torch.sigmoid(w) + b


class ResBlock(nn.Module):
    """B's residual block: relu(x + gate(conv-BN(conv-BN-ReLU(x)))), with `channels` throughout and stride 1."""

    def __init__(self, channels: int, reduction: int, squeeze: str):
        super().__init__()
        self.conv_lower = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.conv_upper = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.se_block = SEBlock(channels, reduction, squeeze)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.se_block(self.conv_upper(self.conv_lower(x))))


class Network(nn.Module):
    """B's network: a 3x3 convolution, blocks - 1 residual blocks, a 1x1 convolution to 128 channels, pooling, linear.

    There is no down-sampling: every 3x3 convolution runs at full resolution. With log_softmax the outputs are
    log-probabilities. Their cross-entropy equals that of the logits, since log-softmax is idempotent, so the loss is
    unaffected. Class and attribute names are the note's, to reproduce its printed summary.
    """

    def __init__(self, filters: int, blocks: int, num_classes: int, reduction: int, squeeze: str, log_softmax: bool):
        super().__init__()
        self.log_softmax = log_softmax
        self.conv_block = nn.Sequential(
            nn.Conv2d(3, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()
        )
        self.res_blocks = nn.Sequential(*[ResBlock(filters, reduction, squeeze) for _ in range(blocks - 1)])
        self.out_conv = nn.Sequential(nn.Conv2d(filters, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU())
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.out_conv(self.res_blocks(self.conv_block(x)))
        x = self.fc(x.mean((2, 3)))  # (N, 128, H, W) -> (N, 128) -> (N, num_classes)
        return x.log_softmax(1) if self.log_softmax else x


def source_a_resnet50(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """A's ResNet50 (kuangliu/pytorch-cifar): `resnet50` with a head that pools over 4x4 pixels. 23,520,842 parameters.

    It is correct for 32x32 images. pooling="global" supports any resolution.
    """
    network = FixedPoolingResNet if knobs["pooling"] == "fixed" else ResNet
    return build(arch, family, knobs, num_classes, network)


def source_a_senet50(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """A's SENet50: `se_resnet50` without the ReLU after the 3x3 convolution, which A's ResNet50 has.

    In each of the 16 blocks, 3x3-BN-1x1-BN is therefore one affine map, in evaluation mode: a block has one inner ReLU
    instead of two. The counts do not reveal this: 26,051,834 parameters and 1300 M multiply-adds either way.
    inner_relu=True restores it.
    """

    def spatial(c_in: int, c_out: int, stride: int) -> nn.Module:
        return conv_bn(c_in, c_out, 3, stride, relu=knobs["inner_relu"])

    network = FixedPoolingResNet if knobs["pooling"] == "fixed" else ResNet
    return build(arch, family, knobs, num_classes, network, spatial=spatial)


def source_a_sknet50(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """A's SKNet50, linked from developer0hye/SKNet-PyTorch: `sknet50` with the stem for 224x224 images and biased FCs.

    On 32x32 images this stem leaves 8x8 pixels for the first stage and 1x1 for the last, where both SK branches see
    only padding except at the kernel centre. It has 92 M multiply-adds; the ResNet50 it is compared with has 1298 M (14
    times as many), and stem="cifar" gives 1420 M. squeeze_batch: see SqueezingResNet.

    `source_a_sknet50_2021_01` is the version at the time of the note: stage 1 outputs 128 channels instead of 256
    (25,276,938 parameters instead of 25,466,378). stage1_out=256 corrects it.
    """
    network = SqueezingResNet if knobs["squeeze_batch"] else ResNet
    return build(arch, family, knobs, num_classes, network)


def source_b_network(arch: None, family: None, knobs: dict, num_classes: int) -> Network:
    """B's Network(3, 128, 10, 10): a residual network without a squeeze. 2,708,106 parameters, 2767 M multiply-adds.

    squeeze="avg" adds the intended squeeze: the same parameters, but 2738 M multiply-adds, since the FCs then run once
    per image. log_softmax=False outputs logits. The note also evaluates in training mode, which is a recipe option.
    """
    return Network(
        knobs["filters"], knobs["blocks"], num_classes, knobs["reduction"], knobs["squeeze"], knobs["log_softmax"]
    )


def source_c_senet18(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """C's SENet: `se_resnet18` with a head that pools over 4x4 pixels. 11,263,042 parameters.

    See FixedPoolingResNet; pooling="global" supports any resolution.
    """
    network = FixedPoolingResNet if knobs["pooling"] == "fixed" else ResNet
    return build(arch, family, knobs, num_classes, network)


def source_d_senet(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """D's SENet18 to SENet152: an SE-ResNet for 224x224 images that ends in a softmax.

    pooling="fixed": the gates pool over 56x56, 28x28, 14x14 and 7x7 pixels, so any other resolution raises. On 32x32
    images the first map is 8x8, smaller than the pooling window. "global" supports any resolution.
    se_channels="width" (50, 101, 152): the gate's FCs are built for the C channels of the 3x3 convolution but receive
    4C, so these three raise at any resolution. "out" builds them for 4C.
    softmax=True: see SoftmaxResNet; False outputs logits. With all three corrected it equals se_resnet* with this stem.
    """
    fc_inputs = arch.outs if knobs.get("se_channels") == "out" else arch.widths

    def gate(channels: int) -> nn.Module:
        stage = arch.outs.index(channels)
        map_size = 56 // 2**stage if knobs["pooling"] == "fixed" else None
        return FixedPoolingGate(fc_inputs[stage], map_size, knobs["reduction"])

    network = SoftmaxResNet if knobs["softmax"] else ResNet
    return build(arch, family, knobs, num_classes, network, gate=gate)


BUILDERS = {
    "source_a_resnet50": source_a_resnet50,
    "source_a_senet50": source_a_senet50,
    "source_a_sknet50": source_a_sknet50,
    "source_a_sknet50_2021_01": source_a_sknet50,
    "source_b_network": source_b_network,
    "source_c_senet18": source_c_senet18,
    **{f"source_d_senet{depth}": source_d_senet for depth in (18, 34, 50, 101, 152)},
}
