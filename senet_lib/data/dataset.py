"""What a data set is here: two splits of uint8 images in a canonical order, known by the content of their pixels.

Content fingerprint of a split, independent of order and container: for each image the sha256 of one byte with the label
followed by its pixels (rows, columns, channels); the hex digests sorted, joined by a newline, and hashed again.
Canonical order: the images sorted by those digests. The official archive and an image tree thus become the same tensor,
and the same seed gives the same training whatever the container was.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from senet_lib.errors import UserError

MAX_CLASSES = 256  # a label is one byte, in the fingerprint and in a run's predictions


class DataError(UserError):
    """A data set that is unknown, missing, damaged or not what it should be; the message is one line."""


def reason(error: BaseException) -> str:
    """What went wrong, for the one line of a DataError: the first line of the error's own words."""
    return next(iter(str(error).splitlines()), "").strip(" :") or type(error).__name__


class Split(NamedTuple):
    """Images (N, H, W, 3) uint8 and labels (N,) uint8, either as numpy arrays or as CPU tensors."""

    images: Tensor | np.ndarray
    labels: Tensor | np.ndarray


class Decoded(NamedTuple):
    """A data set as it was read: the class names (a label is an index into them) and its two splits."""

    classes: tuple[str, ...]
    train: Split
    test: Split


class Canonical(NamedTuple):
    """The same as tensors in canonical order, with the fingerprints {"train": hex, "test": hex}."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    fingerprints: dict[str, str]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images on one device, with what training and reports need to know of them.

    train_images, test_images: (N, H, W, 3) uint8. train_labels, test_labels: (N,) int64.
    mean, std: of the training pixels, a channel each, in [0, 1] (std: the population's; 1 for a constant channel).
    flip: whether a mirror image keeps its class.
    fingerprints: {"train": hex, "test": hex}, the content of the tensors held here.
    evaluation_split: what the test_* tensors are: "test", or "holdout" for images taken out of the training split.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    fingerprints: dict[str, str]
    evaluation_split: str = "test"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), as a network sees one image."""
        height, width, channels = self.train_images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with its four tensors on `device`."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )

    def holdout(self, n: int) -> "Dataset":
        """Set `n` training images aside as the evaluation split; the test set is not in the result at all.

        Each class gives its share of `n` (largest remainders; ties to the lower label), namely its first images in the
        canonical order. That order comes from hashes of the pixels, so the choice is as good as random, is balanced,
        and depends neither on a seed nor on the container. Mean, std and fingerprints are those of the new splits.

        Raises ValueError when `n` leaves a class without a training image, or on a data set that is a holdout already.
        """
        if self.evaluation_split != "test":
            raise ValueError("this data set is evaluated on a holdout already: take it from the data set as loaded")
        total = len(self.train_labels)
        if not isinstance(n, int) or not 1 <= n < total:
            raise ValueError(f"holdout must be between 1 and {total - 1} of the {total} training images, not {n!r}")
        labels = self.train_labels.cpu()
        counts = torch.bincount(labels, minlength=self.num_classes)
        share, remainder = counts * n // total, counts * n % total
        share[torch.argsort(remainder, descending=True, stable=True)[: n - int(share.sum())]] += 1
        aside = torch.zeros(total, dtype=torch.bool)
        for label, class_name in enumerate(self.classes):
            if share[label] >= counts[label]:
                raise ValueError(f"holdout of {n} images would leave no training image of class {class_name!r}")
            aside[torch.nonzero(labels == label)[: share[label], 0]] = True
        aside = aside.to(self.train_images.device)
        return build_dataset(
            self.name,
            self.classes,
            train=Split(self.train_images[~aside], self.train_labels[~aside]),
            test=Split(self.train_images[aside], self.train_labels[aside]),
            flip=self.flip,
            evaluation_split="holdout",
        )


def build_dataset(
    name: str,
    classes: tuple[str, ...],
    *,
    train: Split,
    test: Split,
    flip: bool,
    evaluation_split: str = "test",
    fingerprints: dict[str, str] | None = None,
) -> Dataset:
    """A Dataset from two splits of tensors in canonical order; fingerprints are computed unless they are known."""
    mean, std = channel_statistics(train.images)
    return Dataset(
        name=name,
        classes=classes,
        train_images=train.images,
        train_labels=train.labels.to(torch.int64),
        test_images=test.images,
        test_labels=test.labels.to(torch.int64),
        mean=mean,
        std=std,
        flip=flip,
        fingerprints=fingerprints or {"train": content_fingerprint(*train), "test": content_fingerprint(*test)},
        evaluation_split=evaluation_split,
    )


def sample_digests(images: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> list[str]:
    """The sha256 (hex) of each image's label byte and pixels; images (N, H, W, 3) uint8, labels (N,) in 0..255."""
    pixels = np.ascontiguousarray(images.cpu() if isinstance(images, Tensor) else images)
    label_bytes = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels).astype(np.uint8)
    pixels = pixels.reshape(len(pixels), -1)  # (N, H*W*3)
    digests = []
    for label, row in zip(label_bytes.tolist(), pixels, strict=True):
        digest = hashlib.sha256(bytes((label,)))
        digest.update(row)
        digests.append(digest.hexdigest())
    return digests


def fingerprint_of(digests: Iterable[str]) -> str:
    """The fingerprint of a split, from its images' digests in any order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def content_fingerprint(images: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> str:
    """What a split holds, as 64 hex digits that depend on its pixels and labels but neither on order nor container."""
    return fingerprint_of(sample_digests(images, labels))


def canonical(decoded: Decoded) -> Canonical:
    """Both splits as CPU tensors in canonical order, with their fingerprints."""
    (train, train_fingerprint), (test, test_fingerprint) = _in_order(decoded.train), _in_order(decoded.test)
    return Canonical(decoded.classes, train, test, {"train": train_fingerprint, "test": test_fingerprint})


def _in_order(split: Split) -> tuple[Split, str]:
    digests = sample_digests(*split)
    order = sorted(range(len(digests)), key=digests.__getitem__)
    images, labels = (torch.from_numpy(array[order]) for array in split)
    return Split(images, labels), fingerprint_of(digests)


def channel_statistics(images: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and population standard deviation of each channel in [0, 1], exact up to one rounding.

    images: (N, H, W, 3) uint8. Counting the 256 values first keeps the sums in integers.
    """
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in images.cpu().unbind(-1):
        counts = torch.bincount(channel.reshape(-1), minlength=256).to(torch.float64)
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        means.append(float(mean) / 255)
        stds.append(float(variance.sqrt()) / 255 or 1.0)
    return tuple(means), tuple(stds)
