"""Section `grouped`: other ways to compute grouped convolutions, with the same results.

Native is what the networks do. On a CPU, their dilated convolutions are computed as undilated ones
(`DilatedGroupedConv2d`); "dilated" is the library's own dilated convolution instead.

Libraries compute convolutions with few channels per group slowly. Merging `factor` groups into one gives fewer, larger
groups: the weight becomes block-diagonal within each, with zeros between the groups that were merged. This costs
`factor` times the multiply-adds. Building the weight, and its gradient, is part of every time here.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fit_steps import fit_steps
from measuring import Table, alternate, random_images, ratio, synchronise
from torch import Tensor, nn

from senet_lib.metrics import run_on_meta
from senet_lib.models import create_model
from senet_lib.models.blocks import conv
from senet_lib.training.runtime import resolve_precision

NETWORKS = ("resnext50_32x4d", "sknet50")
SCALES = {0.25: 128, 1: 8}  # width -> batch size; the networks are trained on CPUs at a quarter of their width
DILATED, NATIVE = 0, 1  # in place of a factor: the library's own dilation, and what the networks do
FACTORS = (2, 4, 8, 16, 32)
SAMPLE = 0.02  # seconds: a shorter call is repeated


class Shape(NamedTuple):
    """A grouped 3x3 convolution and the resolution of its input."""

    channels: int
    groups: int
    size: int
    stride: int
    dilation: int

    def factors(self) -> list[int]:
        """By how much its groups can be merged; the last one makes it dense."""
        return [factor for factor in FACTORS if self.groups % factor == 0]


def merged(weight: Tensor, groups: int, factor: int) -> Tensor:
    """The weight (C_out, C_in / groups, h, w) for groups / factor groups: (C_out, factor * C_in / groups, h, w)."""
    c_out, c_in, height, width = weight.shape
    blocks = weight.view(groups // factor, factor, c_out // groups, 1, c_in, height, width)
    own = torch.eye(factor, dtype=weight.dtype, device=weight.device).view(1, factor, 1, factor, 1, 1, 1)
    return (blocks * own).reshape(c_out, factor * c_in, height, width)


def merged_conv(layer: nn.Conv2d, x: Tensor, factor: int) -> Tensor:
    """What `layer` (without bias) computes, with `factor` of its groups merged."""
    weight = merged(layer.weight, layer.groups, factor).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups // factor)


def grouped_layers(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]


def shapes(name: str, width: float) -> Counter[Shape]:
    """How often a network has each shape at 32x32 pixels."""
    network, found = create_model(name, width=width), Counter()

    def count(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[Shape(layer.in_channels, layer.groups, inputs[0].shape[2], layer.stride[0], layer.dilation[0])] += 1

    for layer in grouped_layers(network):
        layer.register_forward_hook(count)
    run_on_meta(network, (3, 32, 32))
    return found


def timers(shape: Shape, batch: int, precision: str, device: torch.device) -> dict[tuple[int, str], Callable]:
    """(factor, 'forward' or 'both') -> a function that returns seconds per call; also for NATIVE and DILATED."""
    n, groups, size, stride, dilation = shape
    layer = conv(n, n, 3, stride, groups, dilation).to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, n, size, size, device=device).contiguous(memory_format=torch.channels_last)
    if precision == "bf16":
        x = x.bfloat16()
    x.requires_grad_()

    def forward(factor: int) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if factor == DILATED:
                return nn.Conv2d.forward(layer, x)
            return layer(x) if factor == NATIVE else merged_conv(layer, x, factor)

    def both(factor: int) -> None:
        out = forward(factor)
        out.backward(torch.ones_like(out))

    calls = {"forward": forward, "both": both}
    return {
        (factor, name): lambda call=call, factor=factor: seconds_of(lambda: call(factor), device)
        for factor in (NATIVE, *([DILATED] if dilation > 1 else []), *shape.factors())
        for name, call in calls.items()
    }


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds per call, over as many calls as take SAMPLE."""
    count, passed, started = 0, 0.0, time.perf_counter()
    while not count or passed < SAMPLE:
        call()
        synchronise(device)
        count, passed = count + 1, time.perf_counter() - started
    return passed / count


