"""The source code and the shapes of a network that the notebooks show."""

import re

import pytest
import torch

from senet_lib.models import create_model
from senet_lib.models.blocks import ResidualBlock, SelectiveKernelConv, SqueezeExcitation
from senet_lib.models.inspection import describe, last_of_each_stage, shapes, source
from senet_lib.project import project_root
from senet_lib.report import diagrams
from senet_lib.training.runtime import print_device


def test_shapes_follow_the_forward_pass():
    network = create_model("resnet20")
    table = shapes(network, (3, 32, 32), ["head", "stages.2.0", "stem"])
    assert table["module"].tolist() == ["stem", "stages.2.0", "head"]
    assert table["output"].tolist() == ["16 x 32 x 32", "64 x 8 x 8", "10"]
    assert table["params"].tolist()[-1] == 650
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}, "the network itself changed"
    assert not network.stem._forward_hooks
    with pytest.raises(ValueError, match="'stages.9'.*stem"):
        shapes(network, (3, 32, 32), ["stages.9"])


def test_last_block_of_each_stage():
    with torch.device("meta"):
        fast, se_fast, sk_fast, deep = map(create_model, ("fast", "se_fast", "sk_fast", "resnet101"))
    for network in fast, se_fast:
        assert last_of_each_stage(network, ResidualBlock) == ["stages.1.1", "stages.2.1"]
    assert last_of_each_stage(sk_fast, SelectiveKernelConv) == ["stages.1.1.body.0", "stages.2.1.body.0"]
    assert last_of_each_stage(deep, ResidualBlock)[2] == "stages.2.22"


def test_source_shows_the_code_at_a_readable_width():
    assert "def shapes(" in source(shapes).data
    for shown in (SqueezeExcitation.excite, SelectiveKernelConv.attend):  # what the notebooks show
        lines = source(shown).data.splitlines()
        assert lines[0].startswith("def ") and max(map(len, lines)) <= 88, lines


def words(network, *arguments, **options):
    return describe(network, *arguments, **options).alt


def test_residual_blocks_are_described_with_their_shapes():
    with torch.device("meta"):
        plain, wide = create_model("resnet20"), create_model("se_resnext29_16x32d", width=0.5, reduction=8)
        padded, before = create_model("resnet20", shortcut="padded"), create_model("se_wrn16_8", placement="pre")
        after, skipped = (create_model("se_resnet20", placement=placement) for placement in ("post", "identity"))
    text = words(plain, "1.0", image_shape=(3, 48, 40))
    for part in ("Input 16 x 48 x 40", "3x3 conv (stride 2), BN, ReLU (32 x 24 x 20)", "1x1 conv (stride 2), BN"):
        assert part in text, part
    assert describe(plain, "1.0").title == "residual block 2.1"
    assert "identity" in words(plain, "stages.1.1") and "16 channels of zeros" in words(padded, "1.0")
    bottleneck = words(wide, "1.0")
    assert "8 groups" in bottleneck and "SE: 256 to 32 to 256 channels (256 x 16 x 16)" in bottleneck
    assert re.search("1x1 conv, BN, ReLU .*3x3 conv .*1x1 conv, BN .*SE.*sum", bottleneck)
    assert re.search(r"\(1\) BN, ReLU, then SE.*3x3 conv .*identity.*sum", words(before, "0.1"))
    assert re.search("sum.*ReLU, then SE", words(after, "0.1"))
    assert re.search(r"\(2\) SE.*joined by sum", words(skipped, "0.1"))
    assert not any(module._forward_hooks for module in plain.modules())


def test_gates_and_kernels_are_described():
    with torch.device("meta"):
        gated = create_model("se_resnet20", reduction=4)
        pixelwise = create_model("se_resnet20", squeeze="none", excitation="tanh")
        selective = create_model("sknet26", branches=3, width=0.5)
        single = create_model("sk_resnet20", branches=1)
    text = words(gated, "2.0", part="se")
    for part in ("Squeeze: mean over 8 x 8 pixels (64 x 1 x 1)", "FC 64 to 16", "sigmoid (64 x 1 x 1)", "Scale"):
        assert part in text, part
    text = words(pixelwise, "2.0", part="se")
    assert "Squeeze" not in text and "tanh (64 x 8 x 8)" in text
    text = words(selective, "1.0", part="sk")
    assert [text.count(part) for part in ("Split", "Fuse", "Select", "16 groups")] == [3, 1, 1, 3]
    for part in ("dilation 3", "mean over 16 x 16 pixels (128)", "(3 x 128)", "3 x (128 x 16 x 16)", "BN, ReLU (32)"):
        assert part in text, part
    assert "Fuse" not in words(single, "0.0", part="sk")
    for network, block, part, message in (
        (gated, "1.9", "block", "'1.9'; known: 0.0"),
        (gated, "1.0", "sk", "known parts: block, se"),
        (gated, "1.0", "gate", "allowed: block, se, sk"),
        (create_model("source_b_network", filters=4, reduction=2), "1.0", "block", "no residual block"),
    ):
        with pytest.raises(ValueError, match=message):
            describe(network, block, part=part)


def test_whole_networks_are_described():
    with torch.device("meta"):
        fast, deep = create_model("sk_fast"), create_model("sk_se_resnet18")
    text = words(fast)
    assert "2 residual blocks" in text and text.count("1 residual block with SK") == 2
    assert text.endswith("(320), then Head: FC 320 to 10 (10).")
    assert "2 residual blocks with SK and SE (256 x 8 x 8)" in words(deep)
    families = [step.family for step in describe(deep).items if step.head.startswith("Stage")]
    assert families == ["sk+se"] * 4
    assert [step.head for step in describe(deep).items[1:-2]] == [f"Stage {number}" for number in range(1, 5)]


def test_device_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    for cuda, mps, device, named in (
        (False, False, "auto", "No GPU here: training runs on the CPU"),
        (True, False, "auto", "a card"),
        (True, False, "cuda", "a card"),
        (True, False, "cpu", "runs on the CPU"),
        (False, True, "auto", "MPS"),
        (False, True, "mps", "MPS"),
        (False, True, "cpu", "runs on the CPU"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        print_device(device)
        said = capsys.readouterr().out
        assert named in said and said.count("\n") == 1, (cuda, mps, device)


def test_diagrams_of_the_readme_are_up_to_date():
    """If this fails: python -m senet_lib.report.diagrams."""
    folder = project_root() / diagrams.FOLDER
    committed = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: _rounded(content) for name, content in committed.items()} == {
        name: _rounded(content) for name, content in diagrams.diagrams().items()
    }


def _rounded(svg):
    """Another processor may compute another last digit."""
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.1f}", svg.decode())
