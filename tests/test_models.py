"""The registry: every network's counts, one network of each kind trained, every option and every invalid value, and
trained weights by name."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from senet_lib.errors import DamagedFile, UserError
from senet_lib.metrics import count_macs, count_params, run_on_meta
from senet_lib.models import create_model, family_name, list_models, resolve_knobs
from senet_lib.models.arch import ARCHS, FAMILIES
from senet_lib.models.blocks import SelectiveKernelConv, SqueezeExcitation
from senet_lib.models.registry import NETWORKS, PAPER_NAMES, resolve_arch
from senet_lib.models.resnet import build, initialise
from senet_lib.models.weights import CONFIG, SUMMARY, WEIGHTS, list_weights
from senet_lib.project import project_root
from senet_lib.results import layout

FAMILY_NETWORKS = [name for name in list_models() if not name.startswith("source_")]  # test_source_notes.py has those
STEMS = ("cifar", "imagenet")
# One arch of each kind of block and stem, and a width at which it trains quickly
KINDS = {
    "resnet20": 0.5,
    "resnet50": 1 / 16,
    "resnext50_32x4d": 1 / 16,
    "preresnet110": 0.5,
    "preresnet164": 0.25,
    "fast": 0.25,
}
with (Path(__file__).parent / "golden" / "complexity.csv").open() as file:
    GOLDEN = {(row["name"], row["stem"]): (int(row["params"]), int(row["macs"])) for row in csv.DictReader(file)}


def named(family, arch):
    return PAPER_NAMES.get(family + arch, family + arch)


def on_meta(name, **knobs):
    """The network without values: shapes only."""
    with torch.device("meta"):
        return create_model(name, **knobs)


def short(name, **knobs):
    """The network with at most two blocks per stage: the first changes the shape, the later ones repeat the second."""
    knobs = resolve_knobs(name, **knobs)
    arch = resolve_arch(name, knobs)
    depths = tuple(min(depth, 2) for depth in arch.depths)
    model = build(replace(arch, depths=depths), NETWORKS[name].family, knobs, 10)
    initialise(model, knobs["init"])
    return model


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def no_initialisation(monkeypatch):
    """Layers on the meta device have no values; skipping their initialisation saves most of the construction time."""
    for kind in (nn.Conv2d, nn.Linear):
        monkeypatch.setattr(kind, "reset_parameters", lambda self: None)


# The registry


def test_registry_is_families_times_archs():
    assert set(FAMILY_NETWORKS) == {named(family, arch) for family in FAMILIES for arch in ARCHS}
    assert set(GOLDEN) == {(name, stem) for name in FAMILY_NETWORKS for stem in STEMS}
    for systematic, name in PAPER_NAMES.items():
        assert systematic not in NETWORKS
        assert NETWORKS[name].family == FAMILIES["sk_"]
        assert NETWORKS[name].arch is ARCHS[systematic.removeprefix("sk_")]


def test_list_models_filters_by_pattern():
    assert list_models("se_*") == sorted(f"se_{arch}" for arch in ARCHS)
    assert list_models("sknet*") == ["sknet101", "sknet26", "sknet50"]
    assert list_models("none*") == []
    assert list_models() == sorted(list_models())


def test_family_names_follow_the_registry():
    prefixes = {"resnet": "", "se": "se_", "sk": "sk_", "sk+se": "sk_se_"}
    for family, prefix in prefixes.items():
        for arch in ARCHS:
            assert family_name(named(prefix, arch)) == family, (family, arch)
    noted = {name: family_name(name) for name in ("source_a_resnet50", "source_a_sknet50", "source_d_senet152")}
    assert noted == {"source_a_resnet50": "resnet", "source_a_sknet50": "sk", "source_d_senet152": "se"}
    assert family_name("source_b_network") == family_name("se_of_another_library") == "other"


def test_registry_imports_no_torch():
    code = (
        "import sys, senet_lib.models as m; m.resolve_knobs('sknet50', branches=3); m.family_name('sknet50');"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def counts_by_block(name, stem):
    """(params, macs) of the network with at most two blocks per stage, and of the second block of each stage."""
    with torch.device("meta"):
        model = short(name, stem=stem)
    with FlopCounterMode(display=False) as counter:
        run_on_meta(model, (3, 32, 32))
    macs = {path: sum(flops.values()) // 2 for path, flops in counter.get_flop_counts().items()}
    second = [
        (count_params(stage[1]), macs[f"ResNet.stages.{i}.1"]) if len(stage) > 1 else (0, 0)
        for i, stage in enumerate(model.stages)
    ]
    return (count_params(model), macs["Global"]), second


def test_counts_match_golden_table(no_initialisation):
    """Networks that differ only in depth are counted once, block by block. The slow test counts every network whole."""
    kinds = {}
    for name in FAMILY_NETWORKS:
        network = NETWORKS[name]
        kinds.setdefault((network.family, replace(network.arch, depths=())), []).append(name)
    for (_, arch), names in kinds.items():
        for stem in STEMS if any(replace(ARCHS[kind], depths=()) == arch for kind in KINDS) else STEMS[:1]:
            whole, second = counts_by_block(names[0], stem)
            for name in names:
                more = [max(0, depth - 2) for depth in NETWORKS[name].arch.depths]
                repeated = [sum(n * block[i] for n, block in zip(more, second, strict=True)) for i in (0, 1)]
                assert (whole[0] + repeated[0], whole[1] + repeated[1]) == GOLDEN[name, stem], (name, stem)
    for arch in ARCHS:
        assert count_params(on_meta(f"se_{arch}")) == GOLDEN[f"se_{arch}", "cifar"][0], arch


@pytest.mark.slow
def test_full_depth_counts_match_golden_table():
    for (name, stem), expected in GOLDEN.items():
        model = on_meta(name, stem=stem)
        assert (count_params(model), count_macs(model, (3, 32, 32))) == expected, (name, stem)


def check_gradients(model, batch, case):
    """One training step on images of 32x32 pixels: a finite loss, and a gradient for every parameter."""
    loss = F.cross_entropy(model.train()(torch.randn(batch, 3, 32, 32)), torch.arange(batch))
    loss.backward()
    assert loss.isfinite(), case
    missing = [path for path, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing, (case, missing)


def test_every_kind_runs_and_trains():
    """All families, kinds of block and stems, at 28, 32 and 64 pixels, with batches of 1 and 4."""
    for family, arch, stem in [(family, arch, stem) for family in FAMILIES for arch in KINDS for stem in STEMS]:
        case = name, _ = named(family, arch), stem
        model = short(name, stem=stem, width=KINDS[arch], **({"reduction": 4} if "se" in family else {}))
        check_gradients(model, 4, case)
        # A few SE units are inactive at random weights, so the gradients of their weights are zero.
        zeros = [path for path, p in model.named_parameters() if not p.grad.any() and "gate.fc" not in path]
        assert not zeros, (case, zeros)
        model.eval()
        with torch.no_grad():
            for size in (28, 64):
                assert model(torch.randn(1, 3, size, size)).shape == (1, 10), case


@pytest.mark.slow
def test_deep_networks_train():
    for name in ("resnet152", "se_preresnet110", "sk_se_resnet110"):
        check_gradients(create_model(name, width=0.125 if name == "resnet152" else 1), 2, name)


def test_weights_depend_on_seed_only():
    for name, width in (("resnet20", 1), ("sk_se_resnet20", 1), ("sknet26", 0.125), ("wrn16_8", 0.125)):
        states = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            states.append(create_model(name, width=width).state_dict())
        first, again, other = states
        assert all(torch.equal(first[key], again[key]) for key in first), name
        assert not torch.equal(first["head.weight"], other["head.weight"]), name


def test_initialisation_is_kaiming_fan_out():
    for init, variance in (("kaiming", 2 / (512 * 9)), ("pytorch", 1 / (3 * 512 * 9))):
        weight = create_model("resnet18", init=init).stages[3][1].body[0][0].weight  # 512 -> 512, 3x3
        assert weight.std().item() == pytest.approx(variance**0.5, rel=0.01)
    for name in ("resnet56", "se_resnet56", "sk_resnet56", "preresnet110"):
        logits = create_model(name).train()(torch.randn(4, 3, 32, 32))
        assert 0.05 < logits.std() < 20, name


# Limit cases that tie the families together


def test_open_gates_equal_plain_network():
    x = torch.randn(2, 3, 32, 32)
    for arch, placement in [
        (arch, placement)
        for arch in ("resnet20", "preresnet110", "resnet50")
        for placement in ("standard", "pre", "post", "identity")
    ]:
        width = 2 * KINDS[arch]
        plain = short(arch, width=width).eval()
        gated = short(f"se_{arch}", width=width, placement=placement, reduction=4).eval()
        missing = gated.load_state_dict(plain.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert all(".gate." in key for key in missing.missing_keys)
        for module in gated.modules():
            if isinstance(module, SqueezeExcitation):
                nn.init.zeros_(module.fc2.weight)
                nn.init.constant_(module.fc2.bias, 50.0)  # sigmoid(50) is 1 in single precision
        with torch.no_grad():
            torch.testing.assert_close(gated(x), plain(x), rtol=1e-5, atol=1e-5, msg=lambda m, a=arch: f"{a}: {m}")


def test_one_branch_equals_plain_network():
    x = torch.randn(2, 3, 32, 32)
    for arch in ("resnet20", "preresnet110", "resnet50", "resnext50_32x4d"):
        plain = short(arch, width=2 * KINDS[arch]).eval()
        one = short(named("sk_", arch), width=2 * KINDS[arch], branches=1).eval()
        one.load_state_dict(dict(zip(one.state_dict(), plain.state_dict().values(), strict=True)))
        with torch.no_grad():
            assert torch.equal(one(x), plain(x)), arch
        assert count_macs(one) == count_macs(plain), arch


# Options


def test_se_options_change_the_function():
    x = torch.randn(2, 3, 32, 32)
    for option, values in {
        "placement": ("standard", "pre", "post", "identity", "after_3x3"),
        "squeeze": ("avg", "max", "none"),
        "excitation": ("sigmoid", "tanh", "relu"),
    }.items():
        outputs, params = [], set()
        for value in values:
            torch.manual_seed(0)
            model = short("se_resnet50", width=0.25, **{option: value}).eval()
            params.add(count_params(model))
            with torch.no_grad():
                outputs.append(model(x))
        for i, a in enumerate(outputs):
            for j in range(i):
                assert not torch.allclose(a, outputs[j], rtol=1e-2), (option, values[i], values[j])
        assert option == "placement" or len(params) == 1, option


def test_se_options_change_the_blocks():
    body = on_meta("se_resnet50", placement="after_3x3").stages[0][0].body
    assert [type(part).__name__ for part in body] == ["Sequential", "Sequential", "SqueezeExcitation", "Sequential"]
    assert body[1][0].kernel_size == (3, 3) and body[2].fc1.in_features == 64 and body[3][0].kernel_size == (1, 1)

    # (2 / r) sum_s N_s C_s^2, Hu et al. 2018, equation 5: without biases
    arch = ARCHS["resnet50"]
    for reduction in (2, 16):
        added = sum(2 * n * c * (c // reduction) for n, c in zip(arch.depths, arch.outs, strict=True))
        gated = count_params(on_meta("se_resnet50", reduction=reduction, se_bias=False))
        assert gated - GOLDEN["resnet50", "cifar"][0] == added, reduction
    biases = 3 * (16 + 1) + 3 * (32 + 2) + 3 * (64 + 4)
    assert GOLDEN["se_resnet20", "cifar"][0] - count_params(on_meta("se_resnet20", se_bias=False)) == biases


def test_sk_options_change_the_blocks():
    sk = on_meta("sknet26", branches=3, reduction=8, min_hidden=20, select_bias=True, groups=16).stages[0][0].body[1]
    assert [branch[0].dilation for branch in sk.branches] == [(1, 1), (2, 2), (3, 3)]
    assert {branch[0].groups for branch in sk.branches} == {16}
    assert sk.fuse.out_features == max(128 // 8, 20)
    assert sk.select.bias is not None
    mixed = on_meta("sknet26", kernels="3x3+5x5g64").stages[0][0].body[1]
    assert [(b[0].kernel_size, b[0].groups) for b in mixed.branches] == [((3, 3), 32), ((5, 5), 64)]


def test_sk_se_networks_have_both():
    model = on_meta("sk_se_resnet50", reduction=4, sk_reduction=2)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(SqueezeExcitation) == kinds.count(SelectiveKernelConv) == 16
    block = model.stages[3][0]
    assert block.gate.fc1.out_features == 2048 // 4
    assert block.body[1].fuse.out_features == 512 // 2


def test_padded_shortcuts_have_no_parameters():
    for name in ("resnet20", "resnet164", "preresnet110", "preresnet164", "resnet18"):
        with torch.device("meta"):
            padded, projected = (short(name, shortcut=kind) for kind in ("padded", "projection"))
        run_on_meta(padded, (3, 28, 28))
        assert not any("shortcut" in path for path, _ in padded.named_parameters()), name
        projections = sum(p.numel() for path, p in projected.named_parameters() if "shortcut" in path)
        assert count_params(projected) - count_params(padded) == projections > 0, name


def test_width_scales_channels_and_groups():
    for name in ("resnet20", "resnet18", "sk_resnet18", "resnet50", "resnext50_32x4d", "sknet50"):
        with torch.device("meta"):
            full, *scaled = (short(name, width=width) for width in (1, 0.25, 1.22, 2))
        for width, model in zip((0.25, 1.22, 2), scaled, strict=True):
            assert model.head.in_features == round(NETWORKS[name].arch.outs[-1] * width), (name, width)
            run_on_meta(model, (3, 32, 32))
            ratio = count_params(model) / count_params(full)
            assert 0.75 * min(width, width**2) < ratio < 1.3 * max(width, width**2), (name, width)
    for width in (0.1, 0.25, 0.3, 0.7, 1.3):
        arch = ARCHS["resnext50_32x4d"].scaled(width)
        assert arch.groups == max(1, round(32 * width))
        assert not any(channels % arch.groups for channels in arch.widths)
    for name, groups in (("resnet20", 1), ("sk_resnet20", 1), ("resnext29_8x64d", 16)):
        spatial = [
            module
            for path, module in on_meta(name, width=2).named_modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and not path.startswith("stem")
        ]
        assert {conv.groups for conv in spatial} == {groups}, name


def test_fast_computes_as_documented():
    """A 2x2 stem without padding; every stage: 3x3 -> max-pool -> BN -> ReLU; in the last two a block
    relu(x + BN(3x3(relu(BN(3x3(x)))))). 36 pixels become 35 after the stem and then 17, 8, 4."""
    model = create_model("fast", width=0.25).eval()

    def conv_bn(x, padding=1, pool=False):
        x = F.conv2d(x, next(weights), padding=padding)
        x = F.max_pool2d(x, 2) if pool else x
        scale, shift, mean, variance = (next(weights) for _ in range(4))
        return F.batch_norm(x, mean, variance, scale, shift)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
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


def test_fast_accepts_small_images_and_options():
    for stem, size in (("cifar", 8), ("imagenet", 28)):  # the last map has one pixel before its pooling
        run_on_meta(on_meta("sk_se_fast", stem=stem), (3, size, size))
    # The first stage has 56 channels, which 16 does not divide and 64 does not reduce, but it has no block.
    run_on_meta(on_meta("sk_fast", groups=16), (3, 32, 32))
    run_on_meta(on_meta("se_fast", reduction=64), (3, 32, 32))


def test_resolved_options_are_complete():
    for name in list_models():
        knobs = resolve_knobs(name)
        assert set(knobs) == set(NETWORKS[name].knobs), name
        assert all(type(value) in (str, int, float, bool) for value in knobs.values()), name
        assert resolve_knobs(name, **knobs) == knobs, name
    assert resolve_knobs("sknet50", kernels="3x3+5x5+7x7")["branches"] == 3
    assert resolve_knobs("sknet50", branches=3)["kernels"] == "3x3+3x3d2+3x3d3"
    assert resolve_knobs("sknet50", width=0.25)["groups"] == 8
    assert repr(resolve_knobs("resnet20", width=2)["width"]) == "2.0", "2 and 2.0 are one configuration"


INVALID = [  # network, options, facts in the message
    ("resnet21", {}, ["'resnet21'", "'resnet20'"]),
    ("vgg", {}, ["'vgg'", "preresnet110", "sknet50"]),
    ("se_resnet20", {"redction": 8}, ["'redction'", "8", "'reduction'"]),
    ("resnet20", {"reduction": 8}, ["resnet20", "'reduction'", "stem, width, shortcut"]),
    ("resnet20", {"branches": 2}, ["'branches'"]),
    ("se_resnet20", {"reduction": 17}, ["reduction=17", "16 channels", "1 to 16"]),
    ("se_resnet20", {"width": 0.5}, ["reduction=16", "8 channels", "1 to 8"]),
    ("se_resnet20", {"reduction": 0}, ["reduction=0", "integer from 1"]),
    ("se_resnet20", {"reduction": 2.5}, ["reduction=2.5"]),
    ("se_resnet20", {"reduction": True}, ["reduction=True"]),
    ("se_resnet20", {"reduction": "16"}, ["reduction='16'"]),
    ("se_resnet20", {"placement": "inside"}, ["placement='inside'", "standard, pre"]),
    (
        "se_resnet20",
        {"placement": "after_3x3"},
        ["se_resnet20", "placement='after_3x3'", "bottleneck", "standard, pre"],
    ),
    ("se_resnet20", {"squeeze": "median"}, ["squeeze='median'", "avg, max, none"]),
    ("se_resnet20", {"excitation": "gelu"}, ["excitation='gelu'", "sigmoid, tanh, relu"]),
    ("se_resnet20", {"se_bias": "yes"}, ["se_bias='yes'", "true or false"]),
    ("sknet50", {"groups": 7}, ["groups=7", "128", "1, 2, 4, 8"]),
    ("sk_resnet20", {"groups": 32}, ["groups=32", "16", "1, 2, 4, 8, 16"]),
    ("sknet50", {"kernels": "3x3+5x5g3"}, ["groups=3"]),
    ("sknet50", {"kernels": "3x3+4x4"}, ["kernels='3x3+4x4'", "odd", "'3x3+5x5g64'"]),
    ("sknet50", {"kernels": ["3x3"]}, ["kernels=['3x3']"]),
    ("sknet50", {"kernels": "3x3+5x5", "branches": 3}, ["branches=3", "kernels='3x3+5x5'", "2"]),
    ("sknet50", {"branches": 0}, ["branches=0"]),
    ("sk_resnet20", {"min_hidden": 0}, ["min_hidden=0"]),
    ("resnet20", {"stem": "mnist"}, ["stem='mnist'", "cifar, imagenet"]),
    ("resnet20", {"width": 0}, ["width=0", "positive"]),
    ("resnet20", {"width": float("nan")}, ["width=nan"]),
    ("resnet20", {"shortcut": "option_a"}, ["shortcut='option_a'", "projection, padded"]),
    ("resnet20", {"num_classes": 0}, ["num_classes=0"]),
]


def test_invalid_options_are_rejected():
    for name, knobs, facts in INVALID:
        with pytest.raises(ValueError) as error:
            create_model(name, **knobs)
        missing = [fact for fact in facts if fact not in str(error.value)]
        assert not missing, (name, knobs, missing, str(error.value))


# Trained weights by name

PUBLISHED = project_root() / "results" / "published"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The published runs of `thin` in a folder of their own."""
    monkeypatch.setenv("SENET_ROOT", str(tmp_path))
    folder = tmp_path / "results" / "published" / "thin"
    for name in list_names(PUBLISHED / "thin"):
        shutil.copytree(PUBLISHED / "thin" / "runs" / name, folder / "runs" / name)
    shutil.copyfile(PUBLISHED / "thin" / "study.json", folder / "study.json")
    return folder


