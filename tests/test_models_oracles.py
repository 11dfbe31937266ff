"""Our networks against independent implementations: same weights, same output.

The oracles are torchvision, timm and pytorchcv, with random weights, so nothing is downloaded. Evaluation mode; double
precision except for large networks, so that only the order of summation remains.
"""

from functools import partial

import pytest
import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from pytorchcv.models.preresnet import PreResActivation
from pytorchcv.models.resnext_cifar import get_resnext_cifar
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from timm.layers import SEModule
from torch import nn

from senet_lib.metrics import count_params, run_on_meta
from senet_lib.models import create_model


def tv(name):
    return partial(getattr(torchvision.models, name), weights=None)


def timm_se(name):
    """Without timm's rounding of the SE bottleneck to a multiple of 8, which the paper lacks (affects 64 channels)."""
    return partial(timm.create_model, name, block_args={"attn_layer": partial(SEModule, rd_divisor=1)})


def ptcv(name, pool=None):
    """pytorchcv's network; `pool` replaces its pooling over 7x7 pixels, so that it accepts smaller images."""

    def make():
        network = get_model(name)
        if pool is not None:
            network.features.final_pool = pool
        return network

    return make


def ptcv_se_preresnet(name):
    """pytorchcv's SE-PreResNet with the stem and the final BN of pytorchcv's PreResNet.

    pytorchcv's own has a BN and a ReLU after the stem and none before the pooling, unlike its PreResNet (480 parameters
    fewer with 164 layers). Its blocks, SE included, are unchanged.
    """

    def make():
        network = get_model(name)
        features = network.features
        features.init_block = features.init_block.conv
        features.final_pool = nn.Sequential(PreResActivation(network.output.in_features), features.final_pool)
        return network

    return make


IMAGENET = {"stem": "imagenet", "num_classes": 1000}
# Our network, its arguments, the oracle, image size: one for each kind of block and stem, at full depth. Other depths
# and widths are held to published counts (test_models_published.py).
ORACLES = [
    ("resnet18", IMAGENET, tv("resnet18"), 64),
    ("resnet50", IMAGENET, tv("resnet50"), 64),
    ("resnext50_32x4d", IMAGENET, tv("resnext50_32x4d"), 64),
    ("se_resnet18", IMAGENET, timm_se("seresnet18"), 64),
    ("se_resnet50", IMAGENET, timm_se("seresnet50"), 64),
    ("se_resnext50_32x4d", IMAGENET, partial(timm.create_model, "seresnext50_32x4d"), 64),
    ("sknet50", IMAGENET, partial(timm.create_model, "skresnext50_32x4d"), 64),
    ("resnet20", {}, ptcv("resnet20_cifar10"), 32),
    ("se_resnet20", {}, ptcv("seresnet20_cifar10"), 32),
    ("resnet164", {}, ptcv("resnet164bn_cifar10"), 32),
    ("preresnet110", {}, ptcv("preresnet110_cifar10"), 32),
    ("preresnet164", {}, ptcv("preresnet164bn_cifar10"), 32),
    ("se_preresnet110", {}, ptcv_se_preresnet("sepreresnet110_cifar10"), 32),
]
MORE_ORACLES = [
    *[(f"resnet{depth}", IMAGENET, tv(f"resnet{depth}"), 64) for depth in (34, 101, 152)],
    *[(f"se_resnet{depth}", IMAGENET, timm_se(f"seresnet{depth}"), 64) for depth in (34, 101, 152)],
    ("se_resnet18", IMAGENET, ptcv("seresnet18"), 224),
    ("sknet50", IMAGENET, ptcv("sknet50"), 224),
    ("sknet101", IMAGENET, ptcv("sknet101", pool=nn.AvgPool2d(2)), 64),
    ("resnet110", {}, ptcv("resnet110_cifar10"), 32),
    ("se_resnet110", {}, ptcv("seresnet110_cifar10"), 32),
    ("se_resnet164", {}, ptcv("seresnet164bn_cifar10"), 32),
    ("se_preresnet164", {}, ptcv_se_preresnet("sepreresnet164bn_cifar10"), 32),
    ("wrn16_8", {}, partial(get_wrn_cifar, num_classes=10, blocks=16, width_factor=8), 32),
    ("wrn28_10", {}, ptcv("wrn28_10_cifar10"), 32),
    *[
        (f"resnext29_{g}x{w}d", {}, partial(get_resnext_cifar, 10, 29, cardinality=g, bottleneck_width=w), 32)
        for g, w in ((8, 64), (16, 32), (16, 64))
    ],
]


def calls(model: nn.Module, size: int) -> list[tuple[str, nn.Module]]:
    """(path, module) of every module with weights of its own, in the order of the forward pass."""
    order = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: order.append((path, module)))
        for path, module in model.named_modules()
        if module._parameters
    ]
    run_on_meta(model, (3, size, size))
    for hook in hooks:
        hook.remove()
    return order


def split_shortcuts(order) -> tuple[list[nn.Module], list[nn.Module]]:
    """(shortcut branches, the rest): networks differ in which of the two they run first."""
    is_shortcut = [any(word in path for word in ("shortcut", "downsample", "identity_conv")) for path, _ in order]
    pairs = list(zip(is_shortcut, order, strict=True))
    return [module for short, (_, module) in pairs if short], [module for short, (_, module) in pairs if not short]


def copy_weights(source: nn.Module, target: nn.Module, size: int) -> None:
    """Copy every weight and running statistic of `source` into `target`, module by module in forward order."""
    for theirs, ours in zip(split_shortcuts(calls(source, size)), split_shortcuts(calls(target, size)), strict=True):
        assert len(theirs) == len(ours)
        for a, b in zip(theirs, ours, strict=True):
            state = {k: v.reshape(b.state_dict()[k].shape) for k, v in a.state_dict().items()}  # 1x1 conv <-> linear
            b.load_state_dict(state)


def randomise(model: nn.Module) -> None:
    """Statistics and scales unlike 0 and 1, so that a missing BN or a wrong order changes the output."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def check_same_function(oracles):
    for name, arguments, oracle, size in oracles:
        torch.manual_seed(0)
        theirs, ours = oracle().eval(), create_model(name, **arguments).eval()
        assert count_params(ours) == count_params(theirs), name
        randomise(theirs)
        copy_weights(theirs, ours, size)
        images = torch.randn(2, 3, size, size)
        if count_params(theirs) < 3e6:
            theirs, ours, images = theirs.double(), ours.double(), images.double()
        with torch.no_grad():
            expected, found = theirs(images), ours(images)
        largest = expected.abs().max()
        assert (expected[0] - expected[1]).abs().max() > 1e-3 * largest, f"{name}: the output ignores the image"
        assert (found - expected).abs().max() < (1e-12 if found.dtype == torch.float64 else 1e-5) * largest, name


def test_every_block_equals_independent_implementation():
    check_same_function(ORACLES)


@pytest.mark.slow
def test_other_depths_equal_independent_implementation():
    check_same_function(MORE_ORACLES)
