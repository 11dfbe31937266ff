"""The building blocks against limit cases and against the papers' formulas."""

import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from senet_lib.models import create_model
from senet_lib.models.blocks import (
    BatchNorm,
    PaddedShortcut,
    PreactivationBlock,
    ResidualBlock,
    SelectiveKernelConv,
    SqueezeExcitation,
    conv,
    conv_bn,
)
from senet_lib.models.knobs import Kernel, parse_kernels


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randomised(module: nn.Module) -> nn.Module:
    """The module with running statistics and scales unlike 0 and 1, in evaluation mode and double precision."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.double().eval()


def maps(n: int, c: int, size: int = 8) -> torch.Tensor:
    return torch.randn(n, c, size, size, dtype=torch.float64)


# Squeeze and excitation


def test_se_equals_paper_formula():
    for bias in (True, False):
        se, x = randomised(SqueezeExcitation(32, reduction=8, bias=bias)), maps(3, 32)
        z = x.sum((2, 3)) / 64
        hidden = torch.clamp(z @ se.fc1.weight.T + (se.fc1.bias if bias else 0), min=0)
        s = 1 / (1 + torch.exp(-(hidden @ se.fc2.weight.T + (se.fc2.bias if bias else 0))))
        torch.testing.assert_close(se(x), torch.einsum("nchw,nc->nchw", x, s))
        assert se.fc1.weight.shape == (4, 32) and se.fc2.weight.shape == (32, 4)


def test_open_se_gate_is_identity():
    x = maps(2, 16)
    for excitation, open_bias in (("sigmoid", 50.0), ("tanh", 50.0), ("relu", 1.0)):
        se = randomised(SqueezeExcitation(16, excitation=excitation))
        nn.init.zeros_(se.fc2.weight)
        nn.init.constant_(se.fc2.bias, open_bias)
        torch.testing.assert_close(se(x), x)


def test_se_excitations_differ_in_range():
    x = maps(4, 16)
    gates = {}
    for excitation in ("sigmoid", "tanh", "relu"):
        torch.manual_seed(1)
        gates[excitation] = randomised(SqueezeExcitation(16, 4, excitation=excitation))(x) / x
    assert gates["sigmoid"].min() > 0 and gates["sigmoid"].max() < 1
    assert -1 < gates["tanh"].min() < 0
    assert gates["relu"].min() == 0


def test_se_squeezes_equal_their_definitions():
    x = maps(2, 16)
    se = randomised(SqueezeExcitation(16, 4, squeeze="max"))
    gate = torch.sigmoid(se.fc2(torch.relu(se.fc1(x.flatten(2).max(2).values))))
    torch.testing.assert_close(se(x), x * gate[:, :, None, None])

    se = randomised(SqueezeExcitation(16, 4, squeeze="none"))  # every pixel's gate is computed from that pixel alone
    pixels = x.movedim(1, -1)  # (N, C, H, W) -> (N, H, W, C)
    gate = torch.sigmoid(se.fc2(torch.relu(se.fc1(pixels))))
    torch.testing.assert_close(se(x), (pixels * gate).movedim(-1, 1))


# Selective kernels


def test_sk_equals_paper_formula():
    sk, x = randomised(SelectiveKernelConv(16, 32, stride=2, groups=4, reduction=4, min_hidden=6)), maps(3, 16)
    u1 = torch.relu(sk.branches[0][1](F.conv2d(x, sk.branches[0][0].weight, stride=2, padding=1, groups=4)))
    u2 = torch.relu(sk.branches[1][1](F.conv2d(x, sk.branches[1][0].weight, stride=2, padding=2, dilation=2, groups=4)))
    s = (u1 + u2).mean((2, 3))
    z = torch.relu(sk.norm((s @ sk.fuse.weight.T)[:, :, None, None]).flatten(1))
    a, b = (z @ half.T for half in sk.select.weight.chunk(2))  # A and B of equation 5
    share = torch.exp(a) / (torch.exp(a) + torch.exp(b))
    expected = share[:, :, None, None] * u1 + (1 - share)[:, :, None, None] * u2
    torch.testing.assert_close(sk(x), expected)
    assert sk.fuse.weight.shape == (8, 32)  # d = max(32 / 4, 6)


def test_sk_hidden_units_have_a_minimum():
    assert SelectiveKernelConv(64, 64, groups=1, reduction=16, min_hidden=32).fuse.out_features == 32
    assert SelectiveKernelConv(1024, 1024, groups=32, reduction=16, min_hidden=32).fuse.out_features == 64


def test_one_sk_branch_equals_grouped_convolution():
    sk, plain = (
        randomised(SelectiveKernelConv(16, 16, kernels="3x3", groups=4)),
        conv_bn(16, 16, 3, groups=4, relu=True),
    )
    plain.double().eval().load_state_dict({k.removeprefix("branches.0."): v for k, v in sk.state_dict().items()})
    x = maps(2, 16)
    assert torch.equal(sk(x), plain(x))


def test_select_weights_matter_only_between_unequal_branches():
    sk, x = randomised(SelectiveKernelConv(16, 16, kernels="3x3+3x3+3x3", groups=1)), maps(2, 16)
    before = sk(x)
    nn.init.normal_(sk.select.weight, std=10)
    assert not torch.allclose(sk(x), before)
    for branch in sk.branches[1:]:
        branch.load_state_dict(sk.branches[0].state_dict())
    torch.testing.assert_close(sk(x), sk.branches[0](x))


def test_sk_weights_sum_to_one():
    sk, x = randomised(SelectiveKernelConv(16, 16, kernels="3x3+3x3d2+3x3d3", groups=1)), maps(2, 16)
    for branch in sk.branches:  # every branch outputs 1 everywhere, so the output is the sum of the weights
        nn.init.zeros_(branch[1].weight)
        nn.init.ones_(branch[1].bias)
    torch.testing.assert_close(sk(x), torch.ones_like(sk(x)))


def test_sk_branches_have_equal_sizes():
    for kernels in ("3x3+3x3d2", "3x3+5x5", "3x3+5x5+7x7", "3x3+3x3d2+3x3d3", "3x3+5x5g8"):
        for stride, size in ((1, 7), (2, 4)):
            sk = SelectiveKernelConv(16, 32, stride, kernels, groups=4)
            assert sk(torch.randn(2, 16, 7, 7)).shape == (2, 32, size, size), (kernels, stride)


def test_dilated_3x3_covers_5x5():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    dilated, full = conv(1, 1, 3, dilation=2), conv(1, 1, 5)
    nn.init.ones_(dilated.weight)
    nn.init.ones_(full.weight)
    reach = [layer(image)[0, 0].nonzero().amin(0).tolist() for layer in (dilated, full)]
    assert reach == [[2, 2], [2, 2]]
    assert dilated(image).sum() == 9 and full(image).sum() == 25


def test_kernels_are_parsed():
    assert parse_kernels("3x3+3x3d2") == (Kernel(3, 1, None), Kernel(3, 2, None))
    assert parse_kernels("5x5g64+7x7d2g8") == (Kernel(5, 1, 64), Kernel(7, 2, 8))
    for text in ("", "4x4", "3x5", "3x3+", "3", "3x3d0", "3x3 + 5x5", "3x3g2d2"):
        with pytest.raises(ValueError, match=rf"kernels='{re.escape(text)}'"):
            parse_kernels(text)


def test_impossible_blocks_are_rejected():
    for make, facts in (
        (lambda: SqueezeExcitation(16, reduction=17), ("reduction=17", "16 channels", "1 to 16")),
        (lambda: SelectiveKernelConv(16, 16, groups=3), ("groups=3", "16", "1, 2, 4, 8, 16")),
        (lambda: SelectiveKernelConv(16, 16, kernels="3x3+5x5g5", groups=4), ("groups=5",)),
        (lambda: PaddedShortcut(8, 4, 1), ("padded", "8 channels", "4", "projection")),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert all(fact in str(error.value) for fact in facts), error.value


# Residual blocks


def test_placements_equal_their_formulas():
    body, shortcut, gate, x = conv(8, 8, 3).double(), conv(8, 8, 1).double(), nn.Sigmoid(), maps(2, 8)
    with torch.no_grad():
        expected = {
            "standard": F.relu(shortcut(x) + gate(body(x))),
            "pre": F.relu(shortcut(x) + body(gate(x))),
            "post": gate(F.relu(shortcut(x) + body(x))),
            "identity": F.relu(gate(shortcut(x)) + body(x)),
        }
        for placement, y in expected.items():
            assert torch.equal(ResidualBlock(body, shortcut, gate, placement)(x), y), placement
        block = PreactivationBlock(8, body, nn.Identity(), gate).double().eval()
        h = F.relu(block.norm(x))
        assert torch.equal(block(x), x + gate(body(h)))
        projecting = PreactivationBlock(8, body, shortcut, gate).double().eval()
        assert torch.equal(projecting(x), shortcut(h) + gate(body(h)))


def test_padded_shortcut_subsamples_and_pads_channels():
    for size in (7, 8, 28, 33):
        x = maps(2, 3, size)
        y = PaddedShortcut(3, 5, stride=2)(x)
        assert y.shape[2:] == conv(3, 5, 3, stride=2).double()(x).shape[2:]
        assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
        assert y.shape[1] == 5 and not y[:, 3:].any()


# Batch normalisation of a single value, and convolutions in bf16


def test_batch_norm_equals_pytorch():
    ours, theirs, x = BatchNorm(4), nn.BatchNorm2d(4), torch.randn(2, 4, 1, 1)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_single_value_uses_running_statistics():
    norm = BatchNorm(4)
    nn.init.uniform_(norm.running_mean)
    before = norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()
    x = torch.randn(1, 4, 1, 1)
    trained = norm.train()(x)
    assert torch.equal(trained, norm.eval()(x))
    after = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm2d(4).train()(x)


def test_one_image_trains_every_parameter():
    for name, width in (("sk_resnet20", 1), ("sknet26", 0.25)):
        for stem in ("cifar", "imagenet"):
            model = create_model(name, width=width, stem=stem).train()
            F.cross_entropy(model(torch.randn(1, 3, 32, 32)), torch.tensor([3])).backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), (name, stem)


def test_dilated_grouped_convolution_equals_the_plain_one():
    for dilation, stride, kernel in product((2, 3, 4), (1, 2, 3), (3, 5)):
        for size, memory_format in product(((8, 8), (7, 9), (2, 1)), (torch.channels_last, torch.contiguous_format)):
            unit = conv(8, 16, kernel, stride, 4, dilation).double().to(memory_format=memory_format)
            x = torch.randn(3, 8, *size, dtype=torch.double).contiguous(memory_format=memory_format).requires_grad_()
            plain = F.conv2d(x, unit.weight, None, stride, dilation * (kernel // 2), dilation, groups=4)
            out = unit(x)
            assert out.is_contiguous(memory_format=memory_format), (dilation, stride, kernel, size)
            torch.testing.assert_close(out, plain)
            inputs, gradient = (x, unit.weight), torch.randn_like(plain)
            expected = torch.autograd.grad(plain, inputs, gradient)
            torch.testing.assert_close(torch.autograd.grad(out, inputs, gradient), expected)


def test_grouped_weight_gradient_in_bf16():
    """oneDNN can leave a part of it unwritten; the freed NaNs then show."""
    for groups in (8, 32):
        for dilation, stride in ((2, 1), (3, 1), (2, 2), (1, 1)):
            unit = conv(64, 64, 3, stride, groups, dilation).to(memory_format=torch.channels_last)
            x = torch.randn(2, 64, 32, 32).contiguous(memory_format=torch.channels_last)
            outputs, gradients = [], []
            for bf16 in (False, True):
                unit.zero_grad()
                freed = [torch.full((2**size,), torch.nan, dtype=torch.bfloat16) for size in range(6, 20)]
                del freed
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    y = unit(x)
                y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))
                assert y.is_contiguous(memory_format=torch.channels_last)
                outputs.append(y.detach().float())
                gradients.append(unit.weight.grad.clone())
            torch.testing.assert_close(outputs[1], outputs[0], atol=0.05, rtol=0)
            largest = gradients[0].abs().max().item()
            torch.testing.assert_close(gradients[1], gradients[0], atol=0.02 * largest, rtol=0)
