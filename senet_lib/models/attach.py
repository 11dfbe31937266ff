"""Insert SE blocks into third-party networks by module path.

Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507, Section 3.3: after the non-linearity of a VGG
convolution, after a whole Inception module, or on the residual branch before the sum.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from senet_lib.errors import UserError, did_you_mean
from senet_lib.metrics import run_on_meta
from senet_lib.models.blocks import SqueezeExcitation

# Module paths after which SE is inserted in well-known networks; * matches any characters within one path component.
# All networks are torchvision's, except the last, which is timm's.
SE_PLACES = {
    # after each ReLU of the 13 convolutions
    "vgg16_bn": [f"features.{i}" for i in (2, 5, 9, 12, 16, 19, 22, 26, 29, 32, 36, 39, 42)],
    # after each Inception module; GoogLeNet is the first Inception network, BN-Inception its successor
    "googlenet": ["inception*"],
    "inception_v3": ["Mixed_*"],
    # after each dense block, on its concatenated output (the SE paper has no DenseNet)
    "densenet121": ["features.denseblock*"],
    # on the residual branch, before the sum; the paper used MobileNet (V1), torchvision has V2
    "mobilenet_v2": ["features.*.conv"],
    # on the transformed half of the channels, before concatenation; torchvision has ShuffleNetV2
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
    """Insert an SE block after each module that `where` names, in place, and return the model.

    where: a key of SE_PLACES, or module paths such as "layer1.0.bn2"; * matches any characters within one component.
    input_size: (C, H, W) of an input image. A forward pass on the meta device determines the channel counts.
    Existing weights are unchanged. Parameter names become `<path>.0.*` for the module and `<path>.1.*` for its block.

    Raises ValueError and leaves the model unchanged when a path matches no module (the message names the nearest), is
    given twice, is not used in the forward pass, does not output one (N, C, H, W) tensor, or has too few channels for
    the reduction.
    """
    patterns = SE_PLACES.get(where, [where]) if isinstance(where, str) else list(where)
    paths = [path for pattern in patterns for path in matching_paths(model, pattern)]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise UserError(f"where names {', '.join(twice)} more than once: remove the duplicates")
    channels = output_channels(model, paths, input_size)
    blocks = {path: SqueezeExcitation(channels[path], reduction, squeeze, excitation, bias) for path in paths}
    for path, block in sorted(blocks.items(), key=lambda item: -item[0].count(".")):  # before a parent's path changes
        parent, _, name = path.rpartition(".")
        module = model.get_submodule(path)
        pair = nn.Sequential(module, block.to(next(model.parameters())).train(module.training))
        pair.training = module.training
        setattr(model.get_submodule(parent), name, pair)
    return model


def matching_paths(model: nn.Module, pattern: str) -> list[str]:
    """Paths of the modules that match the pattern component by component. Raises ValueError when there are none."""
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
            f"no module of {type(model).__name__} matches {pattern!r}; {did_you_mean(pattern, [*known, *SE_PLACES])}"
        )
    return found


def output_channels(model: nn.Module, paths: list[str], input_size: tuple[int, int, int]) -> dict[str, int]:
    """The number of output channels of each module, from one forward pass on the meta device."""
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
            raise UserError(f"{path!r} is not used in the forward pass, so an SE block there would have no effect")
        if isinstance(shapes[path], str) or len(shapes[path]) != 4:
            raise UserError(f"{path!r} outputs {shapes[path]}; an SE block needs one tensor of shape (N, C, H, W)")
    return {path: shapes[path][1] for path in paths}
