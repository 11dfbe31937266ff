"""For the notebooks: the source code, the intermediate shapes and the parts of a network."""

import inspect
import textwrap
from collections.abc import Iterable
from itertools import groupby

import pandas as pd
import torch
from IPython.display import Code
from torch import nn

from senet_lib.metrics import count_params, run_on_meta
from senet_lib.models.blocks import (
    PaddedShortcut,
    PreactivationBlock,
    ResidualBlock,
    SelectiveKernelConv,
    SqueezeExcitation,
)
from senet_lib.models.description import Description, Paths, Step


def source(thing: object) -> Code:
    """The source code of a class or function, for display, without its indentation."""
    return Code(textwrap.dedent(inspect.getsource(thing)), language="python")


def last_of_each_stage(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Name of the last submodule of type `kind` in each stage that has one, in stage order."""
    last = {}
    for name, module in model.stages.named_modules():
        if isinstance(module, kind):
            last[name.partition(".")[0]] = f"stages.{name}"
    return list(last.values())


def shapes(model: nn.Module, input_size: tuple[int, ...], modules: Iterable[str]) -> pd.DataFrame:
    """Output shape and parameter count of the named submodules for one image of `input_size` (C, H, W).

    Columns: module, type, output (as '16 x 32 x 32'), params. The pass runs on the meta device, without arithmetic.
    Raises ValueError when the model has no submodule of that name.
    """
    found, rows = dict(model.named_modules()), []
    modules = list(modules)
    for name in modules:
        if name not in found:
            raise ValueError(
                f"no module {name!r}; known: {', '.join(n for n, _ in model.named_children())} and their submodules"
            )

    def record(name: str, module: nn.Module, output: torch.Tensor) -> None:
        size = " x ".join(map(str, output.shape[1:]))  # without the batch axis
        rows.append({"module": name, "type": type(module).__name__, "output": size, "params": count_params(module)})

    hooks = [
        found[name].register_forward_hook(lambda m, _, output, name=name: record(name, m, output)) for name in modules
    ]
    try:
        run_on_meta(model, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return pd.DataFrame(rows)


def describe(
    network: nn.Module,
    block: str | None = None,
    *,
    part: str = "block",
    image_shape: tuple[int, int, int] = (3, 32, 32),
) -> Description:
    """What `senet_lib.analysis.plots.diagram` draws of a network, with the shapes of one image of `image_shape`.

    block: 'STAGE.BLOCK', counted from 0, as in the module's name `stages.1.1`; the title counts from 1, as text does.
    None: the whole network. part: 'block', or its gate 'se' or its convolution 'sk' in detail. The shapes come from a
    pass on the meta device. Raises ValueError when the network has no such block, or the block no such part.
    """
    if part not in ("block", "se", "sk"):
        raise ValueError(f"part={part!r} is not allowed; allowed: block, se, sk")
    found = {name.removeprefix("stages."): m for name, m in network.named_modules() if isinstance(m, ResidualBlock)}
    if not found:
        raise ValueError(f"{type(network).__name__} has no residual block that can be described")
    measured = _Measured(network, image_shape)
    if block is None:
        return _whole(network, measured)
    inside = block.removeprefix("stages.")
    if inside not in found:
        raise ValueError(f"no block {block!r}; known: {', '.join(found)}")
    name = block_name(f"stages.{inside}")
    if part == "block":
        return _residual(found[inside], f"residual block {name}", measured)
    kind = {"se": SqueezeExcitation, "sk": SelectiveKernelConv}[part]
    inner = next((module for module in found[inside].modules() if isinstance(module, kind)), None)
    if inner is None:
        raise ValueError(f"block {block!r} has no {part.upper()} part; known parts: block{_parts(found[inside])}")
    return _gate(inner, name, measured) if part == "se" else _selective(inner, name, measured)


def block_name(module: str) -> str:
    """'stages.0.2.gate' -> '1.3', the third block of the first stage; any other module keeps its name."""
    match module.split("."):
        case ["stages", stage, block, *_] if stage.isdigit() and block.isdigit():
            return f"{int(stage) + 1}.{int(block) + 1}"
    return module


class _Measured:
    """Input and output shapes of every module, for one image."""

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
        self.inputs, self.outputs = {}, {}

        def record(module: nn.Module, given: tuple, output: torch.Tensor) -> None:
            self.inputs[module], self.outputs[module] = tuple(given[0].shape[1:]), tuple(output.shape[1:])

        hooks = [module.register_forward_hook(record) for module in network.modules()]
        try:
            run_on_meta(network, image_shape)
        finally:
            for hook in hooks:
                hook.remove()

    def before(self, module: nn.Module) -> str:
        return _text(self.inputs[module])

    def after(self, module: nn.Module) -> str:
        return _text(self.outputs[module])


def _text(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _parts(block: nn.Module) -> str:
    kinds = {"se": SqueezeExcitation, "sk": SelectiveKernelConv}
    return "".join(f", {part}" for part, kind in kinds.items() if any(isinstance(m, kind) for m in block.modules()))


def _family(module: nn.Module) -> str:
    """'se', 'sk' or 'sk+se' if the module has such a part, else 'resnet'."""
    return "+".join(sorted(_parts(module).split(", ")[1:], reverse=True)) or "resnet"


def _whole(network: nn.Module, measured: _Measured) -> Description:
    steps = [_step(network.stem, measured, head="Stem")]
    for number, stage in enumerate(network.stages, 1):
        for residual, group in groupby(stage, key=lambda module: isinstance(module, ResidualBlock)):
            group = list(group)
            head = f"Stage {number}"
            if not residual:
                steps += [_step(module, measured, head=head) for module in group]
                continue
            family = _family(group[0])
            text = f"{len(group)} residual block{'s' * (len(group) > 1)}"
            text += f" with {family.replace('sk+se', 'SK and SE').upper()}" * (family != "resnet")
            steps.append(Step(text.replace("AND", "and"), measured.after(group[-1]), head, family))
    if network.norm is not None:
        steps.append(Step("BN, ReLU"))
    pooled = Step("global average pooling", _text(measured.inputs[network.head]))
    head = Step(_words(network.head), measured.after(network.head), head="Head")
    blocks = sum(isinstance(module, ResidualBlock) for module in network.modules())
    title = f"the whole network: {blocks} residual blocks"
    return Description(title, measured.before(network.stem), (*steps, pooled, head))


def _residual(block: ResidualBlock, title: str, measured: _Measured) -> Description:
    body = [_step(module, measured) for module in block.body]
    gate = [] if isinstance(block.gate, nn.Identity) else [_step(block.gate, measured)]
    skip = [] if isinstance(block.shortcut, nn.Identity) else [_step(block.shortcut, measured, head="Shortcut")]
    last = [] if isinstance(block, PreactivationBlock) else [Step("ReLU")]
    branch, skip, last = {
        "pre": (gate + body, skip, last),
        "post": (body, skip, last + gate),
        "identity": (body, skip + gate, last),
    }.get(block.placement, (body + gate, skip, last))
    first = []
    if isinstance(block, PreactivationBlock):
        activation = [Step("BN, ReLU")]
        if isinstance(block.shortcut, nn.Conv2d):  # only a projection receives the activated input
            first = activation
        else:
            branch = activation + branch
    total = Step("sum (+)", measured.after(block))
    return Description(title, measured.before(block), (*first, Paths((tuple(branch), tuple(skip)), total), *last))


def _gate(gate: SqueezeExcitation, name: str, measured: _Measured) -> Description:
    channels, height, width = measured.inputs[gate]

    def channels_first(module: nn.Module) -> str:  # the FCs act on the last axis
        *pixels, units = measured.outputs[module]
        return _text((units, *pixels))

    squeezed = {"avg": f"mean over {height} x {width} pixels", "max": f"maximum over {height} x {width} pixels"}
    steps = []
    if gate.squeeze in squeezed:
        steps.append(Step(squeezed[gate.squeeze], _text((channels, 1, 1)), "Squeeze", "se"))
    steps += [
        Step(f"{_words(gate.fc1)}, ReLU", channels_first(gate.fc1), "Excite", "se"),
        Step(f"{_words(gate.fc2)}, {gate.excitation}", channels_first(gate.fc2), "", "se"),
    ]
    scale = Step(
        f"input times gate, by channel{' and pixel' * (gate.squeeze == 'none')}", measured.after(gate), "Scale", "se"
    )
    return Description(f"the SE gate of block {name}", measured.before(gate), (Paths((tuple(steps), ()), scale),))


def _selective(unit: SelectiveKernelConv, name: str, measured: _Measured) -> Description:
    title, before, after = f"the SK unit of block {name}", measured.before(unit), measured.after(unit)
    branches = tuple((Step(_words(branch), measured.after(branch), "Split", "sk"),) for branch in unit.branches)
    if len(branches) == 1:
        return Description(title, before, branches[0])
    channels, height, width = measured.outputs[unit]
    count = len(branches)
    weights = Step(f"{_words(unit.select)}, softmax over the {count} branches", f"{count} x {channels}", "", "sk")
    fuse = (
        Step("sum of the branches", after, "Fuse", "sk"),
        Step(f"mean over {height} x {width} pixels", str(channels), "", "sk"),
        Step(f"{_words(unit.fuse)}, BN, ReLU", measured.after(unit.fuse), "", "sk"),
        weights,
    )
    stacked = Step(f"{count} maps", f"{count} x ({after})")
    select = Step("sum of the maps, weighted by branch and channel", after, "Select", "sk")
    return Description(title, before, (Paths(branches, stacked), Paths((fuse, ()), select)))


def _step(module: nn.Module, measured: _Measured, head: str = "") -> Step:
    family = _family(module)
    return Step(_words(module), measured.after(module), head, family)


def _words(module: nn.Module) -> str:
    """A module in words: '3x3 conv (stride 2), BN, ReLU'."""
    if isinstance(module, nn.Conv2d):
        stride, dilation = module.stride[0], module.dilation[0]
        options = [f"stride {stride}"] * (stride > 1) + [f"dilation {dilation}"] * (dilation > 1)
        options += [f"{module.groups} groups"] * (module.groups > 1)
        size = "x".join(map(str, module.kernel_size))
        return f"{size} conv" + f" ({', '.join(options)})" * bool(options)
    if isinstance(module, SelectiveKernelConv):
        return f"SK: {' | '.join(_words(branch[0]) for branch in module.branches)}"
    if isinstance(module, SqueezeExcitation):
        return f"SE: {module.fc1.in_features} to {module.fc1.out_features} to {module.fc2.out_features} channels"
    if isinstance(module, PaddedShortcut):
        return f"1 of {module.stride} rows and columns, {module.new_channels} channels of zeros"
    if isinstance(module, nn.Linear):
        return f"FC {module.in_features} to {module.out_features}"
    if isinstance(module, nn.MaxPool2d):
        return f"{module.kernel_size}x{module.kernel_size} max-pool"
    if isinstance(module, nn.Sequential):
        return ", ".join(map(_words, module))
    return {"BatchNorm": "BN", "BatchNorm2d": "BN"}.get(type(module).__name__, type(module).__name__)
