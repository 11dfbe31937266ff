"""SE blocks put into torchvision's and timm's networks."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from senet_lib.metrics import count_macs, count_params
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


@pytest.mark.parametrize("name", SE_PLACES)
def test_every_table_fits_its_network(name):
    with torch.device("meta"):
        model = backbone(name)
    size = (3, pixels(name), pixels(name))
    params, macs = count_params(model), count_macs(model, size)
    attach_se(model, name, input_size=size)
    blocks = se_blocks(model)
    assert len(blocks) == BLOCKS[name]
    assert count_params(model) - params == sum(p.numel() for block in blocks for p in block.parameters())
    added = sum(2 * block.fc1.in_features * block.fc1.out_features for block in blocks)
    assert count_macs(model, size) - macs == added  # each FC once an image: every block is run, once
    assert added < 0.01 * macs  # source A: SE adds less than 1 % of the compute


@pytest.mark.parametrize("name", ["googlenet", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_weights_are_kept_and_open_gates_change_nothing(name):
    torch.manual_seed(0)
    model = backbone(name).eval()
    x = torch.randn(2, 3, 64, 64)
    before = {tuple(v.shape): v.clone() for v in model.state_dict().values()}
    with torch.no_grad():
        expected = model(x)
        assert attach_se(model, name) is model
        assert not torch.allclose(model(x), expected, atol=0)
        for block in se_blocks(model):
            nn.init.zeros_(block.fc2.weight)
            nn.init.constant_(block.fc2.bias, 50.0)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=0)
    assert set(before) <= {tuple(v.shape) for v in model.state_dict().values()}


def test_backbone_and_blocks_train_together():
    model = attach_se(backbone("shufflenet_v2_x1_0"), "shufflenet_v2_x1_0").train()
    assert all(block.training for block in se_blocks(model))
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_resnet_with_se_after_the_last_bn_is_our_se_resnet():
    ours = torchvision.models.resnet18(weights=None)
    attach_se(ours, "layer*.*.bn2")
    from senet_lib.models import create_model

    with torch.device("meta"):
        expected = count_params(create_model("se_resnet18", stem="imagenet", num_classes=1000))
    assert count_params(ours) == expected
    assert isinstance(ours.layer1[0].bn2, nn.Sequential) and ours.layer1[0].bn2[1].fc1.in_features == 64


def test_knobs_reach_the_blocks():
    model = attach_se(
        torchvision.models.resnet18(weights=None),
        ["layer4.1.bn2"],
        reduction=4,
        squeeze="max",
        excitation="tanh",
        bias=False,
    )
    (block,) = se_blocks(model)
    assert block.fc1.out_features == 128 and block.fc1.bias is None
    assert (block.squeeze, block.excitation) == ("max", "tanh")


def test_the_mode_of_the_network_stays():
    model = torchvision.models.resnet18(weights=None).train()
    model.layer1.eval()
    attach_se(model, ["layer1.0.bn2", "layer2.0.bn2"])
    assert model.training and not model.layer1[0].bn2.training and model.layer2[0].bn2[1].training
    assert not model.layer1[0].bn2[1].training


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("layer1.0.bn3", r"no module 'layer1.0.bn3' in this ResNet; did you mean 'layer1.0.bn2'"),
        ("resnet", r"no module 'resnet' in this ResNet; "),
        ("layer5.*.bn2", r"no module 'layer5.\*.bn2'"),
        (["layer1.0.bn2", "layer1.*.bn2"], r"where names layer1.0.bn2 more than once"),
        ("fc", r"fc gives \(1, 1000\); an SE block needs one tensor \(N, C, H, W\)"),
    ],
)
def test_a_wrong_place_is_refused_and_nothing_is_changed(where, message):
    model = torchvision.models.resnet18(weights=None)
    before = repr(model)
    with pytest.raises(ValueError, match=message):
        attach_se(model, where)
    assert repr(model) == before


def test_a_module_that_is_never_run_is_refused():
    model = torchvision.models.googlenet(weights=None, init_weights=False)  # aux1 runs in training mode only
    with pytest.raises(ValueError, match="aux1.conv is not run"):
        attach_se(model, "aux1.conv")


def test_too_few_channels_for_the_reduction_are_refused_and_nothing_is_changed():
    model = torchvision.models.mobilenet_v2(weights=None)
    with pytest.raises(ValueError, match="reduction=32 leaves no hidden unit for 16 channels"):
        attach_se(model, "mobilenet_v2", reduction=32)
    assert not se_blocks(model)
