"""The network of airbench94, as the yardstick of `fast`: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
2024 (arXiv:2404.00498), section 3.1. Not residual; written here from its description.

    python benchmarks/airbench.py    seconds of an epoch in a loop of plain PyTorch, the batch lying ready
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.training.runtime import resolve_precision

EPOCHS, IMAGES, BATCH = 9.9, 50_000, 1024  # of its training, an epoch, a step: the paper's for 94 %
WIDTHS = (64, 256, 256)
WHITENING = 24  # filters: the patches of 2x2 pixels and 3 colours have 12 directions, and each comes with its negative


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
    """Batch norm that learns a bias alone."""
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(False)
    return norm


def plain_epoch_seconds(steps: int = 8) -> float:
    """Seconds of an epoch on the CPU, by the median step, in bf16 where the hardware computes in it; the same random
    images in every step, so augmentation is not counted."""
    bf16 = resolve_precision("auto", "cpu") == "bf16"
    network = Airbench94().to(memory_format=torch.channels_last)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.85, nesterov=True)
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.arange(BATCH) % 10
    seconds = []
    for _ in range(steps + 2):  # two to warm up
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
