"""Accuracy, confusion counts, parameters and multiply-adds.

Only functions that run a network import torch, so results can be analysed without it.
"""

import numpy as np


def accuracy(labels, predicted) -> float:
    """Fraction of equal entries, in [0, 1], of two arrays or tensors (N,).

    Raises ValueError unless the shapes are equal and N > 0.
    """
    labels, predicted = as_class_arrays(labels, predicted)
    return float((labels == predicted).mean())


def confusion_counts(labels, predicted, num_classes: int) -> np.ndarray:
    """(K, K) int64: row = true class, column = predicted class; the sum is N.

    Raises ValueError when a class is outside [0, K).
    """
    labels, predicted = as_class_arrays(labels, predicted)
    for name, classes in (("labels", labels), ("predicted", predicted)):
        if classes.min() < 0 or classes.max() >= num_classes:
            raise ValueError(
                f"{name} has classes from {classes.min()} to {classes.max()}; allowed: 0 to {num_classes - 1}"
            )
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def as_class_arrays(labels, predicted) -> tuple[np.ndarray, np.ndarray]:
    """Both as numpy arrays (N,), from any device. Raises ValueError unless the shapes are equal and N > 0."""
    labels, predicted = (np.asarray(x.cpu() if hasattr(x, "cpu") else x) for x in (labels, predicted))
    if labels.ndim != 1 or labels.shape != predicted.shape or not labels.size:
        raise ValueError(f"labels {labels.shape} and predicted {predicted.shape} must both have shape (N,), N > 0")
    return labels, predicted


def count_params(model) -> int:
    """Number of trainable parameters of an nn.Module, which excludes batch norm's running statistics."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model, input_size: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiply-adds of the convolutions and linear layers for one image (C, H, W), in evaluation mode.

    Counted by PyTorch's FLOP counter on the meta device, without arithmetic; the model is unchanged. Element-wise
    operations (BN, ReLU, pooling, gating) are not counted, as in the papers.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run_on_meta(model, input_size)
    return counter.get_total_flops() // 2


def run_on_meta(model, input_size: tuple[int, int, int]) -> None:
    """Run one image (C, H, W) through the network on the meta device, in evaluation mode.

    Hooks see the shapes, nothing is computed, and the model is unchanged.
    """
    import torch
    import torch.nn.functional as F
    from torch.func import functional_call
    from torch.overrides import TorchFunctionMode

    class BatchNormSkipped(TorchFunctionMode):
        """Skips batch norm: it keeps the shape and is not counted, but takes most of the time on the meta device."""

        def __torch_function__(self, function, types, args=(), kwargs=None):
            return args[0] if function is F.batch_norm else function(*args, **(kwargs or {}))

    meta = {name: x.to("meta") for name, x in (*model.named_parameters(), *model.named_buffers())}
    image = torch.empty(1, *input_size, dtype=next(model.parameters()).dtype, device="meta")
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad(), BatchNormSkipped():
            functional_call(model, meta, (image,))
    finally:
        for module in training:
            module.training = True
