"""Images with an enlarged centre, as in Section 4.4 of the SK paper, a control that the paper lacks, and own pictures.

Enlarging a crop to the original size also lowers its resolution. `coarsened` lowers the resolution as much without
enlarging anything: an effect that also occurs there is not a response to the object's size. `sharpness` says how far
the two agree.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from senet_lib.data.image_tree import FORMATS, to_rgb
from senet_lib.errors import UserError


def enlarged(images: Tensor, zoom: float) -> Tensor:
    """The central 1/zoom of the height and width, resized bilinearly to the full size: (N, H, W, 3) uint8 -> the same.

    Raises ValueError when `zoom` is below 1.
    """
    _check(images, zoom)
    x = images.permute(0, 3, 1, 2).float()  # (N, H, W, 3) -> (N, 3, H, W)
    theta = torch.tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]], device=images.device)
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)  # (N, H, W, 2)
    return _bytes(F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False))


def coarsened(images: Tensor, zoom: float) -> Tensor:
    """The whole image reduced to 1/zoom of its resolution and resized back: (N, H, W, 3) uint8 -> the same.

    Raises ValueError when `zoom` is below 1.
    """
    _check(images, zoom)
    x = images.permute(0, 3, 1, 2).float()
    size = x.shape[2:]
    fewer = [max(1, round(pixels / zoom)) for pixels in size]
    small = F.interpolate(x, fewer, mode="bilinear", antialias=True, align_corners=False)
    return _bytes(F.interpolate(small, size, mode="bilinear", align_corners=False))


def sharpness(images: Tensor) -> float:
    """Mean absolute difference of horizontally or vertically neighbouring pixels, in grey levels of 0 to 255.
    images: (N, H, W, 3) uint8."""
    x = images.float()
    return float((x.diff(dim=1).abs().mean() + x.diff(dim=2).abs().mean()) / 2)


def picture(path: str | os.PathLike, pixels: int = 32) -> Tensor:
    """A picture as an image for a network: (1, pixels, pixels, 3) uint8.

    The picture is turned upright as its EXIF data say, cut to the largest central square, and resized bilinearly with
    antialiasing. Raises UserError if the file cannot be read as an 8-bit picture.
    """
    where = repr(os.fspath(path))
    try:
        with Image.open(path, formats=FORMATS) as opened:
            to_rgb(opened, where)  # what it checks is unknown of a transposed copy
            upright = Image.fromarray(to_rgb(ImageOps.exif_transpose(opened), where))
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types on damaged files
        raise UserError(f"picture {where} cannot be read ({error}); name a {', '.join(FORMATS)} file") from error
    side = min(upright.size)
    left, top = ((size - side) // 2 for size in upright.size)
    square = upright.crop((left, top, left + side, top + side))  # first: a resize would blend in what is cut off
    resized = square.resize((pixels, pixels), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))[None]  # (H, W, 3) -> (1, H, W, 3)


def _bytes(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)  # (N, 3, H, W) -> (N, H, W, 3)


def _check(images: Tensor, zoom: float) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be (N, H, W, 3) uint8, not {tuple(images.shape)} {images.dtype}")
    if zoom < 1:
        raise ValueError(f"zoom is {zoom}; it must be at least 1, because there are no pixels outside the image")