def shape_table(precision: str, repeats: int, device: torch.device, best: dict[Shape, int]) -> Table:
    """One row per shape; adds each shape's fastest factor to `best`."""
    rows = []
    for width, batch in SCALES.items():
        for shape in sorted(set().union(*(shapes(name, width) for name in NETWORKS))):
            values = alternate(timers(shape, batch, precision, device), repeats)
            native = {name: values[NATIVE, name] for name in ("forward", "both")}
            times = {factor: statistics.median(values[factor, "both"]) for factor in (NATIVE, *shape.factors())}
            best[shape] = min(times, key=times.get)
            cells = []
            for factor in (DILATED, *FACTORS):
                fits = (factor, "both") in values
                speeds = [ratio(native[name], values[factor, name]).split()[0] for name in native] if fits else ["–"]
                cells.append("; ".join(speeds))
            what = f"{shape.groups} x {shape.channels // shape.groups}"
            key = [f"{width:g}", what, *(str(part) for part in (shape.size, shape.stride, shape.dilation, batch))]
            rows.append([*key, f"{1e3 * statistics.median(native['both']):.1f}", *cells])
            print(" | ".join(rows[-1]), flush=True)
    caption = (
        f"Grouped 3x3 convolutions of {' and '.join(NETWORKS)} in {precision}, at two widths of the networks: forward "
        "and backward in ms, and how many times as fast PyTorch's own dilated convolution and merged groups are "
        "(forward alone; forward and backward)."
    )
    columns = ["width", "groups x channels", "resolution", "stride", "dilation", "batch", "native, ms", "dilated"]
    return caption, [*columns, *(f"merged by {factor}" for factor in FACTORS)], rows


@contextmanager
def computed_by(network: nn.Module, forward: Callable[[nn.Conv2d, Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, the network's grouped convolutions are computed by `forward(layer, x)`."""
    layers = grouped_layers(network)
    for layer in layers:
        layer.forward = partial(forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def step_table(repeats: int, best: dict[Shape, int]) -> tuple[Table, list[float]]:
    """Whole steps of `fit`: native, with the library's dilation, and with every shape's fastest factor; also the last
    ones' median speed-ups."""

    def native_conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
        return type(layer).forward(layer, x)

    def merged_best(layer: nn.Conv2d, x: Tensor) -> Tensor:
        key = Shape(layer.in_channels, layer.groups, x.shape[2], layer.stride[0], layer.dilation[0])
        return native_conv(layer, x) if best[key] == NATIVE else merged_conv(layer, x, best[key])

    ways = {"native": native_conv, "dilated": nn.Conv2d.forward, "merged": merged_best}
    rows, medians = [], []
    for width, batch in SCALES.items():
        for name in NETWORKS:
            with fit_steps(name, random_images(2 * batch), batch, width=width) as steps:

                def seconds(way: str, steps=steps) -> float:
                    with computed_by(steps.model, ways[way]):
                        return steps.seconds_per_step()

                dilated = any(layer.dilation[0] > 1 for layer in grouped_layers(steps.model))
                used = [way for way in ways if dilated or way != "dilated"]
                values = alternate({way: partial(seconds, way) for way in used}, repeats)
            native = 1e3 * statistics.median(values["native"])
            speeds = [ratio(values["native"], values[way]) if way in values else "–" for way in ("dilated", "merged")]
            medians.append(float(speeds[1].split()[0]))
            rows.append([name, f"{width:g}", str(batch), f"{native:,.0f}", *speeds])
    caption = (
        "Whole steps of `fit`: native, and how many times as fast they are with PyTorch's own dilation, and with the "
        "fastest factor for every shape: median (min to max)."
    )
    return (caption, ["network", "width", "batch", "native, ms", "dilated", "merged"], rows), medians


def measure(repeats: int) -> list[Table]:
    """The tables of the section, with a conclusion."""
    device, training = torch.device("cuda" if torch.cuda.is_available() else "cpu"), resolve_precision("auto")
    tables, best = [], {}
    for precision in dict.fromkeys(("fp32", training)):  # the last one fills `best`, with which the steps are run
        tables.append(shape_table(precision, repeats, device, best))
    table, speed_ups = step_table(repeats, best)
    won = sum(factor > 1 for factor in best.values())
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    conclusion = (
        f"Conclusion ({where}, {training}): merging groups is faster for {won} of {len(best)} shapes. With the fastest "
        f"factor for each shape, whole steps are {min(speed_ups):.2f} to {max(speed_ups):.2f} times as fast.\n"
    )
    return [(conclusion, [], []), *tables, table]
