"""The networks of the four source notes, as their code has them: every defect is a knob, on by default.

A. "SENet and its twin SKNet", a study note with a comparison on CIFAR-10, January 2021: `source_a_*`.
   Its ResNet18 to 152 are kuangliu/pytorch-cifar's, which are `resnet18` to `resnet152` with init="pytorch".
B. "SENet study notes and simulation", after JYPark09/SENet-PyTorch: `source_b_network`.
C. The notebook SENet_CIFAR10.ipynb of 2020: `source_c_senet18`.
D. "SENet", an SE-ResNet for ImageNet after miraclewkf/SENet-PyTorch, 2022: `source_d_senet*`.

A corrected twin is the same name with one knob changed, so that a study can set the two side by side, one defect at a
time: create_model("source_a_senet50", inner_relu=True).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.models.arch import Arch, Family
from senet_lib.models.blocks import conv_bn
from senet_lib.models.resnet import ResNet, build


class FixedPoolingResNet(ResNet):
    """The head of A's and C's networks pools over 4x4 pixels, not over the map.

    Images of 25 to 32 pixels a side end on 4x4 maps, and nothing differs. From 33 to 56 pixels only the top left 4x4
    pixels of the map are seen, in silence; larger images leave more than one value a channel, and the linear layer
    raises; smaller ones are refused by the pooling.
    """

    def pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 4).flatten(1)  # (N, C, 4, 4) -> (N, C)


class SqueezingResNet(ResNet):
    """A's linked SKNet drops every axis of length 1 after the pooling: at batch size 1 the batch axis too.

    Logits of one image are (num_classes,), not (1, num_classes).
    """

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).squeeze()  # (N, C), or (C,) when N is 1


class SoftmaxResNet(ResNet):
    """D's networks end in a softmax: they give probabilities where the cross-entropy loss expects logits.

    The loss then takes the softmax of a softmax. Its smallest value for K classes is not 0 but log(1 + (K - 1) / e),
    1.46 for ten classes, and its gradient is small wherever the network is sure, right or wrong.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class FixedPoolingGate(nn.Module):
    """D's SE gate: it pools over a map of one given size, and its FCs have a given number of inputs.

    channels: what the FCs are made for. map_size: the height and width that are averaged; None: the map's own.
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

    As found, the pooled tensor is computed and then overwritten, so that w and b are (N, C, H, W): a gate and a shift
    for every pixel, from that pixel alone. There is no squeeze, and the two FCs run H * W times. `squeeze="avg"` is
    what was meant: w and b are (N, C, 1, 1).
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
        w, b = self.fc(z).chunk(2, dim=1)  # (N, 2C, h, w) -> twice (N, C, h, w)
        return x * torch.sigmoid(w) + b


class ResBlock(nn.Module):
    """B's residual block: relu(x + gate(conv-BN(conv-BN-ReLU(x)))), all of `channels`, no stride."""

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

    No down-sampling: every 3x3 convolution sees the full map. With log_softmax the output is log-probabilities, whose
    cross-entropy is that of the logits (a log-softmax of log-probabilities changes nothing): wrong in form only.
    The class and attribute names are the note's, since its printed summary is an artefact to match.
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

    Nothing is wrong with it on 32x32 images. pooling="global" makes it fit any size.
    """
    network = FixedPoolingResNet if knobs["pooling"] == "fixed" else ResNet
    return build(arch, family, knobs, num_classes, network)


def source_a_senet50(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """A's SENet50: `se_resnet50` without the ReLU after the 3x3 convolution, which its ResNet50 has.

    So in every one of the 16 blocks 3x3-BN-1x1-BN is one linear map: a block has one ReLU inside instead of two. No
    parameter and no multiply-add tells: 26,051,834 and 1300 M either way. inner_relu=True puts it back.
    """

    def spatial(c_in: int, c_out: int, stride: int) -> nn.Module:
        return conv_bn(c_in, c_out, 3, stride, relu=knobs["inner_relu"])

    network = FixedPoolingResNet if knobs["pooling"] == "fixed" else ResNet
    return build(arch, family, knobs, num_classes, network, spatial=spatial)


def source_a_sknet50(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """A's SKNet50, linked from developer0hye/SKNet-PyTorch: `sknet50` with the stem for 224x224 images and biased FCs.

    On 32x32 images the stem leaves 8x8 pixels to the first stage and 1x1 to the last, where both SK branches read
    padding but for their kernels' centres: 92 M multiply-adds against 1298 M in the ResNet50 it is compared with (14
    times fewer) and 1420 M with stem="cifar". squeeze_batch: see SqueezingResNet.

    `source_a_sknet50_2021_01` is the file as it was when the note was written: stage 1 leaves 128 channels instead of
    256, 25,276,938 parameters against 25,466,378; stage1_out=256 repairs it.
    """
    network = SqueezingResNet if knobs["squeeze_batch"] else ResNet
    return build(arch, family, knobs, num_classes, network)


def source_b_network(arch: None, family: None, knobs: dict, num_classes: int) -> Network:
    """B's Network(3, 128, 10, 10): a residual network without a squeeze. 2,708,106 parameters, 2767 M multiply-adds.

    squeeze="avg" is the twin with the squeeze that was meant: the same parameters, and 2738 M multiply-adds, since the
    FCs then run once an image. log_softmax=False gives logits. The note also evaluates in training mode; that is a
    matter of the evaluation, not of the network.
    """
    return Network(
        knobs["filters"], knobs["blocks"], num_classes, knobs["reduction"], knobs["squeeze"], knobs["log_softmax"]
    )


def source_c_senet18(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """C's SENet: `se_resnet18` with a head that pools over 4x4 pixels. 11,263,042 parameters.

    See FixedPoolingResNet; pooling="global" makes it fit any size.
    """
    network = FixedPoolingResNet if knobs["pooling"] == "fixed" else ResNet
    return build(arch, family, knobs, num_classes, network)


def source_d_senet(arch: Arch, family: Family, knobs: dict, num_classes: int) -> ResNet:
    """D's SENet18 to SENet152: an SE-ResNet for 224x224 images that ends in a softmax.

    pooling="fixed": the gates average over 56, 28, 14 and 7 pixels a side, so that any other size raises; on 32x32 the
    first map is 8x8, smaller than what is to be averaged. "global" fits any size.
    se_channels="width" (50, 101, 152): the gate's FCs are made for the C channels of the 3x3 convolution, but the
    tensor that they get has 4C, so these three raise at any size. "out" makes them for 4C.
    softmax=True: see SoftmaxResNet; False gives logits. With all three corrected it is se_resnet* with the same stem.
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
