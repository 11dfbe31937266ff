"""SE blocks put into somebody else's network, by module path: SE fits nearly every network.

Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507, Section 3.3: after the non-linearity of a VGG
convolution, after a whole Inception module, on the residual branch before the sum.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from senet_lib.errors import UserError, did_you_mean
from senet_lib.metrics import run_on_meta
from senet_lib.models.blocks import SqueezeExcitation

# Where SE goes in well-known networks: module paths, * stands for one or more characters of one step of the path.
# torchvision's networks, but for the last, which is timm's.
SE_PLACES = {
    # after each ReLU of the 13 convolutions
    "vgg16_bn": [f"features.{i}" for i in (2, 5, 9, 12, 16, 19, 22, 26, 29, 32, 36, 39, 42)],
    # after each Inception module; GoogLeNet is the first Inception network, BN-Inception its successor
    "googlenet": ["inception*"],
    "inception_v3": ["Mixed_*"],
    # after each dense block, on all that it has concatenated (the SE paper has no DenseNet)
    "densenet121": ["features.denseblock*"],
    # on the residual branch, before the sum; torchvision has MobileNetV2, the paper's was the first version
    "mobilenet_v2": ["features.*.conv"],
    # on the transformed half of the channels, before it joins the other; torchvision has ShuffleNetV2
    "shufflenet_v2_x1_0": ["stage*.*.branch2"],
    # on the residual branch, before it is scaled and added
    "inception_resnet_v2": ["repeat.*.conv2d", "repeat_1.*.conv2d", "repeat_2.*.conv2d", "block8.conv2d"],
}


def attach_se(
    model: nn.Module,
    where: str | Sequence[str],
    *,
    reduction: int = 16,
    squeeze: str = "avg",
    excitation: str = "sigmoid",
    bias: bool = True,
    input_size: tuple[int, int, int] = (3, 224, 224),
) -> nn.Module:
    """Put an SE block behind each module that `where` names, in place, and return the model.

    where: a key of SE_PLACES, or module paths such as "layer1.0.bn2"; * stands for any part of one step of a path.
    input_size: an image (C, H, W) that the network takes: a run on the meta device tells each place's channels.
    The weights stay as they are; a wrapped module's go by `<path>.0`, the block's by `<path>.1`.

    Raises ValueError, and leaves the model as it is, when a path fits no module (the nearest ones are named), is given
    twice, is never run, does not give one (N, C, H, W) tensor, or has too few channels for the reduction.
    """
    patterns = SE_PLACES.get(where, [where]) if isinstance(where, str) else list(where)
    paths = [path for pattern in patterns for path in matching_paths(model, pattern)]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"where names {', '.join(twice)} more than once")
    channels = output_channels(model, paths, input_size)
    blocks = {path: SqueezeExcitation(channels[path], reduction, squeeze, excitation, bias) for path in paths}
    for path, block in blocks.items():
        parent, _, name = path.rpartition(".")
        module = model.get_submodule(path)
        pair = nn.Sequential(module, block.to(next(model.parameters()).device).train(module.training))
        pair.training = module.training
        setattr(model.get_submodule(parent), name, pair)
    return model


def matching_paths(model: nn.Module, pattern: str) -> list[str]:
    """Paths of the modules that fit the pattern, step by step. ValueError when there are none."""
    steps = pattern.split(".")
    known = [path for path, _ in model.named_modules() if path]
    found = [
        path
        for path in known
        if path.count(".") == len(steps) - 1
        and all(fnmatchcase(part, step) for part, step in zip(path.split("."), steps, strict=True))
    ]
    if not found:
        raise UserError(
            f"no module {pattern!r} in this {type(model).__name__}; {did_you_mean(pattern, [*known, *SE_PLACES])}"
        )
    return found


def output_channels(model: nn.Module, paths: list[str], input_size: tuple[int, int, int]) -> dict[str, int]:
    """The number of channels that leaves each of these modules, from one run on the meta device."""
    shapes = {}

    def remember(path):
        def hook(module, inputs, output):
            shapes[path] = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(remember(path)) for path in paths]
    try:
        run_on_meta(model, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    for path in paths:
        if path not in shapes:
            raise ValueError(f"{path} is not run by the network, so an SE block there would do nothing")
        if isinstance(shapes[path], str) or len(shapes[path]) != 4:
            raise ValueError(f"{path} gives {shapes[path]}; an SE block needs one tensor (N, C, H, W)")
    return {path: shapes[path][1] for path in paths}
