"""The benchmarks' code: what is counted, how tables are written, and the section `gpu` in small."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from senet_lib.project import project_root


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(project_root() / "benchmarks")


def test_without_a_gpu_the_section_says_so_and_keeps_what_was_measured(tmp_path, capsys, monkeypatch):
    bench = importlib.import_module("bench")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    page = tmp_path / "gpu.md"
    for content, kept in ((None, False), ("Not measured. Old text.\n", False), ("| resnet50 | 1 |\n", True)):
        if content is not None:
            page.write_text(content)
        assert bench.main(["gpu", "--results", str(tmp_path)]) == 0
        assert capsys.readouterr().out.count("\n") == 1
        assert (page.read_text() == content) == kept, content
    with pytest.raises(SystemExit) as stopped:  # it would overwrite the real pages
        bench.main(["gpu", "--tiny"])
    assert stopped.value.code == 2


def test_page_fills_up_row_by_row():
    measuring = importlib.import_module("measuring")
    page = measuring.Page()
    page.table("steps", "Steps.", "network", "batch", "ms", "images/s")
    page.table("empty", "Nothing yet.", "what")
    page.put("steps", ("a", 8), {"ms": "1"})
    page.put("steps", ("b", 8), {"ms": "2"})
    page.put("steps", ("a", 8), {"images/s": "8,000"})
    page.leave_out("c", "time limit")
    lines = measuring.markdown(page.tables()).splitlines()
    assert lines[2:6] == [
        "| network | batch | ms | images/s |",
        "|---|---|---|---|",
        "| a | 8 | 1 | 8,000 |",
        "| b | 8 | 2 | – |",
    ]
    assert "Nothing yet." not in lines
    assert "time limit" in lines[-2] and "c" in lines[-2]


def test_floor_of_two_layers():
    floor = importlib.import_module("floor")
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, 2, 1, bias=False)
    )
    # 32x32 pixels: 3 * 1024 = 3072 values in, 4096 between, 2 * 256 = 512 out; no gradient of the image
    values = 2 * 3072 + 2 * 4096 + 3 * 4096 + 2 * 512
    assert floor.map_bytes(network, element=2) == 2 * values
    macs, params = 1024 * 4 * 27 + 256 * 2 * 36, 108 + 72 + 8  # batch norm has 8 parameters
    by_flop, by_bytes = floor.seconds_per_step(network, 10, {"flop": 100.0, "bytes": 1000.0}, element=4)
    assert by_flop == pytest.approx(6 * macs * 10 / 100)
    assert by_bytes == pytest.approx((4 * values * 10 + 32 * params) / 1000)


def test_kernels_by_the_operator_that_started_them():
    profiling = importlib.import_module("profiling")

    def operator(name, *durations, parent=None):
        kernels = [SimpleNamespace(duration=duration) for duration in durations]
        return SimpleNamespace(name=name, cpu_parent=parent, kernels=kernels, device_type=DeviceType.CPU)

    def on_gpu(name, microseconds):
        return SimpleNamespace(
            name=name, device_type=DeviceType.CUDA, time_range=SimpleNamespace(elapsed_us=lambda: microseconds)
        )

    step = operator("Optimizer.step#Muon.step")
    events = [
        step,
        operator("aten::convolution_backward", 30, 10),
        operator("aten::cudnn_batch_norm", 6),
        operator("aten::mul", 2),
        operator("aten::bmm", 8, parent=operator("aten::matmul", parent=step)),
        operator("aten::bmm", 4),
        on_gpu("void kernel<{lambda()#1}>", 66),
        on_gpu("Optimizer.step#Muon.step", 1000),
    ]
    profile = profiling.by_kind(events, steps=2, on_gpu=True)
    expected = {"convolution": 20, "batch norm": 3, "matrix product": 2, profiling.OTHER: 1, profiling.OPTIMIZER: 4}
    expected[profiling.UNKNOWN] = 3
    assert {name: round(1e6 * s) for name, s in profile.seconds.items() if s} == expected
    assert profile.kernels == 3


def test_merged_groups_compute_the_same():
    grouped = importlib.import_module("grouped")
    layer = grouped.conv(16, 32, 3, 2, 8, 2)  # 8 groups of 2 -> 4 channels, stride 2, dilation 2
    x = torch.randn(2, 16, 9, 9, requires_grad=True)
    expected = layer(x)
    upstream = torch.randn_like(expected)
    expected = expected, *torch.autograd.grad(expected, (x, layer.weight), upstream)
    for factor in (2, 4, 8):
        found = grouped.merged_conv(layer, x, factor)
        found = found, *torch.autograd.grad(found, (x, layer.weight), upstream)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=f"merged by {factor}")


def test_schedule_of_airbench94():
    triangle = importlib.import_module("airbench").triangle
    assert [triangle(done) for done in (0, 0.23, 1)] == pytest.approx([0.2, 1, 0.07])


@pytest.mark.slow
def test_gpu_section_runs_in_small(tmp_path):
    bench = importlib.import_module("bench")
    assert bench.main(["gpu", "--tiny", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert text.count("\n|---|") == 7, "seven tables"
    assert "Left out" not in text, text
    for row in ("| resnet20 | 8 |", "| fast | 8 |", "| airbench94, its recipe | 1 |", "checkpoint"):
        assert row in text, row


@pytest.mark.slow
def test_grouped_section_runs_in_small(monkeypatch):
    grouped = importlib.import_module("grouped")
    monkeypatch.setattr(grouped, "SCALES", {0.25: 2})
    monkeypatch.setattr(grouped, "SAMPLE", 0.0)
    conclusion, *shapes, steps = grouped.measure(1)
    assert "of 14 shapes" in conclusion[0]
    for _, header, rows in (*shapes, steps):
        assert rows and {len(row) for row in rows} == {len(header)}
    assert [row[0] for row in steps[2]] == list(grouped.NETWORKS)


def test_a_page_says_how_often_its_values_were_measured(tmp_path, monkeypatch):
    bench = importlib.import_module("bench")
    table = ("Caption.", ["value"], [["1"]])
    for name, section, note in (
        ("steps", lambda repeats: [table] * repeats, "; 2 repeats.\n"),
        ("memory", lambda: [table], "; measured once.\n"),
        ("accuracy", lambda: [table], "; each seed once.\n"),
    ):
        monkeypatch.setitem(bench.SECTIONS, name, section)
        assert bench.main([name, "--repeats", "2", "--results", str(tmp_path)]) == 0
        assert (tmp_path / f"{name}.md").read_text(encoding="utf-8").endswith(note)
