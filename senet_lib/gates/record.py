"""A finished run's network, and what its gates say about each image.

SE's gate and SK's weights are the return values of one method each, `excite` and `attend`; while `recorded` is open,
those methods also note down what they return, so that nothing about a block is written twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from senet_lib.data import Dataset, normalise
from senet_lib.errors import UserError, did_you_mean
from senet_lib.models import create_model
from senet_lib.models.blocks import SelectiveKernelConv, SqueezeExcitation
from senet_lib.results import WEIGHTS, StudyResults
from senet_lib.training.checkpoint import load_weights

RECORDED_METHOD = {SqueezeExcitation: "excite", SelectiveKernelConv: "attend"}


@dataclass(frozen=True)
class Recording:
    """What a network did with N images, block by block in the order of the network.

    gates: block -> SE's gates (N, C), of a gate for every pixel the mean over the pixels.
    weights: block -> SK's weights (N, M, C) of its M branches, which sum to 1 over M.
    predicted: (N,) class indices.
    """

    gates: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    predicted: np.ndarray


def evaluated_data(study: StudyResults, data: Dataset) -> Dataset:
    """The data set whose test_* tensors are the images that the study's predictions are about.

    Raises ValueError when they are other images.
    """
    expected = study.study["fingerprints"]
    if data.fingerprints != expected:
        raise ValueError(
            f"data {data.name!r} has the fingerprints {data.fingerprints}, study {study.study['name']!r} has"
            f" {expected}; allowed: {study.study['data']!r}"
        )
    held_out = study.study["recipe"].get("holdout")
    return data.holdout(held_out) if held_out else data


def trained_network(study: StudyResults, label: str) -> tuple[nn.Module, str]:
    """The network `label` with the final weights of its first seed, in evaluation mode; and the run's id.

    Raises ValueError, in one line, when the study has no such network, no such finished run, or not its weights.
    """
    if label not in study.labels:
        raise UserError(f"unknown network {label!r}; {did_you_mean(label, study.labels)}")
    run = next(run for run in study.study["runs"] if run["label"] == label)
    folder = study.path / "runs" / run["run_id"]
    if run["run_id"] not in set(study.done["run_id"]):
        raise ValueError(f"{folder}: not a finished run; `make reproduce STUDY={study.study['name']}` makes it")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder}: no {WEIGHTS} there; `make reproduce STUDY={study.study['name']}` writes it, and `make publish`"
            " copies that of each network's first seed where it is small"
        )
    model = create_model(run["model"], num_classes=len(study.study["classes"]), **run["knobs"])
    load_weights(folder, model)
    return model.eval(), run["run_id"]


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While open, each pass through `model` puts module name -> what the SE gate or SK convolution of that name
    returned last: gates (..., C), or weights (N, M, C)."""
    last: dict[str, Tensor] = {}

    def noting(name: str, method):
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
        setattr(module, method, noting(name, getattr(module, method)))  # on the instance, before the class's own
    try:
        yield last
    finally:
        for _, module, method in found:
            delattr(module, method)


def record(model: nn.Module, images: Tensor, data: Dataset, batch_size: int = 500) -> Recording:
    """Run `model` in evaluation mode over `images` (N, H, W, 3) uint8, normalised as those of `data`."""
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


def block_name(module: str) -> str:
    """'stages.0.2.gate' -> '1.3', the third block of the first stage; another module keeps its name."""
    match module.split("."):
        case ["stages", stage, block, *_] if stage.isdigit() and block.isdigit():
            return f"{int(stage) + 1}.{int(block) + 1}"
    return module


def extents(model: nn.Module) -> dict[str, list[int]]:
    """SK block -> the pixels that each branch's kernel spans: 3 for 3x3, 5 for 3x3 with dilation 2."""
    return {
        block_name(name): [unit[0].dilation[0] * (unit[0].kernel_size[0] - 1) + 1 for unit in module.branches]
        for name, module in model.named_modules()
        if isinstance(module, SelectiveKernelConv)
    }
