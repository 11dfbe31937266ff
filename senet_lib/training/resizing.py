"""Progressive resizing: the first epochs see smaller images, which cost less, the later ones images of their own size.

fast.ai's entry to Stanford's DAWNBench, 2018. A network that ends in a mean over the pixels takes any size. What it has
learned from small images fits its statistics of batch norm to them, so the last epochs must be of full size.
"""

import torch.nn.functional as F
from torch import Tensor

from senet_lib.study import Recipe

MULTIPLE = 4  # pixels; every size is one, so that a network's strides leave little over


def image_size(recipe: Recipe, epoch: int, own: int) -> int:
    """Pixels a side in an epoch, counted from 0, of images whose own size is `own`, or of the recipe's crops of them:
    from its `first_size` linearly up to that size at `full_size_from` of the run, rounded down to whole fours.

    Raises ValueError when first_size is larger than what it grows to.
    """
    own = recipe.crop_size or own
    if recipe.first_size is None:
        return own
    if recipe.first_size > own:
        what = "the images" if recipe.crop_size is None else "the crops"
        raise ValueError(f"first_size={recipe.first_size} is larger than {what}; allowed: 8 to {own}")
    growing = recipe.full_size_from * recipe.epochs  # epochs
    if epoch >= growing:
        return own
    size = recipe.first_size + (own - recipe.first_size) * epoch / growing
    return max(recipe.first_size, MULTIPLE * int(size / MULTIPLE))


def pixel_shares(recipe: Recipe, own: int) -> list[float]:
    """Of every epoch, its images' pixels as a share of full-size ones': about the share of the work too."""
    return [(image_size(recipe, epoch, own) / own) ** 2 for epoch in range(recipe.epochs)]


def resized(x: Tensor, height: int) -> Tensor:
    """(N, C, H, W) -> (N, C, height, W * height / H), each pixel a weighted mean of those that it covers."""
    if height == x.shape[2]:
        return x
    width = round(x.shape[3] * height / x.shape[2])
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True)
