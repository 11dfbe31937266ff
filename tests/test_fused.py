"""The fused pass of SE and SK against autograd on the plain operations."""

import copy
import functools
import io
import itertools

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from senet_lib.models import create_model
from senet_lib.models.blocks import (
    PreactivationBlock,
    ResidualBlock,
    SelectiveKernelConv,
    SqueezeExcitation,
    conv,
    conv_bn,
)
from senet_lib.models.fused import use_fused, weighted_by_mean

BLOCKS = {
    "se": lambda: SqueezeExcitation(16, reduction=4),
    "se, tanh, no bias": lambda: SqueezeExcitation(16, 4, excitation="tanh", bias=False),
    "sk, two branches": lambda: SelectiveKernelConv(16, 16, groups=4),
    "sk, three branches, strided, select bias": lambda: SelectiveKernelConv(
        16, 32, stride=2, kernels="3x3+5x5+7x7", groups=2, select_bias=True
    ),
    "se with shortcut and ReLU": lambda: ResidualBlock(conv_bn(16, 16, 3), nn.Identity(), SqueezeExcitation(16, 4)),
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


def test_gradients_equal_finite_differences():
    """First and second derivatives."""
    torch.manual_seed(0)
    fc = nn.Linear(3, 6).double()
    maps = [torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def gated(a, b, skip, weight, bias):
        return weighted_by_mean(
            [a, b],
            lambda z: torch.nn.functional.linear(z, weight, bias).unflatten(1, (2, 3)).softmax(1),
            skip,
            relu=True,
        )

    assert torch.autograd.gradcheck(gated, (*maps, fc.weight, fc.bias))
    assert torch.autograd.gradgradcheck(gated, (*maps, fc.weight, fc.bias))


def test_empty_batch_trains_as_with_plain_operations(monkeypatch):
    for kind, make in BLOCKS.items():
        block, x = make().double(), torch.empty(0, 16, 6, 5, dtype=torch.float64)
        plain, fused = (passes(block, x, monkeypatch, use_fused) for use_fused in (False, True))
        torch.testing.assert_close(fused, plain, equal_nan=True, msg=lambda m, k=kind: f"{k}: {m}")


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


def block_of_both():
    torch.manual_seed(0)
    body = nn.Sequential(SelectiveKernelConv(8, 8, groups=2, min_hidden=4), conv_bn(8, 8, 3))
    return ResidualBlock(body, nn.Identity(), SqueezeExcitation(8, 2)).double().train()


def images(count=3):
    return torch.randn(count, 8, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def replica(module):
    """What nn.DataParallel runs on each device: plain tensors that autograd connects to the parameters."""
    copied = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        setattr(copied, name, replica(child))
    for name, parameter in module._parameters.items():  # bias=None included
        setattr(copied, name, None if parameter is None else parameter.clone())
    return copied


class LowRank(nn.Module):
    """A linear layer with a low-rank addition, whose own weights are frozen, as in LoRA."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, 2, bias=False).double()
        self.up = nn.Linear(2, linear.out_features, bias=False).double()

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


def change_linear(block, change):
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Linear):
            block.set_submodule(name, change(module) or module)
    return block


def tie(block):
    block.gate.fc2.weight = nn.Parameter(block.gate.fc1.weight.detach().T.contiguous())
    block.body[0].select.weight = nn.Parameter(block.body[0].fuse.weight.detach().T.repeat(2, 1))
    block.also = block.gate.fc2.weight  # a second name for it
    block.gate.fc1.bias = block.body[0].norm.bias  # four values each
    return block


def frozen(block):
    block.gate.fc1.requires_grad_(False)
    block.body.requires_grad_(False)
    return block


def functional(block):
    weights = {name: p * 1 for name, p in block.named_parameters()}
    return functools.partial(torch.func.functional_call, block, weights)


HELD = {  # how the weights are held -> changes a block; how it is called
    "own parameters": (lambda block: block, lambda block: block),
    "replica": (lambda block: block, replica),
    "functional call": (lambda block: block, functional),
    "weight norm": (lambda block: change_linear(block, parametrizations.weight_norm), lambda block: block),
    "spectral norm": (lambda block: change_linear(block, parametrizations.spectral_norm), lambda block: block),
    "spectral norm by hook": (lambda block: change_linear(block, nn.utils.spectral_norm), lambda block: block),
    "pruned": (
        lambda block: change_linear(block, lambda fc: prune.l1_unstructured(fc, "weight", 0.3)),
        lambda block: block,
    ),
    "low rank": (lambda block: change_linear(block, LowRank), lambda block: block),
    "tied": (tie, lambda block: block),
    "frozen": (frozen, lambda block: block),
    "deep copy of a trained one": (lambda block: (block(images()), copy.deepcopy(block))[1], lambda block: block),
    "recomputed": (lambda block: block, lambda block: functools.partial(checkpoint, block, use_reentrant=False)),
}


def test_gradients_do_not_depend_on_how_weights_are_held(monkeypatch):
    for kind, (change, call) in HELD.items():
        gradients = []
        for fuse in (False, True):
            calls = []
            monkeypatch.setattr(
                "senet_lib.models.blocks.use_fused",
                lambda module, fuse=fuse, calls=calls: (calls.append(use_fused(module)), fuse)[1],
            )
            block, x = change(block_of_both()), images().requires_grad_()
            y = call(block)(x)
            assert all(calls), kind
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
            gradients.append({"x": x.grad, **{name: p.grad for name, p in block.named_parameters()}})
            learned = {name for name, p in block.named_parameters() if p.requires_grad}
            assert {name for name, grad in gradients[-1].items() if grad is not None} == {"x", *learned}, (kind, fuse)
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12, msg=lambda m, k=kind: f"{k}: {m}")


def test_replicas_of_networks_lose_no_gradient():
    for name, training in (("se_resnet20", True), ("sk_se_resnet20", True), ("sk_se_resnet20", False)):
        torch.manual_seed(0)
        model, x = create_model(name).train(training).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
        expected = copy.deepcopy(model)
        for network in (expected, replica(model)):
            network(x).square().sum().backward()
        for (path, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
            assert p.grad is not None, (name, training, path)
            torch.testing.assert_close(p.grad, q.grad, msg=lambda m, path=path: f"{path}: {m}")


def test_observed_gates_are_called():
    """Hooks on a gate see its own input and output, and a gate's own forward is used."""

    class Doubled(SqueezeExcitation):
        def forward(self, x):
            return 2 * super().forward(x)

    block, x, seen = block_of_both(), images().requires_grad_(), {}
    with torch.no_grad():
        expected = block.gate(block.body(x))
        doubled = torch.relu(x + 2 * expected)
    block.gate.register_forward_hook(lambda module, inputs, output: seen.update(forward=output))
    block.gate.register_full_backward_hook(lambda module, grad_in, grad_out: seen.update(backward=grad_out[0]))
    block.body[0].select.register_full_backward_hook(lambda module, grad_in, grad_out: seen.update(select=grad_out[0]))
    y = block(x)
    y.sum().backward()
    torch.testing.assert_close(seen["forward"], expected)
    torch.testing.assert_close(seen["backward"], (y > 0).double())
    assert seen["select"].any()

    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.update({type(module): True}))
    block_of_both()(x)
    handle.remove()
    assert SqueezeExcitation in seen

    block = block_of_both()
    block.gate.__class__ = Doubled
    torch.testing.assert_close(block(x), doubled)
    block = block_of_both()
    original = block.gate.forward
    block.gate.forward = lambda x: 2 * original(x)  # as libraries do that move weights between devices
    torch.testing.assert_close(block(x), doubled)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_transforms_use_plain_operations():
    """torch.func, forward-mode AD and torch.jit.trace in training, against autograd."""
    block, x = block_of_both(), images()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # PyTorch's transforms refuse to update running statistics
    weights = dict(block.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(block, weights, (x,)).square().sum()

    expected = torch.autograd.grad(loss(weights, x), tuple(weights.values()))
    functions = torch.func
    found = {
        "grad": functions.grad(loss)(weights, x),
        "jacrev": functions.jacrev(loss)(weights, x),
        "vmap": {
            name: values.sum(0)
            for name, values in functions.vmap(functions.grad(loss), (None, 0))(weights, x[:, None]).items()
        },
    }
    for transform, gradients in found.items():
        for value, name in zip(expected, weights, strict=True):
            torch.testing.assert_close(gradients[name], value, msg=lambda m, t=transform, n=name: f"{t}, {n}: {m}")
    slope = sum((g * p).sum() for g, p in zip(expected, weights.values(), strict=True))
    torch.testing.assert_close(functions.jvp(lambda w: loss(w, x), (weights,), (weights,))[1], slope)
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(p, p) for name, p in weights.items()}
        torch.testing.assert_close(forward_ad.unpack_dual(loss(dual, x)).tangent, slope)

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(block, x, check_trace=False), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), block(x))


