"""The two tables that every network comes from: families, and archs. Imports no torch.

A family says what acts inside a residual block, and where: SE is a gate on the residual branch, SK replaces the spatial
convolution. An arch says how deep and wide the network is.
"""

from dataclasses import dataclass, replace

from senet_lib.models.knobs import (
    COMMON,
    SE,
    SK,
    Knob,
)


@dataclass(frozen=True)
class Family:
    """spatial: 'conv' or 'sk'. gate: None or 'se'."""

    spatial: str
    gate: str | None

    @property
    def knobs(self) -> dict[str, Knob]:
        knobs = COMMON | (SK if self.spatial == "sk" else {}) | (SE if self.gate == "se" else {})
        if self.spatial == "sk" and self.gate == "se":  # both have a reduction: the plain name is SE's
            knobs |= {"sk_reduction": SK["reduction"]}
        return knobs


@dataclass(frozen=True)
class Arch:
    """How deep and wide a network is. One entry a stage; the second and later stages start with stride 2.

    widths: channels of the block's spatial convolution; outs: channels that leave the block. pooled: every stage, the
    first too, starts with a convolution and a max-pool outside its blocks, no block has a stride, and the stem for
    small images is a 2x2 convolution without padding.
    """

    body: str  # 'basic' (3x3, 3x3) or 'bottleneck' (1x1, 3x3, 1x1)
    depths: tuple[int, ...]  # blocks; 0 where a pooled stage has none
    widths: tuple[int, ...]
    outs: tuple[int, ...]
    groups: int = 1
    stem_width: int = 64
    preactivation: bool = False
    pooled: bool = False

    def scaled(self, width: float) -> "Arch":
        """Every channel count times `width`, and more groups than one too; grouped channels rounded to whole groups."""
        if width == 1:
            return self
        groups = max(1, round(self.groups * width)) if self.groups > 1 else 1  # a dense network stays dense
        return replace(
            self,
            widths=tuple(groups * max(1, round(c * width / groups)) for c in self.widths),
            outs=tuple(max(1, round(c * width)) for c in self.outs),
            groups=groups,
            stem_width=max(1, round(self.stem_width * width)),
        )


def thin(depth: int, body: str = "basic", preactivation: bool = False, widen: int = 1) -> Arch:
    """Three stages of 16, 32, 64 channels, depth = 6n + 2 (basic) or 9n + 2 (bottleneck).

    He et al. 2015, Section 4.2. `widen`: Zagoruyko & Komodakis, arXiv:1605.07146, whose depth counts 6n + 4, since
    it takes the projections of the three stages for layers; the stem stays at 16.
    """
    blocks = (depth - 2) // (6 if body == "basic" else 9)
    widths = (16 * widen, 32 * widen, 64 * widen)
    outs = widths if body == "basic" else tuple(4 * c for c in widths)
    return Arch(body, (blocks,) * 3, widths, outs, stem_width=16, preactivation=preactivation)


def resnext29(groups: int, group_width: int) -> Arch:
    """Three stages of three blocks; Xie et al., arXiv:1611.05431, Section 5.3: 8x64d is 8 groups of 64 channels.

    Li et al. 2019, Table 5, compares three of them with 100 classes; two counts cannot be met by their description.
    SKNet-29, stated with 27.7 M parameters, is SK on 16x32d: `sk_resnext29_16x32d` has 37.6 M, since its two branches
    of 16 groups cost twice the one that they replace. With 32 groups a branch, groups=32, it has 28.3 M.
    SENet-29, stated with 35.0 M, is SE on 8x64d (35.0 M), not on the 16x32d that is named (25.8 M).
    """
    width = groups * group_width
    return Arch("bottleneck", (3, 3, 3), (width, 2 * width, 4 * width), (256, 512, 1024), groups)


def fast() -> Arch:
    """Made for accuracy per second: three stages of 56, 176 and 320 channels, a residual block in the last two.

    The stages start as in D. Page's ResNet-9 ("How to Train Your ResNet", 2018) and K. Jordan's airbench
    (arXiv:2404.00498): a plain 3x3 convolution, a 2x2 max-pool, batch norm, ReLU. What a block adds comes after it. The
    stem is airbench's, 2x2 without padding, which leaves maps of 31, 15, 7 and 3 pixels and costs a quarter less than
    32, 16, 8 and 4; its 24 filters are all 12 directions of such a patch and their negatives.

    results/tuning.md lists the other shapes and initialisations that were tried.
    """
    widths = (56, 176, 320)
    return Arch("basic", (0, 1, 1), widths, widths, stem_width=24, pooled=True)


WIDE = (64, 128, 256, 512)  # He et al. 2015, Table 1

GROUPED = (128, 256, 512, 1024)  # Xie et al. 2017, Table 1: 32 groups of 4 channels

OUTS = (256, 512, 1024, 2048)

ARCHS = {
    "resnet20": thin(20),
    "resnet32": thin(32),
    "resnet44": thin(44),
    "resnet56": thin(56),
    "resnet110": thin(110),
    "resnet164": thin(164, "bottleneck"),
    "preresnet110": thin(110, preactivation=True),
    "preresnet164": thin(164, "bottleneck", preactivation=True),
    "wrn16_8": thin(16, preactivation=True, widen=8),
    "wrn28_10": thin(28, preactivation=True, widen=10),
    "resnet18": Arch("basic", (2, 2, 2, 2), WIDE, WIDE),
    "resnet34": Arch("basic", (3, 4, 6, 3), WIDE, WIDE),
    "resnet50": Arch("bottleneck", (3, 4, 6, 3), WIDE, OUTS),
    "resnet101": Arch("bottleneck", (3, 4, 23, 3), WIDE, OUTS),
    "resnet152": Arch("bottleneck", (3, 8, 36, 3), WIDE, OUTS),
    "resnext29_8x64d": resnext29(8, 64),
    "resnext29_16x32d": resnext29(16, 32),
    "resnext29_16x64d": resnext29(16, 64),
    "resnext26_32x4d": Arch("bottleneck", (2, 2, 2, 2), GROUPED, OUTS, groups=32),
    "resnext50_32x4d": Arch("bottleneck", (3, 4, 6, 3), GROUPED, OUTS, groups=32),
    "resnext101_32x4d": Arch("bottleneck", (3, 4, 23, 3), GROUPED, OUTS, groups=32),
    "fast": fast(),
}

FAMILIES = {
    "": Family("conv", None),
    "se_": Family("conv", "se"),
    "sk_": Family("sk", None),
    "sk_se_": Family("sk", "se"),
}


def gated_channels(arch: Arch, placement: str) -> tuple[int, ...]:
    """Channel counts that an SE gate sees at this place."""
    arch = stages_with_blocks(arch)
    entering = arch.outs if arch.pooled else (arch.stem_width, *arch.outs)
    return {"after_3x3": arch.widths, "pre": entering}.get(placement, arch.outs)


def spatial_channels(arch: Arch) -> tuple[int, ...]:
    """Channel counts that enter or leave the spatial convolutions of blocks."""
    arch = stages_with_blocks(arch)
    return arch.widths if arch.body == "bottleneck" or arch.pooled else (arch.stem_width, *arch.widths)


def stages_with_blocks(arch: Arch) -> Arch:
    """The arch less its stages of depth 0, whose channels no block sees."""
    stages = [stage for stage in zip(arch.depths, arch.widths, arch.outs, strict=True) if stage[0]]
    depths, widths, outs = zip(*stages, strict=True)
    return replace(arch, depths=depths, widths=widths, outs=outs)
