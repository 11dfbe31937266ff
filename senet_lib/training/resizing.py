"""Progressive resizing: the first epochs use smaller images, which cost less; later epochs use full resolution.

Source: fast.ai's entry to Stanford's DAWNBench, 2018. A network that ends in global average pooling accepts any
resolution. Small images shift its batch-norm statistics, so the last epochs use full resolution, at least one.
"""

import torch.nn.functional as F
from torch import Tensor

from senet_lib.study import Recipe

MULTIPLE = 4  # pixels; sizes are multiples of it, so that a network's strides divide them well


def image_size(recipe: Recipe, epoch: int, own: int) -> int:
    """The resolution in an epoch (counted from 0) of images of resolution `own`, or of the recipe's crops of them.

    It grows linearly from `first_size` to full resolution at the fraction `full_size_from` of the epochs, rounded down
    to a multiple of 4; the last epoch has full resolution in any case. Raises ValueError if first_size is larger than
    full resolution.
    """
    own = recipe.crop_size or own
    if recipe.first_size is None:
        return own
    if recipe.first_size > own:
        what = "the images" if recipe.crop_size is None else "the crops"
        raise ValueError(f"first_size={recipe.first_size} is larger than {what}; allowed: 8 to {own}")
    growing = recipe.full_size_from * recipe.epochs  # epochs
    if epoch >= min(growing, recipe.epochs - 1):
        return own
    size = recipe.first_size + (own - recipe.first_size) * epoch / growing
    return max(recipe.first_size, MULTIPLE * int(size / MULTIPLE))


def pixel_shares(recipe: Recipe, own: int) -> list[float]:
    """For each epoch, the pixels per image as a fraction of full resolution: approximately the fraction of the cost."""
    return [(image_size(recipe, epoch, own) / own) ** 2 for epoch in range(recipe.epochs)]


def resized(x: Tensor, height: int) -> Tensor:
    """(N, C, H, W) -> (N, C, height, W * height / H), each pixel a weighted mean of the pixels that it covers."""
    if height == x.shape[2]:
        return x
    width = round(x.shape[3] * height / x.shape[2])
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True)
