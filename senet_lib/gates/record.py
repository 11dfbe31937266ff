"""Loads a finished run's network and records its gates for each image.

One method returns the SE gate (`excite`), one the SK weights (`attend`). While `recorded` is open, these methods also
store what they return, so that no block's forward pass is implemented twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from senet_lib.data import Dataset, load_dataset, normalise
from senet_lib.errors import UserError, did_you_mean
from senet_lib.models import create_model
from senet_lib.models.blocks import SelectiveKernelConv, SqueezeExcitation
from senet_lib.models.inspection import block_name
from senet_lib.results import WEIGHTS, StudyResults
from senet_lib.training.checkpoint import load_weights

RECORDED_METHOD = {SqueezeExcitation: "excite", SelectiveKernelConv: "attend"}


@dataclass(frozen=True)
class Recording:
    """A network's gates, weights and predictions for N images, block by block in network order.

    gates: block -> SE gates (N, C); a gate per pixel is averaged over the pixels.
    weights: block -> SK weights (N, M, C) of the M branches, which sum to 1 over M.
    predicted: (N,) class indices.
    """

    gates: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    predicted: np.ndarray


def evaluated_data(results: StudyResults, data: Dataset) -> Dataset:
    """The data set whose test_* tensors are the images of the study's predictions.

    Raises ValueError if the fingerprints show that they are other images.
    """
    expected = results.study["fingerprints"]
    if data.fingerprints != expected:
        raise ValueError(
            f"data {data.name!r} is not the data of study {results.study['name']!r}: its fingerprints are"
            f" {data.fingerprints}, the study's are {expected}; load {results.study['data']!r}"
        )
    holdout = results.study["recipe"].get("holdout")
    return data.holdout(holdout) if holdout else data


class NoImages(UserError):
    """A study's images cannot be loaded."""


def study_images(results: StudyResults, place: str = "") -> Dataset:
    """The data set whose test_* tensors are the images of the study's predictions.

    place: the folder or archive that has them; empty: wherever `load_dataset` finds them. Raises NoImages, whose
    message says what to do.
    """
    name = results.study["data"]
    try:
        return evaluated_data(results, load_dataset(name, place or None))
    except ValueError as error:
        raise NoImages(
            f"{error}. For this notebook, name the folder or archive that has {name} in the parameter data or in the "
            "environment variable SENET_DATA, as DATA= does for make. Without these images: `make reproduce` trains "
            'three small networks on the bundled digits; then set results = "../results/quick" and networks = []'
        ) from None


def trained_network(results: StudyResults, label: str) -> tuple[nn.Module, str]:
    """The network `label` with the final weights of its first seed, in evaluation mode, and the run's id.

    Raises ValueError with a one-line message if the study lacks that network, its finished run or the run's weights.
    """
    if label not in results.labels:
        raise UserError(f"unknown network {label!r}; {did_you_mean(label, results.labels)}")
    run = next(run for run in results.study["runs"] if run["label"] == label)
    folder, command = results.path / "runs" / run["run_id"], f"`make reproduce STUDY={results.study['name']}`"
    if run["run_id"] not in set(results.done["run_id"]):
        raise ValueError(f"{folder} has no finished run; {command} trains it")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} has no {WEIGHTS}; {command} writes the file. A published study includes it only for each"
            " network's first seed, and only if it is small"
        )
    model = create_model(run["model"], num_classes=len(results.study["classes"]), **run["knobs"])
    load_weights(folder, model)
    return model.eval(), run["run_id"]


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While open, each forward pass through `model` fills the yielded dictionary: name of an SE gate or SK convolution
    -> its last gates (..., C) or weights (N, M, C)."""
    last: dict[str, Tensor] = {}

    def recording(name: str, method):
        def call(*arguments):
            last[name] = method(*arguments)
            return last[name]

        return call

    found = [
        (name, module, method)
        for name, module in model.named_modules()
        for kind, method in RECORDED_METHOD.items()
        if isinstance(module, kind)
    ]
    for name, module, method in found:
        setattr(module, method, recording(name, getattr(module, method)))  # shadows the class's method
    try:
        yield last
    finally:
        for _, module, method in found:
            delattr(module, method)


def record(model: nn.Module, images: Tensor, data: Dataset, batch_size: int = 500) -> Recording:
    """Run `model` in evaluation mode over `images` (N, H, W, 3) uint8, normalised like those of `data`."""
    modules = dict(model.named_modules())
    kept: dict[str, list[Tensor]] = {}
    predicted = []
    was_training = model.training
    model.eval()
    with recorded(model) as last, torch.no_grad():
        for batch in images.split(batch_size):
            predicted.append(model(normalise(batch, data.mean, data.std)).argmax(1))
            for name, value in last.items():
                gate = isinstance(modules[name], SqueezeExcitation)
                kept.setdefault(name, []).append(value.flatten(1, -2).mean(1) if gate else value)  # (N, 1, 1, C)
    model.train(was_training)
    found = {name: torch.cat(values).float().numpy() for name, values in kept.items()}
    return Recording(
        {block_name(name): value for name, value in found.items() if value.ndim == 2},
        {block_name(name): value for name, value in found.items() if value.ndim == 3},
        torch.cat(predicted).numpy(),
    )


def extents(model: nn.Module) -> dict[str, list[int]]:
    """SK block -> extent in pixels of each branch's kernel: 3 for 3x3, 5 for 3x3 with dilation 2."""
    return {
        block_name(name): [unit[0].dilation[0] * (unit[0].kernel_size[0] - 1) + 1 for unit in module.branches]
        for name, module in model.named_modules()
        if isinstance(module, SelectiveKernelConv)
    }
