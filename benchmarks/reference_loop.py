"""What most people would train with, as the yardstick: PIL images through torchvision's transforms in a DataLoader with
two worker processes, contiguous fp32 tensors, and two reads of the device in every step.

The shape of the loop is github:kuangliu/pytorch-cifar's; written here from its description.
"""

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
    """uint8 images (N, H, W, 3) as torchvision's CIFAR-10 hands them out: one PIL image at a time."""

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


def loader(images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float], batch_size: int) -> DataLoader:
    return DataLoader(PilImages(images, labels, mean, std), batch_size, shuffle=True, num_workers=WORKERS)


def images_per_second(network: nn.Module, batches: DataLoader, warmup: int) -> float:
    """One epoch of the loop; the first steps, in which the workers start, are not counted."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    network.train()
    images, total_loss, correct = 0, 0.0, 0
    with plain_gates():
        for step, (x, y) in enumerate(batches):
            if step == warmup:
                started = time.perf_counter()
            optimizer.zero_grad()
            logits = network(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += (logits.argmax(1) == y).sum().item()
            images += len(y) if step >= warmup else 0
        return images / (time.perf_counter() - started)


def train(network: nn.Module, batches: DataLoader, recipe: Recipe) -> None:
    """The loop for all of a recipe's epochs, with its learning rate of every step."""
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
    """SE and SK by autograd on plain operations, as anyone would write them."""
    use_fused, blocks.use_fused = blocks.use_fused, lambda module: False
    try:
        yield
    finally:
        blocks.use_fused = use_fused
