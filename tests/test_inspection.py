"""The source code and the shapes of a network that the notebooks show."""

import pytest
import torch

from senet_lib.models import create_model
from senet_lib.models.blocks import ResidualBlock, SelectiveKernelConv
from senet_lib.models.inspection import last_of_each_stage, shapes, source
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


def test_source_shows_the_code():
    assert "def shapes(" in source(shapes).data


def test_device_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    print_device()
    assert "No GPU here" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    print_device()
    assert "a card" in capsys.readouterr().out
