"""The same network computed another way: memory format, precision, compiled, exported, features extracted.

Tolerances are relative to the largest value. channels_last and compilation change only the order of summation: 1e-4 in
single precision, 1e-10 in double. bfloat16 has 8 bits, and its rounding errors accumulate over the layers: 5e-2.
"""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from senet_lib.models import create_model
from senet_lib.models.blocks import SelectiveKernelConv, SqueezeExcitation
from senet_lib.models.registry import NETWORKS
from senet_lib.models.reimplementations import SEBlock

# One network of every kind of block: basic, bottleneck, grouped, pre-activation, pooled; plain, SE, SK, both
ONE_OF_EACH = {
    "resnet20": 1,
    "se_resnet50": 0.125,
    "sknet26": 0.125,
    "se_preresnet110": 1,
    "sk_wrn16_8": 0.125,
    "sk_se_resnext50_32x4d": 1 / 16,
    "sk_se_fast": 0.5,
}


def small(name, blocks=2):
    """The network with at most two blocks per stage and running statistics as after some training."""
    torch.manual_seed(0)
    model = create_model(name, width=ONE_OF_EACH[name])
    for i, stage in enumerate(model.stages):
        model.stages[i] = stage[: blocks + NETWORKS[name].arch.pooled]
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.to(b.dtype) - b).abs().max() / b.abs().max()).item()


def test_channels_last_equals_contiguous():
    """Training in double precision: in single, oneDNN's backward pass is wrong for a strided 1x1 convolution with fewer
    than 16 channels (github:uxlfoundation/oneDNN#6035), which senet_lib.training keeps out of channels_last."""
    for name in ONE_OF_EACH:
        model, x = small(name), torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            expected = model(x)
            found = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        assert difference(found, expected) < 1e-4, name

        gradients = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            model = model.train().double().to(memory_format=memory_format)
            model.zero_grad()
            logits = model(x.double().to(memory_format=memory_format))
            nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert difference(*gradients) < 1e-10, name


def test_bfloat16_is_close_to_float32():
    for name in ONE_OF_EACH:
        model, x = small(name), torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            expected = model(x)
            with torch.autocast("cpu", torch.bfloat16):
                found = model(x)
        assert found.dtype == torch.bfloat16, name
        assert difference(found, expected) < 5e-2, name


def test_exported_network_takes_any_batch_size():
    batch = torch.export.Dim("batch", min=1, max=1024)
    for name in ("se_resnet50", "sknet26", "se_preresnet110", "sk_se_fast"):
        model = small(name, blocks=1)
        with torch.no_grad():
            exported = torch.export.export(
                model, (torch.randn(4, 3, 32, 32),), dynamic_shapes={"x": {0: batch}}
            ).module()
            for n in (1, 7):
                x = torch.randn(n, 3, 32, 32)
                assert difference(exported(x), model(x)) < 1e-5, (name, n)


def test_extracted_features_equal_the_network():
    """torchvision's create_feature_extractor traces a network with torch.fx in both modes; layers and gates."""
    models = {name: small(name, blocks=1) for name in ("sknet26", "sk_wrn16_8", "sk_se_fast")}
    models["source_b_network"] = create_model("source_b_network", filters=8, blocks=2, reduction=4)
    for name, model in models.items():
        model, kinds = model.double(), (SqueezeExcitation, SelectiveKernelConv, SEBlock)
        nodes = [path for path, module in model.named_modules() if isinstance(module, kinds)]
        nodes += [path for path, _ in model.named_children() if path not in ("stages", "res_blocks", "norm")]
        extract = pickle.loads(pickle.dumps(create_feature_extractor(copy.deepcopy(model), nodes)))
        expected = {}
        for node in nodes:
            hook = partial(
                lambda seen, node, module, inputs, output: seen.update({node: output.clone()}), expected, node
            )
            model.get_submodule(node).register_forward_hook(hook)
        for training in (True, False):
            x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
            with torch.no_grad():
                features = extract.train(training)(x)
                model.train(training)(x)
            assert features.keys() == expected.keys(), name
            for node, value in expected.items():
                assert difference(features[node], value) < 1e-6, (name, training, node)


@pytest.mark.slow
def test_compiled_equals_eager():
    for name in ("sk_se_fast", "se_preresnet110"):
        model, x = small(name, blocks=1), torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            expected = model(x)
            assert difference(torch.compile(model)(x), expected) < 1e-4, name
