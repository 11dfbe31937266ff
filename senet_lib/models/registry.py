"""What networks exist: families x archs, and the source notes' own. Imports torch only when a network is built.

A family says what acts inside a residual block, and where: SE is a gate on the residual branch, SK replaces the spatial
convolution. An arch says how deep and wide the network is. A name is the family's prefix and the arch: `se_resnet50`.
"""

import fnmatch
from dataclasses import dataclass, replace

from senet_lib.models.knobs import (
    COMMON,
    SE,
    SK,
    Knob,
    check_groups,
    check_knobs,
    choice,
    hidden_units,
    parse_kernels,
    switch,
    unknown,
    whole,
    with_defaults,
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

    Chosen on 5,000 training images held out. Accuracy there without and with test-time augmentation, of one probe each
    that was not kept, so that differences under half a point say little; seconds on one thread.
    Six epochs of full-size images: this one 91.4 and 92.4 % in 992 s; a 3x3 stem with padding and 48, 160 and 256
    channels, as many multiply-adds, 91.2 and 91.9 % in 884 s, with GELU 91.0 and 92.2 % in 913 s, with batch norm's
    scales fixed at 1 90.8 and 91.9 % in 927 s.
    Images growing from 16 pixels: this one, 13 epochs, 92.6 and 93.4 % in 1,472 s; 64, 224 and 384 channels, 9 epochs,
    92.2 and 93.0 % in 1,285 s; the 3x3 stem and 48, 160 and 256 channels, 15 epochs, 92.2 and 93.1 % in 1,598 s.
    airbench's own network, not residual, 118 M multiply-adds, by the same loop, 8 epochs of full size: 92.7 and 93.5 %
    in 1,521 s.
    fast_tuning's base recipe, 16 epochs; none takes less than 0.9 of this one's time on two cores, at full size: this
    one 92.9 and 93.8 %; a block in every stage of 64, 128 and 256 channels 92.8 and 93.8 %; two blocks in the middle
    one, 56, 160 and 288 channels, 92.6 and 93.4 %; two in the last, 56, 160 and 320, 92.0 and 93.6 %; three there, 56,
    160 and 256, 92.1 and 93.1 %; two in both, 56, 144 and 288, 92.1 and 93.4 %. This one with the plain convolutions'
    first filters the identity 92.8 and 93.7 %, with batch norm's last scale of a block at zero 92.0 and 93.4 %, with
    the largest value in place of the mean over the pixels 92.4 and 93.4 %.
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
# The SK paper's own networks are SK on the ResNeXt bodies, under the paper's names (its Table 1).
PAPER_NAMES = {
    "sk_resnext26_32x4d": "sknet26",
    "sk_resnext50_32x4d": "sknet50",
    "sk_resnext101_32x4d": "sknet101",
}


@dataclass(frozen=True)
class Network:
    """What a name stands for. Source B's network alone has no family and no arch."""

    family: Family | None
    arch: Arch | None
    knobs: dict[str, Knob]


def from_note(prefix: str, base: str, more: dict[str, Knob], **defaults) -> Network:
    """A family and an arch with what a source note does differently: other defaults, and more knobs."""
    family = FAMILIES[prefix]
    return Network(family, ARCHS[base], with_defaults(family.knobs, **defaults) | more)


# The networks of the source notes as their code has them (source_notes.py says what is wrong with each). Every defect
# is a knob, and its default is the network as found.
FIXED_POOLING = {"pooling": choice("fixed", "global")}
LINKED_SKNET = {"stage1_out": whole(256), "squeeze_batch": switch(True)}
SOURCE_NOTES = {
    "source_a_resnet50": from_note("", "resnet50", FIXED_POOLING, init="pytorch"),
    "source_a_senet50": from_note("se_", "resnet50", FIXED_POOLING | {"inner_relu": switch(False)}, init="pytorch"),
    "source_a_sknet50": from_note(
        "sk_", "resnext50_32x4d", LINKED_SKNET, init="pytorch", stem="imagenet", select_bias=True
    ),
    "source_a_sknet50_2021_01": from_note(
        "sk_",
        "resnext50_32x4d",
        with_defaults(LINKED_SKNET, stage1_out=128),
        init="pytorch",
        stem="imagenet",
        select_bias=True,
    ),
    "source_b_network": Network(
        None,
        None,
        {
            "filters": whole(128),
            "blocks": whole(10, minimum=2),
            "reduction": whole(16),
            "squeeze": choice("none", "avg"),
            "log_softmax": switch(True),
            "init": choice("pytorch", "kaiming"),
        },
    ),
    "source_c_senet18": from_note("se_", "resnet18", FIXED_POOLING, init="pytorch"),
}
SOURCE_NOTES |= {
    f"source_d_senet{depth}": Network(
        FAMILIES["se_"],
        ARCHS[f"resnet{depth}"],
        with_defaults(COMMON, stem="imagenet")
        | {"reduction": SE["reduction"], "softmax": switch(True)}
        | FIXED_POOLING
        | ({"se_channels": choice("width", "out")} if depth >= 50 else {}),
    )
    for depth in (18, 34, 50, 101, 152)
}

NETWORKS = {
    PAPER_NAMES.get(prefix + base, prefix + base): Network(family, arch, family.knobs)
    for prefix, family in FAMILIES.items()
    for base, arch in ARCHS.items()
} | SOURCE_NOTES


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the networks that match a shell pattern: list_models("se_*")."""
    return sorted(fnmatch.filter(NETWORKS, pattern))


def resolve_knobs(name: str, **given) -> dict:
    """Every knob of the network and its value, defaults written out; plain numbers and text.

    Checks all that can be checked without building the network. Raises ValueError naming the knob, the value and what
    is allowed, or the nearest known names. `create_model(name, **resolve_knobs(name))` is `create_model(name)`.
    """
    if name not in NETWORKS:
        raise unknown("model", name, list_models())
    network = NETWORKS[name]
    knobs = check_knobs(name, network.knobs, given)
    arch = resolve_arch(name, knobs)
    if arch is None:
        hidden_units(knobs["filters"], knobs["reduction"])
        return knobs
    if network.family.spatial == "sk":
        knobs |= resolve_branches(name, knobs, branches_given="branches" in given)
        knobs["groups"] = knobs["groups"] or arch.groups
        for kernel in parse_kernels(knobs["kernels"]):
            for channels in spatial_channels(arch):
                check_groups(kernel.groups or knobs["groups"], channels)
    if network.family.gate == "se":
        placement = knobs.get("placement", "standard")
        if placement == "after_3x3" and arch.body == "basic":
            raise ValueError(
                f"{name}: placement='after_3x3' needs a bottleneck, with one 3x3 convolution a block; "
                "allowed here: standard, pre, post, identity"
            )
        channels = arch.widths if knobs.get("se_channels") == "width" else gated_channels(arch, placement)
        hidden_units(min(channels), knobs["reduction"])
    return knobs


def resolve_arch(name: str, knobs: dict) -> Arch | None:
    """The network's arch at these knobs; None for source B's network."""
    arch = NETWORKS[name].arch
    if arch is None:
        return None
    if "stage1_out" in knobs:
        arch = replace(arch, outs=(knobs["stage1_out"], *arch.outs[1:]))
    return arch.scaled(knobs["width"])


def resolve_branches(name: str, knobs: dict, branches_given: bool) -> dict:
    """`branches` and `kernels` made to agree: M branches are 3x3 with dilations 1 to M unless `kernels` is given."""
    if knobs["kernels"] is None:
        dilations = range(1, knobs["branches"] + 1)
        return {"kernels": "+".join("3x3" if d == 1 else f"3x3d{d}" for d in dilations)}
    branches = len(parse_kernels(knobs["kernels"]))
    if branches_given and branches != knobs["branches"]:
        raise ValueError(
            f"{name}: branches={knobs['branches']} but kernels={knobs['kernels']!r} has {branches}; "
            "allowed: as many kernels as branches, or one of the two knobs alone"
        )
    return {"branches": branches}


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


def create_model(name: str, *, num_classes: int = 10, **knobs):
    """The network `name`: an nn.Module, (N, 3, H, W) -> logits (N, num_classes).

    Knobs that every family has: stem ("cifar" or "imagenet"), width (1.0), shortcut, init; `resolve_knobs(name)` lists
    all of a network's. The weights come from torch's global generator: seed it before. Raises ValueError on an unknown
    name or knob, with the nearest known ones, and on a value that the network cannot have.
    """
    if type(num_classes) is not int or num_classes < 1:
        raise ValueError(f"num_classes={num_classes!r} is not allowed; allowed: an integer from 1 up")
    knobs = resolve_knobs(name, **knobs)
    from senet_lib.models import resnet, source_notes  # here, so that a study can be checked without torch

    family, arch = NETWORKS[name].family, resolve_arch(name, knobs)
    build = source_notes.BUILDERS.get(name, resnet.build)
    model = build(arch, family, knobs, num_classes)
    resnet.initialise(model, knobs["init"])
    return model
