"""A data set as uint8 tensors that live on the device, its split, its fingerprint, and augmentation by the batch.

- `load_dataset` finds a set by its name, checks its content and puts it into one canonical order.
- `Dataset` is what it returns; `Dataset.holdout` sets training images aside, so that tuning never sees the test set.
- `Augmenter` and `eval_batches` turn the tensors into normalised batches, on the device and without a DataLoader.
"""

from senet_lib.data.augment import Augmenter, eval_batches, normalise
from senet_lib.data.dataset import DataError, Dataset, content_fingerprint
from senet_lib.data.load import DATASETS, load_dataset

__all__ = [
    "DATASETS",
    "Augmenter",
    "DataError",
    "Dataset",
    "content_fingerprint",
    "eval_batches",
    "load_dataset",
    "normalise",
]
