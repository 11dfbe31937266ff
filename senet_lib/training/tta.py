"""Test-time augmentation: the accuracy of a network's logits averaged over several views of each image.

K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498), section 3.5. The views are the
image itself, shifted one pixel up and left, and shifted one pixel down and right, each with its mirror image. The
border is padded by reflection.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from senet_lib.data.augment import normalise, pad

# weight of each view, and its (row, column) offset in the image padded by one pixel
VIEWS = ((0.5, (1, 1)), (0.25, (0, 0)), (0.25, (2, 2)))


def tta_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    mirror: bool,
    batch_size: int,
) -> float:
    """The accuracy of the weighted mean of the logits over all views, for `images` (N, H, W, 3) uint8 and `labels`
    (N,). mirror: whether each view's weight is shared equally with its mirror image."""
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            logits = _mean_logits(model, images[batch], mean, std, mirror)  # (B, classes)
            correct += (logits.argmax(1) == labels[batch]).sum()
    model.train(was_training)
    return correct.item() / len(images)


def _mean_logits(model: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float], mirror: bool) -> Tensor:
    _, height, width, _ = images.shape
    padded = pad(images, 1, "reflect")
    logits = 0
    for weight, (row, column) in VIEWS:
        view = padded[:, row : row + height, column : column + width]
        for shown in (view, view.flip(2)) if mirror else (view,):
            x = normalise(shown, mean, std)  # (B, H, W, 3) -> (B, 3, H, W)
            logits = logits + weight / (1 + mirror) * model(x).float()
    return logits.reshape(len(images), -1)  # some networks drop the axis of a single image
