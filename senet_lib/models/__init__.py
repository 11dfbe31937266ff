"""The networks of the study, by name: `create_model("se_resnet20", reduction=8)`, `list_models("sk*")`.

arch.py          the two tables: families and archs
registry.py      the names they make together, and `create_model`
knobs.py         what can be set on a network, and the check of what was set
blocks.py        the parts: SqueezeExcitation, SelectiveKernelConv, the residual blocks
fused.py         the backward pass of SE and SK in one function
resnet.py        the one network that all of them are
reimplementations.py  the networks of the four source notes, with their defects
attach.py        SE blocks put into somebody else's network
inspection.py    the source of a block and the shapes on the way through a network, for the notebooks
published.py     published parameters and multiply-adds beside the counted ones
"""

from senet_lib.models.arch import Arch, Family
from senet_lib.models.registry import create_model, list_models, resolve_knobs

__all__ = ["Arch", "Family", "create_model", "list_models", "resolve_knobs"]
