"""The same network another way: memory format, precision, compiled, exported.

Tolerances are relative to the largest value. channels_last and compilation change the order of summation only: 1e-4 in
single precision, 1e-10 in double. bfloat16 has 8 bits, and its rounding adds up over the layers: 5e-2.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from senet_lib.models import create_model, list_models
from senet_lib.models.registry import NETWORKS, SOURCE_NOTES

# One of every kind of block: basic, bottleneck, grouped, pre-activation; plain, SE, SK, both.
ONE_OF_EACH = ["resnet20", "se_resnet50", "sknet26", "se_preresnet110", "sk_wrn16_8", "sk_se_resnext29_8x64d"]


def small(name, blocks=2, warm_up=3):
    """The network at a width that runs in a moment, with two blocks a stage: the later ones repeat the second."""
    torch.manual_seed(0)
    arch = NETWORKS[name].arch
    model = create_model(name, width=min(1.0, 256 / max(arch.widths + arch.outs)))
    for i, stage in enumerate(model.stages):
        model.stages[i] = stage[:blocks]
    model.train()
    with torch.no_grad():
        for _ in range(warm_up):  # running statistics as after some training
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.to(b.dtype) - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_channels_last_gives_the_same(name):
    model, x = small(name), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert difference(got, expected) < 1e-4


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_channels_last_trains_the_same(name):
    """In double precision. In single, oneDNN's backward pass is wrong for a strided 1x1 convolution of fewer than 16
    channels (github:uxlfoundation/oneDNN#6035), which senet_lib.training keeps out of channels_last."""
    x, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = small(name).train().double().to(memory_format=memory_format)
        nn.functional.cross_entropy(model(x.to(memory_format=memory_format)), labels).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert difference(*gradients) < 1e-10


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_bfloat16_autocast_is_near(name):
    model, x = small(name), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x)
    assert got.dtype == torch.bfloat16
    assert difference(got, expected) < 5e-2


@pytest.mark.parametrize("name", ["sk_se_resnet20", "se_preresnet110"])
def test_compiled_gives_the_same(name):
    model, x = small(name, blocks=1), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        assert difference(torch.compile(model)(x), expected) < 1e-4


def unlike_networks():
    """One network of those that differ in depth alone: shortened, they are the same."""
    shapes = {
        name: (NETWORKS[name].family, replace(NETWORKS[name].arch, depths=()))
        for name in list_models()
        if name not in SOURCE_NOTES
    }
    return sorted({shape: name for name, shape in shapes.items()}.values())


@pytest.mark.parametrize("name", unlike_networks())
def test_every_network_exports_and_gives_the_same(name):
    model, x = small(name, warm_up=0), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
        assert difference(exported.module()(x), model(x)) < 1e-5


def test_an_exported_network_takes_any_batch_size():
    model = small("sk_se_resnet20")
    batch = torch.export.Dim("batch", min=1, max=1024)
    with torch.no_grad():
        exported = torch.export.export(model, (torch.randn(4, 3, 32, 32),), dynamic_shapes={"x": {0: batch}}).module()
        for n in (1, 7):
            x = torch.randn(n, 3, 32, 32)
            assert difference(exported(x), model(x)) < 1e-5
