"""Estimate a run's cost on this machine from a few measured steps, or from what finished runs recorded."""

import functools
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch

from senet_lib.data import Dataset
from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model
from senet_lib.study import RunConfig
from senet_lib.training import TrainingStopped, fit
from senet_lib.training.resizing import pixel_shares
from senet_lib.training.runtime import device_kind

# NVIDIA's H100 SXM data sheet: dense bf16. SHARE is the fraction of the peak that training reaches. It was not measured
# on an H100; it is that of a standard ResNet-18 training on an A100 (312 TFLOP/s): 32.3e15 FLOP in 7 minutes
# (github:KellerJordan/cifar10-airbench, README). Small networks are far from it: each operation takes the host and the
# GPU some time, whatever its size. LAYER_SECONDS is that of ResNet-20, which has 43 layers with parameters, on an H100
# that it shared with other runs: in the fastest recorded epoch, of 97 steps (resnet20_fast, seed 4).
H100_FLOPS = 989e12
SHARE = 32.3e15 / (7 * 60) / 312e12
LAYER_SECONDS = 2.42 / 97 / 43
CPU_MACS = 12e9  # of the images in a measured step: few enough for a second or two, as many as fit
CPU_IMAGES = 8, 128  # the least and the most of them; networks with small maps need many
MOST_SECONDS = 25.0  # of measuring; the times of the networks that are left are computed from their multiply-adds


@dataclass(frozen=True)
class Cost:
    """params; macs per image; seconds per full-resolution training image, per mean epoch and per run, the last two with
    evaluation; seconds of the run on an H100, from its multiply-adds alone and with a time per layer and step.

    source: 'measured', 'recorded' by finished runs, or 'scaled' from measured networks by the multiply-adds.
    """

    params: int
    macs: int
    seconds_per_image: float
    epoch_seconds: float
    run_seconds: float
    h100_seconds: tuple[float, float]
    source: str = "measured"


