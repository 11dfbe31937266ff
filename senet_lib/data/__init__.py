"""Data sets as uint8 tensors on the device, with splits, fingerprints and batched augmentation.

- `load_dataset` finds a data set by name, verifies its content and puts it in canonical order.
- `Dataset` is the result. `Dataset.holdout` creates a validation split, so that tuning never uses the test set.
- `Augmenter` and `eval_batches` yield normalised batches on the device, without a DataLoader.
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
    """Import each public name on first access, so that studies validate against `catalog.py` without torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
