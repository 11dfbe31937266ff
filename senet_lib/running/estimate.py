"""Estimate a run's cost on this machine from a few measured steps."""

from dataclasses import dataclass
from statistics import fmean

import torch

from senet_lib.data import Dataset
from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model
from senet_lib.running.inputs import outline
from senet_lib.study import RunConfig
from senet_lib.training import fit
from senet_lib.training.resizing import pixel_shares

# NVIDIA's H100 SXM data sheet: dense bf16. SHARE is the fraction of the peak that training reaches. It was not measured
# on an H100; it is that of a standard ResNet-18 training on an A100 (312 TFLOP/s): 32.3e15 FLOP in 7 minutes
# (github:KellerJordan/cifar10-airbench, README). The network `fast`, alone on an H100, reached 0.065: 0.47 s per epoch,
# in a single measurement that was not recorded.
H100_FLOPS = 989e12
SHARE = 32.3e15 / (7 * 60) / 312e12


@dataclass(frozen=True)
class Cost:
    """params; macs per image; seconds per full-resolution training image, per mean epoch and per run, the last two with
    evaluation; seconds of the run on an H100, computed from its multiply-adds alone."""

    params: int
    macs: int
    seconds_per_image: float
    epoch_seconds: float
    run_seconds: float
    h100_seconds: float
    precision: str


def estimate(run: RunConfig, root: str | None = None, device: str = "auto", threads: int | None = None) -> Cost:
    """Estimate the cost of `run` on this machine from two short epochs on random images; the first is a warm-up.

    The smaller images of the first epochs are weighted by their pixels. Muon's iteration, a few percent of a full
    batch's step, is not included.
    root: the data's location, opened only if the size of the data set is not known. Raises data.DataError.
    """
    data = outline(run.data, root)
    classes, (_, height, width) = data.num_classes, data.image_shape
    network = create_model(run.model, num_classes=classes, **run.knobs)
    params, macs = count_params(network), count_macs(network, data.image_shape)

    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    batch = run.recipe.batch_size if on_gpu else min(run.recipe.batch_size, 128)  # small maps need large batches
    images = batch * (20 if on_gpu else 1)
    pixels = torch.randint(256, (images, height, width, 3), dtype=torch.uint8)
    labels = torch.arange(images) % classes
    random_images = Dataset(
        name="random",
        classes=tuple(map(str, range(classes))),
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:batch],
        test_labels=labels[:batch],
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        flip=True,
        fingerprints={},
    )
    changed = {"epochs": 2, "batch_size": batch, "warmup_epochs": 0.0, "holdout": 0, "lr": 1e-6}
    changed |= {"first_size": None, "crop_size": None, "muon_lr": None}
    recipe = run.recipe.model_copy(update=changed)
    outcome = fit(network, random_images, recipe, device=device, threads=threads, progress="none")
    step = outcome.history[-1]["train_seconds"] / images
    # A training step is a forward and a backward pass; the backward pass costs about two forward passes
    epochs, holdout = run.recipe.epochs, run.recipe.holdout
    share = fmean(pixel_shares(run.recipe, height))
    if run.recipe.crop_size:
        share *= height / width  # crops are square
    evaluated = holdout or len(data.test_labels)
    steps = (len(data.train_labels) - holdout) * share + evaluated / 3  # per epoch, in training steps on one image
    epoch = step * steps
    h100 = 6 * macs * steps * epochs / (SHARE * H100_FLOPS)
    return Cost(params, macs, step, epoch, epoch * epochs, h100, outcome.environment["precision"])
