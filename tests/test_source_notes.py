"""The source notes' networks: each defect is there, does what is said of it, and goes away with one knob."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model, list_models, resolve_knobs
from senet_lib.models.registry import SOURCE_NOTES

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def same_weights(target: nn.Module, source: nn.Module) -> nn.Module:
    """`target` with the weights of `source`, in order: paths may differ, shapes may not."""
    state = target.state_dict()
    assert [v.shape for v in state.values()] == [v.shape for v in source.state_dict().values()]
    target.load_state_dict(dict(zip(state, source.state_dict().values(), strict=True)))
    return target


def equal_outputs(name, twin, size, **knobs):
    """Whether `name` with these knobs and `twin`, a model, are one function of images of this size."""
    found = create_model(name, **knobs).eval()
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        return torch.allclose(found(x), same_weights(twin, found).eval()(x), rtol=1e-4, atol=1e-5)


# All of them


def test_all_are_registered():
    assert list_models("source_*") == sorted(SOURCE_NOTES)


@pytest.mark.parametrize("name", list_models("source_[abc]*"))
def test_runs_and_trains_on_32x32_images(name):
    knobs = {"filters": 16, "blocks": 3} if name == "source_b_network" else {"width": 0.25}
    model = create_model(name, **knobs).train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 3, 5, 9]))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_d_runs_and_trains_once_corrected(depth):
    knobs = {"pooling": "global", "softmax": False, "width": 0.25} | ({"se_channels": "out"} if depth >= 50 else {})
    model = create_model(f"source_d_senet{depth}", **knobs).train()
    F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 3, 5, 9])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", list_models("source_*"))
def test_the_defects_are_knobs_and_on_by_default(name):
    knobs = resolve_knobs(name)
    as_found = {
        "pooling": "fixed",
        "inner_relu": False,
        "squeeze_batch": True,
        "squeeze": "none" if name == "source_b_network" else "avg",
        "log_softmax": True,
        "softmax": True,
        "se_channels": "width",
        "init": "kaiming" if "_d_" in name else "pytorch",
        "stem": "imagenet" if "_d_" in name or "sknet" in name else "cifar",
        "stage1_out": 128 if "2021" in name else 256,
    }
    assert {key: value for key, value in knobs.items() if key in as_found} == {
        key: value for key, value in as_found.items() if key in knobs
    }


# A


def test_a_resnet50_is_resnet50_on_32x32_images_and_fails_on_larger_ones():
    assert equal_outputs("source_a_resnet50", create_model("resnet50", width=0.25), 32, width=0.25)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        create_model("source_a_resnet50", width=0.25).eval()(torch.randn(1, 3, 64, 64))
    assert create_model("source_a_resnet50", width=0.25, pooling="global").eval()(torch.randn(1, 3, 64, 64)).shape == (
        1,
        10,
    )


def test_a_senet50_lacks_one_relu_a_block():
    found, corrected = create_model("source_a_senet50"), create_model("source_a_senet50", inner_relu=True)

    def relus(model):
        return sum(isinstance(module, nn.ReLU) for module in model.modules())

    assert relus(corrected) - relus(found) == 16
    assert count_params(found) == count_params(corrected) == 26_051_834
    assert count_macs(found) == count_macs(corrected)


def test_a_senet50_has_two_convolutions_in_a_row_that_are_one_linear_map():
    last_two = create_model("source_a_senet50", width=0.25).eval().stages[1][1].body[1:].double()
    a, b, zero = (torch.randn(2, 32, 8, 8, dtype=torch.float64) for _ in range(3))
    zero = torch.zeros_like(a)
    affine = last_two(a + b) - last_two(a) - last_two(b) + last_two(zero)
    assert affine.abs().max() < 1e-10
    corrected = create_model("source_a_senet50", width=0.25, inner_relu=True).eval().stages[1][1].body[1:].double()
    assert (corrected(a + b) - corrected(a) - corrected(b) + corrected(zero)).abs().max() > 1e-3


def test_a_senet50_corrected_is_se_resnet50():
    assert equal_outputs("source_a_senet50", create_model("se_resnet50", width=0.25), 32, width=0.25, inner_relu=True)
    assert not equal_outputs("source_a_senet50", create_model("se_resnet50", width=0.25), 32, width=0.25)


def test_a_sknet50_ends_on_single_pixels_with_14_times_less_compute():
    model = create_model("source_a_sknet50")
    sizes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    with torch.no_grad():
        model.eval()(torch.randn(2, 3, 32, 32))
    assert sizes == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert 14 < count_macs(create_model("resnet50")) / count_macs(model) < 14.2
    assert round(count_macs(create_model("source_a_sknet50", stem="cifar")) / 1e6) == 1420


def test_a_sknet50_of_january_2021_has_half_the_first_stage():
    january, today = create_model("source_a_sknet50_2021_01"), create_model("source_a_sknet50")
    assert (count_params(january), count_params(today)) == (25_276_938, 25_466_378)
    assert january.stages[0][2].body[2][0].out_channels == 128 and today.stages[0][2].body[2][0].out_channels == 256
    repaired = create_model("source_a_sknet50_2021_01", stage1_out=256)
    assert count_params(repaired) == 25_466_378


def test_a_sknet50_drops_the_batch_axis_of_a_single_image():
    x = torch.randn(1, 3, 32, 32)
    assert create_model("source_a_sknet50", width=0.25).eval()(x).shape == (10,)
    assert create_model("source_a_sknet50", width=0.25, squeeze_batch=False).eval()(x).shape == (1, 10)


def test_a_sknet50_corrected_is_sknet50():
    twin = create_model("sknet50", width=0.25, select_bias=True)
    knobs = {"stem": "cifar", "squeeze_batch": False}
    assert equal_outputs("source_a_sknet50", twin, 32, width=0.25, **knobs)


# B


def test_b_prints_the_summary_of_the_note():
    summary = repr(create_model("source_b_network")).replace("affine=True, bias=True,", "affine=True,")  # newer PyTorch
    assert summary + "\n" == (GOLDEN / "source_b_summary.txt").read_text()


def test_b_has_the_parameters_and_macs_that_were_counted():
    model = create_model("source_b_network")
    assert count_params(model) == 2_708_106
    assert round(count_macs(model) / 1e6, 1) == 2766.5


@pytest.mark.parametrize(("squeeze", "gate_size"), [("none", (2, 8, 6, 6)), ("avg", (2, 8, 1, 1))])
def test_b_gates_every_pixel_where_a_squeeze_was_meant(squeeze, gate_size):
    block = create_model("source_b_network", filters=8, blocks=2, reduction=4, squeeze=squeeze).res_blocks[0].se_block
    seen = []
    block.fc.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 8, 6, 6)
    y = block(x)
    w, b = seen[0].split(8, dim=1)
    assert w.shape == gate_size
    torch.testing.assert_close(y, x * torch.sigmoid(w) + b)


def test_b_squeeze_costs_no_parameter_and_saves_macs():
    found, meant = create_model("source_b_network"), create_model("source_b_network", squeeze="avg")
    assert count_params(found) == count_params(meant)
    # 9 blocks; FCs 128 -> 8 -> 256, on 32 * 32 pixels or once
    assert count_macs(found) - count_macs(meant) == 9 * (128 * 8 + 8 * 256) * (32 * 32 - 1)


def test_b_log_softmax_does_not_change_the_loss():
    x, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    found = create_model("source_b_network", filters=16, blocks=2).eval()
    logits = same_weights(create_model("source_b_network", filters=16, blocks=2, log_softmax=False), found).eval()
    torch.testing.assert_close(found(x).exp().sum(1), torch.ones(4))
    torch.testing.assert_close(F.cross_entropy(found(x), labels), F.cross_entropy(logits(x), labels))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"filters": 8}, "reduction=16 leaves no hidden unit for 8 channels"),
        ({"blocks": 1}, "blocks=1 is not allowed; allowed: an integer from 2 up"),
        ({"stem": "imagenet"}, "source_b_network has no option 'stem'"),
        ({"squeeze": "max"}, "squeeze='max' is not allowed; allowed: one of none, avg"),
    ],
)
def test_b_refuses(knobs, message):
    with pytest.raises(ValueError, match=message):
        create_model("source_b_network", **knobs)


# C


def test_c_is_the_plain_se_resnet18_on_32x32_images():
    assert equal_outputs("source_c_senet18", create_model("se_resnet18", width=0.25), 32, width=0.25)
    assert count_params(create_model("source_c_senet18")) == 11_263_042


def test_c_pools_over_4x4_pixels_whatever_the_map():
    model = create_model("source_c_senet18", width=0.25).eval()
    maps = torch.randn(2, 128, 6, 6)  # of images of 48 pixels
    torch.testing.assert_close(model.pool(maps), maps[:, :, :4, :4].mean((2, 3)))
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.randn(1, 3, 57, 57))
        with pytest.raises(RuntimeError, match="Output size is too small"):
            model(torch.randn(1, 3, 24, 24))
        assert (
            create_model("source_c_senet18", width=0.25, pooling="global")
            .eval()(torch.randn(1, 3, 57, 57))
            .isfinite()
            .all()
        )


# D


def test_d_raises_on_32x32_images_since_it_pools_over_56_pixels():
    with pytest.raises(RuntimeError, match="Output size is too small"):
        create_model("source_d_senet18", width=0.25)(torch.randn(2, 3, 32, 32))


def test_d_takes_224x224_images_alone():
    model = create_model("source_d_senet18", width=0.25).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 224, 224)).shape == (1, 10)
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 3, 256, 256))


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_d_bottlenecks_fail_at_any_size(depth):
    for pooling, size in (("fixed", 224), ("global", 224), ("global", 64)):
        model = create_model(f"source_d_senet{depth}", width=0.25, pooling=pooling).eval()
        with (
            torch.no_grad(),
            pytest.raises(RuntimeError, match="1x64 and 16x1"),
        ):  # 4C = 64 channels, FCs made for C = 16
            model(torch.randn(1, 3, size, size))


def test_d_gives_probabilities():
    model = create_model("source_d_senet18", width=0.25, pooling="global").eval()
    with torch.no_grad():
        p = model(torch.randn(4, 3, 64, 64))
    torch.testing.assert_close(p.sum(1), torch.ones(4))
    certain = torch.eye(10)[:1]
    assert F.cross_entropy(certain, torch.tensor([0])).item() == pytest.approx(math.log(1 + 9 / math.e))


@pytest.mark.parametrize("depth", [18, 50])
def test_d_corrected_is_se_resnet(depth):
    more = {"se_channels": "out"} if depth >= 50 else {}
    twin = create_model(f"se_resnet{depth}", stem="imagenet", width=0.25)
    assert equal_outputs(f"source_d_senet{depth}", twin, 64, pooling="global", softmax=False, width=0.25, **more)


def test_d_pooling_alone_changes_nothing_at_224():
    fixed = create_model("source_d_senet18", width=0.25).eval()
    free = same_weights(create_model("source_d_senet18", width=0.25, pooling="global"), fixed).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(fixed(x), free(x))