def test_fp16_is_finite_where_fp32_is():
    """Sums over pixels exceed fp16's largest value, 65504, but means do not."""
    makers = {
        "se": (lambda: SqueezeExcitation(8, 2), 100),
        "sk": (lambda: SelectiveKernelConv(8, 8, groups=2), 100),
        "sk, one large value in each branch": (lambda: SelectiveKernelConv(8, 8, groups=2), 0),
    }
    for (kind, (make, level)), training, autocast in itertools.product(makers.items(), (True, False), (True, False)):
        torch.manual_seed(0)
        block, x = make().train(training), torch.randn(2, 8, 32, 32) + 100
        if isinstance(block, SelectiveKernelConv):
            nn.init.normal_(block.fuse.weight, std=0.001)
            for branch in block.branches:
                nn.init.constant_(branch[1].bias, level)
                if level == 0:
                    branch.append(OneLarge())
        expected = copy.deepcopy(block)(x)
        x = x.half().requires_grad_()
        with torch.autocast("cpu", torch.half, enabled=autocast):
            y = (block if autocast else block.half())(x)
        y.float().mean().backward()
        case = f"{kind}, training {training}, autocast {autocast}"
        assert (y.float() - expected).abs().max() < 0.01 * expected.abs().max(), case
        missing = [name for name, p in block.named_parameters() if not p.grad.isfinite().all()]
        assert not missing and x.grad.isfinite().all(), (case, missing)


class OneLarge(nn.Module):
    """Adds 40000 to the first pixel: the sum of two such maps exceeds fp16's range, their mean does not."""

    def forward(self, x):
        first = torch.zeros_like(x)
        first[:, :, 0, 0] = 40000
        return x + first


def test_evaluation_equals_training_function():
    """Training uses the fused pass, evaluation the plain operations."""
    for name in ("se_resnet20", "sk_resnet20", "sk_se_resnet20"):
        torch.manual_seed(0)
        model, x = create_model(name).double(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # running statistics in both, so that only the gates' code differs
        fused = model(x)
        torch.testing.assert_close(fused, model.eval()(x), rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
