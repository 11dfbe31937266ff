"""A data set as uint8 tensors that live on the device, its split, its fingerprint, and augmentation by the batch.

- `load_dataset` finds a set by its name, checks its content and puts it into one canonical order.
- `Dataset` is what it returns; `Dataset.holdout` sets training images aside, so that tuning never sees the test set.
- `Augmenter` and `eval_batches` turn the tensors into normalised batches, on the device and without a DataLoader.
"""

import importlib

_PUBLIC = {
    "DATASETS": "catalog",
    "Augmenter": "augment",
    "DataError": "dataset",
    "Dataset": "dataset",
    "content_fingerprint": "dataset",
    "eval_batches": "augment",
    "load_dataset": "load",
    "normalise": "augment",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    """Each public name from its file when it is asked for: a study is checked by `catalog.py` without torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
