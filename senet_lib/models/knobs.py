"""The options of a network: defaults and validation. Imports no torch.

An option (`Knob`) is a keyword of `create_model` with a scalar value, so it is written the same way in Python, in a
study's YAML file and in a notebook's parameters.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from senet_lib.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Knob:
    """One option: its default, the allowed values in words (for error messages), and the check of a value."""

    default: Any
    allowed: str
    accepts: Callable[[Any], bool]


def choice(default: str, *others: str) -> Knob:
    options = (default, *others)
    return Knob(default, f"one of {', '.join(options)}", lambda value: isinstance(value, str) and value in options)


def integer(default: int | None, minimum: int = 1) -> Knob:
    """An integer of at least `minimum`. Rejects True and False, which are integers in Python."""
    return Knob(default, f"an integer from {minimum} up", lambda value: type(value) is int and value >= minimum)


def positive(default: float) -> Knob:
    return Knob(default, "a positive number", lambda value: type(value) in (int, float) and 0 < value < float("inf"))


def switch(default: bool) -> Knob:
    return Knob(default, "true or false", lambda value: type(value) is bool)


KERNEL = re.compile(r"(?P<size>[1-9]\d*)x(?P=size)(?:d(?P<dilation>[1-9]\d*))?(?:g(?P<groups>[1-9]\d*))?")


@dataclass(frozen=True)
class Kernel:
    """The convolution of one SK branch. groups=None: use the option `groups`."""

    size: int
    dilation: int
    groups: int | None


def parse_kernels(text: str) -> tuple[Kernel, ...]:
    """Parse SK kernels: '3x3+3x3d2' is a 3x3 and a 3x3 with dilation 2; '5x5g64' is an undilated 5x5 with 64 groups.

    Raises ValueError when a branch is not SIZExSIZE[dDILATION][gGROUPS] with an odd size.
    """
    matches = [KERNEL.fullmatch(branch) for branch in text.split("+")]
    if any(match is None or int(match["size"]) % 2 == 0 for match in matches):
        raise UserError(
            f"kernels={text!r} is not allowed; allowed: odd square kernels joined by +, each with an optional dilation "
            "(d) and number of groups (g), such as '3x3+3x3d2', '3x3+5x5' or '3x3+5x5g64'"
        )
    return tuple(
        Kernel(int(m["size"]), int(m["dilation"] or 1), int(m["groups"]) if m["groups"] else None) for m in matches
    )


COMMON = {
    "stem": choice("cifar", "imagenet"),
    "width": positive(1.0),  # multiplies every channel count and the number of groups
    "shortcut": choice("projection", "padded"),  # He et al. 2015, Section 3.3: options B and A
    "init": choice("kaiming", "pytorch"),  # of convolutions: He et al. 2015, as in torchvision; or PyTorch's default
}
SE = {
    "reduction": integer(16),
    "placement": choice("standard", "pre", "post", "identity", "after_3x3"),  # Hu et al. 2018, Tables 14 and 15
    "squeeze": choice("avg", "max", "none"),  # Tables 11 and 16; none: one gate per pixel
    "excitation": choice("sigmoid", "tanh", "relu"),  # Table 12
    "se_bias": switch(True),  # the released code has biases; Section 6 of the paper omits them
}
SK = {
    "branches": integer(2),  # M
    "kernels": Knob(None, "text such as '3x3+3x3d2'", lambda value: isinstance(value, str)),
    "groups": integer(None),  # G; None: the arch's groups
    "reduction": integer(16),  # r
    "min_hidden": integer(32),  # L
    "select_bias": switch(False),  # the released code has no bias; the code linked by source A has one
}


def with_defaults(knobs: Mapping[str, Knob], **defaults: Any) -> dict[str, Knob]:
    """The same options with some defaults replaced."""
    return {name: replace(knob, default=defaults.get(name, knob.default)) for name, knob in knobs.items()}


def check_knobs(model: str, knobs: Mapping[str, Knob], given: Mapping[str, Any]) -> dict[str, Any]:
    """Validate the options `given` and return every option of `model` with its value, including defaults.

    Raises ValueError naming the option, the value and the allowed values.
    """
    for name, value in given.items():
        if name not in knobs:
            raise UserError(f"{model} has no option {name!r} (given: {value!r}); {did_you_mean(name, knobs)}")
        if not knobs[name].accepts(value):
            raise UserError(f"{model}: {name}={value!r} is not allowed; allowed: {knobs[name].allowed}")
    values = {name: given.get(name, knob.default) for name, knob in knobs.items()}
    # 2 and 2.0 are one network, so one configuration hash
    return {name: float(value) if isinstance(knobs[name].default, float) else value for name, value in values.items()}


def hidden_units(channels: int, reduction: int) -> int:
    """Hidden units of the SE bottleneck, channels // reduction. Raises ValueError when there are none."""
    if reduction > channels:
        raise UserError(
            f"reduction={reduction} leaves no hidden unit for {channels} channels; allowed: 1 to {channels}"
        )
    return channels // reduction


def check_groups(groups: int, channels: int) -> None:
    """Raise ValueError when `groups` does not divide `channels`."""
    if channels % groups:
        divisors = [str(n) for n in range(1, channels + 1) if channels % n == 0]
        raise UserError(f"groups={groups} does not divide the width {channels}; allowed: {', '.join(divisors)}")
