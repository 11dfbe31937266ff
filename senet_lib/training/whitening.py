"""Whitening initialisation: the first convolution starts as the scaled eigenvectors of its input patches' covariance.

D. Page, "How to Train Your ResNet", 2018; K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024
(arXiv:2404.00498), section 3.2: each eigenvector v with eigenvalue l gives a filter v / sqrt(l + eps), whose response
has unit variance, and its negative, since a ReLU follows.

Differs from both: the filters go into the network's own first convolution, before its batch norm, not into an extra
layer, and they are trained, not frozen. A convolution with fewer than 2 * (3*h*w) filters gets the eigenvectors of the
largest eigenvalues; one with more keeps the initial values of the rest.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.data.augment import normalise

EPS = 5e-4  # from the code of arXiv:2404.00498
IMAGES = 5000  # of the training set, evenly spaced; same source


def whiten_stem(model: nn.Module, images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write whitening filters into the model's first convolution. images: (N, H, W, 3) uint8, the training images.

    The filters depend on the images alone. Raises ValueError unless the model's first convolution has 3 input channels
    and 1 group.
    """
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if stem is None or stem.in_channels != 3 or stem.groups != 1:
        raise ValueError(f"whiten_stem needs a network whose first convolution reads the 3 colours, not {stem}")
    sample = images[:: -(-len(images) // IMAGES)].cpu()  # on the CPU: not every device has float64
    values, vectors = torch.linalg.eigh(patch_covariance(sample, stem.kernel_size, mean, std))  # ascending
    filters = (vectors / (values + EPS).sqrt()).T.flip(0)[: stem.out_channels // 2]  # (F, 3*h*w)
    filters = torch.cat((filters, -filters)).view(-1, *stem.weight.shape[1:])  # -> (2*F, 3, h, w)
    with torch.no_grad():
        stem.weight[: len(filters)].copy_(filters.float())


def patch_covariance(images: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The covariance (3*h*w, 3*h*w), float64, of the normalised images' patches of `size` (h, w) pixels, in the order
    of a filter's weights: channel, row, column."""
    n, total, products = 0, 0, 0
    for batch in images.split(250):  # the patches of 5,000 images take a gigabyte
        patches = F.unfold(normalise(batch, mean, std).contiguous(), size).double()  # (B, 3, H, W) -> (B, 3*h*w, L)
        patches = patches.movedim(1, 0).flatten(1)  # -> (3*h*w, B*L)
        n += patches.shape[1]
        total = total + patches.sum(1)
        products = products + patches @ patches.T
    centre = total / n
    return products / n - torch.outer(centre, centre)