def list_names(study):
    return [path.parent.name for path in study.glob(f"runs/*/{WEIGHTS}")]


def test_published_weights_load_by_name(published):
    """In full, and short; the network has the parameters that the run recorded."""
    assert (WEIGHTS, SUMMARY) == (layout.WEIGHTS, layout.SUMMARY) and CONFIG in layout.RECORDED_FILES
    assert len(list_weights()) >= 5
    for name in list_weights():
        config = json.loads((published / "runs" / name.partition("/")[2] / CONFIG).read_text())
        model = create_model(config["model"], weights=name)
        assert (
            count_params(model) == json.loads((published / "runs" / config["run_id"] / SUMMARY).read_text())["params"]
        )
        assert model.head.out_features == 10, name
    model, short = (create_model("sk_resnet20", weights=f"thin/{run}") for run in ("sk_resnet20-seed0", "seed0"))
    assert all(torch.equal(value, short.state_dict()[key]) for key, value in model.state_dict().items())
    reduced = create_model("se_resnet20", weights="thin/se_resnet20_r4-seed0", reduction=4, num_classes=10)
    assert reduced.stages[0][0].gate.fc1.out_features == 4


def test_wrong_weights_are_refused(published, monkeypatch):
    for name, options, facts in (
        ("sk_resnet20", {"weights": "thinn/seed0"}, ["'thinn/seed0'", "'thin/sk_resnet20-seed0'"]),
        ("sk_resnet20", {"weights": "thin/seed1"}, ["'thin/seed1'", "'thin/sk_resnet20-seed0'"]),
        ("sk_resnet20", {"weights": True}, ["weights=True", "'thin/seed0'"]),
        ("sk_resnet21", {"weights": "thin/seed0"}, ["'sk_resnet21'", "'sk_resnet20'"]),
        ("resnet20", {"weights": "thin/sk_resnet20-seed0"}, ["'sk_resnet20'", "'resnet20'"]),
        ("se_resnet20", {"weights": "thin/seed0", "reduction": 4}, ["reduction=4", "reduction=16"]),
        ("se_resnet20", {"weights": "thin/seed0", "redction": 4}, ["'redction'", "'reduction'"]),
        ("se_resnet20", {"weights": "thin/seed0", "num_classes": 100}, ["num_classes=100", "num_classes=10"]),
    ):
        with pytest.raises(UserError) as error:
            create_model(name, **options)
        missing = [fact for fact in facts if fact not in str(error.value)]
        assert not missing, (name, options, missing, str(error.value))
    monkeypatch.setenv("SENET_ROOT", str(published.parent / "elsewhere"))
    assert list_weights() == []
    with pytest.raises(UserError, match="checkout.*SENET_ROOT"):
        create_model("sk_resnet20", weights="thin/seed0")


def test_flipped_byte_in_weights_is_found(published):
    for name in (WEIGHTS, CONFIG):
        path = published / "runs" / "sk_resnet20-seed0" / name
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match=f"{name}.*sha256"):
            create_model("sk_resnet20", weights="thin/seed0")
        content[-9] ^= 1
        path.write_bytes(content)
    create_model("sk_resnet20", weights="thin/seed0")
    (published / "study.json").write_text("{}")
    with pytest.raises(DamagedFile, match="study.json.*classes"):
        create_model("sk_resnet20", weights="thin/seed0")
