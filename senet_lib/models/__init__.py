"""The study's networks, created by name: `create_model("se_resnet20", reduction=8)`, `list_models("sk*")`.

arch.py          the two tables: families and archs
registry.py      model names (family x arch), `create_model`, `family_name`
knobs.py         the options of each network, their defaults and validation
blocks.py        building blocks: SqueezeExcitation, SelectiveKernelConv, the residual blocks
fused.py         the fused forward and backward pass that SE and SK share
resnet.py        the residual network that all families share
reimplementations.py  the networks of the four source notes, with their defects
attach.py        inserts SE blocks into third-party networks
inspection.py    the source of a block, the intermediate shapes and the parts of a network, for the notebooks
description.py   the steps and paths of a network, which a diagram shows
weights.py       published trained weights, loaded by name
published.py     published and counted parameters and multiply-adds
"""

from senet_lib.models.arch import Arch, Family
from senet_lib.models.registry import create_model, family_name, list_models, resolve_knobs

__all__ = ["Arch", "Family", "create_model", "family_name", "list_models", "resolve_knobs"]
