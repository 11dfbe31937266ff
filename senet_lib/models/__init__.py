"""The networks of the study, by name: `create_model("se_resnet20", reduction=8)`, `list_models("sk*")`.

registry.py      what exists: the families, the archs, and the names they make together
knobs.py         what can be set on a network, and the check of what was set
blocks.py        the parts: conv_bn_relu, SqueezeExcitation, SelectiveKernelConv, the residual blocks
resnet.py        the one network that all of them are
source_notes.py  the networks of the four source notes, with their defects
attach.py        SE blocks put into somebody else's network
meta.py          shapes without arithmetic
published.py     published parameters and multiply-adds beside the counted ones
"""

from senet_lib.models.registry import Arch, Family, create_model, list_models, resolve_knobs

__all__ = ["Arch", "Family", "create_model", "list_models", "resolve_knobs"]
