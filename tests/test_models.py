"""Every network of the registry, with both stems; every knob; every wrong value.

Every network is built and counted at full depth on the meta device. Those that differ in depth alone are run and
trained once, with two blocks a stage.
"""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from senet_lib.metrics import count_macs, count_params, run_on_meta
from senet_lib.models import create_model, list_models, resolve_knobs
from senet_lib.models.arch import ARCHS, FAMILIES
from senet_lib.models.blocks import SelectiveKernelConv, SqueezeExcitation
from senet_lib.models.registry import NETWORKS, PAPER_NAMES

FAMILY_NETWORKS = [name for name in list_models() if not name.startswith("source_")]  # test_source_notes.py has those
STEMS = ("cifar", "imagenet")
with (Path(__file__).parent / "golden" / "complexity.csv").open() as file:
    GOLDEN = {(row["name"], row["stem"]): (int(row["params"]), int(row["macs"])) for row in csv.DictReader(file)}


def on_meta(name, **knobs):
    """The network without weights: shapes only."""
    with torch.device("meta"):
        return create_model(name, **knobs)


def narrow(name):
    """A width at which the network trains in a moment; the thin ones keep theirs (SE needs 16 channels)."""
    arch = NETWORKS[name].arch
    return min(1.0, 256 / max(arch.widths + arch.outs))


def shortened(model):
    """The network with two blocks a stage: the first changes the shape, the later ones repeat the second."""
    for i, stage in enumerate(model.stages):
        model.stages[i] = stage[:2]
    return model


def unlike_networks():
    """One network of those that differ in depth alone: shortened, they are the same."""
    shapes = {name: (NETWORKS[name].family, replace(NETWORKS[name].arch, depths=())) for name in FAMILY_NETWORKS}
    return sorted({shape: name for name, shape in shapes.items()}.values())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# The registry


def test_every_family_has_every_arch():
    assert len(FAMILY_NETWORKS) == len(FAMILIES) * len(ARCHS)
    assert set(GOLDEN) == {(name, stem) for name in FAMILY_NETWORKS for stem in STEMS}


def test_list_models_takes_a_pattern():
    assert list_models("se_*") == sorted(f"se_{arch}" for arch in ARCHS)
    assert list_models("sknet*") == ["sknet101", "sknet26", "sknet50"]
    assert list_models("none*") == []
    assert list_models() == sorted(list_models())


def test_paper_names_stand_for_a_family_and_an_arch_once():
    for systematic, name in PAPER_NAMES.items():
        assert systematic not in NETWORKS
        assert NETWORKS[name].family == FAMILIES["sk_"]
        assert NETWORKS[name].arch is ARCHS[systematic.removeprefix("sk_")]


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", FAMILY_NETWORKS)
def test_params_and_macs_are_the_golden_ones(name, stem):
    model = on_meta(name, stem=stem)
    assert (count_params(model), count_macs(model, (3, 32, 32))) == GOLDEN[name, stem]


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", unlike_networks())
def test_runs_and_trains(name, stem):
    """28, 32, 64 and 224 pixels, one image and four; every parameter gets a gradient."""
    model = shortened(create_model(name, stem=stem, width=narrow(name))).train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 3, 5, 9]))
    loss.backward()
    assert loss.isfinite()
    untouched = [path for path, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not untouched
    # A few SE units are dead at random weights (r = 16 leaves thin networks one), and a dead unit's weights get zeros.
    zeros = [path for path, p in model.named_parameters() if not p.grad.any() and "gate.fc" not in path]
    assert not zeros

    model.eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 28, 28)).shape == (1, 10)
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)
        assert model.to("meta")(torch.empty(4, 3, 224, 224, device="meta")).shape == (4, 10)


@pytest.mark.parametrize("name", ["resnet152", "se_preresnet110", "sk_se_resnet110"])
def test_runs_and_trains_at_full_depth(name):
    model = create_model(name, width=narrow(name)).train()
    F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 3])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "sk_resnet20", "sknet26", "preresnet110", "wrn16_8"])
def test_the_seed_decides_the_weights(name):
    width = narrow(name)
    torch.manual_seed(1)
    first = create_model(name, width=width).state_dict()
    torch.manual_seed(1)
    again = create_model(name, width=width).state_dict()
    other = create_model(name, width=width).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_kaiming_initialisation_is_fan_out():
    model = create_model("resnet18")
    weight = model.stages[3][1].body[0][0].weight  # 512 -> 512, 3x3
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    untouched = create_model("resnet18", init="pytorch").stages[3][1].body[0][0].weight
    assert untouched.std().item() == pytest.approx((1 / (3 * 512 * 9)) ** 0.5, rel=0.01)


