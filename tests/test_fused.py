"""The fused pass of SE and SK against autograd on the plain operations."""

import copy
import itertools

import torch

from senet_lib.models import create_model
from senet_lib.models.blocks import (
    PreactivationBlock,
    ResidualBlock,
    SelectiveKernelConv,
    SqueezeExcitation,
    conv,
    conv_bn,
)
from senet_lib.models.fused import weighted_by_mean

BLOCKS = {
    "se": lambda: SqueezeExcitation(16, reduction=4),
    "se, tanh, no bias": lambda: SqueezeExcitation(16, 4, excitation="tanh", bias=False),
    "sk, two branches": lambda: SelectiveKernelConv(16, 16, groups=4),
    "sk, three branches, strided, select bias": lambda: SelectiveKernelConv(
        16, 32, stride=2, kernels="3x3+5x5+7x7", groups=2, select_bias=True
    ),
    "se with shortcut and ReLU": lambda: ResidualBlock(
        conv_bn(16, 16, 3), torch.nn.Identity(), SqueezeExcitation(16, 4)
    ),
    "se with the shortcut of a pre-activation block": lambda: PreactivationBlock(
        16, conv(16, 24, 3, 2), conv(16, 24, 1, 2), SqueezeExcitation(24, 4)
    ),
}


def passes(block, x, monkeypatch, use_fused):
    """Output, gradients of input and parameters, and buffers after one training step's forward and backward."""
    calls = []
    monkeypatch.setattr("senet_lib.models.blocks.use_fused", lambda module: use_fused)
    monkeypatch.setattr(
        "senet_lib.models.blocks.weighted_by_mean", lambda *given: calls.append(given) or weighted_by_mean(*given)
    )
    block, x = copy.deepcopy(block).train(), x.clone().requires_grad_()
    y = block(x)
    assert len(calls) == use_fused
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    gradients = {name: p.grad for name, p in block.named_parameters()}
    return {"y": y, "x": x.grad, **gradients, **dict(block.named_buffers())}


def test_fused_pass_equals_autograd(monkeypatch):
    pieces = (2**19, 2 * 32 * 6 * 5)  # all images at once; two at a time
    layouts = (torch.contiguous_format, torch.channels_last)
    for (kind, make), layout, batch, cached in itertools.product(BLOCKS.items(), layouts, (3, 1), pieces):
        monkeypatch.setattr("senet_lib.models.fused.CACHED", cached)
        torch.manual_seed(0)
        block = make().double().to(memory_format=layout)
        x = torch.randn(batch, 16, 6, 5, dtype=torch.float64).contiguous(memory_format=layout)
        plain, fused = (passes(block, x, monkeypatch, use_fused) for use_fused in (False, True))
        assert plain.keys() == fused.keys()
        for name, value in plain.items():
            case = f"{kind}, {layout}, batch {batch}, {cached}: {name}: "
            torch.testing.assert_close(fused[name], value, rtol=1e-10, atol=1e-12, msg=lambda m, c=case: c + m)


def test_gradient_equals_finite_differences():
    torch.manual_seed(0)
    fc = torch.nn.Linear(3, 6).double()
    maps = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def gated(a, b, skip, weight, bias):
        return weighted_by_mean(
            [a, b],
            lambda z: torch.nn.functional.linear(z, weight, bias).unflatten(1, (2, 3)).softmax(1),
            (weight, bias),
            skip,
            relu=True,
        )

    assert torch.autograd.gradcheck(gated, (*maps, fc.weight, fc.bias))


def test_fused_bf16_is_as_accurate_as_plain(monkeypatch):
    torch.manual_seed(0)
    block, x = SqueezeExcitation(32, 4), torch.randn(8, 32, 8, 8)
    exact = passes(block, x, monkeypatch, False)
    with torch.autocast("cpu", torch.bfloat16):
        plain, fused = (passes(block, x.bfloat16(), monkeypatch, use_fused) for use_fused in (False, True))
    for name, value in exact.items():
        assert fused[name].dtype == plain[name].dtype, name
        scale = value.abs().max()
        plain_error, fused_error = ((found[name].float() - value).abs().max() / scale for found in (plain, fused))
        assert fused_error <= max(1.5 * plain_error, 0.02), (name, plain_error, fused_error)


def test_frozen_parameters_get_no_gradient():
    block = SqueezeExcitation(16, 4).train()
    block.fc1.requires_grad_(False)
    block(torch.randn(2, 16, 4, 4, requires_grad=True)).sum().backward()
    assert block.fc1.weight.grad is None
    assert block.fc2.weight.grad is not None


def test_evaluation_equals_training_function():
    """Training uses the fused pass, evaluation the plain operations."""
    for name in ("se_resnet20", "sk_resnet20", "sk_se_resnet20"):
        torch.manual_seed(0)
        model, x = create_model(name).double(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # running statistics in both, so that only the gates' code differs
        fused = model(x)
        torch.testing.assert_close(fused, model.eval()(x), rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
