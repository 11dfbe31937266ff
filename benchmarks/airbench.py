"""The airbench94 network, whose training time is the target for `fast`.

Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498), section 3.1. The network
has no residual connections. This implementation follows the paper's description.

    python benchmarks/airbench.py    prints the time of an epoch in a plain PyTorch loop, in seconds
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.training.runtime import resolve_precision

EPOCHS, IMAGES, BATCH = 9.9, 50_000, 1024  # epochs, images per epoch and batch size of the paper's 94 % recipe
WIDTHS = (64, 256, 256)
WHITENING = 24  # filters: a 2x2 patch of 3 colours has 12 principal directions; each is also used negated


class Airbench94(nn.Module):
    """(N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.whitening = nn.Conv2d(3, WHITENING, 2)
        self.whitening.weight.requires_grad_(False)
        self.groups = nn.Sequential()
        c_in = WHITENING
        for c_out in WIDTHS:
            self.groups.append(
                nn.Sequential(
                    nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
                    nn.MaxPool2d(2),
                    scale_free_norm(c_out),
                    nn.GELU(),
                    nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
                    scale_free_norm(c_out),
                    nn.GELU(),
                )
            )
            c_in = c_out
        self.head = nn.Linear(c_in, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(F.gelu(self.whitening(x)))  # (N, 24, 31, 31) -> (N, 256, 3, 3)
        return self.head(F.max_pool2d(x, 3).flatten(1)) / 9  # the paper scales the logits by a constant


def scale_free_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with a learned bias and a fixed scale of 1."""
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(False)
    return norm


def plain_epoch_seconds(steps: int = 8) -> float:
    """Time of an epoch on the CPU, in seconds, extrapolated from the median of `steps` steps.

    The precision is bf16 if the processor computes in bf16, else fp32. Every step uses the same random images, so the
    time includes no augmentation.
    """
    bf16 = resolve_precision("auto", "cpu") == "bf16"
    network = Airbench94().to(memory_format=torch.channels_last)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.85, nesterov=True)
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.arange(BATCH) % 10
    seconds = []
    for _ in range(steps + 2):  # the first two are the warm-up
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:]) * IMAGES / BATCH


if __name__ == "__main__":
    print(plain_epoch_seconds())