def test_first_outputs_are_of_moderate_size():
    for name in ("resnet56", "se_resnet56", "sk_resnet56", "preresnet110", "resnet18"):
        logits = create_model(name).train()(torch.randn(16, 3, 32, 32))
        assert 0.05 < logits.std() < 20, name


# Limit cases that tie the families together


def copy_shared(source: nn.Module, target: nn.Module) -> None:
    """Weights that go by the same path in both; the others must be SE's."""
    missing = target.load_state_dict(source.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(".gate." in key for key in missing.missing_keys)


@pytest.mark.parametrize("arch", ["resnet20", "preresnet110", "resnet50"])
@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity"])
def test_se_with_open_gates_is_the_plain_network(arch, placement):
    width = narrow(arch)
    plain = create_model(arch, width=width).eval()
    gated = create_model(f"se_{arch}", width=width, placement=placement, reduction=4).eval()
    copy_shared(plain, gated)
    for module in gated.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.zeros_(module.fc2.weight)
            nn.init.constant_(module.fc2.bias, 50.0)  # sigmoid(50) is 1 in single precision
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(gated(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["resnet20", "preresnet110", "resnet50", "resnext50_32x4d"])
def test_sk_with_one_branch_is_the_plain_network(arch):
    name = PAPER_NAMES.get(f"sk_{arch}", f"sk_{arch}")
    width = narrow(arch)
    plain = create_model(arch, width=width).eval()
    one = create_model(name, width=width, branches=1).eval()
    one.load_state_dict(dict(zip(one.state_dict(), plain.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(one(x), plain(x))
    assert count_macs(one) == count_macs(plain)


def test_a_network_with_both_has_both():
    model = create_model("sk_se_resnet20")
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(SqueezeExcitation) == kinds.count(SelectiveKernelConv) == 9


# Knobs


def same_weights(name, **knobs):
    torch.manual_seed(0)
    return create_model(name, width=0.25, **knobs).eval()


def test_every_placement_is_another_function():
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        outputs = {
            placement: same_weights("se_resnet50", placement=placement)(x)
            for placement in ("standard", "pre", "post", "identity", "after_3x3")
        }
    for a in outputs:
        for b in outputs:
            assert a == b or not torch.allclose(outputs[a], outputs[b], rtol=1e-2), (a, b)


@pytest.mark.parametrize(
    ("knob", "values"), [("squeeze", ["avg", "max", "none"]), ("excitation", ["sigmoid", "tanh", "relu"])]
)
def test_squeeze_and_excitation_change_the_function_but_not_the_weights(knob, values):
    x = torch.randn(2, 3, 32, 32)
    models = [same_weights("se_resnet50", **{knob: value}) for value in values]
    assert len({count_params(model) for model in models}) == 1
    with torch.no_grad():
        outputs = [model(x) for model in models]
    assert not any(torch.allclose(a, b, rtol=1e-2) for i, a in enumerate(outputs) for b in outputs[:i])


def test_gate_after_the_3x3_sits_between_the_3x3_and_the_last_1x1():
    body = create_model("se_resnet50", placement="after_3x3").stages[0][0].body
    assert [type(part).__name__ for part in body] == ["Sequential", "Sequential", "SqueezeExcitation", "Sequential"]
    assert body[1][0].kernel_size == (3, 3) and body[2].fc1.in_features == 64 and body[3][0].kernel_size == (1, 1)


def added_by_se(arch, reduction):
    """(2 / r) sum_s N_s C_s^2, Hu et al. 2018, equation 5: without biases."""
    return sum(2 * n * c * (c // reduction) for n, c in zip(arch.depths, arch.outs, strict=True))


@pytest.mark.parametrize("reduction", [2, 4, 8, 16, 32])
def test_reduction_adds_what_the_formula_says(reduction):
    plain = count_params(on_meta("resnet50"))
    gated = count_params(on_meta("se_resnet50", reduction=reduction, se_bias=False))
    assert gated - plain == added_by_se(ARCHS["resnet50"], reduction)


def test_se_biases_are_counted():
    with_bias, without = (count_params(on_meta("se_resnet20", se_bias=bias)) for bias in (True, False))
    assert with_bias - without == 3 * (16 + 1) + 3 * (32 + 2) + 3 * (64 + 4)


def test_sk_knobs_reach_the_blocks():
    model = on_meta("sknet50", branches=3, reduction=8, min_hidden=20, select_bias=True, groups=16)
    sk = model.stages[0][0].body[1]
    assert [branch[0].dilation for branch in sk.branches] == [(1, 1), (2, 2), (3, 3)]
    assert {branch[0].groups for branch in sk.branches} == {16}
    assert sk.fuse.out_features == max(128 // 8, 20)
    assert sk.select.bias is not None
    true_5x5 = on_meta("sknet50", kernels="3x3+5x5g64").stages[0][0].body[1]
    assert [(b[0].kernel_size, b[0].groups) for b in true_5x5.branches] == [((3, 3), 32), ((5, 5), 64)]


def test_with_both_the_plain_reduction_is_se_s():
    block = on_meta("sk_se_resnet50", reduction=4, sk_reduction=2).stages[3][0]
    assert block.gate.fc1.out_features == 2048 // 4
    assert block.body[1].fuse.out_features == 512 // 2


@pytest.mark.parametrize("name", ["resnet20", "resnet164", "preresnet110", "preresnet164", "resnet18"])
def test_padded_shortcuts_have_no_parameters(name):
    padded, projecting = on_meta(name, shortcut="padded"), on_meta(name)
    run_on_meta(padded, (3, 28, 28))
    assert not any("shortcut" in path for path, _ in padded.named_parameters())
    projections = sum(p.numel() for path, p in projecting.named_parameters() if "shortcut" in path)
    assert count_params(projecting) - count_params(padded) == projections > 0


@pytest.mark.parametrize(("name", "groups"), [("resnet20", 1), ("sk_resnet20", 1), ("resnext29_8x64d", 16)])
def test_a_dense_network_stays_dense_however_wide_and_a_grouped_one_gets_more_groups(name, groups):
    spatial = [
        m for m in on_meta(name, width=2).modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert {conv.groups for conv in spatial[1:]} == {groups}  # the first is the stem's


def test_fast_is_convolutions_pools_and_residual_blocks_as_described():
    """A stem of 2x2 without padding; every stage: 3x3 -> max-pool -> BN -> ReLU; the last two then a block
    relu(x + BN(3x3(relu(BN(3x3(x)))))). 36 pixels are 35 behind the stem and then 17, 8, 4."""
    model = create_model("fast", width=0.25).eval()

    def conv_bn(x, padding=1, pool=False):
        x = F.conv2d(x, next(weights), padding=padding)
        x = F.max_pool2d(x, 2) if pool else x
        scale, shift, mean, variance = (next(weights) for _ in range(4))
        return F.batch_norm(x, mean, variance, scale, shift)

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    weights = iter([tensor for tensor in model.state_dict().values() if tensor.is_floating_point()])
    images = torch.randn(2, 3, 36, 36)
    with torch.no_grad():
        x = conv_bn(images, padding=0).relu()
        for block in (False, True, True):
            x = conv_bn(x, pool=True).relu()
            x = (x + conv_bn(conv_bn(x).relu())).relu() if block else x
        expected = x.mean((2, 3)) @ next(weights).T + next(weights)
        assert x.shape[2:] == (4, 4)
        torch.testing.assert_close(model(images), expected)
    assert next(weights, None) is None


@pytest.mark.parametrize(("stem", "size"), [("cifar", 8), ("imagenet", 28)])
def test_fast_leaves_a_map_of_one_pixel_as_it_is(stem, size):
    run_on_meta(on_meta("sk_se_fast", stem=stem), (3, size, size))


def test_a_stage_without_a_block_limits_no_knob():
    """fast's first stage has 56 channels, which neither 16 divides nor 64 reduces; no block sees them."""
    run_on_meta(on_meta("sk_fast", groups=16), (3, 32, 32))
    run_on_meta(on_meta("se_fast", reduction=64), (3, 32, 32))


@pytest.mark.parametrize("width", [0.25, 0.5, 1.22, 2])
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "sk_resnet18", "resnet50", "resnext50_32x4d", "sknet50"])
def test_width_scales_every_channel(name, width):
    model, arch = on_meta(name, width=width), NETWORKS[name].arch
    assert model.head.in_features == round(arch.outs[-1] * width)
    run_on_meta(model, (3, 32, 32))
    ratio = count_params(model) / count_params(on_meta(name))
    assert 0.8 * min(width, width**2) < ratio < 1.25 * max(width, width**2)


def test_groups_scale_with_the_width_and_divide_it():
    for width in (0.1, 0.25, 0.3, 0.7, 1.3):
        arch = ARCHS["resnext50_32x4d"].scaled(width)
        assert arch.groups == max(1, round(32 * width))
        assert not any(channels % arch.groups for channels in arch.widths)


def test_resolved_knobs_are_complete_plain_and_give_the_same_network():
    for name in list_models():
        knobs = resolve_knobs(name)
        assert set(knobs) == set(NETWORKS[name].knobs)
        assert all(type(value) in (str, int, float, bool) for value in knobs.values())
        assert resolve_knobs(name, **knobs) == knobs
    assert resolve_knobs("sknet50", kernels="3x3+5x5+7x7")["branches"] == 3
    assert resolve_knobs("sknet50", branches=3)["kernels"] == "3x3+3x3d2+3x3d3"
    assert resolve_knobs("sknet50", width=0.25)["groups"] == 8


def test_studies_can_be_checked_without_torch():
    import subprocess
    import sys

    code = "import sys, senet_lib.models as m; m.resolve_knobs('sknet50', branches=3); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Bad input


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("resnet21", {}, r"unknown model 'resnet21'; did you mean .*resnet20"),
        ("vgg", {}, r"unknown model 'vgg'; known: fast, preresnet110"),
        ("se_resnet20", {"redction": 8}, r"no option 'redction' \(given: 8\); did you mean 'reduction'"),
        (
            "resnet20",
            {"reduction": 8},
            r"resnet20 has no option 'reduction' \(given: 8\); known: stem, width, shortcut",
        ),
        ("resnet20", {"branches": 2}, r"no option 'branches'"),
        ("se_resnet20", {"reduction": 17}, r"reduction=17 leaves no hidden unit for 16 channels; allowed: 1 to 16"),
        ("se_resnet20", {"width": 0.5}, r"reduction=16 leaves no hidden unit for 8 channels; allowed: 1 to 8"),
        ("se_resnet20", {"reduction": 0}, r"reduction=0 is not allowed; allowed: an integer from 1 up"),
        ("se_resnet20", {"reduction": 2.5}, r"reduction=2.5 is not allowed"),
        ("se_resnet20", {"reduction": True}, r"reduction=True is not allowed"),
        ("se_resnet20", {"reduction": "16"}, r"reduction='16' is not allowed"),
        ("se_resnet20", {"placement": "inside"}, r"placement='inside' is not allowed; allowed: one of standard, pre"),
        (
            "se_resnet20",
            {"placement": "after_3x3"},
            r"placement='after_3x3' needs a bottleneck.*allowed here: standard",
        ),
        ("se_resnet18", {"placement": "after_3x3"}, r"placement='after_3x3' needs a bottleneck"),
        ("se_resnet20", {"squeeze": "median"}, r"squeeze='median' is not allowed; allowed: one of avg, max, none"),
        ("se_resnet20", {"excitation": "gelu"}, r"excitation='gelu' is not allowed"),
        ("se_resnet20", {"se_bias": "yes"}, r"se_bias='yes' is not allowed; allowed: true or false"),
        ("sknet50", {"groups": 7}, r"groups=7 does not divide the width 128; allowed: 1, 2, 4, 8"),
        ("sk_resnet20", {"groups": 32}, r"groups=32 does not divide the width 16; allowed: 1, 2, 4, 8, 16"),
        ("sknet50", {"kernels": "3x3+5x5g3"}, r"groups=3 does not divide"),
        ("sknet50", {"kernels": "3x3+4x4"}, r"kernels='3x3\+4x4'.*odd kernels"),
        ("sknet50", {"kernels": ["3x3"]}, r"kernels=\['3x3'\] is not allowed"),
        ("sknet50", {"kernels": "3x3+5x5", "branches": 3}, r"branches=3 but kernels='3x3\+5x5' has 2"),
        ("sknet50", {"branches": 0}, r"branches=0 is not allowed"),
        ("sk_resnet20", {"min_hidden": 0}, r"min_hidden=0 is not allowed"),
        ("resnet20", {"stem": "mnist"}, r"stem='mnist' is not allowed; allowed: one of cifar, imagenet"),
        ("resnet20", {"width": 0}, r"width=0 is not allowed; allowed: a positive number"),
        ("resnet20", {"width": float("nan")}, r"width=nan is not allowed"),
        ("resnet20", {"shortcut": "option_a"}, r"shortcut='option_a' is not allowed"),
        ("resnet20", {"num_classes": 0}, r"num_classes=0 is not allowed"),
    ],
)
def test_wrong_input_names_the_knob_the_value_and_what_is_allowed(name, knobs, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **knobs)
