"""The model registry: families x archs, and the source notes' networks. Imports torch only when a network is built.

A model name is the family prefix followed by the arch, as in `se_resnet50`. `arch.py` has the two tables.
"""

import fnmatch
from dataclasses import dataclass, replace

from senet_lib.errors import UserError, did_you_mean
from senet_lib.models.arch import ARCHS, FAMILIES, Arch, Family, gated_channels, spatial_channels
from senet_lib.models.knobs import (
    COMMON,
    SE,
    Knob,
    check_groups,
    check_knobs,
    choice,
    hidden_units,
    integer,
    parse_kernels,
    switch,
    with_defaults,
)
from senet_lib.models.weights import trained_run

# The SK paper's networks are SK on ResNeXt, under the names of the paper's Table 1.
PAPER_NAMES = {
    "sk_resnext26_32x4d": "sknet26",
    "sk_resnext50_32x4d": "sknet50",
    "sk_resnext101_32x4d": "sknet101",
}


@dataclass(frozen=True)
class Network:
    """The registry entry of a model name. Only source B's network has no family and no arch."""

    family: Family | None
    arch: Arch | None
    knobs: dict[str, Knob]


def from_note(prefix: str, base: str, more: dict[str, Knob], **defaults) -> Network:
    """A family and an arch, with the different defaults and additional options of a source note."""
    family = FAMILIES[prefix]
    return Network(family, ARCHS[base], with_defaults(family.knobs, **defaults) | more)


# The networks of the source notes as published. reimplementations.py describes their defects. Every defect is an option
# that is on by default.
FIXED_POOLING = {"pooling": choice("fixed", "global")}
LINKED_SKNET = {"stage1_out": integer(256), "squeeze_batch": switch(True)}
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
            "filters": integer(128),
            "blocks": integer(10, minimum=2),
            "reduction": integer(16),
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


def family_name(model: str) -> str:
    """The family of a registered model: 'resnet', 'se', 'sk' or 'sk+se'; 'other' without a family or if unknown."""
    family = NETWORKS[model].family if model in NETWORKS else None
    return family.name if family else "other"


def resolve_knobs(name: str, /, **given) -> dict:
    """Every option of the network with its value, including defaults, as plain numbers and text.

    Performs every check that does not require building the network. Raises ValueError naming the option, the value and
    the allowed values, or the nearest known names. `create_model(name, **resolve_knobs(name))` equals
    `create_model(name)`.
    """
    if name not in NETWORKS:
        raise UserError(f"unknown model {name!r}; {did_you_mean(name, list_models())}")
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
            raise UserError(
                f"{name}: placement='after_3x3' needs bottleneck blocks, which have one 3x3 convolution; "
                "allowed here: standard, pre, post, identity"
            )
        channels = arch.widths if knobs.get("se_channels") == "width" else gated_channels(arch, placement)
        hidden_units(min(channels), knobs["reduction"])
    return knobs


def resolve_arch(name: str, knobs: dict) -> Arch | None:
    """The network's arch with these options applied; None for source B's network."""
    arch = NETWORKS[name].arch
    if arch is None:
        return None
    if "stage1_out" in knobs:
        arch = replace(arch, outs=(knobs["stage1_out"], *arch.outs[1:]))
    return arch.scaled(knobs["width"])


def resolve_branches(name: str, knobs: dict, branches_given: bool) -> dict:
    """The options `branches` and `kernels`, made consistent; default: M branches, 3x3 with dilations 1 to M."""
    if knobs["kernels"] is None:
        dilations = range(1, knobs["branches"] + 1)
        return {"kernels": "+".join("3x3" if d == 1 else f"3x3d{d}" for d in dilations)}
    branches = len(parse_kernels(knobs["kernels"]))
    if branches_given and branches != knobs["branches"]:
        raise UserError(
            f"{name}: branches={knobs['branches']} but kernels={knobs['kernels']!r} has {branches}; "
            "give as many kernels as branches, or only one of the two options"
        )
    return {"branches": branches}


def create_model(name: str, /, *, num_classes: int | None = None, weights: str | None = None, **knobs):
    """Create the network `name`: an nn.Module in training mode, (N, 3, H, W) -> logits (N, num_classes).

    Every family has the options stem ("cifar" or "imagenet"), width (1.0), shortcut and init; `resolve_knobs(name)`
    lists all options of a network. num_classes is 10 by default.

    weights: published trained weights, as "STUDY/seedK" ("thin/seed0") or "STUDY/RUN" ("thin/se_resnet20_r4-seed0");
    `senet_lib.models.weights.list_weights()` lists them. num_classes and options are then those of the run. Without
    `weights`, the values come from torch's global generator: seed it first.

    Raises ValueError on an unknown name or option, with the nearest known ones; on an invalid value; and on weights
    that are unknown, damaged (their sha256 is checked), or of a network other than the one asked for.
    """
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise UserError(f"num_classes={num_classes!r} is not allowed; allowed: an integer from 1 up")
    if weights is None:
        return _untrained(name, num_classes or 10, knobs)
    resolve_knobs(name)  # an unknown name is reported before unknown weights
    run = trained_run(name, weights)
    run.check(name, num_classes, knobs)
    state, model = run.state(), _untrained(name, run.num_classes, run.knobs | knobs)
    model.load_state_dict(state)
    return model


def _untrained(name: str, num_classes: int, knobs: dict):
    knobs = resolve_knobs(name, **knobs)
    from senet_lib.models import reimplementations, resnet  # imported here so that studies validate without torch

    family, arch = NETWORKS[name].family, resolve_arch(name, knobs)
    build = reimplementations.BUILDERS.get(name, resnet.build)
    model = build(arch, family, knobs, num_classes)
    resnet.initialise(model, knobs["init"])
    return model
