"""A data set: two splits of uint8 images in canonical order, identified by content fingerprints.

The content fingerprint of a split does not depend on order or file format. For each image, take the sha256 of the label
as one byte followed by the pixels (rows, columns, channels); sort the hex digests, join them by newlines, hash again.
Canonical order: images sorted by these digests. The official archive and an image tree therefore give the same tensor,
and the same seed gives the same training run.
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
    """An unknown, missing, damaged or wrong data set; the message is one line."""


def reason(error: BaseException) -> str:
    """The first line of an error's message, for use in a DataError."""
    return next(iter(str(error).splitlines()), "").strip(" :") or type(error).__name__


class Split(NamedTuple):
    """Images (N, H, W, 3) uint8 and labels (N,) uint8, as numpy arrays or CPU tensors."""

    images: Tensor | np.ndarray
    labels: Tensor | np.ndarray


class Decoded(NamedTuple):
    """A data set as read: the class names, indexed by label, and the two splits."""

    classes: tuple[str, ...]
    train: Split
    test: Split


class Canonical(NamedTuple):
    """A data set as tensors in canonical order, with the fingerprints {"train": hex, "test": hex}."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    fingerprints: dict[str, str]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images on one device, with the metadata for training and reports.

    train_images, test_images: (N, H, W, 3) uint8. train_labels, test_labels: (N,) int64.
    mean, std: of the training pixels per channel, in [0, 1] (population std; 1 for a constant channel).
    flip: whether a mirror image keeps its class.
    fingerprints: {"train": hex, "test": hex}, content fingerprints of the tensors held here.
    evaluation_split: content of the test_* tensors: "test", or "holdout" for a validation split of the training images.
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
        """(C, H, W) of one network input."""
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
        """Split `n` validation images off the training split; the result does not contain the test set.

        The split is stratified: each class contributes its share of `n` (largest remainders; ties to the lower label),
        taken from its first images in canonical order. That order comes from hashes of the pixels, so the choice is
        effectively random but depends neither on a seed nor on the file format. Mean, std and fingerprints are those of
        the new splits.

        Raises ValueError when `n` leaves a class without training images, or when called on the result of `holdout`.
        """
        if self.evaluation_split != "test":
            raise ValueError("this data set is already the result of holdout: call holdout on the data set as loaded")
        total = len(self.train_labels)
        if not isinstance(n, int) or not 1 <= n < total:
            raise ValueError(f"holdout={n!r} is not allowed; allowed: 1 to {total - 1} of the {total} training images")
        labels = self.train_labels.cpu()
        counts = torch.bincount(labels, minlength=self.num_classes)
        share, remainder = counts * n // total, counts * n % total
        share[torch.argsort(remainder, descending=True, stable=True)[: n - int(share.sum())]] += 1
        validation = torch.zeros(total, dtype=torch.bool)
        for label, class_name in enumerate(self.classes):
            if share[label] >= counts[label]:
                raise ValueError(f"holdout={n} would leave no training image of class {class_name!r}: use fewer images")
            validation[torch.nonzero(labels == label)[: share[label], 0]] = True
        validation = validation.to(self.train_images.device)
        return build_dataset(
            self.name,
            self.classes,
            train=Split(self.train_images[~validation], self.train_labels[~validation]),
            test=Split(self.train_images[validation], self.train_labels[validation]),
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
    """A Dataset from two splits of tensors in canonical order; fingerprints are computed unless given."""
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
    """sha256 (hex) of each image's label byte and pixels; images: (N, H, W, 3) uint8, labels: (N,) in 0..255."""
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
    """The fingerprint of a split from its images' digests, in any order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def content_fingerprint(images: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> str:
    """64 hex digits that identify a split's pixels and labels, independent of order and file format."""
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

    images: (N, H, W, 3) uint8. A histogram of the 256 values keeps the sums in integers.
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
