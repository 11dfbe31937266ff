"""A common PyTorch training loop, the reference for speed and accuracy.

A DataLoader with two worker processes applies torchvision's transforms to PIL images. Tensors are contiguous and fp32.
The timed loop synchronises with the device twice per step, to read the loss and the number of correct predictions.
The structure is that of github.com/kuangliu/pytorch-cifar, implemented from its description. On a GPU it is timed with
as many workers as cores, pinned memory and cuDNN's benchmark mode, and also with the two changes that most people know:
automatic mixed precision (AMP, here bf16 autocast) and channels_last.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from senet_lib.models import blocks
from senet_lib.study import Recipe
from senet_lib.training.schedule import learning_rate

WORKERS = 2


class PilImages(Dataset):
    """uint8 images (N, H, W, 3) -> augmented, normalised (3, H, W) tensors, one PIL image at a time."""

    def __init__(self, images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
        self.images, self.labels = images.numpy(), labels.tolist()
        size = images.shape[1]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loader(
    images: Tensor,
    labels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    workers: int = WORKERS,
    pin_memory: bool = False,
) -> DataLoader:
    """Shuffled batches of `PilImages`."""
    images = PilImages(images, labels, mean, std)
    return DataLoader(images, batch_size, shuffle=True, num_workers=workers, pin_memory=pin_memory)


def images_per_second(
    network: nn.Module,
    batches: DataLoader,
    warmup: int,
    device: str = "cpu",
    amp: bool = False,
    seconds: float = math.inf,
) -> float:
    """Train one epoch, or until `seconds` have been timed; return the throughput without the first `warmup` steps,
    during which the workers start. amp: with bf16 autocast and channels_last."""
    memory_format = torch.channels_last if amp else torch.contiguous_format
    network.to(device, memory_format=memory_format)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    network.train()
    images, total_loss, correct = 0, 0.0, 0
    with plain_gates(), cudnn_benchmark():
        for step, (x, y) in enumerate(batches):
            if step == warmup:
                started = time.perf_counter()
            x, y = x.to(device, memory_format=memory_format, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
                logits = network(x)
                loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += (logits.argmax(1) == y).sum().item()
            images += len(y) if step >= warmup else 0
            if step > warmup and time.perf_counter() - started > seconds:
                break
        return images / (time.perf_counter() - started)


@contextmanager
def cudnn_benchmark() -> Iterator[None]:
    """Inside the block, cuDNN measures its algorithms, as in the loop's source. Without a GPU it has no effect."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def train(network: nn.Module, batches: DataLoader, recipe: Recipe) -> None:
    """Train for all epochs of the recipe and set its learning rate at every step."""
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    network.train()
    with plain_gates():
        for epoch in range(recipe.epochs):
            for step, (x, y) in enumerate(batches):
                optimizer.param_groups[0]["lr"] = learning_rate(recipe, epoch * len(batches) + step, len(batches))
                optimizer.zero_grad()
                loss = F.cross_entropy(network(x), y)
                loss.backward()
                optimizer.step()


@contextmanager
def plain_gates() -> Iterator[None]:
    """Inside the block, SE and SK train with plain operations and autograd instead of the fused pass."""
    use_fused, blocks.use_fused = blocks.use_fused, lambda module: False
    try:
        yield
    finally:
        blocks.use_fused = use_fused
