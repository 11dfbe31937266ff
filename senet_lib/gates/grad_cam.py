"""Grad-CAM: the image regions that a class score depends on. Selvaraju et al., arXiv:1610.02391, equations 1 and 2."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.data import Dataset, normalise


def grad_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """relu(sum_c alpha_c A_c), alpha_c = mean_HW of d score / d A_c, with A the output (N, C, H, W) of `layer`.

    x: (N, 3, height, width), a network's input; classes: (N,), whose score is explained. -> (N, H, W).
    `model` must be in evaluation mode: otherwise the images of a batch depend on one another.
    """
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            scores = model(x).gather(1, classes[:, None])  # (N, classes) -> (N, 1)
            (activations,) = kept
            (gradient,) = torch.autograd.grad(scores.sum(), activations)
    finally:
        hook.remove()
    alpha = gradient.mean((2, 3), keepdim=True)  # (N, C, H, W) -> (N, C, 1, 1)
    return torch.relu((alpha * activations).sum(1)).detach()  # (N, C, H, W) -> (N, H, W)


def maps(model: nn.Module, images: Tensor, classes: np.ndarray, data: Dataset, batch_size: int = 250) -> np.ndarray:
    """Grad-CAM of the last stage's output, each map resized to its image and scaled to a maximum of 1: (N, H, W).

    images: (N, H, W, 3) uint8. A map without a positive value stays 0.
    """
    found = []
    for batch, wanted in zip(images.split(batch_size), torch.as_tensor(classes).split(batch_size), strict=True):
        cam = grad_cam(model, model.stages[-1], normalise(batch, data.mean, data.std), wanted.long())
        cam = F.interpolate(cam[:, None], batch.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
        found.append(cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-12))
    return torch.cat(found).numpy()