def estimates(
    networks: Sequence[RunConfig],
    data: Dataset,
    recorded: Mapping[str, float] | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> dict[str, Cost]:
    """The cost of a run of each configuration, by label. Prints to stderr what it measures.

    data: only its sizes are used. recorded: label -> the seconds of a finished run's epochs. Other networks are
    measured on random images, one of each family first; after MOST_SECONDS the others are scaled from these.
    """
    costs = {
        run.label: cost(run, data, recorded[run.label] / run.recipe.epochs / sum(image_steps(run, data)), "recorded")
        for run in networks
        if run.label in (recorded or {})
    }
    left = [run for run in networks if run.label not in costs]
    unique = list({_as_measured(run): run for run in left[::-1]}.values())[::-1]  # many may be one network
    first = {_without_depth(run): run for run in unique[::-1]}.values()
    order = [run for run in unique if run in first] + [run for run in unique if run not in first]
    rates: dict[tuple, tuple[RunConfig, float]] = {}  # what was measured -> an example, and its seconds per image
    started = time.monotonic()
    with _status() as say:
        for number, run in enumerate(order, 1):
            if rates and (time.monotonic() - started) * number / len(rates) > MOST_SECONDS:  # expected after this one
                break
            say(f"measuring {number} of {len(order)}: {run.label} ...")
            rates[_as_measured(run)] = run, measure(run, data, device, threads)
    for run in left:
        if _as_measured(run) in rates:
            costs[run.label] = cost(run, data, rates[_as_measured(run)][1])
        else:
            costs[run.label] = cost(run, data, _scaled(run, data, list(rates.values())), "scaled")
    return costs


def cost(run: RunConfig, data: Dataset, seconds_per_image: float, source: str = "measured") -> Cost:
    """The cost of a run whose network takes `seconds_per_image` in a training step."""
    params, macs, layers = count(run, data)
    steps, epochs = sum(image_steps(run, data)), run.recipe.epochs
    epoch = seconds_per_image * steps
    least = 6 * macs * steps * epochs / (SHARE * H100_FLOPS)
    batches = (len(data.train_labels) - run.recipe.holdout) / run.recipe.batch_size
    most = least + batches * epochs * layers * LAYER_SECONDS
    return Cost(params, macs, seconds_per_image, epoch, epoch * epochs, (least, most), source)


def count(run: RunConfig, data: Dataset) -> tuple[int, int, int]:
    """The parameters of the run's network, its multiply-adds per image, and its layers that have parameters."""
    return _count(run.model, json.dumps(run.knobs), data.num_classes, data.image_shape)


@functools.cache
def _count(model: str, knobs: str, classes: int, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    with torch.device("meta"):
        network = create_model(model, num_classes=classes, **json.loads(knobs))
    layers = sum(1 for layer in network.modules() if list(layer.parameters(recurse=False)))
    return count_params(network), count_macs(network, image_shape), layers


def image_steps(run: RunConfig, data: Dataset) -> tuple[float, float]:
    """The cost of a mean epoch's training and of its evaluation, in training steps on one full-resolution image.

    The smaller images of the first epochs are weighted by their pixels. A training step is a forward and a backward
    pass; the backward pass costs about two forward passes.
    """
    _, height, width = data.image_shape
    share = fmean(pixel_shares(run.recipe, height))
    if run.recipe.crop_size:
        share *= height / width  # crops are square
    holdout = run.recipe.holdout
    return (len(data.train_labels) - holdout) * share, (holdout or len(data.test_labels)) / 3


def measure(run: RunConfig, data: Dataset, device: str = "auto", threads: int | None = None) -> float:
    """The seconds of a training step per image, from two short epochs on random images; the first is a warm-up.

    Muon's iteration, a few percent of a full batch's step, is not included.
    """
    classes, (_, height, width) = data.num_classes, data.image_shape
    on_gpu = device_kind(device) == "cuda"
    least, most = CPU_IMAGES
    macs = count(run, data)[1]
    batch = run.recipe.batch_size if on_gpu else min(run.recipe.batch_size, max(least, min(most, int(CPU_MACS / macs))))
    images = batch * (20 if on_gpu else 1)
    pixels = torch.randint(256, (images, height, width, 3), dtype=torch.uint8)
    labels = torch.arange(images) % classes
    random_images = Dataset(
        name="random",
        classes=tuple(map(str, range(classes))),
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:1],
        test_labels=labels[:1],
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        flip=True,
        fingerprints={},
    )
    recipe = run.recipe.model_copy(update={**_NOT_MEASURED, "batch_size": batch})
    network = create_model(run.model, num_classes=classes, **run.knobs)
    try:
        outcome = fit(network, random_images, recipe, device=device, threads=threads, progress="none")
    except (TrainingStopped, KeyboardInterrupt) as stopped:  # to the handler that `fit` had replaced
        signal.raise_signal(signal.SIGTERM if isinstance(stopped, TrainingStopped) else signal.SIGINT)
        raise
    return outcome.history[-1]["train_seconds"] / images


# What differs between equally fast recipes, or cannot be measured on a few images
_NOT_MEASURED = {
    "epochs": 2,
    "warmup_epochs": 0.0,
    "holdout": 0,
    "lr": 1e-6,
    "weight_decay": 0.0,
    "schedule": "constant",
}
_NOT_MEASURED |= {"first_size": None, "crop_size": None, "muon_lr": None}


def _as_measured(run: RunConfig) -> tuple:
    """What `measure` depends on."""
    return run.model, json.dumps(run.knobs, sort_keys=True), run.recipe.model_copy(update=_NOT_MEASURED)


def _without_depth(run: RunConfig) -> str:
    """The name without the depth: 'se_resnet' for 'se_resnet50'."""
    return re.match(r"\D*", run.model)[0]


def _scaled(run: RunConfig, data: Dataset, measured: Sequence[tuple[RunConfig, float]]) -> float:
    """Seconds per image: those per multiply-add of the networks of the same family, or of all networks if none is."""
    alike = [pair for pair in measured if _without_depth(pair[0]) == _without_depth(run)] or measured
    return count(run, data)[1] * fmean(seconds / count(other, data)[1] for other, seconds in alike)


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a line on stderr: in a terminal in the place of the line before, which disappears."""
    terminal = sys.stderr.isatty()
    clear = "\r\x1b[K"
    try:
        yield lambda text: print(
            clear + text if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True
        )
    finally:
        if terminal:
            print(clear, end="", file=sys.stderr, flush=True)
