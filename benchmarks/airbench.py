"""The airbench94 network and its recipe, whose training time is the target for `fast`.

Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498), section 3.1. The network
has no residual connections. This implementation follows the paper's description.

    python benchmarks/airbench.py    prints the time of an epoch in a plain PyTorch loop, in seconds
"""

import itertools
import math
import statistics
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.data import Augmenter, Dataset
from senet_lib.study import Recipe
from senet_lib.training import evaluate
from senet_lib.training.averaging import WeightAverage
from senet_lib.training.runtime import resolve_precision
from senet_lib.training.tta import tta_accuracy
from senet_lib.training.whitening import whiten_stem

EPOCHS, IMAGES, BATCH = 9.9, 50_000, 1024  # epochs, images per epoch and batch size of the paper's 94 % recipe
WIDTHS = (64, 256, 256)
MOMENTUM, WHITENING_BIAS_EPOCHS = 0.85, 3  # the whitening layer's bias is trained in the first epochs only
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
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=MOMENTUM, nesterov=True)
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


class Trained(NamedTuple):
    """Seconds of the training steps, seconds of the whole with initialisation and test-time augmentation, and the
    accuracies without and with test-time augmentation (fractions)."""

    training: float
    whole: float
    accuracy: float
    tta_accuracy: float


def train_by_its_recipe(data: Dataset, seed: int, epochs: float = EPOCHS, batch: int = BATCH) -> Trained:
    """Train Airbench94 on `data`, which is on the device, by the paper's recipe in a plain loop.

    Sections 3.1 to 3.6: whitening and partial identity initialisation, batch-norm biases with 64 times the learning
    rate, Lookahead, alternating flip and 2-pixel shifts with reflection, six views at test time. Computes in half
    precision on a GPU, as the paper's code does, and without torch.compile, as its `airbench94.py`. The incomplete last
    batch of an epoch is dropped.

    Differs from the paper: whitening centres the patches, and Lookahead's last update averages like those before it,
    where the paper's code only copies.
    """
    device, steps = data.train_images.device, len(data.train_images) // batch
    total, wait = math.ceil(epochs * steps), torch.cuda.synchronize if device.type == "cuda" else lambda: None
    dtype = torch.half if device.type == "cuda" else torch.float32
    normalisation = {"mean": data.mean, "std": data.std}
    torch.manual_seed(seed)
    network = Airbench94().to(device, memory_format=torch.channels_last)
    wait()
    started = time.perf_counter()
    initialise(network, data)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(dtype)
    optimizer = its_optimizer(network, batch)
    peaks = [group["lr"] for group in optimizer.param_groups]
    recipe = Recipe(averaging="lookahead", averaging_steps=5, averaging_decay=0.95)
    average = WeightAverage(network, recipe, total)
    augmenter = Augmenter(
        data.train_images,
        data.train_labels,
        batch_size=batch,
        padding=2,
        fill="reflect",
        flip=True,
        alternating=True,
        **normalisation,
    )
    full = (b for epoch in itertools.count() for b in itertools.islice(augmenter.epoch(seed=seed, epoch=epoch), steps))
    network.train()
    wait()
    before = time.perf_counter()
    for step, (x, y) in enumerate(itertools.islice(full, total)):
        network.whitening.bias.requires_grad_(step < WHITENING_BIAS_EPOCHS * steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * triangle(step / total)
        logits = network(x.to(dtype))
        F.cross_entropy(logits.float(), y, label_smoothing=0.2, reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step + 1)
    average.put_into_the_model()
    wait()
    after = time.perf_counter()
    network.forward = lambda x: Airbench94.forward(network, x.to(dtype))  # the views are in fp32
    views = {**normalisation, "mirror": True, "batch_size": 2000}
    tta = tta_accuracy(network, data.test_images, data.test_labels, **views)
    wait()
    ended = time.perf_counter()
    alone = evaluate(network, data.test_images, data.test_labels, **normalisation).accuracy
    return Trained(after - before, ended - started, alone, tta)


def initialise(network: Airbench94, data: Dataset) -> None:
    """Whitening filters for the first layer (section 3.2), an identity for the first channels of the other convolutions
    (section 3.3), and the paper's batch-norm settings; `momentum` is PyTorch's, the weight of the new batch."""
    whiten_stem(network, data.train_images, mean=data.mean, std=data.std)
    nn.init.zeros_(network.whitening.bias)
    for module in network.groups.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight[: module.in_channels].data)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = 0.4, 1e-12


def its_optimizer(network: Airbench94, batch: int) -> torch.optim.SGD:
    """SGD on the sum of a batch's losses, at the paper's peak learning rate of 11.5 and weight decay of 0.0153.

    Both are per 1024 images and for SGD without momentum, whose gain its code takes for 1 + 1 / (1 - momentum).
    """
    unit = 1024 * (1 + 1 / (1 - MOMENTUM))
    lr, decay = 11.5 / unit, 0.0153 * batch / unit
    biases = [module.bias for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    scaled = {id(bias) for bias in biases}
    others = [p for p in network.parameters() if id(p) not in scaled and p is not network.whitening.weight]
    others = [p for p in others if p.requires_grad]  # not batch norm's scale
    groups = [
        {"params": others, "lr": lr, "weight_decay": decay / lr},
        {"params": biases, "lr": 64 * lr, "weight_decay": decay / (64 * lr)},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, nesterov=True)


def triangle(done: float) -> float:
    """The learning rate relative to its peak, after the fraction `done` of the steps: from 0.2 to 1, then to 0.07."""
    peak = 0.23
    return 0.2 + 0.8 * done / peak if done < peak else 1 - 0.93 * (done - peak) / (1 - peak)


if __name__ == "__main__":
    print(plain_epoch_seconds())
