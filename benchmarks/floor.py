"""The least time that a training step needs on a device, by the bytes and by the FLOP that it cannot avoid.

Bytes: the maps that convolutions and linear layers read and write, once each, in the precision of training:

    forward    the input is read, the output written
    backward   the output's gradient and the input are read, the input's gradient is written (none for the image)
    weights    8 passes in fp32: read forward and backward, the gradient written and read, the weight and its momentum
               read and written

Not counted is what a perfect implementation could do within these passes: batch norm, ReLU, pooling, the sum with the
shortcut, the SE and SK gates, the augmentation. A real step reads maps again for all of them.

FLOP: 6 per multiply-add, of which 2 are forward and 4 backward.
"""

import time
from collections.abc import Callable

import torch
from measuring import synchronise
from torch import nn

from senet_lib.metrics import count_macs, count_params, run_on_meta

WEIGHT_BYTES = 8 * 4  # per parameter and step


def map_bytes(network: nn.Module, element: int = 2, size: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Bytes that a step moves per image (C, H, W), without the weights; `element`: bytes of a value."""
    counted = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        reads = 3 if counted else 2  # the first layer needs no gradient of its input
        counted.append(reads * inputs[0].numel() + 2 * output.numel())

    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        run_on_meta(network, size)
    finally:
        for hook in hooks:
            hook.remove()
    return element * sum(counted)


def seconds_per_step(network: nn.Module, batch: int, rates: dict[str, float], element: int) -> tuple[float, float]:
    """The floor of a step by FLOP and by bytes, at the rates that `measured_rates` returned."""
    flop = 6 * count_macs(network) * batch
    moved = map_bytes(network, element) * batch + WEIGHT_BYTES * count_params(network)
    return flop / rates["flop"], moved / rates["bytes"]


def measured_rates(device: torch.device, dtype: torch.dtype, repeats: int = 10, size: int = 8192) -> dict[str, float]:
    """What the device reaches: 'bytes' per second of a copy (read + written) and 'flop' per second of a matrix product
    of size³. The best of `repeats`, since a floor needs the highest rate."""
    source = torch.zeros(4 * size * size, dtype=dtype, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    amounts: dict[str, tuple[float, Callable]] = {
        "bytes": (2 * source.numel() * source.element_size(), lambda: target.copy_(source)),
        "flop": (2 * size**3, lambda: a @ b),
    }
    rates = {}
    for name, (amount, call) in amounts.items():
        seconds = []
        for _ in range(repeats + 2):  # the first two are the warm-up
            synchronise(device)
            started = time.perf_counter()
            call()
            synchronise(device)
            seconds.append(time.perf_counter() - started)
        rates[name] = amount / min(seconds[2:])
    return rates
