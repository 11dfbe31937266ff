"""SE blocks inserted into torchvision's and timm's networks."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model
from senet_lib.models.attach import SE_PLACES, attach_se
from senet_lib.models.blocks import SqueezeExcitation

HAVE_AUXILIARY_HEADS = ("googlenet", "inception_v3")
BLOCKS = {
    "vgg16_bn": 13,
    "googlenet": 9,
    "inception_v3": 11,
    "densenet121": 4,
    "mobilenet_v2": 17,
    "shufflenet_v2_x1_0": 16,
    "inception_resnet_v2": 10 + 20 + 9 + 1,
}


def backbone(name):
    if name == "inception_resnet_v2":
        return timm.create_model(name, num_classes=10)
    more = {"init_weights": False, "aux_logits": False} if name in HAVE_AUXILIARY_HEADS else {}
    return getattr(torchvision.models, name)(weights=None, num_classes=10, **more)


def se_blocks(model):
    return [module for module in model.modules() if isinstance(module, SqueezeExcitation)]


def pixels(name):
    return 299 if name.startswith("inception") else 224


def test_named_networks_get_their_blocks():
    assert set(BLOCKS) == set(SE_PLACES)
    for name, expected in BLOCKS.items():
        with torch.device("meta"):
            model = backbone(name)
        size = (3, pixels(name), pixels(name))
        params, macs = count_params(model), count_macs(model, size)
        attach_se(model, name, input_size=size)
        blocks = se_blocks(model)
        assert len(blocks) == expected, name
        assert count_params(model) - params == sum(p.numel() for block in blocks for p in block.parameters()), name
        added = sum(2 * block.fc1.in_features * block.fc1.out_features for block in blocks)
        assert count_macs(model, size) - macs == added, name  # each FC runs once per image, so every block is used
        assert added < 0.01 * macs, name  # source A: SE adds less than 1 % of the compute


def test_open_gates_leave_outputs_unchanged():
    x = torch.randn(2, 3, 64, 64)
    for name in ("googlenet", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0"):
        torch.manual_seed(0)
        model = backbone(name).eval()
        with torch.no_grad():
            expected = model(x)
            assert attach_se(model, name) is model
            assert not torch.allclose(model(x), expected, atol=0), name
            for block in se_blocks(model):
                nn.init.zeros_(block.fc2.weight)
                nn.init.constant_(block.fc2.bias, 50.0)
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_network_and_blocks_train_together():
    model = attach_se(backbone("shufflenet_v2_x1_0"), "shufflenet_v2_x1_0").train()
    assert all(block.training for block in se_blocks(model))
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_se_after_last_bn_equals_se_resnet():
    with torch.device("meta"):
        theirs = attach_se(torchvision.models.resnet18(weights=None), "layer*.*.bn2")
        ours = create_model("se_resnet18", stem="imagenet", num_classes=1000)
    assert count_params(theirs) == count_params(ours)
    assert isinstance(theirs.layer1[0].bn2, nn.Sequential) and theirs.layer1[0].bn2[1].fc1.in_features == 64


def test_options_and_mode_reach_the_blocks():
    model = torchvision.models.resnet18(weights=None).train()
    model.layer1.eval()
    where = ["layer1.0.bn2", "layer4.1.bn2"]
    attach_se(model, where, reduction=4, squeeze="max", excitation="tanh", bias=False)
    first, last = se_blocks(model)
    assert last.fc1.out_features == 128 and last.fc1.bias is None
    assert (last.squeeze, last.excitation) == ("max", "tanh")
    assert model.training and last.training and model.layer4[1].bn2.training
    assert not first.training and not model.layer1[0].bn2.training


def test_positions_within_one_another():
    """A path means the module that it named before the call, whatever the order."""
    for where in (["layer1", "layer1.0"], ["layer1.0", "layer1"], ["layer1.0.bn2", "layer1"]):
        model = attach_se(torchvision.models.resnet18(weights=None).double(), where)
        layer, block = model.layer1
        assert isinstance(block, SqueezeExcitation), where
        inner = layer[0].bn2 if "layer1.0.bn2" in where else layer[0]
        assert isinstance(inner[1], SqueezeExcitation), where
        assert model(torch.zeros(1, 3, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_invalid_positions_leave_network_unchanged():
    with torch.device("meta"):
        resnet, mobilenet = torchvision.models.resnet18(weights=None), torchvision.models.mobilenet_v2(weights=None)
        googlenet = torchvision.models.googlenet(weights=None, init_weights=False)  # aux1 runs in training mode only
    for model, where, reduction, facts in (
        (resnet, "layer1.0.bn3", 16, ["'layer1.0.bn3'", "'layer1.0.bn2'", "ResNet"]),
        (resnet, "resnet", 16, ["'resnet'"]),
        (resnet, "layer5.*.bn2", 16, ["'layer5.*.bn2'"]),
        (resnet, ["layer1.0.bn2", "layer1.*.bn2"], 16, ["layer1.0.bn2", "more than once"]),
        (resnet, "fc", 16, ["'fc'", "(1, 1000)", "(N, C, H, W)"]),
        (googlenet, "aux1.conv", 16, ["'aux1.conv'", "forward pass"]),
        (mobilenet, "mobilenet_v2", 32, ["reduction=32", "16 channels"]),
    ):
        before = repr(model)
        with pytest.raises(ValueError) as error:
            attach_se(model, where, reduction=reduction)
        assert all(fact in str(error.value) for fact in facts), (where, str(error.value))
        assert repr(model) == before, where
