"""Batches on the device: random crop, horizontal flip and normalisation of whole batches, without a DataLoader.

The default is the CIFAR augmentation of K. He et al., "Deep Residual Learning for Image Recognition", 2015
(arXiv:1512.03385), section 4.2: pad 4 pixels on each side, then take a random crop of the original size from the image
or its horizontal flip. The padding is black (zero in pixel space), as in torchvision's RandomCrop before Normalize, not
the mean colour (zero after normalisation).

Two alternatives are from K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498):
reflection padding (section 3.1) and alternating flip (section 3.6). Cutout can be added: T. DeVries, G. W. Taylor,
"Improved Regularization of Convolutional Neural Networks with Cutout", 2017 (arXiv:1708.04552), section 3.2. It sets a
square around a random pixel to zero after normalisation, the mean colour. The square may extend beyond the image. Crops
can be smaller than the images, while evaluation uses whole images; for the effect, see H. Touvron et al., "Fixing the
train-test resolution discrepancy", 2019 (arXiv:1906.06423).

The order, crops, flips and squares of an epoch depend only on (seed, epoch). They are drawn on the CPU for the whole
epoch and moved to the device once. Every device therefore gets the same batches, the loop never waits for the device,
and an epoch can resume at any step without generator state.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor


class Augmenter:
    """Training batches of a data set; every epoch contains each image once.

    images: (N, H, W, 3) uint8; labels: (N,) int64, on the same device. padding: in pixels, 0 for no crops.
    fill: content of the padding, 'black' or 'reflect' (the image mirrored at its border pixels, as in numpy.pad).
    crop_size: height and width of the crop; None for those of the image.
    flip: whether images are flipped horizontally at random. alternating: flips are random in epoch 0 and inverted in
    each later epoch, so that any two successive epochs show each image once unflipped and once flipped.
    cutout: width of the square in pixels; 0 for none.
    mean, std: per channel, of pixels in [0, 1].
    steps: batches per epoch. The last batch holds the remainder and is not dropped. A remainder of one image joins the
    preceding batch, since BatchNorm cannot train on one image with a 1x1 map, as in SK's fuse step.
    part: (r, n): yield only the images r, r + n, ... of every batch, the share of process r of n.

    The padded images are stored in addition: N * (H + 2 * padding) * (W + 2 * padding) * 3 bytes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        padding: int,
        flip: bool,
        mean: Sequence[float],
        std: Sequence[float],
        fill: Literal["black", "reflect"] = "black",
        crop_size: int | None = None,
        alternating: bool = False,
        cutout: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        _check(images, labels, batch_size)
        n, height, width, channels = images.shape
        if crop_size is not None:
            if not isinstance(crop_size, int) or not 1 <= crop_size <= min(height, width):
                raise ValueError(
                    f"crop_size={crop_size!r} is not allowed; allowed: an integer from 1 to {min(height, width)}"
                )
            height = width = crop_size
        if not isinstance(cutout, int) or not 0 <= cutout <= min(height, width):
            raise ValueError(
                f"cutout={cutout!r} is not allowed; allowed: an integer from 0 to {min(height, width)} (pixels)"
            )
        self.labels, self.batch_size, self.part = labels, batch_size, part
        self.flip, self.alternating, self.cutout = flip, alternating, cutout
        self.scale, self.shift = _scale_and_shift(mean, std, width, images.device)
        self.steps = -(-n // batch_size)
        if n % batch_size == 1 and n > 1 and batch_size > 1:
            self.steps -= 1
        padded = pad(images, padding, fill)
        _, self.padded_height, self.padded_width, _ = padded.shape
        self.pixels = padded.view(-1, channels)  # (N, H+2p, W+2p, 3) -> (N*(H+2p)*(W+2p), 3)
        # pixel offsets of a crop and of its flip, relative to the crop's first pixel: (2, H, W)
        rows = torch.arange(height)[:, None] * self.padded_width
        columns = torch.arange(width)
        self.windows = torch.stack((rows + columns, rows + columns.flip(0))).to(images.device)

    def size(self, step: int) -> int:
        """The images in the whole batch of a step."""
        return self.batch_size if step < self.steps - 1 else len(self.labels) - self.batch_size * (self.steps - 1)

    def epoch(self, *, seed: int, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from `start_step` on, identical to those of the full epoch at these steps.

        Yields x (B, 3, H, W) float32 in channels_last memory format, and y (B,) int64.
        """
        if not 0 <= start_step <= self.steps:
            raise ValueError(
                f"start_step={start_step!r} is not allowed; allowed: 0 to {self.steps}, the steps of an epoch"
            )
        order, flips, down, right, squares = self._draw(seed, epoch)
        first = (order * self.padded_height + down) * self.padded_width + right  # each crop's first pixel
        device = self.pixels.device
        order, flips, first, squares = (
            torch.from_numpy(drawn).to(device, non_blocking=True) for drawn in (order, flips, first, squares)
        )
        return self._batches(order, flips, first, squares, start_step)

    def _draw(self, seed: int, epoch: int) -> tuple[np.ndarray, ...]:
        """Draw the order, flips, crop rows, crop columns and Cutout centres of one epoch.

        The first four are (N,) int64 by position in the epoch: the image index, 1 for a flip, and the crop's origin in
        the padded image. The centres are (2, N): row and column within the crop. All are always drawn, so that changing
        padding, flip or cutout does not change the other draws.
        """
        generator = np.random.default_rng((seed, epoch))
        n = len(self.labels)
        order = generator.permutation(n)
        flips = generator.integers(0, 2, n)
        _, height, width = self.windows.shape
        origins = np.array((self.padded_height - height, self.padded_width - width))[:, None] + 1
        down, right = generator.integers(0, origins, (2, n))
        squares = generator.integers(0, np.array((height, width))[:, None], (2, n))
        if self.alternating:
            # each image's flip in epoch 0: depends on the seed only, independent of the draws of any epoch
            first_flips = np.random.default_rng((seed, 0, 1)).integers(0, 2, n)
            flips = (first_flips[order] + epoch) % 2
        return order, flips if self.flip else np.zeros_like(flips), down, right, squares

    def _batches(
        self, order: Tensor, flips: Tensor, first: Tensor, squares: Tensor, start_step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        _, height, width = self.windows.shape
        for step in range(start_step, self.steps):
            start, (first_image, every) = step * self.batch_size, self.part
            batch = slice(start + first_image, start + self.size(step), every)
            offsets = self.windows[flips[batch]] + first[batch, None, None]  # (B, H, W)
            crops = self.pixels.index_select(0, offsets.view(-1)).view(-1, height, width, self.pixels.shape[1])
            x = _normalise(crops, self.scale, self.shift)
            yield self._cut_out(x, *squares[:, batch]), self.labels.index_select(0, order[batch])

    def _cut_out(self, x: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Set the square around each image's (row, column) to zero, in place; x is (B, 3, H, W)."""
        if not self.cutout:
            return x
        rows, columns = self._inside(x.shape[2], row), self._inside(x.shape[3], column)
        return x.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)

    def _inside(self, size: int, centre: Tensor) -> Tensor:
        """(B, size) bool: rows or columns inside each square; an even square has one more before its centre."""
        offset = torch.arange(size, device=centre.device) - centre[:, None] + self.cutout // 2
        return (offset >= 0) & (offset < self.cutout)


def pad(images: Tensor, padding: int, fill: Literal["black", "reflect"]) -> Tensor:
    """Pad the images by `padding` pixels on each side, black or reflected: (N, H, W, 3) -> (N, H+2p, W+2p, 3)."""
    if not isinstance(padding, int) or padding < 0:
        raise ValueError(f"padding={padding!r} is not allowed; allowed: an integer from 0 up (pixels)")
    n, height, width, channels = images.shape
    if fill == "black":
        padded = images.new_zeros((n, height + 2 * padding, width + 2 * padding, channels))
        padded[:, padding : padding + height, padding : padding + width] = images
        return padded
    if fill != "reflect":
        raise ValueError(f"fill={fill!r} is not allowed; allowed: 'black', 'reflect'")
    if padding >= min(height, width):
        raise ValueError(
            f"padding={padding} is not allowed with fill='reflect' at {height}x{width} pixels; "
            f"allowed: 0 to {min(height, width) - 1}"
        )
    rows, columns = (_reflected(size, padding, images.device) for size in (height, width))
    return images.index_select(1, rows).index_select(2, columns)


def _reflected(size: int, padding: int, device: torch.device) -> Tensor:
    """Source index of each padded position: 2 1 | 0 1 2 3 | 2 1 for a size of 4 and a padding of 2."""
    positions = torch.arange(-padding, size + padding, device=device).abs()
    return torch.minimum(positions, 2 * (size - 1) - positions)


def eval_batches(
    images: Tensor, labels: Tensor, *, batch_size: int, mean: Sequence[float], std: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, normalised but not augmented; yields x and y as Augmenter.epoch does."""
    _check(images, labels, batch_size)
    scale, shift = _scale_and_shift(mean, std, images.shape[2], images.device)
    return (
        (_normalise(images[start : start + batch_size], scale, shift), labels[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    )


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(pixels / 255 - mean) / std: (N, H, W, 3) uint8 -> (N, 3, H, W) float32 in channels_last memory format."""
    return _normalise(images, *_scale_and_shift(mean, std, images.shape[2], images.device))


def _scale_and_shift(mean: Sequence[float], std: Sequence[float], width: int, device: torch.device) -> tuple:
    """Normalisation as pixels * scale + shift, repeated along one row of pixels: each (W*3,) float32.

    On a CPU, broadcasting over rows is several times faster than broadcasting over 3 values.
    """
    mean, std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise ValueError(f"mean={mean.tolist()}, std={std.tolist()} must be three numbers each, with std above zero")
    scale, shift = 1 / (255 * std), -mean / std
    return tuple(row.to(torch.float32).repeat(width).to(device) for row in (scale, shift))


def _normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    rows = images.reshape(-1, len(scale)).to(torch.float32)  # (B, H, W, 3) -> (B*H, W*3)
    return torch.addcmul(shift, rows, scale).view(images.shape).permute(0, 3, 1, 2)  # -> (B, 3, H, W)


def _check(images: Tensor, labels: Tensor, batch_size: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) == 0:
        raise ValueError(f"images must be (N, H, W, 3) uint8, not {tuple(images.shape)} {images.dtype}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or labels.device != images.device:
        raise ValueError(
            f"labels must be ({len(images)},) int64 on {images.device}, "
            f"not {tuple(labels.shape)} {labels.dtype} on {labels.device}"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} is not allowed; allowed: an integer from 1 up")
