"""The two tables that define every network: families and archs. Imports no torch.

A family determines what is added to a residual block: SE is a gate on the residual branch, SK replaces the spatial
convolution. An arch determines depth and width.
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
    """The spatial convolution, 'conv' or 'sk', and the gate, None or 'se', of a residual block."""

    spatial: str
    gate: str | None

    @property
    def name(self) -> str:
        """'resnet', 'se', 'sk' or 'sk+se'."""
        return "+".join(part for part in (self.spatial, self.gate) if part in ("sk", "se")) or "resnet"

    @property
    def knobs(self) -> dict[str, Knob]:
        knobs = COMMON | (SK if self.spatial == "sk" else {}) | (SE if self.gate == "se" else {})
        if self.spatial == "sk" and self.gate == "se":  # both have a reduction: `reduction` is SE's
            knobs |= {"sk_reduction": SK["reduction"]}
        return knobs


@dataclass(frozen=True)
class Arch:
    """Depth and width of a network, with one entry per stage. Stages after the first start with stride 2.

    widths: channels of the block's spatial convolution. outs: output channels of the block.
    pooled: every stage, including the first, starts with a convolution and a max-pool before its blocks. All blocks
    have stride 1, and the stem for small images is a 2x2 convolution without padding.
    """

    body: str  # 'basic' (3x3, 3x3) or 'bottleneck' (1x1, 3x3, 1x1)
    depths: tuple[int, ...]  # number of blocks; may be 0 in a pooled stage
    widths: tuple[int, ...]
    outs: tuple[int, ...]
    groups: int = 1
    stem_width: int = 64
    preactivation: bool = False
    pooled: bool = False

    def scaled(self, width: float) -> "Arch":
        """Multiply every channel count, and groups above one, by `width`; `widths` stay multiples of `groups`."""
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

    He et al. 2015, Section 4.2. `widen`: Zagoruyko & Komodakis, arXiv:1605.07146; the stem keeps 16 channels. Their
    depth is 6n + 4 because it counts the projections of the three stages as layers.
    """
    blocks = (depth - 2) // (6 if body == "basic" else 9)
    widths = (16 * widen, 32 * widen, 64 * widen)
    outs = widths if body == "basic" else tuple(4 * c for c in widths)
    return Arch(body, (blocks,) * 3, widths, outs, stem_width=16, preactivation=preactivation)


def resnext29(groups: int, group_width: int) -> Arch:
    """Three stages of three blocks; Xie et al., arXiv:1611.05431, Section 5.3: 8x64d is 8 groups of 64 channels.

    Li et al. 2019, Table 5, compares three networks at 100 classes; two parameter counts contradict their description.
    SKNet-29 (stated: 27.7 M) is described as SK on 16x32d. `sk_resnext29_16x32d` has 37.6 M, because its two branches
    of 16 groups cost twice the convolution that they replace. With groups=32 per branch it has 28.3 M.
    SENet-29 (stated: 35.0 M) is described as SE on 16x32d (25.8 M), but its count is that of SE on 8x64d (35.0 M).
    """
    width = groups * group_width
    return Arch("bottleneck", (3, 3, 3), (width, 2 * width, 4 * width), (256, 512, 1024), groups)


def fast() -> Arch:
    """The arch for fast training: three stages of 56, 176 and 320 channels, a residual block in the last two.

    Each stage starts as in D. Page's ResNet-9 ("How to Train Your ResNet", 2018) and K. Jordan's airbench
    (arXiv:2404.00498): 3x3 convolution, 2x2 max-pool, batch norm, ReLU. The residual block follows. The stem is
    airbench's 2x2 convolution without padding. Its maps of 31, 15, 7 and 3 pixels cost a quarter less than 32, 16, 8
    and 4. Its 24 filters cover all 12 directions of a 2x2 RGB patch and their negatives.

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
    """Channel counts at the inputs of the SE gates for this placement."""
    arch = stages_with_blocks(arch)
    entering = arch.outs if arch.pooled else (arch.stem_width, *arch.outs)
    return {"after_3x3": arch.widths, "pre": entering}.get(placement, arch.outs)


def spatial_channels(arch: Arch) -> tuple[int, ...]:
    """Input and output channel counts of the blocks' spatial convolutions."""
    arch = stages_with_blocks(arch)
    return arch.widths if arch.body == "bottleneck" or arch.pooled else (arch.stem_width, *arch.widths)


def stages_with_blocks(arch: Arch) -> Arch:
    """The arch without its stages of depth 0, which have no blocks."""
    stages = [stage for stage in zip(arch.depths, arch.widths, arch.outs, strict=True) if stage[0]]
    depths, widths, outs = zip(*stages, strict=True)
    return replace(arch, depths=depths, widths=widths, outs=outs)
